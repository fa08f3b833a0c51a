/* The host's side of the serial port: see mayfly/console.h. */
#include "mayfly/console.h"

int console_open(struct console *console, const struct console_options *options, struct error *err)
{
	return error_set(err, ENOSYS, "console: not there yet");
}

void console_close(struct console *console)
{
}

void console_restore(void)
{
}
