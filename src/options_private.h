/* What the two command lines (options.c, options_run.c) and their refusals (options_refuse.c)
 * share. */
#ifndef MAYFLY_SRC_OPTIONS_PRIVATE_H
#define MAYFLY_SRC_OPTIONS_PRIVATE_H

#include "mayfly/arguments.h"
#include "options.h"

/* getopt_long codes beyond any letter. */
enum {
	OPTIONS_ID = ARGUMENTS_FIRST_LONG,
	OPTIONS_LOG_PATH,
	OPTIONS_LEVEL,
	OPTIONS_MODULE,
	OPTIONS_SHOW_LEVEL,
	OPTIONS_SHOW_ORIGIN,
	OPTIONS_METRICS_PATH,
	OPTIONS_STARTUP_TRACE,
	OPTIONS_SECCOMP_FILTER,
	OPTIONS_NO_SECCOMP,
	OPTIONS_ENABLE_FORK,
	OPTIONS_FIRST_PRIVATE,
};

#define OPTIONS_COMMON                                                                 \
	{ "id", required_argument, NULL, OPTIONS_ID },                                 \
		{ "log-path", required_argument, NULL, OPTIONS_LOG_PATH },             \
		{ "level", required_argument, NULL, OPTIONS_LEVEL },                   \
		{ "module", required_argument, NULL, OPTIONS_MODULE },                 \
		{ "show-level", no_argument, NULL, OPTIONS_SHOW_LEVEL },               \
		{ "show-log-origin", no_argument, NULL, OPTIONS_SHOW_ORIGIN },         \
		{ "metrics-path", required_argument, NULL, OPTIONS_METRICS_PATH },     \
		{ "startup-trace", required_argument, NULL, OPTIONS_STARTUP_TRACE },   \
		{ "seccomp-filter", required_argument, NULL, OPTIONS_SECCOMP_FILTER }, \
		{ "no-seccomp", no_argument, NULL, OPTIONS_NO_SECCOMP },               \
		{ "enable-fork", no_argument, NULL, OPTIONS_ENABLE_FORK },             \
		{ "help", no_argument, NULL, 'h' },                                    \
	{                                                                              \
		"version", no_argument, NULL, 'V'                                      \
	}

/* True when `code` was one of OPTIONS_COMMON (but help and version) and is stored. */
bool options_take_common(struct options *options, int code, const char *argument);

/* What can be wrong in the values of OPTIONS_COMMON without looking at any file. */
int options_check_common(const struct options *options, struct error *err);

/* The long options of both command lines. */
extern const struct option options_monitor_known[], options_run_known[];

/* What getopt_long refused, of `mayfly run` or of the monitor. */
int options_refuse(int code, char **argv, bool run, struct error *err);

/* A word that is neither an option nor, as the first one, a command. */
int options_refuse_word(const char *word, struct error *err);

int options_parse_run(struct options *options, int argc, char **argv, struct error *err);

#endif
