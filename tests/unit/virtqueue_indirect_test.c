/* The ring walker, devices/virtio/queue.c: indirect descriptors (virtio 1.2, 2.7.5.3). */
#include "virtqueue_fixture.h"

static void indirect(struct fixture *f, uint64_t address, uint32_t length, uint16_t flags)
{
	ring_set(&f->ring, 0, address, length, (uint16_t)(VRING_DESC_F_INDIRECT | flags), 1);
}

Test(virtqueue, indirect_table_is_walked)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	/* The table's own entries go 0, 2, 1; WRITE in the outer descriptor means nothing. */
	table_set(&f.memory, RING_INDIRECT, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 2);
	table_set(&f.memory, RING_INDIRECT, 2, RING_BUFFERS + 64, 8, VRING_DESC_F_NEXT, 1);
	table_set(&f.memory, RING_INDIRECT, 1, RING_BUFFERS + 128, 1, VRING_DESC_F_WRITE, 0);
	indirect(&f, RING_INDIRECT, 48, VRING_DESC_F_WRITE);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(f.chain.readable_count, 2);
	cr_assert_eq(f.chain.readable_bytes, 24);
	cr_assert_eq(f.chain.writable_count, 1);
	tear_down(&f);
}

Test(virtqueue, direct_descriptors_may_precede_an_indirect_table)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	ring_set(&f.ring, 5, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 0);
	table_set(&f.memory, RING_INDIRECT + 8, 0, RING_BUFFERS + 64, 1, VRING_DESC_F_WRITE, 0);
	indirect(&f, RING_INDIRECT + 8, 16, 0); /* such a table needs no alignment */
	ring_offer(&f.ring, 5);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(f.chain.head, 5);
	cr_assert_eq(f.chain.readable_count, 1);
	cr_assert_eq(f.chain.writable_count, 1);
	tear_down(&f);
}

Test(virtqueue, indirect_table_not_negotiated_is_refused)
{
	struct fixture f;

	set_up(&f, 0);
	table_set(&f.memory, RING_INDIRECT, 0, RING_BUFFERS, 16, 0, 0);
	indirect(&f, RING_INDIRECT, 16, 0);
	refuses(&f, "not negotiated");
}

Test(virtqueue, indirect_within_indirect_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	table_set(&f.memory, RING_INDIRECT, 0, RING_INDIRECT, 16, VRING_DESC_F_INDIRECT, 0);
	indirect(&f, RING_INDIRECT, 16, 0);
	refuses(&f, "within an indirect");
}

Test(virtqueue, indirect_with_next_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	table_set(&f.memory, RING_INDIRECT, 0, RING_BUFFERS, 16, 0, 0);
	indirect(&f, RING_INDIRECT, 16, VRING_DESC_F_NEXT);
	refuses(&f, "with a next");
}

Test(virtqueue, indirect_length_not_of_whole_descriptors_is_refused)
{
	static const uint32_t lengths[] = { 0, 1, 15, 17, 0xffffffffU };
	struct fixture f;

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		set_up(&f, ALL_FEATURES);
		indirect(&f, RING_INDIRECT, lengths[i], 0);
		refuses(&f, "multiple of 16");
	}
}

Test(virtqueue, indirect_table_outside_memory_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	indirect(&f, 16 * MIB - 16, 32, 0);
	refuses(&f, "table outside memory");
	set_up(&f, ALL_FEATURES);
	indirect(&f, UINT64_MAX - 15, 32, 0);
	refuses(&f, "table outside memory");
}

Test(virtqueue, indirect_next_behind_the_table_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	table_set(&f.memory, RING_INDIRECT, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 2);
	indirect(&f, RING_INDIRECT, 32, 0);
	refuses(&f, "index out of range");
}

Test(virtqueue, indirect_table_that_loops_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	table_set(&f.memory, RING_INDIRECT, 0, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 1);
	table_set(&f.memory, RING_INDIRECT, 1, RING_BUFFERS, 16, VRING_DESC_F_NEXT, 0);
	indirect(&f, RING_INDIRECT, 32, 0);
	refuses(&f, "loops");
}

Test(virtqueue, chain_longer_than_the_device_takes_is_refused)
{
	struct fixture f;

	set_up(&f, ALL_FEATURES);
	for (unsigned int i = 0; i < SIZE + 1; i++)
		table_set(&f.memory, RING_INDIRECT, i, RING_BUFFERS, 8,
			  i < SIZE ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
	indirect(&f, RING_INDIRECT, 16 * (SIZE + 1), 0);
	refuses(&f, "longer than the queue");
}

Test(virtqueue, indirect_chain_may_be_longer_than_a_queue_made_small)
{
	struct fixture f;

	set_up_large(&f, ALL_FEATURES, SIZE, 2, 16 * MIB);
	for (unsigned int i = 0; i < SIZE; i++)
		table_set(&f.memory, RING_INDIRECT, i, RING_BUFFERS, 8,
			  i + 1 < SIZE ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
	indirect(&f, RING_INDIRECT, 16 * SIZE, 0);
	ring_offer(&f.ring, 0);
	cr_assert_eq(pop(&f), 1);
	cr_assert_eq(f.chain.readable_count, SIZE);
	tear_down(&f);
}
