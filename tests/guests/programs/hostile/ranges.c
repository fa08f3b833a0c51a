/* Discards and writes of zeroes (virtio 1.2, 5.2.6.2) whose ranges are none. See hostile.h. */
#include "hostile.h"
#include "text.h"
#include "virtio_blk.h"

#define S_IOERR	 1
#define S_UNSUPP 2

#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define FLAG_UNMAP 1

/* Of struct virtio_blk_config: 5.2.4. */
#define CONFIG_MAX_DISCARD_SECTORS	0x24
#define CONFIG_MAX_DISCARD_SEG		0x28
#define CONFIG_MAX_WRITE_ZEROES_SECTORS 0x30
#define CONFIG_MAX_WRITE_ZEROES_SEG	0x34

struct range {
	uint64_t sector;
	uint32_t sectors, flags;
};

static volatile struct range *ranges_of(struct rig *rig)
{
	return (volatile struct range *)(void *)rig->memory->data;
}

/* The last of `count` ranges is this one, those before it are good. */
static uint8_t request(struct rig *rig, uint32_t type, uint32_t count, uint64_t sector,
		       uint32_t sectors, uint32_t flags)
{
	volatile struct range *ranges = ranges_of(rig);
	uint64_t good = rig_sectors(rig) / 2;

	for (uint32_t i = 0; i < count; i++) {
		ranges[i].sector = i == count - 1 ? sector : good;
		ranges[i].sectors = i == count - 1 ? sectors : 8;
		ranges[i].flags = i == count - 1 ? flags : 0;
	}
	return rig_block(rig, type, 0, count * (uint32_t)sizeof(struct range));
}

static void refuse(struct rig *rig, uint32_t type, uint64_t sector, uint32_t sectors,
		   uint32_t flags)
{
	/* Alone, and as the third of three: a request is refused as a whole. */
	for (uint32_t count = 1; count <= 3; count += 2) {
		uint8_t status = request(rig, type, count, sector, sectors, flags);

		expect(status == S_IOERR || status == S_UNSUPP, "range", sector);
	}
	expect_not_broken(rig);
}

static void ranges_that_are_none(struct rig *rig)
{
	static const uint32_t types[] = { T_DISCARD, T_WRITE_ZEROES };
	uint64_t sectors = rig_sectors(rig);

	for (unsigned int t = 0; t < 2; t++) {
		uint32_t type = types[t];

		refuse(rig, type, 0, 0, 0);
		refuse(rig, type, sectors, 1, 0);
		refuse(rig, type, sectors - 1, 2, 0);
		refuse(rig, type, 0, UINT32_MAX, 0);
		refuse(rig, type, UINT64_MAX, 1, 0);
		refuse(rig, type, UINT64_MAX, UINT32_MAX, 0);
		refuse(rig, type, UINT64_MAX - 7, 8, 0);
		refuse(rig, type, 1ULL << 55, 1, 0);
		refuse(rig, type, (1ULL << 55) - 1, 2, 0);
		refuse(rig, type, 1ULL << 63, 8, 0);
		for (uint32_t flag = 2; flag; flag <<= 1)
			refuse(rig, type, sectors / 2, 8, flag);
		refuse(rig, type, sectors / 2, 8, UINT32_MAX);
	}
	/* 5.2.6.2: unmap is of no use with a discard. */
	expect(request(rig, T_DISCARD, 1, sectors / 2, 8, FLAG_UNMAP) == S_UNSUPP, "unmap", 0);
	expect(request(rig, T_WRITE_ZEROES, 1, sectors / 2, 8, FLAG_UNMAP) == BLOCK_STATUS_OK,
	       "zeroes_that_unmap", 0);
}

