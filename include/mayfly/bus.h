/*
 * The buses: which device answers a port or MMIO address.
 *
 * A device embeds a struct bus_device and finds itself again with container_of. Devices are
 * attached before the first vCPU runs and never change afterwards, so dispatch takes no lock. The
 * handlers run on vCPU threads, several at once: a device guards its own state.
 *
 * Reads of what nobody answers give all ones, as an idle ISA bus would; writes are dropped.
 */
#ifndef MAYFLY_BUS_H
#define MAYFLY_BUS_H

#include "mayfly/error.h"
#include "mayfly/layout.h"

struct bus_device;

struct bus_ops {
	/* `offset` is within the device's range, as is offset + length - 1; length is 1 to 8. */
	void (*read)(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length);
	void (*write)(struct bus_device *device, uint64_t offset, const uint8_t *data,
		      size_t length);
};

struct bus_device {
	const struct bus_ops *ops;
	uint64_t base;
	uint64_t length;
	const char *name;
};

#define BUS_MAX_DEVICES (2 * LAYOUT_MAX_VIRTIO_DEVICES + 4) /* a virtio device has two windows */

struct bus {
	struct bus_device *devices[BUS_MAX_DEVICES];
	unsigned int count;
};

/* The bus borrows `device`. -EEXIST when its range overlaps another's, -ENOSPC when the bus is
 * full. */
int bus_attach(struct bus *bus, struct bus_device *device, struct error *err);

/* An access that runs over a device's end is answered as if nobody were there. Returns whether a
 * device answered. */
bool bus_read(const struct bus *bus, uint64_t address, uint8_t *data, size_t length);
bool bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, size_t length);

/* Little-endian values of 1, 2, 4 or 8 bytes; any other length reads as 0. */
uint64_t bus_load(const uint8_t *data, size_t length);
void bus_store(uint8_t *data, size_t length, uint64_t value);

#endif
