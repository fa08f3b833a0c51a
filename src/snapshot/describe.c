/* What a state file holds, in words: see include/mayfly/snapshot.h. */
#include <jansson.h>
#include <string.h>
#include <time.h>

#include "mayfly/config.h"
#include "mayfly/memory_file.h"
#include "mayfly/snapshot.h"

/* What the general sections say. */
struct description {
	char mayfly_version[STATE_MAX_NAME_BYTES];
	uint64_t created_ns, memory_bytes;
	char memory_id[2 * MEMORY_FILE_ID_BYTES + 1];
	json_t *config; /* owned */
};

static int read_snapshot(struct state_file *file, struct description *out, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SNAPSHOT_SECTION, "", SNAPSHOT_VERSION, &section, err);

	if (result < 0)
		return result;
	state_get_string(&section, out->mayfly_version, sizeof(out->mayfly_version));
	/* It is printed: a terminal would obey some bytes, and JSON cannot hold others. */
	for (const char *at = out->mayfly_version; *at; at++) {
		if (*at <= ' ' || *at > '~')
			state_refuse(&section, "version", "it has characters that no version has");
	}
	out->created_ns = state_get_u64(&section);
	if (out->created_ns > INT64_MAX)
		state_refuse(&section, "time", "it is %llu ns, after all times",
			     (unsigned long long)out->created_ns);
	return state_done(&section, err);
}

static int read_memory(struct state_file *file, struct description *out, struct error *err)
{
	uint8_t id[MEMORY_FILE_ID_BYTES];
	struct state_section section;
	int result = state_find(file, SNAPSHOT_MEMORY_SECTION, "", SNAPSHOT_MEMORY_VERSION,
				&section, err);

	if (result < 0)
		return result;
	out->memory_bytes = state_get_u64(&section);
	if (out->memory_bytes > CONFIG_MAX_MEMORY_MIB * MIB)
		state_refuse(&section, "size", "it is %llu bytes, more than a microVM can have",
			     (unsigned long long)out->memory_bytes);
	state_get_bytes(&section, id, sizeof(id));
	for (size_t i = 0; i < sizeof(id); i++)
		snprintf(out->memory_id + 2 * i, 3, "%02x", id[i]);
	return state_done(&section, err);
}

int snapshot_read_config(struct state_file *state, json_t **out, struct error *err)
{
	struct state_section section;
	uint32_t length;
	const char *text;
	int result = state_find(state, SNAPSHOT_CONFIG_SECTION, "", SNAPSHOT_CONFIG_VERSION,
				&section, err);

	if (result < 0)
		return result;
	text = state_get_span(&section, SNAPSHOT_MAX_CONFIG_BYTES, &length);
	result = state_done(&section, err);
	if (result < 0)
		return result;
	*out = config_parse_json(text, length, err);
	return *out ? 0 : error_prefix(err, "section " SNAPSHOT_CONFIG_SECTION);
}

static json_t *describe_sections(const struct state_file *file)
{
	json_t *sections = json_array();

	for (unsigned int i = 0; sections && i < file->entry_count; i++) {
		const struct state_entry *entry = &file->entries[i];

		json_array_append_new(sections,
				      json_pack("{s:s, s:s, s:i, s:I}", "section", entry->section,
						"instance", entry->instance, "version",
						(int)entry->version, "bytes",
						(json_int_t)entry->body_bytes));
	}
	return sections;
}

static int print_json(const struct state_file *file, const struct description *what, FILE *out,
		      struct error *err)
{
	json_t *json = json_pack("{s:i, s:s, s:I, s:I, s:s, s:O, s:o}", "format_version",
				 STATE_FORMAT_VERSION, "mayfly_version", what->mayfly_version,
				 "created_ns", (json_int_t)what->created_ns, "memory_bytes",
				 (json_int_t)what->memory_bytes, "memory_id", what->memory_id,
				 "config", what->config, "sections", describe_sections(file));
	char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;

	json_decref(json);
	if (!text)
		return error_set(err, ENOMEM, "no memory for the description");
	fprintf(out, "%s\n", text);
	free(text);
	return 0;
}

static size_t count(const struct description *what, const char *key)
{
	return json_array_size(json_object_get(what->config, key));
}

static void print_text(const struct state_file *file, const struct description *what, FILE *out)
{
	const json_t *machine = json_object_get(what->config, "machine-config");
	time_t seconds = (time_t)(what->created_ns / 1000000000);
	char created[32] = "an unknown time";
	struct tm utc;

	if (gmtime_r(&seconds, &utc))
		strftime(created, sizeof(created), "%Y-%m-%d %H:%M:%S UTC", &utc);
	fprintf(out, "state file, format %d, of Mayfly %s, made %s\n", STATE_FORMAT_VERSION,
		what->mayfly_version, created);
	fprintf(out, "vCPUs %lld, memory %llu MiB, drives %zu, network interfaces %zu\n",
		(long long)json_integer_value(json_object_get(machine, "vcpu_count")),
		(unsigned long long)(what->memory_bytes / MIB), count(what, "drives"),
		count(what, "network-interfaces"));
	fprintf(out, "memory file %s\n\n%-16s %-16s %7s %8s\n", what->memory_id, "section",
		"instance", "version", "bytes");
	for (unsigned int i = 0; i < file->entry_count; i++) {
		const struct state_entry *entry = &file->entries[i];

		fprintf(out, "%-16s %-16s %7u %8u\n", entry->section, entry->instance,
			entry->version, entry->body_bytes);
	}
}

int snapshot_describe(const char *state_path, bool json, FILE *out, struct error *err)
{
	struct description what = { 0 };
	struct state_file file;
	int result = state_file_open(&file, state_path, err);

	if (result < 0)
		return result;
	result = read_snapshot(&file, &what, err);
	if (result == 0)
		result = read_memory(&file, &what, err);
	if (result == 0)
		result = snapshot_read_config(&file, &what.config, err);
	if (result < 0)
		result = error_prefix(err, "state file %s", state_path);
	else if (json)
		result = print_json(&file, &what, out, err);
	else
		print_text(&file, &what, out);
	/* What a full disk has no room for is noticed only now. */
	if (result == 0 && (fflush(out) != 0 || ferror(out)))
		result = error_errno(err, "the description cannot be written");
	json_decref(what.config);
	state_file_close(&file);
	return result;
}
