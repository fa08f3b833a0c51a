/*
 * The command line of the jailer: see options.h.
 */
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/arguments.h"
#include "mayfly/config.h"
#include "options.h"
#include "paths.h"

enum {
	OPT_ID = ARGUMENTS_FIRST_LONG,
	OPT_EXEC_FILE,
	OPT_UID,
	OPT_GID,
	OPT_BASE,
	OPT_NETNS,
	OPT_DAEMONIZE,
	OPT_NEW_PID_NS,
	OPT_CGROUP,
	OPT_CGROUP_VERSION,
	OPT_PARENT_CGROUP,
	OPT_LIMIT,
	OPT_FILE,
	OPT_STRICT,
};

static const struct option long_options[] = {
	{ "id", required_argument, NULL, OPT_ID },
	{ "exec-file", required_argument, NULL, OPT_EXEC_FILE },
	{ "uid", required_argument, NULL, OPT_UID },
	{ "gid", required_argument, NULL, OPT_GID },
	{ "chroot-base-dir", required_argument, NULL, OPT_BASE },
	{ "netns", required_argument, NULL, OPT_NETNS },
	{ "daemonize", no_argument, NULL, OPT_DAEMONIZE },
	{ "new-pid-ns", no_argument, NULL, OPT_NEW_PID_NS },
	{ "cgroup", required_argument, NULL, OPT_CGROUP },
	{ "cgroup-version", required_argument, NULL, OPT_CGROUP_VERSION },
	{ "parent-cgroup", required_argument, NULL, OPT_PARENT_CGROUP },
	{ "resource-limit", required_argument, NULL, OPT_LIMIT },
	{ "file", required_argument, NULL, OPT_FILE },
	{ "strict", no_argument, NULL, OPT_STRICT },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

void jail_options_print_help(void)
{
	fputs("mayfly-jailer " MAYFLY_VERSION ": starts a monitor in an empty room.\n"
	      "\n"
	      "  mayfly-jailer --id ID --exec-file FILE [--uid N --gid N] [options] [-- monitor's arguments]\n"
	      "\n"
	      "  --id ID              name of the microVM: letters, digits and hyphens\n"
	      "  --exec-file FILE     the monitor, a static program; it is copied into the jail\n"
	      "  --uid N, --gid N     who the monitor runs as; not 0. An ordinary user leaves them out\n"
	      "  --chroot-base-dir DIR\n"
	      "                       the jail's root is DIR/<name of exec-file>/ID/root (default " JAIL_DEFAULT_BASE
	      ")\n"
	      "  --file HOST[:NAME][:ro]\n"
	      "                       shows a file, socket or block device of the host in the jail as /NAME\n"
	      "                       (default: its own name); ro: for reading only; may be repeated\n"
	      "  --netns FILE         join this network namespace, such as /run/netns/NAME\n"
	      "\n"
	      "Limits:\n"
	      "  --cgroup FILE=VALUE  such as memory.max=512M; may be repeated; each is read back\n"
	      "  --cgroup-version 1|2 which hierarchy (default: the host's main one)\n"
	      "  --parent-cgroup PATH the cgroup is PATH/ID (default: name of exec-file)\n"
	      "  --resource-limit fsize=BYTES|no-file=N\n"
	      "                       largest file, and number of descriptors (default no-file=2048)\n"
	      "\n"
	      "  --new-pid-ns         a PID namespace of its own; the PID is in ROOT/<name>.pid\n"
	      "  --daemonize          a session of its own, /dev/null as input and output\n"
	      "  --strict             fail where a protection cannot be had, instead of saying so\n"
	      "  --help, --version\n"
	      "\n"
	      "Run by an ordinary user it uses a user namespace, and says which protections are missing.\n"
	      "See mayfly-jailer(1) and docs/jail.md.\n",
	      stdout);
}

void jail_setting_clear(struct cgroup_setting *setting)
{
	free(setting->file);
	free(setting->value);
	*setting = (struct cgroup_setting) { 0 };
}

void jail_file_clear(struct jail_file *file)
{
	free(file->host);
	free(file->name);
	*file = (struct jail_file) { 0 };
}

void jail_options_clear(struct jail_options *options)
{
	for (unsigned int i = 0; i < options->setting_count; i++)
		jail_setting_clear(&options->settings[i]);
	for (unsigned int i = 0; i < options->file_count; i++)
		jail_file_clear(&options->files[i]);
	options->setting_count = options->file_count = 0;
}

/* The files by which the jailer itself works: a value there would undo what it does. */
static bool is_jailers_own(const char *file)
{
	static const char *const own[] = { "cgroup.procs", "cgroup.threads", "cgroup.type",
					   "cgroup.subtree_control", "cgroup.clone_children" };

	for (size_t i = 0; i < ARRAY_SIZE(own); i++) {
		if (strcmp(file, own[i]) == 0)
			return true;
	}
	return false;
}

static int check_setting(struct cgroup_setting *setting, const char *text, struct error *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-";
	const char *file = setting->file;
	const char *dot = strchr(file, '.');
	size_t controller_length = dot ? (size_t)(dot - file) : 0;

	if (controller_length == 0 || controller_length >= sizeof(setting->controller) ||
	    file[strspn(file, allowed)] || strlen(file) > NAME_MAX)
		return error_set(
			err, EINVAL,
			"--cgroup takes CONTROLLER.FILE=VALUE, such as memory.max=512M, not '%s'.",
			text);
	memcpy(setting->controller, file, controller_length);
	setting->controller[controller_length] = '\0';
	if (is_jailers_own(file))
		return error_set(err, EINVAL, "--cgroup cannot set %s: the jailer itself does.",
				 file);
	if (!*setting->value)
		return error_set(err, EINVAL, "--cgroup %s needs a value behind the '='.", text);
	for (const char *c = setting->value; *c; c++) {
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return error_set(err, EINVAL,
					 "the value of --cgroup %s contains a control character.",
					 file);
	}
	return 0;
}

int jail_parse_setting(struct cgroup_setting *setting, const char *text, struct error *err)
{
	const char *equals = strchr(text, '=');
	int result;

	*setting = (struct cgroup_setting) { 0 };
	if (!equals)
		return error_set(
			err, EINVAL,
			"--cgroup takes CONTROLLER.FILE=VALUE, such as memory.max=512M, not '%s'.",
			text);
	setting->file = strndup(text, (size_t)(equals - text));
	setting->value = strdup(equals + 1);
	if (!setting->file || !setting->value)
		result = error_set(err, ENOMEM, "out of memory");
	else
		result = check_setting(setting, text, err);
	if (result < 0)
		jail_setting_clear(setting);
	return result;
}

static int check_file(const struct jail_file *file, const char *text, struct error *err)
{
	if (path_check("--file", file->host, err) < 0)
		return -err->code;
	if (path_check_name(file->name) && strlen(file->name) < PATH_MAX)
		return 0;
	return error_set(
		err, EINVAL,
		"--file %s: '%s' cannot be a name in the jail: it takes names joined by '/', without "
		"'.', '..', or a '/' at its end.",
		text, file->name);
}

/* HOST has no colon: what is behind one is NAME or "ro". */
int jail_parse_file(struct jail_file *file, const char *text, struct error *err)
{
	cleanup_free char *copy = strdup(text);
	char *words[3] = { copy, NULL, NULL };
	unsigned int count = 1;
	const char *name;
	int result;

	*file = (struct jail_file) { 0 };
	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	for (char *colon = copy; count <= ARRAY_SIZE(words) && (colon = strchr(colon, ':'));) {
		*colon++ = '\0';
		if (count < ARRAY_SIZE(words))
			words[count] = colon;
		count++;
	}
	if (count > 1 && count <= ARRAY_SIZE(words) && strcmp(words[count - 1], "ro") == 0) {
		file->read_only = true;
		count--;
	}
	if (count > 2 || !*words[0])
		return error_set(
			err, EINVAL,
			"--file takes HOST[:NAME][:ro], such as /images/root.ext4:root.ext4:ro, not "
			"'%s'. A file whose path has a colon can be reached by a bind mount.",
			text);
	if (count == 2)
		name = words[1] + (words[1][0] == '/');
	else
		name = path_last_component(words[0]);
	file->host = strdup(words[0]);
	file->name = strdup(name);
	if (!file->host || !file->name)
		result = error_set(err, ENOMEM, "out of memory");
	else
		result = check_file(file, text, err);
	if (result < 0)
		jail_file_clear(file);
	return result;
}

static int take_setting(struct jail_options *options, const char *text, struct error *err)
{
	int result;

	if (options->setting_count == JAIL_MAX_SETTINGS)
		return error_set(err, ENOSPC, "--cgroup can be given %d times.", JAIL_MAX_SETTINGS);
	result = jail_parse_setting(&options->settings[options->setting_count], text, err);
	options->setting_count += result == 0;
	return result;
}

static int take_file(struct jail_options *options, const char *text, struct error *err)
{
	int result;

	if (options->file_count == JAIL_MAX_FILES)
		return error_set(err, ENOSPC, "--file can be given %d times.", JAIL_MAX_FILES);
	result = jail_parse_file(&options->files[options->file_count], text, err);
	options->file_count += result == 0;
	return result;
}

static int take_limit(struct jail_options *options, const char *text, struct error *err)
{
	if (strncmp(text, "fsize=", 6) == 0) {
		options->has_fsize = true;
		return arguments_number("--resource-limit fsize", text + 6, 0, INT64_MAX,
					&options->fsize_bytes, err);
	}
	if (strncmp(text, "no-file=", 8) == 0)
		return arguments_number("--resource-limit no-file", text + 8, 0, INT32_MAX,
					&options->no_file, err);
	return error_set(err, EINVAL,
			 "--resource-limit takes fsize=BYTES or no-file=NUMBER, not '%s'.", text);
}

static int take_number(const char *name, const char *text, uint64_t most, uint32_t *value,
		       struct error *err)
{
	uint64_t number = 0;
	int result = arguments_number(name, text, 0, most, &number, err);

	*value = (uint32_t)number;
	return result;
}

static int take_option(struct jail_options *options, int code, const char *argument,
		       struct error *err)
{
	uint32_t version = 0;
	int result;

	switch (code) {
	case OPT_ID:
		options->id = argument;
		return 0;
	case OPT_EXEC_FILE:
		options->exec_file = argument;
		return 0;
	case OPT_UID:
		/* The largest number means "unchanged" to the kernel. */
		options->has_uid = true;
		return take_number("--uid", argument, UINT32_MAX - 1, &options->uid, err);
	case OPT_GID:
		options->has_gid = true;
		return take_number("--gid", argument, UINT32_MAX - 1, &options->gid, err);
	case OPT_BASE:
		options->base_dir = argument;
		return 0;
	case OPT_NETNS:
		options->netns = argument;
		return 0;
	case OPT_DAEMONIZE:
		options->daemonize = true;
		return 0;
	case OPT_NEW_PID_NS:
		options->new_pid_ns = true;
		return 0;
	case OPT_STRICT:
		options->strict = true;
		return 0;
	case OPT_CGROUP:
		return take_setting(options, argument, err);
	case OPT_CGROUP_VERSION:
		result = take_number("--cgroup-version", argument, 2, &version, err);
		if (result == 0 && version == 0)
			result = error_set(err, EINVAL, "--cgroup-version takes 1 or 2, not 0.");
		options->cgroup_version = (int)version;
		return result;
	case OPT_PARENT_CGROUP:
		options->parent_cgroup = argument;
		return 0;
	case OPT_LIMIT:
		return take_limit(options, argument, err);
	default:
		return take_file(options, argument, err);
	}
}

/* Where the monitor's API socket will be, as far as its arguments say. */
static void find_api_socket(struct jail_options *options)
{
	options->api_socket = JAIL_DEFAULT_API_SOCKET;
	for (int i = 0; i < options->monitor_argc; i++) {
		const char *word = options->monitor_argv[i];

		if (strncmp(word, "--api-sock=", 11) == 0)
			options->api_socket = word + 11;
		else if (strcmp(word, "--api-sock") == 0 && i + 1 < options->monitor_argc)
			options->api_socket = options->monitor_argv[++i];
	}
	while (*options->api_socket == '/')
		options->api_socket++;
	if (!path_check_name(options->api_socket))
		options->api_socket = NULL;
}

static int check_required(const struct jail_options *options, struct error *err)
{
	if (!options->id)
		return error_set(err, EINVAL,
				 "--id is missing: the name of the microVM. " JAIL_HELP_COMMAND
				 " lists all options.");
	if (config_instance_id_check(options->id, err) < 0)
		return error_prefix(err, "--id");
	if (!options->exec_file)
		return error_set(err, EINVAL,
				 "--exec-file is missing: the path of the monitor, such as "
				 "/usr/bin/mayfly.");
	if (options->has_uid && options->uid == 0)
		return error_set(
			err, EINVAL,
			"--uid 0: a monitor that breaks out as root owns the host's files. "
			"Take a number that nobody else has.");
	if (options->has_gid && options->gid == 0)
		return error_set(err, EINVAL,
				 "--gid 0: a monitor that breaks out with root's group reads the "
				 "host's files. Take a number that nobody else has.");
	return 0;
}

/* Names in the jail that are not for --file. */
static bool is_reserved(const struct jail_options *options, const char *name)
{
	size_t exec_length = strlen(options->exec_name);
	size_t first = strcspn(name, "/");

	if (first == 3 && strncmp(name, "dev", 3) == 0)
		return true;
	if (strncmp(name, options->exec_name, exec_length) != 0)
		return false;
	return strcmp(name + exec_length, ".pid") == 0 || name[exec_length] == '\0' ||
	       name[exec_length] == '/';
}

static int check_files(const struct jail_options *options, struct error *err)
{
	for (unsigned int i = 0; i < options->file_count; i++) {
		const char *name = options->files[i].name;

		if (is_reserved(options, name))
			return error_set(
				err, EINVAL,
				"--file %s: the name '%s' is the jailer's own: choose another, "
				"%s:NAME.",
				options->files[i].host, name, options->files[i].host);
		for (unsigned int k = 0; k < i; k++) {
			if (strcmp(options->files[k].name, name) == 0)
				return error_set(
					err, EINVAL,
					"--file %s and --file %s would both be '%s' in the jail: "
					"name one of them otherwise, HOST:NAME.",
					options->files[k].host, options->files[i].host, name);
		}
	}
	return 0;
}

static int check_paths(struct jail_options *options, struct error *err)
{
	if (path_check("--exec-file", options->exec_file, err) < 0 ||
	    path_check("--chroot-base-dir", options->base_dir, err) < 0)
		return -err->code;
	options->exec_name = path_last_component(options->exec_file);
	if (!path_check_name(options->exec_name) || strlen(options->exec_name) > NAME_MAX - 4)
		return error_set(err, EINVAL, "--exec-file '%s' does not end in a file's name.",
				 options->exec_file);
	if (strcmp(options->exec_name, "dev") == 0 || strcmp(options->exec_name, "run") == 0)
		return error_set(err, EINVAL,
				 "--exec-file '%s': a program of this name would be in the way of "
				 "/%s in the jail.",
				 options->exec_file, options->exec_name);
	if (options->parent_cgroup && !path_check_name(options->parent_cgroup))
		return error_set(err, EINVAL,
				 "--parent-cgroup takes a path below the hierarchy's root, such as "
				 "machines/mayfly, not '%s'.",
				 options->parent_cgroup);
	return check_files(options, err);
}

int jail_options_parse(struct jail_options *options, int argc, char **argv, struct error *err)
{
	int code, result = 0;

	*options = (struct jail_options) { .command = JAIL_RUN,
					   .base_dir = JAIL_DEFAULT_BASE,
					   .no_file = JAIL_DEFAULT_NO_FILE };
	/* 0, not 1: glibc then forgets what it was in the middle of (getopt(3), Notes). */
	optind = 0;
	opterr = 0;
	while (result == 0 && (code = getopt_long(argc, argv, "+:hV", long_options, NULL)) != -1) {
		if (code == 'h' || code == 'V') {
			options->command = code == 'h' ? JAIL_HELP : JAIL_VERSION;
			return 0;
		}
		if (code < ARGUMENTS_FIRST_LONG)
			return arguments_refuse(code, argv, long_options, JAIL_HELP_COMMAND, err);
		result = take_option(options, code, optarg, err);
	}
	if (result < 0)
		return result;
	if (optind < argc && strcmp(argv[optind - 1], "--") != 0)
		return error_set(err, EINVAL,
				 "'%s' is not an option; arguments of the monitor go behind two "
				 "hyphens: mayfly-jailer ... -- %s",
				 argv[optind], argv[optind]);
	options->monitor_argv = argv + optind;
	options->monitor_argc = argc - optind;
	find_api_socket(options);
	result = check_required(options, err);
	return result < 0 ? result : check_paths(options, err);
}
