/*
 * The block device (virtio 1.2, 5.2), devices/virtio/block_request.c: requests, with both engines.
 */
#include "virtio_block_fixture.h"

/* Data */

static void writes_and_reads(struct fixture *f)
{
	uint8_t *out = at(f, DATA, 65536), *in = at(f, DATA + 65536, 65536);
	const struct virtio_block_metrics *metrics = virtio_block_metrics(f->block);

	fill(out, 65536, 1);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 100, DATA, 65536), VIRTIO_BLK_S_OK);
	cr_assert_eq(f->used_length, 1);
	cr_assert(in_file(f, 51200, out, 65536));
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 100, DATA + 65536, 65536), VIRTIO_BLK_S_OK);
	cr_assert_eq(f->used_length, 65537);
	cr_assert_eq(memcmp(in, out, 65536), 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(f->used_length, 1);
	cr_assert_eq(counter(&metrics->reads), 1);
	cr_assert_eq(counter(&metrics->read_bytes), 65536);
	cr_assert_eq(counter(&metrics->writes), 1);
	cr_assert_eq(counter(&metrics->written_bytes), 65536);
	cr_assert_eq(counter(&metrics->flushes), 1);
}

Test(virtio_block, data_written_is_read_back)
{
	with_each_engine(writes_and_reads);
}

/* 2.7.4: the layout over descriptors is the driver's choice, down to single bytes. */
static void takes_any_layout(struct fixture *f)
{
	struct ring *ring = &f->driver.ring;
	uint8_t *data = at(f, DATA, 1024);
	unsigned int n = 0;

	/* Header in two parts, the second with the first byte of data; data in three; written. */
	put_header(f, 0, VIRTIO_BLK_T_OUT, 8);
	memcpy(at(f, DATA + 0x1000, 16), at(f, HEADER, 16), 16);
	fill(data, 1024, 2);
	*(uint8_t *)at(f, DATA + 0x1010, 1) = data[0];
	ring_set(ring, n, DATA + 0x1000, 5, VRING_DESC_F_NEXT, 1);
	ring_set(ring, ++n, DATA + 0x1005, 12, VRING_DESC_F_NEXT, 2);
	ring_set(ring, ++n, DATA + 1, 511, VRING_DESC_F_NEXT, 3);
	ring_set(ring, ++n, DATA + 512, 512, VRING_DESC_F_NEXT, 4);
	ring_set(ring, ++n, STATUS, 1, VRING_DESC_F_WRITE, 0);
	cr_assert_eq(chain(f), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 8 * 512, data, 1024));

	/* Read: the status in the same descriptor as the end of the data. */
	put_header(f, 0, VIRTIO_BLK_T_IN, 8);
	ring_set(ring, 0, HEADER, 16, VRING_DESC_F_NEXT, 1);
	ring_set(ring, 1, DATA + 0x2000, 1, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 2);
	ring_set(ring, 2, DATA + 0x2001, 1024, VRING_DESC_F_WRITE, 0);
	*(uint8_t *)at(f, DATA + 0x2400, 1) = NOT_ANSWERED;
	chain(f);
	cr_assert_eq(*(uint8_t *)at(f, DATA + 0x2400, 1), VIRTIO_BLK_S_OK);
	cr_assert_eq(f->used_length, 1025);
	cr_assert_eq(memcmp(at(f, DATA + 0x2000, 1024), data, 1024), 0);
}

Test(virtio_block, layout_over_descriptors_is_free)
{
	with_each_engine(takes_any_layout);
}

static void takes_long_indirect_chain(struct fixture *f)
{
	uint8_t *data = at(f, DATA, 254 * 512);

	fill(data, 254 * 512, 3);
	put_header(f, 0, VIRTIO_BLK_T_OUT, 0);
	table_set(&f->driver.memory, RING_INDIRECT, 0, HEADER, 16, VRING_DESC_F_NEXT, 1);
	for (unsigned int i = 0; i < 254; i++) /* SEG_MAX */
		table_set(&f->driver.memory, RING_INDIRECT, i + 1, DATA + (253 - i) * 512, 512,
			  VRING_DESC_F_NEXT, (uint16_t)(i + 2));
	table_set(&f->driver.memory, RING_INDIRECT, 255, STATUS, 1, VRING_DESC_F_WRITE, 0);
	ring_set(&f->driver.ring, 0, RING_INDIRECT, 16 * 256, VRING_DESC_F_INDIRECT, 0);
	cr_assert_eq(chain(f), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 0, data + 253 * 512, 512));
	cr_assert(in_file(f, 253 * 512, data, 512));
}

