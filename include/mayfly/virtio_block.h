/*
 * The block device (virtio 1.2, 5.2): one request queue over a disk.
 *
 * Made by the machine before the vCPUs run; all functions here are for the main thread.
 */
#ifndef MAYFLY_VIRTIO_BLOCK_H
#define MAYFLY_VIRTIO_BLOCK_H

#include "mayfly/disk.h"
#include "mayfly/rate_limiter.h"
#include "mayfly/virtio_mmio.h"

#define VIRTIO_BLOCK_QUEUE_SIZE VIRTQUEUE_MAX_SIZE

struct virtio_block;

/* Counted since the device was made; any thread may read them. */
struct virtio_block_metrics {
	_Atomic uint64_t reads, read_bytes; /* that succeeded, as all up to write_zeroes_bytes */
	_Atomic uint64_t writes, written_bytes;
	_Atomic uint64_t flushes;
	_Atomic uint64_t discards, discarded_bytes;
	_Atomic uint64_t write_zeroes, write_zeroes_bytes;
	_Atomic uint64_t get_ids;
	_Atomic uint64_t io_errors; /* the host could not do it */
	_Atomic uint64_t
		invalid; /* refused: out of range, wrong length, write to a read-only drive */
	_Atomic uint64_t unsupported;  /* refused: unknown type or flag */
	_Atomic uint64_t malformed;    /* no request at all: the device asked for a reset */
	_Atomic uint64_t disk_updates; /* virtio_block_set_disk() */
};

struct virtio_block_options {
	const char *drive_id; /* in messages, and what the guest reads with GET_ID (its first 20
				 bytes) */
	unsigned int slot;    /* below LAYOUT_MAX_VIRTIO_DEVICES: which MMIO windows */
	const struct memory *memory;
	struct loop *loop;
	struct log *log;
	int interrupt_fd;				/* an eventfd, borrowed */
	const struct rate_limiter_config *rate_limiter; /* for this call; NULL: no limits */
};

/*
 * Makes the device and puts its sources into the loop. Takes `disk` (opened with
 * VIRTIO_BLOCK_QUEUE_SIZE) on success and closes it in virtio_block_destroy(). All pointers in
 * `options` outlive the device but for drive_id.
 */
int virtio_block_create(struct virtio_block **block, const struct virtio_block_options *options,
			struct disk *disk, struct error *err);

/*
 * When no vCPU runs any more: waits for what is in flight, takes the sources out, closes the disk.
 * NULL does nothing.
 */
void virtio_block_destroy(struct virtio_block *block);

/* Registers, windows, notify fds and the transport's metrics, for the machine to wire up. */
struct virtio_mmio *virtio_block_transport(struct virtio_block *block);

const struct virtio_block_metrics *virtio_block_metrics(const struct virtio_block *block);

const struct rate_limiter_metrics *virtio_block_limiter_metrics(const struct virtio_block *block);

/*
 * Changes the limits of a running device: see rate_limiter_change(). Every request is an operation;
 * its bytes are those that it reads, writes, or wants to be zero.
 */
void virtio_block_set_limits(struct virtio_block *block, const struct rate_limiter_config *update);

/* The disk in use: the `replaced` of disk_open(). */
const struct disk *virtio_block_disk(const struct virtio_block *block);

/*
 * Swaps the disk under a running guest: requests in flight finish on the old one, which is closed;
 * the guest is told of the new capacity. Takes `disk` on success. -EINVAL when it is read-only and
 * the old one not, or the reverse.
 */
int virtio_block_set_disk(struct virtio_block *block, struct disk *disk, struct error *err);

/*
 * Brings the device to rest: what is in flight is finished and answered, however long the disk
 * takes, and no chain is taken until virtio_block_resume(). All that may be done with the device
 * may be done meanwhile. The vCPUs have stopped, so that none asks for more.
 */
void virtio_block_pause(struct virtio_block *block);
void virtio_block_resume(struct virtio_block *block);

/*
 * Writes the state of a device at rest as section "block", the drive's id its instance. Reads it
 * into a device that was just made, perhaps over another file, and leaves it at rest. The guest is
 * told of another capacity when it goes on. Refused is what no device can have been in, and a disk
 * that is not what the driver was told: read-only, or with another cache type.
 */
void virtio_block_save(struct virtio_block *block, struct state_writer *writer);
int virtio_block_restore(struct virtio_block *block, struct state_file *file, struct error *err);

/*
 * For a clean exit: waits for what is in flight and, unless the cache type is Unsafe, puts
 * everything written on stable storage.
 */
int virtio_block_flush(struct virtio_block *block, struct error *err);

#endif
