/*
 * Forks of guest memory: see include/mayfly/memory.h.
 *
 *	base_fd   0123456789abcdef	mapped copy-on-write by all; sealed against writing
 *	own_fd    ..2..5.........	the parent's own as of the last fork, and behind them
 *					a bit for each page that is one of these
 *
 * Which pages own_fd holds is written into it, since a file system may make more of a file's holes
 * than was written (large pages of shared memory).
 *
 * The first fork of a guest that was booted copies nothing: all of its memory is the base. What is
 * copied later goes out in runs, straight from guest memory, most of it before the guest has to
 * wait. The new process reads its
 * parent's own pages instead of mapping them: runs are short, and a mapping of each would cost more
 * than its bytes; and the parent may then use the file again.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "memory_private.h"

static size_t bitmap_bytes(const struct memory *memory)
{
	return memory_dirty_words(memory) * sizeof(uint64_t);
}

int memory_enable_fork(struct memory *memory, struct error *err)
{
	uint64_t file_bytes = memory->size_bytes + bitmap_bytes(memory);

	memory->unforked = calloc(memory_dirty_words(memory), sizeof(*memory->unforked));
	memory->unforked_guest =
		calloc(memory_dirty_words(memory), sizeof(*memory->unforked_guest));
	memory->own = calloc(memory_dirty_words(memory), sizeof(*memory->own));
	if (!memory->unforked || !memory->unforked_guest || !memory->own)
		return error_set(err, ENOMEM, "no memory for the record of dirty pages");
	memory->own_fd = memfd_create("mayfly-own", MFD_CLOEXEC);
	if (memory->own_fd < 0 || ftruncate(memory->own_fd, (off_t)file_bytes) < 0)
		return error_errno(err, "cannot make a memory file of %llu MiB for forks",
				   (unsigned long long)(memory->size_bytes / MIB));
	return 0;
}

static void clear_unforked(struct memory *memory)
{
	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		memory->unforked[i] = memory->unforked_guest[i] = 0;
}

static bool has_bit(const _Atomic uint64_t *bitmap, uint64_t page)
{
	return bitmap[page / MEMORY_WORD_BITS] >> page % MEMORY_WORD_BITS & 1;
}

bool memory_is_own(const struct memory *memory, uint64_t offset)
{
	uint64_t page = offset / PAGE_SIZE_BYTES;

	return has_bit(memory->own, page) || has_bit(memory->unforked, page) ||
	       has_bit(memory->unforked_guest, page);
}

static int write_own(const struct memory *memory, const void *from, uint64_t length,
		     uint64_t offset, struct error *err)
{
	if (!write_all_at(memory->own_fd, from, length, offset))
		return error_errno(err, "the guest's own pages cannot be copied");
	return 0;
}

/*
 * The next run of pages with a bit, behind *page: its length, 0 when there is none below `end`.
 * Words without a bit are passed over: most of them.
 */
static uint64_t next_run(const _Atomic uint64_t *bitmap, uint64_t *page, uint64_t end)
{
	uint64_t from = *page, to;

	while (from < end && !has_bit(bitmap, from)) {
		if (is_aligned(from, MEMORY_WORD_BITS) && bitmap[from / MEMORY_WORD_BITS] == 0)
			from += MEMORY_WORD_BITS;
		else
			from++;
	}
	if (from >= end)
		return 0;
	for (to = from + 1; to < end && has_bit(bitmap, to);)
		to++;
	*page = from;
	return to - from;
}

static int copy_region(const struct memory *memory, const struct memory_region *region,
		       const _Atomic uint64_t *which, uint64_t first_page, uint64_t *copied_bytes,
		       struct error *err)
{
	uint64_t end = first_page + region->size_bytes / PAGE_SIZE_BYTES;
	uint64_t page = first_page, pages;

	for (; (pages = next_run(which, &page, end)) > 0; page += pages) {
		int result = write_own(memory, region->hva + (page - first_page) * PAGE_SIZE_BYTES,
				       pages * PAGE_SIZE_BYTES, page * PAGE_SIZE_BYTES, err);

		if (result < 0)
			return result;
		*copied_bytes += pages * PAGE_SIZE_BYTES;
	}
	return 0;
}

