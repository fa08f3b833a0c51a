/*
 * Accesses to where nothing is, by instructions of every shape, and over the edges of what is
 * there. KVM's own devices (interrupt controllers, timer, speaker) are left alone. See hostile.h.
 */
#include "hostile.h"
#include "mayfly/layout.h"
#include "text.h"

#define PORTS 0x10000

static uint8_t buffer[2 * PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));

/* 8259 and 8254 and port 0x61, the trigger modes, the reset ports; and what the kit needs. */
static bool is_taken(uint32_t port)
{
	return (port >= 0x20 && port < 0x70) || (port >= 0xa0 && port < 0xa2) ||
	       (port >= 0x3f0 && port < 0x400) || (port >= 0x4d0 && port < 0x4d2);
}

static uint32_t port_step(void)
{
	return rounds > PORTS ? 1 : (uint32_t)(PORTS / rounds) | 1;
}

static void ports_read(struct rig *rig)
{
	(void)rig;
	for (uint32_t port = 0; port < PORTS - 4; port += port_step()) {
		if (is_taken(port) || is_taken(port + 3))
			continue;
		expect(in8((uint16_t)port) == 0xff, "byte", port);
		expect(in16((uint16_t)port) == 0xffff, "word", port);
		expect(in32((uint16_t)port) == UINT32_MAX, "double_word", port);
	}
	in16(0xffff);
	in32(0xffff);
	in32(0xfffd);
}

static void ports_written(struct rig *rig)
{
	(void)rig;
	for (uint32_t port = 0; port < PORTS - 4; port += port_step()) {
		if (is_taken(port) || is_taken(port + 3))
			continue;
		out8((uint16_t)port, 0xfe);
		out16((uint16_t)port, 0x0606);
		out32((uint16_t)port, UINT32_MAX);
	}
	out32(0xffff, 0);
}

static void strings_from_ports(struct rig *rig)
{
	static const uint16_t ports[] = { 0x80, 0x3f8, 0x3fd, 0x3ff, 0x60, 0x64, 0xcf8, 0xfffe };
	static const uint32_t counts[] = { 1, 3, 511, PAGE_BYTES, 2 * PAGE_BYTES };

	(void)rig;
	for (unsigned int p = 0; p < sizeof(ports) / sizeof(ports[0]); p++) {
		for (unsigned int c = 0; c < sizeof(counts) / sizeof(counts[0]); c++) {
			in8_string(ports[p], buffer, counts[c]);
			in16_string(ports[p], buffer, counts[c] / 2);
			in32_string(ports[p], buffer, counts[c] / 4);
		}
	}
	in8_string(0x80, buffer, sizeof(buffer));
	expect(bytes_are(buffer, 0xff, sizeof(buffer)), "what_nobody_says", buffer[0]);
}

static void strings_to_ports(struct rig *rig)
{
	static const uint16_t ports[] = { 0x80, 0x3ff, 0xcf8, 0xcfc, 0xfffe };

	(void)rig;
	for (unsigned int p = 0; p < sizeof(ports) / sizeof(ports[0]); p++) {
		out8_string(ports[p], buffer, 100);
		out16_string(ports[p], buffer, 100);
		out32_string(ports[p], buffer, 100);
	}
	out8_string(0x80, buffer, sizeof(buffer));
	out8_string(0x80, buffer, 0);
}

static bool is_controller(uint64_t address)
{
	return (address >= LAYOUT_IO_APIC && address < LAYOUT_IO_APIC + PAGE_BYTES) ||
	       (address >= LAYOUT_LOCAL_APIC && address < LAYOUT_LOCAL_APIC + PAGE_BYTES) ||
	       (address >= LAYOUT_KVM_IDENTITY_MAP && address < LAYOUT_KVM_TSS + 3ULL * PAGE_BYTES);
}

static bool is_window(uint64_t address)
{
	uint64_t bytes = LAYOUT_MAX_VIRTIO_DEVICES * LAYOUT_VIRTIO_MMIO_BYTES;

	return (address >= LAYOUT_VIRTIO_MMIO && address < LAYOUT_VIRTIO_MMIO + bytes) ||
	       (address >= LAYOUT_VIRTIO_MMIO_CMDLINE &&
		address < LAYOUT_VIRTIO_MMIO_CMDLINE + bytes);
}

