/*
 * The working set of a restored guest: which pages it touches first. Recorded once, and populated
 * in bulk at later restores of the same snapshot, so that a guest does not take one page fault
 * after another in its first milliseconds.
 *
 * It is advice. A file that is of another snapshot, too old or too large costs time and memory,
 * never a wrong byte: populating a page gives it the content that it would have had anyway.
 *
 * The file is a state file (mayfly/state.h) with one section: see docs/snapshots.md. Offsets are
 * those of the memory file, regions of guest memory one behind the other. Main thread, or whichever
 * one owns the struct.
 */
#ifndef MAYFLY_WORKING_SET_H
#define MAYFLY_WORKING_SET_H

#include "mayfly/memory.h"

struct working_set {
	uint64_t memory_bytes;
	uint64_t *touched; /* a bit for each page of PAGE_SIZE_BYTES; owned */
	uint64_t *written; /* of those that are touched; owned */
};

/* A run of pages with the same use. */
struct working_set_run {
	uint64_t offset;
	uint64_t length_bytes;
	bool written;
};

/* Empty, for a guest of `memory_bytes`, a multiple of PAGE_SIZE_BYTES. */
int working_set_create(struct working_set *set, uint64_t memory_bytes, struct error *err);

/* A zeroed struct, or twice, does no harm. */
void working_set_destroy(struct working_set *set);

/* Adds all pages of the range; what lies outside of memory is left out. */
void working_set_add(struct working_set *set, uint64_t offset, uint64_t length_bytes, bool written);

/* The first run at or behind `run->offset + run->length_bytes`; a zeroed run begins. False: no
 * more. */
bool working_set_next(const struct working_set *set, struct working_set_run *run);

uint64_t working_set_count_pages(const struct working_set *set);

/*
 * What this process has touched of `memory`, its guest included, from /proc/self/pagemap. Pages
 * that the kernel mapped around a touched one, as it does for files, count as well. -ENOENT without
 * /proc.
 */
int working_set_collect(struct working_set *set, const struct memory *memory, struct error *err);

/*
 * Brings every page of the set into `memory`: those that are read share the page cache, those that
 * are written get their own copy. Returns 0 when the kernel cannot do it (before 5.14), too: the
 * guest then faults as without. `pages` counts what was done.
 */
int working_set_populate(const struct working_set *set, const struct memory *memory,
			 uint64_t *pages, struct error *err);

/* The file appears whole or not at all. The message names it. */
int working_set_save(const struct working_set *set, const char *path, struct error *err);

/* -ENOENT when there is no file yet; -EINVAL when it is damaged or of a guest of another size. */
int working_set_load(struct working_set *set, uint64_t memory_bytes, const char *path,
		     struct error *err);

#endif
