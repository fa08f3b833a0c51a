/* The ring walker: devices/virtio/queue.c. */
#include "virtqueue_fixture.h"

Test(virtqueue, chain_becomes_readable_then_writable_memory)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 3, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 7);
	ring_set(&f.ring, 7, RING_BUFFERS + 0x1000, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
	ring_set(&f.ring, 0, RING_BUFFERS + 0x2000, 1, VRING_DESC_F_WRITE, 99);
	ring_offer(&f.ring, 3);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(f.chain.head, 3);
	cr_assert_eq(f.chain.readable_count, 1);
	cr_assert_eq(f.chain.writable_count, 2);
	cr_assert_eq(f.chain.readable_bytes, 16);
	cr_assert_eq(f.chain.writable_bytes, 513);
	cr_assert_eq(f.iov[0].iov_base, memory_span(&f.memory, RING_BUFFERS, 16));
	cr_assert_eq(f.iov[1].iov_base, memory_span(&f.memory, RING_BUFFERS + 0x1000, 512));
	cr_assert_eq(f.iov[2].iov_len, 1);
	cr_assert_eq(pop(&f), 0);
	tear_down(&f);
}

Test(virtqueue, not_ready_queue_gives_nothing)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, 0, 0);
	ring_offer(&f.ring, 0);
	virtqueue_reset(&f.queue);
	cr_assert_eq(pop(&f), 0);
	virtqueue_push(&f.queue, 0, 0);
	cr_assert_not(virtqueue_publish(&f.queue));
	cr_assert_not(virtqueue_enable_notify(&f.queue));
	tear_down(&f);
}

Test(virtqueue, head_out_of_range_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_offer(&f.ring, SIZE);
	cr_assert_eq(pop(&f), -EPROTO);
	cr_assert_str_eq(f.queue.fault, "a descriptor index out of range");
	cr_assert_eq(f.queue.fault_value, SIZE);
	tear_down(&f);
}

Test(virtqueue, next_out_of_range_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 0xffff);
	refuses(&f, "index out of range");
}

Test(virtqueue, chain_that_loops_is_refused)
{
	struct fixture f;

	/*
	 * The queue is smaller than the device offers, so that the loop is met before the limit of
	 * a chain.
	 */
	set_up_large(&f, 0, 64, SIZE, 16 * MIB);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 1);
	ring_set(&f.ring, 1, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 0);
	refuses(&f, "loops");
}

Test(virtqueue, descriptor_that_is_its_own_next_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 0);
	refuses(&f, "loops");
}

Test(virtqueue, zero_length_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 0, 0, 0);
	refuses(&f, "no length");
}

Test(virtqueue, readable_behind_writable_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	ring_set(&f.ring, 1, RING_BUFFERS, 16, 0, 0);
	refuses(&f, "behind");
}

Test(virtqueue, buffer_outside_memory_is_refused)
{
	static const struct {
		uint64_t address;
		uint32_t length;
	} cases[] = {
		{ 16 * MIB, 1 },	    /* just behind */
		{ 16 * MIB - 1, 2 },	    /* across the end */
		{ LAYOUT_VIRTIO_MMIO, 16 }, /* a device */
		{ UINT64_MAX, 1 },	    /* the last byte there is */
		{ UINT64_MAX - 7, 16 },	    /* wraps to 0 */
		{ 0x100, 0xffffffffU },	    /* longer than memory */
		{ 1ULL << 63, 0xffffffffU },
	};
	struct fixture f;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		set_up(&f, 0);
		ring_set(&f.ring, 0, cases[i].address, cases[i].length, 0, 0);
		refuses(&f, "buffer outside memory");
	}
}

Test(virtqueue, buffer_across_the_mmio_gap_is_refused)
{
	struct fixture f;

	set_up_large(&f, 0, SIZE, SIZE, 4 * GIB);
	ring_set(&f.ring, 0, LAYOUT_MMIO_GAP_START - 16, 16, VRING_DESC_F_NEXT, 1);
	ring_set(&f.ring, 1, LAYOUT_MMIO_GAP_END, 16, 0, 0);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	ring_set(&f.ring, 0, LAYOUT_MMIO_GAP_START - 16, 17, 0, 0);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), -EPROTO);
	tear_down(&f);
}

