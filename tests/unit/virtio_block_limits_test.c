/*
 * What a driver may have with the disk at once, and who waits for it: devices/virtio/block.c and
 * the disk's steps.
 */
#include "virtio_block_fixture.h"

#include "devices/backend/disk_private.h"

#define LARGE_DISK_BYTES (256 * MIB)
#define PART_BYTES	 (8U * (unsigned int)MIB)
#define PARTS		 16 /* into the same memory, again and again */
#define LARGE_BYTES	 ((uint64_t)PARTS * PART_BYTES)
#define REQUESTS	 8

/* A table for each request: header, parts, status. */
static void put_parts(struct fixture *f, unsigned int n, uint32_t type, unsigned int parts)
{
	struct memory *memory = &f->driver.memory;
	uint64_t table = RING_INDIRECT + n * 16ULL * (PARTS + 2);
	uint16_t direction = type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0;

	put_header(f, n, type, 0);
	table_set(memory, table, 0, HEADER + 16ULL * n, 16, VRING_DESC_F_NEXT, 1);
	for (unsigned int i = 1; i <= parts; i++)
		table_set(memory, table, i, 16 * MIB, PART_BYTES, direction | VRING_DESC_F_NEXT,
			  (uint16_t)(i + 1));
	table_set(memory, table, parts + 1, STATUS + n, 1, VRING_DESC_F_WRITE, 0);
	ring_set(&f->driver.ring, n, table, 16 * (parts + 2), VRING_DESC_F_INDIRECT, 0);
	ring_add(&f->driver.ring, (uint16_t)n);
}

static void put_large(struct fixture *f, unsigned int n, uint32_t type)
{
	put_parts(f, n, type, PARTS);
}

/* A live device on a large disk, which is returned. */
static struct disk *set_up_large(struct fixture *f, enum io_engine engine)
{
	struct error err = { 0 };
	struct disk *disk;

	set_up_with(f, engine, CACHE_WRITEBACK, false);
	cr_assert_eq(ftruncate(f->fd, LARGE_DISK_BYTES), 0);
	cr_assert_eq(disk_open(&disk, &f->config, VIRTIO_BLOCK_QUEUE_SIZE,
			       virtio_block_disk(f->block), &err),
		     0, "%s", err.message);
	cr_assert_eq(virtio_block_set_disk(f->block, disk, &err), 0, "%s", err.message);
	driver_start(&f->driver, USUAL, RING_SIZE);
	return disk;
}

static void with_a_large_disk(void (*body)(struct fixture *f))
{
	static const enum io_engine engines[] = { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct fixture f;

		set_up_large(&f, engines[i]);
		body(&f);
		tear_down(&f);
	}
}

static unsigned int taken(struct fixture *f)
{
	return f->driver.mmio->queues[0].virtqueue.next_available;
}

static uint64_t allocated_bytes(struct fixture *f)
{
	struct stat status;

	cr_assert_eq(fstat(f->fd, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static void reset_cuts_short(struct fixture *f)
{
	for (unsigned int n = 0; n < REQUESTS; n++)
		put_large(f, n, VIRTIO_BLK_T_OUT);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	cr_assert(driver_turn(&f->driver, 60000));
	cr_assert_eq(taken(f), 1, "%u", taken(f));
	driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
	cr_assert_lt(allocated_bytes(f), LARGE_BYTES / 2);
	cr_assert_eq(status_of(f, 0), NOT_ANSWERED);

	/* And it lives. */
	driver_start(&f->driver, USUAL, RING_SIZE);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 0, DATA, 4096), VIRTIO_BLK_S_OK);
}

Test(virtio_block_limits, reset_does_not_wait_for_all_that_a_large_request_asks)
{
	with_a_large_disk(reset_cuts_short);
}

static void answers_all(struct fixture *f)
{
	for (unsigned int n = 0; n < REQUESTS; n++)
		put_large(f, n, VIRTIO_BLK_T_IN);
	submit(f);
	for (unsigned int n = 0; n < REQUESTS; n++) {
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
		cr_assert_eq(ring_take(&f->driver.ring).len, LARGE_BYTES + 1);
	}
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->read_bytes), REQUESTS * LARGE_BYTES);
}

