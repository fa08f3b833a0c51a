/* What the files of the memory module share: memory.c (access) and memory_backing.c (pages). */
#ifndef MAYFLY_SRC_MEMORY_PRIVATE_H
#define MAYFLY_SRC_MEMORY_PRIVATE_H

#include "mayfly/memory.h"

/* `length` bytes of the file at `offset`; a file that is too short is -EINVAL. */
int memory_read_fully(int fd, uint64_t offset, uint8_t *destination, uint64_t length,
		      const char *what, struct error *err);

#endif
