/*
 * All of a microVM in one JSON object: the config file, and the answer to GET /vm/config. The keys
 * are the API's resources in kebab-case, so that one can be fed to the other.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "config_private.h"

/* More than every string of every section can need; a wrong file (a disk image) is refused before
 * it is read. */
#define MAX_FILE_BYTES (1 * MIB)

/* Sections of one object: where each lives in struct vm_config. */
struct section {
	const struct config_object *object;
	size_t offset;
	size_t present_offset; /* of the has_... flag; SIZE_MAX: always there */
};

static const struct section sections[] = {
	{ &config_boot_source_object, offsetof(struct vm_config, boot_source),
	  offsetof(struct vm_config, has_boot_source) },
	{ &config_machine_object, offsetof(struct vm_config, machine), SIZE_MAX },
	{ &config_serial_object, offsetof(struct vm_config, serial),
	  offsetof(struct vm_config, has_serial) },
	{ &config_logger_object, offsetof(struct vm_config, logger),
	  offsetof(struct vm_config, has_logger) },
	{ &config_metrics_object, offsetof(struct vm_config, metrics),
	  offsetof(struct vm_config, has_metrics) },
};

/* Sections that clients of this API know, and why they are refused. null and empty lists ask for
 * nothing. */
static const struct {
	const char *key;
	const char *refusal;
} refused_sections[] = {
	{ "balloon", CONFIG_NOT_EMULATED },	   { "vsock", CONFIG_NOT_EMULATED },
	{ "entropy", CONFIG_NOT_EMULATED },	   { "pmem", CONFIG_NOT_EMULATED },
	{ "memory-hotplug", CONFIG_NOT_EMULATED }, { "cpu-config", CONFIG_NOT_YET "." },
	{ "mmds-config", CONFIG_NOT_YET "." },
};

static const struct section *find_section(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		if (strcmp(sections[i].object->name, key) == 0)
			return &sections[i];
	}
	return NULL;
}

static int parse_section(const struct section *section, const json_t *json,
			 const struct logger_config *logger, struct vm_config *config,
			 struct error *err)
{
	int result = 0;

	/* As PUT /logger does, this section leaves alone what it does not name. */
	if (section->object == &config_logger_object && logger &&
	    config_copy(&config_logger_object, &config->logger, logger) < 0)
		result = error_set(err, ENOMEM, "out of memory");
	if (result == 0)
		result = config_parse_object(section->object, json, false,
					     (char *)config + section->offset, err);
	if (result < 0)
		return error_prefix(err, "section `%s`", section->object->name);
	if (section->present_offset != SIZE_MAX)
		*(bool *)((char *)config + section->present_offset) = true;
	return 0;
}

/* Sections that are lists of devices. */
struct list {
	const struct config_object *object;
	size_t offset;	     /* of the first in struct vm_config */
	size_t count_offset; /* of their number, an unsigned int */
	unsigned int most;
	void (*set_defaults)(void *value); /* NULL: all zero */
};

static void set_drive_defaults(void *value)
{
	config_drive_defaults(value);
}

static const struct list lists[] = {
	{ &config_drive_object, offsetof(struct vm_config, drives),
	  offsetof(struct vm_config, drive_count), CONFIG_MAX_DRIVES, set_drive_defaults },
	{ &config_network_interface_object, offsetof(struct vm_config, interfaces),
	  offsetof(struct vm_config, interface_count), CONFIG_MAX_INTERFACES, NULL },
};

static const struct list *find_list(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		if (strcmp(lists[i].object->name, key) == 0)
			return &lists[i];
	}
	return NULL;
}

static unsigned int *count_of(const struct list *list, struct vm_config *config)
{
	return (unsigned int *)(void *)((char *)config + list->count_offset);
}

static void *entry_of(const struct list *list, struct vm_config *config, unsigned int index)
{
	return (char *)config + list->offset + index * list->object->size_bytes;
}

static int parse_list(const struct list *list, const json_t *json, struct vm_config *config,
		      struct error *err)
{
	const char *name = list->object->name;
	unsigned int *count = count_of(list, config);

	if (!json_is_array(json)) {
		config_type_error(json, "a sequence", NULL, err);
		return error_prefix(err, "section `%s`", name);
	}
	if (json_array_size(json) > list->most)
		return error_set(err, ERANGE, "section `%s`: %zu entries, %u at most are possible",
				 name, json_array_size(json), list->most);
	for (size_t i = 0; i < json_array_size(json); i++) {
		void *entry = entry_of(list, config, *count);
		int result;

		if (list->set_defaults)
			list->set_defaults(entry);
		result = config_parse_object(list->object, json_array_get(json, i), false, entry,
					     err);
		if (result < 0)
			return error_prefix(err, "section `%s`, entry %zu", name, i);
		++*count;
	}
	return 0;
}

static int parse_other(const char *key, const json_t *json, struct error *err)
{
	struct config_clip clip;

	for (size_t i = 0; i < ARRAY_SIZE(refused_sections); i++) {
		if (strcmp(refused_sections[i].key, key) != 0)
			continue;
		if (json_is_null(json) || (json_is_array(json) && json_array_size(json) == 0))
			return 0;
		return error_set(err, ENOTSUP, "section `%s`: %s", key,
				 refused_sections[i].refusal);
	}
	return error_set(err, EINVAL,
			 "unknown section `%s`, expected one of `boot-source`, `machine-config`, "
			 "`drives`, `network-interfaces`, `serial`, `logger`, `metrics`",
			 config_clip(&clip, key));
}

