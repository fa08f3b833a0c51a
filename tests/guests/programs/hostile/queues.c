/*
 * Setting up a queue (virtio 1.2, 4.2.2 and 2.7): sizes, places and orders that are none, and what
 * happens when it is taken away at work. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"
#include "text.h"
#include "virtio_blk.h"

#define DATA_UNTOUCHED 0x5c

#define LARGE_READS 30

static void negotiate(struct rig *rig, uint64_t features)
{
	uint32_t status = rig_negotiate(rig, features | VIRTIO_F_VERSION_1);

	expect(status & VIRTIO_FEATURES_OK, "features_ok", status);
}

/* Each in a device of its own, so to say. */
static void sizes_that_are_none(struct rig *rig)
{
	static const uint32_t sizes[] = { 0,	      3,	  5,	     127,     255,
					  257,	      512,	  65535,     0x10000, 0x10100,
					  0x80000000, 0x80000100, 0xffffffff };

	for (unsigned int i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		rig_reset(rig);
		negotiate(rig, 0);
		rig_set_size(rig, sizes[i]);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		expect(!rig_set_ready(rig), "queue_ready", sizes[i]);
		rig->size = RIG_QUEUE_SIZE;
		expect_broken(rig);
	}
}

static void sizes_that_are_some(struct rig *rig)
{
	for (uint32_t size = 4; size <= RIG_QUEUE_SIZE; size *= 2) {
		rig_reset(rig);
		negotiate(rig, 0);
		rig_set_size(rig, size);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		expect(rig_set_ready(rig), "queue_ready", size);
		rig_go(rig);
		for (unsigned int i = 0; i < 3; i++)
			expect_reads(rig);
		expect_not_broken(rig);
	}
}

