/*
 * Reading a state file: see include/mayfly/state.h, and frame.h for the bytes. Nothing of it is
 * trusted: a length is held against what is left before it is used, and a checksum only says that
 * nothing was damaged by accident.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "frame.h"
#include "mayfly/state.h"

#define ENTRIES_AT_A_TIME 32

uint32_t frame_checksum(const uint8_t *section, size_t length)
{
	struct frame_section head;
	uint32_t crc;

	memcpy(&head, section, sizeof(head));
	head.checksum = 0;
	crc = state_crc32c(0, &head, sizeof(head));
	return state_crc32c(crc, section + sizeof(head), length - sizeof(head));
}

/* "section vcpu 3", for messages. */
#define SECTION_FORMAT	   "section %s%s%s"
#define SECTION_WORDS(of)  (of)->name, *(of)->instance ? " " : "", (of)->instance
#define ENTRY_WORDS(entry) (entry)->section, *(entry)->instance ? " " : "", (entry)->instance

/* Names are printed: what is no letter, digit or one of a few signs is refused. */
static bool copy_name(char *to, const uint8_t *from, size_t length)
{
	if (length > STATE_MAX_NAME_BYTES)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (from[i] <= ' ' || from[i] >= 0x7f)
			return false;
	}
	memcpy(to, from, length);
	to[length] = '\0';
	return true;
}

static int check_head(const uint8_t *bytes, size_t length, struct error *err)
{
	uint32_t version, reserved;

	if (length < FRAME_HEAD_BYTES || memcmp(bytes, FRAME_MAGIC, FRAME_MAGIC_BYTES) != 0)
		return error_set(err, EINVAL, "it is not the state file of a snapshot");
	memcpy(&version, bytes + FRAME_MAGIC_BYTES, sizeof(version));
	memcpy(&reserved, bytes + FRAME_MAGIC_BYTES + sizeof(version), sizeof(reserved));
	if (version > STATE_FORMAT_VERSION)
		return error_set(
			err, ENOTSUP,
			"its format has version %u, and this Mayfly knows versions up to %d: a newer one wrote it",
			version, STATE_FORMAT_VERSION);
	if (version == 0 || reserved != 0)
		return error_set(err, EINVAL, "its head is damaged");
	return 0;
}

/* Room for one more. It grows with what is there: pages that are never used cost their first touch.
 */
static int make_room(struct state_file *file, struct error *err)
{
	unsigned int room = file->entry_count + ENTRIES_AT_A_TIME;
	struct state_entry *entries;

	if (file->entry_count % ENTRIES_AT_A_TIME)
		return 0;
	entries = realloc(file->entries, room * sizeof(*entries));
	if (!entries)
		return error_set(err, ENOMEM, "no memory for the state");
	file->entries = entries;
	return 0;
}

static int add_entry(struct state_file *file, const uint8_t *at, const struct frame_section *head,
		     struct error *err)
{
	struct state_entry *entry = &file->entries[file->entry_count];
	const uint8_t *names = at + sizeof(*head);

	*entry = (struct state_entry) { .version = head->version, .body_bytes = head->body_bytes };
	entry->body = names + head->section_bytes + head->instance_bytes;
	if (head->section_bytes == 0 || !copy_name(entry->section, names, head->section_bytes) ||
	    !copy_name(entry->instance, names + head->section_bytes, head->instance_bytes))
		return error_set(err, EINVAL, "section number %u has a name that cannot be",
				 file->entry_count);
	if (head->version == 0 || head->reserved != 0)
		return error_set(err, EINVAL, SECTION_FORMAT ": its head is damaged",
				 ENTRY_WORDS(entry));
	if (state_has(file, entry->section, entry->instance))
		return error_set(err, EINVAL, SECTION_FORMAT " is there twice", ENTRY_WORDS(entry));
	file->entry_count++;
	return 0;
}

/* By the section's name, as far as that is there. */
static int refuse_cut(unsigned int number, const uint8_t *at, size_t left,
		      const struct frame_section *head, struct error *err)
{
	const uint8_t *names = at + sizeof(*head);
	struct state_entry entry = { 0 };

	if ((size_t)head->section_bytes + head->instance_bytes > left - sizeof(*head) ||
	    !copy_name(entry.section, names, head->section_bytes) ||
	    !copy_name(entry.instance, names + head->section_bytes, head->instance_bytes))
		return error_set(err, EINVAL, "it is cut, or damaged, in section number %u",
				 number);
	return error_set(err, EINVAL, SECTION_FORMAT ": it is cut, or damaged",
			 ENTRY_WORDS(&entry));
}

/* The last section: that nothing is missing, of what is before it. */
static int check_end(const struct state_file *file, const uint8_t *bytes, const uint8_t *end,
		     struct error *err)
{
	const struct state_entry *entry = &file->entries[file->entry_count - 1];
	uint32_t count, whole;

