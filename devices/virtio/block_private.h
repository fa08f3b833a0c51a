/*
 * What the two files of the block device share: block.c (the device) and block_request.c (one
 * request).
 */
#ifndef DEVICES_VIRTIO_BLOCK_PRIVATE_H
#define DEVICES_VIRTIO_BLOCK_PRIVATE_H

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include "mayfly/virtio_block.h"

/*
 * Limits that the device tells the driver (5.2.4), and holds it to. A segment of zeroes is bounded
 * because the host may have to write them; a discard is less dear, but some block devices only
 * take it from a call that waits.
 */
#define BLOCK_MAX_RANGES	       16
#define BLOCK_MAX_DISCARD_SECTORS      (256 * MIB / DISK_SECTOR_BYTES)
#define BLOCK_MAX_WRITE_ZEROES_SECTORS (64 * MIB / DISK_SECTOR_BYTES)
#define BLOCK_SEG_MAX		       (VIRTIO_BLOCK_QUEUE_SIZE - 2) /* and the header, and the status */

/* A request from the ring until its status is written. Untouched slots cost no memory. */
struct block_slot {
	struct disk_request disk;
	struct virtqueue_chain chain;
	uint8_t *status; /* where the guest wants the outcome */
	uint32_t type;
	uint64_t sector;    /* for messages */
	uint64_t bytes;	    /* of data, or in all ranges */
	uint64_t bytes_out; /* what it counts for in the device's */
	bool flush_behind;
	unsigned int range_count, range_next;
	struct virtio_blk_discard_write_zeroes ranges[BLOCK_MAX_RANGES];
	struct iovec iov[VIRTIO_BLOCK_QUEUE_SIZE];
};

/* The eventfd of one disk in the loop. */
struct block_completion {
	struct loop_source source;
	struct virtio_block *block;
};

struct virtio_block {
	struct virtio_mmio mmio;
	struct disk *disk;
	struct block_completion
		completions[2]; /* a new disk's is in place before the old one's goes */
	unsigned int completion_index;
	struct virtio_blk_config config;
	char id[VIRTIO_BLK_ID_BYTES]; /* padded with NUL, not ended by one */
	bool write_through; /* the driver knows no flush: a write is durable when it completes */
	struct virtio_block_metrics metrics;
	struct rate_limiter limiter; /* of the main thread, whatever holds the lock */
	struct log_limit log_limit;
	struct block_slot *slots;
	uint64_t bytes_out; /* of data, with the disk now */
	bool full;	    /* chains may wait in the ring until requests are answered */
	unsigned int free_count;
	uint16_t free_slots[VIRTIO_BLOCK_QUEUE_SIZE]; /* a stack: few slots are ever touched */
};

enum block_outcome {
	BLOCK_SUBMITTED, /* with the disk now */
	BLOCK_DONE,	 /* answered */
	BLOCK_MALFORMED, /* cannot be answered: see `reason` */
};

/* What follows from the features that were agreed on. Lock held. */
void block_activate(struct virtio_mmio *mmio);

/* Looks at the chain in `slot` and begins the request. */
enum block_outcome block_request_start(struct virtio_block *block, struct block_slot *slot,
				       const char **reason);

/*
 * The disk is done with slot->disk. True when the request is answered; false when it goes on, which
 * needs a disk_commit().
 */
bool block_request_continue(struct virtio_block *block, struct block_slot *slot);

#endif
