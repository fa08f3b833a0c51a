/*
 * The transport's registers (virtio 1.2, 4.2.2), in every width, order and place, by a driver that
 * keeps to none of 2.1 and 3.1. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"
#include "virtio_blk.h"

#define CONTROL_BYTES 0x100
#define WINDOW_BYTES  0x1000

#define BOTH_WINDOWS (LAYOUT_VIRTIO_MMIO_CMDLINE - LAYOUT_VIRTIO_MMIO)

static const unsigned int widths[] = { 1, 2, 4, 8 };

/* 4.2.2.2: control registers have 32 bits, aligned. Mayfly reads 0 in any other way. */
static void read_all_registers(struct rig *rig)
{
	for (unsigned int w = 0; w < 4; w++) {
		for (uint64_t offset = 0; offset < CONTROL_BYTES; offset++) {
			uint64_t value = mmio_read(rig->device->base + offset, widths[w]);

			if (widths[w] != 4 || offset % 4)
				expect(value == 0, "value_of_an_odd_read", offset);
		}
	}
	expect(virtio_read(rig->device, VIRTIO_MAGIC) == VIRTIO_MAGIC_VALUE, "magic", 0);
	expect(virtio_read(rig->device, VIRTIO_STATUS) == 0, "status", 0);
}

/* Writes that are no register writes do nothing: not even a reset, nor an owner. */
static void write_registers_in_odd_ways(struct rig *rig)
{
	rig_start(rig, 0);
	for (unsigned int w = 0; w < 4; w++) {
		for (uint64_t offset = 0; offset < CONTROL_BYTES; offset++) {
			if (widths[w] != 4 || offset % 4)
				mmio_write(rig->device->base + offset, widths[w], 0);
		}
	}
	expect_not_broken(rig);
	expect_reads(rig);
}

static void write_values_to_all_registers(struct rig *rig)
{
	static const uint32_t values[] = { 0,	   1,	    2,		0xff,	   0x100,
					   0xffff, 0x10000, 0x80000000, 0xffffffff };

	for (unsigned int v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
		for (unsigned int live = 0; live < 2; live++) {
			if (live)
				rig_start(rig, 0);
			else
				rig_reset(rig);
			for (uint32_t offset = 0; offset < CONTROL_BYTES; offset += 4)
				virtio_write(rig->device, offset, values[v]);
			expect_witness();
			if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
				count_broken();
		}
	}
	rig_reset(rig);
}

static uint32_t fuse(uint64_t address, unsigned int width)
{
	uint32_t value = 0;

	for (unsigned int at = 0; at < 4; at += width)
		value |= (uint32_t)mmio_read(address + at, width) << 8 * at;
	return value;
}

/* 2.5, 4.2.2: the configuration space may be read in any way, and this one not be written. */
static void configuration_in_all_ways(struct rig *rig)
{
	uint64_t config = rig->device->base + VIRTIO_CONFIG;
	uint64_t sectors = rig_sectors(rig);

	expect(sectors > 0, "sectors", sectors);
	for (unsigned int offset = 0; offset < 0x80; offset += 4) {
		uint32_t value = mmio_read32(config + offset);

		expect(fuse(config + offset, 1) == value, "bytes", offset);
		expect(fuse(config + offset, 2) == value, "words", offset);
		expect((uint32_t)mmio_read(config + offset, 8) == value, "quadwords", offset);
		expect((uint32_t)mmio_read(config + offset + 1, 8) ==
			       (uint32_t)(mmio_read(config + offset, 8) >> 8),
		       "unaligned_quadwords", offset);
	}
	expect(bytes_are((void *)(config + 0x80), 0, 0x100), "behind_it", 0);
	for (unsigned int w = 0; w < 4; w++) {
		for (unsigned int offset = 0; offset < 0x60; offset++)
			mmio_write(config + offset, widths[w], UINT64_MAX);
	}
	expect(rig_sectors(rig) == sectors, "sectors_after_writes", rig_sectors(rig));
	/* Up to the end of the window, and over it. */
	for (unsigned int w = 0; w < 4; w++) {
		uint64_t last = rig->device->base + WINDOW_BYTES - widths[w];

		for (uint64_t address = last - 8; address < last + widths[w]; address++) {
			mmio_read(address, widths[w]);
			mmio_write(address, widths[w], 0);
		}
	}
	rig_start(rig, 0);
}