static void ranges_of_odd_length(struct rig *rig)
{
	static const uint32_t types[] = { T_DISCARD, T_WRITE_ZEROES };
	static const uint32_t lengths[] = { 0, 1, 8, 15, 17, 24, 31, 33, 16 * 1024 + 1 };

	request(rig, T_DISCARD, 32, rig_sectors(rig) / 2, 8, 0);
	for (unsigned int t = 0; t < 2; t++) {
		for (unsigned int i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			uint8_t status = rig_block(rig, types[t], 0, lengths[i]);

			expect(status == S_IOERR || status == S_UNSUPP, "length", lengths[i]);
		}
	}
	expect_not_broken(rig);
}

static void more_ranges_than_allowed(struct rig *rig)
{
	static const uint32_t types[] = { T_DISCARD, T_WRITE_ZEROES };
	static const uint32_t limits[] = { CONFIG_MAX_DISCARD_SEG, CONFIG_MAX_WRITE_ZEROES_SEG };

	for (unsigned int t = 0; t < 2; t++) {
		uint32_t limit = virtio_read(rig->device, VIRTIO_CONFIG + limits[t]);
		uint64_t sector = rig_sectors(rig) / 2;

		expect(limit > 0 && limit < RIG_DATA_BYTES / sizeof(struct range), "limit", limit);
		expect(request(rig, types[t], limit, sector, 8, 0) == BLOCK_STATUS_OK, "as_many_as",
		       limit);
		expect(request(rig, types[t], limit + 1, sector, 8, 0) == S_IOERR, "one_more_than",
		       limit);
		expect(request(rig, types[t], (uint32_t)(RIG_DATA_BYTES / sizeof(struct range)),
			       sector, 8, 0) == S_IOERR,
		       "many_more_than", limit);
	}
	expect_not_broken(rig);
}

static void ranges_larger_than_allowed(struct rig *rig)
{
	uint32_t discard = virtio_read(rig->device, VIRTIO_CONFIG + CONFIG_MAX_DISCARD_SECTORS);
	uint32_t zeroes = virtio_read(rig->device, VIRTIO_CONFIG + CONFIG_MAX_WRITE_ZEROES_SECTORS);

	refuse(rig, T_DISCARD, 0, discard + 1, 0);
	refuse(rig, T_WRITE_ZEROES, 0, zeroes + 1, 0);
	refuse(rig, T_WRITE_ZEROES, 0, zeroes + 1, FLAG_UNMAP);
}

static void ranges_for_reading(struct rig *rig)
{
	request(rig, T_DISCARD, 1, rig_sectors(rig) / 2, 8, 0);
	rig_put_header(rig, T_DISCARD, 0);
	rig_put(rig, 1, rig_data(rig), 16, VIRTQ_DESC_NEXT | VIRTQ_DESC_WRITE, 2);
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == S_IOERR, "status",
	       rig->memory->status[0]);
}

static void a_range_in_pieces(struct rig *rig)
{
	request(rig, T_WRITE_ZEROES, 2, rig_sectors(rig) / 2, 8, 0);
	rig_put_header(rig, T_WRITE_ZEROES, 0);
	rig_put(rig, 0, rig_header(rig), 16, VIRTQ_DESC_NEXT, 10);
	for (unsigned int i = 0; i < 32; i++)
		rig_put(rig, 10 + i, rig_data(rig) + i, 1, VIRTQ_DESC_NEXT,
			i == 31 ? 2 : (uint16_t)(11 + i));
	rig_offer(rig, 0);
	rig_notify(rig);
	expect(rig_wait(rig) && rig->memory->status[0] == BLOCK_STATUS_OK, "status",
	       rig->memory->status[0]);
}

static const struct hostile_case cases[] = {
	{ "ranges-that-are-none", ranges_that_are_none, 0 },
	{ "ranges-of-odd-length", ranges_of_odd_length, 0 },
	{ "more-ranges-than-allowed", more_ranges_than_allowed, 0 },
	{ "ranges-larger-than-allowed", ranges_larger_than_allowed, 0 },
	{ "ranges-for-reading", ranges_for_reading, 0 },
	{ "a-range-in-pieces", a_range_in_pieces, 0 },
};

const struct hostile_suite suite_ranges = SUITE("ranges", NEED_BLOCK, false, cases);
