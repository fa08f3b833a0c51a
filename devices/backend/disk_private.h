/*
 * What the files of the disk backend share: disk.c (opening), disk_io.c (what a request does), and
 * the two engines, disk_sync.c and disk_uring.c.
 */
#ifndef DEVICES_BACKEND_DISK_PRIVATE_H
#define DEVICES_BACKEND_DISK_PRIVATE_H

#include <sys/types.h>
#include "mayfly/disk.h"

/*
 * A request is done in steps: one system call (or io_uring operation) each. A short transfer, or a
 * way that the file system does not know, leads to another step.
 */
struct disk_step {
	enum {
		STEP_READ,
		STEP_WRITE,
		STEP_WRITE_BACK, /* of the range: to the device, and until it is there */
		STEP_DATASYNC,
		STEP_FALLOCATE,
		STEP_DISCARD
	} kind;
	const struct iovec *iov;
	unsigned int iov_count;
	int write_flags; /* RWF_ */
	int fallocate_mode;
	uint64_t offset_bytes, length_bytes;
};

/*
 * The most that one step transfers: a guest may ask for 4 GiB at once, and neither the event loop
 * nor a driver that resets its device should wait for all of it. No driver's usual request is cut
 * by this.
 */
#define DISK_STEP_BYTES (2 * MIB)

/*
 * The same for BLKDISCARD, which io_uring has no operation for. Devices give space back in pieces
 * of their own, up to some MiB large, and forget what is asked for smaller ones.
 */
#define DISK_DISCARD_STEP_BYTES (16 * MIB)

/*
 * And for a flush where the thread waits for it: of what was written since the last one, in pieces
 * of so much file, but no more pieces than this. Where less was written there is one step.
 */
#define DISK_FLUSH_STEP_BYTES (4 * MIB)
#define DISK_FLUSH_STEPS      64

struct disk_engine {
	bool waits_for_steps; /* the submitting thread does */
	/*
	 * Makes what the engine needs for `queue_size` requests, or takes it over from the disk
	 * whose place this one takes (NULL: there is none): a filtered thread can make no more.
	 */
	int (*start)(struct disk *disk, unsigned int queue_size, const struct disk *replaced,
		     struct error *err);
	void (*stop)(struct disk *disk);
	/* Does or queues the request's next step. */
	void (*submit)(struct disk *disk, struct disk_request *request);
	void (*commit)(struct disk *disk);
	/*
	 * Moves finished requests to the disk's list of those; with `wait`, waits for one if there
	 * is none.
	 */
	void (*collect)(struct disk *disk, bool wait);
};

/* How many bytes of zeros one step writes, where zeros have to be written: this many pages. */
#define DISK_ZERO_PAGES 64

extern const struct disk_engine disk_engine_sync;
extern const struct disk_engine disk_engine_uring;

struct disk_uring;

struct disk {
	const struct disk_engine *engine;
	int fd;
	int lock_fd; /* of the same file; also for what changes ranges, see disk_io.c */
	int completion_fd;
	bool is_block_device;
	bool read_only;
	enum cache_type cache_type;
	uint64_t size_bytes;
	uint64_t device_id, inode; /* which file it is */
	unsigned int in_flight;	   /* submitted and not yet on the list */
	struct disk_request *finished, **finished_end;
	struct disk_request *unfinished; /* what has steps left that are system calls */
	/* Written since the last flush: how much, and within which range. */
	uint64_t dirty_bytes, dirty_start, dirty_end;
	bool abandoning;		     /* a request ends with the step that it is in */
	struct iovec zeros[DISK_ZERO_PAGES]; /* the same page of zeros again and again; filled when
						first needed */
	struct disk_uring *uring;
	unsigned int uring_file; /* the place of `fd` in the ring's registered files */
};

/* How the request goes on. */
void disk_next_step(struct disk *disk, struct disk_request *request, struct disk_step *step);

/* Takes a step's result (bytes, 0, or a negative errno). True when the request is finished. */
bool disk_finish_step(struct disk *disk, struct disk_request *request, int64_t result);

/* Puts a request whose result is set on the list of the finished. */
void disk_finish(struct disk *disk, struct disk_request *request);

/*
 * What has steps left that are system calls waits its turn; the oldest comes first. NULL when
 * nothing does.
 */
void disk_put_aside(struct disk *disk, struct disk_request *request);
struct disk_request *disk_take_aside(struct disk *disk);

/* Does one step by system calls, here and now. Returns what disk_finish_step() takes. */
int64_t disk_do_step(struct disk *disk, const struct disk_step *step);

/*
 * Ends a request that nothing of is under way. So a disk is abandoned without a system call but the
 * waiting for what the ring has: it may happen on a vCPU's thread, which is allowed no others.
 */
void disk_cancel(struct disk *disk, struct disk_request *request);

/* All that is left of a request, by system calls, here and now; of one that is abandoned, nothing.
 */
void disk_run_plainly(struct disk *disk, struct disk_request *request);

#endif
