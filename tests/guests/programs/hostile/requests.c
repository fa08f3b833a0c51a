/*
 * Block requests (virtio 1.2, 5.2.6) that are wrong in each field, and some that only look so. The
 * first half of the drive must be as it was afterwards; the test compares it. See hostile.h.
 */
#include "hostile.h"
#include "text.h"
#include "virtio_blk.h"

#define S_IOERR	 1
#define S_UNSUPP 2

#define F_FLUSH (1ULL << 9)

#define NEXT  VIRTQ_DESC_NEXT
#define WRITE VIRTQ_DESC_WRITE

/* 5.2.6: an answer that is not OK says so in the status, and nothing but that was written. */
static void refuse(struct rig *rig, uint8_t status, const char *what, uint64_t value)
{
	expect(status == S_IOERR || status == S_UNSUPP, what, value);
	if (status != NO_STATUS)
		expect(rig_written(rig) == 1, "length_of_a_refusal", rig_written(rig));
	expect_not_broken(rig);
}

static void types_that_do_not_exist(struct rig *rig)
{
	static const uint32_t types[] = { 2,	      3,	  5,	     6,	      7,
					  9,	      10,	  12,	     14,      15,
					  16,	      0x100,	  0x8000,    0x10000, 0x10001,
					  0x80000000, 0x80000001, 0xffffffff };

	for (unsigned int i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		uint8_t status = rig_block(rig, types[i], 0, SECTOR_BYTES);

		expect(status == S_UNSUPP, "status", types[i]);
		refuse(rig, status, "type", types[i]);
	}
}

static void sectors_that_do_not_exist(struct rig *rig)
{
	uint64_t sectors = rig_sectors(rig);
	const uint64_t places[] = { sectors,	    sectors - 1,     sectors + 1,
				    1ULL << 32,	    1ULL << 55,	     (1ULL << 55) - 1,
				    1ULL << 54,	    1ULL << 63,	     UINT64_MAX,
				    UINT64_MAX - 1, UINT64_MAX >> 9, (UINT64_MAX >> 9) + 1 };
	static const uint32_t types[] = { BLOCK_IN, BLOCK_OUT };

	for (unsigned int t = 0; t < 2; t++) {
		for (unsigned int i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			uint8_t status = rig_block(rig, types[t], places[i], 2 * SECTOR_BYTES);

			refuse(rig, status, "sector", places[i]);
		}
	}
	expect(rig_block(rig, BLOCK_IN, sectors - 1, SECTOR_BYTES) == BLOCK_STATUS_OK,
	       "the_last_one", sectors - 1);
}

static void lengths_that_are_no_sectors(struct rig *rig)
{
	static const uint32_t lengths[] = { 1, 2, 511, 513, 1023, 4095, 4097, RIG_DATA_BYTES - 1 };

	for (unsigned int i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		refuse(rig, rig_block(rig, BLOCK_IN, 0, lengths[i]), "read", lengths[i]);
		refuse(rig, rig_block(rig, BLOCK_OUT, 0, lengths[i]), "write", lengths[i]);
	}
}

static void transfers_without_data(struct rig *rig)
{
	refuse(rig, rig_block(rig, BLOCK_IN, 0, 0), "read", 0);
	refuse(rig, rig_block(rig, BLOCK_OUT, 0, 0), "write", 0);
}

static uint8_t answer(struct rig *rig)
{
	rig_offer(rig, 0);
	rig_notify(rig);
	return rig_wait(rig) ? *(volatile uint8_t *)rig->memory->status : NO_STATUS;
}

static void data_in_the_wrong_direction(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT, 2);
	rig_put(rig, 2, rig_status(rig), 1, WRITE, 0);
	refuse(rig, answer(rig), "a_read_of_what_is_readable", 0);
	rig_put_header(rig, BLOCK_OUT, 0);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT | WRITE, 2);
	refuse(rig, answer(rig), "a_write_of_what_is_writable", 0);
	/* Both ways at once. */
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT, 3);
	rig_put(rig, 3, rig_data(rig) + SECTOR_BYTES, SECTOR_BYTES, NEXT | WRITE, 2);
	for (uint32_t type = BLOCK_IN; type <= BLOCK_OUT; type++) {
		rig_put_header(rig, type, 0);
		refuse(rig, answer(rig), "both_ways", type);
	}
}

