/*
 * Guest memory: the one door. memory_span() and its relatives turn (guest address, length) into
 * host memory or refuse; no other code adds an offset to a guest address.
 *
 * The guest may change its memory at any time: what must be checked is copied once with
 * memory_read(), then checked, then used. The layout never changes after memory_create(), so
 * lookups need no lock and may be made from any thread.
 */
#ifndef MAYFLY_MEMORY_H
#define MAYFLY_MEMORY_H

#include "mayfly/error.h"

enum huge_pages {
	HUGE_PAGES_NONE,
	HUGE_PAGES_TRANSPARENT,
	HUGE_PAGES_2M
};

#define MEMORY_MAX_REGIONS 2 /* below and above the 32-bit MMIO gap */

struct memory_region {
	uint64_t gpa;
	uint64_t size_bytes;
	uint8_t *hva;
};

struct memory {
	struct memory_region regions[MEMORY_MAX_REGIONS];
	unsigned int region_count;
	uint64_t size_bytes;
	enum huge_pages huge_pages;
};

/*
 * Maps `size_bytes` (a multiple of 2 MiB for HUGE_PAGES_2M, of 4 KiB otherwise) of zeroed guest
 * memory, untouched. What does not fit below the MMIO gap continues at 4 GiB (layout.h). Fails with
 * -EINVAL for a wrong size, -ENOMEM when the host has not that much (the message says what to do),
 * and leaves `memory` empty.
 */
int memory_create(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
		  struct error *err);

/* Unmaps all; `memory` is empty afterwards. No other thread may use it any more. */
void memory_destroy(struct memory *memory);

/*
 * The host address of [gpa, gpa + length), or NULL when any byte of it is outside guest memory or
 * it crosses from one region into another. A length of 0 is refused. Valid until memory_destroy().
 */
void *memory_span(const struct memory *memory, uint64_t gpa, uint64_t length);

/* Copies once. False, and nothing copied, when the range is not all guest memory. */
bool memory_read(const struct memory *memory, uint64_t gpa, void *destination, size_t length);
bool memory_write(const struct memory *memory, uint64_t gpa, const void *source, size_t length);

/*
 * Puts `length` bytes of the file at `offset` to `gpa`: whole pages are mapped copy-on-write when
 * gpa and offset are page-aligned and the memory is made with HUGE_PAGES_NONE, so that no byte is
 * copied and the page cache serves every guest; the rest (unaligned ends, or everything) is read.
 * Bytes of guest memory around the range keep their values. A file that is too short is -EINVAL.
 * `what` names the file in messages. Before the guest runs only.
 */
int memory_load_file(struct memory *memory, uint64_t gpa, int fd, uint64_t offset, uint64_t length,
		     const char *what, struct error *err);

#endif
