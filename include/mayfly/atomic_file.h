/*
 * A file that appears complete or not at all: written under a temporary name in the same folder,
 * flushed to the disk, then renamed over what has its name. Until then the old file is whole,
 * whatever happens: a full disk, a kill, a power cut.
 *
 * The temporary file has no name while it is written where the file system can do that (O_TMPFILE),
 * so that a kill leaves nothing behind; else it is called like the file, with ".part-" and a random
 * word behind. Main thread only.
 */
#ifndef MAYFLY_ATOMIC_FILE_H
#define MAYFLY_ATOMIC_FILE_H

#include "mayfly/error.h"

struct atomic_file {
	int fd;		 /* to write to; owned */
	int folder_fd;	 /* owned */
	char *name;	 /* within the folder; owned */
	char *temporary; /* within the folder; owned; NULL while the file has no name */
};

/*
 * Opens a file which shall be `path` once it is complete, for reading and writing, its mode 0600.
 * An existing `path` that is no regular file (a link, a device, a folder) is refused.
 */
int atomic_file_open(struct atomic_file *file, const char *path, struct error *err);

/* All of `bytes` at `offset`. A full disk and other failures are told with the number of the error.
 */
int atomic_file_write(struct atomic_file *file, const void *bytes, size_t length_bytes,
		      uint64_t offset, struct error *err);

/* Whether both, which are open, shall have one name: the second to be committed would replace the
 * first. */
bool atomic_file_is_same(const struct atomic_file *file, const struct atomic_file *other);

/* On the disk, though not yet under its name: after this, commit has little left that can fail. */
int atomic_file_flush(struct atomic_file *file, struct error *err);

/* Gives the file its name; what had it is gone. */
int atomic_file_commit(struct atomic_file *file, struct error *err);

/* Closes; a file that was not committed disappears. Twice, or after a failed open, does no harm. */
void atomic_file_close(struct atomic_file *file);

#endif
