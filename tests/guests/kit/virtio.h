/*
 * A driver for virtio-mmio devices with split rings (virtio 1.2, 2.7, 4.2). Registers and rings are
 * open: who wants to do what a driver must not do, does it with virtio_read(), virtio_write() and
 * the pointers in struct virtqueue.
 *
 * Devices are found by the parameters virtio_mmio.device=SIZE@ADDRESS:IRQ on the command line.
 */
#ifndef KIT_VIRTIO_H
#define KIT_VIRTIO_H

#include "cpu.h"

/* Registers (4.2.2). */
#define VIRTIO_MAGIC		   0x000
#define VIRTIO_VERSION		   0x004
#define VIRTIO_DEVICE_ID	   0x008
#define VIRTIO_DEVICE_FEATURES	   0x010
#define VIRTIO_DEVICE_FEATURES_SEL 0x014
#define VIRTIO_DRIVER_FEATURES	   0x020
#define VIRTIO_DRIVER_FEATURES_SEL 0x024
#define VIRTIO_QUEUE_SEL	   0x030
#define VIRTIO_QUEUE_NUM_MAX	   0x034
#define VIRTIO_QUEUE_NUM	   0x038
#define VIRTIO_QUEUE_READY	   0x044
#define VIRTIO_QUEUE_NOTIFY	   0x050
#define VIRTIO_INTERRUPT_STATUS	   0x060
#define VIRTIO_INTERRUPT_ACK	   0x064
#define VIRTIO_STATUS		   0x070
#define VIRTIO_QUEUE_DESC_LOW	   0x080
#define VIRTIO_QUEUE_DESC_HIGH	   0x084
#define VIRTIO_QUEUE_DRIVER_LOW	   0x090
#define VIRTIO_QUEUE_DRIVER_HIGH   0x094
#define VIRTIO_QUEUE_DEVICE_LOW	   0x0a0
#define VIRTIO_QUEUE_DEVICE_HIGH   0x0a4
#define VIRTIO_CONFIG_GENERATION   0x0fc
#define VIRTIO_CONFIG		   0x100

#define VIRTIO_MAGIC_VALUE 0x74726976

/* Status (2.1). */
#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER	   2
#define VIRTIO_DRIVER_OK   4
#define VIRTIO_FEATURES_OK 8
#define VIRTIO_NEEDS_RESET 64
#define VIRTIO_FAILED	   128

#define VIRTIO_NET   1
#define VIRTIO_BLOCK 2

#define VIRTIO_F_VERSION_1 (1ULL << 32)

#define VIRTIO_DEVICES_MAX 32
#define VIRTIO_QUEUE_SIZE  64 /* at most, of this driver's queues */

/* Rings (2.7). */
#define VIRTQ_DESC_NEXT		 1
#define VIRTQ_DESC_WRITE	 2
#define VIRTQ_AVAIL_NO_INTERRUPT 1
#define VIRTQ_USED_NO_NOTIFY	 1

struct virtq_desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags, next;
};

struct virtq_avail {
	uint16_t flags, index, ring[];
};

struct virtq_used {
	uint16_t flags, index;
	struct {
		uint32_t id, length;
	} ring[];
};

struct virtio_device;

struct virtqueue {
	struct virtio_device *device;
	uint16_t index, size;
	struct virtq_desc *desc;
	volatile struct virtq_avail *avail;
	volatile struct virtq_used *used;
	uint16_t free_head, free_count; /* descriptors, linked by `next` */
	uint16_t used_seen;
};

struct virtio_device {
	uint64_t base;
	uint32_t irq, id;
	uint64_t features;		 /* negotiated */
	volatile uint32_t interrupts;	 /* how many came */
	volatile uint64_t interrupt_tsc; /* when the last one came */
};

static inline uint32_t virtio_read(const struct virtio_device *device, uint32_t offset)
{
	return mmio_read32(device->base + offset);
}

static inline void virtio_write(const struct virtio_device *device, uint32_t offset, uint32_t value)
{
	mmio_write32(device->base + offset, value);
}

/* The index-th device with this id, or NULL. A device whose registers make no sense ends the guest.
 */
struct virtio_device *virtio_find(uint32_t id, unsigned int index);

/* How many windows the command line names, and each of them, whatever is in it. */
unsigned int virtio_count(void);
struct virtio_device *virtio_at(unsigned int index);

/* Reset and negotiation (3.1.1): takes VERSION_1 and those of `wanted` that the device offers. */
void virtio_open(struct virtio_device *device, uint64_t wanted);

/* Makes a queue, of the smaller of the two sizes, and tells the device. */
void virtio_queue_open(struct virtqueue *queue, struct virtio_device *device, uint16_t index,
		       uint16_t size);

/* The queues are made: the device may work. */
void virtio_ready(struct virtio_device *device);

/* From now on the device's interrupts wake the CPU that waits, and are counted. At most
 * VIRTIO_DEVICES_MAX of them. */
void virtio_enable_interrupt(struct virtio_device *device);

struct virtq_buffer {
	void *data;
	uint32_t bytes;
	bool device_writes;
};

/* Makes a chain available, but does not notify. Returns its head; the guest ends when descriptors
 * run out. */
uint16_t virtqueue_add(struct virtqueue *queue, const struct virtq_buffer *buffers,
		       unsigned int count);

/* Notifies the device, unless it does not want to be. */
void virtqueue_notify(struct virtqueue *queue);

/* The next chain that the device has used: its head, and in `written` what the device says it
 * wrote; -1: none yet. */
int virtqueue_take(struct virtqueue *queue, uint32_t *written);

/* The same, waiting: asleep when the device's interrupt is enabled, else looking again and again.
 */
uint16_t virtqueue_wait(struct virtqueue *queue, uint32_t *written);

#endif