static void a_name_with_little_room(struct rig *rig)
{
	for (uint32_t bytes = 0; bytes < BLOCK_ID_BYTES; bytes++)
		refuse(rig, rig_block(rig, BLOCK_GET_ID, 0, bytes), "bytes", bytes);
	bytes_fill(rig->memory->data, RIG_GUARD_BYTE, PAGE_BYTES);
	expect(rig_block(rig, BLOCK_GET_ID, UINT64_MAX, PAGE_BYTES) == BLOCK_STATUS_OK, "much_room",
	       PAGE_BYTES);
	expect(rig_written(rig) == BLOCK_ID_BYTES + 1, "written", rig_written(rig));
	expect(bytes_are(rig->memory->data + BLOCK_ID_BYTES, RIG_GUARD_BYTE,
			 PAGE_BYTES - BLOCK_ID_BYTES),
	       "more_than_the_name", 0);
}

static void a_header_in_pieces(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 12);
	for (unsigned int i = 0; i < 16; i++)
		rig_put(rig, i, rig_header(rig) + i, 1, NEXT, (uint16_t)(i + 1));
	rig_put(rig, 16, rig_data(rig), SECTOR_BYTES, NEXT | WRITE, 17);
	rig_put(rig, 17, rig_status(rig), 1, WRITE, 0);
	expect(answer(rig) == BLOCK_STATUS_OK, "status", rig->memory->status[0]);
	expect(*(volatile uint64_t *)(void *)rig->memory->data == 12, "data", rig->memory->data[0]);
}

/* 2.7.4: how a request is spread over descriptors means nothing: here data and status are one. */
static void a_status_behind_data_in_one_piece(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 12);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES + 1, WRITE, 0);
	rig->memory->data[SECTOR_BYTES] = NO_STATUS;
	answer(rig);
	expect(rig->memory->data[SECTOR_BYTES] == BLOCK_STATUS_OK, "status",
	       rig->memory->data[SECTOR_BYTES]);
}

static void a_status_on_the_header(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 12);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_header(rig), SECTOR_BYTES, NEXT | WRITE, 2);
	rig_put(rig, 2, rig_header(rig), 1, WRITE, 0);
	answer(rig);
	expect(rig->memory->header[0] == BLOCK_STATUS_OK, "status", rig->memory->header[0]);
}

static void a_status_at_the_end_of_memory(struct rig *rig)
{
	volatile uint8_t *status = (volatile uint8_t *)(end_of_memory() - 1);

	*status = NO_STATUS;
	rig_put_header(rig, BLOCK_IN, 12);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT | WRITE, 2);
	rig_put(rig, 2, end_of_memory() - 1, 1, WRITE, 0);
	answer(rig);
	expect(*status == BLOCK_STATUS_OK, "status", *status);
}

static void offer_bad(struct rig *rig)
{
	rig_offer(rig, 0);
	rig_notify(rig);
	expect_broken(rig);
}

static void no_status(struct rig *rig)
{
	rig_put_header(rig, BLOCK_OUT, 0);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, 0, 0);
	offer_bad(rig);
}

static void nothing_but_a_status(struct rig *rig)
{
	rig_put(rig, 0, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig);
}

static void nothing_but_a_header(struct rig *rig)
{
	rig_put_header(rig, 4, 0);
	rig_put(rig, 0, rig_header(rig), 16, 0, 0);
	offer_bad(rig);
}

static void a_header_too_short(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, 0);
	rig_put(rig, 0, rig_header(rig), 15, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT | WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, WRITE, 0);
	offer_bad(rig);
}

static void flushes_with_things(struct rig *rig)
{
	uint8_t status;

	for (uint64_t sector = 0; sector < 3; sector++) {
		status = rig_block(rig, BLOCK_FLUSH, sector << 62, 0);
		expect(status == BLOCK_STATUS_OK || status == S_UNSUPP, "flush", status);
		status = rig_block(rig, BLOCK_FLUSH, sector, SECTOR_BYTES + 3);
		expect(status != NO_STATUS, "flush_with_data", status);
	}
	expect_not_broken(rig);
}

/* The same chain in every entry, again as soon as it is used; the other drive is asked in between.
 */
static void flood(struct rig *rig, uint16_t head)
{
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE; i++)
		rig->avail->ring[i] = head;
	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t start = tsc_read();

		rig->avail->index = (uint16_t)(rig->avail->index + RIG_QUEUE_SIZE);
		memory_barrier();
		rig_notify(rig);
		if (i % 64 == 0)
			expect_witness();
		while (rig->used->index != rig->avail->index && tsc_read() - start < patience)
			cpu_relax();
		if (!expect(rig->used->index == rig->avail->index, "answers", i))
			return;
	}
}

static void refusals_all_the_time(struct rig *rig)
{
	rig_put_header(rig, BLOCK_IN, UINT64_MAX);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_data(rig), SECTOR_BYTES, NEXT | WRITE, 2);
	rig_put(rig, 2, rig_status(rig), 1, WRITE, 0);
	flood(rig, 0);
}

