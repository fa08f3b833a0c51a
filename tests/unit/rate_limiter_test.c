/* The rate limiter with a clock that the test moves: nothing here sleeps. */
#include <criterion/criterion.h>

#include "mayfly/rate_limiter.h"

#define MS 1000000ULL
#define S  (1000 * MS)

static uint64_t now_ns;

static uint64_t test_clock(void)
{
	return now_ns;
}

struct device {
	struct loop loop;
	struct rate_limiter limiter;
	uint64_t piece_bytes;
	uint64_t done_bytes, done_pieces, calls;
};

/* A device that always has work. */
static void work(struct device *device)
{
	while (rate_limiter_admits(&device->limiter)) {
		rate_limiter_take(&device->limiter, 1, device->piece_bytes);
		device->done_bytes += device->piece_bytes;
		device->done_pieces++;
	}
	rate_limiter_wait(&device->limiter);
}

static void on_ready(struct rate_limiter *limiter)
{
	struct device *device = container_of(limiter, struct device, limiter);

	device->calls++;
	work(device);
}

static void set_up(struct device *device, const struct rate_limiter_config *config)
{
	*device = (struct device) { .piece_bytes = 4096 };
	cr_assert_eq(loop_init(&device->loop, NULL), 0);
	now_ns = 77 * S;
	device->loop.clock_ns = test_clock;
	rate_limiter_init(&device->limiter, &device->loop, on_ready, config);
}

static void tear_down(struct device *device)
{
	rate_limiter_destroy(&device->limiter);
	cr_assert_null(device->loop.timers);
	loop_destroy(&device->loop);
}

/* Goes from timer to timer, each late by up to `late_ns`, until the time is over. */
static void run_for(struct device *device, uint64_t duration_ns, uint64_t late_ns)
{
	uint64_t end_ns = now_ns + duration_ns;

	while (device->loop.timers && device->loop.timers->at_ns <= end_ns) {
		cr_assert_geq(device->loop.timers->at_ns + S, now_ns);
		if (device->loop.timers->at_ns > now_ns)
			now_ns = device->loop.timers->at_ns;
		now_ns += late_ns;
		loop_run_timers(&device->loop);
	}
	if (now_ns < end_ns)
		now_ns = end_ns;
}

static void assert_within(uint64_t value, double expected, double share)
{
	cr_assert((double)value >= expected * (1 - share) &&
			  (double)value <= expected * (1 + share),
		  "%llu instead of %.0f", (unsigned long long)value, expected);
}

Test(rate_limiter, without_limits_nothing_waits)
{
	struct device device;

	set_up(&device, NULL);
	for (int i = 0; i < 1000; i++) {
		cr_assert(rate_limiter_admits(&device.limiter));
		rate_limiter_take(&device.limiter, 1, 1ULL << 60);
	}
	cr_assert_eq(rate_limiter_available_bytes(&device.limiter), UINT64_MAX);
	tear_down(&device);
}

