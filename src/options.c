/*
 * The command line of the monitor: see options.h. `mayfly run` is in options_run.c.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/filters.h"
#include "options_private.h"

enum {
	OPT_API_SOCK = OPTIONS_FIRST_PRIVATE,
	OPT_NO_API,
	OPT_CONFIG_FILE,
	OPT_PREPARE,
	OPT_BOOT_TIMER,
	OPT_PAYLOAD,
	OPT_START_TIME_US,
	OPT_IGNORED_NUMBER,
	OPT_SNAPSHOT_VERSION,
	OPT_DESCRIBE_SNAPSHOT,
	OPT_JSON,
	OPT_NOT_YET,
};

const struct option options_monitor_known[] = {
	OPTIONS_COMMON,
	{ "api-sock", required_argument, NULL, OPT_API_SOCK },
	{ "no-api", no_argument, NULL, OPT_NO_API },
	{ "config-file", required_argument, NULL, OPT_CONFIG_FILE },
	{ "prepare", required_argument, NULL, OPT_PREPARE },
	{ "boot-timer", no_argument, NULL, OPT_BOOT_TIMER },
	{ "http-api-max-payload-size", required_argument, NULL, OPT_PAYLOAD },
	{ "start-time-us", required_argument, NULL, OPT_START_TIME_US },
	{ "start-time-cpu-us", required_argument, NULL, OPT_IGNORED_NUMBER },
	{ "parent-cpu-time-us", required_argument, NULL, OPT_IGNORED_NUMBER },
	{ "metadata", required_argument, NULL, OPT_NOT_YET },
	{ "mmds-size-limit", required_argument, NULL, OPT_NOT_YET },
	{ "snapshot-version", no_argument, NULL, OPT_SNAPSHOT_VERSION },
	{ "describe-snapshot", required_argument, NULL, OPT_DESCRIBE_SNAPSHOT },
	{ "json", no_argument, NULL, OPT_JSON },
	{ 0 },
};

void options_print_help(void)
{
	fputs("Mayfly " MAYFLY_VERSION ": a minimal virtual machine monitor for Linux/KVM.\n"
	      "\n"
	      "  mayfly run --kernel KERNEL ...   boot a guest on this terminal (mayfly run --help)\n"
	      "  mayfly [options]                 wait for clients of the REST API, or start a config file\n"
	      "  mayfly merge-memory BASE DIFF    copy a diff snapshot's memory into that of the snapshot before\n"
	      "  mayfly help [run|merge-memory]   what can be said to each\n"
	      "\n"
	      "The API:\n"
	      "  --api-sock PATH      listen on this Unix socket (default " OPTIONS_DEFAULT_SOCKET
	      ")\n"
	      "  --no-api             no socket; needs --config-file\n"
	      "  --http-api-max-payload-size N\n"
	      "                       largest request body in bytes (default 51200)\n"
	      "\n"
	      "The microVM:\n"
	      "  --config-file PATH   configure and start what this JSON file says\n"
	      "  --id ID              name of the microVM: letters, digits and hyphens (default anonymous-instance)\n"
	      "  --prepare KEY=VALUE[,KEY=VALUE...]\n"
	      "                       make ahead what a start or a load needs for a machine of this shape; the keys are\n"
	      "                       those of machine-config: vcpu_count=1,mem_size_mib=128\n"
	      "  --boot-timer         log the time at which the guest says that it is up\n"
	      "\n"
	      "Logging:\n"
	      "  --log-path PATH      file or FIFO of the log (default: standard error)\n"
	      "  --level LEVEL        Error, Warn, Info, Debug, Trace or Off (default Info; Warn for run)\n"
	      "  --module PREFIX      only lines from source files that begin so, such as devices/virtio\n"
	      "  --show-level         print the level of each line\n"
	      "  --show-log-origin    print the source file and line of each line\n"
	      "  --metrics-path PATH  file or FIFO of the metrics\n"
	      "  --startup-trace PATH file that gets, at the end, the time of each stage of start and end\n"
	      "\n"
	      "System calls:\n"
	      "  --seccomp-filter PATH\n"
	      "                       filters in the place of the built-in ones; mayfly-seccomp makes such files\n"
	      "  --no-seccomp         no filters: any system call is allowed\n",
	      stdout);
	if (!filters_are_default())
		fputs("                       (this build, with sanitizers or for coverage, has none to begin with)\n",
		      stdout);
	fputs("\n"
	      "Snapshots:\n"
	      "  --enable-fork        PUT /snapshot/fork can make a second microVM of the one that runs\n"
	      "  --describe-snapshot FILE\n"
	      "                       what a state file holds; with --json, for programs\n"
	      "  --snapshot-version   the version of the format that this Mayfly writes\n"
	      "\n"
	      "Of the one who starts Mayfly:\n"
	      "  --start-time-us N    CLOCK_MONOTONIC microseconds at which the start was asked for\n"
	      "  --start-time-cpu-us N, --parent-cpu-time-us N\n"
	      "                       taken and not used\n"
	      "\n"
	      "  --help, --version\n"
	      "\n"
	      "A guest with curl, step by step: see the README and mayfly(1).\n",
	      stdout);
}

void options_print_merge_help(void)
{
	fputs("Copies what the memory file of a diff snapshot holds into that of the snapshot before it, which then goes\n"
	      "with the diff's state file.\n"
	      "\n"
	      "  mayfly merge-memory BASE DIFF\n"
	      "\n"
	      "  BASE                 the memory file of the snapshot before: it is changed\n"
	      "  DIFF                 the memory file of the diff: it is read only, and not needed afterwards\n"
	      "\n"
	      "Diffs are merged in the order in which they were made. No microVM may run from BASE meanwhile. When a\n"
	      "merge was interrupted, no load takes BASE until the same merge is repeated.\n",
	      stdout);
}

bool options_take_common(struct options *options, int code, const char *argument)
{
	switch (code) {
	case OPTIONS_ID:
		options->id = argument;
		return true;
	case OPTIONS_METRICS_PATH:
		options->metrics_path = argument;
		return true;
	case OPTIONS_STARTUP_TRACE:
		options->startup_trace = argument;
		return true;
	case OPTIONS_SECCOMP_FILTER:
		options->seccomp_filter = argument;
		return true;
	case OPTIONS_NO_SECCOMP:
		options->no_seccomp = true;
		return true;
	case OPTIONS_ENABLE_FORK:
		options->enable_fork = true;
		return true;
	case OPTIONS_LOG_PATH:
		options->logger.log_path = (char *)argument;
		break;
	case OPTIONS_LEVEL:
		options->logger.level = (char *)argument;
		break;
	case OPTIONS_MODULE:
		options->logger.module = (char *)argument;
		break;
	case OPTIONS_SHOW_LEVEL:
		options->logger.show_level = true;
		break;
	case OPTIONS_SHOW_ORIGIN:
		options->logger.show_log_origin = true;
		break;
	default:
		return false;
	}
	options->has_logger = true;
	return true;
}

int options_check_common(const struct options *options, struct error *err)
{
	if (options->id && config_instance_id_check(options->id, err) < 0)
		return error_prefix(err, "--id");
	if (config_logger_check(&options->logger, err) < 0)
		return error_prefix(err, "--level");
	if (options->seccomp_filter && options->no_seccomp)
		return error_set(
			err, EINVAL,
			"--no-seccomp and --seccomp-filter contradict each other: leave one out.");
	return 0;
}

/* "true", 12; what is no such word of JSON is a string. */
static json_t *parse_value(const char *text)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);

	if (json_is_boolean(value) || json_is_number(value))
		return value;
	json_decref(value);
	return json_string(text);
}

