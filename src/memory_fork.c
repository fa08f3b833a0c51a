/*
 * Forks of guest memory: see include/mayfly/memory.h.
 *
 *	base_fd   0123456789abcdef	mapped copy-on-write by all; sealed against writing
 *	own_fd    ..2..5.........	the parent's own as of the last fork; holes elsewhere
 *
 * The first fork of a guest that was booted copies nothing: all of its memory is the base. What is
 * copied later goes out in runs, straight from guest memory. The new process reads its
 * parent's own pages instead of mapping them: runs are short, and a mapping of each would cost more
 * than its bytes; and the parent may then use the file again.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "memory_private.h"

int memory_enable_fork(struct memory *memory, struct error *err)
{
	memory->unforked = calloc(memory_dirty_words(memory), sizeof(*memory->unforked));
	if (!memory->unforked)
		return error_set(err, ENOMEM, "no memory for the record of dirty pages");
	memory->own_fd = memfd_create("mayfly-own", MFD_CLOEXEC);
	if (memory->own_fd < 0 || ftruncate(memory->own_fd, (off_t)memory->size_bytes) < 0)
		return error_errno(err, "cannot make a memory file of %llu MiB for forks",
				   (unsigned long long)(memory->size_bytes / MIB));
	return 0;
}

static void clear_unforked(struct memory *memory)
{
	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		memory->unforked[i] = 0;
}

static bool is_unforked(const struct memory *memory, uint64_t page)
{
	return memory->unforked[page / MEMORY_WORD_BITS] >> page % MEMORY_WORD_BITS & 1;
}

static int write_run(int fd, const uint8_t *from, uint64_t length, uint64_t offset,
		     struct error *err)
{
	while (length > 0) {
		ssize_t put = write_at(fd, from, length, offset);

		if (put < 0 && errno == EINTR)
			continue;
		if (put <= 0)
			return error_errno(err, "the guest's own pages cannot be copied");
		from += put;
		offset += (uint64_t)put;
		length -= (uint64_t)put;
	}
	return 0;
}

/* Words without a bit are passed over: most of them. */
static uint64_t next_unforked(const struct memory *memory, uint64_t page, uint64_t end)
{
	while (page < end && !is_unforked(memory, page)) {
		if (is_aligned(page, MEMORY_WORD_BITS) &&
		    memory->unforked[page / MEMORY_WORD_BITS] == 0)
			page += MEMORY_WORD_BITS;
		else
			page++;
	}
	return page < end ? page : end;
}

static int copy_region(struct memory *memory, const struct memory_region *region,
		       uint64_t first_page, uint64_t *copied_bytes, struct error *err)
{
	uint64_t end = first_page + region->size_bytes / PAGE_SIZE_BYTES, from, to;
	int result = 0;

	for (from = next_unforked(memory, first_page, end); result == 0 && from < end;
	     from = next_unforked(memory, to, end)) {
		uint64_t length;

		for (to = from + 1; to < end && is_unforked(memory, to);)
			to++;
		length = (to - from) * PAGE_SIZE_BYTES;
		result = write_run(memory->own_fd,
				   region->hva + (from - first_page) * PAGE_SIZE_BYTES, length,
				   from * PAGE_SIZE_BYTES, err);
		*copied_bytes += length;
	}
	return result;
}

int memory_fork(struct memory *memory, uint64_t *copied_bytes, struct error *err)
{
	uint64_t page = 0;
	int result = 0;

	*copied_bytes = 0;
	if (memory->shared)
		result = memory_freeze(memory, err);
	else
		for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
			result = copy_region(memory, &memory->regions[i], page, copied_bytes, err);
			page += memory->regions[i].size_bytes / PAGE_SIZE_BYTES;
		}
	if (result == 0)
		clear_unforked(memory);
	return result;
}

/*
 * A base that somebody could still write would change under all that run from it, and one that was
 * cut would end them. A snapshot's memory file cannot be sealed; those who may write it could harm
 * its clones anyway.
 */
static int check_base(int fd, uint64_t size_bytes, struct error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_errno(err, "the base of guest memory cannot be examined");
	if (!S_ISREG(status.st_mode) || (uint64_t)status.st_size < size_bytes)
		return error_set(err, EINVAL, "the base of guest memory is too short");
	if (seals < 0 || seals & F_SEAL_SEAL)
		return 0;
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return error_errno(err, "the base of guest memory cannot be sealed");
	return 0;
}

/* Where own_fd has data, up to `limit`: false when nowhere behind `offset`. */
static bool next_extent(int fd, uint64_t offset, uint64_t limit, struct memory_range *extent)
{
	off_t from = lseek(fd, (off_t)offset, SEEK_DATA), to;

	if (from < 0 || (uint64_t)from >= limit)
		return false;
	to = lseek(fd, from, SEEK_HOLE);
	if (to < 0 || (uint64_t)to > limit)
		to = (off_t)limit;
	*extent = (struct memory_range) { (uint64_t)from, (uint64_t)(to - from) };
	return true;
}

static int read_own(struct memory *memory, int own_fd, struct error *err)
{
	uint64_t start = 0;
	int result = 0;

	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];
		uint64_t end = start + region->size_bytes;
		struct memory_range extent = { .offset = start };

		while (result == 0 &&
		       next_extent(own_fd, extent.offset + extent.length_bytes, end, &extent)) {
			uint8_t *hva = region->hva + (extent.offset - start);

			result = memory_read_fully(own_fd, extent.offset, hva, extent.length_bytes,
						   "the parent's own pages", err);
			/* They are this process's own, too, when it is forked. */
			memory_mark_dirty(memory, hva, extent.length_bytes);
		}
		start = end;
	}
	return result;
}

int memory_map_forked(struct memory *memory, int base_fd, int own_fd, struct error *err)
{
	cleanup_fd int base = base_fd;
	int result = check_base(base, memory->size_bytes, err);

	/* Mapped, whatever pages the parent has: what is a file's has small ones. */
	memory->huge_pages = HUGE_PAGES_NONE;
	if (result == 0)
		result = memory_map_file(memory, take_fd(&base), err);
	if (result == 0)
		result = memory_enable_fork(memory, err);
	if (result == 0)
		result = memory_track_dirty(memory, err);
	return result < 0 ? result : read_own(memory, own_fd, err);
}
