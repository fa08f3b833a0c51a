/* Indirect descriptors (virtio 1.2, 2.7.5.3), wrong and right. See hostile.h. */
#include "hostile.h"
#include "mayfly/layout.h"
#include "virtio_blk.h"

#define NEXT	 VIRTQ_DESC_NEXT
#define WRITE	 VIRTQ_DESC_WRITE
#define INDIRECT VIRTQ_DESC_INDIRECT

/* A good read, in the indirect table from entry `first` on. */
static void put_good_table(struct rig *rig, uint16_t first)
{
	rig_put_header(rig, BLOCK_IN, 1);
	rig_put_table(rig, first, rig_header(rig), 16, NEXT, (uint16_t)(first + 1));
	rig_put_table(rig, first + 1U, rig_data(rig), 512, NEXT | WRITE, (uint16_t)(first + 2));
	rig_put_table(rig, first + 2U, rig_status(rig), 1, WRITE, 0);
}

static void offer_bad(struct rig *rig)
{
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
	expect(*(volatile uint8_t *)rig->memory->status == NO_STATUS, "bad_chain_was_answered",
	       rig->memory->status[0]);
}

static void offer_good(struct rig *rig)
{
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "answer",
	       rig->memory->status[0]);
	expect_not_broken(rig);
}

static void good(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_good(rig);
}

/* 2.7.5.3.2: the flag is ignored. */
static void good_and_writable(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT | WRITE, 0);
	offer_good(rig);
}

static void good_behind_a_direct_one(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_table(rig) + 16, 2 * 16, INDIRECT, 0);
	rig_put_table(rig, 1, rig_data(rig), 512, NEXT | WRITE, 1);
	offer_good(rig);
}

/* Nothing says that a table must be aligned. */
static void good_at_an_odd_place(struct rig *rig)
{
	uint8_t *from = (uint8_t *)rig->memory->table, *to = from + 1025;

	put_good_table(rig, 0);
	for (unsigned int i = 0; i < 48; i++)
		to[i] = from[i];
	rig_put(rig, 0, (uintptr_t)to, 3 * 16, INDIRECT, 0);
	offer_good(rig);
}

static void good_in_the_used_ring_s_page(struct rig *rig)
{
	struct virtq_desc *table = (struct virtq_desc *)(void *)(rig->memory->used + 3072);

	rig_put_header(rig, BLOCK_IN, 1);
	table[0] = descriptor(rig_header(rig), 16, NEXT, 1);
	table[1] = descriptor(rig_data(rig), 512, NEXT | WRITE, 2);
	table[2] = descriptor(rig_status(rig), 1, WRITE, 0);
	rig_put(rig, 0, (uintptr_t)table, 3 * 16, INDIRECT, 0);
	offer_good(rig);
}

static void good_and_much_longer_than_it_needs(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_table(rig), (uint32_t)(end_of_memory() - rig_table(rig)) & ~15U,
		INDIRECT, 0);
	offer_good(rig);
}