Test(virtqueue, chain_of_more_than_four_gib_is_refused)
{
	struct fixture f;

	set_up_large(&f, 0, SIZE, SIZE, 3 * GIB);
	ring_set(&f.ring, 0, 0, 0x80000000U, VRING_DESC_F_NEXT, 1);
	ring_set(&f.ring, 1, 0, 0x80000000U, 0, 2);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1, "2^32 bytes are allowed");
	ring_set(&f.ring, 1, 0, 0x80000000U, VRING_DESC_F_NEXT, 2);
	ring_set(&f.ring, 2, 0, 1, 0, 0);
	refuses(&f, "2^32");
}

Test(virtqueue, chain_as_long_as_the_queue_is_taken)
{
	struct fixture f;

	set_up(&f, 0);
	for (unsigned int i = 0; i < SIZE; i++)
		ring_set(&f.ring, i, RING_BUFFERS, 8, i + 1 < SIZE ? VRING_DESC_F_NEXT : 0,
			 (uint16_t)(i + 1));
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(f.chain.readable_count, SIZE);
	tear_down(&f);
}

Test(virtqueue, available_index_that_jumped_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	f.ring.available_index = SIZE;
	refuses(&f, "jumped");
}

Test(virtqueue, available_index_that_went_back_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	ring_offer(&f.ring, 0);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(pop(&f), 1);
	f.ring.available_index = 0;
	refuses(&f, "jumped");
}

