/*
 * What the console is made of: console.c (life and glue), console_input.c, console_output.c,
 * console_terminal.c.
 */
#ifndef DEVICES_CONSOLE_PRIVATE_H
#define DEVICES_CONSOLE_PRIVATE_H

#include <sys/stat.h>

#include "mayfly/console.h"

/*
 * A new open file description, with O_NONBLOCK, of what `fd` refers to; -1 when that is not to be
 * had. The flag on `fd` itself would be seen by everyone who shares it: the shell, or a pipeline's
 * other processes.
 */
int console_reopen(int fd, int flags);

/* Whether that is /dev/null, which never makes anybody wait and has nothing to read. */
bool console_is_null(const struct stat *status);

int console_output_open(struct console *console, const struct rate_limiter_config *limits,
			struct error *err);
/* Output came to the empty ring: writes what the sink takes now, and looks again after a while. */
void console_output_ready(struct console *console);
/* Writes the rest out for at most CONSOLE_DRAIN_MS, then drops it. */
void console_output_close(struct console *console);

int console_input_open(struct console *console, struct error *err);
/* The guest may have taken all input. */
void console_input_taken(struct console *console);
/* Stops reading, and begins again. */
void console_input_pause(struct console *console);
void console_input_resume(struct console *console);
void console_input_close(struct console *console);

/* Whether this process is in the foreground of its controlling terminal, and `fd` is that. */
bool console_terminal_foreground(int fd);
/* Raw mode; the state found at the first call is what console_restore() puts back. */
int console_terminal_set_raw(int fd);
/* Puts the terminal back and forgets it: `fd` may be closed. */
void console_terminal_release(void);

#endif
