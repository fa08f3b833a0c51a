/* The startup trace: see startup_trace.h. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "startup_trace.h"

#define LINE_BYTES 48 /* the longest name, a space, 20 digits, the end of the line */

static const char *const stage_names[STARTUP_STAGES] = {
	[STARTUP_MAIN] = "main",       [STARTUP_OPTIONS] = "options",
	[STARTUP_API] = "api",	       [STARTUP_CONFIG] = "config",
	[STARTUP_MEMORY] = "memory",   [STARTUP_VM] = "vm",
	[STARTUP_VCPUS] = "vcpus",     [STARTUP_THREADS] = "threads",
	[STARTUP_KERNEL] = "kernel",   [STARTUP_DISKS] = "disks",
	[STARTUP_STATE] = "state",     [STARTUP_DEVICES] = "devices",
	[STARTUP_FILTERS] = "filters", [STARTUP_RUN] = "run",
	[STARTUP_EXIT] = "exit",       [STARTUP_END] = "end",
	[STARTUP_STOPPED] = "stopped", [STARTUP_FLUSHED] = "flushed",
	[STARTUP_CLOSED] = "closed",   [STARTUP_TORN_DOWN] = "torn-down",
};

void startup_trace_init(struct startup_trace *trace)
{
	memset(trace, 0, sizeof(*trace));
	trace->fd = -1;
}

int startup_trace_open(struct startup_trace *trace, const char *path, struct error *err)
{
	cleanup_fd int fd =
		open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0)
		return error_errno(err, "cannot open the startup trace %s", path);
	trace->fd = take_fd(&fd);
	return 0;
}

int startup_trace_finish(struct startup_trace *trace, struct error *err)
{
	char text[STARTUP_STAGES * LINE_BYTES];
	size_t used = 0;
	ssize_t written;

	if (trace->fd < 0)
		return 0;
	for (unsigned int stage = 0; stage < STARTUP_STAGES; stage++) {
		if (trace->at_ns[stage])
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s %llu\n",
						 stage_names[stage],
						 (unsigned long long)trace->at_ns[stage]);
	}
	written = write(trace->fd, text, used);
	if (written >= 0 && written < (ssize_t)used) {
		errno = ENOSPC;
		written = -1;
	}
	if (written < 0)
		error_errno(err, "cannot write the startup trace");
	close_fd(&trace->fd);
	return written < 0 ? -err->code : 0;
}
