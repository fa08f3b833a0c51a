/* Memory files: src/snapshot/memory_save.c, memory_open.c, memory_merge.c. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mayfly/layout.h"
#include "mayfly/memory_file.h"

#define PAGE	   PAGE_SIZE_BYTES
#define SIZE	   (16 * MIB)
#define FILE_BYTES (SIZE + MEMORY_FILE_TAIL_BYTES)

static const struct memory_file_id first = { { 1 } }, second = { { 2 } }, third = { { 3 } };
static char folder[64], full_path[96], diff_path[96];

static void set_up(void)
{
	strcpy(folder, "/tmp/memory_file.XXXXXX");
	cr_assert(mkdtemp(folder));
	snprintf(full_path, sizeof(full_path), "%s/full", folder);
	snprintf(diff_path, sizeof(diff_path), "%s/diff", folder);
}

static void tear_down(void)
{
	unlink(full_path);
	unlink(diff_path);
	rmdir(folder);
}

TestSuite(memory_file, .init = set_up, .fini = tear_down);

static struct memory make_memory(uint64_t size)
{
	struct memory memory;
	struct error err = { 0 };

	cr_assert_eq(memory_create(&memory, size, HUGE_PAGES_NONE, &err), 0, "%s", err.message);
	return memory;
}

static uint64_t save(const struct memory *memory, const char *path, const struct memory_file_id *id,
		     const struct memory_file_id *base)
{
	struct memory_file_options options = { .path = path, .id = *id, .base = base };
	struct memory_file_size size;
	struct atomic_file file;
	struct error err = { 0 };

	cr_assert_eq(memory_file_save(memory, &options, &file, &size, &err), 0, "%s", err.message);
	cr_assert_eq(atomic_file_flush(&file, &err), 0);
	cr_assert_eq(atomic_file_commit(&file, &err), 0, "%s", err.message);
	atomic_file_close(&file);
	return size.data_bytes;
}

static int open_file(const char *path, const struct memory_file_id *id, struct error *err)
{
	int fd = -1, result = memory_file_open(path, SIZE, id, &fd, err);

	return result < 0 ? result : fd;
}

static struct memory load(const char *path, const struct memory_file_id *id, enum huge_pages pages)
{
	struct error err = { 0 };
	struct memory memory;
	int fd = open_file(path, id, &err);

	cr_assert_geq(fd, 0, "%s", err.message);
	cr_assert_eq(memory_create_from_file(&memory, SIZE, pages, fd, &err), 0, "%s", err.message);
	return memory;
}

static uint8_t *at(struct memory *memory, uint64_t gpa)
{
	uint8_t *hva = memory_span(memory, gpa, 1);

	cr_assert(hva);
	return hva;
}

static bool is_hole(const char *path, uint64_t offset)
{
	cleanup_fd int fd = open(path, O_RDONLY);

	return (uint64_t)lseek(fd, (off_t)offset, SEEK_HOLE) == offset;
}

Test(memory_file, content_comes_back_and_zeroes_are_holes)
{
	struct memory memory = make_memory(SIZE), loaded;
	struct stat status;

	*at(&memory, 3 * PAGE + 7) = 0x11;
	*at(&memory, 4 * PAGE) = 0x22;
	*at(&memory, 9 * PAGE) = 0; /* touched, but zero */
	*at(&memory, SIZE - 1) = 0x33;
	cr_assert_eq(save(&memory, full_path, &first, NULL), 3 * PAGE);
	cr_assert_eq(stat(full_path, &status), 0);
	cr_assert_eq((uint64_t)status.st_size, FILE_BYTES);
	cr_assert(is_hole(full_path, 9 * PAGE));
	cr_assert_not(is_hole(full_path, 3 * PAGE));
	loaded = load(full_path, &first, HUGE_PAGES_NONE);
	cr_assert_eq(memcmp(at(&memory, 0), at(&loaded, 0), SIZE), 0);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}

Test(memory_file, with_huge_pages_the_content_is_read)
{
	struct memory memory = make_memory(SIZE), loaded;

	*at(&memory, 3 * PAGE + 7) = 0x11;
	*at(&memory, SIZE - 1) = 0x33;
	save(&memory, full_path, &first, NULL);
	loaded = load(full_path, &first, HUGE_PAGES_TRANSPARENT);
	cr_assert_eq(memcmp(at(&memory, 0), at(&loaded, 0), SIZE), 0);
	cr_assert_eq(loaded.base_fd, -1);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}