Test(virtio_block_limits, what_found_no_room_is_done_afterwards)
{
	with_a_large_disk(answers_all);
}

/*
 * An engine that keeps every request until the test lets it go: what is out at once then does not
 * depend on how quick the disk is.
 */
static struct {
	struct disk *disk;
	struct disk_request *requests[VIRTIO_BLOCK_QUEUE_SIZE];
	unsigned int count;
	unsigned int let_go;
} kept;

static void keep(struct disk *disk, struct disk_request *request)
{
	(void)disk;
	kept.requests[kept.count++] = request;
}

static void commit_nothing(struct disk *disk)
{
	(void)disk;
}

static void finish_let_go(struct disk *disk, bool wait)
{
	unsigned int count = wait ? kept.count : kept.let_go;

	for (unsigned int i = 0; i < count; i++) {
		kept.requests[i]->result = disk->abandoning ? -ECANCELED : 0;
		disk_finish(disk, kept.requests[i]);
	}
	kept.count -= count;
	kept.let_go = 0;
	memmove(kept.requests, kept.requests + count, kept.count * sizeof(kept.requests[0]));
}

static void stop_engine(struct disk *disk)
{
	disk_engine_sync.stop(disk);
}

static const struct disk_engine keeping = {
	.stop = stop_engine,
	.submit = keep,
	.commit = commit_nothing,
	.collect = finish_let_go,
};

static void set_up_keeping(struct fixture *f)
{
	memset(&kept, 0, sizeof(kept));
	kept.disk = set_up_large(f, IO_ENGINE_SYNC);
	kept.disk->engine = &keeping;
}

/* The disk is done with the oldest `count` requests, and the loop turns until all is quiet. */
static void let_go(struct fixture *f, unsigned int count)
{
	cr_assert_leq(count, kept.count);
	kept.let_go = count;
	cr_assert_eq(eventfd_write(disk_completion_fd(kept.disk), 1), 0);
	driver_settle(&f->driver);
}

static void offer(struct fixture *f)
{
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
}

#define MANY	  20
#define OUT_LIMIT (64 * MIB / PART_BYTES)

Test(virtio_block_limits, no_more_than_64_mib_are_out_and_the_rest_waits_in_the_ring)
{
	struct fixture f;

	set_up_keeping(&f);
	for (unsigned int n = 0; n < MANY; n++)
		put_parts(&f, n, VIRTIO_BLK_T_IN, 1);
	offer(&f);
	cr_assert_eq(taken(&f), OUT_LIMIT, "%u are out", taken(&f));
	/* Asking again helps nothing. */
	driver_notify(&f.driver);
	driver_settle(&f.driver);
	cr_assert_eq(taken(&f), OUT_LIMIT);
	/* As many come in as go out, without a word of the driver. */
	let_go(&f, 1);
	cr_assert_eq(taken(&f), OUT_LIMIT + 1);
	let_go(&f, 5);
	cr_assert_eq(taken(&f), OUT_LIMIT + 6);
	cr_assert_eq(kept.count, OUT_LIMIT);
	let_go(&f, OUT_LIMIT);
	cr_assert_eq(taken(&f), MANY);
	let_go(&f, kept.count);
	for (unsigned int n = 0; n < MANY; n++) {
		cr_assert_eq(ring_take(&f.driver.ring).id, n);
		cr_assert_eq(status_of(&f, n), VIRTIO_BLK_S_OK);
	}
	tear_down(&f);
}

Test(virtio_block_limits, request_larger_than_the_limit_goes_alone)
{
	struct fixture f;

	set_up_keeping(&f);
	put_large(&f, 0, VIRTIO_BLK_T_OUT);
	put_parts(&f, 1, VIRTIO_BLK_T_IN, 1);
	offer(&f);
	cr_assert_eq(taken(&f), 1);
	let_go(&f, 1);
	cr_assert_eq(status_of(&f, 0), VIRTIO_BLK_S_OK);
	cr_assert_eq(taken(&f), 2);
	let_go(&f, 1);
	cr_assert_eq(status_of(&f, 1), VIRTIO_BLK_S_OK);
	tear_down(&f);
}

