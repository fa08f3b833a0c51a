/*
 * A token bucket: how fast something may go, in the long run and at once.
 *
 * It holds `size` tokens when full and becomes full in `refill_time` when empty, at a constant
 *rate. Work takes tokens out; while there is not one whole token, work has to wait. Work that has
 *begun is not cut: it may take more than there is, and what is missing then comes before the next
 *token. So a piece of work larger than the bucket passes too, and within any time t no more than
 *
 *	size + t * size / refill_time + one piece of work
 *
 * tokens are taken, besides the one-time burst: tokens that are there beside the full bucket, are
 * spent first, and never come again.
 *
 * Times are nanoseconds of one clock that never goes back, given by the caller. Nothing is rounded
 * from one call to the next, and no value overflows. Nothing here locks.
 */
#ifndef MAYFLY_TOKEN_BUCKET_H
#define MAYFLY_TOKEN_BUCKET_H

#include "mayfly/config.h"
#include "mayfly/state.h"

struct token_bucket {
	uint64_t size; /* 0: there is no limit */
	uint64_t refill_ns;
	uint64_t burst; /* what is left of the one-time burst */
	/*
	 * All of the state: when the bucket will be full, or was, at full_at_ns + full_at_fraction
	 * / size. A token taken moves it by refill_ns / size.
	 */
	uint64_t full_at_ns, full_at_fraction;
};

/* A full bucket. One whose size or refill time is 0 limits nothing. */
void token_bucket_init(struct token_bucket *bucket, const struct token_bucket_config *config);

/*
 * Another size or refill time from now on. What is in the bucket, or was taken too much, stays, and
 * so does the rest of the burst; neither becomes more than the new configuration would give. A
 * bucket that limited nothing starts full.
 */
void token_bucket_change(struct token_bucket *bucket, const struct token_bucket_config *config,
			 uint64_t now_ns);

static inline bool token_bucket_is_limited(const struct token_bucket *bucket)
{
	return bucket->size > 0;
}

/* How many tokens may be taken now without a debt. UINT64_MAX where nothing is limited. */
uint64_t token_bucket_available(const struct token_bucket *bucket, uint64_t now_ns);

/* Whether there is a token: work may begin. */
bool token_bucket_is_ready(const struct token_bucket *bucket, uint64_t now_ns);

/* Takes `tokens`, be there as many or not. */
void token_bucket_take(struct token_bucket *bucket, uint64_t tokens, uint64_t now_ns);

/*
 * When there will be `tokens`, of which the bucket is full at the most; at least one is meant. 0
 * where nothing is limited or some of the burst is left; UINT64_MAX is as good as never.
 */
uint64_t token_bucket_ready_at(const struct token_bucket *bucket, uint64_t tokens);

/*
 * Writes the bucket into the open section, and reads it again: with what it held at the one time,
 * by whatever clock, at the other. `name` is for what is refused.
 */
void token_bucket_save(const struct token_bucket *bucket, uint64_t now_ns,
		       struct state_writer *writer);
void token_bucket_restore(struct token_bucket *bucket, uint64_t now_ns, const char *name,
			  struct state_section *section);

#endif
