/*
 * What the tests of devices' states share: a state file in memory, of which a test may change what
 * a module has written. It is parsed before, so that checksums are not in the way.
 */
#ifndef TESTS_UNIT_SAVED_STATE_H
#define TESTS_UNIT_SAVED_STATE_H

#include <criterion/criterion.h>
#include <string.h>

#include "mayfly/state.h"

struct saved_state {
	struct state_writer writer;
	struct state_file file;
};

/* Everything has been written: the file can be read now. */
static inline void saved_state_read(struct saved_state *saved)
{
	struct error err = { 0 };

	cr_assert_eq(state_writer_finish(&saved->writer, &err), 0, "%s", err.message);
	cr_assert_eq(
		state_file_parse(&saved->file, saved->writer.bytes, saved->writer.used_bytes, &err),
		0, "%s", err.message);
}

static inline void saved_state_destroy(struct saved_state *saved)
{
	state_file_close(&saved->file);
	state_writer_destroy(&saved->writer);
}

static inline struct state_entry *saved_state_entry(struct saved_state *saved, const char *section)
{
	for (unsigned int i = 0; i < saved->file.entry_count; i++) {
		if (strcmp(saved->file.entries[i].section, section) == 0)
			return &saved->file.entries[i];
	}
	cr_assert(false, "there is no section %s", section);
	return NULL;
}

/* A field at `offset` of the section's body becomes `value`; the old value. */
static inline uint64_t saved_state_change(struct saved_state *saved, const char *section,
					  size_t offset, size_t bytes, uint64_t value)
{
	struct state_entry *entry = saved_state_entry(saved, section);
	uint8_t *field = saved->writer.bytes + (entry->body - saved->writer.bytes) + offset;
	uint64_t old = 0;

	cr_assert_leq(offset + bytes, entry->body_bytes);
	memcpy(&old, field, bytes);
	memcpy(field, &value, bytes);
	return old;
}

/* A value which a module must refuse, and the words that its refusal has. */
struct wrong_value {
	size_t offset, bytes;
	uint64_t value;
	const char *words;
};

/*
 * A module made anew, as in another process, which restores itself from the section: its result.
 * Where it refused, what is left of it is driven on: it works on nothing.
 */
typedef int (*saved_state_restore)(void *context, struct state_file *file, struct error *err);

/* Each value in its turn; the error names it and, with `owner`, whose it is. Then the section as it
 * was. */
static inline void saved_state_refuses(struct saved_state *saved, const char *section,
				       const char *owner, const struct wrong_value *wrong,
				       size_t count, saved_state_restore restore, void *context)
{
	struct error err = { 0 };

	for (size_t i = 0; i < count; i++) {
		const struct wrong_value *w = &wrong[i];
		uint64_t old = saved_state_change(saved, section, w->offset, w->bytes, w->value);

		cr_assert_eq(restore(context, &saved->file, &err), -EINVAL, "%zu: 0x%llx at %zu", i,
			     (unsigned long long)w->value, w->offset);
		cr_assert(strstr(err.message, w->words) && strstr(err.message, section) &&
				  strstr(err.message, owner),
			  "%zu: %s", i, err.message);
		saved_state_change(saved, section, w->offset, w->bytes, old);
	}
	cr_assert_eq(restore(context, &saved->file, &err), 0, "%s", err.message);
}

/* The section cut at every length, and one byte longer. */
static inline void saved_state_refuses_cuts(struct saved_state *saved, const char *section,
					    saved_state_restore restore, void *context)
{
	struct state_entry *entry = saved_state_entry(saved, section);
	uint32_t length = entry->body_bytes;

	for (entry->body_bytes = 0; entry->body_bytes <= length + 1; entry->body_bytes++) {
		struct error err = { 0 };

		cr_assert_eq(restore(context, &saved->file, &err),
			     entry->body_bytes == length ? 0 : -EINVAL, "%u bytes",
			     entry->body_bytes);
	}
}

#endif
