/* The pages that a restored guest touches first: see include/mayfly/working_set.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "mayfly/atomic_file.h"
#include "mayfly/state.h"
#include "mayfly/working_set.h"
#include "pagemap.h"

#define SECTION "working-set"
#define VERSION 1

#define BITS 64

#define PAGEMAP_BATCH 512

static uint64_t pages_of(const struct working_set *set)
{
	return set->memory_bytes / PAGE_SIZE_BYTES;
}

static bool bit_get(const uint64_t *bits, uint64_t page)
{
	return bits[page / BITS] >> (page % BITS) & 1;
}

static void bit_set(uint64_t *bits, uint64_t page)
{
	bits[page / BITS] |= 1ULL << (page % BITS);
}

int working_set_create(struct working_set *set, uint64_t memory_bytes, struct error *err)
{
	uint64_t words = (memory_bytes / PAGE_SIZE_BYTES + BITS - 1) / BITS;

	*set = (struct working_set) { .memory_bytes = memory_bytes };
	set->touched = calloc(words, sizeof(*set->touched));
	set->written = calloc(words, sizeof(*set->written));
	if (set->touched && set->written)
		return 0;
	working_set_destroy(set);
	return error_set(err, ENOMEM, "no memory for a working set of %llu pages",
			 (unsigned long long)(memory_bytes / PAGE_SIZE_BYTES));
}

void working_set_destroy(struct working_set *set)
{
	free(set->touched);
	free(set->written);
	*set = (struct working_set) { 0 };
}

void working_set_add(struct working_set *set, uint64_t offset, uint64_t length_bytes, bool written)
{
	uint64_t last;

	if (length_bytes == 0 || !range_within(offset, length_bytes, set->memory_bytes))
		return;
	last = (offset + length_bytes - 1) / PAGE_SIZE_BYTES;
	for (uint64_t page = offset / PAGE_SIZE_BYTES; page <= last; page++) {
		bit_set(set->touched, page);
		if (written)
			bit_set(set->written, page);
	}
}

bool working_set_next(const struct working_set *set, struct working_set_run *run)
{
	uint64_t page = (run->offset + run->length_bytes) / PAGE_SIZE_BYTES, first;

	while (page < pages_of(set) && !bit_get(set->touched, page)) {
		/* Most words are empty. */
		if (set->touched[page / BITS] >> (page % BITS) == 0)
			page = align_up(page + 1, BITS);
		else
			page++;
	}
	if (page >= pages_of(set))
		return false;
	first = page;
	run->written = bit_get(set->written, page);
	while (page < pages_of(set) && bit_get(set->touched, page) &&
	       bit_get(set->written, page) == run->written)
		page++;
	run->offset = first * PAGE_SIZE_BYTES;
	run->length_bytes = (page - first) * PAGE_SIZE_BYTES;
	return true;
}

uint64_t working_set_count_pages(const struct working_set *set)
{
	struct working_set_run run = { 0 };
	uint64_t pages = 0;

	while (working_set_next(set, &run))
		pages += run.length_bytes / PAGE_SIZE_BYTES;
	return pages;
}

static int collect_region(struct working_set *set, int fd, const struct memory_region *region,
			  uint64_t offset, struct error *err)
{
	uint64_t entries[PAGEMAP_BATCH];
	uint64_t pages = region->size_bytes / PAGE_SIZE_BYTES;
	uint64_t first = (uintptr_t)region->hva / PAGE_SIZE_BYTES;

	for (uint64_t page = 0; page < pages;) {
		uint64_t left = pages - page;
		size_t wanted = (left < PAGEMAP_BATCH ? left : PAGEMAP_BATCH) * sizeof(*entries);
		ssize_t got = read_at(fd, entries, wanted, (first + page) * sizeof(*entries));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < (ssize_t)sizeof(*entries))
			return error_errno(err, "cannot read " PAGEMAP_PATH);
		for (size_t i = 0; i < (size_t)got / sizeof(*entries); i++, page++) {
			if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
				working_set_add(set, offset + page * PAGE_SIZE_BYTES,
						PAGE_SIZE_BYTES, !(entries[i] & PAGEMAP_FILE));
		}
	}
	return 0;
}

int working_set_collect(struct working_set *set, const struct memory *memory, struct error *err)
{
	cleanup_fd int fd = open(PAGEMAP_PATH, O_RDONLY | O_CLOEXEC);
	uint64_t offset = 0;
	int result = 0;

	if (fd < 0)
		return error_errno(err, "cannot open " PAGEMAP_PATH);
	for (unsigned int i = 0; i < memory->region_count && result == 0; i++) {
		result = collect_region(set, fd, &memory->regions[i], offset, err);
		offset += memory->regions[i].size_bytes;
	}
	return result;
}

/* The part of a run that lies in the region at `offset`, as a host address; NULL: none. */
static uint8_t *part_of_run(const struct working_set_run *run, const struct memory_region *region,
			    uint64_t offset, size_t *length_bytes)
{
	uint64_t start = run->offset > offset ? run->offset : offset;
	uint64_t run_end = run->offset + run->length_bytes;
	uint64_t region_end = offset + region->size_bytes;
	uint64_t end = run_end < region_end ? run_end : region_end;

	if (start >= end)
		return NULL;
	*length_bytes = end - start;
	return region->hva + (start - offset);
}