/* What is copied counts as own at once: that may be too much, and does no harm. */
static int copy_pages(struct memory *memory, const _Atomic uint64_t *which, uint64_t *copied_bytes,
		      struct error *err)
{
	uint64_t page = 0;
	int result = 0;

	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		memory->own[i] |= which[i];
	for (unsigned int i = 0; result == 0 && i < memory->region_count; i++) {
		result = copy_region(memory, &memory->regions[i], which, page, copied_bytes, err);
		page += memory->regions[i].size_bytes / PAGE_SIZE_BYTES;
	}
	return result;
}

/* Pages that devices are about to write are marked already, and are left for later. */
int memory_copy_ahead(struct memory *memory, uint64_t *copied_bytes, struct error *err)
{
	cleanup_free _Atomic uint64_t *which = NULL;
	int result;

	*copied_bytes = 0;
	if (memory->shared)
		return 0;
	which = calloc(memory_dirty_words(memory), sizeof(*which));
	if (!which)
		return error_set(err, ENOMEM, "no memory for the record of dirty pages");
	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		which[i] = memory->unforked_guest[i] & ~memory->unforked[i];
	result = copy_pages(memory, which, copied_bytes, err);
	for (uint64_t i = 0; result == 0 && i < memory_dirty_words(memory); i++)
		memory->unforked_guest[i] &= ~which[i];
	return result;
}

static int copy_own(struct memory *memory, uint64_t *copied_bytes, struct error *err)
{
	int result;

	for (uint64_t i = 0; i < memory_dirty_words(memory); i++)
		memory->unforked[i] |= memory->unforked_guest[i];
	result = copy_pages(memory, memory->unforked, copied_bytes, err);
	if (result < 0)
		return result;
	return write_own(memory, memory->own, bitmap_bytes(memory), memory->size_bytes, err);
}

int memory_fork(struct memory *memory, uint64_t *copied_bytes, struct error *err)
{
	int result;

	*copied_bytes = 0;
	result = memory->shared ? memory_freeze(memory, err) : copy_own(memory, copied_bytes, err);
	if (result == 0)
		clear_unforked(memory);
	return result;
}

/*
 * A base that somebody could still write would change under all that run from it, and one that was
 * cut would end them. A snapshot's memory file cannot be sealed; it was opened for reading only,
 * and those who may write it could harm its clones anyway.
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
		return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY
			       ? 0
			       : error_set(err, EPERM, "the base of guest memory could be written");
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return error_errno(err, "the base of guest memory cannot be sealed");
	return 0;
}

static int read_own(struct memory *memory, int own_fd, struct error *err)
{
	cleanup_free _Atomic uint64_t *there = calloc(memory_dirty_words(memory), sizeof(*there));
	uint64_t first_page = 0;
	int result;

	if (!there)
		return error_set(err, ENOMEM, "no memory for the record of the parent's pages");
	result = memory_read_fully(own_fd, memory->size_bytes, (uint8_t *)there,
				   bitmap_bytes(memory), "the record of the parent's pages", err);
	for (unsigned int i = 0; i < memory->region_count; i++) {
		const struct memory_region *region = &memory->regions[i];
		uint64_t end = first_page + region->size_bytes / PAGE_SIZE_BYTES;
		uint64_t page = first_page, pages;

		while (result == 0 && (pages = next_run(there, &page, end)) > 0) {
			uint8_t *hva = region->hva + (page - first_page) * PAGE_SIZE_BYTES;

			result = memory_read_fully(own_fd, page * PAGE_SIZE_BYTES, hva,
						   pages * PAGE_SIZE_BYTES,
						   "the parent's own pages", err);
			/* They are this process's own, too, when it is forked. */
			memory_mark_guest_pages(memory, page, page + pages - 1);
			page += pages;
		}
		first_page = end;
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