	if (entry->version != FRAME_END_VERSION || *entry->instance ||
	    entry->body_bytes != sizeof(count) + sizeof(whole))
		return error_set(err, EINVAL, "section " FRAME_END ": it is damaged");
	memcpy(&count, entry->body, sizeof(count));
	memcpy(&whole, entry->body + sizeof(count), sizeof(whole));
	if (count != file->entry_count)
		return error_set(err, EINVAL,
				 "section " FRAME_END ": there should be %u sections, not %u",
				 count, file->entry_count);
	if (whole != state_crc32c(0, bytes, (size_t)(end - bytes)))
		return error_set(err, EINVAL,
				 "section " FRAME_END ": the checksum of the whole is wrong");
	return 0;
}

static int parse_sections(struct state_file *file, const uint8_t *bytes, size_t length,
			  struct error *err)
{
	const uint8_t *at = bytes + FRAME_HEAD_BYTES;
	size_t left = length - FRAME_HEAD_BYTES;

	while (left > 0) {
		struct frame_section head;
		size_t total;
		int result;

		if (file->entry_count == STATE_MAX_SECTIONS)
			return error_set(err, EINVAL, "it has more than %d sections",
					 STATE_MAX_SECTIONS);
		if (left < sizeof(head))
			return error_set(err, EINVAL, "it is cut in section number %u",
					 file->entry_count);
		memcpy(&head, at, sizeof(head));
		total = sizeof(head) + head.section_bytes + head.instance_bytes +
			(size_t)head.body_bytes;
		if (total > left)
			return refuse_cut(file->entry_count, at, left, &head, err);
		result = make_room(file, err);
		if (result == 0)
			result = add_entry(file, at, &head, err);
		if (result < 0)
			return result;
		if (head.checksum != frame_checksum(at, total))
			return error_set(err, EINVAL,
					 SECTION_FORMAT ": its checksum is wrong, it is damaged",
					 ENTRY_WORDS(&file->entries[file->entry_count - 1]));
		if (strcmp(file->entries[file->entry_count - 1].section, FRAME_END) == 0) {
			if (total != left)
				return error_set(err, EINVAL, "there is something behind its end");
			return check_end(file, bytes, at, err);
		}
		at += total;
		left -= total;
	}
	return error_set(err, EINVAL, "it is cut: the section " FRAME_END " is missing");
}

int state_file_parse(struct state_file *file, const void *bytes, size_t length_bytes,
		     struct error *err)
{
	int result = check_head(bytes, length_bytes, err);

	*file = (struct state_file) { 0 };
	if (result < 0)
		return result;
	result = parse_sections(file, bytes, length_bytes, err);
	if (result < 0)
		state_file_close(file);
	else
		file->entry_count--; /* the end belongs to the frame */
	return result;
}

static int read_all(int fd, uint8_t *bytes, size_t length, struct error *err)
{
	size_t have = 0;

	while (have < length) {
		ssize_t got = read(fd, bytes + have, length - have);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, "it cannot be read");
		if (got == 0)
			return error_set(err, EINVAL, "it was cut while it was read");
		have += (size_t)got;
	}
	return 0;
}

static int read_file(struct state_file *file, int fd, struct error *err)
{
	cleanup_free uint8_t *bytes = NULL;
	struct stat status;
	int result;

	if (fstat(fd, &status) < 0)
		return error_errno(err, "it cannot be examined");
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "it is no regular file");
	if ((uint64_t)status.st_size > STATE_MAX_FILE_BYTES)
		return error_set(err, EFBIG, "it is larger than %llu MiB, which no state file is",
				 (unsigned long long)(STATE_MAX_FILE_BYTES / MIB));
	bytes = malloc((size_t)status.st_size + 1);
	if (!bytes)
		return error_set(err, ENOMEM, "no memory for it");
	result = read_all(fd, bytes, (size_t)status.st_size, err);
	if (result == 0)
		result = state_file_parse(file, bytes, (size_t)status.st_size, err);
	if (result < 0)
		return result;
	file->bytes = bytes;
	bytes = NULL;
	return 0;
}

static int open_file(struct state_file *file, const char *path, struct error *err)
{
	/* A FIFO would make the open wait. */
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd < 0)
		return error_errno(err, "it cannot be opened");
	return read_file(file, fd, err);
}

int state_file_open(struct state_file *file, const char *path, struct error *err)
{
	*file = (struct state_file) { 0 };
	if (open_file(file, path, err) < 0)
		return error_prefix(err, "state file %s", path);
	return 0;
}

int state_file_read(struct state_file *file, int fd, struct error *err)
{
	*file = (struct state_file) { 0 };
	if (lseek(fd, 0, SEEK_SET) < 0)
		return error_errno(err, "the state cannot be read");
	if (read_file(file, fd, err) < 0)
		return error_prefix(err, "the state");
	return 0;
}

void state_file_close(struct state_file *file)
{
	free(file->bytes);
	free(file->entries);
	*file = (struct state_file) { 0 };
}

