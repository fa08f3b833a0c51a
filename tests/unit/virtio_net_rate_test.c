/*
 * The network device under rate limits, with a clock that the test moves: devices/virtio/net.c.
 * What is over the limit stays in the TAP, or in the ring.
 */
#include "virtio_net_fixture.h"

#define MS 1000000ULL
#define S  (1000 * MS)

static uint64_t now_ns;

static uint64_t test_clock(void)
{
	return now_ns;
}

static void set_up_clock(struct fixture *f)
{
	set_up(f, USUAL);
	now_ns = 42 * S;
	f->driver.loop.clock_ns = test_clock;
}

static void limit(struct fixture *f, unsigned int queue, struct rate_limiter_config config)
{
	virtio_net_set_limits(f->net, queue == RX ? &config : NULL, queue == TX ? &config : NULL);
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

/* The time passes, timer by timer. */
static void pass(struct fixture *f, uint64_t duration_ns)
{
	struct loop *loop = &f->driver.loop;
	uint64_t end_ns = now_ns + duration_ns;

	driver_settle(&f->driver);
	while (loop->timers && loop->timers->at_ns <= end_ns) {
		if (loop->timers->at_ns > now_ns)
			now_ns = loop->timers->at_ns;
		loop_run_timers(loop);
		driver_settle(&f->driver);
	}
	now_ns = end_ns;
}

static uint64_t sent(struct fixture *f)
{
	return atomic_load(&metrics(f)->tx_frames);
}

static uint64_t received(struct fixture *f)
{
	return atomic_load(&metrics(f)->rx_frames);
}

static void put_frames(struct fixture *f, unsigned int count, uint32_t length)
{
	for (unsigned int n = 0; n < count; n++)
		put_frame(f, n, NULL, length);
	transmit(f);
}

static void send_frames(struct fixture *f, unsigned int count, size_t length)
{
	for (unsigned int n = 0; n < count; n++)
		cr_assert(host_sends(f, NULL, length, n));
	pass(f, 0);
}

Test(virtio_net_rate, transmitted_frames_beyond_the_limit_wait_in_the_ring)
{
	struct fixture f;

	set_up_clock(&f);
	limit(&f, TX, ops(3, 3000));
	put_frames(&f, 10, 100);
	cr_assert_eq(sent(&f), 3);
	pass(&f, S - 1);
	cr_assert_eq(sent(&f), 3);
	pass(&f, 1);
	cr_assert_eq(sent(&f), 4);
	pass(&f, 100 * S);
	cr_assert_eq(sent(&f), 10);
	cr_assert_null(f.driver.loop.timers);
	cr_assert_eq(ring_used_index(&f.tx), 10);
	tear_down(&f);
}

Test(virtio_net_rate, received_frames_beyond_the_limit_wait_in_the_tap)
{
	struct fixture f;
	unsigned int reads;

	set_up_clock(&f);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	limit(&f, RX, ops(3, 3000));
	send_frames(&f, 10, 100);
	cr_assert_eq(received(&f), 3);
	cr_assert_not(driver_turn(&f.driver, 0), "the TAP is not looked at meanwhile");
	reads = fake_tap.reads;
	pass(&f, S - 1);
	cr_assert_eq(fake_tap.reads, reads);
	pass(&f, 1);
	cr_assert_eq(received(&f), 4);
	pass(&f, 100 * S);
	cr_assert_eq(received(&f), 10);
	cr_assert_null(f.driver.loop.timers, "nothing waits");
	for (unsigned int n = 0; n < 10; n++)
		cr_assert_eq(ring_take(&f.driver.ring).len, HEADER + 100);
	tear_down(&f);
}

Test(virtio_net_rate, bytes_are_those_of_the_frames)
{
	struct fixture f;

	set_up_clock(&f);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	limit(&f, TX, bandwidth(1000, 1000));
	limit(&f, RX, bandwidth(2000, 1000));
	put_frames(&f, 20, 500);
	send_frames(&f, 20, 500);
	cr_assert_eq(sent(&f), 2);
	cr_assert_eq(received(&f), 4);
	pass(&f, 2 * S);
	/* The last of each may have borrowed. */
	cr_assert(sent(&f) >= 6 && sent(&f) <= 7, "%llu", (unsigned long long)sent(&f));
	cr_assert(received(&f) >= 12 && received(&f) <= 13);
	tear_down(&f);
}

Test(virtio_net_rate, one_direction_does_not_hold_up_the_other)
{
	struct fixture f;

	set_up_clock(&f);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	limit(&f, TX, ops(1, 3600000));
	put_frames(&f, 10, 100);
	send_frames(&f, 10, 100);
	cr_assert_eq(sent(&f), 1);
	cr_assert_eq(received(&f), 10);
	limit(&f, TX, ops(0, 0));
	limit(&f, RX, ops(1, 3600000));
	pass(&f, 0);
	cr_assert_eq(sent(&f), 10);
	send_frames(&f, 5, 100);
	cr_assert_eq(received(&f), 11);
	put_frames(&f, 10, 100);
	cr_assert_eq(sent(&f), 20);
	limit(&f, RX, ops(0, 0));
	pass(&f, 0);
	cr_assert_eq(received(&f), 15);
	tear_down(&f);
}

Test(virtio_net_rate, refused_frames_are_operations)
{
	struct virtio_net_hdr_v1 wrong = { .gso_type = 77 };
	struct fixture f;

	set_up_clock(&f);
	limit(&f, TX, ops(2, 2000));
	for (unsigned int n = 0; n < 5; n++)
		put_frame(&f, n, &wrong, 100);
	transmit(&f);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_malformed), 2);
	pass(&f, 3 * S);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_malformed), 5);
	tear_down(&f);
}

