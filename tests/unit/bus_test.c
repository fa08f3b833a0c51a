#include <criterion/criterion.h>
#include <string.h>

#include "mayfly/bus.h"

struct probe {
	struct bus_device device;
	uint64_t offset;
	size_t length;
	unsigned int reads, writes;
};

static void probe_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	struct probe *probe = container_of(device, struct probe, device);

	probe->offset = offset;
	probe->length = length;
	probe->reads++;
	memset(data, 0x5a, length);
}

static void probe_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
			size_t length)
{
	struct probe *probe = container_of(device, struct probe, device);

	(void)data;
	probe->offset = offset;
	probe->length = length;
	probe->writes++;
}

static const struct bus_ops probe_ops = { .read = probe_read, .write = probe_write };

static struct probe make_probe(uint64_t base, uint64_t length)
{
	return (struct probe) {
		.device = { .ops = &probe_ops, .base = base, .length = length, .name = "probe" }
	};
}

Test(bus, an_access_reaches_its_device_with_the_offset)
{
	struct probe a = make_probe(0x100, 8), b = make_probe(0x108, 8);
	struct bus bus = { 0 };
	uint8_t data[4];

	cr_assert_eq(bus_attach(&bus, &a.device, NULL), 0);
	cr_assert_eq(bus_attach(&bus, &b.device, NULL), 0);
	cr_assert(bus_read(&bus, 0x10a, data, 4));
	cr_assert_eq(b.offset, 2);
	cr_assert_eq(b.length, 4);
	cr_assert_eq(a.reads, 0);
	cr_assert(bus_write(&bus, 0x100, data, 1));
	cr_assert_eq(a.writes, 1);
}

Test(bus, nobody_there_reads_all_ones)
{
	struct bus bus = { 0 };
	uint8_t data[8] = { 0 };

	cr_assert_not(bus_read(&bus, 0x100, data, 8));
	for (size_t i = 0; i < 8; i++)
		cr_assert_eq(data[i], 0xff);
	cr_assert_not(bus_write(&bus, 0x100, data, 8));
}

Test(bus, an_access_over_the_end_reaches_nobody)
{
	struct probe a = make_probe(0x100, 8);
	struct bus bus = { 0 };
	uint8_t data[8];

	cr_assert_eq(bus_attach(&bus, &a.device, NULL), 0);
	cr_assert_not(bus_read(&bus, 0x106, data, 4));
	cr_assert_not(bus_read(&bus, 0xff, data, 2));
	cr_assert_not(bus_write(&bus, UINT64_MAX, data, 8));
	cr_assert_eq(a.reads + a.writes, 0);
}

Test(bus, overlapping_devices_are_refused_by_name)
{
	struct probe a = make_probe(0x100, 8), b = make_probe(0x107, 8);
	struct bus bus = { 0 };
	struct error err = { 0 };

	cr_assert_eq(bus_attach(&bus, &a.device, &err), 0);
	cr_assert_eq(bus_attach(&bus, &b.device, &err), -EEXIST);
	cr_assert(strstr(err.message, "probe"));
}

Test(bus, a_full_bus_says_so)
{
	static struct probe probes[BUS_MAX_DEVICES + 1];
	struct bus bus = { 0 };

	for (unsigned int i = 0; i < BUS_MAX_DEVICES; i++) {
		probes[i] = make_probe(i * 16, 16);
		cr_assert_eq(bus_attach(&bus, &probes[i].device, NULL), 0);
	}
	probes[BUS_MAX_DEVICES] = make_probe(0x100000, 16);
	cr_assert_eq(bus_attach(&bus, &probes[BUS_MAX_DEVICES].device, NULL), -ENOSPC);
}

Test(bus, values_are_little_endian)
{
	uint8_t data[8] = { 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0x80 };

	cr_assert_eq(bus_load(data, 1), 0x78);
	cr_assert_eq(bus_load(data, 4), 0x12345678);
	cr_assert_eq(bus_load(data, 8), 0x8000000012345678);
	cr_assert_eq(bus_load(data, 3), 0);
	bus_store(data, 2, 0xabcd);
	cr_assert_eq(data[0], 0xcd);
	cr_assert_eq(data[1], 0xab);
	cr_assert_eq(data[2], 0x34);
}
