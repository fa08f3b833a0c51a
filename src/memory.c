/*
 * Guest memory: private anonymous pages of this process, one mapping for each region, over which
 * files are mapped copy-on-write. See include/mayfly/memory.h.
 *
 * Every mapping stands between two inaccessible guard ranges, so that an overrun of a span by the
 * monitor itself faults instead of reaching something else.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mayfly/layout.h"
#include "mayfly/memory.h"

#define HUGE_PAGE_BYTES (2 * MIB)
#define GUARD_BYTES	HUGE_PAGE_BYTES /* also aligns what is between the guards for huge pages */

static void region_unmap(struct memory_region *region)
{
	munmap(region->hva - GUARD_BYTES, region->size_bytes + 2 * GUARD_BYTES);
}

/* Reserves address space for `size_bytes` aligned to 2 MiB with a guard on either side. */
static uint8_t *reserve(uint64_t size_bytes)
{
	size_t wanted = size_bytes + 2 * GUARD_BYTES;
	uint8_t *start, *aligned;
	size_t before, behind;

	start = mmap(NULL, wanted + HUGE_PAGE_BYTES, PROT_NONE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return NULL;
	aligned = (uint8_t *)align_up((uintptr_t)start, HUGE_PAGE_BYTES);
	before = (size_t)(aligned - start);
	behind = HUGE_PAGE_BYTES - before;
	if (before)
		munmap(start, before);
	if (behind)
		munmap(aligned + wanted, behind);
	return aligned + GUARD_BYTES;
}

static int region_map(struct memory_region *region, uint64_t gpa, uint64_t size_bytes,
		      enum huge_pages huge_pages, struct error *err)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
	uint8_t *hva = reserve(size_bytes);
	int result;

	if (!hva)
		return error_errno(err, "cannot reserve %llu MiB of address space for guest memory",
				   (unsigned long long)(size_bytes / MIB));
	*region = (struct memory_region) { .gpa = gpa, .size_bytes = size_bytes, .hva = hva };
	if (huge_pages == HUGE_PAGES_2M) {
		/* Reserved now: a guest that runs must not die of an empty pool later. */
		flags = (flags & ~MAP_NORESERVE) | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT);
	}
	if (mmap(hva, size_bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) {
		int code = errno;

		region_unmap(region);
		errno = code;
		if (huge_pages == HUGE_PAGES_2M && code == ENOMEM)
			return error_set(
				err, ENOMEM,
				"not enough free 2 MiB pages for %llu MiB of guest memory: set vm.nr_hugepages to at "
				"least %llu, or huge_pages to None",
				(unsigned long long)(size_bytes / MIB),
				(unsigned long long)(size_bytes / HUGE_PAGE_BYTES));
		return error_errno(err, "cannot map %llu MiB of guest memory",
				   (unsigned long long)(size_bytes / MIB));
	}
	/* What a guest keeps in its memory has no business in a core file of the monitor. */
	if (madvise(hva, size_bytes, MADV_DONTDUMP) < 0) {
		result = error_errno(err, "cannot keep guest memory out of core files");
		region_unmap(region);
		return result;
	}
	/*
	 * Both are advice: a kernel without transparent huge pages refuses it, and then the pages
	 * are small, which is what None asks for and the most that Transparent can get.
	 */
	if (huge_pages != HUGE_PAGES_2M)
		(void)madvise(hva, size_bytes,
			      huge_pages == HUGE_PAGES_NONE ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	return 0;
}

int memory_create(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
		  struct error *err)
{
	uint64_t unit = huge_pages == HUGE_PAGES_2M ? HUGE_PAGE_BYTES : PAGE_SIZE_BYTES;
	uint64_t low = size_bytes < LAYOUT_MMIO_GAP_START ? size_bytes : LAYOUT_MMIO_GAP_START;
	int result;

	*memory = (struct memory) { .snapshot_fd = -1 };
	if (size_bytes == 0 || !is_aligned(size_bytes, unit) || size_bytes > (1ULL << 46))
		return error_set(
			err, EINVAL,
			"guest memory of %llu bytes is not a multiple of the page size of %llu",
			(unsigned long long)size_bytes, (unsigned long long)unit);
	result = region_map(&memory->regions[0], 0, low, huge_pages, err);
	if (result < 0)
		return result;
	memory->region_count = 1;
	if (size_bytes > low) {
		result = region_map(&memory->regions[1], LAYOUT_MMIO_GAP_END, size_bytes - low,
				    huge_pages, err);
		if (result < 0) {
			memory_destroy(memory);
			return result;
		}
		memory->region_count = 2;
	}
	memory->size_bytes = size_bytes;
	memory->huge_pages = huge_pages;
	return 0;
}

void memory_destroy(struct memory *memory)
{
	for (unsigned int i = 0; i < memory->region_count; i++)
		region_unmap(&memory->regions[i]);
	if (memory->region_count) /* of a struct that was never made, 0 is no descriptor of ours */
		close_fd(&memory->snapshot_fd);
	free(memory->dirty);
	*memory = (struct memory) { .snapshot_fd = -1 };
}

void *memory_span(const struct memory *memory, uint64_t gpa, uint64_t length)
{
	if (length == 0)
		return NULL;
	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		if (gpa >= region->gpa &&
		    range_within(gpa - region->gpa, length, region->size_bytes))
			return region->hva + (gpa - region->gpa);
	}
	return NULL;
}

