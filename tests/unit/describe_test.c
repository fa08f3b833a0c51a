/* mayfly --describe-snapshot: src/snapshot/describe.c, with state files of an enemy. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mayfly/memory_file.h"
#include "mayfly/snapshot.h"

static struct error err;

/* A state file of the general sections, under a path that is in `path`. */
static void write_state(char path[32], const char *version, uint64_t created_ns,
			uint64_t memory_bytes, const char *config)
{
	const uint8_t id[MEMORY_FILE_ID_BYTES] = { 0xab, 0xcd };
	int fd = memfd_create("state", MFD_CLOEXEC);
	struct state_writer writer;

	state_writer_init(&writer);
	state_begin(&writer, SNAPSHOT_SECTION, "", SNAPSHOT_VERSION);
	state_put_string(&writer, version);
	state_put_u64(&writer, created_ns);
	state_end(&writer);
	state_begin(&writer, SNAPSHOT_MEMORY_SECTION, "", SNAPSHOT_MEMORY_VERSION);
	state_put_u64(&writer, memory_bytes);
	state_put_bytes(&writer, id, sizeof(id));
	state_end(&writer);
	state_begin(&writer, SNAPSHOT_CONFIG_SECTION, "", SNAPSHOT_CONFIG_VERSION);
	state_put_string(&writer, config);
	state_end(&writer);
	cr_assert_eq(state_writer_finish(&writer, &err), 0, "%s", err.message);
	cr_assert(write_all_at(fd, writer.bytes, writer.used_bytes, 0));
	state_writer_destroy(&writer);
	snprintf(path, 32, "/proc/self/fd/%d", fd);
}

/* What is printed; the caller frees it. */
static char *describe(const char *path, bool json)
{
	size_t length;
	char *text = NULL;
	FILE *out = open_memstream(&text, &length);

	cr_assert_eq(snapshot_describe(path, json, out, &err), 0, "%s", err.message);
	fclose(out);
	return text;
}

static void refuse(const char *path, const char *because)
{
	for (int json = 0; json < 2; json++) {
		size_t length;
		char *text = NULL;
		FILE *out = open_memstream(&text, &length);

		cr_assert_lt(snapshot_describe(path, json, out, &err), 0);
		fclose(out);
		cr_assert_eq(length, 0);
		cr_assert(strstr(err.message, because), "%s", err.message);
		free(text);
	}
}

Test(describe, a_state_file_is_described_in_words_and_in_json)
{
	char path[32], *text;
	json_t *json;

	write_state(path, "1.2", 1000000000, 4 * MIB,
		    "{\"machine-config\":{\"vcpu_count\":3},\"drives\":[{}]}");
	text = describe(path, false);
	cr_assert(strstr(text, "of Mayfly 1.2, made 1970-01-01 00:00:01 UTC"), "%s", text);
	cr_assert(strstr(text, "vCPUs 3, memory 4 MiB, drives 1, network interfaces 0"), "%s",
		  text);
	free(text);
	text = describe(path, true);
	json = json_loads(text, 0, NULL);
	cr_assert_eq(json_integer_value(json_object_get(json, "memory_bytes")), 4 * MIB);
	cr_assert_eq(json_array_size(json_object_get(json, "sections")), 3);
	json_decref(json);
	free(text);
}

Test(describe, a_version_that_a_terminal_would_obey_is_refused)
{
	char path[32];

	write_state(path, "\x1b]0;title\x07", 1, 4 * MIB, "{}");
	refuse(path, "section snapshot: version: it has characters that no version has");
	/* No UTF-8: there is no JSON for it. */
	write_state(path, "1.\xff", 1, 4 * MIB, "{}");
	refuse(path, "section snapshot: version: it has characters that no version has");
}

Test(describe, numbers_that_cannot_be_are_refused)
{
	char path[32];

	write_state(path, "1", 1ULL << 63, 4 * MIB, "{}");
	refuse(path, "section snapshot: time: it is 9223372036854775808 ns");
	write_state(path, "1", 1, UINT64_MAX, "{}");
	refuse(path, "section memory: size: it is 18446744073709551615 bytes");
}

Test(describe, an_output_without_room_is_an_error)
{
	FILE *full = fopen("/dev/full", "w");
	char path[32];

	cr_assert(full);
	write_state(path, "1", 1, 4 * MIB, "{}");
	for (int json = 0; json < 2; json++) {
		cr_assert_lt(snapshot_describe(path, json, full, &err), 0);
		cr_assert(strstr(err.message, "the description cannot be written: No space left"),
			  "%s", err.message);
	}
	fclose(full);
}
