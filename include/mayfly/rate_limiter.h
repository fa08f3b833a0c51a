/*
 * A rate limiter: how many bytes and how many operations a device may do, each by a bucket of its
 * own (token_bucket.h), and a timer for the time at which it may go on.
 *
 * A device asks before each piece of work whether it may begin, and says afterwards what it was.
 * When it may not, it leaves the work where it is, in the ring for example, asks to be called, and
 * does something else. Without a limit none of this costs more than looking at two numbers.
 *
 * Main thread only, but for the metrics.
 */
#ifndef MAYFLY_RATE_LIMITER_H
#define MAYFLY_RATE_LIMITER_H

#include <stdatomic.h>
#include "mayfly/loop.h"
#include "mayfly/token_bucket.h"

/* Any thread may read these. */
struct rate_limiter_metrics {
	_Atomic uint64_t throttled; /* times that work was found and had to wait */
	_Atomic uint64_t events;    /* times that the timer said to go on */
};

struct rate_limiter {
	struct token_bucket bandwidth, ops;
	struct loop *loop;
	struct loop_timer timer;
	void (*on_ready)(struct rate_limiter *limiter);
	struct rate_limiter_metrics metrics;
};

/*
 * `on_ready` is called from the loop, once for each rate_limiter_wait(). Borrows `loop`. With
 * `config` NULL nothing is limited.
 */
void rate_limiter_init(struct rate_limiter *limiter, struct loop *loop,
		       void (*on_ready)(struct rate_limiter *),
		       const struct rate_limiter_config *config);

/*
 * Whoever waits is not called any more, and has to ask again to go on. What the buckets hold stays
 * as it is. Does nothing where nobody waits.
 */
void rate_limiter_stop(struct rate_limiter *limiter);

/* on_ready is not called any more. Twice, or on a zeroed struct, does no harm. */
void rate_limiter_destroy(struct rate_limiter *limiter);

/*
 * Changes the buckets that `update` has (token_bucket_change()), and leaves the others. Whoever
 * waits is called in the next turn of the loop, to ask again.
 */
void rate_limiter_change(struct rate_limiter *limiter, const struct rate_limiter_config *update);

/* Whether work may begin now. */
bool rate_limiter_admits(const struct rate_limiter *limiter);

/* How many bytes may go now without a debt; 0 when work may not begin. */
uint64_t rate_limiter_available_bytes(const struct rate_limiter *limiter);

/* Work was begun. */
void rate_limiter_take(struct rate_limiter *limiter, uint64_t ops, uint64_t bytes);

/*
 * Writes both buckets into the open section, and reads them: into a limiter that rests, and that
 * goes on with what was in them. `name` is for what is refused, such as "rx rate limiter".
 */
void rate_limiter_save(const struct rate_limiter *limiter, struct state_writer *writer);
void rate_limiter_restore(struct rate_limiter *limiter, const char *name,
			  struct state_section *section);

/* Work has to wait: on_ready is called when it is worth asking again. */
void rate_limiter_wait(struct rate_limiter *limiter);

#endif