/*
 * The compiler must neither read guest memory a second time after these copies nor merge them with
 * later ones: what was checked is what is used.
 */
static void copy_once(void *destination, const void *source, size_t length)
{
	memcpy(destination, source, length);
	__asm__ volatile("" ::: "memory");
}

bool memory_read(const struct memory *memory, uint64_t gpa, void *destination, size_t length)
{
	const void *span = memory_span(memory, gpa, length);

	if (!span)
		return false;
	copy_once(destination, span, length);
	return true;
}

bool memory_write(const struct memory *memory, uint64_t gpa, const void *source, size_t length)
{
	void *span = memory_span(memory, gpa, length);

	if (!span)
		return false;
	copy_once(span, source, length);
	memory_mark_dirty(memory, span, length);
	return true;
}

static int read_fully(int fd, uint64_t offset, uint8_t *destination, uint64_t length,
		      const char *what, struct error *err)
{
	while (length > 0) {
		ssize_t got = pread(fd, destination, length, (off_t)offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, "cannot read %s", what);
		if (got == 0)
			return error_set(err, EINVAL, "%s is shorter than its headers say", what);
		destination += got;
		offset += (uint64_t)got;
		length -= (uint64_t)got;
	}
	return 0;
}

/*
 * The whole pages of the range, when they are to be mapped; 0 when everything is read. The pages of
 * a file are small ones: mapped, they would cost a guest that shall have large pages three faults
 * for each page that it reads and then writes, which a kernel does with most of itself.
 */
static uint64_t mappable_bytes(const struct memory *memory, uint64_t gpa, uint64_t offset,
			       uint64_t length)
{
	if (memory->huge_pages != HUGE_PAGES_NONE || !is_aligned(gpa | offset, PAGE_SIZE_BYTES))
		return 0;
	return length & ~(PAGE_SIZE_BYTES - 1);
}

/* When there are more than can be kept, the last one grows over what lies between. */
static void note_file_range(struct memory *memory, const uint8_t *hva, uint64_t length)
{
	struct memory_range *last = &memory->file_ranges[MEMORY_MAX_FILE_RANGES - 1];
	uint64_t before = 0, offset = 0, end;

	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		if (hva >= region->hva && hva < region->hva + region->size_bytes)
			offset = before + (uint64_t)(hva - region->hva);
		before += region->size_bytes;
	}
	if (memory->file_range_count < MEMORY_MAX_FILE_RANGES) {
		memory->file_ranges[memory->file_range_count++] =
			(struct memory_range) { offset, length };
		return;
	}
	end = last->offset + last->length_bytes;
	end = end > offset + length ? end : offset + length;
	last->offset = last->offset < offset ? last->offset : offset;
	last->length_bytes = end - last->offset;
}

