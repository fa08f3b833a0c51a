/*
 * The state file of a snapshot: sections, each written and read by the module whose state it holds.
 * docs/snapshot-format.md is its description.
 *
 * Saving. A struct state_writer grows in memory; what goes wrong on the way (ENOMEM, a name too
 * long) is told once, by state_writer_finish(). Files appear whole or not at all.
 *
 * Loading. A state file may come from an enemy. state_file_parse() checks that sections are whole
 * and their checksums right; each module takes its section with state_find() and reads the fields
 * in the order in which it wrote them. Reading past the end gives 0 and is remembered, as is a
 *value which state_refuse() names; state_done() says so, with the section's name. So a module reads
 * all, checks each field before it uses it, and asks once at the end:
 *
 *	serial->divisor = state_get_u16(section);
 *	if (serial->divisor == 0)
 *		state_refuse(section, "divisor", "it is 0");
 *	return state_done(section, err);
 *
 * All numbers are little-endian. Main thread only.
 */
#ifndef MAYFLY_STATE_H
#define MAYFLY_STATE_H

#include "mayfly/error.h"

/* The version of the format: how sections are stored, not what is in them. */
#define STATE_FORMAT_VERSION   1
#define STATE_MAX_SECTIONS     512
#define STATE_MAX_NAME_BYTES   64 /* of a section and of an instance, without the end */
#define STATE_MAX_FILE_BYTES   (32 * MIB)
#define STATE_MAX_FIELD_BYTES  64 /* of a field's name in state_refuse() */
#define STATE_MAX_REASON_BYTES 256

struct state_writer {
	uint8_t *bytes;
	size_t used_bytes, capacity_bytes;
	size_t section_start; /* of the one that is open */
	bool open;
	uint32_t section_count;
	int failure; /* positive errno; 0: none so far */
};

/* Begins a file. `writer` needs no initialisation. */
void state_writer_init(struct state_writer *writer);

/*
 * Opens a section. `section` names the module ("serial"), `instance` which of several ("0", a drive
 * id), "" when there is only one; both together once a file. `version` is that of the fields.
 */
void state_begin(struct state_writer *writer, const char *section, const char *instance,
		 uint16_t version);
void state_put_u8(struct state_writer *writer, uint8_t value);
void state_put_u16(struct state_writer *writer, uint16_t value);
void state_put_u32(struct state_writer *writer, uint32_t value);
void state_put_u64(struct state_writer *writer, uint64_t value);
void state_put_bytes(struct state_writer *writer, const void *bytes, uint32_t length_bytes);
void state_put_string(struct state_writer *writer, const char *string);
void state_end(struct state_writer *writer);

/* Completes the file and says what went wrong on the way. `bytes` is the file then. */
int state_writer_finish(struct state_writer *writer, struct error *err);
void state_writer_destroy(struct state_writer *writer);

struct state_entry {
	char section[STATE_MAX_NAME_BYTES + 1];
	char instance[STATE_MAX_NAME_BYTES + 1];
	uint16_t version;
	bool taken; /* by state_find() */
	const uint8_t *body;
	uint32_t body_bytes;
};

struct state_file {
	uint8_t *bytes; /* owned; NULL when the caller keeps them */
	struct state_entry *entries;
	unsigned int entry_count;
};

/*
 * Reads the file in one go and checks all of its frame. A file that is damaged, cut or of a newer
 * format is -EINVAL, and the message says where. `file` is empty after a failure.
 */
int state_file_open(struct state_file *file, const char *path, struct error *err);

/* The same of a file that is open, from its beginning; `fd` stays the caller's. */
int state_file_read(struct state_file *file, int fd, struct error *err);

/* The same of bytes in memory, which are borrowed until state_file_close(). */
int state_file_parse(struct state_file *file, const void *bytes, size_t length_bytes,
		     struct error *err);
void state_file_close(struct state_file *file);

/* After all have taken theirs: a section that nobody knows holds state that would be lost. */
int state_file_check_taken(const struct state_file *file, struct error *err);

struct state_section {
	const char *name, *instance; /* of the file's entry */
	uint16_t version;
	const uint8_t *next;
	size_t left_bytes;
	int failure; /* positive errno; 0: none so far. The first one stays. */
	char reason[STATE_MAX_FIELD_BYTES + STATE_MAX_REASON_BYTES];
};

/*
 * A cursor over one section, which lives as long as `file`. -ENOENT: there is none of that name;
 * -ENOTSUP: its version is newer than `newest_known_version`, which a newer Mayfly wrote.
 */
int state_find(struct state_file *file, const char *section, const char *instance,
	       uint16_t newest_known_version, struct state_section *out, struct error *err);
/* Whether there is one; it does not count as taken. */
bool state_has(const struct state_file *file, const char *section, const char *instance);

uint8_t state_get_u8(struct state_section *section);
uint16_t state_get_u16(struct state_section *section);
uint32_t state_get_u32(struct state_section *section);
uint64_t state_get_u64(struct state_section *section);
/* A u8 which must be 0 or 1; `field` names it in the refusal. */
bool state_get_bool(struct state_section *section, const char *field);
/* What state_put_bytes() wrote, which must have that length; zeroes otherwise. */
void state_get_bytes(struct state_section *section, void *out, uint32_t exact_length_bytes);
/* The same without a copy, of any length up to `most_bytes`. NULL, and a length of 0, otherwise. */
const void *state_get_span(struct state_section *section, uint32_t most_bytes,
			   uint32_t *length_bytes);
/* With its end, into `size_bytes`; one that does not fit or has a zero in it is refused. */
void state_get_string(struct state_section *section, char *out, size_t size_bytes);

/* A value that cannot be: remembered, unless something was before it. */
void state_refuse(struct state_section *section, const char *field, const char *format, ...)
	PRINTF_FORMAT(3, 4);
bool state_failed(const struct state_section *section);

/* At the end of a section: what was refused, or that something is left over. -EINVAL. */
int state_done(struct state_section *section, struct error *err);

/* CRC-32C (Castagnoli; RFC 3720, B.4) of `bytes`, continuing `crc` (0 at the beginning). */
uint32_t state_crc32c(uint32_t crc, const void *bytes, size_t length_bytes);
/* The same on processors without the instruction for it. */
uint32_t state_crc32c_bitwise(uint32_t crc, const void *bytes, size_t length_bytes);

#endif