Test(virtio_block, request_of_seg_max_segments_is_done)
{
	with_each_engine(takes_long_indirect_chain);
}

static void does_a_batch(struct fixture *f)
{
	const struct virtio_block_metrics *metrics = virtio_block_metrics(f->block);
	unsigned int count = RING_SIZE / 3;

	fill(at(f, DATA, 4096 * 32), 4096 * 32, 4);
	for (unsigned int n = 0; n < count; n++)
		put_request(f, n, VIRTIO_BLK_T_OUT, n * 8, DATA + 4096 * n, 4096);
	*ring_used_event(&f->driver.ring) = (uint16_t)(count - 1); /* when all are done */
	submit(f);
	cr_assert_eq(driver_take_interrupts(&f->driver), 1);
	cr_assert_eq(counter(&metrics->writes), count);
	for (unsigned int n = 0; n < count; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 0, at(f, DATA, 4096 * count), 4096 * count));
	cr_assert_eq(*ring_available_event(&f->driver.ring), count);
}

Test(virtio_block, batch_needs_one_interrupt)
{
	with_each_engine(does_a_batch);
}

/*
 * More than the device takes on at once: the rest waits in the ring, and nothing is forgotten
 * there.
 */
static void does_more_than_it_takes_on(struct fixture *f)
{
	unsigned int count = RING_SIZE / 3;

	fill(at(f, DATA, 4 * MIB), 4 * MIB, 5);
	for (unsigned int n = 0; n < count; n++) /* 84 MiB */
		put_request(f, n, n % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 0,
			    DATA + n % 2 * 4 * MIB, 4 * MIB);
	submit(f);
	for (unsigned int n = 0; n < count; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK, "request %u", n);
	cr_assert(in_file(f, 0, at(f, DATA, 4 * MIB), 4 * MIB));
}

Test(virtio_block, more_work_than_one_turn_takes_is_done)
{
	with_each_engine(does_more_than_it_takes_on);
}

/* A look at it takes longer than any request should. */
static uint64_t slow_clock(void)
{
	static uint64_t now_ns;

	return now_ns += 400000;
}

/*
 * Where requests wait for the host's disk, a turn is over when its time is, however little they
 * move.
 */
Test(virtio_block, requests_that_wait_end_the_turn_by_the_clock)
{
	unsigned int count = RING_SIZE / 3;
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	f.driver.loop.clock_ns = slow_clock;
	for (unsigned int n = 0; n < count; n++)
		put_request(&f, n, VIRTIO_BLK_T_IN, n, DATA + 512 * n, 512);
	ring_publish(&f.driver.ring);
	driver_notify(&f.driver);
	for (unsigned int used = 0; used < count; used = ring_used_index(&f.driver.ring)) {
		cr_assert(driver_turn(&f.driver, 60000));
		cr_assert_gt(ring_used_index(&f.driver.ring), used, "each turn does something");
		cr_assert_leq(ring_used_index(&f.driver.ring), used + 3, "in 1 ms");
	}
	for (unsigned int n = 0; n < count; n++)
		cr_assert_eq(status_of(&f, n), VIRTIO_BLK_S_OK, "request %u", n);
	tear_down(&f);
}