Test(memory_file, memory_above_the_gap_follows_that_below)
{
	uint64_t size = LAYOUT_MMIO_GAP_START + 2 * MIB;
	struct memory memory = make_memory(size), loaded;
	struct error err = { 0 };
	int fd;

	*at(&memory, LAYOUT_MMIO_GAP_START - 1) = 1;
	*at(&memory, LAYOUT_MMIO_GAP_END) = 2;
	cr_assert_eq(save(&memory, full_path, &first, NULL), 2 * PAGE);
	cr_assert_eq(memory_file_open(full_path, size, &first, &fd, &err), 0, "%s", err.message);
	cr_assert_eq(memory_create_from_file(&loaded, size, HUGE_PAGES_NONE, fd, &err), 0);
	cr_assert_eq(*at(&loaded, LAYOUT_MMIO_GAP_START - 1), 1);
	cr_assert_eq(*at(&loaded, LAYOUT_MMIO_GAP_END), 2);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}

Test(memory_file, a_mapped_file_that_nobody_touched_is_saved)
{
	struct memory memory = make_memory(SIZE), loaded;
	int fd = memfd_create("kernel", MFD_CLOEXEC);
	struct error err = { 0 };

	cr_assert_eq(ftruncate(fd, 2 * PAGE), 0);
	cr_assert_eq(pwrite(fd, "kernel", 6, PAGE), 6);
	cr_assert_eq(memory_load_file(&memory, 16 * PAGE, fd, 0, 2 * PAGE, "kernel", &err), 0);
	cr_assert_eq(save(&memory, full_path, &first, NULL), PAGE);
	loaded = load(full_path, &first, HUGE_PAGES_NONE);
	cr_assert_eq(memcmp(at(&loaded, 17 * PAGE), "kernel", 6), 0);
	memory_destroy(&loaded);
	memory_destroy(&memory);
	close(fd);
}

Test(memory_file, a_loaded_guest_can_be_saved_whole_again)
{
	struct memory memory = make_memory(SIZE), loaded, again;

	for (uint64_t page = 0; page < SIZE / PAGE; page += 2)
		*at(&memory, page * PAGE) = (uint8_t)(page / 2 + 1);
	save(&memory, full_path, &first, NULL);
	loaded = load(full_path, &first, HUGE_PAGES_NONE);
	*at(&loaded, 1 * PAGE) = 0x55; /* was a hole */
	*at(&loaded, 2 * PAGE) = 0x66; /* had content */
	memset(at(&loaded, 4 * PAGE), 0, PAGE);
	save(&loaded, full_path, &second, NULL); /* over the file that it runs from */
	again = load(full_path, &second, HUGE_PAGES_NONE);
	cr_assert_eq(memcmp(at(&loaded, 0), at(&again, 0), SIZE), 0);
	cr_assert_eq(*at(&again, 2 * PAGE), 0x66);
	memory_destroy(&again);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}

/* Load, change, save a diff; its holes are where nothing changed. Merged, it is the whole. */
static void check_diff(bool tracked)
{
	struct memory memory = make_memory(SIZE), loaded, merged;
	struct error err = { 0 };

	for (uint64_t page = 0; page < SIZE / PAGE; page++)
		*at(&memory, page * PAGE) = 1;
	save(&memory, full_path, &first, NULL);
	loaded = load(full_path, &first, HUGE_PAGES_NONE);
	if (tracked)
		cr_assert_eq(memory_track_dirty(&loaded, &err), 0);
	*at(&loaded, 2 * PAGE) = 0x66;
	memset(at(&loaded, 4 * PAGE), 0, PAGE); /* zero now: it must not be a hole */
	memory_mark_dirty(&loaded, at(&loaded, 2 * PAGE), 1);
	memory_mark_dirty(&loaded, at(&loaded, 4 * PAGE), PAGE);
	cr_assert_eq(save(&loaded, diff_path, &second, &first), 2 * PAGE);
	cr_assert(is_hole(diff_path, 3 * PAGE));
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EBUSY, "it is in use");
	memory_destroy(&memory);
	/* What runs from the base keeps it locked. */
	memory = make_memory(SIZE);
	memcpy(at(&memory, 0), at(&loaded, 0), SIZE);
	memory_destroy(&loaded);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), 0, "%s", err.message);
	merged = load(full_path, &second, HUGE_PAGES_NONE);
	cr_assert_eq(memcmp(at(&memory, 0), at(&merged, 0), SIZE), 0);
	memory_destroy(&merged);
	memory_destroy(&memory);
}

