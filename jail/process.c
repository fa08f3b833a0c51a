/* The monitor's process: see process.h. pid_namespaces(7), execve(2). */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "privileges.h"
#include "process.h"
#include "room.h"

#define STATE_UMASK 0077

/* What the child says just before it becomes the monitor; then the pipe closes. */
#define READY 0

/* A pipe whose ends close when their variables leave their scope. */
struct ends {
	int read_end;
	int write_end;
};

/* Signals that a person or a service manager sends to a program in the foreground. */
static const int forwarded[] = { SIGTERM, SIGINT,  SIGQUIT, SIGHUP,
				 SIGUSR1, SIGUSR2, SIGCONT, SIGTSTP };

struct attempt {
	const struct jail *jail;
	char **argv;
	int report_fd; /* of a child: says READY, or what went wrong; -1 in a thread */
	struct error err;
};

/* The arguments of the monitor. The array and the numbers in it belong to the caller. */
static char **make_arguments(const struct jail *jail, char texts[4][96])
{
	const struct jail_options *options = &jail->options;
	char **argv = calloc((size_t)options->monitor_argc + 6, sizeof(*argv));
	int count = 0, next = 0;

	if (!argv)
		return NULL;
	snprintf(texts[0], sizeof(texts[0]), "--id=%s", options->id);
	snprintf(texts[1], sizeof(texts[1]), "--start-time-us=%llu",
		 (unsigned long long)jail->start_time_us);
	snprintf(texts[2], sizeof(texts[2]), "--start-time-cpu-us=%llu",
		 (unsigned long long)jail->start_time_cpu_us);
	snprintf(texts[3], sizeof(texts[3]), "--parent-cpu-time-us=%llu",
		 (unsigned long long)(clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000));
	argv[count++] = (char *)options->exec_name;
	/* `mayfly run` is a command line of its own, without times. */
	if (options->monitor_argc > 0 && strcmp(options->monitor_argv[0], "run") == 0) {
		argv[count++] = options->monitor_argv[next++];
		argv[count++] = texts[0];
	} else {
		for (int i = 0; i < 4; i++)
			argv[count++] = texts[i];
	}
	while (next < options->monitor_argc)
		argv[count++] = options->monitor_argv[next++];
	return argv;
}

/* Returns only when something failed, which attempt->err then says. */
static void become_monitor(struct attempt *attempt)
{
	const struct jail *jail = attempt->jail;
	char *const no_environment[] = { NULL };
	char path[NAME_MAX + 2];
	const char ready = READY;

	if (privileges_set_file_size(&jail->options, &attempt->err) < 0 ||
	    privileges_drop(jail, &attempt->err) < 0)
		return;
	snprintf(path, sizeof(path), "/%s", jail->options.exec_name);
	if (attempt->report_fd >= 0 && write(attempt->report_fd, &ready, 1) != 1) {
		error_errno(&attempt->err, "cannot tell the jailer that all is ready");
		return;
	}
	signal(SIGPIPE, jail->on_sigpipe);
	execve(path, attempt->argv, no_environment);
	error_errno(&attempt->err, "cannot execute %s in the jail", path);
}

static void *become_monitor_thread(void *context)
{
	become_monitor(context);
	return NULL;
}

/* The monitor takes this process over, unless it cannot be started. */
static int become_in_place(struct attempt *attempt, struct error *err)
{
	pthread_t thread;
	int code = pthread_create(&thread, NULL, become_monitor_thread, attempt);

	if (code != 0) {
		errno = code;
		return error_errno(err, "cannot make a thread");
	}
	pthread_join(thread, NULL);
	*err = attempt->err;
	return -err->code;
}

static int make_pipe(struct ends *ends, struct error *err)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_errno(err, "cannot make a pipe");
	*ends = (struct ends) { fds[0], fds[1] };
	return 0;
}

static void close_ends(struct ends *ends)
{
	close_fd(&ends->read_end);
	close_fd(&ends->write_end);
}

static int detach(const struct jail *jail, struct error *err)
{
	if (setsid() < 0)
		return error_errno(err, "cannot begin a session (setsid)");
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (dup2(jail->null_fd, fd) < 0)
			return error_errno(err, "cannot redirect standard input and output");
	}
	return 0;
}

