/*
 * Signals: the crash handlers and the orderly end.
 *
 * A crash handler may run at any instruction of any thread, so it calls async-signal-safe functions
 * only (signal-safety(7)), in this order: the terminal back (what a person would miss most), the
 * socket unlinked, one line to the log, out. A handler is given nothing but the signal: what it
 * needs lies in this file's one static, written by the main thread before there is a guest. It is
 * the process's, as handlers are, and the one reason for a mutable global here; console.c has the
 * other.
 *
 * System calls of a handler, for a filter that covers the threads it may run on: ioctl (TIOCGPGRP,
 * TCSETS), getpgrp, unlink, write, exit_group; for SIGABRT and SIGFPE also rt_sigaction, gettid,
 * getpid, tgkill, rt_sigreturn.
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/un.h>

#include "mayfly/console.h"
#include "mayfly/signals.h"
#include "mayfly/vmm.h"

/* A signal frame holds the whole vector state: 11 KiB with AVX-512 and AMX. */
#define ALTERNATE_STACK_BYTES 65536

#define LINE_BYTES 160

static struct {
	const struct log *log;
	char socket_path[sizeof(((struct sockaddr_un *)0)->sun_path)];
} crash;

struct fatal_signal {
	int number;
	int exit_code; /* 0: the default action, after cleaning up */
	const char *name;
	const char *meaning;
};

static const struct fatal_signal fatal_signals[] = {
	{ SIGSYS, VMM_EXIT_BAD_SYSCALL, "SIGSYS", "a system call that is not allowed" },
	{ SIGBUS, VMM_EXIT_SIGBUS, "SIGBUS",
	  "a bad access to memory, perhaps to a file cut short" },
	{ SIGSEGV, VMM_EXIT_SIGSEGV, "SIGSEGV", "a bad access to memory" },
	{ SIGXFSZ, VMM_EXIT_SIGXFSZ, "SIGXFSZ", "a file grew over the size limit" },
	{ SIGXCPU, VMM_EXIT_SIGXCPU, "SIGXCPU", "the CPU time limit is reached" },
	{ SIGHUP, VMM_EXIT_SIGHUP, "SIGHUP", "the terminal is gone" },
	{ SIGILL, VMM_EXIT_SIGILL, "SIGILL", "a bad instruction" },
	{ SIGABRT, 0, "SIGABRT", "aborted" },
	{ SIGFPE, 0, "SIGFPE", "a bad arithmetic operation" },
};

static const struct fatal_signal *find_fatal(int number)
{
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		if (fatal_signals[i].number == number)
			return &fatal_signals[i];
	}
	return NULL;
}

/* stdio is not async-signal-safe: a line is put together by hand. What does not fit is left out. */
struct line {
	char text[LINE_BYTES];
	size_t length;
};

static void line_text(struct line *line, const char *text)
{
	while (*text && line->length < LINE_BYTES)
		line->text[line->length++] = *text++;
}

static void line_number(struct line *line, unsigned int value)
{
	char digits[11];
	size_t at = sizeof(digits) - 1;

	digits[at] = '\0';
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value && at);
	line_text(line, digits + at);
}

static void write_crash_line(const struct fatal_signal *fatal, const siginfo_t *info)
{
	struct line line = { .length = 0 };
	int fd = crash.log ? crash.log->fd : STDERR_FILENO;

	line_text(&line, "mayfly: ended by ");
	line_text(&line, fatal->name);
	line_text(&line, ": ");
	line_text(&line, fatal->meaning);
	/* Numbers of x86-64, as ausyscall(8) and the kernel's table name them. */
	if (fatal->number == SIGSYS) {
		line_text(&line, ", number ");
		line_number(&line, (unsigned int)info->si_syscall);
	}
	if (info->si_code == SI_USER) {
		line_text(&line, ", sent by process ");
		line_number(&line, (unsigned int)info->si_pid);
	}
	line_text(&line, "\n");
	if (write(fd, line.text, line.length) < 0 && fd != STDERR_FILENO)
		(void)!write(STDERR_FILENO, line.text, line.length);
}