Test(memory_file, a_diff_holds_what_changed_since_the_load)
{
	check_diff(false);
}

Test(memory_file, a_diff_holds_what_was_tracked)
{
	check_diff(true);
}

Test(memory_file, any_tool_that_copies_the_data_of_a_diff_can_merge_it)
{
	struct memory memory = make_memory(SIZE), loaded;
	cleanup_free uint8_t *page = malloc(PAGE);
	int diff, base;
	off_t offset = 0;

	*at(&memory, PAGE) = 1;
	save(&memory, full_path, &first, NULL);
	loaded = load(full_path, &first, HUGE_PAGES_NONE);
	*at(&loaded, 2 * PAGE) = 2;
	save(&loaded, diff_path, &second, &first);
	memory_destroy(&loaded);
	diff = open(diff_path, O_RDONLY);
	base = open(full_path, O_RDWR);
	while ((offset = lseek(diff, offset, SEEK_DATA)) >= 0) {
		cr_assert_eq(pread(diff, page, PAGE, offset), (ssize_t)PAGE);
		cr_assert_eq(pwrite(base, page, PAGE, offset), (ssize_t)PAGE);
		offset += (off_t)PAGE;
	}
	close(diff);
	close(base);
	loaded = load(full_path, &second, HUGE_PAGES_NONE);
	cr_assert_eq(*at(&loaded, PAGE), 1);
	cr_assert_eq(*at(&loaded, 2 * PAGE), 2);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}

static void expect_refusal(const struct memory_file_id *id, const char *words)
{
	struct error err = { 0 };

	cr_assert_lt(open_file(full_path, id, &err), 0);
	cr_assert(strstr(err.message, full_path), "%s", err.message);
	cr_assert(strstr(err.message, words), "%s", err.message);
}

Test(memory_file, a_file_that_does_not_fit_is_refused_by_name)
{
	struct memory memory = make_memory(SIZE);
	struct error err = { 0 };
	int fd;

	expect_refusal(&first, "it cannot be opened: No such file or directory");
	*at(&memory, PAGE) = 1;
	save(&memory, full_path, &first, NULL);
	expect_refusal(&second, "it belongs to another snapshot");
	cr_assert_eq(memory_file_open(full_path, 2 * SIZE, &first, &fd, &err), -EINVAL);
	cr_assert(strstr(err.message,
			 "it has 16785408 bytes; the memory file of a guest with 32 MiB"));
	cr_assert_eq(truncate(full_path, FILE_BYTES - 1), 0);
	expect_refusal(&first, "it has 16785407 bytes");
	cr_assert_eq(truncate(full_path, 0), 0);
	expect_refusal(&first, "it has 0 bytes");
	cr_assert_eq(truncate(full_path, FILE_BYTES), 0);
	expect_refusal(&first, "it is cut, damaged, or no memory file");
	memory_destroy(&memory);
}

Test(memory_file, a_damaged_mark_is_refused)
{
	struct memory memory = make_memory(SIZE);
	cleanup_fd int fd = -1;

	save(&memory, full_path, &first, NULL);
	fd = open(full_path, O_RDWR);
	for (unsigned int i = 0; i < 64; i++) {
		struct error err = { 0 };
		uint8_t byte, flipped;

		cr_assert_eq(pread(fd, &byte, 1, (off_t)(SIZE + i)), 1);
		flipped = byte ^ 0x10;
		cr_assert_eq(pwrite(fd, &flipped, 1, (off_t)(SIZE + i)), 1);
		cr_assert_lt(open_file(full_path, &first, &err), 0, "byte %u", i);
		cr_assert_eq(pwrite(fd, &byte, 1, (off_t)(SIZE + i)), 1);
	}
	memory_destroy(&memory);
}

