/*
 * From the first instructions (start.S) to the program: see boot.h.
 *
 * Sources: Linux Documentation/arch/x86/zero-page.rst, arch/x86/include/uapi/asm/bootparam.h;
 * xen/include/public/arch-x86/hvm/start_info.h.
 */
#include "boot.h"
#include "cpu.h"
#include "end.h"
#include "params.h"
#include "text.h"

#define ZERO_PAGE_E820_COUNT   0x1e8
#define ZERO_PAGE_CMDLINE      0x228
#define ZERO_PAGE_CMDLINE_HIGH 0x0c8
#define ZERO_PAGE_E820	       0x2d0

#define START_INFO_MAGIC 0x336ec578

struct e820_entry {
	uint64_t start, bytes;
	uint32_t type;
} __attribute__((packed));

struct start_info {
	uint32_t magic, version, flags, module_count;
	uint64_t modules, cmdline, rsdp;
	/* Version 1. */
	uint64_t memory_map;
	uint32_t memory_map_entries, reserved;
};

struct start_info_range {
	uint64_t start, bytes;
	uint32_t type, reserved;
};

struct boot_info boot_info;

void kit_start(const uint8_t *handed_over, uint32_t protocol);

static void add_range(uint64_t start, uint64_t bytes, uint32_t type)
{
	if (boot_info.range_count == BOOT_RANGES_MAX)
		guest_fail("the memory map has more than %d ranges", BOOT_RANGES_MAX);
	boot_info.ranges[boot_info.range_count++] = (struct boot_range) { start, bytes, type };
}

static uint64_t read_zero_page(const uint8_t *page)
{
	uint32_t low, high;

	for (unsigned int i = 0; i < page[ZERO_PAGE_E820_COUNT]; i++) {
		struct e820_entry entry;

		memcpy(&entry, page + ZERO_PAGE_E820 + i * sizeof(entry), sizeof(entry));
		add_range(entry.start, entry.bytes, entry.type);
	}
	memcpy(&low, page + ZERO_PAGE_CMDLINE, sizeof(low));
	memcpy(&high, page + ZERO_PAGE_CMDLINE_HIGH, sizeof(high));
	return (uint64_t)high << 32 | low;
}

static uint64_t read_start_info(const struct start_info *info)
{
	if (info->magic != START_INFO_MAGIC)
		guest_fail("PVH: the start info's magic value is %#x", info->magic);
	if (info->version < 1)
		guest_fail("PVH: start info of version %u has no memory map", info->version);
	for (uint32_t i = 0; i < info->memory_map_entries; i++) {
		const struct start_info_range *range =
			(const struct start_info_range *)info->memory_map + i;

		add_range(range->start, range->bytes, range->type);
	}
	return info->cmdline;
}

/* Runs in ring 3. False when the text is too long. */
static uint64_t copy_cmdline(void *text)
{
	size_t length = text ? text_length(text) : 0;

	if (length >= BOOT_CMDLINE_BYTES)
		return false;
	memcpy(boot_info.cmdline, text, length);
	return true;
}

void kit_start(const uint8_t *handed_over, uint32_t protocol)
{
	uint64_t cmdline;

	boot_info.start_tsc = tsc_read();
	boot_info.protocol = (enum boot_protocol)protocol;
	cpu_init(0);
	cmdline = protocol == BOOT_PVH ? read_start_info((const struct start_info *)handed_over)
				       : read_zero_page(handed_over);
	if (!user_run(copy_cmdline, (void *)cmdline))
		guest_fail("the command line has %d bytes or more", BOOT_CMDLINE_BYTES);
	params_init();
	guest_main();
	guest_end();
}