Test(virtqueue, more_chains_than_the_queue_holds_are_refused)
{
	struct fixture f;

	set_up(&f, 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	for (unsigned int i = 0; i < SIZE; i++) {
		ring_offer(&f.ring, 0);
		cr_assert_eq(pop(&f), 1);
	}
	cr_assert_eq(virtqueue_in_flight(&f.queue), SIZE);
	refuses(&f, "jumped"); /* nothing was given back */
}

Test(virtqueue, reset_makes_a_broken_queue_usable)
{
	struct fixture f;

	set_up(&f, 0);
	ring_offer(&f.ring, SIZE);
	cr_assert_eq(pop(&f), -EPROTO);
	virtqueue_reset(&f.queue);
	cr_assert_null(f.queue.fault);
	f.queue.size = SIZE;
	f.queue.descriptors_gpa = RING_DESCRIPTORS;
	f.queue.available_gpa = RING_AVAILABLE;
	f.queue.used_gpa = RING_USED;
	cr_assert_eq(virtqueue_enable(&f.queue, 0), 0);
	f.ring.available_index = 0;
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	tear_down(&f);
}

/* 2.7: size, alignment and place of the parts. */

static void cannot_enable(uint16_t size, uint64_t descriptors, uint64_t available, uint64_t used,
			  const char *words)
{
	struct fixture f;

	set_up(&f, 0);
	virtqueue_reset(&f.queue);
	f.queue.size = size;
	f.queue.descriptors_gpa = descriptors;
	f.queue.available_gpa = available;
	f.queue.used_gpa = used;
	cr_assert_eq(virtqueue_enable(&f.queue, 0), -EINVAL);
	cr_assert_not(f.queue.ready);
	cr_assert(strstr(f.queue.fault, words), "it says: %s", f.queue.fault);
	tear_down(&f);
}

Test(virtqueue, rings_at_impossible_places_are_refused)
{
	const uint64_t end = 16 * MIB;

	cannot_enable(0, RING_DESCRIPTORS, RING_AVAILABLE, RING_USED, "size");
	cannot_enable(3, RING_DESCRIPTORS, RING_AVAILABLE, RING_USED, "size");
	cannot_enable(2 * SIZE, RING_DESCRIPTORS, RING_AVAILABLE, RING_USED, "size");
	cannot_enable(SIZE, RING_DESCRIPTORS + 8, RING_AVAILABLE, RING_USED, "16 bytes");
	cannot_enable(SIZE, RING_DESCRIPTORS, RING_AVAILABLE + 1, RING_USED, "2 bytes");
	cannot_enable(SIZE, RING_DESCRIPTORS, RING_AVAILABLE, RING_USED + 2, "4 bytes");
	cannot_enable(SIZE, end - 16 * SIZE + 16, RING_AVAILABLE, RING_USED,
		      "descriptor table is outside");
	cannot_enable(SIZE, RING_DESCRIPTORS, end - 2 * SIZE - 4, RING_USED,
		      "available ring is outside");
	cannot_enable(SIZE, RING_DESCRIPTORS, RING_AVAILABLE, end - 8 * SIZE - 4,
		      "used ring is outside");
	cannot_enable(SIZE, UINT64_MAX - 15, RING_AVAILABLE, RING_USED,
		      "descriptor table is outside");
	cannot_enable(SIZE, RING_DESCRIPTORS, LAYOUT_MMIO_GAP_START, RING_USED,
		      "available ring is outside");
}

Test(virtqueue, rings_that_end_where_memory_ends_are_taken)
{
	struct fixture f;

	set_up(&f, 0);
	virtqueue_reset(&f.queue);
	f.queue.descriptors_gpa = RING_DESCRIPTORS;
	f.queue.available_gpa = RING_AVAILABLE;
	f.queue.used_gpa = 16 * MIB - (4 + 8 * SIZE + 4); /* two bytes to spare: alignment */
	cr_assert_eq(virtqueue_enable(&f.queue, 0), 0);
	tear_down(&f);
}

/* 2.7.8, 2.7.10: what the driver sees. */

static void offer_and_pop(struct fixture *f, unsigned int count)
{
	ring_set(&f->ring, 0, RING_BUFFERS, 8, 0, 0);
	for (unsigned int i = 0; i < count; i++) {
		ring_offer(&f->ring, 0);
		cr_assert_eq(pop(f), 1);
	}
}

Test(virtqueue, used_entries_appear_when_published)
{
	struct fixture f;
	struct vring_used_elem element;

	set_up(&f, 0);
	offer_and_pop(&f, 2);
	virtqueue_push(&f.queue, 0, 17);
	virtqueue_push(&f.queue, 0, 18);
	cr_assert_eq(ring_used_index(&f.ring), 0);
	cr_assert(virtqueue_publish(&f.queue));
	cr_assert_eq(ring_used_index(&f.ring), 2);
	element = ring_take(&f.ring);
	cr_assert_eq(element.len, 17);
	element = ring_take(&f.ring);
	cr_assert_eq(element.len, 18);
	cr_assert_not(virtqueue_publish(&f.queue), "nothing new, no interrupt");
	tear_down(&f);
}

Test(virtqueue, driver_that_wants_no_interrupt_gets_none)
{
	struct fixture f;

	set_up(&f, 0);
	*ring_u16(&f.ring, RING_AVAILABLE) = VRING_AVAIL_F_NO_INTERRUPT;
	offer_and_pop(&f, 1);
	virtqueue_push(&f.queue, 0, 0);
	cr_assert_not(virtqueue_publish(&f.queue));
	cr_assert_eq(ring_used_index(&f.ring), 1);
	tear_down(&f);
}

Test(virtqueue, notifications_are_suppressed_by_flag)
{
	struct fixture f;

	set_up(&f, 0);
	virtqueue_disable_notify(&f.queue);
	cr_assert_eq(*ring_u16(&f.ring, RING_USED), VRING_USED_F_NO_NOTIFY);
	cr_assert_not(virtqueue_enable_notify(&f.queue));
	cr_assert_eq(*ring_u16(&f.ring, RING_USED), 0);
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	ring_offer(&f.ring, 0);
	cr_assert(virtqueue_enable_notify(&f.queue), "a chain that came in between must be seen");
	tear_down(&f);
}

Test(virtqueue, event_index_asks_for_the_next_chain)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	offer_and_pop(&f, 3);
	virtqueue_disable_notify(&f.queue);
	cr_assert_eq(*ring_u16(&f.ring, RING_USED), 0, "the flag is not used with event indices");
	cr_assert_eq(*ring_available_event(&f.ring), 0);
	cr_assert_not(virtqueue_enable_notify(&f.queue));
	cr_assert_eq(*ring_available_event(&f.ring), 3);
	tear_down(&f);
}

Test(virtqueue, event_index_decides_on_interrupts)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	*ring_u16(&f.ring, RING_AVAILABLE) =
		VRING_AVAIL_F_NO_INTERRUPT; /* means nothing now (2.7.7.2) */
	*ring_used_event(&f.ring) = 2;	    /* when the third is used */
	offer_and_pop(&f, 4);
	virtqueue_push(&f.queue, 0, 0);
	virtqueue_push(&f.queue, 0, 0);
	cr_assert_not(virtqueue_publish(&f.queue));
	virtqueue_push(&f.queue, 0, 0);
	cr_assert(virtqueue_publish(&f.queue));
	virtqueue_push(&f.queue, 0, 0);
	cr_assert_not(virtqueue_publish(&f.queue));
	*ring_used_event(&f.ring) = 5; /* in the middle of what comes at once */
	offer_and_pop(&f, 4);
	for (unsigned int i = 0; i < 4; i++)
		virtqueue_push(&f.queue, 0, 0);
	cr_assert(virtqueue_publish(&f.queue));
	tear_down(&f);
}

