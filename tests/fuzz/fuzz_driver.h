/*
 * The drivers of the fuzzed virtio devices: one that does what the input says, and one that follows
 * the standard (virtio 1.2, section 3.1), with one or two queues in the first 32 KiB of the guest's
 * memory.
 */
#ifndef TESTS_FUZZ_DRIVER_H
#define TESTS_FUZZ_DRIVER_H

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <sys/eventfd.h>

#include "fuzz_device.h"
#include "mayfly/layout.h"
#include "mayfly/log.h"
#include "mayfly/memory.h"
#include "mayfly/virtio_mmio.h"

#define MEMORY_BYTES (256 * KIB)
#define RING_SIZE    32

/* Of queue q: its three parts at + q * QUEUE_BYTES. */
#define QUEUE_BYTES 0x4000ULL
#define DESCRIPTORS 0x0000ULL
#define AVAILABLE   0x2000ULL
#define USED	    0x3000ULL

struct driver {
	struct memory memory;
	struct loop loop;
	struct log log;
	int interrupt_fd;
	struct virtio_mmio *mmio;
	unsigned int window, queues;
	uint16_t available_index[2];
};

/* What outlives the devices, and a driver's memory; the memory's content is every device's own. */
static inline void driver_make(struct driver *driver)
{
	FUZZ_CHECK(memory_create(&driver->memory, MEMORY_BYTES, HUGE_PAGES_NONE, NULL) == 0);
	FUZZ_CHECK(loop_init(&driver->loop, NULL) == 0);
	log_init(&driver->log);
	driver->log.level = LOG_OFF;
	driver->interrupt_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	FUZZ_CHECK(driver->interrupt_fd >= 0);
}

static inline void driver_take(struct driver *driver, struct virtio_mmio *mmio, unsigned int queues)
{
	driver->mmio = mmio;
	driver->window = 0;
	driver->queues = queues;
	memset(driver->available_index, 0, sizeof(driver->available_index));
}

static inline void write_register(struct driver *driver, uint64_t offset, uint64_t value,
				  size_t length)
{
	struct bus_device *device = &driver->mmio->windows[driver->window].device;
	uint8_t data[8];

	bus_store(data, length, value);
	device->ops->write(device, offset, data, length);
}

static inline uint64_t read_register(struct driver *driver, uint64_t offset, size_t length)
{
	struct bus_device *device = &driver->mmio->windows[driver->window].device;
	uint8_t data[8];

	device->ops->read(device, offset, data, length);
	return bus_load(data, length);
}

static inline void set(struct driver *driver, uint64_t offset, uint32_t value)
{
	write_register(driver, offset, value, sizeof(value));
}

/* As the standard says; of the features those which the device offers. */
static inline void start_driver(struct driver *driver, uint64_t features)
{
	uint8_t zeros[0x1000] = { 0 };
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	features = (features | 1ULL << VIRTIO_F_VERSION_1) & driver->mmio->device_features;
	/* Until the reset is over, requests in flight may write to the rings. */
	set(driver, VIRTIO_MMIO_STATUS, 0);
	set(driver, VIRTIO_MMIO_STATUS, status);
	set(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	set(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	set(driver, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (uint32_t queue = 0; queue < driver->queues; queue++) {
		uint32_t base = (uint32_t)(queue * QUEUE_BYTES);

		memory_write(&driver->memory, base + AVAILABLE, zeros, sizeof(zeros));
		memory_write(&driver->memory, base + USED, zeros, sizeof(zeros));
		driver->available_index[queue] = 0;
		set(driver, VIRTIO_MMIO_QUEUE_SEL, queue);
		set(driver, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
		set(driver, VIRTIO_MMIO_QUEUE_DESC_LOW, base + (uint32_t)DESCRIPTORS);
		set(driver, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + (uint32_t)AVAILABLE);
		set(driver, VIRTIO_MMIO_QUEUE_USED_LOW, base + (uint32_t)USED);
		set(driver, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set(driver, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline void put_descriptor(struct driver *driver, unsigned int queue, unsigned int index,
				  uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = { address, length, flags, next };

	memory_write(&driver->memory, queue * QUEUE_BYTES + DESCRIPTORS + 16ULL * index,
		     &descriptor, sizeof(descriptor));
}

static inline void offer(struct driver *driver, unsigned int queue, uint16_t head)
{
	uint64_t ring = queue * QUEUE_BYTES + AVAILABLE;
	uint16_t *index = &driver->available_index[queue];

	memory_write(&driver->memory, ring + 4 + 2ULL * (*index % RING_SIZE), &head, 2);
	++*index;
	memory_write(&driver->memory, ring + 2, index, 2);
}

static inline uint16_t used_index(struct driver *driver, unsigned int queue)
{
	uint16_t index = 0;

	memory_read(&driver->memory, queue * QUEUE_BYTES + USED + 2, &index, sizeof(index));
	return index;
}

/* Anywhere in a window, aligned or not; the bus lets no access over its end. */
static inline uint64_t input_offset(struct fuzz_input *input)
{
	return input_u16(input) % (LAYOUT_VIRTIO_MMIO_BYTES - sizeof(uint64_t) + 1);
}

/* What a driver of any device may do; each harness has more, from OP_DEVICE on. */
enum {
	OP_WRITE_REGISTER,
	OP_READ_REGISTER,
	OP_BYTES,
	OP_DESCRIPTOR,
	OP_OFFER,
	OP_DEVICE
};

static inline void driver_step(struct driver *driver, unsigned int operation,
			       struct fuzz_input *input)
{
	static const size_t widths[] = { 4, 1, 2, 8 };
	unsigned int last = driver->queues - 1;
	uint64_t offset;
	uint8_t how;

	switch (operation) {
	case OP_WRITE_REGISTER:
		how = input_u8(input);
		offset = how & 0x80 ? input_offset(input) : input_u8(input) & 0xfcU;
		driver->window = how >> 6 & 1;
		write_register(driver, offset, how & 0x20 ? input_u64(input) : input_u8(input),
			       widths[how & 3]);
		driver->window = 0;
		break;
	case OP_READ_REGISTER:
		how = input_u8(input);
		driver->window = how >> 6 & 1;
		read_register(driver, input_offset(input), widths[how & 3]);
		driver->window = 0;
		break;
	case OP_BYTES: {
		uint8_t bytes[32];
		size_t length;

		offset = input_address(input);
		length = 1 + (input_u8(input) & 31);
		input_bytes(input, bytes, length);
		memory_write(&driver->memory, offset, bytes, length);
		break;
	}
	case OP_DESCRIPTOR:
		how = input_u8(input);
		offset = input_address(input);
		put_descriptor(driver, how >> 7 & last, how % RING_SIZE, offset, input_u16(input),
			       input_u8(input) & 7, input_u8(input) % (RING_SIZE + 1));
		break;
	case OP_OFFER:
		how = input_u8(input);
		offer(driver, how >> 7 & last, how % (RING_SIZE + 1));
		break;
	default:
		break;
	}
}

#endif
