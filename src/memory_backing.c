/*
 * Where the pages of guest memory come from: the one file that maps all of it. See
 * include/mayfly/memory.h.
 *
 *	anonymous	private pages of this process: memory_create()
 *	shared base	a memfd which holds every change: memory_share()
 *	private base	a file that nobody changes, memory_map_file(), or a memfd which
 *			nobody changes any more, memory_freeze(): what is written becomes
 *			this process's own, page by page
 *
 * The regions' addresses never change, whatever is mapped there: KVM's memory slots stay as they
 * are, and KVM hears of it by the kernel's notifier.
 *
 * Every region stands between two inaccessible guard ranges, so that an overrun of a span by the
 * monitor itself faults instead of reaching something else.
 *
 * Freezing moves the shared mapping's page tables to another address, 2 MiB at a time, and maps the
 * base privately where they were: tens of microseconds for 128 MiB, where unmapping each page takes
 * milliseconds. That comes later, when the guest runs again, and in steps
 * (memory_go_on_freezing()).
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mayfly/layout.h"
#include "memory_private.h"

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

/*
 * Both are advice: a kernel without transparent huge pages refuses it, and then the pages are
 * small, which is what None asks for and the most that Transparent can get.
 */
static void advise_page_size(const struct memory_region *region, enum huge_pages huge_pages)
{
	if (huge_pages != HUGE_PAGES_2M)
		(void)madvise(region->hva, region->size_bytes,
			      huge_pages == HUGE_PAGES_NONE ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
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
	advise_page_size(region, huge_pages);
	return 0;
}

static int map_regions(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
		       struct error *err)
{
	uint64_t unit = huge_pages == HUGE_PAGES_2M ? HUGE_PAGE_BYTES : PAGE_SIZE_BYTES;
	uint64_t low = size_bytes < LAYOUT_MMIO_GAP_START ? size_bytes : LAYOUT_MMIO_GAP_START;
	int result;

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
		if (result < 0)
			return result;
		memory->region_count = 2;
	}
	memory->size_bytes = size_bytes;
	memory->huge_pages = huge_pages;
	return 0;
}

int memory_create(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
		  struct error *err)
{
	int result;

	*memory = (struct memory) { .base_fd = -1, .own_fd = -1 };
	result = map_regions(memory, size_bytes, huge_pages, err);
	if (result < 0)
		memory_destroy(memory);
	return result;
}

/* A part of a file over a region, `flags` being MAP_SHARED or MAP_PRIVATE. */
static int map_base(const struct memory_region *region, int fd, uint64_t file_offset, int flags,
		    struct error *err)
{
	if (mmap(region->hva, region->size_bytes, PROT_READ | PROT_WRITE,
		 flags | MAP_FIXED | MAP_NORESERVE, fd, (off_t)file_offset) == MAP_FAILED)
		return error_errno(err, "the memory file cannot be mapped");
	/* A mapping laid over another has none of its advice. */
	if (madvise(region->hva, region->size_bytes, MADV_DONTDUMP) < 0)
		return error_errno(err, "cannot keep the memory file out of core files");
	return 0;
}

static int make_base(uint64_t size_bytes, struct error *err)
{
	cleanup_fd int fd = memfd_create("mayfly-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return error_errno(err, "cannot make a memory file for guest memory");
	if (ftruncate(fd, (off_t)size_bytes) < 0)
		return error_errno(err, "cannot make a memory file of %llu MiB for guest memory",
				   (unsigned long long)(size_bytes / MIB));
	/* A file that can be cut would end those who have it mapped. */
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		return error_errno(err, "cannot seal the memory file of guest memory");
	return take_fd(&fd);
}

int memory_share(struct memory *memory, struct error *err)
{
	uint64_t offset = 0;
	int result;

	if (memory->huge_pages == HUGE_PAGES_2M)
		return error_set(err, EINVAL,
				 "memory of 2 MiB pages cannot be shared with another process");
	memory->base_fd = result = make_base(memory->size_bytes, err);
	for (unsigned int i = 0; result >= 0 && i < memory->region_count; i++) {
		struct memory_region *region = &memory->regions[i];

		result = map_base(region, memory->base_fd, offset, MAP_SHARED, err);
		advise_page_size(region, memory->huge_pages);
		offset += region->size_bytes;
	}
	if (result < 0)
		return result;
	memory->shared = true;
	return 0;
}

void memory_destroy(struct memory *memory)
{
	for (unsigned int i = 0; i < memory->region_count; i++)
		region_unmap(&memory->regions[i]);
	if (memory->region_count) /* of a struct that was never made, 0 is no descriptor of ours */
		close_fd(&memory->base_fd);
	if (memory->region_count)
		close_fd(&memory->own_fd);
	free(memory->unforked);
	free(memory->unforked_guest);
	free(memory->own);
	memory_finish_freeze(memory);
	free(memory->dirty);
	*memory = (struct memory) { .base_fd = -1, .own_fd = -1 };
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
		result = memory_read_fully(fd, (uint64_t)data, region->hva + at, end - at,
					   "the memory file", err);
		if (result < 0)
			return result;
		at = end;
	}
	return 0;
}

