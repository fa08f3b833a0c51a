/* virtio-blk: see virtio_blk.h. */
#include "virtio_blk.h"

#define STATUS_NOT_WRITTEN 0xff

bool block_open(struct block *block, unsigned int index)
{
	struct virtio_device *device = virtio_find(VIRTIO_BLOCK, index);

	if (!device)
		return false;
	block->device = device;
	virtio_open(device, BLOCK_F_FLUSH);
	virtio_queue_open(&block->queue, device, 0, VIRTIO_QUEUE_SIZE);
	virtio_ready(device);
	block->sectors = (uint64_t)virtio_read(device, VIRTIO_CONFIG + 4) << 32 |
			 virtio_read(device, VIRTIO_CONFIG);
	return true;
}

void block_use_interrupts(struct block *block, bool use)
{
	if (use)
		virtio_enable_interrupt(block->device);
	block->interrupts = use;
	block->queue.avail->flags = use ? 0 : VIRTQ_AVAIL_NO_INTERRUPT;
}

void block_submit(struct block *block, uint32_t type, uint64_t sector, void *data, uint32_t bytes)
{
	struct virtq_buffer buffers[3] = { { &block->header, sizeof(block->header), false } };
	unsigned int count = 1;

	block->header.type = type;
	block->header.sector = sector;
	block->status = STATUS_NOT_WRITTEN;
	if (bytes)
		buffers[count++] = (struct virtq_buffer) { data, bytes, type != BLOCK_OUT };
	buffers[count++] = (struct virtq_buffer) { (void *)(uintptr_t)&block->status, 1, true };
	virtqueue_add(&block->queue, buffers, count);
}

uint8_t block_request(struct block *block, uint32_t type, uint64_t sector, void *data,
		      uint32_t bytes)
{
	uint32_t interrupts = block->device->interrupts;

	block_submit(block, type, sector, data, bytes);
	virtqueue_notify(&block->queue);
	/* Each request brings one; to look at the ring first would leave it for the next. */
	while (block->interrupts && block->device->interrupts == interrupts)
		cpu_wait();
	virtqueue_wait(&block->queue, NULL);
	return block->status;
}
