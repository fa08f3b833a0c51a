/*
 * The command line: what was asked for, in one struct.
 *
 *   mayfly [options]          a monitor for clients of the REST API, or of a config file
 *   mayfly run --kernel ...   a guest on this terminal, for people
 *   mayfly merge-memory ...   a diff snapshot's memory into that of the snapshot before
 *   mayfly help [COMMAND]
 */
#ifndef MAYFLY_SRC_OPTIONS_H
#define MAYFLY_SRC_OPTIONS_H

#include "mayfly/config.h"

#define OPTIONS_DEFAULT_SOCKET	"/run/mayfly.socket"
#define OPTIONS_DEFAULT_PAYLOAD 51200

enum options_command {
	OPTIONS_MONITOR,
	OPTIONS_RUN,
	OPTIONS_HELP,
	OPTIONS_RUN_HELP,
	OPTIONS_MERGE_HELP,
	OPTIONS_VERSION,
	OPTIONS_SNAPSHOT_VERSION,
	OPTIONS_DESCRIBE_SNAPSHOT,
	OPTIONS_MERGE_MEMORY
};

struct options {
	enum options_command command;
	const char
		*api_socket; /* NULL: no API. Points into argv, as all strings but config's do. */
	const char *id;
	const char *config_file;
	struct logger_config logger; /* strings point into argv: never cleared */
	bool has_logger;
	const char *metrics_path;
	const char *startup_trace;
	const char *seccomp_filter; /* NULL: those that are built in */
	bool no_seccomp;
	const char *describe_snapshot;
	bool json; /* what is described, for programs */
	const char *merge_base, *merge_diff;
	bool boot_timer;
	bool enable_fork;
	uint64_t max_payload_bytes;
	uint64_t start_time_us;
	bool prepare;		 /* a machine of the shape config.machine */
	struct vm_config config; /* of `mayfly run`; owned, config_vm_clear() */
};

/* Fills `options`. The message is a sentence which says what to type instead. */
int options_parse(struct options *options, int argc, char **argv, struct error *err);

void options_print_help(void);
void options_print_run_help(void);
void options_print_merge_help(void);

#endif