/* All descriptors are with the device, and the ring claims one chain more. */
static void survives_full_ring(struct fixture *f)
{
	const uint16_t size = VIRTIO_BLOCK_QUEUE_SIZE;

	driver_start(&f->driver, USUAL, size);
	for (unsigned int n = 0; n < size; n++) {
		uint64_t table = RING_INDIRECT + 48ULL * n;

		put_header(f, n, VIRTIO_BLK_T_IN, 0);
		table_set(&f->driver.memory, table, 0, HEADER + 16ULL * n, 16, VRING_DESC_F_NEXT,
			  1);
		table_set(&f->driver.memory, table, 1, DATA, 64 * KIB,
			  VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
		table_set(&f->driver.memory, table, 2, STATUS + n, 1, VRING_DESC_F_WRITE, 0);
		ring_set(&f->driver.ring, n, table, 48, VRING_DESC_F_INDIRECT, 0);
		ring_add(&f->driver.ring, (uint16_t)n);
	}
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_turn(&f->driver, 60000);
	ring_offer(&f->driver.ring, 0);
	driver_notify(&f->driver);
	/*
	 * A rule is broken or not, as the disk was faster or slower; but all that was right is
	 * answered.
	 */
	while (ring_used_index(&f->driver.ring) < size)
		cr_assert(driver_turn(&f->driver, 60000), "the device does not answer");
	driver_settle(&f->driver);
	for (unsigned int n = 1; n < size; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
}

Test(virtio_block, ring_that_claims_one_too_many_is_survived)
{
	with_each_engine(survives_full_ring);
}

static void wraps(struct fixture *f)
{
	for (unsigned int i = 0; i < 66000; i += 20) {
		for (unsigned int n = 0; n < 20; n++)
			put_request(f, n, n % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_GET_ID, n, DATA,
				    512);
		submit(f);
		for (unsigned int n = 0; n < 20; n++)
			cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
	}
}

Test(virtio_block, rings_go_round_at_65536)
{
	with_each_engine(wraps);
}

static void gives_its_id(struct fixture *f)
{
	memset(at(f, DATA, 64), 0xee, 64);
	cr_assert_eq(request(f, VIRTIO_BLK_T_GET_ID, 0, DATA, 20), VIRTIO_BLK_S_OK);
	cr_assert_eq(f->used_length, 21);
	cr_assert_eq(memcmp(at(f, DATA, 20), "the_root_file_system", 20), 0);
	cr_assert_eq(*(uint8_t *)at(f, DATA + 20, 1), 0xee);
	cr_assert_eq(request(f, VIRTIO_BLK_T_GET_ID, 0, DATA, 19), VIRTIO_BLK_S_IOERR);
}

Test(virtio_block, get_id_gives_the_drive_id)
{
	with_each_engine(gives_its_id);
}

/* Discard and write zeroes */

static void put_range(struct fixture *f, unsigned int index, uint64_t sector, uint32_t sectors,
		      uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes range = { sector, sectors, flags };

	memcpy(at(f, DATA + 16ULL * index, 16), &range, 16);
}

static uint64_t allocated(struct fixture *f)
{
	struct stat status;

	cr_assert_eq(fstat(f->fd, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static void discards(struct fixture *f)
{
	uint8_t *data = at(f, DATA + 0x10000, 4 * MIB), zeros[512] = { 0 };
	uint64_t full;

	fill(data, 4 * MIB, 6);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 0, DATA + 0x10000, 4 * MIB), VIRTIO_BLK_S_OK);
	cr_assert_eq(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
	full = allocated(f);
	put_range(f, 0, 0, 2048, 0);
	put_range(f, 1, 4096, 2048, 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_DISCARD, 0, DATA, 32), VIRTIO_BLK_S_OK);
	cr_assert_leq(allocated(f), full - 2 * MIB + 64 * KIB, "the file shrinks");
	cr_assert(in_file(f, 1 * MIB, data + 1 * MIB, 1 * MIB), "what is between stays");
	put_range(f, 0, 2049, 5, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP);
	put_range(f, 1, 2060, 1, 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 32), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 2048 * 512, data + 2048 * 512, 512));
	cr_assert(in_file(f, 2053 * 512, zeros, 512));
	cr_assert(in_file(f, 2054 * 512, data + 2054 * 512, 6 * 512));
	cr_assert(in_file(f, 2060 * 512, zeros, 512));
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->discarded_bytes), 2 * MIB);
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->write_zeroes_bytes), 6 * 512);
}

Test(virtio_block, discard_gives_the_file_back_and_zeroes_are_zero)
{
	with_each_engine(discards);
}