/* Each value, from each of two states. */
static void status_of_all_values(struct rig *rig)
{
	const uint32_t driver_bits = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK |
				     VIRTIO_DRIVER_OK | VIRTIO_FAILED;

	for (uint32_t value = 1; value < 0x200; value++) {
		uint32_t status;

		rig_reset(rig);
		virtio_write(rig->device, VIRTIO_STATUS, value);
		status = virtio_read(rig->device, VIRTIO_STATUS);
		/* Nothing was accepted: no FEATURES_OK, so no DRIVER_OK; and no bit of the
		 * device's. */
		expect((status & ~driver_bits) == 0, "bits_that_are_not_the_driver_s", status);
		expect(!(status & (VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK)), "features_ok", value);
		expect((status & ~value) == 0, "bits_that_were_not_written", status);
		/* 2.1.1: a driver must not clear a bit; the device does not let it. */
		virtio_write(rig->device, VIRTIO_STATUS, VIRTIO_ACKNOWLEDGE);
		expect((virtio_read(rig->device, VIRTIO_STATUS) & status) == status, "cleared",
		       value);
	}
	rig_start(rig, 0);
	for (uint32_t value = 1; value < 0x200; value++) {
		uint32_t before = virtio_read(rig->device, VIRTIO_STATUS);

		virtio_write(rig->device, VIRTIO_STATUS, value);
		expect((virtio_read(rig->device, VIRTIO_STATUS) & before) == before, "cleared",
		       value);
	}
	virtio_write(rig->device, VIRTIO_STATUS, UINT32_MAX);
	expect_not_broken(rig);
	expect_reads(rig);
}

static void driver_ok_without_features_ok(struct rig *rig)
{
	virtio_write(rig->device, VIRTIO_STATUS,
		     VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK);
	expect(!(virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_DRIVER_OK), "driver_ok", 0);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	expect(!rig_set_ready(rig), "queue_ready", 0);
	rig_notify(rig);
	expect_not_broken(rig);
}

/* The steps of 3.1.1, a driver's own way of them left out. */
enum step {
	STEP_ACKNOWLEDGE,
	STEP_DRIVER,
	STEP_FEATURES,
	STEP_QUEUE,
	STEP_DRIVER_OK,
	STEPS
};

static void add_status(struct rig *rig, uint32_t bit)
{
	virtio_write(rig->device, VIRTIO_STATUS, virtio_read(rig->device, VIRTIO_STATUS) | bit);
}

static void take_step(struct rig *rig, enum step step)
{
	switch (step) {
	case STEP_ACKNOWLEDGE:
		add_status(rig, VIRTIO_ACKNOWLEDGE);
		break;
	case STEP_DRIVER:
		add_status(rig, VIRTIO_DRIVER);
		break;
	case STEP_FEATURES:
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES_SEL, 1);
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES, VIRTIO_F_VERSION_1 >> 32);
		add_status(rig, VIRTIO_FEATURES_OK);
		break;
	case STEP_QUEUE:
		rig_set_size(rig, RIG_QUEUE_SIZE);
		rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
		rig_set_ready(rig);
		break;
	default:
		add_status(rig, VIRTIO_DRIVER_OK);
		break;
	}
}

/*
 * All 120 orders. Only features that were agreed on before can make a queue ready, and only a queue
 * that was made ready before can be served. Nothing else is touched.
 */
static void steps_in_every_order(struct rig *rig)
{
	for (unsigned int order = 0; order < 120; order++) {
		enum step left[STEPS] = { STEP_ACKNOWLEDGE, STEP_DRIVER, STEP_FEATURES, STEP_QUEUE,
					  STEP_DRIVER_OK };
		unsigned int when[STEPS], code = order;
		bool agreed, served;

		rig_reset(rig);
		for (unsigned int i = 0; i < STEPS; i++) {
			unsigned int choice = code % (STEPS - i);

			code /= STEPS - i;
			when[left[choice]] = i;
			take_step(rig, left[choice]);
			left[choice] = left[STEPS - i - 1];
		}
		agreed = when[STEP_FEATURES] < when[STEP_DRIVER_OK];
		served = when[STEP_FEATURES] < when[STEP_QUEUE] &&
			 when[STEP_QUEUE] < when[STEP_DRIVER_OK];
		expect_not_broken(rig);
		expect(!(virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_DRIVER_OK) == !agreed,
		       "driver_ok", order);
		if (served) {
			expect_reads(rig);
		} else {
			rig_put_header(rig, BLOCK_IN, 0);
			rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
			rig_put(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
			rig_offer(rig, 0);
			rig_notify(rig);
			expect_witness();
			expect(rig->used->index == 0, "served", order);
		}
	}
}

static void refuse_features(struct rig *rig, uint64_t features, const char *what)
{
	uint32_t status;

	rig_reset(rig);
	status = rig_negotiate(rig, features);
	expect(!(status & VIRTIO_FEATURES_OK), what, features);
	rig_go(rig);
	expect(!(virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_DRIVER_OK), "driver_ok",
	       features);
}

static void features_that_were_not_offered(struct rig *rig)
{
	uint64_t offered = 0;

	for (uint32_t half = 0; half < 2; half++) {
		virtio_write(rig->device, VIRTIO_DEVICE_FEATURES_SEL, half);
		offered |= (uint64_t)virtio_read(rig->device, VIRTIO_DEVICE_FEATURES) << 32 * half;
	}
	for (unsigned int bit = 0; bit < 64; bit++) {
		if (!(offered & 1ULL << bit))
			refuse_features(rig, VIRTIO_F_VERSION_1 | 1ULL << bit, "one_not_offered");
	}
	refuse_features(rig, UINT64_MAX, "all");
	refuse_features(rig, 0, "none");
	refuse_features(rig, offered & ~VIRTIO_F_VERSION_1, "without_version_1");
	rig_reset(rig);
	expect(rig_negotiate(rig, offered) & VIRTIO_FEATURES_OK, "all_that_were_offered", offered);
}

static void features_of_other_halves(struct rig *rig)
{
	for (uint32_t half = 2; half; half <<= 1) {
		virtio_write(rig->device, VIRTIO_DEVICE_FEATURES_SEL, half);
		expect(virtio_read(rig->device, VIRTIO_DEVICE_FEATURES) == 0, "features", half);
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES_SEL, half);
		virtio_write(rig->device, VIRTIO_DRIVER_FEATURES, UINT32_MAX);
	}
	expect(rig_negotiate(rig, VIRTIO_F_VERSION_1) & VIRTIO_FEATURES_OK, "features_ok", 0);
}

