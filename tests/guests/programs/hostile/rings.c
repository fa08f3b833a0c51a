/*
 * Rings (virtio 1.2, 2.7.6 and 2.7.8): indices that jump, and rings that lie on each other, on data
 * or on the program. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"
#include "text.h"
#include "virtio_blk.h"

static void jump(struct rig *rig, uint16_t by)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig->avail->index = (uint16_t)(rig->avail->index + by);
	memory_barrier();
	rig_notify(rig);
	expect_broken(rig);
}

static void index_jumps_by_one_too_many(struct rig *rig)
{
	jump(rig, RIG_QUEUE_SIZE + 1);
}

static void index_jumps_far(struct rig *rig)
{
	jump(rig, 0x8000);
}

static void index_goes_back(struct rig *rig)
{
	expect_reads(rig);
	jump(rig, (uint16_t)-1);
}

/* Chains may be as many as the queue has entries, even if each is the same. */
static void one_head_256_times(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 9);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		rig->avail->ring[i] = 0;
	rig->avail->index = (uint16_t)(rig->avail->index + RIG_QUEUE_SIZE);
	memory_barrier();
	rig_notify(rig);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		expect(rig_wait(rig), "answer", i);
	expect_not_broken(rig);
}

/* Both indices wrap after 65536. */
static void indices_wrap(struct rig *rig)
{
	rig_put_header(rig, 0xffff, 0); /* a type that is answered at once */
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		rig->avail->ring[i] = 0;
	for (unsigned int i = 0; i <= 0x10000 / RIG_QUEUE_SIZE; i++) {
		uint64_t start = tsc_read();

		rig->avail->index = (uint16_t)(rig->avail->index + RIG_QUEUE_SIZE);
		memory_barrier();
		rig_notify(rig);
		while (rig->used->index != rig->avail->index && tsc_read() - start < patience)
			cpu_relax();
		if (!expect(rig->used->index == rig->avail->index, "answers", rig->used->index))
			return;
	}
	rig->used_seen = rig->used->index;
	expect_reads(rig);
}

/* What the driver asks for in used_event is nonsense; that is its own business. */
static void events_of_all_values(struct rig *rig)
{
	volatile uint16_t *used_event = &rig->avail->ring[RIG_QUEUE_SIZE];

	for (uint32_t event = 0; event < 0x10000; event += 0x1111) {
		*used_event = (uint16_t)event;
		rig->avail->flags = (uint16_t)event;
		expect_reads(rig);
	}
	expect_not_broken(rig);
}

/* A used ring at other places: whatever it destroys there, the device answers, or breaks. */
static void use_ring_at(struct rig *rig, uint64_t used)
{
	volatile struct virtq_used *ring = (volatile struct virtq_used *)used;
	uint64_t start = tsc_read();
	uint16_t before;

	rig_reset(rig);
	rig_negotiate(rig, VIRTIO_F_VERSION_1);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), used);
	expect(rig_set_ready(rig), "queue_ready", used);
	rig_go(rig);
	before = ring->index;
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	while (ring->index == before && tsc_read() - start < patience &&
	       !(virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET))
		cpu_relax();
	expect_witness();
	if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
		count_broken();
	else
		expect(ring->index != before, "answer", ring->index);
	rig_reset(rig);
}

static void used_ring_on_the_available_ring(struct rig *rig)
{
	use_ring_at(rig, rig_avail(rig));
}

static void used_ring_on_the_descriptors(struct rig *rig)
{
	use_ring_at(rig, rig_desc(rig));
}

static void used_ring_on_the_data(struct rig *rig)
{
	use_ring_at(rig, rig_data(rig));
}

static void used_ring_on_the_status(struct rig *rig)
{
	use_ring_at(rig, rig_status(rig));
}

static void used_ring_at_the_end_of_memory(struct rig *rig)
{
	use_ring_at(rig, end_of_memory() - (4 + 8 * RIG_QUEUE_SIZE + 4));
}

