/*
 * What the two halves of the transport share: mmio.c (the device's side) and mmio_registers.c (the
 * driver's).
 */
#ifndef DEVICES_VIRTIO_MMIO_PRIVATE_H
#define DEVICES_VIRTIO_MMIO_PRIVATE_H

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>

#include "mayfly/virtio_mmio.h"

/* Of virtio 1.2, but younger than the headers of some kernels. */
#ifndef VIRTIO_MMIO_QUEUE_RESET
#define VIRTIO_MMIO_QUEUE_RESET 0x0c0
#endif
#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif

#define VIRTIO_FEATURE(bit) (1ULL << (bit))

/* The bits that a driver writes; DEVICE_NEEDS_RESET is the device's (2.1). */
#define DRIVER_STATUS_BITS                                                                  \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK | \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

extern const struct bus_ops virtio_mmio_window_ops;

/* The queue back to its initial state, nothing of it in flight. Lock held, any thread. */
void virtio_mmio_stop_queue(struct virtio_mmio *mmio, unsigned int index);

/* 2.4: the whole device. Lock held, any thread. */
void virtio_mmio_reset(struct virtio_mmio *mmio);

#endif
