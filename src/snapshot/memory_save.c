/*
 * Writing a memory file: see include/mayfly/memory_file.h.
 *
 * Which pages are looked at. /proc/self/pagemap says of each whether this process has it, and
 * whether it is one of a mapped file; where there is no /proc, all are looked at. A page that
 * nobody has touched is zero, unless a file is mapped there: then the file has its content. Pages
 * of a memory file which are still the file's own are skipped where that file has a hole. What is
 * looked at and zero becomes a hole too; in a diff it is written, since the base has something else
 * there.
 *
 * Pages go out in runs, straight from guest memory.
 */
#include <fcntl.h>
#include <string.h>

#include "memory_tail.h"
#include "pagemap.h"

#define STEP_PAGES 512
#define STEP_BYTES (STEP_PAGES * PAGE_SIZE_BYTES)

struct save {
	const struct memory *memory;
	const struct memory_file_options *options;
	struct atomic_file *file;
	int pagemap_fd; /* -1: none */
	/* Where the memory file that all is mapped from has data: [data_from, data_to). */
	uint64_t data_from, data_to;
	/* The run of pages that waits to be written. */
	uint64_t run_offset, run_bytes;
	const uint8_t *run_hva;
	uint64_t data_bytes;
};

static bool is_zero_page(const uint8_t *page)
{
	const uint64_t *words = (const uint64_t *)(const void *)page;

	for (size_t i = 0; i < PAGE_SIZE_BYTES / sizeof(*words); i += 8) {
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
		    words[i + 5] | words[i + 6] | words[i + 7])
			return false;
	}
	return true;
}

static int write_run(struct save *save, struct error *err)
{
	int result = atomic_file_write(save->file, save->run_hva, save->run_bytes, save->run_offset,
				       err);

	save->data_bytes += save->run_bytes;
	save->run_bytes = 0;
	return result;
}

static int add_page(struct save *save, const uint8_t *hva, uint64_t offset, struct error *err)
{
	int result = 0;

	if (save->run_bytes && (save->run_hva + save->run_bytes != hva ||
				save->run_offset + save->run_bytes != offset))
		result = write_run(save, err);
	if (save->run_bytes == 0) {
		save->run_hva = hva;
		save->run_offset = offset;
	}
	save->run_bytes += PAGE_SIZE_BYTES;
	return result;
}

/* Whether the memory file behind guest memory has something at `offset`; offsets only grow. */
static bool base_has_data(struct save *save, uint64_t offset)
{
	int fd = save->memory->base_fd;

	if (offset >= save->data_to) {
		off_t from = lseek(fd, (off_t)offset, SEEK_DATA), to;

		if (from < 0) {
			/* ENXIO: holes up to the end. Another error: it is looked at. */
			save->data_from = errno == ENXIO ? UINT64_MAX : 0;
			save->data_to = UINT64_MAX;
		} else {
			to = lseek(fd, from, SEEK_HOLE);
			save->data_from = (uint64_t)from & ~(PAGE_SIZE_BYTES - 1);
			save->data_to = to < 0 ? UINT64_MAX : (uint64_t)to;
		}
	}
	return offset >= save->data_from;
}

static bool in_file_range(const struct memory *memory, uint64_t offset)
{
	for (unsigned int i = 0; i < memory->file_range_count; i++) {
		const struct memory_range *range = &memory->file_ranges[i];

		if (offset >= range->offset && offset - range->offset < range->length_bytes)
			return true;
	}
	return false;
}

enum content {
	CONTENT_NONE,	/* zero, nobody touched it */
	CONTENT_FILE,	/* as in the file that is mapped */
	CONTENT_CHANGED /* this process's own */
};

static enum content content_of(struct save *save, uint64_t offset, uint64_t pagemap)
{
	bool touched = pagemap & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED);
	const struct memory *memory = save->memory;

	/* To read a hole of shared memory would be to fill it. */
	if (memory->shared)
		return base_has_data(save, offset) ? CONTENT_FILE : CONTENT_NONE;
	if (save->pagemap_fd < 0 && memory->base_fd >= 0 && memory->own_fd >= 0 &&
	    !memory_is_own(memory, offset))
		return base_has_data(save, offset) ? CONTENT_FILE : CONTENT_NONE;
	if (touched && !(pagemap & PAGEMAP_FILE))
		return CONTENT_CHANGED;
	if (memory->base_fd >= 0)
		return base_has_data(save, offset) ? CONTENT_FILE : CONTENT_NONE;
	return touched || in_file_range(memory, offset) ? CONTENT_FILE : CONTENT_NONE;
}

