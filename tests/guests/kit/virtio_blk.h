/* A virtio block device (virtio 1.2, 5.2): one request at a time, in whole sectors. */
#ifndef KIT_VIRTIO_BLK_H
#define KIT_VIRTIO_BLK_H

#include "virtio.h"

#define BLOCK_SECTOR_BYTES 512
#define BLOCK_ID_BYTES	   20

#define BLOCK_IN     0
#define BLOCK_OUT    1
#define BLOCK_FLUSH  4
#define BLOCK_GET_ID 8

#define BLOCK_STATUS_OK 0

#define BLOCK_F_FLUSH (1ULL << 9)

struct block {
	struct virtio_device *device;
	struct virtqueue queue;
	uint64_t sectors;
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	volatile uint8_t status;
	bool interrupts;
};

/* Opens the index-th block device; false when there is none. It does not interrupt: requests are
 * waited for by looking. */
bool block_open(struct block *block, unsigned int index);

/* From now on requests are waited for asleep, or by looking again. */
void block_use_interrupts(struct block *block, bool use);

/* Puts a request into the queue: the device sees it, but is not notified. */
void block_submit(struct block *block, uint32_t type, uint64_t sector, void *data, uint32_t bytes);

/* Does a whole request. Returns the device's status: BLOCK_STATUS_OK, or what went wrong (5.2.6).
 */
uint8_t block_request(struct block *block, uint32_t type, uint64_t sector, void *data,
		      uint32_t bytes);

#endif
