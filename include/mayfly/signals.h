/*
 * Signals: an orderly end through the loop for SIGTERM, SIGINT and SIGQUIT; for those that mean a
 * crash or a limit, the terminal and the file system left clean and the exit code that clients know
 * (enum vmm_exit).
 *
 *   SIGSYS 148, SIGBUS 149, SIGSEGV 150, SIGXFSZ 151, SIGXCPU 154, SIGHUP 156, SIGILL 157;
 *   SIGABRT and SIGFPE: cleaned up, then the default action (core dump);
 *   SIGPIPE is ignored: a reader that left is an EPIPE where it was written to, never the end of a
 * guest.
 */
#ifndef MAYFLY_SIGNALS_H
#define MAYFLY_SIGNALS_H

#include <signal.h>
#include "mayfly/log.h"
#include "mayfly/loop.h"

/*
 * Installs the handlers and ignores SIGPIPE, for the process; gives the calling thread an alternate
 * stack. `log` is where the crash line goes (its fd at that time); borrowed for the life of the
 * process; NULL: standard error. Once, before other threads exist. A SIGHUP that was ignored
 * (nohup) stays ignored.
 */
int signals_install(const struct log *log, struct error *err);

/* A stack for a thread's signal handlers. All zeros: none. */
struct signals_stack {
	void *base;
	size_t bytes;
};

/* An alternate stack for the calling thread, so that a stack overflow is reported too. For vCPU
 * threads. */
int signals_enter_thread(struct signals_stack *stack, struct error *err);

/* When the thread has ended; by whoever waited for it, since the thread itself may be filtered. */
void signals_free_stack(struct signals_stack *stack);

/* What a thread other than the main one blocks: all signals but those of its own faults. */
void signals_all_but_faults(sigset_t *set);

/* The socket that a crash must unlink, copied; NULL: none. At most 107 bytes as in sockaddr_un.
 * Main thread. */
void signals_set_socket_path(const char *path);

/*
 * Ends the process at once, as a crash does: the terminal back, the socket unlinked. For when there
 * is nothing left that an orderly end could wait for, because threads wait for what never comes.
 * Any thread; the caller has said why.
 */
_Noreturn void signals_end_process(int exit_code);

/* SIGTERM, SIGINT, SIGQUIT as events of the loop. */
struct signals {
	struct loop_source source;
	int fd;
	void (*on_end)(int signal_number, void *context);
	void *context;
};

/*
 * Blocks the three in the calling thread (do it before threads are made: they inherit that) and
 * calls `on_end` from the loop when one comes. SIGINT and SIGQUIT that were ignored (a script's
 * background job) stay ignored.
 */
int signals_add_to_loop(struct signals *signals, struct loop *loop,
			void (*on_end)(int signal_number, void *context), void *context,
			struct error *err);

/* Safe on a zeroed struct and twice. The signals stay blocked. */
void signals_remove_from_loop(struct signals *signals, struct loop *loop);

#endif
