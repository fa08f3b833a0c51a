/*
 * The network device at rest: devices/virtio/net.c, and the parts of it in net_receive.c and
 * net_transmit.c. Nothing moves, nothing is lost, and the rings are as if nothing had been taken
 * ahead.
 */
#include <fcntl.h>

#include "virtio_net_fixture.h"

static struct virtqueue *queue(struct fixture *f, unsigned int index)
{
	return &f->driver.mmio->queues[index].virtqueue;
}

static void assert_nothing_out(struct fixture *f)
{
	cr_assert_eq(virtqueue_in_flight(queue(f, RX)), 0);
	cr_assert_eq(virtqueue_in_flight(queue(f, TX)), 0);
}

Test(virtio_net_pause, tap_is_not_read_and_frames_come_afterwards)
{
	struct fixture f;
	unsigned int reads;

	set_up(&f, USUAL);
	post(&f, 0, 16, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	virtio_net_pause(f.net);
	reads = fake_tap.reads;
	for (unsigned int n = 0; n < 5; n++)
		cr_assert(host_sends(&f, NULL, 100, n));
	cr_assert_not(driver_turn(&f.driver, 0), "the TAP is waited for");
	notify(&f, RX);
	driver_settle(&f.driver);
	cr_assert_eq(fake_tap.reads, reads);
	cr_assert_eq(ring_used_index(&f.driver.ring), 0);
	assert_nothing_out(&f);

	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.driver.ring), 5);
	for (unsigned int n = 0; n < 5; n++)
		assert_received(&f, 100, n);
	tear_down(&f);
}

Test(virtio_net_pause, guest_memory_is_not_written_even_by_buffers_taken_ahead)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 16, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	virtio_net_pause(f.net);
	memset(at(&f, RX_BUFFER(0), 16 * 0x1000), 0x77, 16 * 0x1000);
	cr_assert(host_sends(&f, NULL, 1000, 3));
	driver_settle(&f.driver);
	for (uint64_t i = 0; i < 16 * 0x1000; i++)
		cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(0) + i, 1), 0x77);
	tear_down(&f);
}

Test(virtio_net_pause, frames_of_the_guest_wait_in_the_ring)
{
	struct fixture f;
	uint8_t message[HEADER + 200];

	set_up(&f, USUAL);
	virtio_net_pause(f.net);
	put_frame(&f, 0, NULL, 200);
	transmit(&f);
	cr_assert_eq(fake_tap.writes, 0);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)sizeof(message));
	cr_assert_eq(ring_used_index(&f.tx), 1);
	tear_down(&f);
}

Test(virtio_net_pause, frame_without_a_notification_is_found_on_resume)
{
	struct fixture f;

	set_up(&f, USUAL);
	put_frame(&f, 0, NULL, 200);
	ring_publish(&f.tx);
	virtio_net_pause(f.net);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(fake_tap.writes, 1);
	tear_down(&f);
}

Test(virtio_net_pause, frame_that_waits_for_buffers_is_kept_whole)
{
	static const unsigned int rests[] = { 0, 1, 3 };

	for (size_t i = 0; i < ARRAY_SIZE(rests); i++) {
		struct fixture f;

		set_up(&f, USUAL);
		/* It has had more buffers than now: some more may come. */
		post(&f, 0, 8, 1024);
		notify(&f, RX);
		cr_assert(host_sends(&f, NULL, (8 - rests[i]) * 1024 - HEADER, 1));
		driver_settle(&f.driver);
		assert_received(&f, (8 - rests[i]) * 1024 - HEADER, 1);
		cr_assert(host_sends(&f, NULL, 5000, 2));
		driver_settle(&f.driver);
		for (unsigned int round = 0; round < 3; round++) {
			virtio_net_pause(f.net);
			assert_nothing_out(&f);
			memset(at(&f, RX_BUFFER(0), 8 * 0x1000), 0x77, 8 * 0x1000);
			driver_settle(&f.driver);
			virtio_net_resume(f.net);
			driver_settle(&f.driver);
		}
		cr_assert_eq(f.driver.ring.used_seen, ring_used_index(&f.driver.ring));
		post(&f, 8, 8, 1024);
		notify(&f, RX);
		driver_settle(&f.driver);
		assert_received(&f, 5000, 2);
		cr_assert_eq(atomic_load(&metrics(&f)->rx_no_room), 0);
		tear_down(&f);
	}
}