Test(memory_file, a_diff_alone_is_refused_and_says_what_to_do)
{
	struct memory memory = make_memory(SIZE);
	struct error err = { 0 };

	save(&memory, full_path, &second, &first);
	expect_refusal(&second, "mayfly merge-memory BASE DIFF");
	save(&memory, diff_path, &third, &second);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "is a diff itself"), "%s", err.message);
	memory_destroy(&memory);
}

Test(memory_file, merging_what_does_not_belong_together_is_refused)
{
	struct memory memory = make_memory(SIZE), large = make_memory(2 * SIZE);
	struct error err = { 0 };

	save(&memory, full_path, &first, NULL);
	save(&memory, diff_path, &third, &second);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "of another snapshot"), "%s", err.message);
	save(&memory, diff_path, &second, NULL);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "is no diff"), "%s", err.message);
	save(&large, diff_path, &second, &first);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "holds 16 MiB of memory, and"), "%s", err.message);
	cr_assert_eq(memory_file_merge("/nonexistent/f", diff_path, &err), -ENOENT);
	cr_assert(strstr(err.message, "memory file /nonexistent/f: it cannot be opened"));
	cr_assert_eq(memory_file_merge(diff_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "are the same file"), "%s", err.message);
	memory_destroy(&large);
	memory_destroy(&memory);
}

/* Pages of two diffs of one base would be in it, and it would be said to be complete. */
Test(memory_file, after_an_interrupted_merge_no_other_diff_is_merged)
{
	struct memory memory = make_memory(SIZE);
	struct error err = { 0 };
	cleanup_fd int fd = -1;
	/* docs/snapshot-format.md: what an interrupted merge of the snapshot `third` leaves. */
	struct {
		char words[16];
		struct memory_file_id id;
	} left = { "Mayfly merging\n", third };

	save(&memory, full_path, &first, NULL);
	save(&memory, diff_path, &second, &first);
	fd = open(full_path, O_RDWR);
	cr_assert_eq(pwrite(fd, &left, sizeof(left), (off_t)(SIZE + PAGE)), sizeof(left));
	expect_refusal(&first, "a merge into it was interrupted");
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), -EINVAL);
	cr_assert(strstr(err.message, "was left half merged with another diff"), "%s", err.message);
	save(&memory, diff_path, &third, &first);
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), 0, "%s", err.message);
	memset(&left, 0xff, sizeof(left));
	cr_assert_eq(pread(fd, &left, sizeof(left), (off_t)(SIZE + PAGE)), sizeof(left));
	cr_assert_eq(memcmp(&left, "Mayfly complete\n\0\0", 18), 0, "nothing of it stays");
	memory_destroy(&memory);
}

Test(memory_file, an_interrupted_merge_is_refused_until_it_is_repeated)
{
	struct memory memory = make_memory(SIZE), loaded;
	uint8_t zero[16] = { 0 };
	struct error err = { 0 };
	cleanup_fd int fd = -1;

	*at(&memory, PAGE) = 1;
	save(&memory, full_path, &first, NULL);
	*at(&memory, PAGE) = 2;
	cr_assert_eq(memory_track_dirty(&memory, &err), 0);
	memory_mark_dirty(&memory, at(&memory, PAGE), 1);
	save(&memory, diff_path, &second, &first);
	fd = open(full_path, O_RDWR);
	cr_assert_eq(pwrite(fd, zero, sizeof(zero), (off_t)(SIZE + PAGE)), sizeof(zero));
	expect_refusal(&first, "a merge into it was interrupted");
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), 0, "%s", err.message);
	/* And at its very end, when the mark is the diff's already. */
	cr_assert_eq(pwrite(fd, zero, sizeof(zero), (off_t)(SIZE + PAGE)), sizeof(zero));
	expect_refusal(&second, "a merge into it was interrupted");
	cr_assert_eq(memory_file_merge(full_path, diff_path, &err), 0, "%s", err.message);
	loaded = load(full_path, &second, HUGE_PAGES_NONE);
	cr_assert_eq(*at(&loaded, PAGE), 2);
	memory_destroy(&loaded);
	memory_destroy(&memory);
}
