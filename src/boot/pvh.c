/*
 * The PVH boot protocol (Xen docs/misc/pvh.pandoc, xen/include/public/arch-x86/hvm/start_info.h):
 * the boot vCPU starts in 32-bit protected mode without paging, flat segments, interrupts off, at
 * the entry that the kernel's ELF note names; EBX points to the start info, which points to the
 * command line, the initrd (a module), the memory map and ACPI's root pointer.
 */
#include <string.h>

#include "parts.h"

#define START_INFO_MAGIC   0x336ec578 /* "xEn3", the top bit of the 'E' set */
#define START_INFO_VERSION 1

struct pvh_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t module_count;
	uint64_t modules_gpa;
	uint64_t cmdline_gpa;
	uint64_t rsdp_gpa;
	uint64_t memory_map_gpa;
	uint32_t memory_map_entries;
	uint32_t reserved;
};

struct pvh_module {
	uint64_t gpa;
	uint64_t size_bytes;
	uint64_t cmdline_gpa;
	uint64_t reserved;
};

struct pvh_memory_map_entry {
	uint64_t gpa;
	uint64_t size_bytes;
	uint32_t type;
	uint32_t reserved;
};

/* All of it in one page. */
struct pvh_page {
	struct pvh_start_info start_info;
	struct pvh_module initrd;
	struct pvh_memory_map_entry memory_map[BOOT_MEMORY_MAP_MAX];
};

int pvh_write(struct memory *memory, const struct boot_kernel *kernel,
	      const struct boot_initrd *initrd, struct boot_entry *entry, struct error *err)
{
	const uint64_t gpa = LAYOUT_PVH_START_INFO;
	struct boot_memory_range map[BOOT_MEMORY_MAP_MAX];
	unsigned int count = boot_memory_map(memory, map);
	struct pvh_page page;
	int result;

	_Static_assert(sizeof(struct pvh_start_info) == 56,
		       "version 1 of the start info has 56 bytes");
	_Static_assert(sizeof(struct pvh_module) == 32, "a module has 32 bytes");
	_Static_assert(sizeof(struct pvh_memory_map_entry) == 24,
		       "an entry of the memory map has 24 bytes");
	memset(&page, 0, sizeof(page));
	page.start_info = (struct pvh_start_info) {
		.magic = START_INFO_MAGIC,
		.version = START_INFO_VERSION,
		.cmdline_gpa = LAYOUT_CMDLINE,
		.rsdp_gpa = LAYOUT_ACPI,
		.memory_map_gpa = gpa + offsetof(struct pvh_page, memory_map),
		.memory_map_entries = count,
	};
	if (initrd->size_bytes) {
		page.start_info.module_count = 1;
		page.start_info.modules_gpa = gpa + offsetof(struct pvh_page, initrd);
		page.initrd = (struct pvh_module) { .gpa = initrd->gpa,
						    .size_bytes = initrd->size_bytes };
	}
	for (unsigned int i = 0; i < count; i++)
		page.memory_map[i] =
			(struct pvh_memory_map_entry) { .gpa = map[i].gpa,
							.size_bytes = map[i].size_bytes,
							.type = (uint32_t)map[i].type };
	if (!memory_write(memory, gpa, &page, sizeof(page)))
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for the PVH start info",
				 (unsigned long long)gpa);
	result = boot_write_gdt(memory, entry, err);
	if (result < 0)
		return result;
	entry->protocol = BOOT_PROTOCOL_PVH;
	entry->rip = kernel->entry;
	entry->rbx = gpa;
	return 0;
}
