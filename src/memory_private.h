/* What the files of the memory module share. */
#ifndef MAYFLY_SRC_MEMORY_PRIVATE_H
#define MAYFLY_SRC_MEMORY_PRIVATE_H

#include "mayfly/memory.h"

/* `length` bytes of the file at `offset`; a file that is too short is -EINVAL. */
int memory_read_fully(int fd, uint64_t offset, uint8_t *destination, uint64_t length,
		      const char *what, struct error *err);

/* Records of dirty pages are arrays of such words. */
#define MEMORY_WORD_BITS 64

static inline uint64_t memory_dirty_words(const struct memory *memory)
{
	return (memory->size_bytes / PAGE_SIZE_BYTES + MEMORY_WORD_BITS - 1) / MEMORY_WORD_BITS;
}

/* As if vCPUs had written these pages: both are in it. */
void memory_mark_guest_pages(const struct memory *memory, uint64_t first_page, uint64_t last_page);

#endif