/* Constants of the program, which the monitor maps from the kernel's file. */
static const uint8_t image[2 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES))) = { 1 };

static void used_ring_in_the_kernel_image(struct rig *rig)
{
	use_ring_at(rig, (uintptr_t)image);
}

static void data_in_the_kernel_image(struct rig *rig)
{
	const volatile uint64_t *first = (const volatile uint64_t *)(const void *)image;

	rig_put_header(rig, BLOCK_IN, 4);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, (uintptr_t)image, SECTOR_BYTES, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer",
	       rig->memory->status[0]);
	expect(*first == 4, "what_the_image_holds", *first);
}

/* The device reads the drive over the rings that it is just working on. */
static void data_on(struct rig *rig, uint64_t address)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, address, PAGE_BYTES, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	/* Its index may be overwritten: the status tells. */
	for (uint64_t start = tsc_read(); tsc_read() - start < patience;) {
		if (*(volatile uint8_t *)rig->memory->status != NO_STATUS)
			break;
	}
	expect(rig->memory->status[0] == BLOCK_STATUS_OK, "answer", rig->memory->status[0]);
	expect_witness();
	if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
		count_broken();
	rig_reset(rig);
}

static void data_on_the_descriptors(struct rig *rig)
{
	data_on(rig, rig_desc(rig));
}

static void data_on_the_available_ring(struct rig *rig)
{
	data_on(rig, rig_avail(rig));
}

static void data_on_the_used_ring(struct rig *rig)
{
	data_on(rig, rig_used(rig));
}

static void data_on_the_header(struct rig *rig)
{
	data_on(rig, rig_header(rig));
}

static void all_rings_at_one_place(struct rig *rig)
{
	rig_reset(rig);
	rig_negotiate(rig, VIRTIO_F_VERSION_1);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_data(rig), rig_data(rig), rig_data(rig));
	bytes_fill(rig->memory->data, 0, PAGE_BYTES);
	expect(rig_set_ready(rig), "queue_ready", 0);
	rig_go(rig);
	rig->memory->data[2] = 1; /* the available index, and the used one */
	memory_barrier();
	rig_notify(rig);
	expect_broken(rig);
}

static const struct hostile_case cases[] = {
	{ "index-jumps-by-one-too-many", index_jumps_by_one_too_many, 0 },
	{ "index-jumps-far", index_jumps_far, 0 },
	{ "index-goes-back", index_goes_back, 0 },
	{ "index-jumps-with-event-index", index_jumps_far, F_EVENT_IDX },
	{ "one-head-256-times", one_head_256_times, 0 },
	{ "indices-wrap", indices_wrap, 0 },
	{ "events-of-all-values", events_of_all_values, F_EVENT_IDX },
	{ "flags-of-all-values", events_of_all_values, 0 },
	{ "used-ring-on-the-available-ring", used_ring_on_the_available_ring, 0 },
	{ "used-ring-on-the-descriptors", used_ring_on_the_descriptors, 0 },
	{ "used-ring-on-the-data", used_ring_on_the_data, 0 },
	{ "used-ring-on-the-status", used_ring_on_the_status, 0 },
	{ "used-ring-at-the-end-of-memory", used_ring_at_the_end_of_memory, 0 },
	{ "used-ring-in-the-kernel-image", used_ring_in_the_kernel_image, 0 },
	{ "data-in-the-kernel-image", data_in_the_kernel_image, 0 },
	{ "data-on-the-descriptors", data_on_the_descriptors, 0 },
	{ "data-on-the-available-ring", data_on_the_available_ring, 0 },
	{ "data-on-the-used-ring", data_on_the_used_ring, 0 },
	{ "data-on-the-header", data_on_the_header, 0 },
	{ "all-rings-at-one-place", all_rings_at_one_place, 0 },
};

const struct hostile_suite suite_rings = SUITE("rings", NEED_BLOCK, false, cases);
