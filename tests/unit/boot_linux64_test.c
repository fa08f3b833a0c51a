#include "boot_helper.h"

struct loaded {
	struct memory memory;
	struct boot_params zero_page;
	struct boot_entry entry;
};

static struct loaded load(uint64_t memory_bytes, uint64_t kernel_end, struct boot_initrd initrd)
{
	struct loaded loaded = { .memory = make_memory(memory_bytes) };
	struct boot_kernel kernel = { .protocol = BOOT_PROTOCOL_LINUX,
				      .entry = 0x1000123,
				      .start = 0x1000000,
				      .end = kernel_end,
				      .header = { .header = 0x53726448, .version = 0x20f } };
	struct error err = { 0 };

	cr_assert_eq(linux64_write(&loaded.memory, &kernel, &initrd, &loaded.entry, &err), 0, "%s",
		     err.message);
	cr_assert(memory_read(&loaded.memory, LAYOUT_ZERO_PAGE, &loaded.zero_page,
			      sizeof(loaded.zero_page)));
	return loaded;
}

static uint64_t get64(const struct memory *memory, uint64_t gpa)
{
	uint64_t value;

	cr_assert(memory_read(memory, gpa, &value, sizeof(value)));
	return value;
}

Test(boot_linux64, registers_are_as_the_protocol_asks)
{
	struct loaded loaded = load(64 * MIB, 0x2000000, (struct boot_initrd) { 0 });
	const struct boot_entry *entry = &loaded.entry;

	cr_assert_eq(entry->protocol, BOOT_PROTOCOL_LINUX);
	cr_assert_eq(entry->rip, 0x1000123);
	cr_assert_eq(entry->rsi, LAYOUT_ZERO_PAGE);
	cr_assert_eq(entry->rsp, LAYOUT_BOOT_STACK);
	cr_assert_eq(entry->cr3, LAYOUT_PAGE_TABLES);
	memory_destroy(&loaded.memory);
}

/* As the processor walks them: every address below `end` is mapped to itself, writable, and nothing
 * behind is. */
static void check_page_tables(const struct memory *memory, uint64_t cr3, uint64_t end)
{
	for (uint64_t address = 0; address < 8 * GIB; address += 2 * MIB) {
		uint64_t entry = get64(memory, cr3 + (address >> 39) * 8);

		cr_assert_eq(entry & 0x83, 3, "PML4 entry 0x%llx", (unsigned long long)entry);
		entry = get64(memory, (entry & ~0xfffULL) + ((address >> 30) & 511) * 8);
		if (address >= end) {
			cr_assert_eq(entry, 0, "0x%llx is mapped", (unsigned long long)address);
			continue;
		}
		cr_assert_eq(entry & 0x83, 3, "PDPT entry 0x%llx", (unsigned long long)entry);
		entry = get64(memory, (entry & ~0xfffULL) + ((address >> 21) & 511) * 8);
		cr_assert_eq(entry & 0x83, 0x83, "directory entry 0x%llx",
			     (unsigned long long)entry);
		cr_assert_eq(entry & ~0xfffULL, address);
	}
	for (unsigned int i = 1; i < 512; i++)
		cr_assert_eq(get64(memory, cr3 + i * 8), 0);
}

Test(boot_linux64, whole_gigabytes_up_to_the_kernels_end_are_mapped)
{
	static const struct {
		uint64_t kernel_end, mapped_end;
	} cases[] = {
		{ 0x2000000, GIB }, { GIB, GIB }, { GIB + 1, 2 * GIB }, { 3 * GIB, 3 * GIB }
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct loaded loaded =
			load(3 * GIB, cases[i].kernel_end, (struct boot_initrd) { 0 });

		check_page_tables(&loaded.memory, loaded.entry.cr3, cases[i].mapped_end);
		memory_destroy(&loaded.memory);
	}
}

Test(boot_linux64, the_gdt_has_the_segments_of_the_protocol)
{
	struct loaded loaded = load(64 * MIB, 0x2000000, (struct boot_initrd) { 0 });
	uint64_t base = loaded.entry.gdt_base;

	cr_assert_eq(loaded.entry.gdt_limit, 6 * 8 - 1);
	cr_assert_eq(get64(&loaded.memory, base), 0);
	cr_assert_eq(get64(&loaded.memory, base + 0x08), 0x00cf9b000000ffff, "32-bit code");
	cr_assert_eq(get64(&loaded.memory, base + 0x10), 0x00af9b000000ffff, "64-bit code");
	cr_assert_eq(get64(&loaded.memory, base + 0x18), 0x00cf93000000ffff, "data");
	cr_assert_eq(get64(&loaded.memory, base + 0x20), 0x00008b0000000067, "task state");
	cr_assert_eq(get64(&loaded.memory, base + 0x28), 0);
	memory_destroy(&loaded.memory);
}