/* What was agreed on is not changed any more: here, that tables may be indirect. */
static void features_after_features_ok(struct rig *rig)
{
	rig_start(rig, 0);
	virtio_write(rig->device, VIRTIO_DRIVER_FEATURES_SEL, 0);
	virtio_write(rig->device, VIRTIO_DRIVER_FEATURES, (uint32_t)F_INDIRECT_DESC);
	rig_put_header(rig, 0, 0);
	rig_put_table(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put_table(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_put(rig, 0, rig_table(rig), 2 * 16, VIRTQ_DESC_INDIRECT, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
}

static void interrupts_acknowledged_at_random(struct rig *rig)
{
	rig_start(rig, 0);
	for (uint32_t bit = 1; bit; bit <<= 1)
		virtio_write(rig->device, VIRTIO_INTERRUPT_ACK, bit);
	virtio_write(rig->device, VIRTIO_INTERRUPT_ACK, UINT32_MAX);
	virtio_write(rig->device, VIRTIO_INTERRUPT_STATUS, UINT32_MAX);
	expect(virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS) == 0, "interrupt_status", 0);
	rig->avail->flags = 0;
	expect_reads(rig);
	expect(virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS) == INTERRUPT_QUEUE,
	       "interrupt_of_the_queue", virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS));
}

