/*
 * The files of a snapshot that come from an enemy, before any device looks at them: the frame of a
 * state file and its sections, a working set, memory files and their merge; and the two files of a
 * fork's memory. The first byte chooses which, and whether checksums are made right, behind which
 * most of the checks lie. Whatever comes: nothing crashes or leaks, what is accepted lies within
 * the file, written anew it is the same file, and what is refused says why.
 */
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_input.h"
#include "mayfly/layout.h"
#include "mayfly/memory.h"
#include "mayfly/working_set.h"
#include "src/snapshot/frame.h"
#include "src/snapshot/memory_tail.h"

#define FILE_BYTES   65536
#define MEMORY_PAGES 4

enum kind {
	KIND_STATE,
	KIND_WORKING_SET,
	KIND_MEMORY,
	KIND_MERGE,
	KIND_FORK,
	KIND_COUNT
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static void put_u32(uint8_t *at, uint32_t value)
{
	memcpy(at, &value, sizeof(value));
}

/* As far as sections can be told apart. */
static void repair(uint8_t *bytes, size_t length)
{
	uint32_t count = 0;
	size_t at = FRAME_HEAD_BYTES;

	while (at < length && length - at >= sizeof(struct frame_section)) {
		struct frame_section head;
		uint8_t *name = bytes + at + sizeof(head);
		size_t total;

		memcpy(&head, bytes + at, sizeof(head));
		total = sizeof(head) + head.section_bytes + head.instance_bytes + head.body_bytes;
		if (total > length - at)
			return;
		count++;
		if (head.section_bytes == strlen(FRAME_END) && head.body_bytes == 8 &&
		    memcmp(name, FRAME_END, strlen(FRAME_END)) == 0) {
			uint8_t *body = name + head.section_bytes + head.instance_bytes;

			put_u32(body, count);
			put_u32(body + 4, state_crc32c(0, bytes, at));
		}
		put_u32(bytes + at + offsetof(struct frame_section, checksum),
			frame_checksum(bytes + at, total));
		at += total;
	}
}

/* All ways of reading, by turns. */
static void read_section(struct state_section *section, uint8_t how)
{
	while (!state_failed(section) && section->left_bytes > 0) {
		uint8_t bytes[16];
		char text[16];
		uint32_t length;

		switch (how++ % 8) {
		case 0:
			state_get_u8(section);
			break;
		case 1:
			state_get_u16(section);
			break;
		case 2:
			state_get_u32(section);
			break;
		case 3:
			state_get_u64(section);
			break;
		case 4:
			state_get_bool(section, "field");
			break;
		case 5:
			state_get_bytes(section, bytes, sizeof(bytes));
			break;
		case 6:
			state_get_string(section, text, sizeof(text));
			FUZZ_CHECK(strlen(text) < sizeof(text));
			break;
		default:
			FUZZ_CHECK(state_get_span(section, 64, &length) || length == 0);
			FUZZ_CHECK(length <= 64);
		}
	}
}

/* What the writer makes of the same sections. */
static void check_same(const struct state_file *file, const uint8_t *bytes, size_t length)
{
	struct state_writer writer;

	state_writer_init(&writer);
	for (unsigned int i = 0; i < file->entry_count; i++) {
		const struct state_entry *entry = &file->entries[i];

		state_begin(&writer, entry->section, entry->instance, entry->version);
		for (uint32_t at = 0; at < entry->body_bytes; at++)
			state_put_u8(&writer, entry->body[at]);
		state_end(&writer);
	}
	FUZZ_CHECK(state_writer_finish(&writer, NULL) == 0);
	FUZZ_CHECK(writer.used_bytes == length && memcmp(writer.bytes, bytes, length) == 0);
	state_writer_destroy(&writer);
}

static void fuzz_state(uint8_t *bytes, size_t length, uint8_t how)
{
	struct error err = { 0 };
	struct state_file file;

	if (state_file_parse(&file, bytes, length, &err) < 0) {
		FUZZ_CHECK(err.message[0] && !file.entries && file.entry_count == 0);
		return;
	}
	for (unsigned int i = 0; i < file.entry_count; i++) {
		const struct state_entry *entry = &file.entries[i];
		struct state_section section;

		FUZZ_CHECK(entry->body >= bytes && entry->body_bytes <= length &&
			   (size_t)(entry->body - bytes) <= length - entry->body_bytes);
		FUZZ_CHECK(state_find(&file, entry->section, entry->instance, UINT16_MAX, &section,
				      NULL) == 0);
		FUZZ_CHECK(section.next == entry->body);
		read_section(&section, how);
		FUZZ_CHECK(state_done(&section, &err) == 0 || err.message[0]);
	}
	FUZZ_CHECK(state_file_check_taken(&file, NULL) == 0);
	check_same(&file, bytes, length);
	state_file_close(&file);
}

static void fuzz_working_set(const char *path)
{
	const uint64_t memory_bytes = 64 * PAGE_SIZE_BYTES;
	struct working_set_run run = { 0 };
	struct error err = { 0 };
	struct working_set set;
	uint64_t pages = 0;

	if (working_set_load(&set, memory_bytes, path, &err) < 0) {
		FUZZ_CHECK(err.message[0] && !set.touched && !set.written);
		return;
	}
	while (working_set_next(&set, &run)) {
		FUZZ_CHECK(run.length_bytes > 0 &&
			   range_within(run.offset, run.length_bytes, memory_bytes));
		pages += run.length_bytes / PAGE_SIZE_BYTES;
	}
	FUZZ_CHECK(pages == working_set_count_pages(&set));
	working_set_destroy(&set);
}

/* A memory file whose mark is the input's, made right where it is asked for. */
static void put_memory_file(int fd, struct fuzz_input *input, bool right)
{
	const uint64_t memory_bytes = MEMORY_PAGES * PAGE_SIZE_BYTES;
	uint8_t tail[2 * PAGE_SIZE_BYTES] = { 0 }, how = input_u8(input);
	struct memory_file_id ids[2] = { { { how & 1 } }, { { how >> 1 & 1 } } };
	struct tail_mark mark;

	FUZZ_CHECK(ftruncate(fd, 0) == 0 &&
		   ftruncate(fd, (off_t)(memory_bytes + sizeof(tail))) == 0);
	if (right)
		mark = tail_make_mark(memory_bytes, &ids[0], how & 4 ? &ids[1] : NULL);
	else
		input_bytes(input, &mark, sizeof(mark));
	memcpy(tail, &mark, sizeof(mark));
	if (how & 8)
		memcpy(tail + PAGE_SIZE_BYTES, tail_complete, sizeof(tail_complete));
	FUZZ_CHECK(pwrite(fd, tail, how & 0x10 ? sizeof(tail) : PAGE_SIZE_BYTES,
			  (off_t)memory_bytes) > 0);
	for (uint64_t page = 0; page < MEMORY_PAGES; page++) {
		if (how >> 5 & 1 << (page & 1))
			FUZZ_CHECK(pwrite(fd, &how, 1, (off_t)(page * PAGE_SIZE_BYTES)) == 1);
	}
	if (how & 0x20 && !right)
		FUZZ_CHECK(ftruncate(fd, input_u16(input)) == 0);
}

static void fuzz_memory(const char *path, struct fuzz_input *input)
{
	struct memory_file_id id = { { input_u8(input) & 1 } };
	struct error err = { 0 };
	int fd = -1;

	if (memory_file_open(path, MEMORY_PAGES * PAGE_SIZE_BYTES, &id, &fd, &err) < 0) {
		FUZZ_CHECK(err.message[0] && fd < 0);
		return;
	}
	FUZZ_CHECK(lseek(fd, 0, SEEK_END) ==
		   (off_t)(MEMORY_PAGES * PAGE_SIZE_BYTES + MEMORY_FILE_TAIL_BYTES));
	close(fd);
}

static void fuzz_merge(const int fds[2], char paths[2][32])
{
	off_t before = lseek(fds[0], 0, SEEK_END), diff = lseek(fds[1], 0, SEEK_END);
	struct error err = { 0 };

	FUZZ_CHECK(memory_file_merge(paths[0], paths[1], &err) == 0 || err.message[0]);
	FUZZ_CHECK(lseek(fds[0], 0, SEEK_END) == before && lseek(fds[1], 0, SEEK_END) == diff);
}

/*
 * A fork's memory: a base, and the parent's own pages with their record, as the input has them. Of
 * the pages only the first bytes are looked at.
 */

#define FORK_PAGES	70 /* the last word of the record is not all of it pages */
#define FORK_BIG_BYTES	(LAYOUT_MMIO_GAP_START + FORK_PAGES * PAGE_SIZE_BYTES)
#define FORK_WORDS_MAX	4
#define FORK_VALUE_BASE 1
#define FORK_VALUE_OWN	2

struct fork_files {
	uint64_t memory_bytes;
	uint64_t words[FORK_WORDS_MAX]; /* of the record that are not 0 */
	uint64_t bits[FORK_WORDS_MAX];
	unsigned int count;
	int base, own;
};

static void put_page(int fd, uint64_t page, uint8_t value)
{
	FUZZ_CHECK(pwrite(fd, &value, 1, (off_t)(page * PAGE_SIZE_BYTES)) == 1);
}

static uint64_t pages_of(const struct fork_files *files)
{
	return files->memory_bytes / PAGE_SIZE_BYTES;
}

/* The record, and with it values of those pages, by which the base's and the own are told apart. */
static void put_record(struct fork_files *files, struct fuzz_input *input)
{
	const uint64_t words = (pages_of(files) + 63) / 64;

	while (files->count < FORK_WORDS_MAX && input_left(input)) {
		uint16_t at = input_u16(input);
		/* Those around the gap are as near as the first. */
		uint64_t word = at & 0x8000 ? words - 1 - (at & 0x7fff) % words : at % words;
		uint64_t bits = input_u8(input); /* few pages: each takes time */
		unsigned int shift = input_u8(input) % 57;

		for (unsigned int i = 0; i < files->count; i++) {
			if (files->words[i] == word)
				bits = 0;
		}
		bits <<= shift;
		if (bits == 0)
			continue;
		FUZZ_CHECK(pwrite(files->own, &bits, sizeof(bits),
				  (off_t)(files->memory_bytes + 8 * word)) == sizeof(bits));
		for (unsigned int i = 0; i < 64; i++) {
			if (bits >> i & 1 && 64 * word + i < pages_of(files))
				put_page(files->own, 64 * word + i, FORK_VALUE_OWN);
		}
		files->words[files->count] = word;
		files->bits[files->count++] = bits;
	}
}

static bool is_recorded(const struct fork_files *files, uint64_t page)
{
	for (unsigned int i = 0; i < files->count; i++) {
		if (files->words[i] == page / 64)
			return files->bits[i] >> page % 64 & 1;
	}
	return false;
}

static const uint8_t *page_of(const struct memory *memory, uint64_t page)
{
	uint64_t offset = page * PAGE_SIZE_BYTES;

	return offset < memory->regions[0].size_bytes
		       ? memory->regions[0].hva + offset
		       : memory->regions[1].hva + (offset - memory->regions[0].size_bytes);
}

/* Each of the base and the own pages is in its place, but the page `changed`. */
static void check_fork(const struct fork_files *files, const struct memory *memory,
		       uint64_t changed)
{
	uint64_t pages = pages_of(files), first = pages > 2 * FORK_PAGES ? pages - FORK_PAGES : 0;

	for (uint64_t page = first; page < pages; page++) {
		uint8_t value = is_recorded(files, page) ? FORK_VALUE_OWN : FORK_VALUE_BASE;

		FUZZ_CHECK(memory_is_own(memory, page * PAGE_SIZE_BYTES) ==
			   (is_recorded(files, page) || page == changed));
		FUZZ_CHECK(*page_of(memory, page) == (page == changed ? (uint8_t)~value : value));
	}
	for (unsigned int i = 0; i < files->count; i++) {
		for (uint64_t page = 64 * files->words[i];
		     page < 64 * files->words[i] + 64 && page < pages; page++) {
			if (is_recorded(files, page) && page != changed)
				FUZZ_CHECK(*page_of(memory, page) == FORK_VALUE_OWN);
		}
	}
}

/* What was made of the files can be forked in turn, with a page more. */
static void fork_again(const struct fork_files *files, struct memory *memory, uint64_t changed)
{
	uint8_t *page = (uint8_t *)(uintptr_t)page_of(memory, changed);
	struct error err = { 0 };
	struct memory second;
	uint64_t copied;

	*page = (uint8_t) ~*page;
	memory_mark_dirty(memory, page, 1);
	FUZZ_CHECK(memory_fork(memory, &copied, &err) == 0 && copied >= PAGE_SIZE_BYTES);
	FUZZ_CHECK(memory_create(&second, files->memory_bytes, HUGE_PAGES_NONE, &err) == 0);
	FUZZ_CHECK(memory_map_forked(&second, dup(memory->base_fd), memory->own_fd, &err) == 0);
	check_fork(files, &second, changed);
	memory_destroy(&second);
}

/* What the two files are; false: they cannot be taken. */
static bool make_files(struct fork_files *files, uint8_t how, struct fuzz_input *input)
{
	uint64_t pages = pages_of(files);

	files->base = memfd_create("base", MFD_CLOEXEC | (how & 2 ? 0 : MFD_ALLOW_SEALING));
	files->own = memfd_create("own", MFD_CLOEXEC);
	FUZZ_CHECK(ftruncate(files->base, (off_t)files->memory_bytes) == 0 &&
		   ftruncate(files->own, (off_t)(files->memory_bytes + (pages + 63) / 64 * 8)) ==
			   0);
	for (uint64_t page = pages - FORK_PAGES; page < pages; page++)
		put_page(files->base, page, FORK_VALUE_BASE);
	put_record(files, input);
	if (how & 4) /* anywhere: in the pages, or in the record */
		FUZZ_CHECK(ftruncate(files->own, (off_t)(files->memory_bytes - 64 * KIB +
							 input_u32(input) % (64 * KIB + 8))) == 0);
	if (how & 8)
		FUZZ_CHECK(ftruncate(files->base,
				     (off_t)(files->memory_bytes - 1 - input_u16(input))) == 0);
	if (how & 0x10) { /* no file at all */
		close(files->own);
		files->own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	return (how & 0x1e) == 0;
}

static void fuzz_fork(struct fuzz_input *input)
{
	uint8_t how = input_u8(input);
	uint64_t changed = input_u16(input) % FORK_PAGES;
	struct fork_files files = {
		.memory_bytes = how & 1 ? FORK_BIG_BYTES : FORK_PAGES * PAGE_SIZE_BYTES,
	};
	bool good = make_files(&files, how, input);
	struct error err = { 0 };
	struct memory memory;
	void *writer = MAP_FAILED;

	if (how & 0x20 && !(how & 8)) { /* somebody has the base mapped for writing */
		writer = mmap(NULL, PAGE_SIZE_BYTES, PROT_WRITE, MAP_SHARED, files.base, 0);
		good = false;
	}
	FUZZ_CHECK(memory_create(&memory, files.memory_bytes, HUGE_PAGES_NONE, &err) == 0);
	if (memory_map_forked(&memory, files.base, files.own, &err) == 0) {
		FUZZ_CHECK(good);
		check_fork(&files, &memory, UINT64_MAX);
		fork_again(&files, &memory, pages_of(&files) - FORK_PAGES + changed);
	} else {
		FUZZ_CHECK(!good && err.message[0]);
	}
	memory_destroy(&memory);
	if (writer != MAP_FAILED)
		munmap(writer, PAGE_SIZE_BYTES);
	close(files.own);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static uint8_t bytes[FILE_BYTES];
	static int fds[2] = { -1, -1 };
	struct fuzz_input input = { data, length };
	uint8_t how = input_u8(&input);
	enum kind kind = (how & 0x7f) % KIND_COUNT;
	bool right = how & 0x80;
	char paths[2][32];

	for (int i = 0; i < 2; i++) {
		if (fds[i] < 0)
			fds[i] = memfd_create("file", MFD_CLOEXEC);
		FUZZ_CHECK(fds[i] >= 0);
		snprintf(paths[i], sizeof(paths[i]), "/proc/self/fd/%d", fds[i]);
	}
	if (kind == KIND_FORK) {
		fuzz_fork(&input);
		return 0;
	}
	if (kind >= KIND_MEMORY) {
		put_memory_file(fds[0], &input, right);
		put_memory_file(fds[1], &input, right);
		if (kind == KIND_MEMORY)
			fuzz_memory(paths[0], &input);
		else
			fuzz_merge(fds, paths);
		return 0;
	}
	length = input.length < sizeof(bytes) ? input.length : sizeof(bytes);
	memcpy(bytes, input.data, length);
	if (right)
		repair(bytes, length);
	if (kind == KIND_STATE) {
		fuzz_state(bytes, length, how);
	} else {
		FUZZ_CHECK(ftruncate(fds[0], 0) == 0 &&
			   pwrite(fds[0], bytes, length, 0) == (ssize_t)length);
		fuzz_working_set(paths[0]);
	}
	return 0;
}
