/*
 * The block device under a rate limit, with a clock that the test moves: devices/virtio/block.c.
 * What is over the limit stays in the ring.
 */
#include "virtio_block_fixture.h"

#define MS 1000000ULL
#define S  (1000 * MS)

static uint64_t now_ns;

static uint64_t test_clock(void)
{
	return now_ns;
}

static void limit(struct fixture *f, struct rate_limiter_config config)
{
	virtio_block_set_limits(f->block, &config);
}

static struct rate_limiter_config ops(uint64_t size, uint64_t refill_ms)
{
	return (struct rate_limiter_config) { .has_ops = true, .ops = { size, refill_ms } };
}

static struct rate_limiter_config bandwidth(uint64_t size, uint64_t refill_ms)
{
	return (struct rate_limiter_config) { .has_bandwidth = true,
					      .bandwidth = { size, refill_ms } };
}

static void with_a_clock(void (*body)(struct fixture *f))
{
	static const enum io_engine engines[] = { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct fixture f;

		set_up_with(&f, engines[i], CACHE_WRITEBACK, false);
		now_ns = 99 * S;
		f.driver.loop.clock_ns = test_clock;
		driver_start(&f.driver, USUAL, RING_SIZE);
		body(&f);
		tear_down(&f);
	}
}

/* `count` requests, notified, and all done that the limit lets through now. */
static void offer(struct fixture *f, unsigned int count, uint32_t type, uint32_t bytes)
{
	for (unsigned int n = 0; n < count; n++)
		put_request(f, n, type, n * 8, DATA + 4096 * n, bytes);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
}

/* The time passes, timer by timer. */
static void pass(struct fixture *f, uint64_t duration_ns)
{
	struct loop *loop = &f->driver.loop;
	uint64_t end_ns = now_ns + duration_ns;

	while (loop->timers && loop->timers->at_ns <= end_ns) {
		if (loop->timers->at_ns > now_ns)
			now_ns = loop->timers->at_ns;
		loop_run_timers(loop);
		driver_settle(&f->driver);
	}
	now_ns = end_ns;
}

static unsigned int taken(struct fixture *f)
{
	return f->driver.mmio->queues[0].virtqueue.next_available;
}

/* With io_uring a request is answered a little later than it is taken. */
static unsigned int answered(struct fixture *f)
{
	driver_wait_used(&f->driver, (uint16_t)taken(f));
	return ring_used_index(&f->driver.ring);
}

static void operations_are_counted(struct fixture *f)
{
	limit(f, ops(3, 3000));
	offer(f, 10, VIRTIO_BLK_T_IN, 4096);
	cr_assert_eq(answered(f), 3);
	pass(f, S - 1);
	cr_assert_eq(answered(f), 3);
	pass(f, 1);
	cr_assert_eq(answered(f), 4);
	pass(f, 5 * S);
	cr_assert_eq(answered(f), 9);
	pass(f, 100 * S);
	cr_assert_eq(answered(f), 10);
	cr_assert_null(f->driver.loop.timers, "nothing waits");
	for (unsigned int n = 0; n < 10; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
}

Test(virtio_block_rate, operations_beyond_the_limit_wait_in_the_ring)
{
	with_a_clock(operations_are_counted);
}

static void bytes_are_counted(struct fixture *f)
{
	limit(f, bandwidth(8192, 2000));
	offer(f, 10, VIRTIO_BLK_T_OUT, 4096);
	cr_assert_eq(answered(f), 2);
	pass(f, 4 * S);
	/* One page a second; the last may have borrowed. */
	cr_assert_geq(answered(f), 6);
	cr_assert_leq(answered(f), 7);
	pass(f, 100 * S);
	cr_assert_eq(answered(f), 10);
}

Test(virtio_block_rate, bytes_beyond_the_limit_wait_in_the_ring)
{
	with_a_clock(bytes_are_counted);
}

static void large_request_passes(struct fixture *f)
{
	limit(f, bandwidth(4096, 1000));
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA, 1 << 20);
	put_request(f, 1, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	cr_assert_eq(answered(f), 1);
	pass(f, 255 * S);
	cr_assert_eq(answered(f), 1, "what was borrowed is paid back first");
	pass(f, S);
	cr_assert_eq(answered(f), 2);
}

Test(virtio_block_rate, request_larger_than_the_bucket_passes)
{
	with_a_clock(large_request_passes);
}

static void every_type_counts(struct fixture *f)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = 0, .num_sectors = 8 };

	limit(f, ops(1, 1000));
	memcpy(at(f, DATA, sizeof(range)), &range, sizeof(range));
	put_request(f, 0, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	put_request(f, 1, VIRTIO_BLK_T_GET_ID, 0, DATA + 4096, 20);
	put_request(f, 2, VIRTIO_BLK_T_DISCARD, 0, DATA, sizeof(range));
	put_request(f, 3, 12345, 0, DATA, 512); /* which is refused */
	put_request(f, 4, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, sizeof(range));
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	for (unsigned int n = 1; n <= 5; n++) {
		cr_assert_eq(answered(f), n);
		pass(f, S);
	}
}

