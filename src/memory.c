/*
 * Access to guest memory, and the files that are laid over parts of it: see
 * include/mayfly/memory.h. Where all the rest of its pages come from: memory_backing.c.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "memory_private.h"

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

int memory_read_fully(int fd, uint64_t offset, uint8_t *destination, uint64_t length,
		      const char *what, struct error *err)
{
	while (length > 0) {
		ssize_t got = read_at(fd, destination, length, offset);

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
 * for each page that it reads and then writes, which a kernel does with most of itself. What
 * is mapped over a shared base is not in it.
 */
static uint64_t mappable_bytes(const struct memory *memory, uint64_t gpa, uint64_t offset,
			       uint64_t length)
{
	if (memory->shared || memory->huge_pages != HUGE_PAGES_NONE ||
	    !is_aligned(gpa | offset, PAGE_SIZE_BYTES))
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
	return memory_read_fully(fd, offset + mapped, hva + mapped, length - mapped, what, err);
}
