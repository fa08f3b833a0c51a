/* The command line of mayfly-uffd: see handler.h. */
#include <stdio.h>
#include <string.h>

#include "handler.h"
#include "mayfly/arguments.h"

enum {
	OPTION_SOCKET = ARGUMENTS_FIRST_LONG,
	OPTION_MEMORY_FILE,
	OPTION_WORKING_SET,
	OPTION_RECORD_MS,
	OPTION_AROUND_KIB,
	OPTION_FILL,
};

static const struct option known[] = {
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "memory-file", required_argument, NULL, OPTION_MEMORY_FILE },
	{ "working-set", required_argument, NULL, OPTION_WORKING_SET },
	{ "record-ms", required_argument, NULL, OPTION_RECORD_MS },
	{ "around-kib", required_argument, NULL, OPTION_AROUND_KIB },
	{ "fill", no_argument, NULL, OPTION_FILL },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ 0 },
};

static int take_around(struct handler_options *options, struct error *err)
{
	uint64_t kib;
	int result = arguments_number("--around-kib", optarg, 4, 65536, &kib, err);

	if (result < 0)
		return result;
	if (kib & (kib - 1))
		return error_set(err, EINVAL, "--around-kib takes a power of two, not %s.", optarg);
	options->around_bytes = kib * KIB;
	return 0;
}

static int take_option(struct handler_options *options, int code, char **argv, struct error *err)
{
	switch (code) {
	case OPTION_SOCKET:
		options->socket = optarg;
		return 0;
	case OPTION_MEMORY_FILE:
		options->memory_file = optarg;
		return 0;
	case OPTION_WORKING_SET:
		options->working_set = optarg;
		return 0;
	case OPTION_RECORD_MS:
		return arguments_number("--record-ms", optarg, 1, 3600000, &options->record_ms,
					err);
	case OPTION_AROUND_KIB:
		return take_around(options, err);
	case OPTION_FILL:
		options->fill = true;
		return 0;
	case 'h':
		options->command = HANDLER_HELP;
		return 0;
	case 'V':
		options->command = HANDLER_VERSION;
		return 0;
	default:
		return arguments_refuse(code, argv, known, HANDLER_HELP_COMMAND, err);
	}
}

int handler_options_parse(struct handler_options *options, int argc, char **argv, struct error *err)
{
	int code;

	*options = (struct handler_options) { .record_ms = HANDLER_RECORD_MS,
					      .around_bytes = HANDLER_AROUND_KIB * KIB };
	opterr = 0;
	optind = 0; /* from the beginning, in GNU's way */
	while ((code = getopt_long(argc, argv, ":hV", known, NULL)) != -1) {
		int result = take_option(options, code, argv, err);

		if (result < 0 || options->command != HANDLER_RUN)
			return result;
	}
	if (optind < argc)
		return error_set(err, EINVAL,
				 "'%s' is not an option. " HANDLER_HELP_COMMAND
				 " lists all options.",
				 argv[optind]);
	if (!options->socket || !options->memory_file)
		return error_set(err, EINVAL,
				 "%s is missing. " HANDLER_HELP_COMMAND " lists all options.",
				 options->socket ? "--memory-file" : "--socket");
	return 0;
}

void handler_options_print_help(void)
{
	fputs("usage: mayfly-uffd --socket PATH --memory-file FILE [options]\n"
	      "\n"
	      "Brings guest memory to the monitors that load a snapshot with\n"
	      "  \"mem_backend\": {\"backend_type\": \"Uffd\", \"backend_path\": PATH}\n"
	      "\n"
	      "  --socket PATH         the Unix socket to listen on\n"
	      "  --memory-file FILE    the snapshot's memory file\n"
	      "  --working-set FILE    the pages that are touched first: brought ahead when the file is\n"
	      "                        there, else recorded to it\n"
	      "  --record-ms N         how long a guest's faults belong to that (default 1000)\n"
	      "  --around-kib N        how much is brought at once for a fault (default 64; 4: one page)\n"
	      "  --fill                bring all other pages, too, then leave the guest alone\n"
	      "  --help, --version\n",
	      stdout);
}