static void refuses_bad_ranges(struct fixture *f)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t sectors, flags;
		uint8_t status;
	} cases[] = {
		{ VIRTIO_BLK_T_DISCARD, 0, 1, 1,
		  VIRTIO_BLK_S_UNSUPP }, /* unmap means nothing there */
		{ VIRTIO_BLK_T_DISCARD, 0, 1, 2, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 0x80000001, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_DISCARD, 0, 0, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, DISK_SECTORS, 1, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, DISK_SECTORS - 1, 2, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_DISCARD, 0, 0xffffffff, 0, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_WRITE_ZEROES, 1ULL << 55, 1, 0, VIRTIO_BLK_S_IOERR },
	};
	uint8_t *data = at(f, DATA + 0x10000, 512);

	fill(data, 512, 7);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 1, DATA + 0x10000, 512), VIRTIO_BLK_S_OK);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		put_range(f, 0, 1, 1, 0); /* a good one first: it must not be done either */
		put_range(f, 1, cases[i].sector, cases[i].sectors, cases[i].flags);
		cr_assert_eq(request(f, cases[i].type, 0, DATA, 32), cases[i].status, "case %zu",
			     i);
		cr_assert(in_file(f, 512, data, 512), "case %zu", i);
	}
	cr_assert_eq(request(f, VIRTIO_BLK_T_DISCARD, 0, DATA, 15), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(f, VIRTIO_BLK_T_DISCARD, 0, DATA, 17 * 16), VIRTIO_BLK_S_IOERR,
		     "one range too many");
	cr_assert_eq(request(f, VIRTIO_BLK_T_DISCARD, 0, 0, 0), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), ALIVE);
}

Test(virtio_block, bad_ranges_are_refused_as_a_whole)
{
	with_each_engine(refuses_bad_ranges);
}

/* Requests that are refused with a status */

static void refuses_bad_requests(struct fixture *f)
{
	const struct virtio_block_metrics *metrics = virtio_block_metrics(f->block);
	struct ring *ring = &f->driver.ring;

	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, DISK_SECTORS - 1, DATA, 512), VIRTIO_BLK_S_OK,
		     "the last sector");
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, DISK_SECTORS, DATA, 512), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(f->used_length, 1);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, DISK_SECTORS - 1, DATA, 1024), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, UINT64_MAX, DATA, 1024), VIRTIO_BLK_S_IOERR,
		     "wraps");
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 1ULL << 55, DATA, 512), VIRTIO_BLK_S_IOERR,
		     "wraps in bytes");
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 511), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 0, DATA, 513), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 0, 0, 0), VIRTIO_BLK_S_IOERR, "nothing to write");
	cr_assert_eq(counter(&metrics->invalid), 7);
	cr_assert_eq(request(f, 2, 0, DATA, 512), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(request(f, 14, 0, DATA, 16), VIRTIO_BLK_S_UNSUPP,
		     "secure erase is not offered");
	cr_assert_eq(request(f, 0x80000000, 0, DATA, 512), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(counter(&metrics->unsupported), 3);

	/* Data in the wrong direction. */
	put_request(f, 0, VIRTIO_BLK_T_OUT, 0, DATA, 512);
	ring_set(ring, 1, DATA, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	ring->available_index--;
	cr_assert_eq(chain(f), VIRTIO_BLK_S_IOERR);
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_set(ring, 1, DATA, 512, VRING_DESC_F_NEXT, 2);
	ring->available_index--;
	cr_assert_eq(chain(f), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), ALIVE);
	cr_assert_eq(counter(&metrics->io_errors), 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK, "and on it goes");
}

Test(virtio_block, bad_requests_are_answered_with_a_status)
{
	with_each_engine(refuses_bad_requests);
}

static void survives_shrinking(struct fixture *f)
{
	char path[] = "/var/tmp/mayfly-block-log.XXXXXX", line[512] = "";
	struct error err = { 0 };
	int log = mkstemp(path);

	f->driver.log.level = LOG_WARN;
	cr_assert_eq(log_open(&f->driver.log, path, &err), 0, "%s", err.message);
	cr_assert_eq(ftruncate(f->fd, 512), 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 1024), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 100, DATA, 512), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->io_errors), 2);
	cr_assert_gt(read(log, line, sizeof(line) - 1), 0);
	cr_assert(
		strstr(line, "drive the_root_file_system_of_a_guest: read at sector 0, 1024 bytes"),
		"it says: %s", line);
	close(log);
	unlink(path);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), ALIVE);
}

Test(virtio_block, file_that_became_shorter_gives_io_errors)
{
	with_each_engine(survives_shrinking);
}