static void handle_crash(int number, siginfo_t *info, void *context)
{
	const struct fatal_signal *fatal = find_fatal(number);
	struct sigaction action = { .sa_handler = SIG_DFL };

	console_restore();
	if (crash.socket_path[0])
		unlink(crash.socket_path);
	write_crash_line(fatal, info);
	if (fatal->exit_code)
		_exit(fatal->exit_code);
	/* Pending until this handler returns, and then the end. */
	sigaction(number, &action, NULL);
	raise(number);
}

_Noreturn void signals_end_process(int exit_code)
{
	console_restore();
	if (crash.socket_path[0])
		unlink(crash.socket_path);
	_exit(exit_code);
}

static bool is_ignored(int number)
{
	struct sigaction action;

	return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

int signals_install(const struct log *log, struct error *err)
{
	struct sigaction action = { .sa_sigaction = handle_crash,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	int ret;

	crash.log = log;
	ret = signals_enter_thread(err);
	if (ret < 0)
		return ret;
	/* All of them, so that a second signal waits: the first one ends the process. */
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaddset(&action.sa_mask, fatal_signals[i].number);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		int number = fatal_signals[i].number;

		if (number == SIGHUP && is_ignored(number))
			continue;
		if (sigaction(number, &action, NULL) < 0)
			return error_errno(err, "cannot handle %s", fatal_signals[i].name);
	}
	if (sigaction(SIGPIPE, &ignore, NULL) < 0)
		return error_errno(err, "cannot ignore SIGPIPE");
	return 0;
}

int signals_enter_thread(struct error *err)
{
	stack_t stack = { .ss_size = ALTERNATE_STACK_BYTES };

	stack.ss_sp = mmap(NULL, ALTERNATE_STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack.ss_sp == MAP_FAILED)
		return error_errno(err, "cannot map a stack for signal handlers");
	if (sigaltstack(&stack, NULL) < 0) {
		int ret = error_errno(err, "cannot set the stack of signal handlers");

		munmap(stack.ss_sp, ALTERNATE_STACK_BYTES);
		return ret;
	}
	return 0;
}

void signals_leave_thread(void)
{
	stack_t none = { .ss_flags = SS_DISABLE };
	stack_t old;

	if (sigaltstack(NULL, &old) < 0 || (old.ss_flags & SS_DISABLE))
		return;
	if (sigaltstack(&none, NULL) == 0)
		munmap(old.ss_sp, old.ss_size);
}

void signals_set_socket_path(const char *path)
{
	/* Empty while it changes: a handler that comes in between unlinks nothing rather than half
	 * a path. */
	crash.socket_path[0] = '\0';
	if (!path || !path[0] || strlen(path) >= sizeof(crash.socket_path))
		return;
	atomic_signal_fence(memory_order_seq_cst);
	memcpy(crash.socket_path + 1, path + 1, strlen(path));
	atomic_signal_fence(memory_order_seq_cst);
	crash.socket_path[0] = path[0];
}

static void handle_end(struct loop_source *source, uint32_t events)
{
	struct signals *signals = container_of(source, struct signals, source);
	struct signalfd_siginfo info;

	if (read(signals->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	signals->on_end((int)info.ssi_signo, signals->context);
}

int signals_add_to_loop(struct signals *signals, struct loop *loop,
			void (*on_end)(int signal_number, void *context), void *context,
			struct error *err)
{
	cleanup_fd int fd = -1;
	sigset_t set;
	int ret;

	*signals = (struct signals) {
		.source.fd = -1, .fd = -1, .on_end = on_end, .context = context
	};
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	/* A blocked signal is never ignored (signal(7)): leave those alone that somebody chose to
	 * ignore. */
	if (!is_ignored(SIGINT))
		sigaddset(&set, SIGINT);
	if (!is_ignored(SIGQUIT))
		sigaddset(&set, SIGQUIT);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		return error_errno(err, "cannot make a signal descriptor");
	ret = loop_add_urgent(loop, &signals->source, fd, EPOLLIN, handle_end, err);
	if (ret < 0)
		return error_prefix(err, "signals");
	ret = pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (ret != 0) {
		loop_remove(loop, &signals->source);
		return error_set(err, ret, "cannot block signals");
	}
	signals->fd = take_fd(&fd);
	return 0;
}

void signals_remove_from_loop(struct signals *signals, struct loop *loop)
{
	if (!signals->on_end)
		return;
	loop_remove(loop, &signals->source);
	close_fd(&signals->fd);
	signals->on_end = NULL;
}
