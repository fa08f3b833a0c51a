/* What the tests of the transport share: a device that counts what it is asked. */
#ifndef TESTS_UNIT_VIRTIO_MMIO_FIXTURE_H
#define TESTS_UNIT_VIRTIO_MMIO_FIXTURE_H

#include <pthread.h>

#include "virtio_driver.h"

#define QUEUE_RESET  0x0c0
#define F_RING_RESET 40
#define OWN_FEATURES (1ULL << 3 | 1ULL << 21)
#define EVENT_IDX    (1ULL << VIRTIO_RING_F_EVENT_IDX)
#define VERSION_1    (1ULL << VIRTIO_F_VERSION_1)
#define RING_RESET   (1ULL << F_RING_RESET)
#define ALIVE	     (FEATURES_STATUS | VIRTIO_CONFIG_S_DRIVER_OK)
#define OTHER_QUEUE  1
#define QUEUES	     2

struct device {
	struct virtio_mmio mmio;
	unsigned int notified, activated, stopped, stopped_queue;
	uint8_t config[12];
};

static inline void device_notify(struct virtio_mmio *mmio, unsigned int queue)
{
	cr_assert(virtio_mmio_is_live(mmio));
	cr_assert(mmio->queues[queue].virtqueue.ready);
	container_of(mmio, struct device, mmio)->notified++;
}

static inline void device_activate(struct virtio_mmio *mmio)
{
	container_of(mmio, struct device, mmio)->activated++;
}

static inline void device_stop_queue(struct virtio_mmio *mmio, unsigned int queue)
{
	struct device *device = container_of(mmio, struct device, mmio);

	cr_assert(mmio->queues[queue].virtqueue.ready, "its ring may still be written");
	device->stopped++;
	device->stopped_queue = queue;
}

static const struct virtio_mmio_ops device_ops = {
	.device_id = 42,
	.queue_count = QUEUES,
	.queue_size_max = 64,
	.notify = device_notify,
	.activate = device_activate,
	.stop_queue = device_stop_queue,
};

static inline void set_up(struct driver *driver, struct device *device)
{
	struct error err = { 0 };
	struct virtio_mmio_options options;

	driver_init(driver, 16 * MIB);
	memset(device, 0, sizeof(*device));
	for (unsigned int i = 0; i < sizeof(device->config); i++)
		device->config[i] = (uint8_t)(0x10 + i);
	options = (struct virtio_mmio_options) {
		.name = "test device",
		.slot = 3,
		.memory = &driver->memory,
		.loop = &driver->loop,
		.log = &driver->log,
		.interrupt_fd = driver->interrupt_fd,
		.features = OWN_FEATURES,
		.config = device->config,
		.config_bytes = sizeof(device->config),
	};
	cr_assert_eq(virtio_mmio_init(&device->mmio, &device_ops, &options, &err), 0, "%s",
		     err.message);
	driver->mmio = &device->mmio;
}

static inline void tear_down(struct driver *driver, struct device *device)
{
	virtio_mmio_destroy(&device->mmio);
	driver_destroy(driver);
}

#endif