Test(virtio_net_rate, frame_that_the_tap_holds_up_counts_once)
{
	struct fixture f;

	set_up_clock(&f);
	limit(&f, TX, ops(1, 1000));
	fake_tap.write_error = EAGAIN;
	put_frame(&f, 0, NULL, 100);
	ring_publish(&f.tx);
	notify(&f, TX);
	driver_turn(&f.driver, 0);
	cr_assert_eq(sent(&f), 0);
	fake_tap.write_error = 0;
	pass(&f, 0);
	cr_assert_eq(sent(&f), 1);
	put_frame(&f, 1, NULL, 100);
	transmit(&f);
	cr_assert_eq(sent(&f), 1);
	pass(&f, S);
	cr_assert_eq(sent(&f), 2);
	tear_down(&f);
}

Test(virtio_net_rate, reset_while_frames_wait)
{
	struct fixture f;

	set_up_clock(&f);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	limit(&f, TX, ops(1, 1000));
	limit(&f, RX, ops(1, 1000));
	put_frames(&f, 5, 100);
	send_frames(&f, 5, 100);
	cr_assert_eq(sent(&f) + received(&f), 2);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, 0);
	pass(&f, 10 * S);
	cr_assert_eq(sent(&f) + received(&f), 2);
	start(&f, USUAL);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	put_frames(&f, 3, 100);
	cr_assert_eq(sent(&f), 2, "one token after all that time");
	pass(&f, 10 * S);
	cr_assert_eq(sent(&f), 4);
	cr_assert_eq(received(&f), 5);
	tear_down(&f);
}

Test(virtio_net_rate, end_while_frames_wait)
{
	struct fixture f;

	set_up_clock(&f);
	post(&f, 0, 32, 2048);
	notify(&f, RX);
	limit(&f, TX, ops(1, 1000));
	limit(&f, RX, ops(1, 1000));
	put_frames(&f, 5, 100);
	send_frames(&f, 5, 100);
	cr_assert_eq(atomic_load(&virtio_net_tx_limiter_metrics(f.net)->throttled), 1);
	cr_assert_eq(atomic_load(&virtio_net_rx_limiter_metrics(f.net)->throttled), 1);
	tear_down(&f);
	cr_assert_null(f.driver.loop.timers);
}