Test(rate_limiter, five_seconds_are_within_one_percent)
{
	static const struct {
		struct rate_limiter_config config;
		uint64_t piece;
		double bytes_per_s, late_ns;
	} cases[] = {
		/* 10 MB/s: in big and in small buckets, in small and big pieces, with late timers
		 */
		{ { .has_bandwidth = true, .bandwidth = { 10000000, 1000 } }, 4096, 1e7, 0 },
		{ { .has_bandwidth = true, .bandwidth = { 1000000, 100 } }, 4096, 1e7, 2e6 },
		{ { .has_bandwidth = true, .bandwidth = { 100000, 10 } }, 4096, 1e7, 2e6 },
		{ { .has_bandwidth = true, .bandwidth = { 10000, 1 } }, 4096, 1e7, 1e5 },
		{ { .has_bandwidth = true, .bandwidth = { 1000000, 100 } }, 500000, 1e7, 1e6 },
		{ { .has_bandwidth = true, .bandwidth = { 100000, 10 } }, 500000, 1e7, 1e6 },
		/* 1 GB/s */
		{ { .has_bandwidth = true, .bandwidth = { 100000000, 100 } }, 65536, 1e9, 1e6 },
		/* 1000 and 50 pieces a second; and both kinds, of which the tighter one counts */
		{ { .has_ops = true, .ops = { 1000, 1000 } }, 4096, 4096e3, 1e6 },
		{ { .has_ops = true, .ops = { 5, 100 } }, 4096, 4096 * 50, 1e6 },
		{ { .has_ops = true,
		    .ops = { 100, 100 },
		    .has_bandwidth = true,
		    .bandwidth = { 200000, 100 } },
		  4096,
		  2e6,
		  1e6 },
		{ { .has_ops = true,
		    .ops = { 10, 100 },
		    .has_bandwidth = true,
		    .bandwidth = { 200000, 100 } },
		  4096,
		  409600,
		  1e6 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct device device;

		set_up(&device, &cases[i].config);
		device.piece_bytes = cases[i].piece;
		work(&device);
		run_for(&device, S, (uint64_t)cases[i].late_ns);
		device.done_bytes = device.calls = 0;
		run_for(&device, 5 * S, (uint64_t)cases[i].late_ns);
		/* One piece more or less does not count against it. */
		if (cases[i].piece < 100000)
			assert_within(device.done_bytes, 5 * cases[i].bytes_per_s, 0.01);
		else
			assert_within(device.done_bytes, 5 * cases[i].bytes_per_s, 0.02);
		/* Where the buckets have room for it, several pieces go at once. */
		if (cases[i].config.bandwidth.refill_time != 1)
			cr_assert_leq(device.calls, 5 * 410, "case %zu: woken %llu times", i,
				      (unsigned long long)device.calls);
		tear_down(&device);
	}
}

Test(rate_limiter, burst_passes_at_once_and_once)
{
	struct rate_limiter_config config = { .has_bandwidth = true,
					      .bandwidth = { 40960, 1000, 4096000 } };
	struct device device;

	set_up(&device, &config);
	work(&device);
	cr_assert_eq(device.done_bytes, 40960 + 4096000);
	device.done_bytes = 0;
	run_for(&device, 10 * S, 0);
	assert_within(device.done_bytes, 10 * 40960, 0.01);
	now_ns += 1000 * S;
	device.done_bytes = 0;
	loop_run_timers(&device.loop);
	assert_within(device.done_bytes, 40960, 0.11);
	tear_down(&device);
}

Test(rate_limiter, change_reaches_who_waits_already)
{
	struct rate_limiter_config slow = { .has_bandwidth = true, .bandwidth = { 4096, 3600000 } };
	struct rate_limiter_config fast = { .has_bandwidth = true, .bandwidth = { 4096000, 1000 } };
	struct rate_limiter_config nothing = { 0 };
	struct rate_limiter_config none = { .has_bandwidth = true };
	struct device device;

	set_up(&device, &slow);
	work(&device);
	cr_assert_eq(device.done_pieces, 1);
	run_for(&device, 60 * S, 0);
	cr_assert_eq(device.done_pieces, 2, "it borrows; the next would come in an hour");
	rate_limiter_change(&device.limiter, &nothing);
	run_for(&device, 60 * S, 0);
	cr_assert_eq(device.done_pieces, 2);
	rate_limiter_change(&device.limiter, &fast);
	device.done_bytes = 0;
	run_for(&device, 5 * S, 0);
	assert_within(device.done_bytes, 5 * 4096000.0, 0.01);
	rate_limiter_change(&device.limiter, &none);
	cr_assert(rate_limiter_admits(&device.limiter));
	rate_limiter_destroy(&device.limiter);
	tear_down(&device);
}

Test(rate_limiter, change_leaves_the_bucket_that_it_does_not_name)
{
	struct rate_limiter_config both = { .has_bandwidth = true,
					    .bandwidth = { 40960, 1000 },
					    .has_ops = true,
					    .ops = { 5, 1000 } };
	struct rate_limiter_config ops = { .has_ops = true, .ops = { 0, 0 } };
	struct device device;

	set_up(&device, &both);
	work(&device);
	cr_assert_eq(device.done_pieces, 5);
	rate_limiter_change(&device.limiter, &ops);
	run_for(&device, 0, 0);
	cr_assert_eq(device.done_bytes, 40960, "the bytes are limited as before");
	tear_down(&device);
}

Test(rate_limiter, available_bytes_are_what_both_buckets_allow)
{
	struct rate_limiter_config both = { .has_bandwidth = true,
					    .bandwidth = { 1000, 1000 },
					    .has_ops = true,
					    .ops = { 1, 1000 } };
	struct device device;

	set_up(&device, &both);
	cr_assert_eq(rate_limiter_available_bytes(&device.limiter), 1000);
	rate_limiter_take(&device.limiter, 1, 400);
	cr_assert_eq(rate_limiter_available_bytes(&device.limiter), 0, "no operation is left");
	now_ns += S;
	cr_assert_eq(rate_limiter_available_bytes(&device.limiter), 1000);
	tear_down(&device);
}

Test(rate_limiter, metrics_count_waits_and_calls)
{
	struct rate_limiter_config config = { .has_ops = true, .ops = { 1, 1000 } };
	struct device device;

	set_up(&device, &config);
	work(&device);
	rate_limiter_wait(&device.limiter);
	cr_assert_eq(device.limiter.metrics.throttled, 1, "the same wait");
	run_for(&device, 3 * S, 0);
	cr_assert_eq(device.calls, 3);
	cr_assert_eq(device.limiter.metrics.events, 3);
	cr_assert_eq(device.limiter.metrics.throttled, 4);
	tear_down(&device);
}
