#include "boot_helper.h"

static struct memory load(uint64_t memory_bytes, struct boot_initrd initrd,
			  struct boot_entry *entry)
{
	struct memory memory = make_memory(memory_bytes);
	struct boot_kernel kernel = {
		.protocol = BOOT_PROTOCOL_PVH, .entry = 0x200080, .start = 0x200000, .end = 0x400000
	};
	struct error err = { 0 };

	memset(entry, 0, sizeof(*entry));
	cr_assert_eq(pvh_write(&memory, &kernel, &initrd, entry, &err), 0, "%s", err.message);
	return memory;
}

static uint64_t get(const struct memory *memory, uint64_t gpa, size_t bytes)
{
	uint64_t value = 0;

	cr_assert(memory_read(memory, gpa, &value, bytes));
	return value;
}

Test(boot_pvh, registers_are_as_the_protocol_asks)
{
	struct boot_entry entry;
	struct memory memory = load(64 * MIB, (struct boot_initrd) { 0 }, &entry);

	cr_assert_eq(entry.protocol, BOOT_PROTOCOL_PVH);
	cr_assert_eq(entry.rip, 0x200080);
	cr_assert_eq(entry.rbx, LAYOUT_PVH_START_INFO);
	cr_assert_eq(entry.cr3, 0, "no paging");
	cr_assert_eq(entry.gdt_limit, 6 * 8 - 1);
	cr_assert_eq(get(&memory, entry.gdt_base + 0x08, 8), 0x00cf9b000000ffff, "32-bit code");
	cr_assert_eq(get(&memory, entry.gdt_base + 0x18, 8), 0x00cf93000000ffff, "data");
	memory_destroy(&memory);
}

/* Offsets from xen/include/public/arch-x86/hvm/start_info.h. */
Test(boot_pvh, the_start_info_points_to_everything)
{
	struct boot_entry entry;
	struct memory memory = load(
		64 * MIB, (struct boot_initrd) { .gpa = 0x3000000, .size_bytes = 12345 }, &entry);
	uint64_t info = entry.rbx, module = get(&memory, info + 16, 8);

	cr_assert_eq(get(&memory, info, 4), 0x336ec578);
	cr_assert_eq(get(&memory, info + 4, 4), 1, "version");
	cr_assert_eq(get(&memory, info + 8, 4), 0, "flags");
	cr_assert_eq(get(&memory, info + 12, 4), 1, "modules");
	cr_assert_eq(get(&memory, info + 24, 8), LAYOUT_CMDLINE);
	cr_assert_eq(get(&memory, info + 32, 8), LAYOUT_ACPI);
	cr_assert_eq(get(&memory, info + 52, 4), 0, "reserved");
	cr_assert_eq(get(&memory, module, 8), 0x3000000);
	cr_assert_eq(get(&memory, module + 8, 8), 12345);
	cr_assert_eq(get(&memory, module + 16, 8), 0, "no command line");
	cr_assert_eq(get(&memory, module + 24, 8), 0, "reserved");
	memory_destroy(&memory);
}

Test(boot_pvh, without_an_initrd_there_is_no_module)
{
	struct boot_entry entry;
	struct memory memory = load(64 * MIB, (struct boot_initrd) { 0 }, &entry);

	cr_assert_eq(get(&memory, entry.rbx + 12, 4), 0);
	cr_assert_eq(get(&memory, entry.rbx + 16, 8), 0);
	memory_destroy(&memory);
}

Test(boot_pvh, the_memory_map_has_all_memory)
{
	static const struct {
		uint64_t gpa, bytes, type;
	} expected[] = {
		{ 0, 0x9fc00, 1 },	   { 0x9fc00, 0x400, 2 },
		{ 0xe0000, 0x20000, 2 },   { 0x100000, 3 * GIB - MIB, 1 },
		{ 0xfffbc000, 0x4000, 2 }, { 4 * GIB, GIB, 1 },
	};
	struct boot_entry entry;
	struct memory memory = load(4 * GIB, (struct boot_initrd) { 0 }, &entry);
	uint64_t map = get(&memory, entry.rbx + 40, 8);

	cr_assert_eq(get(&memory, entry.rbx + 48, 4), ARRAY_SIZE(expected));
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		cr_assert_eq(get(&memory, map + i * 24, 8), expected[i].gpa, "entry %zu", i);
		cr_assert_eq(get(&memory, map + i * 24 + 8, 8), expected[i].bytes, "entry %zu", i);
		cr_assert_eq(get(&memory, map + i * 24 + 16, 4), expected[i].type, "entry %zu", i);
		cr_assert_eq(get(&memory, map + i * 24 + 20, 4), 0, "entry %zu", i);
	}
	memory_destroy(&memory);
}