/* Both indices go round at 65536 while everything goes on, with every size of batch. */
Test(virtqueue, indices_wrap)
{
	struct fixture f;
	unsigned int total = 0;

	set_up(&f, ALL_FEATURES);
	ring_set(&f.ring, 0, RING_BUFFERS, 8, 0, 0);
	for (unsigned int turn = 0; total < 3 * 65536; turn++) {
		unsigned int batch = 1 + turn % SIZE;
		/*
		 * The last of the batch is the one to be told about; or, every other turn, one
		 * behind it.
		 */
		uint16_t event = (uint16_t)(total + batch - 1 + turn % 2);

		*ring_used_event(&f.ring) = event;
		offer_and_pop(&f, batch);
		cr_assert_eq(pop(&f), 0);
		cr_assert_eq(f.ring.available_index, (uint16_t)(total + batch));
		for (unsigned int i = 0; i < batch; i++)
			virtqueue_push(&f.queue, 0, turn);
		cr_assert_eq(virtqueue_publish(&f.queue), turn % 2 == 0, "turn %u, %u in all", turn,
			     total);
		cr_assert_not(virtqueue_enable_notify(&f.queue));
		total += batch;
		cr_assert_eq(*ring_available_event(&f.ring), (uint16_t)total);
		cr_assert_eq(ring_used_index(&f.ring), (uint16_t)total);
	}
	tear_down(&f);
}

/*
 * A guest that rewrites descriptors while they are walked: whatever the walker sees, its iovecs lie
 * in guest memory, and readable parts come first. The data race is the subject.
 */
struct racer {
	struct fixture *f;
	_Atomic bool stop;
};

static void *rewrite(void *argument)
{
	struct racer *racer = argument;
	uint32_t random = 12345;

	while (!atomic_load(&racer->stop)) {
		uint64_t address;
		uint16_t flags;

		random = random * 1664525 + 1013904223;
		flags = (uint16_t)(random >> 16 & 7);
		address = random & 0x100   ? RING_BUFFERS
			  : random & 0x200 ? RING_INDIRECT
					   : 16 * MIB - (random & 0xff);
		ring_set(&racer->f->ring, random >> 28, address, random >> 8 & 0xf0, flags,
			 (uint16_t)(random >> 24 & 0xf));
		table_set(racer->f->ring.memory, RING_INDIRECT, random >> 20 & 0xf, address,
			  random & 0xff, flags, (uint16_t)(random >> 12 & 0xf));
	}
	return NULL;
}

static void enable_again(struct fixture *f)
{
	virtqueue_reset(&f->queue);
	f->queue.descriptors_gpa = RING_DESCRIPTORS;
	f->queue.available_gpa = RING_AVAILABLE;
	f->queue.used_gpa = RING_USED;
	cr_assert_eq(virtqueue_enable(&f->queue, ALL_FEATURES), 0);
	f->ring.available_index = 0;
}

Test(virtqueue, descriptors_rewritten_while_walked_never_lead_outside_memory)
{
	struct fixture f;
	struct racer racer = { .f = &f };
	pthread_t thread;
	unsigned int taken = 0, refused = 0;
	const uint8_t *start, *end;

	set_up(&f, ALL_FEATURES);
	start = guest(&f.memory, 0, 16 * MIB);
	end = start + 16 * MIB;
	cr_assert_eq(pthread_create(&thread, NULL, rewrite, &racer), 0);
	for (unsigned int i = 0; i < 300000 || taken == 0 || refused == 0; i++) {
		uint64_t bytes = 0;

		ring_offer(&f.ring, (uint16_t)(i % SIZE));
		if (pop(&f) != 1) {
			refused++;
			enable_again(&f);
			continue;
		}
		taken++;
		cr_assert(f.chain.readable_count + f.chain.writable_count <= SIZE);
		for (unsigned int part = 0; part < f.chain.readable_count + f.chain.writable_count;
		     part++) {
			const uint8_t *base = f.iov[part].iov_base;

			cr_assert(f.iov[part].iov_len > 0 && base >= start &&
				  base + f.iov[part].iov_len <= end);
			bytes += f.iov[part].iov_len;
		}
		cr_assert_eq(bytes, f.chain.readable_bytes + f.chain.writable_bytes);
		virtqueue_push(&f.queue, f.chain.head, 0);
		virtqueue_publish(&f.queue);
	}
	atomic_store(&racer.stop, true);
	pthread_join(thread, NULL);
	tear_down(&f);
}
