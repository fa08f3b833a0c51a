#include <string.h>

#include "boot_helper.h"
#include "mayfly/state.h"
#include "mayfly/working_set.h"

#define PAGES(n) ((n)*PAGE_SIZE_BYTES)

static struct working_set make_set(uint64_t pages)
{
	struct working_set set;
	struct error err = { 0 };

	cr_assert_eq(working_set_create(&set, PAGES(pages), &err), 0, "%s", err.message);
	return set;
}

static char *make_folder(char *folder)
{
	cr_assert(mkdtemp(folder));
	return folder;
}

Test(working_set, runs_are_the_pages_that_were_added_in_their_order)
{
	static const struct working_set_run expected[] = {
		{ PAGES(0), PAGES(2), false },	  { PAGES(2), PAGES(1), true },
		{ PAGES(63), PAGES(2), false },	  { PAGES(190), PAGES(5), true },
		{ PAGES(1000), PAGES(1), false },
	};
	struct working_set set = make_set(1001);
	struct working_set_run run = { 0 };
	size_t count = 0;

	working_set_add(&set, PAGES(1000), 1, false);
	working_set_add(&set, PAGES(190), PAGES(5), true);
	working_set_add(&set, PAGES(63) + 7, PAGES(1), false); /* touches two pages */
	working_set_add(&set, 0, PAGES(3), false);
	working_set_add(&set, PAGES(2), PAGES(1), true);
	working_set_add(&set, PAGES(1001), PAGES(1), true); /* outside */
	working_set_add(&set, UINT64_MAX - 1, PAGES(1), true);
	while (working_set_next(&set, &run)) {
		cr_assert_lt(count, ARRAY_SIZE(expected));
		cr_assert_eq(run.offset, expected[count].offset, "run %zu", count);
		cr_assert_eq(run.length_bytes, expected[count].length_bytes, "run %zu", count);
		cr_assert_eq(run.written, expected[count].written, "run %zu", count);
		count++;
	}
	cr_assert_eq(count, ARRAY_SIZE(expected));
	cr_assert_eq(working_set_count_pages(&set), 11);
	working_set_destroy(&set);
}

Test(working_set, a_file_gives_back_what_was_saved)
{
	char folder[] = "/tmp/mayfly-working-set-XXXXXX", path[64];
	struct working_set set = make_set(5000), back;
	struct error err = { 0 };

	snprintf(path, sizeof(path), "%s/set", make_folder(folder));
	srand(1);
	for (unsigned int i = 0; i < 600; i++)
		working_set_add(&set, PAGES((uint64_t)rand() % 5000),
				PAGES(1 + (uint64_t)rand() % 3), rand() % 2);
	cr_assert_eq(working_set_save(&set, path, &err), 0, "%s", err.message);
	cr_assert_eq(working_set_load(&back, PAGES(5000), path, &err), 0, "%s", err.message);
	cr_assert_eq(memcmp(set.touched, back.touched, 5000 / 8), 0);
	cr_assert_eq(memcmp(set.written, back.written, 5000 / 8), 0);
	working_set_destroy(&back);
	cr_assert_eq(working_set_load(&back, PAGES(4999), path, &err), -EINVAL);
	cr_assert(strstr(err.message, "memory_bytes") && strstr(err.message, path), "%s",
		  err.message);
	unlink(path);
	cr_assert_eq(working_set_load(&back, PAGES(5000), path, &err), -ENOENT);
	rmdir(folder);
	working_set_destroy(&set);
}

/* A file with these runs, in the form that the checksum does not complain of. */
static void write_runs(const char *path, const uint32_t *runs, size_t bytes)
{
	struct state_writer writer;
	struct error err = { 0 };
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	state_writer_init(&writer);
	state_begin(&writer, "working-set", "", 1);
	state_put_u64(&writer, PAGES(100));
	state_put_u32(&writer, PAGE_SIZE_BYTES);
	state_put_bytes(&writer, runs, (uint32_t)bytes);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, &err), 0, "%s", err.message);
	cr_assert_eq(write(fd, writer.bytes, writer.used_bytes), (ssize_t)writer.used_bytes);
	close(fd);
	state_writer_destroy(&writer);
}

