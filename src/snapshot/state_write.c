/*
 * Writing a state file: see include/mayfly/state.h, and frame.h for the bytes.
 *
 * Everything goes to memory first. A failure is kept and makes all that follows do nothing, so that
 * those who write fields need not look.
 */
#include <string.h>

#include "frame.h"
#include "mayfly/state.h"

#define FIRST_CAPACITY_BYTES (64 * KIB)

static void fail(struct state_writer *writer, int code)
{
	if (!writer->failure)
		writer->failure = code;
}

static void append(struct state_writer *writer, const void *bytes, size_t length)
{
	size_t needed = writer->used_bytes + length;

	if (writer->failure)
		return;
	if (needed > STATE_MAX_FILE_BYTES) {
		fail(writer, EFBIG);
		return;
	}
	if (needed > writer->capacity_bytes) {
		size_t capacity =
			writer->capacity_bytes ? writer->capacity_bytes : FIRST_CAPACITY_BYTES;
		uint8_t *grown;

		while (capacity < needed)
			capacity *= 2;
		grown = realloc(writer->bytes, capacity);
		if (!grown) {
			fail(writer, ENOMEM);
			return;
		}
		writer->bytes = grown;
		writer->capacity_bytes = capacity;
	}
	if (length)
		memcpy(writer->bytes + writer->used_bytes, bytes, length);
	writer->used_bytes = needed;
}

void state_writer_init(struct state_writer *writer)
{
	*writer = (struct state_writer) { 0 };
	append(writer, FRAME_MAGIC, FRAME_MAGIC_BYTES);
	append(writer, &(uint32_t) { STATE_FORMAT_VERSION }, sizeof(uint32_t));
	append(writer, &(uint32_t) { 0 }, sizeof(uint32_t));
}

void state_begin(struct state_writer *writer, const char *section, const char *instance,
		 uint16_t version)
{
	size_t section_bytes = strlen(section), instance_bytes = strlen(instance);
	struct frame_section head = { .version = version };

	/* Fields outside a section, or a section in another, are mistakes of a module. */
	if (writer->open || version == 0 || section_bytes == 0 ||
	    section_bytes > STATE_MAX_NAME_BYTES || instance_bytes > STATE_MAX_NAME_BYTES ||
	    writer->section_count == STATE_MAX_SECTIONS) {
		fail(writer, EINVAL);
		return;
	}
	head.section_bytes = (uint8_t)section_bytes;
	head.instance_bytes = (uint8_t)instance_bytes;
	writer->section_start = writer->used_bytes;
	writer->open = true;
	writer->section_count++;
	append(writer, &head, sizeof(head));
	append(writer, section, section_bytes);
	append(writer, instance, instance_bytes);
}

static void put(struct state_writer *writer, const void *value, size_t length)
{
	if (!writer->open)
		fail(writer, EINVAL);
	append(writer, value, length);
}

void state_put_u8(struct state_writer *writer, uint8_t value)
{
	put(writer, &value, sizeof(value));
}

void state_put_u16(struct state_writer *writer, uint16_t value)
{
	put(writer, &value, sizeof(value));
}

void state_put_u32(struct state_writer *writer, uint32_t value)
{
	put(writer, &value, sizeof(value));
}

void state_put_u64(struct state_writer *writer, uint64_t value)
{
	put(writer, &value, sizeof(value));
}

void state_put_bytes(struct state_writer *writer, const void *bytes, uint32_t length_bytes)
{
	state_put_u32(writer, length_bytes);
	put(writer, bytes, length_bytes);
}

void state_put_string(struct state_writer *writer, const char *string)
{
	size_t length = strlen(string);

	if (length > STATE_MAX_FILE_BYTES)
		fail(writer, EFBIG);
	else
		state_put_bytes(writer, string, (uint32_t)length);
}

void state_end(struct state_writer *writer)
{
	struct frame_section head;
	uint8_t *start;
	size_t body;

	if (!writer->open)
		fail(writer, EINVAL);
	if (writer->failure)
		return;
	start = writer->bytes + writer->section_start;
	memcpy(&head, start, sizeof(head));
	body = writer->used_bytes - writer->section_start - sizeof(head) - head.section_bytes -
	       head.instance_bytes;
	head.body_bytes = (uint32_t)body;
	memcpy(start, &head, sizeof(head));
	head.checksum = frame_checksum(start, writer->used_bytes - writer->section_start);
	memcpy(start, &head, sizeof(head));
	writer->open = false;
}

int state_writer_finish(struct state_writer *writer, struct error *err)
{
	uint32_t whole = 0;

	if (writer->open)
		fail(writer, EINVAL);
	if (!writer->failure)
		whole = state_crc32c(0, writer->bytes, writer->used_bytes);
	state_begin(writer, FRAME_END, "", FRAME_END_VERSION);
	state_put_u32(writer, writer->section_count);
	state_put_u32(writer, whole);
	state_end(writer);
	switch (writer->failure) {
	case 0:
		return 0;
	case EFBIG:
		return error_set(err, EFBIG, "the state is larger than %llu MiB",
				 (unsigned long long)(STATE_MAX_FILE_BYTES / MIB));
	case EINVAL:
		return error_set(err, EINVAL,
				 "a section of the state was written out of its order");
	default:
		errno = writer->failure;
		return error_errno(err, "the state cannot be collected");
	}
}

void state_writer_destroy(struct state_writer *writer)
{
	free(writer->bytes);
	*writer = (struct state_writer) { 0 };
}