Test(virtio_net_pause, frame_that_the_wire_has_no_room_for_is_in_the_ring_again)
{
	struct fixture f;
	unsigned int received = 0;
	uint8_t message[HEADER + 4000];

	set_up(&f, USUAL);
	for (unsigned int n = 0; n < RING_SIZE; n++)
		put_frame(&f, n, NULL, 4000);
	transmit(&f);
	cr_assert_lt(ring_used_index(&f.tx), RING_SIZE, "the socket takes all");
	virtio_net_pause(f.net);
	assert_nothing_out(&f);
	cr_assert_not(driver_turn(&f.driver, 0));
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	while (host_receives(&f, message, sizeof(message)) > 0) {
		cr_assert_eq(message[HEADER + 100], pattern(100, received), "frame %u", received);
		received++;
		driver_settle(&f.driver);
	}
	cr_assert_eq(received, RING_SIZE);
	cr_assert_eq(ring_used_index(&f.tx), RING_SIZE);
	tear_down(&f);
}

Test(virtio_net_pause, a_driver_may_reset_the_device_and_start_it_again)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 9000, 1));
	driver_settle(&f.driver);
	virtio_net_pause(f.net);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, 0);
	driver_settle(&f.driver);
	start(&f, USUAL);
	post(&f, 0, 4, 2048);
	cr_assert(host_sends(&f, NULL, 100, 2));
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.driver.ring), 0);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	assert_received(&f, 100, 2);
	tear_down(&f);
}

Test(virtio_net_pause, limits_do_not_wake_the_device_and_hold_afterwards)
{
	struct fixture f;
	struct rate_limiter_config one = { .has_ops = true, .ops = { 1, 3600000 } };

	set_up(&f, USUAL);
	virtio_net_set_limits(f.net, &one, &one);
	post(&f, 0, 16, 2048);
	notify(&f, RX);
	for (unsigned int n = 0; n < 4; n++) {
		cr_assert(host_sends(&f, NULL, 100, n));
		put_frame(&f, n, NULL, 100);
	}
	transmit(&f);
	driver_settle(&f.driver);
	cr_assert_not_null(f.driver.loop.timers);
	virtio_net_pause(f.net);
	cr_assert_null(f.driver.loop.timers);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_not_null(f.driver.loop.timers);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_frames), 1);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_frames), 1);

	/* Lifted while at rest. */
	virtio_net_pause(f.net);
	one.ops.size = 0;
	virtio_net_set_limits(f.net, &one, &one);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_frames), 4);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_frames), 4);
	tear_down(&f);
}

Test(virtio_net_pause, a_device_that_no_driver_has_started_rests_as_well)
{
	struct fixture f;

	set_up_with(&f, 0, true);
	cr_assert(host_sends(&f, NULL, 100, 1));
	virtio_net_pause(f.net);
	driver_settle(&f.driver);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(fake_tap.reads, 0);
	start(&f, USUAL);
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_received(&f, 100, 1);
	tear_down(&f);
}

Test(virtio_net_pause, a_tap_that_is_deleted_meanwhile_takes_the_link_down)
{
	struct fixture f;

	set_up(&f, USUAL);
	virtio_net_pause(f.net);
	close(f.host); /* as with a TAP: EPOLLHUP */
	driver_settle(&f.driver);
	cr_assert_not(driver_turn(&f.driver, 0));
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(driver_read(&f.driver,
				 VIRTIO_MMIO_CONFIG + offsetof(struct virtio_net_config, status),
				 2),
		     0);
	f.host = open("/dev/null", O_RDONLY | O_CLOEXEC);
	tear_down(&f);
}

/* Buffers that were taken ahead are taken anew behind a pause, and so is their place on record. */
Test(virtio_net_pause, pages_that_the_device_has_written_are_on_record)
{
	struct fixture f;
	uint8_t *copy;

	set_up(&f, USUAL);
	post(&f, 0, RING_SIZE, 4096);
	notify(&f, RX);
	driver_settle(&f.driver);
	for (unsigned int round = 0; round < 3; round++) {
		virtio_net_pause(f.net);
		put_frame(&f, round, NULL, 100);
		ring_publish(&f.tx);
		copy = driver_track_memory(&f.driver);
		virtio_net_resume(f.net);
		driver_settle(&f.driver);
		cr_assert(host_sends(&f, NULL, 100 + 9000 * round, round));
		driver_settle(&f.driver);
		virtio_net_pause(f.net);
		cr_assert_gt(driver_assert_recorded(&f.driver, copy), 2 + 2 * round);
		virtio_net_resume(f.net);
		driver_settle(&f.driver);
		free(copy);
	}
	cr_assert_eq(atomic_load(&metrics(&f)->rx_frames), 3);
	tear_down(&f);
}
