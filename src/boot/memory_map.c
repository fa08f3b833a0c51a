/*
 * What both boot protocols hand to a kernel: the memory map (types as in ACPI 6.5, 15 System
 * Address Map Interfaces) and the global descriptor table that the boot vCPU starts with (Intel SDM
 * volume 3, 3.4.5 Segment Descriptors).
 */
#include "parts.h"

#define LOW_RAM_END                                                                  \
	0x000a0000ULL /* from here to LAYOUT_ACPI is where a PC has its video memory \
		       */
#define KVM_PAGES_BYTES (LAYOUT_KVM_TSS + 3 * PAGE_SIZE_BYTES - LAYOUT_KVM_IDENTITY_MAP)

unsigned int boot_memory_map(const struct memory *memory,
			     struct boot_memory_range map[BOOT_MEMORY_MAP_MAX])
{
	unsigned int count = 0;

	map[count++] = (struct boot_memory_range) { 0, LAYOUT_EBDA, BOOT_MEMORY_RAM };
	map[count++] = (struct boot_memory_range) { LAYOUT_EBDA, LOW_RAM_END - LAYOUT_EBDA,
						    BOOT_MEMORY_RESERVED };
	map[count++] = (struct boot_memory_range) { LAYOUT_ACPI, LAYOUT_HIGH_MEMORY - LAYOUT_ACPI,
						    BOOT_MEMORY_RESERVED };
	map[count++] =
		(struct boot_memory_range) { LAYOUT_HIGH_MEMORY,
					     boot_low_memory_end(memory) - LAYOUT_HIGH_MEMORY,
					     BOOT_MEMORY_RAM };
	map[count++] = (struct boot_memory_range) { LAYOUT_KVM_IDENTITY_MAP, KVM_PAGES_BYTES,
						    BOOT_MEMORY_RESERVED };
	for (unsigned int i = 1; i < memory->region_count; i++)
		map[count++] = (struct boot_memory_range) { memory->regions[i].gpa,
							    memory->regions[i].size_bytes,
							    BOOT_MEMORY_RAM };
	return count;
}

/* Flat 4 GiB segments; "accessed" is set, so that the processor need not write to the table. */
#define DESCRIPTOR_FLAT(access, flags) \
	(0x000f00000000ffffULL | (uint64_t)(access) << 40 | (uint64_t)(flags) << 52)
#define ACCESS_CODE  0x9b /* present, ring 0, execute and read */
#define ACCESS_DATA  0x93 /* present, ring 0, read and write */
#define FLAGS_32_BIT 0xc  /* 4 KiB granularity, 32-bit */
#define FLAGS_64_BIT 0xa  /* 4 KiB granularity, 64-bit code */
#define DESCRIPTOR_TSS \
	0x00008b0000000067ULL /* busy, base 0, the least limit; 16 bytes long in 64-bit mode */

int boot_write_gdt(struct memory *memory, struct boot_entry *entry, struct error *err)
{
	/* The selectors of code and data are those that boot.rst (1.14, 64-bit protocol) asks for.
	 */
	const uint64_t gdt[] = {
		[0x08 / 8] = DESCRIPTOR_FLAT(ACCESS_CODE, FLAGS_32_BIT),
		[0x10 / 8] = DESCRIPTOR_FLAT(ACCESS_CODE, FLAGS_64_BIT),
		[0x18 / 8] = DESCRIPTOR_FLAT(ACCESS_DATA, FLAGS_32_BIT),
		[0x20 / 8] = DESCRIPTOR_TSS,
		[0x28 / 8] = 0,
	};

	if (!memory_write(memory, LAYOUT_GDT, gdt, sizeof(gdt)))
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for its descriptor table",
				 LAYOUT_GDT);
	entry->gdt_base = LAYOUT_GDT;
	entry->gdt_limit = sizeof(gdt) - 1;
	return 0;
}