int memory_map_file(struct memory *memory, int fd, struct error *err)
{
	bool map = memory->huge_pages == HUGE_PAGES_NONE && !memory->shared;
	cleanup_fd int file = fd;
	uint64_t offset = 0;
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];

		result = map ? map_base(region, file, offset, MAP_PRIVATE, err)
			     : read_extents(region, file, offset, err);
		offset += region->size_bytes;
	}
	if (result == 0 && map)
		memory->base_fd = take_fd(&file);
	return result;
}

int memory_create_from_file(struct memory *memory, uint64_t size_bytes, enum huge_pages huge_pages,
			    int fd, struct error *err)
{
	cleanup_fd int file = fd;
	int result = memory_create(memory, size_bytes, huge_pages, err);

	if (result < 0)
		return result;
	result = memory_map_file(memory, take_fd(&file), err);
	if (result < 0)
		memory_destroy(memory);
	return result;
}

/* Address space for all regions, each beginning at a multiple of 2 MiB as it does now: only so do
 * whole page tables move. */
static uint64_t frozen_place_bytes(const struct memory_region *region)
{
	return align_up(region->size_bytes, HUGE_PAGE_BYTES);
}

static int reserve_frozen(struct memory *memory, struct error *err)
{
	uint64_t bytes = HUGE_PAGE_BYTES;
	void *start;

	for (unsigned int i = 0; i < memory->region_count; i++)
		bytes += frozen_place_bytes(&memory->regions[i]);
	start = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return error_errno(err, "no address space is left to freeze guest memory");
	memory->frozen = start;
	memory->frozen_bytes = bytes;
	return 0;
}

static int freeze_region(const struct memory *memory, const struct memory_region *region,
			 uint64_t file_offset, void *to, struct error *err)
{
	int result;

	if (mremap(region->hva, region->size_bytes, region->size_bytes,
		   MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		return error_errno(err, "guest memory cannot be frozen");
	result = map_base(region, memory->base_fd, file_offset, MAP_PRIVATE, err);
	advise_page_size(region, memory->huge_pages);
	return result;
}

/* Nobody has written since: new shared mappings show what the old ones did. */
static void thaw(struct memory *memory)
{
	struct error ignored = { 0 };
	uint64_t offset = 0;

	for (unsigned int i = 0; i < memory->region_count; i++) {
		(void)map_base(&memory->regions[i], memory->base_fd, offset, MAP_SHARED, &ignored);
		advise_page_size(&memory->regions[i], memory->huge_pages);
		offset += memory->regions[i].size_bytes;
	}
	memory_finish_freeze(memory);
}

int memory_freeze(struct memory *memory, struct error *err)
{
	const struct memory_region *regions = memory->regions;
	uint64_t offset = 0;
	uint8_t *to;
	int result;

	if (!memory->shared)
		return 0;
	result = reserve_frozen(memory, err);
	if (result < 0)
		return result;
	to = (uint8_t *)align_up((uintptr_t)memory->frozen, HUGE_PAGE_BYTES);
	for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
		result = freeze_region(memory, &regions[i], offset, to, err);
		offset += regions[i].size_bytes;
		to += frozen_place_bytes(&regions[i]);
	}
	if (result < 0)
		thaw(memory);
	memory->shared = result < 0;
	return result;
}

static void unmap_frozen(struct memory *memory, uint64_t bytes)
{
	munmap(memory->frozen, bytes);
	memory->frozen_bytes -= bytes;
	memory->frozen = memory->frozen_bytes ? (uint8_t *)memory->frozen + bytes : NULL;
}

bool memory_go_on_freezing(struct memory *memory)
{
	uint64_t left = memory->frozen ? memory->frozen_bytes : 0;

	if (left)
		unmap_frozen(memory,
			     left < MEMORY_FREEZE_STEP_BYTES ? left : MEMORY_FREEZE_STEP_BYTES);
	return !memory->frozen;
}

void memory_finish_freeze(struct memory *memory)
{
	if (memory->frozen)
		unmap_frozen(memory, memory->frozen_bytes);
}

bool memory_file_is_whole(const struct memory *memory)
{
	struct stat status;

	if (memory->base_fd < 0 || fstat(memory->base_fd, &status) < 0)
		return true;
	return (uint64_t)status.st_size >= memory->size_bytes;
}
