/* The ring of the Async engine, for its file and its tests. */
#ifndef DEVICES_BACKEND_DISK_URING_H
#define DEVICES_BACKEND_DISK_URING_H

#include <liburing.h>

#include "disk_private.h"

/* Places for registered files: that of the disk, and that of the one which takes its place. */
#define DISK_URING_FILES 2

struct disk_uring {
	struct io_uring ring;
	unsigned int size;
	unsigned int users; /* disks: two while one takes the other's place */
	unsigned int stale; /* entries of the submission queue that became nothing, see
			       run_queued_plainly() */
	unsigned int out;   /* requests that the kernel has */
	bool at_once;	    /* the last batch was finished when the call that started it returned */
	unsigned int queued_count;
	struct io_uring_sqe *queued[]; /* not yet taken by the kernel, in order */
};

#endif
