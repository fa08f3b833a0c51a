/*
 * Chains of descriptors that are none (virtio 1.2, 2.7.5), and some that are unusual and right: the
 * device must tell them apart. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"
#include "virtio_blk.h"

#define NEXT  VIRTQ_DESC_NEXT
#define WRITE VIRTQ_DESC_WRITE

static void offer_bad(struct rig *rig, uint16_t head)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_offer(rig, head);
	rig_notify(rig);
	expect_broken(rig);
	expect(*(volatile uint8_t *)rig->memory->status == NO_STATUS, "bad_chain_was_answered",
	       rig->memory->status[0]);
}

/* A read in three parts whose data lies here. */
static void read_to(struct rig *rig, uint64_t address, uint32_t length)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, address, length, NEXT | WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, WRITE, 0);
}

static void loop_of_one(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 0);
	offer_bad(rig, 0);
}

static void loop_of_two(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), 512, NEXT | WRITE, 1);
	offer_bad(rig, 0);
}

static void loop_back_to_the_head(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 8, NEXT, 1);
	rig_put(rig, 1, rig_header(rig) + 8, 8, NEXT, 0);
	offer_bad(rig, 0);
}

static void put_long_chain(struct rig *rig)
{
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		rig_put(rig, i, rig_header(rig) + i, 1, NEXT, (uint16_t)((i + 1) % RIG_QUEUE_SIZE));
}

static void loop_of_all(struct rig *rig)
{
	put_long_chain(rig);
	offer_bad(rig, 7);
}

/* 16 bytes of header, each alone; data in 512 parts would not fit, so the rest is one. */
static void as_long_as_the_queue(struct rig *rig)
{
	uint32_t parts = RIG_QUEUE_SIZE - 16 - 1;

	rig_put_header(rig, BLOCK_IN, 0);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++) {
		uint16_t next = (uint16_t)(i + 1);

		if (i < 16)
			rig_put(rig, i, rig_header(rig) + i, 1, NEXT, next);
		else if (i < RIG_QUEUE_SIZE - 2)
			rig_put(rig, i, rig_data(rig) + i - 16, 1, NEXT | WRITE, next);
		else if (i == RIG_QUEUE_SIZE - 2)
			rig_put(rig, i, rig_data(rig) + i - 16, 512 - parts + 1, NEXT | WRITE,
				next);
	}
	rig_put(rig, RIG_QUEUE_SIZE - 1, rig_status(rig), 1, WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer",
	       rig->memory->status[0]);
	expect_not_broken(rig);
}

static void next_past_the_queue(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, RIG_QUEUE_SIZE);
	offer_bad(rig, 0);
}

static void next_far_past_the_queue(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 0xffff);
	offer_bad(rig, 0);
}

static void head_past_the_queue(struct rig *rig)
{
	offer_bad(rig, RIG_QUEUE_SIZE);
}

static void head_far_past_the_queue(struct rig *rig)
{
	offer_bad(rig, 0xffff);
}

static void readable_behind_writable(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, NEXT | WRITE, 2);
	rig_put(rig, 2, rig_data(rig), 512, 0, 0);
	offer_bad(rig, 0);
}

static void header_is_writable(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT | WRITE, 1);
	rig_put(rig, 1, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig, 0);
}

static void all_is_readable(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), 512, NEXT, 2);
	rig_put(rig, 2, rig_status(rig), 1, 0, 0);
	offer_bad(rig, 0);
}

static void readable_of_no_length(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 0, NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig, 0);
}

static void writable_of_no_length(struct rig *rig)
{
	read_to(rig, rig_data(rig), 0);
	offer_bad(rig, 0);
}

static void one_descriptor_of_nothing(struct rig *rig)
{
	rig_put(rig, 0, 0, 0, 0, 0);
	offer_bad(rig, 0);
}

static void unknown_flags(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, 0xfff8 | NEXT, 1);
	rig_put(rig, 1, rig_data(rig), 512, 0xfff8 | NEXT | WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, 0xfff8 | WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer",
	       rig->memory->status[0]);
	expect_not_broken(rig);
}

/* Addresses. */
#define BAD_DATA(name, address, length)            \
	static void name(struct rig *rig)          \
	{                                          \
		read_to(rig, (address), (length)); \
		offer_bad(rig, 0);                 \
	}

BAD_DATA(data_across_the_end_of_memory, end_of_memory() - 256, 512)
BAD_DATA(data_one_byte_too_many, end_of_memory() - 511, 512)
BAD_DATA(data_at_the_end_of_memory, end_of_memory(), 512)
BAD_DATA(data_in_the_gap, LAYOUT_MMIO_GAP_START, 512)
BAD_DATA(data_in_the_registers, rig->device->base, 512)
BAD_DATA(data_in_the_notify_register, rig->device->base + VIRTIO_QUEUE_NOTIFY, 4)
BAD_DATA(data_in_the_local_apic, LAYOUT_LOCAL_APIC, 512)
BAD_DATA(data_in_the_io_apic, LAYOUT_IO_APIC, 512)
BAD_DATA(data_in_the_task_state_of_kvm, LAYOUT_KVM_TSS, 512)
BAD_DATA(data_just_below_4_gib, 0xfffffe00ULL, 512)
BAD_DATA(data_across_4_gib, 0xffffff00ULL, 512)
BAD_DATA(data_far_away, 1ULL << 52, 512)
BAD_DATA(data_in_a_negative_place, 1ULL << 63, 512)
BAD_DATA(data_at_the_last_byte_of_all, UINT64_MAX, 1)
BAD_DATA(data_that_wraps, UINT64_MAX - 255, 512)
BAD_DATA(data_that_wraps_to_good_memory, 0 - 4096ULL, (uint32_t)rig_data(rig) + 4096)
BAD_DATA(data_of_all_lengths, 0, UINT32_MAX)
BAD_DATA(data_longer_than_memory, 0, (uint32_t)end_of_memory() + 512)

