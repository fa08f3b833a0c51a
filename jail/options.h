/*
 * The jailer's command line: what was asked for, in one struct.
 *
 *   mayfly-jailer --id ID --exec-file FILE --uid N --gid N [options] [-- arguments of the monitor]
 *
 * Parsing looks at the words alone; whether what they name is there is asked in main.c's next step.
 */
#ifndef MAYFLY_JAIL_OPTIONS_H
#define MAYFLY_JAIL_OPTIONS_H

#include <sys/types.h>

#include "mayfly/error.h"

#define JAIL_DEFAULT_BASE	"/srv/jailer"
#define JAIL_DEFAULT_NO_FILE	2048
#define JAIL_DEFAULT_API_SOCKET "run/mayfly.socket"
#define JAIL_MAX_SETTINGS	64
#define JAIL_MAX_FILES		64
#define JAIL_CONTROLLER_BYTES	32
#define JAIL_HELP_COMMAND	"mayfly-jailer --help"

enum jail_command {
	JAIL_RUN,
	JAIL_HELP,
	JAIL_VERSION
};

/* --cgroup FILE=VALUE. The strings are owned. */
struct cgroup_setting {
	char *file;
	char *value;
	char controller[JAIL_CONTROLLER_BYTES]; /* "memory" of memory.max */
};

/* --file HOST[:NAME][:ro]. The strings are owned. */
struct jail_file {
	char *host;
	char *name; /* in the jail, relative to its root, clean */
	bool read_only;
};

struct jail_options {
	enum jail_command command;
	/* These point into argv. */
	const char *id;
	const char *exec_file;
	const char *exec_name; /* the last component of exec_file */
	const char *base_dir;
	const char *netns;
	const char *parent_cgroup; /* NULL: exec_name */
	const char *api_socket;	   /* relative to the jail's root; NULL: outside of it */
	char **monitor_argv;	   /* behind "--"; ends with NULL */
	int monitor_argc;

	bool has_uid, has_gid;
	uid_t uid;
	gid_t gid;
	int cgroup_version; /* 0: what the host has */
	struct cgroup_setting settings[JAIL_MAX_SETTINGS];
	unsigned int setting_count;
	struct jail_file files[JAIL_MAX_FILES];
	unsigned int file_count;
	bool has_fsize;
	uint64_t fsize_bytes;
	uint64_t no_file;
	bool daemonize;
	bool new_pid_ns;
	bool strict;
};

/* Fills `options`, which jail_options_clear() empties in any case. The message is a sentence which
 * says what to type instead. */
int jail_options_parse(struct jail_options *options, int argc, char **argv, struct error *err);
void jail_options_clear(struct jail_options *options);
void jail_options_print_help(void);

/* FILE=VALUE and HOST[:NAME][:ro] by themselves. */
int jail_parse_setting(struct cgroup_setting *setting, const char *text, struct error *err);
int jail_parse_file(struct jail_file *file, const char *text, struct error *err);
void jail_setting_clear(struct cgroup_setting *setting);
void jail_file_clear(struct jail_file *file);

#endif
