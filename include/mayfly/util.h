/*
 * Small things every room uses: scope cleanup, container_of, alignment, bounds of arrays.
 *
 * Everything here is header-only and safe to call from any thread.
 */
#ifndef MAYFLY_UTIL_H
#define MAYFLY_UTIL_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

/* The struct that holds `member`, given a pointer to that member. */
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define PRINTF_FORMAT(format_index, first_argument) \
	__attribute__((format(printf, format_index, first_argument)))

#define KIB		1024ULL
#define MIB		(1024ULL * KIB)
#define GIB		(1024ULL * MIB)
#define PAGE_SIZE_BYTES 4096ULL

/* `alignment` is a power of two; the caller knows that the sum does not wrap. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
	return (value + alignment - 1) & ~(alignment - 1);
}

static inline bool is_aligned(uint64_t value, uint64_t alignment)
{
	return (value & (alignment - 1)) == 0;
}

/* True when [start, start + length) does not wrap and lies within [0, limit). */
static inline bool range_within(uint64_t start, uint64_t length, uint64_t limit)
{
	return start <= limit && length <= limit - start;
}

/* What a clock shows, in nanoseconds. CLOCK_MONOTONIC and the CPU time clocks cannot fail. */
static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static inline void close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;

		close(*fd);
		errno = saved;
	}
	*fd = -1;
}

static inline void free_pointer(void *pointer)
{
	free(*(void **)pointer);
}

/* Closed, or freed, when the variable leaves its scope. */
#define cleanup_fd   __attribute__((cleanup(close_fd)))
#define cleanup_free __attribute__((cleanup(free_pointer)))

/* Hands a cleanup_fd's descriptor to the caller, who owns it from here on. */
static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

#endif