static void header_outside(struct rig *rig)
{
	rig_put(rig, 0, end_of_memory() - 8, 16, NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig, 0);
}

static void status_outside(struct rig *rig)
{
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), 512, NEXT | WRITE, 2);
	rig_put(rig, 2, end_of_memory(), 1, WRITE, 0);
	offer_bad(rig, 0);
}

static void data_up_to_the_end_of_memory(struct rig *rig)
{
	volatile uint64_t *last = (volatile uint64_t *)(end_of_memory() - 8);
	uint64_t kept = *last;

	rig_put_header(rig, BLOCK_IN, 3);
	read_to(rig, end_of_memory() - 512, 512);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer",
	       rig->memory->status[0]);
	expect(*last == 3, "the_last_bytes_of_memory", *last);
	*last = kept;
	expect_not_broken(rig);
}

/* 254 times the lower half of memory is beyond 2^32 bytes: 2.7.5. */
static void more_than_4_gib(struct rig *rig)
{
	uint32_t part = (uint32_t)(end_of_memory() / 2);

	if (!expect((uint64_t)part * (RIG_QUEUE_SIZE - 2) > UINT32_MAX, "needs_more_memory", part))
		return;
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	for (unsigned int i = 1; i < RIG_QUEUE_SIZE - 1; i++)
		rig_put(rig, i, 0, part, NEXT, (uint16_t)(i + 1));
	rig_put(rig, RIG_QUEUE_SIZE - 1, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig, 0);
}

/* Just as much as a chain may have; more than the drive has. */
static void nearly_4_gib(struct rig *rig)
{
	uint32_t part = 16 << 20;

	rig_put_header(rig, BLOCK_OUT, 0);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	for (unsigned int i = 1; i < RIG_QUEUE_SIZE - 1; i++)
		rig_put(rig, i, 0, part, NEXT, (uint16_t)(i + 1));
	rig_put(rig, RIG_QUEUE_SIZE - 1, rig_status(rig), 1, WRITE, 0);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == 1, "answer", rig->memory->status[0]);
	expect_not_broken(rig);
}

static const struct hostile_case cases[] = {
	{ "loop-of-one", loop_of_one, 0 },
	{ "loop-of-two", loop_of_two, 0 },
	{ "loop-back-to-the-head", loop_back_to_the_head, 0 },
	{ "loop-of-all", loop_of_all, 0 },
	{ "as-long-as-the-queue", as_long_as_the_queue, 0 },
	{ "next-past-the-queue", next_past_the_queue, 0 },
	{ "next-far-past-the-queue", next_far_past_the_queue, 0 },
	{ "head-past-the-queue", head_past_the_queue, 0 },
	{ "head-far-past-the-queue", head_far_past_the_queue, 0 },
	{ "readable-behind-writable", readable_behind_writable, 0 },
	{ "header-is-writable", header_is_writable, 0 },
	{ "all-is-readable", all_is_readable, 0 },
	{ "readable-of-no-length", readable_of_no_length, 0 },
	{ "writable-of-no-length", writable_of_no_length, 0 },
	{ "one-descriptor-of-nothing", one_descriptor_of_nothing, 0 },
	{ "unknown-flags", unknown_flags, 0 },
	{ "data-across-the-end-of-memory", data_across_the_end_of_memory, 0 },
	{ "data-one-byte-too-many", data_one_byte_too_many, 0 },
	{ "data-at-the-end-of-memory", data_at_the_end_of_memory, 0 },
	{ "data-in-the-gap", data_in_the_gap, 0 },
	{ "data-in-the-registers", data_in_the_registers, 0 },
	{ "data-in-the-notify-register", data_in_the_notify_register, 0 },
	{ "data-in-the-local-apic", data_in_the_local_apic, 0 },
	{ "data-in-the-io-apic", data_in_the_io_apic, 0 },
	{ "data-in-the-task-state-of-kvm", data_in_the_task_state_of_kvm, 0 },
	{ "data-just-below-4-gib", data_just_below_4_gib, 0 },
	{ "data-across-4-gib", data_across_4_gib, 0 },
	{ "data-far-away", data_far_away, 0 },
	{ "data-in-a-negative-place", data_in_a_negative_place, 0 },
	{ "data-at-the-last-byte-of-all", data_at_the_last_byte_of_all, 0 },
	{ "data-that-wraps", data_that_wraps, 0 },
	{ "data-that-wraps-to-good-memory", data_that_wraps_to_good_memory, 0 },
	{ "data-of-all-lengths", data_of_all_lengths, 0 },
	{ "data-longer-than-memory", data_longer_than_memory, 0 },
	{ "header-outside", header_outside, 0 },
	{ "status-outside", status_outside, 0 },
	{ "data-up-to-the-end-of-memory", data_up_to_the_end_of_memory, 0 },
	{ "more-than-4-gib", more_than_4_gib, 0 },
	{ "nearly-4-gib", nearly_4_gib, 0 },
};

const struct hostile_suite suite_chains = SUITE("chains", NEED_BLOCK, false, cases);
