/*
 * The token bucket: see include/mayfly/token_bucket.h.
 *
 * The bucket is a point in time, at which it is full again; taking a token moves that point on by
 * refill_ns / size, and time alone refills the bucket. (The generic cell rate algorithm of ITU-T
 * I.371 keeps its state the same way.) The point is exact: the part of it below a nanosecond is
 * counted in units of 1/size of one.
 *
 * Products are of 128 bits: sizes are below 2^64, refill times and so full_at_ns - now_ns where it
 * matters below 2^63, and that the largest sum fits is said where it is made.
 */
#include <stdio.h>

#include "mayfly/token_bucket.h"

#define NS_PER_MS 1000000ULL

__extension__ typedef unsigned __int128 uint128;

_Static_assert(CONFIG_MAX_REFILL_TIME_MS <= INT64_MAX / NS_PER_MS, "refill_ns is below 2^63");

static uint64_t add_saturated(uint64_t a, uint128 b)
{
	return b > UINT64_MAX - a ? UINT64_MAX : a + (uint64_t)b;
}

/*
 * What the bucket lacks to be full, in units of 1/refill_ns of a token. At most (2^64 - 1) * (2^64
 * - 1) + 2^64 - 1: it fits.
 */
static uint128 missing(const struct token_bucket *bucket, uint64_t now_ns)
{
	if (bucket->full_at_ns < now_ns)
		return 0;
	return (uint128)(bucket->full_at_ns - now_ns) * bucket->size + bucket->full_at_fraction;
}

void token_bucket_init(struct token_bucket *bucket, const struct token_bucket_config *config)
{
	*bucket = (struct token_bucket) { .size = 0 };
	if (config->size == 0 || config->refill_time == 0)
		return;
	bucket->size = config->size;
	bucket->refill_ns = config->refill_time > CONFIG_MAX_REFILL_TIME_MS
				    ? INT64_MAX
				    : config->refill_time * NS_PER_MS;
	bucket->burst = config->one_time_burst;
}

/* What the bucket lacks in tokens; a part of one counts as one. */
static uint128 missing_tokens(const struct token_bucket *bucket, uint64_t now_ns)
{
	uint128 parts = missing(bucket, now_ns);

	return parts / bucket->refill_ns + (parts % bucket->refill_ns ? 1 : 0);
}

/* Takes out of the bucket itself. tokens * refill_ns + fraction is below 2^127 + 2^64. */
static void spend(struct token_bucket *bucket, uint64_t tokens, uint64_t now_ns)
{
	uint128 parts;

	if (bucket->full_at_ns < now_ns) {
		bucket->full_at_ns = now_ns;
		bucket->full_at_fraction = 0;
	}
	parts = (uint128)tokens * bucket->refill_ns + bucket->full_at_fraction;
	bucket->full_at_ns = add_saturated(bucket->full_at_ns, parts / bucket->size);
	bucket->full_at_fraction = (uint64_t)(parts % bucket->size);
}

void token_bucket_change(struct token_bucket *bucket, const struct token_bucket_config *config,
			 uint64_t now_ns)
{
	struct token_bucket old = *bucket;
	uint128 tokens;

	token_bucket_init(bucket, config);
	if (!token_bucket_is_limited(bucket) || !token_bucket_is_limited(&old))
		return;
	if (bucket->burst > old.burst)
		bucket->burst = old.burst;
	/* Full without what the old one holds; the sum is below 2^109. */
	tokens = missing_tokens(&old, now_ns) + bucket->size;
	if (tokens <= old.size)
		return;
	tokens -= old.size;
	spend(bucket, add_saturated(0, tokens), now_ns);
}

uint64_t token_bucket_available(const struct token_bucket *bucket, uint64_t now_ns)
{
	uint128 tokens;

	if (!token_bucket_is_limited(bucket))
		return UINT64_MAX;
	tokens = missing_tokens(bucket, now_ns);
	if (tokens >= bucket->size)
		return bucket->burst;
	return add_saturated(bucket->burst, bucket->size - tokens);
}

bool token_bucket_is_ready(const struct token_bucket *bucket, uint64_t now_ns)
{
	if (!token_bucket_is_limited(bucket) || bucket->burst > 0)
		return true;
	return missing(bucket, now_ns) <= (uint128)(bucket->size - 1) * bucket->refill_ns;
}

void token_bucket_take(struct token_bucket *bucket, uint64_t tokens, uint64_t now_ns)
{
	uint64_t of_burst = tokens < bucket->burst ? tokens : bucket->burst;

	if (!token_bucket_is_limited(bucket))
		return;
	bucket->burst -= of_burst;
	spend(bucket, tokens - of_burst, now_ns);
}

uint64_t token_bucket_ready_at(const struct token_bucket *bucket, uint64_t tokens)
{
	uint128 parts, early_ns;

	if (!token_bucket_is_limited(bucket) || bucket->burst > 0)
		return 0;
	if (tokens == 0)
		tokens = 1;
	if (tokens > bucket->size)
		tokens = bucket->size;
	/* What may still be missing then, and how long before the bucket is full that is. */
	parts = (uint128)(bucket->size - tokens) * bucket->refill_ns;
	if (parts < bucket->full_at_fraction)
		return add_saturated(bucket->full_at_ns, 1);
	early_ns = (parts - bucket->full_at_fraction) / bucket->size;
	return early_ns > bucket->full_at_ns ? 0 : bucket->full_at_ns - (uint64_t)early_ns;
}

void token_bucket_save(const struct token_bucket *bucket, uint64_t now_ns,
		       struct state_writer *writer)
{
	bool full = bucket->full_at_ns < now_ns;

	state_put_u64(writer, bucket->size);
	state_put_u64(writer, bucket->refill_ns);
	state_put_u64(writer, bucket->burst);
	state_put_u64(writer, full ? 0 : bucket->full_at_ns - now_ns);
	state_put_u64(writer, full ? 0 : bucket->full_at_fraction);
}

static void refuse(struct state_section *section, const char *name, const char *field,
		   uint64_t value)
{
	char full_name[STATE_MAX_FIELD_BYTES];

	snprintf(full_name, sizeof(full_name), "%s %s", name, field);
	state_refuse(section, full_name, "it cannot be %llu", (unsigned long long)value);
}

void token_bucket_restore(struct token_bucket *bucket, uint64_t now_ns, const char *name,
			  struct state_section *section)
{
	struct token_bucket read;
	uint64_t full_in_ns;

	read.size = state_get_u64(section);
	read.refill_ns = state_get_u64(section);
	read.burst = state_get_u64(section);
	full_in_ns = state_get_u64(section);
	read.full_at_fraction = state_get_u64(section);
	read.full_at_ns = read.size ? add_saturated(now_ns, full_in_ns) : 0;
	if ((read.size == 0) != (read.refill_ns == 0) || read.refill_ns > INT64_MAX)
		refuse(section, name, "refill time", read.refill_ns);
	if (read.size == 0 && read.burst)
		refuse(section, name, "burst", read.burst);
	if (read.size ? read.full_at_fraction >= read.size : read.full_at_fraction > 0)
		refuse(section, name, "fraction", read.full_at_fraction);
	if (!state_failed(section))
		*bucket = read;
}
