/*
 * What the boot protocol handed over: the command line and the memory map, the same for both
 * protocols.
 */
#ifndef KIT_BOOT_H
#define KIT_BOOT_H

#include <stddef.h>
#include <stdint.h>

#define BOOT_RANGES_MAX	   32
#define BOOT_CMDLINE_BYTES 4096

enum boot_protocol {
	BOOT_LINUX, /* Linux 64-bit */
	BOOT_PVH,
};

struct boot_range {
	uint64_t start, bytes;
	uint32_t type; /* ACPI 6.5, 15: 1 is RAM */
};

#define BOOT_RANGE_RAM 1

struct boot_info {
	enum boot_protocol protocol;
	uint64_t start_tsc; /* a few instructions after the first */
	char cmdline[BOOT_CMDLINE_BYTES];
	struct boot_range ranges[BOOT_RANGES_MAX];
	unsigned int range_count;
};

extern struct boot_info boot_info;

/* The program; when it returns, the machine is reset. In ring 0, interrupts off. */
void guest_main(void);

#endif