/* The child, until it is the monitor: waits for the word, since its PID must be written first. */
static void run_child(struct attempt *attempt, int go_fd, bool dies_with_parent,
		      const sigset_t *signals)
{
	char go;

	/* The jailer may be killed at any time: then nobody says go, and nothing is left. */
	if (read(go_fd, &go, 1) != 1)
		_exit(EXIT_FAILURE);
	if (dies_with_parent && prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		error_errno(&attempt->err, "cannot ask for a signal at the jailer's end");
	else if (!attempt->jail->options.daemonize || detach(attempt->jail, &attempt->err) == 0) {
		sigprocmask(SIG_SETMASK, signals, NULL);
		become_monitor(attempt);
	}
	if (write(attempt->report_fd, &attempt->err, sizeof(attempt->err)) < 0)
		_exit(EXIT_FAILURE);
	_exit(EXIT_FAILURE);
}

/* 0 when the child became the monitor. */
static int read_report(int fd, struct error *err)
{
	char report[1 + sizeof(struct error)];
	size_t length = 0;
	ssize_t got;

	while ((got = read(fd, report + length, sizeof(report) - length)) != 0) {
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_errno(err, "cannot read what the monitor's process says");
		length += (size_t)got;
	}
	if (length == 1)
		return 0;
	if (length < sizeof(struct error))
		return error_set(err, ECHILD, "the monitor's process ended before it began");
	memcpy(err, report + length - sizeof(struct error), sizeof(*err));
	return -err->code;
}

static int end_like(int status)
{
	if (WIFEXITED(status))
		return WEXITSTATUS(status);
	return 128 + WTERMSIG(status);
}

/* Ends as the monitor does. What a terminal sends reaches the monitor by itself. */
static int supervise(pid_t child, const sigset_t *waited)
{
	for (;;) {
		siginfo_t info;
		int status;
		pid_t ended = waitpid(child, &status, WNOHANG);

		if (ended == child)
			return end_like(status);
		if (ended < 0)
			return EXIT_FAILURE;
		if (sigwaitinfo(waited, &info) > 0 && info.si_signo != SIGCHLD && info.si_code <= 0)
			kill(child, info.si_signo);
	}
}

static int start_child(struct jail *jail, struct attempt *attempt, int *exit_code,
		       struct error *err)
{
	__attribute__((cleanup(close_ends))) struct ends go = { -1, -1 };
	__attribute__((cleanup(close_ends))) struct ends report = { -1, -1 };
	bool own_pids = jail->options.new_pid_ns || jail->kind == JAIL_USER;
	bool stays =
		jail->kind == JAIL_USER && !jail->options.daemonize && !jail->options.new_pid_ns;
	sigset_t waited, before;
	pid_t child;
	int result;

	if (make_pipe(&go, err) < 0 || make_pipe(&report, err) < 0)
		return -err->code;
	if (own_pids && unshare(CLONE_NEWPID) < 0)
		return error_errno(err, "cannot make a PID namespace (unshare)");
	sigemptyset(&waited);
	sigaddset(&waited, SIGCHLD);
	for (size_t i = 0; i < ARRAY_SIZE(forwarded); i++)
		sigaddset(&waited, forwarded[i]);
	sigprocmask(SIG_BLOCK, stays ? &waited : NULL, &before);
	child = fork();
	if (child < 0)
		return error_errno(err, "cannot make the monitor's process (fork)");
	if (child == 0) {
		close_fd(&go.write_end);
		close_fd(&report.read_end);
		attempt->report_fd = report.write_end;
		run_child(attempt, go.read_end, stays, &before);
	}
	close_fd(&go.read_end);
	close_fd(&report.write_end);
	result = room_write_pids(jail, child, err);
	if (result == 0)
		result = room_hand_over(jail, err);
	if (result == 0 && write(go.write_end, "", 1) != 1)
		result = error_errno(err, "cannot wake the monitor's process");
	close_fd(&go.write_end);
	if (result == 0)
		result = read_report(report.read_end, err);
	if (result < 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
		return result;
	}
	/* From here on the next jailer may ask whether this jail is alive. */
	close_fd(&jail->room.id_fd);
	*exit_code = stays ? supervise(child, &waited) : 0;
	return 0;
}

int process_start(struct jail *jail, int *exit_code, struct error *err)
{
	struct attempt attempt = { .jail = jail, .report_fd = -1 };
	cleanup_free char **argv = NULL;
	char texts[4][96];
	int result;

	argv = make_arguments(jail, texts);
	if (!argv)
		return error_set(err, ENOMEM, "out of memory");
	attempt.argv = argv;
	umask(STATE_UMASK);
	if (jail->options.daemonize || jail->options.new_pid_ns || jail->kind == JAIL_USER)
		return start_child(jail, &attempt, exit_code, err);
	result = room_write_pids(jail, getpid(), err);
	if (result == 0)
		result = room_hand_over(jail, err);
	return result < 0 ? result : become_in_place(&attempt, err);
}
