/*
 * State files with hostile bytes: nothing in one may break what reads it. The input is a state file
 * whose checksums are put right before it is read, so that the fuzzer reaches the fields; once as
 * it is, too. What needs no KVM is read: the frame, what describes a snapshot, the configuration,
 * and each vCPU's state, whose processor is held against that of another vCPU. And all of it is
 * described (--describe-snapshot), in words that are fit for a terminal and in JSON.
 *
 * device_state_fuzz.c does the same with the devices, state_file_fuzz.c with the frame alone.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mayfly/config.h"
#include "mayfly/snapshot.h"
#include "src/machine.h"
#include "src/vcpu_state.h"

#define VCPUS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		__builtin_trap();
}

/* As src/snapshot/frame.h has it; said again, so that a mistake there does not hide itself. */
#define HEAD_BYTES    16
#define SECTION_BYTES 16

static uint32_t load_u32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return value;
}

/* Puts right what a checksum can find: the sections', and the whole's in the last one. */
static void mend(uint8_t *bytes, size_t size)
{
	size_t at = HEAD_BYTES;

	while (size >= HEAD_BYTES && size - at >= SECTION_BYTES) {
		uint8_t *head = bytes + at;
		size_t total = SECTION_BYTES + head[10] + head[11] + (size_t)load_u32(head);
		bool last = head[10] == 3 && size - at > SECTION_BYTES + 3 &&
			    memcmp(head + SECTION_BYTES, "end", 3) == 0;
		uint32_t crc;

		if (total > size - at)
			return;
		if (last && load_u32(head) == 8) {
			crc = state_crc32c(0, bytes, at);
			memcpy(head + total - 4, &crc, sizeof(crc));
		}
		memset(head + 4, 0, 4);
		crc = state_crc32c(0, head, total);
		memcpy(head + 4, &crc, sizeof(crc));
		at += total;
	}
}

static void read_config(struct state_file *file)
{
	struct vm_config config;
	struct error err = { 0 };

	if (machine_read_config(file, &config, &err) < 0)
		require(err.message[0] != '\0');
	else
		require(config.drive_count <= CONFIG_MAX_DRIVES);
	config_vm_clear(&config);
}

static void read_vcpus(struct state_file *file)
{
	struct vcpu_state *state = malloc(sizeof(*state)), *first = calloc(1, sizeof(*first));

	require(state && first);
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct error err = { 0 };
		int result = vcpu_state_read(state, i, file, &err);

		require(result == 0 || err.message[0] != '\0');
		require(state->cpuid.head.nent <= CPUID_MAX_ENTRIES);
		require(state->msrs.head.nmsrs <= VCPU_STATE_MAX_MSRS);
		require(state->xsave_bytes <= VCPU_STATE_MAX_XSAVE_BYTES);
		if (result < 0)
			continue;
		err.message[0] = '\0';
		if (cpuid_check_supported(&state->cpuid, &first->cpuid, &err) < 0)
			require(err.message[0] != '\0');
		/* A processor always has what it has itself. */
		require(cpuid_check_supported(&state->cpuid, &state->cpuid, &err) == 0);
		memcpy(first, state, sizeof(*first));
	}
	free(first);
	free(state);
}

/* What can be read can be written, and is then the same. */
static void write_again(struct state_file *file)
{
	struct vcpu_state *state = malloc(sizeof(*state));
	struct state_writer writer;
	struct state_file again;

	require(state);
	if (vcpu_state_read(state, 0, file, NULL) == 0) {
		const struct state_entry *before = NULL, *after;

		state_writer_init(&writer);
		vcpu_state_write(state, 0, &writer);
		require(state_writer_finish(&writer, NULL) == 0);
		require(state_file_parse(&again, writer.bytes, writer.used_bytes, NULL) == 0);
		after = &again.entries[0];
		for (unsigned int i = 0; i < file->entry_count; i++) {
			if (strcmp(file->entries[i].section, VCPU_STATE_SECTION) == 0 &&
			    strcmp(file->entries[i].instance, "0") == 0)
				before = &file->entries[i];
		}
		require(before && before->body_bytes == after->body_bytes &&
			memcmp(before->body, after->body, after->body_bytes) == 0);
		state_file_close(&again);
		state_writer_destroy(&writer);
	}
	free(state);
}

static void read_file(const uint8_t *bytes, size_t size)
{
	struct state_file file;
	struct error err = { 0 };

	if (state_file_parse(&file, bytes, size, &err) < 0) {
		require(err.message[0] != '\0');
		return;
	}
	for (unsigned int i = 0; i < file.entry_count; i++) {
		const struct state_entry *entry = &file.entries[i];

		require(entry->body >= bytes && entry->body + entry->body_bytes <= bytes + size);
		require(state_has(&file, entry->section, entry->instance));
	}
	read_config(&file);
	read_vcpus(&file);
	write_again(&file);
	(void)state_file_check_taken(&file, &err);
	state_file_close(&file);
}

/* Lines of text, whatever the file says of itself: a terminal obeys other bytes. */
static void require_lines(const char *text)
{
	for (; *text; text++)
		require(*text == '\n' || (*text >= ' ' && *text <= '~'));
}

static void describe(const char *path, bool in_json)
{
	struct error err = { 0 };
	size_t length = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &length);

	require(out);
	if (snapshot_describe(path, in_json, out, &err) < 0) {
		require(fclose(out) == 0 && length == 0 && err.message[0] != '\0');
	} else {
		json_t *json;

		require(fclose(out) == 0 && strlen(text) == length);
		if (!in_json)
			require_lines(text);
		json = in_json ? json_loads(text, 0, NULL) : NULL;
		require(!in_json || json_integer_value(json_object_get(json, "memory_bytes")) >= 0);
		json_decref(json);
	}
	free(text);
}

static void describe_file(const uint8_t *bytes, size_t size)
{
	static int fd = -1;
	char path[32];

	if (fd < 0)
		fd = memfd_create("state", MFD_CLOEXEC);
	require(fd >= 0 && ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	describe(path, false);
	describe(path, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size + 1);

	require(bytes);
	memcpy(bytes, data, size);
	read_file(bytes, size);
	mend(bytes, size);
	read_file(bytes, size);
	describe_file(bytes, size);
	free(bytes);
	return 0;
}
