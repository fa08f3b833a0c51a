/*
 * The block device at rest, devices/virtio/block.c: what is in flight is answered, and nothing else
 * is taken until it goes on.
 */
#include "virtio_block_fixture.h"

static struct virtqueue *queue(struct fixture *f)
{
	return &f->driver.mmio->queues[0].virtqueue;
}

static void rests_with_requests(struct fixture *f)
{
	for (unsigned int round = 0; round < 50; round++) {
		uint16_t before = ring_used_index(&f->driver.ring), taken;
		uint8_t *data = at(f, DATA, 16 * 65536);

		for (unsigned int n = 0; n < 16; n++)
			put_request(f, n, VIRTIO_BLK_T_IN, n * 128, DATA + 65536 * n, 65536);
		ring_publish(&f->driver.ring);
		driver_notify(&f->driver);
		if (round % 2)
			driver_turn(&f->driver, 60000); /* submitted; perhaps not finished */
		virtio_block_pause(f->block);
		taken = queue(f)->next_available;
		cr_assert_eq(virtqueue_in_flight(queue(f)), 0);
		cr_assert_eq(ring_used_index(&f->driver.ring), taken,
			     "all that was taken is answered");
		cr_assert_eq((uint16_t)(taken - before), round % 2 ? 16 : 0);
		memset(data, 0x77, 16 * 65536);
		driver_notify(&f->driver);
		driver_settle(&f->driver);
		for (size_t i = 0; i < 16 * 65536; i++)
			cr_assert_eq(data[i], 0x77, "written at rest");
		cr_assert_eq(queue(f)->next_available, taken);

		virtio_block_resume(f->block);
		driver_wait_used(&f->driver, (uint16_t)(before + 16));
		for (unsigned int n = 0; n < 16; n++)
			cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
	}
}

Test(virtio_block_pause, requests_in_flight_are_answered_and_others_wait)
{
	with_each_engine(rests_with_requests);
}

/* Several steps each: ranges, a flush behind them, transfers of several megabytes. */
static void rests_with_large_requests(struct fixture *f)
{
	struct virtio_blk_discard_write_zeroes ranges[] = {
		{ .sector = 0, .num_sectors = 1024 },
		{ .sector = 2048, .num_sectors = 1024 },
		{ .sector = 4096, .num_sectors = 1024 },
	};

	memcpy(at(f, DATA, sizeof(ranges)), ranges, sizeof(ranges));
	put_request(f, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0, DATA, sizeof(ranges));
	put_request(f, 1, VIRTIO_BLK_T_IN, 0, DATA + MIB, DISK_BYTES);
	put_request(f, 2, VIRTIO_BLK_T_FLUSH, 0, 0, 0);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_turn(&f->driver, 60000);
	virtio_block_pause(f->block);
	cr_assert_eq(virtqueue_in_flight(queue(f)), 0);
	virtio_block_resume(f->block);
	driver_wait_used(&f->driver, 3);
	for (unsigned int n = 0; n < 3; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
}

Test(virtio_block_pause, requests_of_many_steps_are_finished)
{
	with_each_engine(rests_with_large_requests);
}

static void interrupts_at_rest(struct fixture *f)
{
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_turn(&f->driver, 60000);
	virtio_block_pause(f->block);
	cr_assert_eq(driver_take_interrupts(&f->driver), 1, "the guest finds it when it goes on");
	virtio_block_resume(f->block);
	driver_settle(&f->driver);
	cr_assert_eq(driver_take_interrupts(&f->driver), 0);
}

Test(virtio_block_pause, the_interrupt_of_the_last_answers_is_sent_once)
{
	with_each_engine(interrupts_at_rest);
}

static void resets_at_rest(struct fixture *f)
{
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f->driver.ring);
	virtio_block_pause(f->block);
	driver_start(&f->driver, USUAL, RING_SIZE);
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_settle(&f->driver);
	cr_assert_eq(status_of(f, 0), NOT_ANSWERED);
	virtio_block_resume(f->block);
	driver_wait_used(&f->driver, 1);
	cr_assert_eq(status_of(f, 0), VIRTIO_BLK_S_OK);
}

Test(virtio_block_pause, a_driver_may_reset_the_device_and_start_it_again)
{
	with_each_engine(resets_at_rest);
}

static void rests_at_a_limit(struct fixture *f)
{
	struct rate_limiter_config one = { .has_ops = true, .ops = { 1, 3600000 } };

	virtio_block_set_limits(f->block, &one);
	for (unsigned int n = 0; n < 4; n++)
		put_request(f, n, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_wait_used(&f->driver, 1);
	driver_settle(&f->driver);
	cr_assert_not_null(f->driver.loop.timers);
	virtio_block_pause(f->block);
	cr_assert_null(f->driver.loop.timers);
	virtio_block_resume(f->block);
	driver_settle(&f->driver);
	cr_assert_not_null(f->driver.loop.timers);
	cr_assert_eq(ring_used_index(&f->driver.ring), 1);
	one.ops.size = 0;
	virtio_block_pause(f->block);
	virtio_block_set_limits(f->block, &one);
	virtio_block_resume(f->block);
	driver_wait_used(&f->driver, 4);
}

Test(virtio_block_pause, limits_do_not_wake_the_device_and_hold_afterwards)
{
	with_each_engine(rests_at_a_limit);
}

static void swaps_at_rest(struct fixture *f)
{
	struct error err = { 0 };
	struct disk *disk;

	virtio_block_pause(f->block);
	cr_assert_eq(ftruncate(f->fd, 2 * DISK_BYTES), 0);
	cr_assert_eq(disk_open(&disk, &f->config, VIRTIO_BLOCK_QUEUE_SIZE,
			       virtio_block_disk(f->block), &err),
		     0, "%s", err.message);
	cr_assert_eq(virtio_block_set_disk(f->block, disk, &err), 0, "%s", err.message);
	cr_assert_eq(driver_take_interrupts(&f->driver), 1);
	virtio_block_resume(f->block);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, DISK_SECTORS, DATA, 512), VIRTIO_BLK_S_OK);
}

Test(virtio_block_pause, the_disk_may_be_swapped)
{
	with_each_engine(swaps_at_rest);
}

static void records_what_it_writes(struct fixture *f)
{
	uint8_t pattern[65536], *copy;

	fill(pattern, sizeof(pattern), 1);
	cr_assert_eq(pwrite(f->fd, pattern, sizeof(pattern), 0), (ssize_t)sizeof(pattern));
	put_request(f, 0, VIRTIO_BLK_T_IN, 0, DATA + 100, 3 * 4096);
	put_request(f, 1, VIRTIO_BLK_T_GET_ID, 0, DATA + 0x20000, 20);
	put_request(f, 2, VIRTIO_BLK_T_OUT, 64, DATA + 0x30000, 4096);
	ring_publish(&f->driver.ring);
	copy = driver_track_memory(&f->driver);
	driver_notify(&f->driver);
	driver_wait_used(&f->driver, 3);
	driver_settle(&f->driver);
	virtio_block_pause(f->block);
	/* Four of data, one of the name, one of all states, one of the ring. */
	cr_assert_eq(driver_assert_recorded(&f->driver, copy), 7);
	free(copy);
}

Test(virtio_block_pause, pages_that_the_device_has_written_are_on_record)
{
	with_each_engine(records_what_it_writes);
}
