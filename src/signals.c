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
 * System calls of a handler, which the filter of each thread allows (jail/filters/mayfly.filter):
 * ioctl (TIOCGPGRP, TCGETS, TCSETS), unlinkat, write, exit_group; for SIGABRT and SIGFPE also
 * tgkill and rt_sigreturn.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "mayfly/console.h"
#include "mayfly/filters.h"
#include "mayfly/signals.h"
#include "mayfly/vmm.h"

/* SIGSYS by a filter: asm-generic/siginfo.h of the kernel. */
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

/* A signal frame holds the whole vector state: 11 KiB with AVX-512 and AMX. */
#define ALTERNATE_STACK_BYTES 65536

#define LINE_BYTES 160

static struct {
	const struct log *log;
	pid_t process_id;
	struct signals_stack stack; /* the main thread's */
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
	if (fatal->number == SIGSYS && info->si_code == SYS_SECCOMP) {
		line_text(&line, ", number ");
		line_number(&line, (unsigned int)info->si_syscall);
		line_text(&line, " (");
		line_text(&line, filters_call_name((unsigned int)info->si_syscall));
		line_text(&line, "), thread ");
		line_text(&line, log_thread_name());
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

	console_restore();
	if (crash.socket_path[0])
		unlinkat(AT_FDCWD, crash.socket_path, 0);
	write_crash_line(fatal, info);
	if (fatal->exit_code)
		_exit(fatal->exit_code);
	/* The default action is back (SA_RESETHAND): the end, at the latest when this handler
	 * returns. Whichever thread this is, the main thread's end is the process's. */
	syscall(SYS_tgkill, crash.process_id, crash.process_id, number);
}

_Noreturn void signals_end_process(int exit_code)
{
	console_restore();
	if (crash.socket_path[0])
		unlinkat(AT_FDCWD, crash.socket_path, 0);
	_exit(exit_code);
}

static bool is_ignored(int number)
{
	struct sigaction action;

	return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}

int signals_install(const struct log *log, struct error *err)
{
	struct sigaction action = { .sa_sigaction = handle_crash };
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	int ret;

	crash.log = log;
	crash.process_id = getpid();
	/* The main thread's stays to the end. */
	ret = signals_enter_thread(&crash.stack, err);
	if (ret < 0)
		return ret;
	/* All of them, so that a second signal waits: the first one ends the process. */
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaddset(&action.sa_mask, fatal_signals[i].number);
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		int number = fatal_signals[i].number;

		if (number == SIGHUP && is_ignored(number))
			continue;
		action.sa_flags = SA_SIGINFO | SA_ONSTACK;
		if (!fatal_signals[i].exit_code)
			action.sa_flags |= (int)SA_RESETHAND;
		if (sigaction(number, &action, NULL) < 0)
			return error_errno(err, "cannot handle %s", fatal_signals[i].name);
	}
	if (sigaction(SIGPIPE, &ignore, NULL) < 0)
		return error_errno(err, "cannot ignore SIGPIPE");
	return 0;
}

int signals_enter_thread(struct signals_stack *stack, struct error *err)
{
	stack_t alternate = { .ss_size = ALTERNATE_STACK_BYTES };

	*stack = (struct signals_stack) { 0 };
	alternate.ss_sp = mmap(NULL, ALTERNATE_STACK_BYTES, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (alternate.ss_sp == MAP_FAILED)
		return error_errno(err, "cannot map a stack for signal handlers");
	if (sigaltstack(&alternate, NULL) < 0) {
		int ret = error_errno(err, "cannot set the stack of signal handlers");

		munmap(alternate.ss_sp, ALTERNATE_STACK_BYTES);
		return ret;
	}
	*stack = (struct signals_stack) { alternate.ss_sp, alternate.ss_size };
	return 0;
}

void signals_free_stack(struct signals_stack *stack)
{
	if (stack->base)
		munmap(stack->base, stack->bytes);
	*stack = (struct signals_stack) { 0 };
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

void signals_all_but_faults(sigset_t *set)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGSYS, SIGABRT };

	sigfillset(set);
	for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
		sigdelset(set, faults[i]);
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