/* Nothing to do, in as many descriptors as there are. */
static void long_chains_all_the_time(struct rig *rig)
{
	rig_put_header(rig, UINT32_MAX, 0);
	for (unsigned int i = 0; i < RIG_QUEUE_SIZE - 1; i++)
		rig_put(rig, i, rig_header(rig), 16, NEXT, (uint16_t)(i + 1));
	rig_put(rig, RIG_QUEUE_SIZE - 1, rig_status(rig), 1, WRITE, 0);
	flood(rig, 0);
}

/* Each makes the host's disk work, and has nothing in it: a sixteenth as many of them. */
static void flushes_all_the_time(struct rig *rig)
{
	uint64_t kept = rounds;

	virtio_write(rig->device, VIRTIO_DEVICE_FEATURES_SEL, 0);
	rig_start(rig, virtio_read(rig->device, VIRTIO_DEVICE_FEATURES) & F_FLUSH);
	rig_put_header(rig, BLOCK_FLUSH, 0);
	rig_put(rig, 0, rig_header(rig), 16, NEXT, 1);
	rig_put(rig, 1, rig_status(rig), 1, WRITE, 0);
	rounds = (rounds + 15) / 16;
	flood(rig, 0);
	rounds = kept;
}

/* The witness is read-only; its file must be as it was. */
static void writes_to_a_read_only_drive(struct rig *rig)
{
	static const uint32_t types[] = { BLOCK_OUT, 11, 13 };
	struct rig *other = witness_rig();

	(void)rig;
	*(volatile uint64_t *)(void *)other->memory->data = 1;
	for (unsigned int i = 0; i < 3; i++) {
		uint8_t status = rig_block(other, types[i], 0, types[i] == BLOCK_OUT ? 512 : 16);

		refuse(other, status, "write", types[i]);
	}
}

/* Each type with each shape of data, at random: an answer, or a broken device, and nothing else. */
static void requests_at_random(struct rig *rig)
{
	uint64_t state = 0x9e3779b97f4a7c15ULL, half = rig_sectors(rig) / 2;

	for (uint64_t i = 0; i < rounds; i++) {
		uint64_t numbers = random_next(&state), more = random_next(&state);
		uint32_t type = (uint32_t)numbers & 15;
		bool writes = numbers & 0x10;

		rig_put_header(rig, type, more & 1 ? random_next(&state) | half : half);
		rig_put(rig, 0, rig_header(rig),
			numbers & 0x20 ? 16 : (uint32_t)(numbers >> 8) & 31, NEXT, 1);
		rig_put(rig, 1, rig_data(rig), (uint32_t)(more >> 16) & 0xfff,
			(uint16_t)(NEXT | (writes ? WRITE : 0)), 2);
		rig_put(rig, 2, rig_status(rig), (uint32_t)(numbers >> 16) & 3, WRITE, 0);
		rig_offer(rig, 0);
		rig_notify(rig);
		if (i % 16 == 15) {
			expect_witness();
			if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
				count_broken();
			rig_start(rig, 0);
		}
	}
	expect_witness();
	if (virtio_read(rig->device, VIRTIO_STATUS) & VIRTIO_NEEDS_RESET)
		count_broken();
	rig_reset(rig);
}

static const struct hostile_case cases[] = {
	{ "types-that-do-not-exist", types_that_do_not_exist, 0 },
	{ "sectors-that-do-not-exist", sectors_that_do_not_exist, 0 },
	{ "lengths-that-are-no-sectors", lengths_that_are_no_sectors, 0 },
	{ "transfers-without-data", transfers_without_data, 0 },
	{ "data-in-the-wrong-direction", data_in_the_wrong_direction, 0 },
	{ "a-name-with-little-room", a_name_with_little_room, 0 },
	{ "a-header-in-pieces", a_header_in_pieces, 0 },
	{ "a-status-behind-data-in-one-piece", a_status_behind_data_in_one_piece, 0 },
	{ "a-status-on-the-header", a_status_on_the_header, 0 },
	{ "a-status-at-the-end-of-memory", a_status_at_the_end_of_memory, 0 },
	{ "no-status", no_status, 0 },
	{ "nothing-but-a-status", nothing_but_a_status, 0 },
	{ "nothing-but-a-header", nothing_but_a_header, 0 },
	{ "a-header-too-short", a_header_too_short, 0 },
	{ "flushes-with-things", flushes_with_things, 0 },
	{ "refusals-all-the-time", refusals_all_the_time, 0 },
	{ "long-chains-all-the-time", long_chains_all_the_time, 0 },
	{ "flushes-all-the-time", flushes_all_the_time, 0 },
	{ "writes-to-a-read-only-drive", writes_to_a_read_only_drive, 0 },
	{ "requests-at-random", requests_at_random, 0 },
};

const struct hostile_suite suite_requests = SUITE("requests", NEED_BLOCK, false, cases);
