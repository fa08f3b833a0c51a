/*
 * The console: the host's side of the serial port. Moves bytes between a struct serial and what
 * this process was given: standard input (a terminal in raw mode, a pipe, a file) and standard
 * output or `serial_out_path`.
 *
 * Main thread only, but for console_restore(). Nothing here blocks, except console_close() for at
 * most CONSOLE_DRAIN_MS.
 */
#ifndef MAYFLY_CONSOLE_H
#define MAYFLY_CONSOLE_H

#include "mayfly/log.h"
#include "mayfly/loop.h"
#include "mayfly/rate_limiter.h"
#include "mayfly/serial.h"

#define CONSOLE_DRAIN_MS 1000

struct console_options {
	struct serial *serial; /* borrowed, as are loop and log: they outlive the console */
	struct loop *loop;
	struct log *log;
	int input_fd;		 /* usually STDIN_FILENO, borrowed; -1: no input */
	int output_fd;		 /* usually STDOUT_FILENO, borrowed; unused with an output_path */
	const char *output_path; /* file (made, mode 0600, or appended to) or FIFO; NULL: none */
	/*
	 * Limits the output; each write to the sink is an operation. What is beyond waits in the
	 * serial port's ring, and what finds that full is dropped. For the call; NULL: no limits.
	 */
	const struct rate_limiter_config *rate_limiter;
	/*
	 * On a terminal: Ctrl-A x calls on_escape from the loop; Ctrl-A Ctrl-A and Ctrl-A a send
	 * one Ctrl-A; Ctrl-A and any other key go to the guest as they are.
	 */
	bool escape;
	void (*on_escape)(void *context);
	void *context;
};

enum console_sink {
	CONSOLE_SINK_NONE,     /* gone or never there: output is dropped and counted */
	CONSOLE_SINK_FILE,     /* never makes us wait */
	CONSOLE_SINK_NONBLOCK, /* an open file description of our own, with O_NONBLOCK */
	CONSOLE_SINK_POLLED,   /* shared description: poll, then no more than surely fits */
};

struct console_output {
	enum console_sink sink;
	struct loop_source writable; /* in the loop while the reader stalls */
	struct loop_timer gather;    /* gathers output into fewer writes */
	int fd;
	bool owned;
	size_t piece_bytes; /* CONSOLE_SINK_POLLED: what fits when poll says that something does */
	bool failing;	    /* the last write failed, and the log has it */
	struct rate_limiter limiter;
};

enum console_source {
	CONSOLE_SOURCE_NONE,	 /* no input, or its end was reached */
	CONSOLE_SOURCE_TERMINAL, /* used while this process is in its foreground */
	CONSOLE_SOURCE_STREAM,	 /* pipe, FIFO, socket, device */
	CONSOLE_SOURCE_FILE,	 /* cannot be waited for: read when the guest has room */
};

struct console_input {
	enum console_source source;
	struct loop_source readable;
	struct loop_timer pace;	      /* between two bursts */
	struct loop_source continued; /* terminal: SIGCONT */
	int fd, continued_fd;
	bool owned;
	bool pausing;	    /* the timer runs: nothing is read until then */
	bool at_rest;	    /* likewise, until console_resume() */
	bool escape_seen;   /* a Ctrl-A waits for its second key */
	size_t burst_bytes; /* given to the guest since it last had taken everything */
	uint64_t burst_start_ns;
};

struct console {
	struct console_options options;
	bool open;
	struct loop_source wake; /* the serial port's host_fd */
	struct console_output output;
	struct console_input input;
};

/*
 * Opens the sink, puts the terminal into raw mode when this process is in its foreground, and joins
 * the loop. The message names the path. With a terminal as input, SIGCONT becomes blocked in the
 * calling thread: call this before other threads are made, which then inherit it.
 */
int console_open(struct console *console, const struct console_options *options, struct error *err);

/*
 * Writes out what the guest said last as long as the reader takes it, for at most CONSOLE_DRAIN_MS
 * and whatever the limits (it is no more than the ring holds),
 * restores the terminal and leaves the loop. The serial port's struct is still needed, its vCPUs
 * should have stopped. Safe on a zeroed struct and twice.
 */
void console_close(struct console *console);

/*
 * Input is not read until console_resume(). Output goes on: what the guest has said is said, as far
 * as the sink and the limits take it before this returns.
 */
void console_pause(struct console *console);
void console_resume(struct console *console);

/* The limits of the output, as section "console". */
void console_save(const struct console *console, struct state_writer *writer);
int console_restore_state(struct console *console, struct state_file *file, struct error *err);

const struct rate_limiter_metrics *console_limiter_metrics(const struct console *console);

/*
 * Puts the terminal back as it was found; does nothing when it was not touched. Async-signal-safe,
 * any thread.
 */
void console_restore(void);

#endif