/* A queue of one entry can hold no request but an indirect one. */
static void size_of_one(struct rig *rig)
{
	negotiate(rig, F_INDIRECT_DESC);
	rig_set_size(rig, 1);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	expect(rig_set_ready(rig), "queue_ready", 1);
	rig_go(rig);
	for (unsigned int i = 0; i < 3; i++) {
		rig_put_header(rig, BLOCK_IN, 0);
		rig_put_table(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
		rig_put_table(rig, 1, rig_data(rig), 512, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
		rig_put_table(rig, 2, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
		rig_put(rig, 0, rig_table(rig), 3 * 16, VIRTQ_DESC_INDIRECT, 0);
		rig_offer(rig, 0);
		rig_notify(rig);
		expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer", i);
	}
	expect_not_broken(rig);
}

static void refuse_places(struct rig *rig, uint64_t desc, uint64_t avail, uint64_t used)
{
	rig_reset(rig);
	negotiate(rig, 0);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, desc, avail, used);
	expect(!rig_set_ready(rig), "queue_ready", desc ^ avail ^ used);
	expect_broken(rig);
}

static void misaligned(struct rig *rig)
{
	for (unsigned int off = 1; off < 16; off++)
		refuse_places(rig, rig_desc(rig) + off, rig_avail(rig), rig_used(rig));
	refuse_places(rig, rig_desc(rig), rig_avail(rig) + 1, rig_used(rig));
	for (unsigned int off = 1; off < 4; off++)
		refuse_places(rig, rig_desc(rig), rig_avail(rig), rig_used(rig) + off);
}

static void not_in_memory(struct rig *rig)
{
	const uint64_t end = end_of_memory();
	const uint64_t places[] = { end - 16,
				    end,
				    LAYOUT_MMIO_GAP_START - 16,
				    LAYOUT_MMIO_GAP_START,
				    rig->device->base,
				    LAYOUT_IO_APIC,
				    LAYOUT_LOCAL_APIC,
				    LAYOUT_KVM_TSS,
				    LAYOUT_MMIO_GAP_END - 16,
				    1ULL << 40,
				    1ULL << 63,
				    0 - 16ULL,
				    0 - 4096ULL };

	for (unsigned int i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		refuse_places(rig, places[i], rig_avail(rig), rig_used(rig));
		refuse_places(rig, rig_desc(rig), places[i], rig_used(rig));
		refuse_places(rig, rig_desc(rig), rig_avail(rig), places[i]);
	}
}

/* Address 0 is memory: a queue there is allowed, and what is found there is the driver's business.
 */
static void ready_without_addresses(struct rig *rig)
{
	static uint8_t kept[PAGE_BYTES];
	uint8_t *first_page;

	__asm__("xor %0, %0" : "=r"(first_page)); /* a compiler would take it for a mistake */
	memcpy(kept, first_page, PAGE_BYTES);
	first_page[2] = 1; /* the available index */
	negotiate(rig, 0);
	virtio_write(rig->device, VIRTIO_QUEUE_SEL, 0);
	virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
	rig_go(rig);
	rig_notify(rig);
	expect_witness();
	if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
		count_broken();
	rig_reset(rig);
	memcpy(first_page, kept, PAGE_BYTES);
}

static void ready_before_features_ok(struct rig *rig)
{
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	expect(!rig_set_ready(rig), "queue_ready", 0);
	virtio_write(rig->device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
	expect(!rig_set_ready(rig), "queue_ready", 1);
	expect_not_broken(rig);
}

static void ready_of_all_values(struct rig *rig)
{
	negotiate(rig, 0);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	for (uint32_t value = 2; value; value <<= 1) {
		virtio_write(rig->device, VIRTIO_QUEUE_READY, value);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_READY) == 0, "queue_ready", value);
	}
	expect(rig_set_ready(rig), "queue_ready", 1);
	for (uint32_t value = 2; value; value <<= 1)
		virtio_write(rig->device, VIRTIO_QUEUE_READY, value);
	virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
	rig_go(rig);
	expect_reads(rig);
}

/* 4.2.2: changes while the queue is ready are none. */
static void rings_moved_while_running(struct rig *rig)
{
	rig_start(rig, 0);
	expect_reads(rig);
	rig_set_addresses(rig, end_of_memory(), 1, UINT64_MAX);
	virtio_write(rig->device, VIRTIO_QUEUE_NUM, 3);
	virtio_write(rig->device, VIRTIO_QUEUE_NUM, 4);
	expect_reads(rig);
	expect_reads(rig);
	expect_not_broken(rig);
}

/* Not even where a queue could be set up anew, had it been reset before: 2.6.1. */
static void rings_moved_while_running_with_queue_reset(struct rig *rig)
{
	rig_start(rig, F_RING_RESET);
	expect_reads(rig);
	rig_set_addresses(rig, rig_data(rig), rig_data(rig), rig_data(rig));
	virtio_write(rig->device, VIRTIO_QUEUE_NUM, 4);
	virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
	expect_reads(rig);
	expect_not_broken(rig);
}

static void queues_that_do_not_exist(struct rig *rig)
{
	static const uint32_t queues[] = { 1, 2, 3, 255, 0xffff, 0x10000, 0x80000000, 0xffffffff };

	rig_start(rig, 0);
	for (unsigned int i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
		virtio_write(rig->device, VIRTIO_QUEUE_SEL, queues[i]);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_NUM_MAX) == 0, "size", queues[i]);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_READY) == 0, "ready", queues[i]);
		virtio_write(rig->device, VIRTIO_QUEUE_NUM, 3);
		virtio_write(rig->device, VIRTIO_QUEUE_DESC_LOW, 1);
		virtio_write(rig->device, VIRTIO_QUEUE_READY, 1);
		virtio_write(rig->device, VIRTIO_QUEUE_RESET, 1);
		virtio_write(rig->device, VIRTIO_QUEUE_READY, 0);
	}
	expect_not_broken(rig);
	expect_reads(rig);
}

/*
 * Reads that are answered, or not, but never after the queue was taken away. Each is of so much,
 * into the same memory again and again, that a monitor will not do it at one go.
 */