Test(virtio_block_limits, small_requests_are_all_out)
{
	struct fixture f;

	set_up_keeping(&f);
	for (unsigned int n = 0; n < MANY; n++)
		put_request(&f, n, VIRTIO_BLK_T_OUT, n, DATA, 512);
	offer(&f);
	cr_assert_eq(taken(&f), MANY);
	cr_assert_eq(kept.count, MANY);
	tear_down(&f);
}

Test(virtio_block_limits, discards_hold_no_memory_and_do_not_count)
{
	struct virtio_blk_discard_write_zeroes all = { .num_sectors = LARGE_DISK_BYTES / 512 };
	struct fixture f;

	set_up_keeping(&f);
	memcpy(at(&f, DATA, sizeof(all)), &all, sizeof(all));
	for (unsigned int n = 0; n < MANY; n++)
		put_request(&f, n, VIRTIO_BLK_T_DISCARD, 0, DATA, sizeof(all));
	offer(&f);
	cr_assert_eq(taken(&f), MANY, "%u", taken(&f));
	tear_down(&f);
}

Test(virtio_block_limits, reset_forgets_what_was_out)
{
	struct fixture f;

	set_up_keeping(&f);
	for (unsigned int n = 0; n < MANY; n++)
		put_parts(&f, n, VIRTIO_BLK_T_IN, 1);
	offer(&f);
	cr_assert_eq(taken(&f), OUT_LIMIT);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(kept.count, 0);
	driver_settle(&f.driver);
	cr_assert_eq(status_of(&f, 0), NOT_ANSWERED);

	driver_start(&f.driver, USUAL, RING_SIZE);
	for (unsigned int n = 0; n < MANY; n++)
		put_parts(&f, n, VIRTIO_BLK_T_IN, 1);
	offer(&f);
	cr_assert_eq(taken(&f), OUT_LIMIT, "all of the limit is there again");
	tear_down(&f);
}

/* How many of the chains that wait one turn of the loop takes. */
static unsigned int taken_in_one_turn(struct fixture *f)
{
	unsigned int before = taken(f);

	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	cr_assert(driver_turn(&f->driver, 60000));
	return (uint16_t)(taken(f) - before);
}

static void answer_the_rest(struct fixture *f)
{
	driver_wait_used(&f->driver, f->driver.ring.available_index);
	for (unsigned int n = 0; n < MANY; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
}

static void flushes_in_turns(struct fixture *f)
{
	unsigned int first;

	for (unsigned int n = 0; n < MANY; n++)
		put_request(f, n, VIRTIO_BLK_T_FLUSH, 0, DATA, 0);
	first = taken_in_one_turn(f);
	cr_assert_eq(first, 1, "%u", first);
	answer_the_rest(f);
}

Test(virtio_block_limits, flushes_do_not_keep_the_loop_waiting_one_for_all)
{
	with_each_engine(flushes_in_turns);
}

static void durable_in_turns(struct fixture *f, uint32_t type, uint32_t length)
{
	struct virtio_blk_discard_write_zeroes range = { .num_sectors = 8 };
	unsigned int first;

	/* A driver that knows no flush: each write is durable when it is answered. */
	driver_start(&f->driver, USUAL & ~FEATURE(VIRTIO_BLK_F_FLUSH), RING_SIZE);
	memcpy(at(f, DATA, sizeof(range)), &range, sizeof(range));
	for (unsigned int n = 0; n < MANY; n++)
		put_request(f, n, type, 0, DATA, length);
	first = taken_in_one_turn(f);
	cr_assert_eq(first, 1, "%u", first);
	answer_the_rest(f);
}

static void durable_writes_in_turns(struct fixture *f)
{
	durable_in_turns(f, VIRTIO_BLK_T_OUT, 512);
	durable_in_turns(f, VIRTIO_BLK_T_WRITE_ZEROES, 16);
}

Test(virtio_block_limits, nor_do_writes_that_are_made_durable_one_by_one)
{
	with_each_engine(durable_writes_in_turns);
}