Test(virtio_block_rate, flushes_and_all_other_requests_are_operations)
{
	with_a_clock(every_type_counts);
}

static void zeroes_count_as_bytes(struct fixture *f)
{
	struct virtio_blk_discard_write_zeroes range = { .sector = 0, .num_sectors = 16 };

	memcpy(at(f, DATA, sizeof(range)), &range, sizeof(range));
	limit(f, bandwidth(4096, 1000));
	put_request(f, 0, VIRTIO_BLK_T_DISCARD, 0, DATA, sizeof(range));
	put_request(f, 1, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, sizeof(range));
	put_request(f, 2, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	cr_assert_eq(answered(f), 2);
	pass(f, S);
	cr_assert_eq(answered(f), 2);
	pass(f, S);
	cr_assert_eq(answered(f), 3);
}

Test(virtio_block_rate, zeroes_are_bytes_and_discards_are_none)
{
	with_a_clock(zeroes_count_as_bytes);
}

static void change_while_waiting(struct fixture *f)
{
	limit(f, ops(1, 3600000));
	offer(f, 10, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(answered(f), 1);
	limit(f, ops(2, 1000));
	pass(f, 0);
	cr_assert_eq(answered(f), 1, "the new limit starts where the old one was");
	pass(f, S);
	cr_assert_eq(answered(f), 3);
	limit(f, ops(0, 0));
	pass(f, 0);
	cr_assert_eq(answered(f), 10);
}

Test(virtio_block_rate, change_reaches_what_waits)
{
	with_a_clock(change_while_waiting);
}

static void reset_while_waiting(struct fixture *f)
{
	limit(f, ops(2, 2000));
	offer(f, 10, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(answered(f), 2);
	driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
	pass(f, 2 * S);
	cr_assert_eq(status_of(f, 2), NOT_ANSWERED, "the ring is the driver's again");

	/* A reset gives nobody new tokens: two in the bucket after two seconds. */
	driver_start(&f->driver, USUAL, RING_SIZE);
	offer(f, 10, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(answered(f), 2);
	driver_start(&f->driver, USUAL, RING_SIZE);
	offer(f, 10, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(taken(f), 0);
	pass(f, 10 * S);
	cr_assert_eq(answered(f), 10);
}

Test(virtio_block_rate, reset_while_requests_wait)
{
	with_a_clock(reset_while_waiting);
}

static void another_disk_while_waiting(struct fixture *f)
{
	struct error err = { 0 };
	struct disk *disk;

	limit(f, ops(2, 2000));
	offer(f, 4, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(answered(f), 2);
	cr_assert_eq(ftruncate(f->fd, 2 * DISK_BYTES), 0);
	cr_assert_eq(disk_open(&disk, &f->config, VIRTIO_BLOCK_QUEUE_SIZE,
			       virtio_block_disk(f->block), &err),
		     0, "%s", err.message);
	cr_assert_eq(virtio_block_set_disk(f->block, disk, &err), 0, "%s", err.message);
	driver_settle(&f->driver);
	cr_assert_eq(answered(f), 2, "another disk is no way around the limit");
	pass(f, 2 * S);
	cr_assert_eq(answered(f), 4);
}

Test(virtio_block_rate, another_disk_while_requests_wait)
{
	with_a_clock(another_disk_while_waiting);
}

static void notifications_while_waiting(struct fixture *f)
{
	limit(f, ops(1, 1000));
	offer(f, 2, VIRTIO_BLK_T_IN, 512);
	for (unsigned int n = 2; n < 20; n++) {
		put_request(f, n, VIRTIO_BLK_T_IN, 0, DATA, 512);
		ring_publish(&f->driver.ring);
		driver_notify(&f->driver);
		driver_settle(&f->driver);
		cr_assert_eq(answered(f), 1);
	}
	pass(f, 19 * S);
	cr_assert_eq(answered(f), 20);
	cr_assert_eq(counter(&virtio_block_limiter_metrics(f->block)->events), 19);
}

Test(virtio_block_rate, notifications_do_not_put_off_the_timer)
{
	with_a_clock(notifications_while_waiting);
}

static void destroyed_while_waiting(struct fixture *f)
{
	limit(f, ops(1, 1000));
	offer(f, 10, VIRTIO_BLK_T_IN, 512);
	cr_assert_eq(answered(f), 1);
	cr_assert_not_null(f->driver.loop.timers);
}

Test(virtio_block_rate, end_while_requests_wait)
{
	with_a_clock(destroyed_while_waiting);
}
