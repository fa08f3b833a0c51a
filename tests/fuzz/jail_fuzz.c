/*
 * What the jailer reads and did not write: the words of its command line, files of /proc and of
 * cgroups, a PID file.
 *
 * The first byte chooses the reader; the rest, up to the first NUL, is its text, and behind it a
 * second one.
 */
#include <string.h>

#include "fuzz_input.h"
#include "jail/cgroup_private.h"
#include "jail/options.h"
#include "jail/paths.h"
#include "jail/room.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_file(const char *text)
{
	struct jail_file file;
	struct error err = { 0 };

	if (jail_parse_file(&file, text, &err) == 0) {
		FUZZ_CHECK(path_check_name(file.name));
		FUZZ_CHECK(*file.host && !strchr(file.host, ':'));
	} else {
		FUZZ_CHECK(err.message[0] && !file.host && !file.name);
	}
	jail_file_clear(&file);
}

static void check_setting(const char *text)
{
	struct cgroup_setting setting;
	struct error err = { 0 };

	if (jail_parse_setting(&setting, text, &err) == 0) {
		FUZZ_CHECK(!strchr(setting.file, '/') && !strchr(setting.value, '\n'));
		FUZZ_CHECK(setting.controller[0] && !strchr(setting.controller, '.'));
	}
	jail_setting_clear(&setting);
}

static void check_paths(const char *text, const char *controller)
{
	char path[PATH_MAX];

	if (cgroup_parse_mount(text, *controller ? controller : NULL, path))
		FUZZ_CHECK(path[0] && strlen(path) < PATH_MAX);
	if (cgroup_parse_membership(text, *controller ? controller : NULL, path))
		FUZZ_CHECK(strlen(path) < PATH_MAX && strlen(path) <= strlen(text));
}

static void check_value(const char *written, const char *found)
{
	/* What holds for a text holds for itself, unless it has no word in a line. */
	if (!strchr(written, '\n') && written[strspn(written, " \t")])
		FUZZ_CHECK(cgroup_value_holds(written, written));
	cgroup_value_holds(written, found);
}

static void check_options(char *text)
{
	struct jail_options options;
	struct error err = { 0 };
	char program[] = "mayfly-jailer";
	char *argv[66] = { program };
	int argc = 1;

	for (char *word = strtok(text, "\n"); word && argc < 65; word = strtok(NULL, "\n"))
		argv[argc++] = word;
	if (jail_options_parse(&options, argc, argv, &err) < 0)
		FUZZ_CHECK(err.message[0]);
	else if (options.command == JAIL_RUN)
		FUZZ_CHECK(options.id && path_check_name(options.exec_name) &&
			   (!options.has_uid || options.uid));
	jail_options_clear(&options);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *start = size ? (const char *)data + 1 : "";
	size_t length = size ? size - 1 : 0;
	size_t first = strnlen(start, length);
	/* Blocks of their own, as small as can be, so that reading past an end is seen. */
	char *text = strndup(start, first);
	char *second = first < length ? strndup(start + first + 1, length - first - 1) : strdup("");
	long pid;

	if (!text || !second) {
		free(text);
		free(second);
		return 0;
	}
	switch (size ? data[0] % 6 : 0) {
	case 0:
		check_file(text);
		break;
	case 1:
		check_setting(text);
		break;
	case 2:
		check_paths(text, second);
		break;
	case 3:
		check_value(text, second);
		break;
	case 4:
		check_options(text);
		break;
	default:
		pid = room_parse_pid(text);
		FUZZ_CHECK(pid == -1 || pid > 0);
		break;
	}
	free(text);
	free(second);
	return 0;
}
