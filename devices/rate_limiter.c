/*
 * The rate limiter: see include/mayfly/rate_limiter.h.
 *
 * Who waits is not called for every single token: a disk of 100 MiB/s would be woken 25,000 times a
 * second for pages. The timer waits until there is what WAKE_NS brings, and that then goes out at
 * once. So that a late call loses nothing, a bucket is never let run more than to a quarter full
 * meanwhile.
 */
#include <stdio.h>

#include "mayfly/rate_limiter.h"

#define WAKE_NS	   4000000
#define WAKE_SHARE 4

__extension__ typedef unsigned __int128 uint128;

static void handle_timer(struct loop_timer *timer)
{
	struct rate_limiter *limiter = container_of(timer, struct rate_limiter, timer);

	atomic_fetch_add_explicit(&limiter->metrics.events, 1, memory_order_relaxed);
	limiter->on_ready(limiter);
}

void rate_limiter_init(struct rate_limiter *limiter, struct loop *loop,
		       void (*on_ready)(struct rate_limiter *),
		       const struct rate_limiter_config *config)
{
	*limiter = (struct rate_limiter) {
		.loop = loop,
		.timer = { .handler = handle_timer },
		.on_ready = on_ready,
	};
	if (config && config->has_bandwidth)
		token_bucket_init(&limiter->bandwidth, &config->bandwidth);
	if (config && config->has_ops)
		token_bucket_init(&limiter->ops, &config->ops);
}

void rate_limiter_stop(struct rate_limiter *limiter)
{
	loop_timer_cancel(limiter->loop, &limiter->timer);
}

void rate_limiter_destroy(struct rate_limiter *limiter)
{
	if (limiter->loop)
		loop_timer_cancel(limiter->loop, &limiter->timer);
}

void rate_limiter_change(struct rate_limiter *limiter, const struct rate_limiter_config *update)
{
	uint64_t now_ns = loop_now_ns(limiter->loop);

	if (update->has_bandwidth)
		token_bucket_change(&limiter->bandwidth, &update->bandwidth, now_ns);
	if (update->has_ops)
		token_bucket_change(&limiter->ops, &update->ops, now_ns);
	if (limiter->timer.armed)
		loop_timer_set(limiter->loop, &limiter->timer, now_ns);
}

void rate_limiter_save(const struct rate_limiter *limiter, struct state_writer *writer)
{
	uint64_t now_ns = loop_now_ns(limiter->loop);

	token_bucket_save(&limiter->bandwidth, now_ns, writer);
	token_bucket_save(&limiter->ops, now_ns, writer);
}

void rate_limiter_restore(struct rate_limiter *limiter, const char *name,
			  struct state_section *section)
{
	uint64_t now_ns = loop_now_ns(limiter->loop);
	char field[STATE_MAX_FIELD_BYTES];

	snprintf(field, sizeof(field), "%s bandwidth", name);
	token_bucket_restore(&limiter->bandwidth, now_ns, field, section);
	snprintf(field, sizeof(field), "%s ops", name);
	token_bucket_restore(&limiter->ops, now_ns, field, section);
}

static bool limits_nothing(const struct rate_limiter *limiter)
{
	return !token_bucket_is_limited(&limiter->bandwidth) &&
	       !token_bucket_is_limited(&limiter->ops);
}

bool rate_limiter_admits(const struct rate_limiter *limiter)
{
	uint64_t now_ns;

	if (limits_nothing(limiter))
		return true;
	now_ns = loop_now_ns(limiter->loop);
	return token_bucket_is_ready(&limiter->bandwidth, now_ns) &&
	       token_bucket_is_ready(&limiter->ops, now_ns);
}

uint64_t rate_limiter_available_bytes(const struct rate_limiter *limiter)
{
	uint64_t now_ns;

	if (limits_nothing(limiter))
		return UINT64_MAX;
	now_ns = loop_now_ns(limiter->loop);
	if (!token_bucket_is_ready(&limiter->ops, now_ns))
		return 0;
	return token_bucket_available(&limiter->bandwidth, now_ns);
}

void rate_limiter_take(struct rate_limiter *limiter, uint64_t ops, uint64_t bytes)
{
	uint64_t now_ns;

	if (limits_nothing(limiter))
		return;
	now_ns = loop_now_ns(limiter->loop);
	token_bucket_take(&limiter->bandwidth, bytes, now_ns);
	token_bucket_take(&limiter->ops, ops, now_ns);
}

/* When the bucket has what a wake-up should find; with a token there already, that is the past. */
static uint64_t wake_at(const struct token_bucket *bucket, uint64_t now_ns)
{
	uint64_t share_ns = bucket->refill_ns / WAKE_SHARE;
	uint64_t batch_ns = share_ns < WAKE_NS ? share_ns : WAKE_NS;

	if (token_bucket_is_ready(bucket, now_ns))
		return now_ns;
	return token_bucket_ready_at(
		bucket, (uint64_t)((uint128)bucket->size * batch_ns / bucket->refill_ns));
}

void rate_limiter_wait(struct rate_limiter *limiter)
{
	uint64_t now_ns = loop_now_ns(limiter->loop);
	uint64_t bandwidth_ns = wake_at(&limiter->bandwidth, now_ns);
	uint64_t ops_ns = wake_at(&limiter->ops, now_ns);

	if (!limiter->timer.armed)
		atomic_fetch_add_explicit(&limiter->metrics.throttled, 1, memory_order_relaxed);
	loop_timer_set(limiter->loop, &limiter->timer,
		       bandwidth_ns > ops_ns ? bandwidth_ns : ops_ns);
}