static int take_word(struct machine_config *shape, char *word, json_t *seen, struct error *err)
{
	char *value = strchr(word, '=');
	json_t *one = json_object();
	int result = 0;

	if (!value)
		result = error_set(
			err, EINVAL,
			"--prepare takes KEY=VALUE with commas between, as in vcpu_count=1,mem_size_mib=128, not '%s'.",
			word);
	else
		*value++ = '\0';
	if (result == 0 && json_object_get(seen, word))
		result = error_set(err, EINVAL, "--prepare: %s is given twice.", word);
	if (result == 0) {
		json_object_set_new(seen, word, json_true());
		json_object_set_new(one, word, parse_value(value));
		if (config_parse_object(&config_machine_object, one, true, shape, err) < 0)
			result = error_prefix(err, "--prepare %s=%s", word, value);
	}
	json_decref(one);
	return result;
}

/* Keys and values of the machine configuration. */
static int parse_prepare(struct options *options, const char *text, struct error *err)
{
	struct machine_config *shape = &options->config.machine;
	cleanup_free char *copy = strdup(text);
	char *rest = copy, *word;
	json_t *seen;
	int result = 0;

	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	if (options->prepare)
		return error_set(err, EINVAL, "--prepare is given twice.");
	config_seed_json();
	seen = json_object();
	config_machine_defaults(shape);
	while (result == 0 && (word = strsep(&rest, ",")))
		result = take_word(shape, word, seen, err);
	json_decref(seen);
	if (result == 0 && config_machine_check(shape, err) < 0)
		result = error_prefix(err, "--prepare");
	options->prepare = true;
	return result;
}

