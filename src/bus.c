/* The buses: a handful of ranges, searched in order. See include/mayfly/bus.h. */
#include <string.h>

#include "mayfly/bus.h"

int bus_attach(struct bus *bus, struct bus_device *device, struct error *err)
{
	for (unsigned int i = 0; i < bus->count; i++) {
		const struct bus_device *other = bus->devices[i];

		if (device->base < other->base + other->length &&
		    other->base < device->base + device->length)
			return error_set(
				err, EEXIST, "the addresses of %s at 0x%llx overlap those of %s",
				device->name, (unsigned long long)device->base, other->name);
	}
	if (bus->count == ARRAY_SIZE(bus->devices))
		return error_set(err, ENOSPC, "no room on the bus for %s", device->name);
	bus->devices[bus->count++] = device;
	return 0;
}

static struct bus_device *find(const struct bus *bus, uint64_t address, size_t length)
{
	for (unsigned int i = 0; i < bus->count; i++) {
		struct bus_device *device = bus->devices[i];

		if (address >= device->base &&
		    range_within(address - device->base, length, device->length))
			return device;
	}
	return NULL;
}

bool bus_read(const struct bus *bus, uint64_t address, uint8_t *data, size_t length)
{
	struct bus_device *device = find(bus, address, length);

	if (!device) {
		memset(data, 0xff, length);
		return false;
	}
	device->ops->read(device, address - device->base, data, length);
	return true;
}

bool bus_write(const struct bus *bus, uint64_t address, const uint8_t *data, size_t length)
{
	struct bus_device *device = find(bus, address, length);

	if (!device)
		return false;
	device->ops->write(device, address - device->base, data, length);
	return true;
}

uint64_t bus_load(const uint8_t *data, size_t length)
{
	uint64_t value = 0;

	if (length != 1 && length != 2 && length != 4 && length != 8)
		return 0;
	memcpy(&value, data, length);
	return value;
}

void bus_store(uint8_t *data, size_t length, uint64_t value)
{
	memset(data, 0, length);
	memcpy(data, &value, length < sizeof(value) ? length : sizeof(value));
}