static void memory_that_is_not_there(struct rig *rig)
{
	uint64_t step = (LAYOUT_MMIO_GAP_END - LAYOUT_MMIO_GAP_START) / rounds & ~7ULL;

	(void)rig;
	step = step > PAGE_BYTES ? step | 0xff8 : PAGE_BYTES;
	for (uint64_t address = LAYOUT_MMIO_GAP_START; address < LAYOUT_MMIO_GAP_END - 8;
	     address += step) {
		if (is_controller(address) || is_controller(address + 8) || is_window(address) ||
		    is_window(address + 8))
			continue;
		for (unsigned int width = 1; width <= 8; width *= 2) {
			mmio_write(address, width, 0);
			expect(mmio_read(address, width) == UINT64_MAX >> (64 - 8 * width), "value",
			       address);
		}
	}
}

/* Half of an access is memory, half is nothing. */
static void over_the_end_of_memory(struct rig *rig)
{
	uint64_t end = end_of_memory();

	(void)rig;
	for (unsigned int width = 2; width <= 8; width *= 2) {
		for (uint64_t address = end - width + 1; address < end; address++) {
			mmio_write(address, width, 0x1122334455667788ULL);
			expect(mmio_read8(address) == 0x88, "byte", address);
			expect((mmio_read(address, width) & 0xff) == 0x88, "low_byte", address);
		}
	}
	/* A string across it: into nothing, and out of it. */
	move8_string(end - 64, (uintptr_t)buffer, 128);
	move8_string((uintptr_t)buffer, end - 64, 128);
	expect(bytes_are(buffer + 64, 0xff, 64), "string", buffer[64]);
}

static void over_the_edges_of_windows(struct rig *rig)
{
	static const uint64_t edges[] = { LAYOUT_VIRTIO_MMIO,
					  LAYOUT_VIRTIO_MMIO + PAGE_BYTES,
					  LAYOUT_VIRTIO_MMIO + 2ULL * PAGE_BYTES,
					  LAYOUT_VIRTIO_MMIO_CMDLINE,
					  LAYOUT_VIRTIO_MMIO_CMDLINE + PAGE_BYTES,
					  LAYOUT_VIRTIO_MMIO_CMDLINE + 2ULL * PAGE_BYTES };

	(void)rig;
	for (unsigned int e = 0; e < sizeof(edges) / sizeof(edges[0]); e++) {
		for (unsigned int width = 2; width <= 8; width *= 2) {
			for (uint64_t address = edges[e] - width + 1; address < edges[e];
			     address++) {
				mmio_read(address, width);
				mmio_write(address, width, 0);
			}
		}
	}
}

/* Instructions that a compiler would not choose for a register. */
static void strings_over_windows(struct rig *rig)
{
	uint64_t base = LAYOUT_VIRTIO_MMIO_CMDLINE;

	(void)rig;
	bytes_fill(buffer, 0, sizeof(buffer));
	move8_string((uintptr_t)buffer, base, 1024);
	move64_string((uintptr_t)buffer, base, 1024 / 8);
	move64_string((uintptr_t)buffer, base + PAGE_BYTES - 512 + 1, 1024 / 8);
	move64_string(base, (uintptr_t)buffer, 1024 / 8);
	move8_string(base + PAGE_BYTES, base, 512); /* from one window to the next */
	store32_string(base + PAGE_BYTES / 2, 0, PAGE_BYTES / 4);
	store32_string(base, UINT32_MAX, 0x30 / 4);
	for (uint64_t offset = 0; offset < 0x200; offset += 28) {
		if (offset / 4 * 4 == 0x70)
			continue;
		exchange32(base + offset, 0);
		add32_locked(base + offset, 1);
		exchange32(base + offset + 1, 1);
	}
	in8_string(0x80, (void *)(base + 0x400), 64);
	out8_string(0x80, (const void *)base, 64);
	if (witness_rig()->device)
		rig_start(witness_rig(), 0);
}

static const struct hostile_case cases[] = {
	{ "ports-read", ports_read, 0 },
	{ "ports-written", ports_written, 0 },
	{ "strings-from-ports", strings_from_ports, 0 },
	{ "strings-to-ports", strings_to_ports, 0 },
	{ "memory-that-is-not-there", memory_that_is_not_there, 0 },
	{ "over-the-end-of-memory", over_the_end_of_memory, 0 },
	{ "over-the-edges-of-windows", over_the_edges_of_windows, 0 },
	{ "strings-over-windows", strings_over_windows, 0 },
};

const struct hostile_suite suite_nowhere = SUITE("nowhere", NEED_NOTHING, false, cases);
