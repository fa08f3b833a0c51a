/* Times of the same thing done many times, and what to say of them. */
#ifndef KIT_SAMPLES_H
#define KIT_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

struct samples {
	uint32_t *ticks; /* of the time-stamp counter; longer ones count as UINT32_MAX */
	uint64_t count, room;
};

/* Makes room for `room` samples. */
void samples_open(struct samples *samples, uint64_t room);

/* In ring 0 or 3. Samples beyond the room are dropped. */
static inline void samples_add(struct samples *samples, uint64_t ticks)
{
	if (samples->count < samples->room)
		samples->ticks[samples->count++] =
			ticks < UINT32_MAX ? (uint32_t)ticks : UINT32_MAX;
}

/*
 * Prints "result: NAME n=... min_ticks=... median_ticks=... p99_ticks=... max_ticks=..." and, where
 * the counter's frequency is known, the same as ..._ns. `more` is put behind the name: "" or "
 * KEY=VALUE ...". Empties the samples.
 */
void samples_report(struct samples *samples, const char *name, const char *more);

#endif
