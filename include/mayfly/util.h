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
#include <sys/uio.h>
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

/*
 * As pread(2) and pwrite(2), by the calls that disks use: so that a running guest's main thread,
 * which writes snapshots, needs no others (docs/seccomp.md).
 */
static inline ssize_t read_at(int fd, void *bytes, size_t length_bytes, uint64_t offset)
{
	struct iovec iov = { .iov_base = bytes, .iov_len = length_bytes };

	return preadv2(fd, &iov, 1, (off_t)offset, 0);
}

static inline ssize_t write_at(int fd, const void *bytes, size_t length_bytes, uint64_t offset)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length_bytes };

	return pwritev2(fd, &iov, 1, (off_t)offset, 0);
}

/* All of it. False: errno says why; 0 bytes written are an error of the file system's (EIO). */
static inline bool write_all_at(int fd, const void *bytes, size_t length_bytes, uint64_t offset)
{
	const uint8_t *at = bytes;

	while (length_bytes > 0) {
		ssize_t written = write_at(fd, at, length_bytes, offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written == 0)
			errno = EIO;
		if (written <= 0)
			return false;
		at += written;
		offset += (uint64_t)written;
		length_bytes -= (size_t)written;
	}
	return true;
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
