/*
 * Which pages of guest memory the monitor itself has written: see include/mayfly/memory.h. KVM
 * keeps the same record of what vCPUs write; together they are what a diff snapshot holds.
 */
#include <stdatomic.h>

#include "memory_private.h"

int memory_track_dirty(struct memory *memory, struct error *err)
{
	if (memory->dirty) {
		memory_clear_dirty(memory);
		return 0;
	}
	memory->dirty = calloc(memory_dirty_words(memory), sizeof(*memory->dirty));
	if (!memory->dirty)
		return error_set(err, ENOMEM, "no memory for the record of dirty pages");
	return 0;
}

static void mark(_Atomic uint64_t *bitmap, uint64_t page)
{
	_Atomic uint64_t *word = &bitmap[page / MEMORY_WORD_BITS];
	uint64_t bit = 1ULL << page % MEMORY_WORD_BITS;

	/* Rings are written again and again: a read shared by all threads is cheaper. */
	if (!(atomic_load_explicit(word, memory_order_relaxed) & bit))
		atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
}

/* Two records; `unforked` may be NULL. */
static void mark_pages(_Atomic uint64_t *dirty, _Atomic uint64_t *unforked, uint64_t first_page,
		       uint64_t last_page)
{
	for (uint64_t page = first_page; page <= last_page; page++) {
		mark(dirty, page);
		if (unforked)
			mark(unforked, page);
	}
}

void memory_mark_guest_pages(const struct memory *memory, uint64_t first_page, uint64_t last_page)
{
	mark_pages(memory->dirty, memory->unforked_guest, first_page, last_page);
}

void memory_mark_dirty_slow(const struct memory *memory, const void *hva, size_t length_bytes)
{
	const uint8_t *at = hva;
	uint64_t offset = 0;

	if (length_bytes == 0)
		return;
	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		if (at >= region->hva && at < region->hva + region->size_bytes) {
			offset += (uint64_t)(at - region->hva);
			mark_pages(memory->dirty, memory->unforked, offset / PAGE_SIZE_BYTES,
				   (offset + length_bytes - 1) / PAGE_SIZE_BYTES);
			return;
		}
		offset += region->size_bytes;
	}
}

void memory_add_dirty(struct memory *memory, unsigned int index, const uint64_t *bitmap)
{
	uint64_t page = 0, pages = memory->regions[index].size_bytes / PAGE_SIZE_BYTES;

	for (unsigned int i = 0; i < index; i++)
		page += memory->regions[i].size_bytes / PAGE_SIZE_BYTES;
	for (uint64_t i = 0; i < pages; i++) {
		if (bitmap[i / MEMORY_WORD_BITS] == 0)
			i |= MEMORY_WORD_BITS - 1;
		else if (bitmap[i / MEMORY_WORD_BITS] >> i % MEMORY_WORD_BITS & 1)
			memory_mark_guest_pages(memory, page + i, page + i);
	}
}

bool memory_is_dirty(const struct memory *memory, uint64_t offset)
{
	uint64_t page = offset / PAGE_SIZE_BYTES;

	return memory->dirty[page / MEMORY_WORD_BITS] >> page % MEMORY_WORD_BITS & 1;
}

void memory_clear_dirty(struct memory *memory)
{
	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		memory->dirty[i] = 0;
}
