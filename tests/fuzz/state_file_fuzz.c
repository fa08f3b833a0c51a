/*
 * The files of a snapshot that come from an enemy, before any device looks at them: the frame of a
 * state file and its sections, a working set, memory files and their merge. The first byte chooses
 * which, and whether checksums are made right, behind which most of the checks lie. Whatever comes:
 * nothing crashes or leaks, what is accepted lies within the file, written anew it is the same
 * file, and what is refused says why.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz_input.h"
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static uint8_t bytes[FILE_BYTES];
	static int fds[2] = { -1, -1 };
	struct fuzz_input input = { data, length };
	uint8_t how = input_u8(&input);
	bool right = how & 0x80;
	char paths[2][32];

	for (int i = 0; i < 2; i++) {
		if (fds[i] < 0)
			fds[i] = memfd_create("file", MFD_CLOEXEC);
		FUZZ_CHECK(fds[i] >= 0);
		snprintf(paths[i], sizeof(paths[i]), "/proc/self/fd/%d", fds[i]);
	}
	if (how % KIND_COUNT >= KIND_MEMORY) {
		put_memory_file(fds[0], &input, right);
		put_memory_file(fds[1], &input, right);
		if (how % KIND_COUNT == KIND_MEMORY)
			fuzz_memory(paths[0], &input);
		else
			fuzz_merge(fds, paths);
		return 0;
	}
	length = input.length < sizeof(bytes) ? input.length : sizeof(bytes);
	memcpy(bytes, input.data, length);
	if (right)
		repair(bytes, length);
	if (how % KIND_COUNT == KIND_STATE) {
		fuzz_state(bytes, length, how);
	} else {
		FUZZ_CHECK(ftruncate(fds[0], 0) == 0 &&
			   pwrite(fds[0], bytes, length, 0) == (ssize_t)length);
		fuzz_working_set(paths[0]);
	}
	return 0;
}
