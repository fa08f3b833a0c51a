/*
 * What stands behind a drive: a regular file or a block device, read and written by io_uring
 * (`Async`) or by plain system calls (`Sync`).
 *
 * A user fills a struct disk_request, hands it over with disk_submit(), starts all that was
 * submitted with disk_commit(), and gets each back exactly once from disk_reap(), after
 * disk_poll(). disk_completion_fd() becomes readable when there is something to reap. What the Sync
 * engine can do with one system call is finished when disk_submit() returns; for the rest of a
 * large request it, too, makes disk_completion_fd() readable, and goes on in disk_poll().
 *
 * One thread at a time may use a disk (the device's lock sees to that); it need not be the same
 * one.
 */
#ifndef MAYFLY_DISK_H
#define MAYFLY_DISK_H

#include <sys/uio.h>
#include "mayfly/config.h"

#define DISK_SECTOR_BYTES 512ULL

enum disk_operation {
	DISK_READ,
	DISK_WRITE,
	DISK_FLUSH,
	DISK_DISCARD,
	DISK_WRITE_ZEROES
};

struct disk_request {
	enum disk_operation operation;
	bool durable;	/* DISK_WRITE: on stable storage before it counts as done */
	bool may_unmap; /* DISK_WRITE_ZEROES: the file may give the space back */

	/* The range; for transfers also its memory, `length_bytes` in all. Used up on the way. */
	uint64_t offset_bytes, length_bytes;
	struct iovec *iov;
	unsigned int iov_count;

	/* Once reaped: 0 or a negative errno. All or nothing: a transfer cut short is an error. */
	int result;

	/* The disk's own. */
	struct disk_request *next;
	struct iovec tail;
	unsigned int attempt;
};

struct disk;

/*
 * Opens, checks and locks what `config` names. Writers lock exclusively, readers share; for a file
 * that `replaced` (may be NULL) has open already, its lock is shared. `queue_size` is the most
 * requests in flight at once.
 *
 * Refused, with a message that begins "drive ID: " and names the path: what cannot be opened, is
 * neither file nor block device, is empty or no multiple of 512 bytes, is in use by another writer;
 * and io_uring where the host refuses it.
 */
int disk_open(struct disk **disk, const struct drive_config *config, unsigned int queue_size,
	      const struct disk *replaced, struct error *err);

/*
 * Whether disk_open() would take the drive now: the same checks. Nothing stays open, and the lock
 * is asked for but not taken, so that nobody else is refused meanwhile.
 */
int disk_check(const struct drive_config *config, struct error *err);

/* Waits for what is in flight, unlocks, closes, frees. NULL does nothing. */
void disk_close(struct disk *disk);

uint64_t disk_size_bytes(const struct disk *disk);
bool disk_is_read_only(const struct disk *disk);
enum cache_type disk_cache_type(const struct disk *disk);

/* An eventfd for the loop, which whoever waits for it reads empty. */
int disk_completion_fd(const struct disk *disk);

/* Hands `request` over, until disk_reap() returns it. Never more than `queue_size` at once. */
void disk_submit(struct disk *disk, struct disk_request *request);

/* Starts everything that was submitted. */
void disk_commit(struct disk *disk);

/*
 * Finds what has finished. The Sync engine makes one more call for the oldest request that needs
 * several: so once a turn.
 */
void disk_poll(struct disk *disk);

/* The next finished request that was found, or NULL. */
struct disk_request *disk_reap(struct disk *disk);

/* Whether disk_submit() waits for the host's disk: the Sync engine does. */
bool disk_submit_waits(const struct disk *disk);

/*
 * Waits until everything submitted is finished. Reap it afterwards: nothing of it touches its
 * memory any more.
 */
void disk_drain(struct disk *disk);

/*
 * The same, but each request ends with the system call that it is in, its work perhaps half done:
 * for a driver that gave its buffers up.
 */
void disk_abandon(struct disk *disk);

/*
 * Puts all finished writes on stable storage, with either cache type. Returns 0 or a negative
 * errno.
 */
int disk_sync(struct disk *disk);

#endif