static void check_memory_map(const struct boot_params *zero_page,
			     const struct boot_e820_entry *expected, size_t count)
{
	cr_assert_eq(zero_page->e820_entries, count);
	for (size_t i = 0; i < count; i++) {
		struct boot_e820_entry found = zero_page->e820_table[i];

		cr_assert(found.addr == expected[i].addr && found.size == expected[i].size &&
				  found.type == expected[i].type,
			  "entry %zu: type %u, 0x%llx bytes at 0x%llx", i, found.type,
			  (unsigned long long)found.size, (unsigned long long)found.addr);
	}
}

Test(boot_linux64, the_memory_map_of_a_small_guest)
{
	static const struct boot_e820_entry expected[] = {
		{ 0, 0x9fc00, 1 },	   { 0x9fc00, 0x400, 2 },     { 0xe0000, 0x20000, 2 },
		{ 0x100000, 15 * MIB, 1 }, { 0xfffbc000, 0x4000, 2 },
	};
	struct loaded loaded = load(16 * MIB, 0x200000, (struct boot_initrd) { 0 });

	check_memory_map(&loaded.zero_page, expected, ARRAY_SIZE(expected));
	memory_destroy(&loaded.memory);
}

Test(boot_linux64, memory_continues_above_the_gap)
{
	static const struct boot_e820_entry expected[] = {
		{ 0, 0x9fc00, 1 },	   { 0x9fc00, 0x400, 2 },
		{ 0xe0000, 0x20000, 2 },   { 0x100000, 3 * GIB - MIB, 1 },
		{ 0xfffbc000, 0x4000, 2 }, { 4 * GIB, 2 * GIB, 1 },
	};
	struct loaded loaded = load(5 * GIB, 0x2000000, (struct boot_initrd) { 0 });

	check_memory_map(&loaded.zero_page, expected, ARRAY_SIZE(expected));
	memory_destroy(&loaded.memory);
}

Test(boot_linux64, the_zero_page_points_to_everything)
{
	struct loaded loaded = load(64 * MIB, 0x2000000,
				    (struct boot_initrd) { .gpa = 0x3000000, .size_bytes = 12345 });
	const struct boot_params *zero_page = &loaded.zero_page;

	cr_assert_eq(zero_page->hdr.header, 0x53726448);
	cr_assert_eq(zero_page->hdr.version, 0x20f);
	cr_assert_eq(zero_page->hdr.type_of_loader, 0xff);
	cr_assert_eq(zero_page->hdr.cmd_line_ptr, LAYOUT_CMDLINE);
	cr_assert_eq(zero_page->ext_cmd_line_ptr, 0);
	cr_assert_eq(zero_page->hdr.ramdisk_image, 0x3000000);
	cr_assert_eq(zero_page->hdr.ramdisk_size, 12345);
	cr_assert_eq(zero_page->ext_ramdisk_image, 0);
	cr_assert_eq(zero_page->acpi_rsdp_addr, LAYOUT_ACPI);
	cr_assert_eq(zero_page->sentinel, 0);
	memory_destroy(&loaded.memory);
}

Test(boot_linux64, each_guest_gets_a_random_seed_of_its_own)
{
	uint8_t seeds[2][32], zero[32] = { 0 };

	for (int i = 0; i < 2; i++) {
		struct loaded loaded = load(64 * MIB, 0x2000000, (struct boot_initrd) { 0 });
		uint64_t gpa = loaded.zero_page.hdr.setup_data;

		cr_assert_eq(gpa, LAYOUT_RANDOM_SEED);
		cr_assert_eq(get64(&loaded.memory, gpa), 0, "the last of the list");
		cr_assert_eq(get64(&loaded.memory, gpa + 8), 9 | 32ULL << 32,
			     "SETUP_RNG_SEED of 32 bytes");
		cr_assert(memory_read(&loaded.memory, gpa + 16, seeds[i], 32));
		cr_assert_neq(memcmp(seeds[i], zero, 32), 0);
		memory_destroy(&loaded.memory);
	}
	cr_assert_neq(memcmp(seeds[0], seeds[1], 32), 0);
}

/* What the guest does not need stays untouched: pages are what a microVM costs. */
Test(boot_linux64, few_pages_are_touched)
{
	struct memory memory = make_memory(64 * MIB);
	struct elf_image image = make_elf();
	struct boot_request request = { .cmdline = "x", .protocol = BOOT_PROTOCOL_LINUX };
	struct boot_entry entry;
	struct error err;
	unsigned char resident[LAYOUT_HIGH_MEMORY / PAGE_SIZE_BYTES];
	unsigned int touched = 0;

	cr_assert_eq(load_kernel_bytes(&memory, &image, sizeof(image), request, &entry, &err), 0,
		     "%s", err.message);
	cr_assert_eq(
		mincore(memory_span(&memory, 0, LAYOUT_HIGH_MEMORY), LAYOUT_HIGH_MEMORY, resident),
		0);
	for (size_t i = 0; i < sizeof(resident); i++)
		touched += resident[i] & 1;
	/* Page 0, zero page, PML4, PDPT, one directory, command line, EBDA, ACPI. */
	cr_assert_eq(touched, 8);
	memory_destroy(&memory);
}
