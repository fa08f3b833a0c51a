/*
 * The memory file of a snapshot: guest memory as it is, byte for byte, at its offset (regions
 * follow each other); pages of zeroes are holes. A diff holds the pages that have changed since the
 * snapshot before it, those that have become zero too, and is a hole elsewhere.
 *
 * Two pages stand behind the memory. The first (the mark) names the snapshot that the file belongs
 * to, so that the files of two snapshots cannot be mixed up. The second says that the file is
 * complete; in a diff it is a hole. So any tool which copies the data of a diff onto its base,
 * holes left out, makes a complete file that belongs to the diff's state. docs/snapshot-format.md.
 *
 * Main thread only.
 */
#ifndef MAYFLY_MEMORY_FILE_H
#define MAYFLY_MEMORY_FILE_H

#include "mayfly/atomic_file.h"
#include "mayfly/memory.h"

#define MEMORY_FILE_ID_BYTES   16
#define MEMORY_FILE_TAIL_BYTES (2 * PAGE_SIZE_BYTES)

/* Which snapshot: random. */
struct memory_file_id {
	uint8_t bytes[MEMORY_FILE_ID_BYTES];
};

struct memory_file_options {
	const char *path;
	struct memory_file_id id;
	/*
	 * A diff: the snapshot before. NULL: a complete file. With dirty tracking (memory->dirty) a
	 * diff holds what is dirty; without, what this process has changed since it loaded.
	 */
	const struct memory_file_id *base;
};

struct memory_file_size {
	uint64_t data_bytes; /* what is not a hole */
};

/*
 * Writes `memory`, which nobody changes meanwhile, to a file that has no name yet: the caller
 * flushes and commits it (atomic_file.h), or closes it. Straight from guest memory; pages which
 * nobody has touched are not read.
 */
int memory_file_save(const struct memory *memory, const struct memory_file_options *options,
		     struct atomic_file *file, struct memory_file_size *size, struct error *err);

/*
 * Opens the memory file of the snapshot `id`, whose guest has `memory_bytes`, for mapping. A file
 * of another size, of another snapshot, or a diff which was never merged, is -EINVAL by name. The
 * descriptor is the caller's; while it is open nobody can merge into the file.
 */
int memory_file_open(const char *path, uint64_t memory_bytes, const struct memory_file_id *id,
		     int *fd, struct error *err);

/*
 * Copies what `diff_path` holds into `base_path`, which becomes the memory file of the diff's
 * snapshot. Refused: a diff of another base, a base that is no complete file or that a microVM
 * uses. When it is interrupted, the base is of no use until the same merge has been repeated.
 */
int memory_file_merge(const char *base_path, const char *diff_path, struct error *err);

#endif