Test(working_set, runs_that_cannot_be_are_refused)
{
	static const struct {
		uint32_t runs[4];
		size_t bytes;
		bool good;
	} cases[] = {
		{ { 0, 1 << 1, 99, 1 << 1 }, 16, true },
		{ { 0, 100 << 1 }, 8, true },
		{ { 0 }, 0, true },
		{ { 0, 101 << 1 }, 8, false },		 /* longer than memory */
		{ { 99, UINT32_MAX }, 8, false },	 /* likewise */
		{ { UINT32_MAX, 1 << 1 }, 8, false },	 /* begins behind it */
		{ { 5, 0 }, 8, false },			 /* nothing */
		{ { 5, 2 << 1, 6, 1 << 1 }, 16, false }, /* twice the same page */
		{ { 5, 1 << 1, 4, 1 << 1 }, 16, false }, /* backwards */
		{ { 5, 1 << 1, 7 }, 12, false },	 /* half a run */
	};
	char folder[] = "/tmp/mayfly-working-set-XXXXXX", path[64];

	snprintf(path, sizeof(path), "%s/set", make_folder(folder));
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct working_set set;
		struct error err = { 0 };
		int result;

		write_runs(path, cases[i].runs, cases[i].bytes);
		result = working_set_load(&set, PAGES(100), path, &err);
		cr_assert_eq(result, cases[i].good ? 0 : -EINVAL, "case %zu: %s", i, err.message);
		if (!cases[i].good)
			cr_assert(strstr(err.message, "runs"), "case %zu: %s", i, err.message);
		working_set_destroy(&set);
	}
	unlink(path);
	rmdir(folder);
}

/* Memory of which the first half is mapped from a file, as a restored guest's is. */
static struct memory make_mapped(struct test_file *file)
{
	struct memory memory = make_memory(PAGES(512));
	uint8_t *bytes = malloc(PAGES(256));
	struct error err = { 0 };

	for (size_t i = 0; i < PAGES(256); i++)
		bytes[i] = (uint8_t)(1 + i / PAGE_SIZE_BYTES);
	*file = make_file("memory", bytes, PAGES(256));
	free(bytes);
	cr_assert_eq(memory_load_file(&memory, 0, file->fd, 0, PAGES(256), "memory", &err), 0, "%s",
		     err.message);
	return memory;
}

static bool has_page(const struct working_set *set, uint64_t page, bool written)
{
	const uint64_t *bits = written ? set->written : set->touched;

	return bits[page / 64] >> (page % 64) & 1;
}

Test(working_set, what_was_touched_is_collected_and_populated_in_the_next_memory)
{
	struct test_file file, other_file;
	struct memory first = make_mapped(&file), second = make_mapped(&other_file);
	struct working_set set = make_set(512), again = make_set(512);
	volatile uint8_t *bytes = first.regions[0].hva;
	uint64_t pages;
	struct error err = { 0 };

	bytes[PAGES(3)] = 1;	 /* written, of the file */
	bytes[PAGES(400)] = 1;	 /* written, of no file */
	(void)bytes[PAGES(200)]; /* read */
	if (working_set_collect(&set, &first, &err) == -ENOENT)
		cr_skip_test("no /proc here");
	cr_assert(has_page(&set, 3, true) && has_page(&set, 400, true));
	cr_assert(has_page(&set, 200, false) && !has_page(&set, 200, true));
	/* The kernel maps what lies around a page that is read, but not the whole file. */
	cr_assert(!has_page(&set, 100, false) && !has_page(&set, 300, false));
	cr_assert_eq(working_set_populate(&set, &second, &pages, &err), 0, "%s", err.message);
	if (pages == 0)
		cr_skip_test("this kernel does not populate");
	cr_assert_eq(pages, working_set_count_pages(&set));
	cr_assert_eq(working_set_collect(&again, &second, &err), 0, "%s", err.message);
	for (uint64_t page = 0; page < 512; page++)
		cr_assert(!has_page(&set, page, false) || has_page(&again, page, false),
			  "page %llu is not there", (unsigned long long)page);
	cr_assert(has_page(&again, 3, true), "it has its own copy");
	cr_assert_eq(second.regions[0].hva[PAGES(3)], 4, "with the file's content");
	working_set_destroy(&set);
	working_set_destroy(&again);
	memory_destroy(&first);
	memory_destroy(&second);
	close(file.fd);
	close(other_file.fd);
}

Test(working_set, of_another_size_is_not_populated)
{
	struct memory memory = make_memory(PAGES(512));
	struct working_set set = make_set(513);
	uint64_t pages;
	struct error err = { 0 };

	working_set_add(&set, PAGES(512), 1, true);
	cr_assert_eq(working_set_populate(&set, &memory, &pages, &err), -EINVAL);
	working_set_destroy(&set);
	memory_destroy(&memory);
}
