/* What stands behind the memory in a memory file: see include/mayfly/memory_file.h. */
#ifndef MAYFLY_SNAPSHOT_MEMORY_TAIL_H
#define MAYFLY_SNAPSHOT_MEMORY_TAIL_H

#include "mayfly/memory_file.h"

#define TAIL_MARK_MAGIC	 "Mayfly memory\n\0\0"
#define TAIL_MAGIC_BYTES 16
#define TAIL_VERSION	 1

/* At the beginning of the second page, where the file is all of the memory. */
static const char tail_complete[TAIL_MAGIC_BYTES] = "Mayfly complete\n";

/* At the beginning of the first page behind the memory; the rest of it is zero. */
struct tail_mark {
	char magic[TAIL_MAGIC_BYTES];
	uint32_t version;
	uint32_t checksum; /* CRC-32C of the mark, with 0 here */
	uint64_t memory_bytes;
	struct memory_file_id id;
	struct memory_file_id base; /* of a diff; else zero */
};

_Static_assert(sizeof(struct tail_mark) == 64, "the mark has no padding");

struct tail_mark tail_make_mark(uint64_t memory_bytes, const struct memory_file_id *id,
				const struct memory_file_id *base);

/*
 * Reads the tail of an open file of `file_bytes`; -EINVAL when it has none. `complete` says whether
 * the second page does.
 */
int tail_read(int fd, uint64_t file_bytes, struct tail_mark *mark, bool *complete,
	      struct error *err);

#endif
