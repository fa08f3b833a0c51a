/*
 * mayfly-jailer: starts a monitor in an empty room.
 *
 * The life of the jailer is the table of steps below, from the first to the last. A step that fails
 * names itself; then it and the steps before it are undone, from the last to the first, and the
 * process ends with the step's exit code. Steps know nothing of each other but `struct jail`.
 *
 * docs/jail.md tells what each step is for.
 */
#include <fcntl.h>
#include <linux/nsfs.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "missing.h"
#include "mounts.h"
#include "mayfly/vmm.h"
#include "paths.h"
#include "privileges.h"
#include "process.h"
#include "room.h"

/* Paths of --file are opened when the working directory is another. */
static int make_absolute(struct jail_file *file, struct error *err)
{
	char here[PATH_MAX];
	char *path;

	if (*file->host == '/')
		return 0;
	if (!getcwd(here, sizeof(here)))
		return error_errno(err, "--file %s: cannot tell the working directory", file->host);
	if (asprintf(&path, "%s/%s", here, file->host) < 0)
		return error_set(err, ENOMEM, "out of memory");
	free(file->host);
	file->host = path;
	return 0;
}

static int open_exec_file(struct jail *jail, struct error *err)
{
	const char *path = jail->options.exec_file;
	struct stat status;

	jail->exec_fd = path_open_argument("--exec-file", path, err);
	if (jail->exec_fd < 0)
		return jail->exec_fd;
	if (fstat(jail->exec_fd, &status) < 0)
		return error_errno(err, "--exec-file %s", path);
	if (!S_ISREG(status.st_mode))
		return error_set(err, EINVAL, "--exec-file %s is no regular file.", path);
	return 0;
}

/*
 * Links are allowed on the way (/var/run is one, /proc/PID/ns/net another): what counts is that a
 * network namespace is at the end.
 */
static int open_netns(struct jail *jail, struct error *err)
{
	const char *path = jail->options.netns;

	if (!path)
		return 0;
	jail->netns_fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (jail->netns_fd < 0)
		return error_errno(err, "--netns %s", path);
	if (ioctl(jail->netns_fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return error_set(err, EINVAL,
				 "--netns %s is no network namespace (ip netns add NAME makes "
				 "/run/netns/NAME).",
				 path);
	return 0;
}

static int step_descriptors(struct jail *jail, struct error *err)
{
	(void)jail;
	return privileges_close_descriptors(err);
}

static int step_environment(struct jail *jail, struct error *err)
{
	(void)jail;
	if (clearenv() != 0)
		return error_set(err, ENOMEM, "out of memory");
	return 0;
}

static int step_arguments(struct jail *jail, struct error *err)
{
	struct jail_options *options = &jail->options;

	if (privileges_choose_kind(jail, err) < 0 || open_exec_file(jail, err) < 0 ||
	    open_netns(jail, err) < 0)
		return -err->code;
	for (unsigned int i = 0; i < options->file_count; i++) {
		if (make_absolute(&options->files[i], err) < 0 ||
		    files_check(&options->files[i], err) < 0)
			return -err->code;
	}
	if (options->daemonize) {
		jail->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (jail->null_fd < 0)
			return error_errno(err, "cannot open /dev/null");
	}
	return devices_find(jail, err);
}

static int step_network(struct jail *jail, struct error *err)
{
	if (jail->kind == JAIL_USER)
		return 0; /* by way of a user namespace: see there */
	if (jail->netns_fd >= 0 && setns(jail->netns_fd, CLONE_NEWNET) < 0)
		return error_errno(err, "cannot join %s (setns)", jail->options.netns);
	close_fd(&jail->netns_fd);
	return 0;
}

static int step_limits(struct jail *jail, struct error *err)
{
	return privileges_set_limits(&jail->options, err);
}

static int step_cgroup(struct jail *jail, struct error *err)
{
	return cgroups_enter(&jail->cgroups, &jail->options, err);
}

static void undo_cgroup(struct jail *jail)
{
	cgroups_undo(&jail->cgroups, &jail->options);
}

static int step_missing(struct jail *jail, struct error *err)
{
	return missing_report(jail, err);
}

static const struct step {
	const char *name;
	int exit_code;
	int (*run)(struct jail *jail, struct error *err);
	void (*undo)(struct jail *jail);
} steps[] = {
	{ "inherited descriptors", VMM_EXIT_ERROR, step_descriptors, NULL },
	{ "environment", VMM_EXIT_ERROR, step_environment, NULL },
	{ "arguments", VMM_EXIT_ARGUMENTS, step_arguments, NULL },
	{ "jail's folder", VMM_EXIT_ERROR, room_open, room_undo },
	{ "copy of the monitor", VMM_EXIT_ERROR, room_copy_monitor, room_undo_copy },
	{ "network namespace", VMM_EXIT_ERROR, step_network, NULL },
	{ "resource limits", VMM_EXIT_ERROR, step_limits, NULL },
	{ "cgroup", VMM_EXIT_ERROR, step_cgroup, undo_cgroup },
	{ "session keyring", VMM_EXIT_ERROR, privileges_leave_keyring, NULL },
	{ "user namespace", VMM_EXIT_ERROR, privileges_enter_user_namespace, NULL },
	{ "mount namespace", VMM_EXIT_ERROR, mounts_enter, mounts_undo },
	{ "files", VMM_EXIT_ERROR, files_show, files_hide },
	{ "devices", VMM_EXIT_ERROR, devices_make, devices_undo },
	{ "root", VMM_EXIT_ERROR, mounts_pivot, NULL },
	{ "protections", VMM_EXIT_ERROR, step_missing, NULL },
};

static int complain(const struct error *err, int exit_code)
{
	error_print("mayfly-jailer", err);
	return exit_code;
}

static void undo(struct jail *jail, size_t count)
{
	while (count-- > 0) {
		if (steps[count].undo)
			steps[count].undo(jail);
	}
}

static int make_jail(struct jail *jail)
{
	struct error err = { 0 };
	int exit_code = VMM_EXIT_OK;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		if (steps[i].run(jail, &err) == 0)
			continue;
		/* What is wrong with arguments says so itself. */
		if (steps[i].exit_code != VMM_EXIT_ARGUMENTS)
			error_prefix(&err, "%s", steps[i].name);
		undo(jail, i + 1);
		return complain(&err, steps[i].exit_code);
	}
	if (process_start(jail, &exit_code, &err) < 0) {
		error_prefix(&err, "monitor");
		undo(jail, ARRAY_SIZE(steps));
		return complain(&err, VMM_EXIT_ERROR);
	}
	return exit_code;
}

int main(int argc, char **argv)
{
	struct jail jail = {
		.start_time_us = clock_ns(CLOCK_MONOTONIC) / 1000,
		.start_time_cpu_us = clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000,
		.exec_fd = -1,
		.netns_fd = -1,
		.null_fd = -1,
	};
	struct error err = { 0 };
	int exit_code = VMM_EXIT_OK;

	room_init(&jail.room);
	/* Nobody may be left who reads what we say: no reason to leave a jail half made. */
	jail.on_sigpipe = signal(SIGPIPE, SIG_IGN);
	if (jail_options_parse(&jail.options, argc, argv, &err) < 0)
		exit_code = complain(&err, VMM_EXIT_ARGUMENTS);
	else if (jail.options.command == JAIL_HELP)
		jail_options_print_help();
	else if (jail.options.command == JAIL_VERSION)
		printf("Mayfly jailer v%s\n", MAYFLY_VERSION);
	else
		exit_code = make_jail(&jail);
	jail_options_clear(&jail.options);
	return exit_code;
}