static void notify_before_all(struct rig *rig)
{
	rig_notify(rig);
	rig_negotiate(rig, VIRTIO_F_VERSION_1);
	rig_notify(rig);
	rig_set_size(rig, RIG_QUEUE_SIZE);
	rig_set_addresses(rig, rig_desc(rig), rig_avail(rig), rig_used(rig));
	rig_set_ready(rig);
	rig_put_header(rig, 0, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_witness();
	/* 3.1.1: the device must not use buffers before DRIVER_OK. */
	expect(rig->used->index == 0 && rig->memory->status[0] == NO_STATUS, "used_too_early", 0);
	rig_go(rig);
	rig_notify(rig);
	expect(rig_wait(rig), "answer", 0);
	expect_not_broken(rig);
}

static void notify_what_does_not_exist(struct rig *rig)
{
	static const uint64_t queues[] = { 1,	   2,	    3,		255,	   256,
					   0xffff, 0x10000, 0x80000000, 0xffffffff };

	rig_start(rig, 0);
	rig_put_header(rig, 0xffff, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, VIRTQ_DESC_WRITE, 0);
	rig_offer(rig, 0);
	for (unsigned int i = 0; i < sizeof(queues) / sizeof(queues[0]); i++)
		virtio_write(rig->device, VIRTIO_QUEUE_NOTIFY, (uint32_t)queues[i]);
	mmio_write(rig->device->base + VIRTIO_QUEUE_NOTIFY, 8, 1ULL << 32);
	expect_witness();
	expect(rig->used->index == 0, "a_queue_that_was_not_notified", rig->used->index);
	/* And in odd ways. */
	for (unsigned int w = 0; w < 4; w++) {
		for (uint64_t offset = 0; offset < 4; offset++)
			mmio_write(rig->device->base + VIRTIO_QUEUE_NOTIFY + offset, widths[w], 0);
	}
	expect(rig_wait(rig), "answer", 0);
	expect_not_broken(rig);
}

static void notify_all_the_time(struct rig *rig)
{
	rig_start(rig, 0);
	for (uint64_t i = 0; i < rounds * 10; i++)
		rig_notify(rig);
	expect_reads(rig);
	expect_not_broken(rig);
}

/* The other window of the device is an empty slot, once the first is in use (architecture.md). */
static void the_other_window(struct rig *rig)
{
	uint64_t base = rig->device->base;
	uint64_t other =
		base >= LAYOUT_VIRTIO_MMIO_CMDLINE ? base - BOTH_WINDOWS : base + BOTH_WINDOWS;
	uint32_t status;

	expect(mmio_read32(other + VIRTIO_MAGIC) == VIRTIO_MAGIC_VALUE, "magic", other);
	for (uint64_t offset = VIRTIO_DEVICE_ID; offset < VIRTIO_CONFIG + 0x80; offset += 4)
		expect(mmio_read32(other + offset) == 0, "what_an_empty_slot_says", offset);
	rig_start(rig, 0);
	status = virtio_read(rig->device, VIRTIO_STATUS);
	for (uint64_t offset = 0; offset < VIRTIO_CONFIG + 0x80; offset += 4) {
		mmio_write32(other + offset, 0);
		mmio_write32(other + offset, UINT32_MAX);
		mmio_write32(other + offset, 1);
	}
	expect(virtio_read(rig->device, VIRTIO_STATUS) == status, "status", status);
	expect_not_broken(rig);
	rig->avail->flags = 0;
	expect_reads(rig);
	mmio_write32(other + VIRTIO_INTERRUPT_ACK, UINT32_MAX);
	expect(virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS) == INTERRUPT_QUEUE, "interrupt",
	       virtio_read(rig->device, VIRTIO_INTERRUPT_STATUS));
}

static void reset_all_the_time(struct rig *rig)
{
	for (uint64_t i = 0; i < rounds; i++) {
		rig_start(rig, 0);
		rig_notify(rig);
		virtio_write(rig->device, VIRTIO_STATUS, 0);
	}
	expect_not_broken(rig);
}

/* Any register, any value, any width; then all is as after a reset. */
static void registers_at_random(struct rig *rig)
{
	uint64_t state = 88172645463325252ULL;

	for (uint64_t i = 0; i < rounds * 10; i++) {
		uint64_t what = random_next(&state), value = random_next(&state);
		uint64_t offset = what % 5 ? what >> 8 & 0xfc : what >> 8 & 0x1ff;

		if (value & 1)
			value = value >> 8 & 0xff;
		/* Rings only where the rig has memory for them, or nowhere. */
		if (offset >= VIRTIO_QUEUE_DESC_LOW && offset < VIRTIO_QUEUE_DEVICE_HIGH + 4)
			value = offset & 4 ? what >> 63 : rig_data(rig) + (value & 0x1fff);
		if (what & 0x20)
			mmio_write(rig->device->base + offset, widths[what & 3], value);
		else
			virtio_write(rig->device, (uint32_t)offset & ~3U, (uint32_t)value);
		if (i % 64 == 0 && virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET) {
			count_broken();
			rig_reset(rig);
		}
	}
	expect_witness();
	rig_reset(rig);
}

static const struct hostile_case cases[] = {
	{ "read-all-registers", read_all_registers, 0 },
	{ "write-registers-in-odd-ways", write_registers_in_odd_ways, 0 },
	{ "write-values-to-all-registers", write_values_to_all_registers, 0 },
	{ "configuration-in-all-ways", configuration_in_all_ways, 0 },
	{ "status-of-all-values", status_of_all_values, 0 },
	{ "steps-in-every-order", steps_in_every_order, 0 },
	{ "driver-ok-without-features-ok", driver_ok_without_features_ok, 0 },
	{ "features-that-were-not-offered", features_that_were_not_offered, 0 },
	{ "features-of-other-halves", features_of_other_halves, 0 },
	{ "features-after-features-ok", features_after_features_ok, 0 },
	{ "interrupts-acknowledged-at-random", interrupts_acknowledged_at_random, 0 },
	{ "notify-before-all", notify_before_all, 0 },
	{ "notify-what-does-not-exist", notify_what_does_not_exist, 0 },
	{ "notify-all-the-time", notify_all_the_time, 0 },
	{ "the-other-window", the_other_window, 0 },
	{ "reset-all-the-time", reset_all_the_time, 0 },
	{ "registers-at-random", registers_at_random, 0 },
};

const struct hostile_suite suite_registers = SUITE("registers", NEED_BLOCK, true, cases);
