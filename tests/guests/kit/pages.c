/* RAM: see pages.h. */
#include "cpu.h"
#include "end.h"
#include "pages.h"
#include "text.h"

#define LOW_MEMORY_END	 0x100000ULL
#define MAPPED_END	 0x100000000ULL
#define GIB		 0x40000000ULL
#define LARGE_PAGE_BYTES 0x200000ULL
#define TABLE_ENTRIES	 512
#define TABLE_FLAGS	 0x67 /* as in boot.inc */
#define LARGE_FLAGS	 0xe7

extern const uint8_t image_end[];
extern uint64_t page_directory_pointers[TABLE_ENTRIES];

static uint64_t next_page;

static uint64_t first_free(void)
{
	return next_page ? next_page : (uintptr_t)image_end;
}

void *pages_take(uint64_t count)
{
	uint64_t start = first_free();
	uint64_t bytes = count * PAGE_BYTES;

	for (unsigned int i = 0; i < boot_info.range_count; i++) {
		const struct boot_range *range = &boot_info.ranges[i];

		if (range->type == BOOT_RANGE_RAM && start >= range->start &&
		    start < range->start + range->bytes &&
		    range->start + range->bytes - start >= bytes) {
			next_page = start + bytes;
			return memset((void *)start, 0, bytes);
		}
	}
	guest_fail("there is no memory for %llu pages", (unsigned long long)count);
}

unsigned int pages_free_ranges(struct boot_range ranges[BOOT_RANGES_MAX])
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < boot_info.range_count; i++) {
		struct boot_range range = boot_info.ranges[i];
		uint64_t end = (range.start + range.bytes) & ~(uint64_t)(PAGE_BYTES - 1);

		range.start = (range.start + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1);
		if (range.type != BOOT_RANGE_RAM || end <= LOW_MEMORY_END)
			continue;
		if (range.start < first_free())
			range.start = first_free();
		if (range.start >= end)
			continue;
		range.bytes = end - range.start;
		ranges[count++] = range;
	}
	return count;
}

/* Runs in ring 3, where filling a table takes no time. */
static uint64_t fill_directory(void *argument)
{
	uint64_t *entry = argument;
	uint64_t *directory = (uint64_t *)(*entry & ~(uint64_t)(PAGE_BYTES - 1));
	uint64_t gib = (uint64_t)(entry - page_directory_pointers);

	for (uint64_t i = 0; i < TABLE_ENTRIES; i++)
		directory[i] = (gib * GIB + i * LARGE_PAGE_BYTES) | LARGE_FLAGS;
	return 0;
}

void pages_map(uint64_t start, uint64_t bytes)
{
	for (uint64_t gib = start / GIB; gib * GIB < start + bytes; gib++) {
		if (gib >= TABLE_ENTRIES)
			guest_fail("memory at %#llx cannot be mapped",
				   (unsigned long long)(gib * GIB));
		if (page_directory_pointers[gib])
			continue;
		page_directory_pointers[gib] = (uintptr_t)pages_take(1) | TABLE_FLAGS;
		user_run(fill_directory, &page_directory_pointers[gib]);
	}
}
