/*
 * The Linux 64-bit boot protocol: Linux Documentation/arch/x86/boot.rst "64-bit Boot Protocol" and
 * zero-page.rst.
 *
 * The boot vCPU starts in 64-bit mode at the kernel's 64-bit entry, paging on with the first memory
 * identity-mapped, interrupts off, RSI at the zero page (struct boot_params), which carries the
 * setup header, the memory map, the places of command line, initrd and ACPI's root pointer, and a
 * seed for the random number generator.
 */
#include <string.h>
#include <sys/random.h>

#include "parts.h"

#define PAGE_TABLE_ENTRIES 512
#define PAGE_PRESENT	   (1ULL << 0)
#define PAGE_WRITABLE	   (1ULL << 1)
#define PAGE_ACCESSED	   (1ULL << 5)
#define PAGE_DIRTY	   (1ULL << 6)
#define PAGE_LARGE	   (1ULL << 7)
#define LARGE_PAGE_BYTES   (2 * MIB)

#define LOADER_UNDEFINED 0xff /* a boot loader without an assigned number */

/*
 * Identity-maps whole gigabytes, up to the one in which the kernel ends: each costs one page of
 * guest memory. What lies elsewhere (initrd, tables) the kernel maps itself before it looks.
 */
static int write_page_tables(struct memory *memory, uint64_t end, struct boot_entry *entry,
			     struct error *err)
{
	const uint64_t pml4 = LAYOUT_PAGE_TABLES;
	const uint64_t pdpt = pml4 + PAGE_SIZE_BYTES;
	const uint64_t first_directory = pdpt + PAGE_SIZE_BYTES;
	const uint64_t directories = align_up(end, GIB) / GIB;
	uint64_t upper[LAYOUT_PAGE_DIRECTORIES];
	uint64_t directory[PAGE_TABLE_ENTRIES];
	bool ok;

	if (directories > LAYOUT_PAGE_DIRECTORIES)
		return error_set(
			err, EINVAL,
			"the kernel ends at 0x%llx, behind what can be mapped at its start",
			(unsigned long long)end);
	upper[0] = pdpt | PAGE_PRESENT | PAGE_WRITABLE | PAGE_ACCESSED;
	ok = memory_write(memory, pml4, upper, sizeof(upper[0]));
	for (uint64_t i = 0; i < directories; i++)
		upper[i] = (first_directory + i * PAGE_SIZE_BYTES) | PAGE_PRESENT | PAGE_WRITABLE |
			   PAGE_ACCESSED;
	ok = ok && memory_write(memory, pdpt, upper, directories * sizeof(upper[0]));
	for (uint64_t i = 0; i < directories; i++) {
		for (uint64_t j = 0; j < PAGE_TABLE_ENTRIES; j++)
			directory[j] = (i * GIB + j * LARGE_PAGE_BYTES) | PAGE_PRESENT |
				       PAGE_WRITABLE | PAGE_ACCESSED | PAGE_DIRTY | PAGE_LARGE;
		ok = ok && memory_write(memory, first_directory + i * PAGE_SIZE_BYTES, directory,
					sizeof(directory));
	}
	if (!ok)
		return error_set(err, EINVAL,
				 "the guest has no memory at 0x%llx for its first page tables",
				 LAYOUT_PAGE_TABLES);
	entry->cr3 = pml4;
	return 0;
}

static void fill_memory_map(const struct memory *memory, struct boot_params *zero_page)
{
	struct boot_memory_range map[BOOT_MEMORY_MAP_MAX];
	unsigned int count = boot_memory_map(memory, map);

	for (unsigned int i = 0; i < count; i++)
		zero_page->e820_table[i] = (struct boot_e820_entry) {
			.addr = map[i].gpa, .size = map[i].size_bytes, .type = (uint32_t)map[i].type
		};
	zero_page->e820_entries = (uint8_t)count;
}

/* struct setup_data with what follows it. */
struct random_seed {
	uint64_t next;
	uint32_t type;
	uint32_t length;
	uint8_t seed[32];
};

/*
 * No device of the machine gives random numbers, so the kernel gets its first ones here (boot.rst,
 * setup_data; SETUP_RNG_SEED since Linux 6.0, older kernels pass over it). The kernel erases them
 * once read.
 */
static bool write_random_seed(struct memory *memory, struct boot_params *zero_page)
{
	struct random_seed item = { .type = SETUP_RNG_SEED, .length = sizeof(item.seed) };
	bool ok = true;

	/* An early host without randomness has none to give: the guest then waits for its own. */
	if (getrandom(item.seed, sizeof(item.seed), GRND_NONBLOCK) == (ssize_t)sizeof(item.seed)) {
		ok = memory_write(memory, LAYOUT_RANDOM_SEED, &item, sizeof(item));
		zero_page->hdr.setup_data = LAYOUT_RANDOM_SEED;
	}
	explicit_bzero(item.seed, sizeof(item.seed));
	return ok;
}

int linux64_write(struct memory *memory, const struct boot_kernel *kernel,
		  const struct boot_initrd *initrd, struct boot_entry *entry, struct error *err)
{
	struct boot_params zero_page;
	int result;

	_Static_assert(sizeof(zero_page) == PAGE_SIZE_BYTES, "the zero page is a page");
	_Static_assert(BOOT_MEMORY_MAP_MAX <= E820_MAX_ENTRIES_ZEROPAGE,
		       "the memory map fits into the zero page");
	memset(&zero_page, 0, sizeof(zero_page));
	zero_page.hdr = kernel->header;
	zero_page.hdr.type_of_loader = LOADER_UNDEFINED;
	zero_page.hdr.cmd_line_ptr = (uint32_t)LAYOUT_CMDLINE;
	zero_page.hdr.ramdisk_image = (uint32_t)initrd->gpa;
	zero_page.ext_ramdisk_image = (uint32_t)(initrd->gpa >> 32);
	zero_page.hdr.ramdisk_size = (uint32_t)initrd->size_bytes;
	zero_page.ext_ramdisk_size = (uint32_t)(initrd->size_bytes >> 32);
	zero_page.acpi_rsdp_addr = LAYOUT_ACPI;
	fill_memory_map(memory, &zero_page);
	if (!write_random_seed(memory, &zero_page) ||
	    !memory_write(memory, LAYOUT_ZERO_PAGE, &zero_page, sizeof(zero_page)))
		return error_set(err, EINVAL, "the guest has no memory at 0x%llx for its zero page",
				 LAYOUT_ZERO_PAGE);
	result = boot_write_gdt(memory, entry, err);
	if (result == 0)
		result = write_page_tables(memory, kernel->end, entry, err);
	if (result < 0)
		return result;
	entry->protocol = BOOT_PROTOCOL_LINUX;
	entry->rip = kernel->entry;
	entry->rsi = LAYOUT_ZERO_PAGE;
	entry->rsp = LAYOUT_BOOT_STACK;
	return 0;
}