int working_set_populate(const struct working_set *set, const struct memory *memory,
			 uint64_t *pages, struct error *err)
{
	struct working_set_run run = { 0 };

	*pages = 0;
	if (set->memory_bytes != memory->size_bytes)
		return error_set(err, EINVAL, "the working set is of a guest with %llu MiB",
				 (unsigned long long)(set->memory_bytes / MIB));
	while (working_set_next(set, &run)) {
		uint64_t offset = 0;

		for (unsigned int i = 0; i < memory->region_count; i++) {
			size_t length_bytes = 0;
			uint8_t *hva =
				part_of_run(&run, &memory->regions[i], offset, &length_bytes);

			offset += memory->regions[i].size_bytes;
			if (!hva)
				continue;
			if (madvise(hva, length_bytes,
				    run.written ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) < 0) {
				/* The kernel's word for advice that it does not know. */
				if (errno == EINVAL)
					return 0;
				return error_errno(err, "cannot populate guest memory at 0x%llx",
						   (unsigned long long)run.offset);
			}
			*pages += length_bytes / PAGE_SIZE_BYTES;
		}
	}
	return 0;
}

/* As it stands in the file: little-endian like all of it, which x86-64 is. */
struct saved_run {
	uint32_t first_page;
	uint32_t pages_and_written; /* pages * 2 + written */
};

#define SAVED_RUN_PAGES_MAX (UINT32_MAX >> 1)

_Static_assert(sizeof(struct saved_run) == 8, "a run has no padding");

static unsigned int count_runs(const struct working_set *set)
{
	struct working_set_run run = { 0 };
	unsigned int count = 0;

	while (working_set_next(set, &run))
		count++;
	return count;
}

static int write_file(const char *path, const struct state_writer *writer, struct error *err)
{
	struct atomic_file file;
	int result = atomic_file_open(&file, path, err);

	if (result == 0)
		result = atomic_file_write(&file, writer->bytes, writer->used_bytes, 0, err);
	if (result == 0)
		result = atomic_file_flush(&file, err);
	if (result == 0)
		result = atomic_file_commit(&file, err);
	atomic_file_close(&file);
	return result;
}

int working_set_save(const struct working_set *set, const char *path, struct error *err)
{
	unsigned int count = count_runs(set), i = 0;
	cleanup_free struct saved_run *runs = calloc(count + 1, sizeof(*runs));
	struct working_set_run run = { 0 };
	struct state_writer writer;
	int result;

	if (!runs)
		return error_set(err, ENOMEM, "working set %s: no memory for %u runs", path, count);
	while (i < count && working_set_next(set, &run)) {
		uint32_t pages = (uint32_t)(run.length_bytes / PAGE_SIZE_BYTES);

		runs[i++] = (struct saved_run) {
			.first_page = (uint32_t)(run.offset / PAGE_SIZE_BYTES),
			.pages_and_written = pages << 1 | (run.written ? 1 : 0),
		};
	}
	state_writer_init(&writer);
	state_begin(&writer, SECTION, "", VERSION);
	state_put_u64(&writer, set->memory_bytes);
	state_put_u32(&writer, (uint32_t)PAGE_SIZE_BYTES);
	state_put_bytes(&writer, runs, (uint32_t)(i * sizeof(*runs)));
	state_end(&writer);
	result = state_writer_finish(&writer, err);
	if (result == 0)
		result = write_file(path, &writer, err);
	state_writer_destroy(&writer);
	return result < 0 ? error_prefix(err, "working set %s", path) : 0;
}

static void read_runs(struct working_set *set, struct state_section *section)
{
	uint32_t length_bytes;
	const void *bytes = state_get_span(section, STATE_MAX_FILE_BYTES, &length_bytes);
	uint64_t next = 0;

	if (length_bytes % sizeof(struct saved_run) != 0)
		state_refuse(section, "runs", "%u bytes are no whole number of runs", length_bytes);
	for (uint32_t at = 0; !state_failed(section) && at < length_bytes;
	     at += (uint32_t)sizeof(struct saved_run)) {
		struct saved_run run;
		uint64_t pages;

		memcpy(&run, (const uint8_t *)bytes + at, sizeof(run));
		pages = run.pages_and_written >> 1;
		if (pages == 0 || run.first_page < next ||
		    !range_within(run.first_page, pages, pages_of(set))) {
			state_refuse(section, "runs", "%llu pages from page %u on cannot be",
				     (unsigned long long)pages, run.first_page);
			return;
		}
		next = run.first_page + pages;
		working_set_add(set, run.first_page * PAGE_SIZE_BYTES, pages * PAGE_SIZE_BYTES,
				run.pages_and_written & 1);
	}
}

static int read_file(struct working_set *set, uint64_t memory_bytes, struct state_file *file,
		     struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, "", VERSION, &section, err);
	uint64_t saved_bytes;
	uint32_t page_bytes;

	if (result < 0)
		return error_set(err, EINVAL, "it is no working set");
	saved_bytes = state_get_u64(&section);
	page_bytes = state_get_u32(&section);
	if (saved_bytes != memory_bytes)
		state_refuse(&section, "memory_bytes", "%llu; this guest has %llu",
			     (unsigned long long)saved_bytes, (unsigned long long)memory_bytes);
	if (page_bytes != PAGE_SIZE_BYTES)
		state_refuse(&section, "page_bytes", "%u, not %llu", page_bytes, PAGE_SIZE_BYTES);
	result = working_set_create(set, memory_bytes, err);
	if (result < 0)
		return result;
	if (!state_failed(&section))
		read_runs(set, &section);
	return state_done(&section, err);
}

int working_set_load(struct working_set *set, uint64_t memory_bytes, const char *path,
		     struct error *err)
{
	struct state_file file;
	int result;

	*set = (struct working_set) { 0 };
	if (access(path, F_OK) < 0)
		return error_errno(err, "working set %s", path);
	result = state_file_open(&file, path, err);
	if (result == 0)
		result = read_file(set, memory_bytes, &file, err);
	state_file_close(&file);
	if (result == 0)
		return 0;
	working_set_destroy(set);
	return error_prefix(err, "working set %s", path);
}
