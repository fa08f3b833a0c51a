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

/* A part of guest memory, as an offset: regions counted as if they followed each other. */
struct memory_range {
	uint64_t offset;
	uint64_t length_bytes;
};

#define MEMORY_MAX_FILE_RANGES 16

struct memory {
	struct memory_region regions[MEMORY_MAX_REGIONS];
	unsigned int region_count;
	uint64_t size_bytes;
	enum huge_pages huge_pages;
	/* Where a file is mapped: pages there have content before anybody touches them. */
	struct memory_range file_ranges[MEMORY_MAX_FILE_RANGES];
	unsigned int file_range_count;
	int base_fd;  /* the file that all of it is mapped from, owned; -1: none */
	bool shared;  /* changes go to that file: a memfd of this process */
	void *frozen; /* where that mapping went, until that is over; NULL: nowhere */
	uint64_t frozen_bytes;
	/* A bit for each page that the monitor wrote, in order of their offsets; NULL: not wanted.
	 */
	_Atomic uint64_t *dirty;
	/* Of memory that can be forked (memory_enable_fork()), since the last fork: the same, and
	 * what vCPUs wrote; and what was this process's own then, each page at its offset. */
	_Atomic uint64_t *unforked, *unforked_guest;
	_Atomic uint64_t *own; /* a bit for each page that own_fd holds */
	int own_fd;	       /* -1: it cannot be forked */
};

/*
 * Maps `size_bytes` (a multiple of 2 MiB for HUGE_PAGES_2M, of 4 KiB otherwise) of zeroed guest
 * memory, untouched. What does not fit below the MMIO gap continues at 4 GiB (layout.h). Fails with
 * -EINVAL for a wrong size, -ENOMEM when the host has not that much (the message says what to do),
 * and leaves `memory` empty.
 */
int memory_create(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
		  struct error *err);

/*
 * Puts all of guest memory that was made just now into a memfd (base_fd) that holds every change
 * and can be given to another process once memory_freeze() was called. Addresses stay as they are:
 * KVM may know them already. Not with HUGE_PAGES_2M (-EINVAL). After a failure the memory is fit
 * for memory_destroy() only.
 */
int memory_share(struct memory *memory, struct error *err);

/*
 * Lays a file over all of guest memory that was made just now, from the file's beginning, which is
 * at least that long: mapped copy-on-write, so that no byte is read before it is touched; with huge
 * pages, or over a shared base, read. Addresses stay as they are: KVM may know them already. Takes
 * `fd` over, whatever the result; after a failure the content is undefined.
 */
int memory_map_file(struct memory *memory, int fd, struct error *err);

/*
 * From here on nothing changes base_fd: the base is mapped copy-on-write at the same addresses. In
 * constant time for each 2 MiB, and without effect when it is so already. While nobody uses guest
 * memory: no vCPU runs, devices are at rest.
 */
int memory_freeze(struct memory *memory, struct error *err);

/*
 * The rest of it, which takes longer: before it base_fd cannot be sealed against writing. The guest
 * may run meanwhile. memory_go_on_freezing() does some of it, for MEMORY_FREEZE_STEP_BYTES of
 * memory, and returns whether that was the last.
 */
#define MEMORY_FREEZE_STEP_BYTES (4 * MIB)
bool memory_go_on_freezing(struct memory *memory);
void memory_finish_freeze(struct memory *memory);

/* memory_create() and memory_map_file(). */
int memory_create_from_file(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
			    int fd, struct error *err);

/* False once the snapshot's memory file, if there is one, is shorter than what is mapped of it. */
bool memory_file_is_whole(const struct memory *memory);

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

/*
 * Forks of guest memory. The pages of a monitor are those of base_fd, which nobody changes once it
 * is frozen, and its own, written since. Another process that is to go on from here maps the base
 * too and takes the others from own_fd, into which memory_fork() copies what was written since the
 * fork before. So nothing is ever copied that has not changed, and own_fd is no larger than what
 * this process has of its own.
 *
 * All are for the main thread. memory_enable_fork() comes right after the memory was made, with a
 * base (shared, or by memory_map_file()), and before anything is written to it; memory is tracked
 * (memory_track_dirty()), and what KVM knows of dirty pages is in the record when memory_fork() is
 * called, while nobody uses guest memory. `copied_bytes` is what it had to copy. After a failure
 * the next one copies all that this one should have.
 *
 * memory_copy_ahead() leaves little of that to be done: it copies, while the guest runs, what vCPUs
 * have written as far as KVM's record was taken in, and what is written to it from then on is
 * copied again. Pages of devices wait: they are in the record before they are written.
 */
int memory_enable_fork(struct memory *memory, struct error *err);
int memory_copy_ahead(struct memory *memory, uint64_t *copied_bytes, struct error *err);
int memory_fork(struct memory *memory, uint64_t *copied_bytes, struct error *err);

/* Whether the page at `offset` may differ from base_fd's; of memory that can be forked and is not
 * shared, with KVM's record of dirty pages taken in. Any thread. */
bool memory_is_own(const struct memory *memory, uint64_t offset);

/*
 * The other side: lays another process's two files over memory of the same size that was made just
 * now, which is forkable in turn. Takes base_fd over, whatever the result, and seals it against
 * writing where it is a memfd; -EINVAL when it is too short, -EBUSY or -EPERM while somebody can
 * write to it. `own_fd` is read, now. After a failure the memory is fit for memory_destroy() only.
 */
int memory_map_forked(struct memory *memory, int base_fd, int own_fd, struct error *err);

/*
 * From here on memory_mark_dirty() keeps a record of what the monitor writes; what vCPUs write is
 * KVM's to tell (vm_collect_dirty()). All pages count as clean now.
 */
int memory_track_dirty(struct memory *memory, struct error *err);

void memory_mark_dirty_slow(const struct memory *memory, const void *hva, size_t length_bytes);

/*
 * Before or after the monitor writes to guest memory, at the latest before the guest can be
 * snapshotted: [hva, hva + length) of a span. Any thread. Costs nothing while nobody tracks.
 */
static inline void memory_mark_dirty(const struct memory *memory, const void *hva,
				     size_t length_bytes)
{
	if (memory->dirty)
		memory_mark_dirty_slow(memory, hva, length_bytes);
}

/*
 * Adds bits, one for each page of the region `index`, to the record. This and the next two are for
 * the main thread, while no vCPU runs and memory is tracked; offsets are those of pages.
 */
void memory_add_dirty(struct memory *memory, unsigned int index, const uint64_t *bitmap);
bool memory_is_dirty(const struct memory *memory, uint64_t offset);
void memory_clear_dirty(struct memory *memory);

#endif