static void not_negotiated(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void within_indirect(struct rig *rig)
{
	put_good_table(rig, 1);
	rig_put_table(rig, 0, rig_table(rig) + 16, 3 * 16, INDIRECT, 0);
	rig_put(rig, 0, rig_table(rig), 16, INDIRECT, 0);
	offer_bad(rig);
}

static void within_itself(struct rig *rig)
{
	put_good_table(rig, 1);
	rig_put_table(rig, 0, rig_table(rig), 4 * 16, INDIRECT, 0);
	rig_put(rig, 0, rig_table(rig), 4 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void within_indirect_later(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put_table(rig, 2, rig_table(rig), 3 * 16, INDIRECT | WRITE, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void with_next(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT | NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig);
}

static void next_past_the_table(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put_table(rig, 1, rig_data(rig), 512, NEXT | WRITE, 3);
	rig_put_table(rig, 3, rig_status(rig), 1, WRITE, 0);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void loop_in_the_table(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put_table(rig, 2, rig_status(rig), 1, NEXT | WRITE, 1);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void zero_length_in_the_table(struct rig *rig)
{
	put_good_table(rig, 0);
	rig_put_table(rig, 1, rig_data(rig), 0, NEXT | WRITE, 2);
	rig_put(rig, 0, rig_table(rig), 3 * 16, INDIRECT, 0);
	offer_bad(rig);
}

static void longer_than_the_queue(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 1);
	rig_put_table(rig, 0, rig_header(rig), 16, NEXT, 1);
	for (unsigned int i = 1; i <= RIG_QUEUE_SIZE; i++)
		rig_put_table(rig, i, rig_data(rig) + i, 1, NEXT | WRITE, (uint16_t)(i + 1));
	rig_put_table(rig, RIG_QUEUE_SIZE + 1, rig_status(rig), 1, WRITE, 0);
	rig_put(rig, 0, rig_table(rig), (RIG_QUEUE_SIZE + 2) * 16, INDIRECT, 0);
	offer_bad(rig);
}

/* Its length in bytes, or its place, is wrong. */
#define BAD_TABLE(name, address, length)                           \
	static void name(struct rig *rig)                          \
	{                                                          \
		put_good_table(rig, 0);                            \
		rig_put(rig, 0, (address), (length), INDIRECT, 0); \
		offer_bad(rig);                                    \
	}

BAD_TABLE(of_no_length, rig_table(rig), 0)
BAD_TABLE(of_half_a_descriptor, rig_table(rig), 8)
BAD_TABLE(of_one_byte, rig_table(rig), 1)
BAD_TABLE(of_odd_length, rig_table(rig), 3 * 16 + 1)
BAD_TABLE(of_all_lengths, rig_table(rig), 0xfffffff0U)
BAD_TABLE(at_the_end_of_memory, end_of_memory(), 3 * 16)
BAD_TABLE(across_the_end_of_memory, end_of_memory() - 16, 3 * 16)
BAD_TABLE(in_the_gap, LAYOUT_MMIO_GAP_START, 3 * 16)
BAD_TABLE(in_the_registers, rig->device->base, 3 * 16)
BAD_TABLE(that_wraps, 0 - 16ULL, 3 * 16)

static const struct hostile_case cases[] = {
	{ "indirect-good", good, F_INDIRECT_DESC },
	{ "indirect-good-and-writable", good_and_writable, F_INDIRECT_DESC },
	{ "indirect-good-behind-a-direct-one", good_behind_a_direct_one, F_INDIRECT_DESC },
	{ "indirect-good-at-an-odd-place", good_at_an_odd_place, F_INDIRECT_DESC },
	{ "indirect-good-in-the-used-ring-s-page", good_in_the_used_ring_s_page, F_INDIRECT_DESC },
	{ "indirect-good-and-much-longer", good_and_much_longer_than_it_needs, F_INDIRECT_DESC },
	{ "indirect-not-negotiated", not_negotiated, 0 },
	{ "indirect-within-indirect", within_indirect, F_INDIRECT_DESC },
	{ "indirect-within-itself", within_itself, F_INDIRECT_DESC },
	{ "indirect-within-indirect-later", within_indirect_later, F_INDIRECT_DESC },
	{ "indirect-with-next", with_next, F_INDIRECT_DESC },
	{ "indirect-next-past-the-table", next_past_the_table, F_INDIRECT_DESC },
	{ "indirect-loop-in-the-table", loop_in_the_table, F_INDIRECT_DESC },
	{ "indirect-zero-length-in-the-table", zero_length_in_the_table, F_INDIRECT_DESC },
	{ "indirect-longer-than-the-queue", longer_than_the_queue, F_INDIRECT_DESC },
	{ "indirect-of-no-length", of_no_length, F_INDIRECT_DESC },
	{ "indirect-of-half-a-descriptor", of_half_a_descriptor, F_INDIRECT_DESC },
	{ "indirect-of-one-byte", of_one_byte, F_INDIRECT_DESC },
	{ "indirect-of-odd-length", of_odd_length, F_INDIRECT_DESC },
	{ "indirect-of-all-lengths", of_all_lengths, F_INDIRECT_DESC },
	{ "indirect-at-the-end-of-memory", at_the_end_of_memory, F_INDIRECT_DESC },
	{ "indirect-across-the-end-of-memory", across_the_end_of_memory, F_INDIRECT_DESC },
	{ "indirect-in-the-gap", in_the_gap, F_INDIRECT_DESC },
	{ "indirect-in-the-registers", in_the_registers, F_INDIRECT_DESC },
	{ "indirect-that-wraps", that_wraps, F_INDIRECT_DESC },
};

const struct hostile_suite suite_indirect = SUITE("indirect", NEED_BLOCK, false, cases);