int memory_load_file(struct memory *memory, uint64_t gpa, int fd, uint64_t offset, uint64_t length,
		     const char *what, struct error *err)
{
	uint8_t *hva = memory_span(memory, gpa, length);
	struct stat status;
	uint64_t mapped;

	if (!hva)
		return error_set(
			err, EINVAL,
			"%s does not fit into guest memory: %llu bytes at 0x%llx of %llu MiB", what,
			(unsigned long long)length, (unsigned long long)gpa,
			(unsigned long long)(memory->size_bytes / MIB));
	if (fstat(fd, &status) < 0)
		return error_errno(err, "cannot examine %s", what);
	/* A page mapped beyond the end of its file would raise SIGBUS when the guest touches it. */
	if (!S_ISREG(status.st_mode) || !range_within(offset, length, (uint64_t)status.st_size))
		return error_set(err, EINVAL, "%s is shorter than its headers say", what);
	mapped = mappable_bytes(memory, gpa, offset, length);
	if (mapped &&
	    mmap(hva, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
		 (off_t)offset) == MAP_FAILED) {
		/*
		 * A file system that cannot map (ENODEV) leaves the old pages in place, any other
		 * failure may not: only the first can go on by reading.
		 */
		if (errno != ENODEV)
			return error_errno(err, "cannot map %s", what);
		mapped = 0;
	}
	if (mapped)
		note_file_range(memory, hva, mapped);
	/* A mapping laid over guest memory has none of its advice: this, too, becomes the guest's.
	 */
	if (mapped && madvise(hva, mapped, MADV_DONTDUMP) < 0)
		return error_errno(err, "cannot keep %s out of core files", what);
	return read_fully(fd, offset + mapped, hva + mapped, length - mapped, what, err);
}

/* Whole extents of the file, so that what is a hole in it stays untouched memory. */
static int read_extents(const struct memory_region *region, int fd, uint64_t file_offset,
			struct error *err)
{
	uint64_t at = 0;

	while (at < region->size_bytes) {
		off_t data = lseek(fd, (off_t)(file_offset + at), SEEK_DATA), hole;
		uint64_t end;
		int result;

		if (data < 0)
			return errno == ENXIO ? 0
					      : error_errno(err, "the memory file cannot be read");
		at = (uint64_t)data - file_offset;
		if (at >= region->size_bytes)
			return 0;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return error_errno(err, "the memory file cannot be read");
		end = (uint64_t)hole - file_offset;
		end = end < region->size_bytes ? end : region->size_bytes;
		result = read_fully(fd, (uint64_t)data, region->hva + at, end - at,
				    "the memory file", err);
		if (result < 0)
			return result;
		at = end;
	}
	return 0;
}

static int map_extent(const struct memory_region *region, int fd, uint64_t file_offset,
		      struct error *err)
{
	if (mmap(region->hva, region->size_bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)file_offset) == MAP_FAILED)
		return error_errno(err, "the memory file cannot be mapped");
	if (madvise(region->hva, region->size_bytes, MADV_DONTDUMP) < 0)
		return error_errno(err, "cannot keep the memory file out of core files");
	return 0;
}

int memory_create_from_file(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
			    int fd, struct error *err)
{
	cleanup_fd int file = fd;
	int result = memory_create(memory, size_bytes, huge_pages, err);
	bool map = huge_pages == HUGE_PAGES_NONE;
	uint64_t offset = 0;

	for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		result = map ? map_extent(region, file, offset, err)
			     : read_extents(region, file, offset, err);
		offset += region->size_bytes;
	}
	if (result < 0) {
		memory_destroy(memory);
		return result;
	}
	if (map)
		memory->snapshot_fd = take_fd(&file);
	return 0;
}

bool memory_file_is_whole(const struct memory *memory)
{
	struct stat status;

	if (memory->snapshot_fd < 0 || fstat(memory->snapshot_fd, &status) < 0)
		return true;
	return (uint64_t)status.st_size >= memory->size_bytes;
}