int state_file_check_taken(const struct state_file *file, struct error *err)
{
	for (unsigned int i = 0; i < file->entry_count; i++) {
		const struct state_entry *entry = &file->entries[i];

		if (!entry->taken)
			return error_set(
				err, ENOTSUP,
				SECTION_FORMAT
				": this Mayfly does not know it, or nothing in this microVM needs it",
				ENTRY_WORDS(entry));
	}
	return 0;
}

static struct state_entry *find_entry(const struct state_file *file, const char *section,
				      const char *instance)
{
	for (unsigned int i = 0; i < file->entry_count; i++) {
		struct state_entry *entry = &file->entries[i];

		if (strcmp(entry->section, section) == 0 && strcmp(entry->instance, instance) == 0)
			return entry;
	}
	return NULL;
}

bool state_has(const struct state_file *file, const char *section, const char *instance)
{
	return find_entry(file, section, instance);
}

int state_find(struct state_file *file, const char *section, const char *instance,
	       uint16_t newest_known_version, struct state_section *out, struct error *err)
{
	struct state_entry *entry = find_entry(file, section, instance);

	*out = (struct state_section) { .name = section, .instance = instance };
	if (!entry)
		return error_set(err, ENOENT, SECTION_FORMAT " is missing", SECTION_WORDS(out));
	if (entry->version > newest_known_version)
		return error_set(
			err, ENOTSUP,
			SECTION_FORMAT
			": it has version %u, and this Mayfly knows versions up to %u: a newer one wrote it",
			SECTION_WORDS(out), entry->version, newest_known_version);
	entry->taken = true;
	out->name = entry->section;
	out->instance = entry->instance;
	out->version = entry->version;
	out->next = entry->body;
	out->left_bytes = entry->body_bytes;
	return 0;
}

static void remember(struct state_section *section, const char *reason)
{
	if (section->failure)
		return;
	section->failure = EINVAL;
	snprintf(section->reason, sizeof(section->reason), "%s", reason);
}

bool state_failed(const struct state_section *section)
{
	return section->failure != 0;
}

static void get(struct state_section *section, void *out, size_t length)
{
	if (section->left_bytes < length)
		remember(section, "it ends early");
	if (section->failure) {
		memset(out, 0, length);
		return;
	}
	memcpy(out, section->next, length);
	section->next += length;
	section->left_bytes -= length;
}

uint8_t state_get_u8(struct state_section *section)
{
	uint8_t value;

	get(section, &value, sizeof(value));
	return value;
}

uint16_t state_get_u16(struct state_section *section)
{
	uint16_t value;

	get(section, &value, sizeof(value));
	return value;
}

uint32_t state_get_u32(struct state_section *section)
{
	uint32_t value;

	get(section, &value, sizeof(value));
	return value;
}

uint64_t state_get_u64(struct state_section *section)
{
	uint64_t value;

	get(section, &value, sizeof(value));
	return value;
}

bool state_get_bool(struct state_section *section, const char *field)
{
	uint8_t value = state_get_u8(section);

	if (value > 1)
		state_refuse(section, field, "it is %u, neither 0 nor 1", value);
	return value == 1;
}

const void *state_get_span(struct state_section *section, uint32_t most_bytes,
			   uint32_t *length_bytes)
{
	uint32_t length = state_get_u32(section);
	const uint8_t *span = section->next;

	*length_bytes = 0;
	if (length > section->left_bytes)
		remember(section, "it ends early");
	if (length > most_bytes)
		remember(section, "a field of it is longer than it can be");
	if (section->failure)
		return NULL;
	section->next += length;
	section->left_bytes -= length;
	*length_bytes = length;
	return span;
}

void state_get_bytes(struct state_section *section, void *out, uint32_t exact_length_bytes)
{
	uint32_t length;
	const void *span = state_get_span(section, exact_length_bytes, &length);

	if (span && length != exact_length_bytes)
		remember(section, "a field of it is shorter than it should be");
	if (section->failure)
		memset(out, 0, exact_length_bytes);
	else if (length)
		memcpy(out, span, length);
}

void state_get_string(struct state_section *section, char *out, size_t size_bytes)
{
	uint32_t length;
	const char *span = state_get_span(section, (uint32_t)(size_bytes - 1), &length);

	out[0] = '\0';
	if (!span)
		return;
	if (memchr(span, '\0', length)) {
		remember(section, "a text of it has a zero byte in it");
		return;
	}
	memcpy(out, span, length);
	out[length] = '\0';
}

void state_refuse(struct state_section *section, const char *field, const char *format, ...)
{
	char reason[STATE_MAX_REASON_BYTES], all[sizeof(section->reason)];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	snprintf(all, sizeof(all), "%.*s: %s", STATE_MAX_FIELD_BYTES - 3, field, reason);
	remember(section, all);
}

int state_done(struct state_section *section, struct error *err)
{
	if (section->left_bytes)
		remember(section, "it is longer than what is known of it");
	if (!section->failure)
		return 0;
	return error_set(err, section->failure, SECTION_FORMAT ": %s", SECTION_WORDS(section),
			 section->reason);
}