int config_parse_vm(const json_t *json, const struct logger_config *logger,
		    struct vm_config *config, struct error *err)
{
	const char *key;
	json_t *value;
	int result = 0;

	memset(config, 0, sizeof(*config));
	if (!json_is_object(json))
		return config_type_error(json, "a JSON object with a microVM's configuration", NULL,
					 err);
	config_machine_defaults(&config->machine);
	/* jansson iterates through a non-const object, but changes nothing. */
	json_object_foreach((json_t *)(uintptr_t)json, key, value)
	{
		const struct section *section = find_section(key);
		const struct list *list = find_list(key);

		if ((section || list) && json_is_null(value))
			continue;
		if (section)
			result = parse_section(section, value, logger, config, err);
		else if (list)
			result = parse_list(list, value, config, err);
		else
			result = parse_other(key, value, err);
		if (result < 0)
			break;
	}
	if (result < 0)
		config_vm_clear(config);
	return result;
}

/* Reads all of a file into *text (malloc'd). Returns its length or a negative errno. */
static ssize_t read_file(const char *path, char **text, struct error *err)
{
	/* O_NONBLOCK: a FIFO that nobody writes must not hang the start; it is refused below. */
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	cleanup_free char *buffer = NULL;
	struct stat status;
	size_t used = 0, room;

	if (fd < 0)
		return error_errno(err, "cannot open the configuration file %s", path);
	if (fstat(fd, &status) < 0)
		return error_errno(err, "cannot examine the configuration file %s", path);
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "the configuration file %s is not a regular file",
				 path);
	if ((uint64_t)status.st_size > MAX_FILE_BYTES)
		return error_set(err, EFBIG, "the configuration file %s is longer than %llu bytes",
				 path, MAX_FILE_BYTES);
	/* One byte more than it has: whoever writes to it meanwhile is found out. */
	room = (size_t)status.st_size + 1;
	buffer = malloc(room);
	if (!buffer)
		return error_set(err, ENOMEM, "out of memory for the configuration file %s", path);
	while (used < room) {
		ssize_t count = read(fd, buffer + used, room - used);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return error_errno(err, "cannot read the configuration file %s", path);
		if (count == 0)
			break;
		used += (size_t)count;
	}
	if (used == room)
		return error_set(
			err, EBUSY,
			"the configuration file %s grew while it was read: start again when it is "
			"complete",
			path);
	*text = buffer;
	buffer = NULL;
	return (ssize_t)used;
}

int config_load_vm(const char *path, const struct logger_config *logger, struct vm_config *config,
		   struct error *err)
{
	cleanup_free char *text = NULL;
	ssize_t length;
	json_t *json;
	int result;

	memset(config, 0, sizeof(*config));
	length = read_file(path, &text, err);
	if (length < 0)
		return (int)length;
	json = config_parse_json(text, (size_t)length, err);
	if (!json)
		return error_prefix(err, "configuration file %s", path);
	result = config_parse_vm(json, logger, config, err);
	json_decref(json);
	return result < 0 ? error_prefix(err, "configuration file %s", path) : 0;
}

/* Adds the JSON of one object under `key`; false when out of memory. */
static bool add_object(json_t *json, const char *key, const struct config_object *object,
		       const void *value)
{
	json_t *member = config_format_object(object, value);

	return member && json_object_set_new(json, key, member) == 0;
}

static bool add_list(json_t *json, const struct list *list, const struct vm_config *config)
{
	/* Nothing is changed through it. */
	struct vm_config *from = (struct vm_config *)(uintptr_t)config;
	json_t *entries = json_array();

	for (unsigned int i = 0; entries && i < *count_of(list, from); i++) {
		json_t *entry = config_format_object(list->object, entry_of(list, from, i));

		if (!entry || json_array_append_new(entries, entry) < 0) {
			json_decref(entries);
			entries = NULL;
		}
	}
	return entries && json_object_set_new(json, list->object->name, entries) == 0;
}

json_t *config_format_vm(const struct vm_config *config)
{
	json_t *json = json_object();
	bool complete = json != NULL;

	for (size_t i = 0; complete && i < ARRAY_SIZE(sections); i++) {
		const struct section *section = &sections[i];
		const char *base = (const char *)config;

		if (section->present_offset == SIZE_MAX ||
		    *(const bool *)(base + section->present_offset))
			complete = add_object(json, section->object->name, section->object,
					      base + section->offset);
	}
	for (size_t i = 0; complete && i < ARRAY_SIZE(lists); i++)
		complete = add_list(json, &lists[i], config);
	if (!complete) {
		json_decref(json);
		return NULL;
	}
	return json;
}

void config_vm_clear(struct vm_config *config)
{
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++)
		config_clear(sections[i].object, (char *)config + sections[i].offset);
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		for (unsigned int n = 0; n < *count_of(&lists[i], config); n++)
			config_clear(lists[i].object, entry_of(&lists[i], config, n));
	}
	memset(config, 0, sizeof(*config));
}