static void offer_many(struct rig *rig)
{
	uint64_t all = rig_sectors(rig) / (RIG_DATA_BYTES / SECTOR_BYTES);
	uint16_t parts = (uint16_t)(all < RIG_QUEUE_SIZE - 2 ? all : RIG_QUEUE_SIZE - 2);

	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	for (uint16_t i = 1; i <= parts; i++)
		rig_put(rig, i, rig_data(rig), RIG_DATA_BYTES, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE,
			(uint16_t)(i + 1));
	rig_put(rig, parts + 1U, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	for (unsigned int i = 0; i < LARGE_READS; i++)
		rig_offer(rig, 0);
	rig_notify(rig);
}

static void expect_untouched(struct rig *rig)
{
	bytes_fill(rig->memory->data, DATA_UNTOUCHED, RIG_DATA_BYTES);
	rig->memory->status[0] = DATA_UNTOUCHED;
	rig->used->index = 0x5c5c;
	rig_notify(rig);
	for (unsigned int i = 0; i < 5; i++)
		expect_witness();
	expect(bytes_are(rig->memory->data, DATA_UNTOUCHED, RIG_DATA_BYTES), "data", 0);
	expect(rig->memory->status[0] == DATA_UNTOUCHED, "status_byte", rig->memory->status[0]);
	expect(rig->used->index == 0x5c5c, "used_index", rig->used->index);
}

static void reset_in_the_middle(struct rig *rig)
{
	for (unsigned int i = 0; i < 10; i++) {
		rig_start(rig, 0);
		offer_many(rig);
		if (i % 2)
			expect_witness(); /* by now the device is at work */
		virtio_write(rig->device, VIRTIO_STATUS, 0);
		expect_untouched(rig);
	}
}

static void queue_taken_away_in_the_middle(struct rig *rig)
{
	for (unsigned int i = 0; i < 10; i++) {
		rig_start(rig, 0);
		offer_many(rig);
		if (i % 2)
			expect_witness();
		virtio_write(rig->device, VIRTIO_QUEUE_READY, 0);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_READY) == 0, "queue_ready", 0);
		expect_untouched(rig);
		expect_not_broken(rig);
	}
}

/* 2.6.1: a queue that was reset alone may be set up anew, elsewhere, in a device that is live. */
static void queue_reset_in_the_middle(struct rig *rig)
{
	rig_start(rig, F_RING_RESET);
	for (unsigned int i = 0; i < 10; i++) {
		offer_many(rig);
		if (i % 2)
			expect_witness();
		virtio_write(rig->device, VIRTIO_QUEUE_RESET, 1);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_RESET) == 0, "queue_reset", 0);
		expect(virtio_read(rig->device, VIRTIO_QUEUE_READY) == 0, "queue_ready", 0);
		expect_untouched(rig);
		rig->avail->index = rig->used->index = rig->used_seen = 0;
		rig_set_size(rig, RIG_QUEUE_SIZE);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		expect(rig_set_ready(rig), "queue_ready_again", 0);
		expect_reads(rig);
	}
	for (uint32_t value = 2; value; value <<= 1)
		virtio_write(rig->device, VIRTIO_QUEUE_RESET, value);
	expect_reads(rig);
}

static void queue_reset_that_was_not_negotiated(struct rig *rig)
{
	rig_start(rig, 0);
	virtio_write(rig->device, VIRTIO_QUEUE_RESET, 1);
	expect(virtio_read(rig->device, VIRTIO_QUEUE_READY) == 1, "queue_ready", 0);
	expect_reads(rig);
}

static const struct hostile_case cases[] = {
	{ "sizes-that-are-none", sizes_that_are_none, 0 },
	{ "sizes-that-are-some", sizes_that_are_some, 0 },
	{ "size-of-one", size_of_one, 0 },
	{ "misaligned", misaligned, 0 },
	{ "not-in-memory", not_in_memory, 0 },
	{ "ready-without-addresses", ready_without_addresses, 0 },
	{ "ready-before-features-ok", ready_before_features_ok, 0 },
	{ "ready-of-all-values", ready_of_all_values, 0 },
	{ "rings-moved-while-running", rings_moved_while_running, 0 },
	{ "rings-moved-while-running-with-queue-reset", rings_moved_while_running_with_queue_reset,
	  0 },
	{ "queues-that-do-not-exist", queues_that_do_not_exist, 0 },
	{ "reset-in-the-middle", reset_in_the_middle, 0 },
	{ "queue-taken-away-in-the-middle", queue_taken_away_in_the_middle, 0 },
	{ "queue-reset-in-the-middle", queue_reset_in_the_middle, 0 },
	{ "queue-reset-that-was-not-negotiated", queue_reset_that_was_not_negotiated, 0 },
};

const struct hostile_suite suite_queue_registers = SUITE("queues", NEED_BLOCK, true, cases);
