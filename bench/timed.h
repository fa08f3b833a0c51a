/*
 * What the programs of bare KVM calls share: calls that are timed, one by one. Each program says
 * who it is by PROGRAM before it includes this.
 */
#ifndef BENCH_TIMED_H
#define BENCH_TIMED_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_TIMES 64

static struct {
	const char *name;
	uint64_t start_ns, ns;
} times[MAX_TIMES];
static unsigned int time_count;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void note(const char *name, uint64_t start_ns)
{
	if (time_count < MAX_TIMES) {
		times[time_count].name = name;
		times[time_count].start_ns = start_ns;
		times[time_count++].ns = now_ns() - start_ns;
	}
}

static int die(const char *what)
{
	fprintf(stderr, PROGRAM ": %s: %s\n", what, strerror(errno));
	exit(1);
}

/* One call and its time; a call that fails ends the program. */
#define TIMED(name, call)                                 \
	({                                                \
		uint64_t before = now_ns();               \
		long result_ = (long)(call);              \
		note(name, before);                       \
		result_ < 0 ? die(name) : (int)(result_); \
	})

#endif
