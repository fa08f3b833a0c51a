/*
 * The console's life. Three things wake it: the serial port (output is there, input was taken), the
 * sink (its reader takes more), the source (input, or the pause after a burst is over).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "console_private.h"

int console_reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

bool console_is_null(const struct stat *status)
{
	/* Linux Documentation/admin-guide/devices.txt */
	return S_ISCHR(status->st_mode) && status->st_rdev == makedev(1, 3);
}

static void handle_wake(struct loop_source *source, uint32_t events)
{
	struct console *console = container_of(source, struct console, wake);
	uint64_t count;

	/* First this, then look: what comes in between wakes once more. */
	if (read(console->options.serial->host_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return;
	console_output_ready(console);
	console_input_taken(console);
}

int console_open(struct console *console, const struct console_options *options, struct error *err)
{
	int ret;

	memset(console, 0, sizeof(*console));
	console->options = *options;
	console->open = true;
	console->wake.fd = -1;
	console->options.rate_limiter = NULL; /* lent for this call */
	console->output.fd = console->output.writable.fd = -1;
	console->input.fd = console->input.continued_fd = -1;
	console->input.readable.fd = console->input.continued.fd = -1;
	ret = console_output_open(console, options->rate_limiter, err);
	if (ret == 0)
		ret = console_input_open(console, err);
	if (ret == 0)
		ret = loop_add(options->loop, &console->wake, options->serial->host_fd, EPOLLIN,
			       handle_wake, err);
	if (ret < 0)
		console_close(console);
	return ret;
}

void console_close(struct console *console)
{
	if (!console->open)
		return;
	console->open = false;
	loop_remove(console->options.loop, &console->wake);
	/* The terminal stays raw for the last words: they hold the guest's own carriage returns. */
	console_output_close(console);
	console_input_close(console);
}

void console_pause(struct console *console)
{
	console_input_pause(console);
	/* Without waiting for what gathers it: a snapshot need not hold what the sink takes. */
	console_output_ready(console);
}

void console_resume(struct console *console)
{
	console_input_resume(console);
}

#define SECTION "console"
#define VERSION 1

void console_save(const struct console *console, struct state_writer *writer)
{
	state_begin(writer, SECTION, "", VERSION);
	rate_limiter_save(&console->output.limiter, writer);
	state_end(writer);
}

int console_restore_state(struct console *console, struct state_file *file, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, "", VERSION, &section, err);

	if (result < 0)
		return result;
	rate_limiter_restore(&console->output.limiter, "rate limiter", &section);
	return state_done(&section, err);
}

const struct rate_limiter_metrics *console_limiter_metrics(const struct console *console)
{
	return &console->output.limiter.metrics;
}