Test(virtio_block, read_only_drive_refuses_writes)
{
	struct fixture f;
	uint8_t zeros[512] = { 0 };
	uint64_t features;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, true);
	features = driver_offered_features(&f.driver);
	cr_assert(features & FEATURE(VIRTIO_BLK_F_RO));
	cr_assert_not(features &
		      (FEATURE(VIRTIO_BLK_F_DISCARD) | FEATURE(VIRTIO_BLK_F_WRITE_ZEROES)));
	driver_start(&f.driver, FEATURE(VIRTIO_BLK_F_RO), RING_SIZE);
	memset(at(&f, DATA, 512), 0x55, 512);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_IOERR);
	put_range(&f, 0, 0, 1, 0);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_DISCARD, 0, DATA, 16), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 16), VIRTIO_BLK_S_IOERR);
	cr_assert_eq(counter(&virtio_block_metrics(f.block)->invalid), 3,
		     "by the device, not the host");
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(memcmp(at(&f, DATA, 512), zeros, 512), 0);
	tear_down(&f);
}

Test(virtio_block, unsafe_cache_offers_no_flush)
{
	struct fixture f;
	struct error err = { 0 };

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_UNSAFE, false);
	cr_assert_not(driver_offered_features(&f.driver) & FEATURE(VIRTIO_BLK_F_FLUSH));
	driver_start(&f.driver, 0, RING_SIZE);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_UNSUPP);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_OUT, 0, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(virtio_block_flush(f.block, &err), 0);
	tear_down(&f);
}

static void works_write_through(struct fixture *f)
{
	driver_start(&f->driver, 0, RING_SIZE); /* anew, without FLUSH */
	fill(at(f, DATA, 512), 512, 8);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 3, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 3 * 512, at(f, DATA, 512), 512));
	put_range(f, 0, 3, 1, 0);
	cr_assert_eq(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, 16), VIRTIO_BLK_S_OK);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 3, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(*(uint8_t *)at(f, DATA, 1), 0);
}

Test(virtio_block, driver_without_flush_gets_durable_writes)
{
	with_each_engine(works_write_through);
}

/* Chains that are no requests break the device, and only it */

static void is_broken_by(struct fixture *f)
{
	const struct virtio_block_metrics *metrics = virtio_block_metrics(f->block);
	uint64_t before = counter(&metrics->malformed);

	ring_offer(&f->driver.ring, 0);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS),
		     ALIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert(driver_get(&f->driver, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	cr_assert_eq(counter(&metrics->malformed), before + 1);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	cr_assert_eq(counter(&metrics->malformed), before + 1, "it has stopped");
	driver_start(&f->driver, USUAL, RING_SIZE);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK,
		     "a reset mends it");
}

static void breaks(struct fixture *f)
{
	struct ring *ring = &f->driver.ring;

	put_header(f, 0, VIRTIO_BLK_T_IN, 0);
	ring_set(ring, 0, HEADER, 16, 0, 0); /* no status */
	is_broken_by(f);
	ring_set(ring, 0, HEADER, 15, VRING_DESC_F_NEXT, 1); /* short header */
	ring_set(ring, 1, STATUS, 1, VRING_DESC_F_WRITE, 0);
	is_broken_by(f);
	ring_set(ring, 0, STATUS, 1, VRING_DESC_F_WRITE, 0); /* no header */
	is_broken_by(f);
	ring_set(ring, 0, 64 * MIB, 16, 0, 0); /* outside memory */
	is_broken_by(f);
	ring_set(ring, 0, HEADER, 16, VRING_DESC_F_NEXT, 0); /* a loop */
	is_broken_by(f);
}

Test(virtio_block, chain_that_is_no_request_breaks_the_device_until_reset)
{
	with_each_engine(breaks);
}

static void finishes_what_came_before(struct fixture *f)
{
	fill(at(f, DATA, 4096), 4096, 9);
	put_request(f, 0, VIRTIO_BLK_T_OUT, 0, DATA, 4096);
	ring_add(&f->driver.ring, RING_SIZE); /* no such descriptor */
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_wait_used(&f->driver, 1);
	cr_assert_eq(status_of(f, 0), VIRTIO_BLK_S_OK);
	cr_assert(in_file(f, 0, at(f, DATA, 4096), 4096));
	cr_assert(driver_get(&f->driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

Test(virtio_block, requests_before_a_broken_one_are_done)
{
	with_each_engine(finishes_what_came_before);
}