static bool wanted(struct save *save, const uint8_t *hva, uint64_t offset, uint64_t pagemap)
{
	const struct memory *memory = save->memory;

	if (save->options->base && memory->dirty)
		return memory_is_dirty(memory, offset);
	switch (content_of(save, offset, pagemap)) {
	case CONTENT_NONE:
		return false;
	case CONTENT_FILE:
		return !save->options->base && !is_zero_page(hva);
	case CONTENT_CHANGED:
		return save->options->base || !is_zero_page(hva);
	}
	return true;
}

/* What the pagemap says of `pages` pages from `hva` on. What it does not say counts as changed. */
static void read_pagemap(const struct save *save, const uint8_t *hva, size_t pages, uint64_t *out)
{
	size_t wanted_bytes = pages * sizeof(*out);
	uint64_t at = (uintptr_t)hva / PAGE_SIZE_BYTES * sizeof(*out);

	if (save->pagemap_fd >= 0 &&
	    read_at(save->pagemap_fd, out, wanted_bytes, at) == (ssize_t)wanted_bytes)
		return;
	for (size_t i = 0; i < pages; i++)
		out[i] = PAGEMAP_PRESENT;
}

static int save_region(struct save *save, const struct memory_region *region, uint64_t offset,
		       struct error *err)
{
	uint64_t pagemap[STEP_PAGES];
	int result = 0;

	for (uint64_t at = 0; at < region->size_bytes; at += STEP_BYTES) {
		uint64_t left = region->size_bytes - at;
		size_t pages = (left < STEP_BYTES ? left : STEP_BYTES) / PAGE_SIZE_BYTES;

		read_pagemap(save, region->hva + at, pages, pagemap);
		for (size_t i = 0; result == 0 && i < pages; i++) {
			uint64_t within = at + i * PAGE_SIZE_BYTES;

			if (wanted(save, region->hva + within, offset + within, pagemap[i]))
				result = add_page(save, region->hva + within, offset + within, err);
		}
		if (result < 0)
			return result;
	}
	return write_run(save, err);
}

static int write_tail(struct save *save, struct error *err)
{
	const struct memory_file_options *options = save->options;
	struct tail_mark mark =
		tail_make_mark(save->memory->size_bytes, &options->id, options->base);
	uint64_t at = save->memory->size_bytes;
	uint8_t page[PAGE_SIZE_BYTES] = { 0 };
	int result;

	memcpy(page, &mark, sizeof(mark));
	result = atomic_file_write(save->file, page, sizeof(page), at, err);
	if (result < 0 || options->base)
		return result;
	memset(page, 0, sizeof(page));
	memcpy(page, tail_complete, sizeof(tail_complete));
	return atomic_file_write(save->file, page, sizeof(page), at + sizeof(page), err);
}

int memory_file_save(const struct memory *memory, const struct memory_file_options *options,
		     struct atomic_file *file, struct memory_file_size *size, struct error *err)
{
	cleanup_fd int pagemap_fd = open(PAGEMAP_PATH, O_RDONLY | O_CLOEXEC);
	struct save save = {
		.memory = memory, .options = options, .file = file, .pagemap_fd = pagemap_fd
	};
	uint64_t offset = 0;
	int result = atomic_file_open(file, options->path, err);

	if (result < 0)
		return result;
	if (ftruncate(file->fd, (off_t)(memory->size_bytes + MEMORY_FILE_TAIL_BYTES)) < 0)
		result = error_errno(err, "%s cannot be written", options->path);
	for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
		result = save_region(&save, &memory->regions[i], offset, err);
		offset += memory->regions[i].size_bytes;
	}
	if (result == 0)
		result = write_tail(&save, err);
	if (result < 0)
		atomic_file_close(file);
	size->data_bytes = save.data_bytes;
	return result;
}
