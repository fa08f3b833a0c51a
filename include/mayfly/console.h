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
#include "mayfly/serial.h"

#define CONSOLE_DRAIN_MS    1000
#define CONSOLE_CHUNK_BYTES 2048

struct console_options {
	struct serial *serial; /* borrowed, as are loop and log: they outlive the console */
	struct loop *loop;
	struct log *log;
	int input_fd;  /* usually STDIN_FILENO, borrowed; -1: no input */
	int output_fd; /* usually STDOUT_FILENO, borrowed; used when there is no output_path */
	const char *output_path; /* file (made with mode 0600 when missing, else appended to) or
				    FIFO; NULL: none */
	bool escape; /* on a terminal: Ctrl-A x calls on_escape, Ctrl-A Ctrl-A and Ctrl-A a send a
			Ctrl-A */
	void (*on_escape)(void *context);
	void *context;
};

enum console_sink {
	CONSOLE_SINK_NONE,     /* gone or never there: output is dropped and counted */
	CONSOLE_SINK_FILE,     /* never blocks */
	CONSOLE_SINK_NONBLOCK, /* our own O_NONBLOCK description */
	CONSOLE_SINK_SOCKET,   /* shared description: MSG_DONTWAIT */
	CONSOLE_SINK_POLLED,   /* shared description: poll, then at most PIPE_BUF bytes */
};

struct console {
	struct console_options options;
	struct loop_source wake;      /* the serial port's host_fd */
	struct loop_source input;     /* input_fd, when it can be waited for */
	struct loop_source output;    /* the sink, while its reader stalls */
	struct loop_source pace;      /* timer between two chunks of input */
	struct loop_source continued; /* SIGCONT: may be in the foreground again */
	enum console_sink sink;
	int sink_fd; /* owned when sink_owned */
	bool sink_owned;
	bool sink_waiting; /* for EPOLLOUT */
	int pace_fd, continued_fd;
	bool terminal; /* input is a terminal */
	bool raw;      /* ... which is ours at present */
	bool input_ended;
	bool input_direct;	 /* input cannot be waited for: read as the guest takes it */
	bool paced;		 /* the pace timer runs: no input until then */
	bool escape_seen;	 /* a Ctrl-A waits for its second key */
	uint64_t chunk_start_ns; /* when the present chunk was given to the guest; 0: none is under
				    way */
};

/*
 * Opens the sink, puts the terminal into raw mode when this process is in its foreground, and joins
 * the loop. The message names the path. SIGCONT becomes blocked in the calling thread: call it
 * before threads are made, or block it there too.
 */
int console_open(struct console *console, const struct console_options *options, struct error *err);

/*
 * Writes out what the guest said last as long as the reader takes it, for at most CONSOLE_DRAIN_MS,
 * restores the terminal and leaves the loop. Safe on a zeroed struct and twice.
 */
void console_close(struct console *console);

/* Puts the terminal back as it was found; does nothing when it was not touched. Async-signal-safe,
 * any thread. */
void console_restore(void);

#endif