static int parse_monitor(struct options *options, int argc, char **argv, struct error *err)
{
	bool no_api = false;
	int code, index = 0, result = 0;
	uint64_t ignored;
	char name[32];

	options->api_socket = OPTIONS_DEFAULT_SOCKET;
	optind = 1;
	opterr = 0;
	while (result == 0 &&
	       (code = getopt_long(argc, argv, "+:hV", options_monitor_known, &index)) != -1) {
		if (options_take_common(options, code, optarg))
			continue;
		switch (code) {
		case 'h':
			options->command = OPTIONS_HELP;
			return 0;
		case 'V':
			options->command = OPTIONS_VERSION;
			return 0;
		case OPT_API_SOCK:
			options->api_socket = optarg;
			break;
		case OPT_NO_API:
			no_api = true;
			break;
		case OPT_CONFIG_FILE:
			options->config_file = optarg;
			break;
		case OPT_PREPARE:
			result = parse_prepare(options, optarg, err);
			break;
		case OPT_BOOT_TIMER:
			options->boot_timer = true;
			break;
		case OPT_PAYLOAD:
			result = arguments_number("--http-api-max-payload-size", optarg, 1,
						  64 * MIB, &options->max_payload_bytes, err);
			break;
		case OPT_START_TIME_US:
			result = arguments_number("--start-time-us", optarg, 0, UINT64_MAX / 1000,
						  &options->start_time_us, err);
			break;
		case OPT_IGNORED_NUMBER:
			snprintf(name, sizeof(name), "--%s", options_monitor_known[index].name);
			result = arguments_number(name, optarg, 0, UINT64_MAX, &ignored, err);
			break;
		case OPT_SNAPSHOT_VERSION:
			options->command = OPTIONS_SNAPSHOT_VERSION;
			break;
		case OPT_DESCRIBE_SNAPSHOT:
			options->describe_snapshot = optarg;
			break;
		case OPT_JSON:
			options->json = true;
			break;
		case OPT_NOT_YET:
			return error_set(
				err, EINVAL,
				"--%s is not supported by this version of Mayfly: leave it out.",
				options_monitor_known[index].name);
		default:
			return options_refuse(code, argv, false, err);
		}
	}
	if (result < 0)
		return result;
	if (optind < argc)
		return options_refuse_word(argv[optind], err);
	if (options->describe_snapshot)
		options->command = OPTIONS_DESCRIBE_SNAPSHOT;
	else if (options->json)
		return error_set(err, EINVAL, "--json goes with --describe-snapshot FILE only.");
	if (options->command != OPTIONS_MONITOR)
		return 0;
	if (no_api && !options->config_file)
		return error_set(
			err, EINVAL,
			"--no-api needs a microVM to start: add --config-file PATH, or leave --no-api out.");
	if (options->prepare && options->config_file)
		return error_set(
			err, EINVAL,
			"--prepare is for a monitor that waits for its first request, and --config-file starts at once: leave one out.");
	if (no_api)
		options->api_socket = NULL;
	return options_check_common(options, err);
}

static int parse_merge(struct options *options, int argc, char **argv, struct error *err)
{
	static const struct option known[] = { { "help", no_argument, NULL, 'h' },
					       { "version", no_argument, NULL, 'V' },
					       { 0 } };
	int code;

	optind = 0; /* from the beginning, in GNU's way */
	opterr = 0;
	while ((code = getopt_long(argc, argv, "+:hV", known, NULL)) != -1) {
		if (code != 'h' && code != 'V')
			return arguments_refuse(code, argv, known, "mayfly merge-memory --help",
						err);
		options->command = code == 'h' ? OPTIONS_MERGE_HELP : OPTIONS_VERSION;
		return 0;
	}
	if (argc - optind != 2)
		return error_set(
			err, EINVAL,
			"Two files are needed, the memory file to change and the diff: mayfly merge-memory BASE DIFF");
	options->command = OPTIONS_MERGE_MEMORY;
	options->merge_base = argv[optind];
	options->merge_diff = argv[optind + 1];
	return 0;
}

/* help, help run, help merge-memory */
static int parse_help(struct options *options, int argc, char **argv, struct error *err)
{
	if (argc < 2)
		options->command = OPTIONS_HELP;
	else if (strcmp(argv[1], "run") == 0)
		options->command = OPTIONS_RUN_HELP;
	else if (strcmp(argv[1], "merge-memory") == 0)
		options->command = OPTIONS_MERGE_HELP;
	else
		return error_set(
			err, EINVAL,
			"There is help for run and merge-memory (mayfly help run), and for mayfly as a whole (mayfly help), not for '%s'.",
			argv[1]);
	return 0;
}

int options_parse(struct options *options, int argc, char **argv, struct error *err)
{
	*options = (struct options) { .command = OPTIONS_MONITOR,
				      .max_payload_bytes = OPTIONS_DEFAULT_PAYLOAD };
	if (argc > 1 && strcmp(argv[1], "run") == 0) {
		options->command = OPTIONS_RUN;
		return options_parse_run(options, argc - 1, argv + 1, err);
	}
	if (argc > 1 && strcmp(argv[1], "merge-memory") == 0)
		return parse_merge(options, argc - 1, argv + 1, err);
	if (argc > 1 && strcmp(argv[1], "help") == 0)
		return parse_help(options, argc - 1, argv + 1, err);
	return parse_monitor(options, argc, argv, err);
}
