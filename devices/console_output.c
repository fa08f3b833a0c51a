/*
 * From the serial port's ring to the sink.
 *
 * What a write must never do is wait, and what must never be set is O_NONBLOCK on a description
 * that others share. So a terminal, pipe or FIFO is opened anew through /proc/self/fd, which gives
 * a description of our own; where that is refused (a socket, another user's terminal, no /proc)
 * each write is preceded by a poll and no longer than what surely fits. A regular file is written
 * through the descriptor that was given, so that its offset stays shared (`(mayfly; echo done) >
 * log`).
 *
 * A guest writes byte by byte. The first one after a silence goes out at once; then we look again
 * every GATHER_NS, for as long as there is something, and are not woken meanwhile: a line costs two
 * writes and two wake-ups instead of eighty.
 *
 * When the sink takes no more, the ring fills while we wait for EPOLLOUT, and when the rate limit
 * is reached, while we wait for the limiter; what finds it full is dropped by the vCPU. When the
 * reader has gone, everything is dropped here.
 *
 * System calls: openat, fstat, write, poll, close, epoll_ctl.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "console_private.h"

/* Pieces for one turn of the loop: a guest that never stops talking must leave time for the rest.
 */
#define MAX_WRITES 16

#define GATHER_NS 4000000

/*
 * What a socket takes when poll(2) says that it takes something, however small its buffer: a third
 * of that is free then (net/ipv4/tcp.c, net/unix/af_unix.c), and it has 4608 bytes at least.
 */
#define SOCKET_PIECE_BYTES 1024

static void count_dropped(struct console *console, size_t bytes)
{
	atomic_fetch_add_explicit(&console->options.serial->metrics.dropped_bytes, bytes,
				  memory_order_relaxed);
}

/* O_CREAT only where nothing is: on another user's file in a sticky directory it is refused. */
static int open_path(const char *path)
{
	int flags = O_WRONLY | O_APPEND | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
	struct stat status;
	int fd;

	/*
	 * A FIFO is opened for reading too: then it needs no reader at this moment, and one that
	 * leaves may be followed by another.
	 */
	if (stat(path, &status) == 0 && S_ISFIFO(status.st_mode)) {
		fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		if (fd >= 0 || errno != EACCES)
			return fd;
	}
	fd = open(path, flags);
	if (fd < 0 && errno == ENOENT)
		fd = open(path, flags | O_CREAT | O_EXCL, 0600);
	if (fd < 0 && errno == EEXIST) /* somebody made it just now */
		fd = open(path, flags);
	return fd;
}

static int open_output_path(struct console_output *output, const char *path, struct error *err)
{
	cleanup_fd int fd = open_path(path);

	if (fd < 0 && errno == ENXIO)
		return error_set(
			err, ENXIO,
			"serial_out_path %s: a socket, a FIFO without a reader or a device that is "
			"not there; give a file or a FIFO that may be read",
			path);
	if (fd < 0)
		return error_errno(err, "serial_out_path %s: cannot open it for writing", path);
	output->sink = CONSOLE_SINK_NONBLOCK;
	output->owned = true;
	output->fd = take_fd(&fd);
	return 0;
}

static void use_given_output(struct console_output *output, int fd)
{
	struct stat status;
	int own;

	output->fd = fd;
	if (fd < 0 || fstat(fd, &status) < 0)
		return; /* closed by whoever started us: there is no sink */
	if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) || console_is_null(&status)) {
		output->sink = CONSOLE_SINK_FILE;
		return;
	}
	own = console_reopen(fd, O_WRONLY);
	if (own >= 0) {
		output->sink = CONSOLE_SINK_NONBLOCK;
		output->fd = own;
		output->owned = true;
		return;
	}
	output->sink = CONSOLE_SINK_POLLED;
	/* pipe(7) promises PIPE_BUF; a terminal only one. */
	output->piece_bytes = S_ISFIFO(status.st_mode)	 ? PIPE_BUF
			      : S_ISSOCK(status.st_mode) ? SOCKET_PIECE_BYTES
							 : 1;
}

static ssize_t write_sink(const struct console_output *output, const uint8_t *data, size_t length)
{
	struct pollfd polled = { .fd = output->fd, .events = POLLOUT };

	switch (output->sink) {
	case CONSOLE_SINK_POLLED:
		if (poll(&polled, 1, 0) <= 0) {
			errno = EAGAIN;
			return -1;
		}
		return write(output->fd, data,
			     length < output->piece_bytes ? length : output->piece_bytes);
	default:
		return write(output->fd, data, length);
	}
}

static void give_up_sink(struct console *console, int reason)
{
	struct console_output *output = &console->output;

	log_warn(console->options.log,
		 "serial port: its output has no reader any more (%s): it is dropped from here on",
		 strerror(reason));
	loop_remove(console->options.loop, &output->writable);
	if (output->owned)
		close_fd(&output->fd);
	output->owned = false;
	output->fd = -1;
	output->sink = CONSOLE_SINK_NONE;
}

enum step {
	STEP_DONE,
	STEP_MORE,
	STEP_WAIT,   /* for the reader */
	STEP_LIMITED /* the limiter's timer goes on */
};

/* One write, or one refusal handled. */
static enum step drain_step(struct console *console)
{
	struct console_output *output = &console->output;
	struct serial *serial = console->options.serial;
	const uint8_t *data;
	size_t length = serial_peek_output(serial, &data);
	uint64_t allowed;
	ssize_t written;

	if (!length)
		return STEP_DONE;
	if (output->sink == CONSOLE_SINK_NONE) {
		count_dropped(console, length);
		serial_consume_output(serial, length);
		return STEP_MORE;
	}
	allowed = rate_limiter_available_bytes(&output->limiter);
	if (allowed == 0)
		return STEP_LIMITED;
	if (length > allowed)
		length = allowed;
	written = write_sink(output, data, length);
	if (written > 0) {
		rate_limiter_take(&output->limiter, 1, (uint64_t)written);
		output->failing = false;
		serial_consume_output(serial, (size_t)written);
		return STEP_MORE;
	}
	if (written == 0 || errno == EINTR)
		return STEP_MORE;
	if (errno == EAGAIN)
		return STEP_WAIT;
	if (errno == EPIPE || errno == ECONNRESET || errno == EIO || errno == EBADF) {
		give_up_sink(console, errno);
		return STEP_MORE;
	}
	/* A full disk may have room again later: this piece is lost, the sink is not. */
	if (!output->failing)
		log_error(console->options.log, "serial port: cannot write its output: %s",
			  strerror(errno));
	output->failing = true;
	count_dropped(console, length);
	serial_consume_output(serial, length);
	return STEP_MORE;
}

static enum step drain(struct console *console, bool *wrote);

static void handle_writable(struct loop_source *source, uint32_t events)
{
	struct console_output *output = container_of(source, struct console_output, writable);
	bool wrote;

	drain(container_of(output, struct console, output), &wrote);
}

static void wait_for_reader(struct console *console)
{
	struct console_output *output = &console->output;
	int ret;

	if (output->writable.fd >= 0)
		return;
	ret = loop_add(console->options.loop, &output->writable, output->fd, EPOLLOUT,
		       handle_writable, NULL);
	if (ret < 0)
		give_up_sink(console, -ret);
}

/*
 * Writes what the sink and the limits take now, and sees to it that the rest is not forgotten.
 * Returns why it stopped; `wrote` says whether anything was taken.
 */
static enum step drain(struct console *console, bool *wrote)
{
	enum step step = STEP_MORE;
	uint64_t again = 1;

	*wrote = false;
	for (int i = 0; i < MAX_WRITES && step == STEP_MORE; i++) {
		*wrote = i > 0;
		step = drain_step(console);
	}
	switch (step) {
	case STEP_WAIT:
		wait_for_reader(console);
		break;
	case STEP_LIMITED:
		loop_remove(console->options.loop, &console->output.writable);
		rate_limiter_wait(&console->output.limiter);
		break;
	case STEP_DONE:
		loop_remove(console->options.loop, &console->output.writable);
		break;
	case STEP_MORE:
		/* More is there, and the ring, not having been empty, will not say so again. */
		*wrote = true;
		(void)!write(console->options.serial->host_fd, &again, sizeof(again));
		break;
	}
	return step;
}

void console_output_ready(struct console *console)
{
	struct console_output *output = &console->output;
	struct loop *loop = console->options.loop;
	bool wrote, limited = drain(console, &wrote) == STEP_LIMITED;

	if (wrote && !limited)
		loop_timer_set(loop, &output->gather, loop_now_ns(loop) + GATHER_NS);
	else
		loop_timer_cancel(loop, &output->gather);
	/* The limiter says when to look; the ring would say at once, and go on saying. */
	serial_watch_output(console->options.serial, !wrote && !limited);
}

static void handle_limit_over(struct rate_limiter *limiter)
{
	struct console_output *output = container_of(limiter, struct console_output, limiter);

	console_output_ready(container_of(output, struct console, output));
}

static void handle_gather(struct loop_timer *timer)
{
	struct console_output *output = container_of(timer, struct console_output, gather);

	console_output_ready(container_of(output, struct console, output));
}

int console_output_open(struct console *console, const struct rate_limiter_config *limits,
			struct error *err)
{
	struct console_output *output = &console->output;

	rate_limiter_init(&output->limiter, console->options.loop, handle_limit_over, limits);
	output->gather = (struct loop_timer) { .handler = handle_gather };
	if (console->options.output_path)
		return open_output_path(output, console->options.output_path, err);
	use_given_output(output, console->options.output_fd);
	return 0;
}

void console_output_close(struct console *console)
{
	struct console_output *output = &console->output;
	uint64_t deadline_ns = clock_ns(CLOCK_MONOTONIC) + CONSOLE_DRAIN_MS * 1000000ULL;

	rate_limiter_destroy(&output->limiter);
	output->limiter.bandwidth.size = output->limiter.ops.size = 0;
	while (clock_ns(CLOCK_MONOTONIC) < deadline_ns) {
		enum step step = drain_step(console);
		struct pollfd polled = { .fd = output->fd, .events = POLLOUT };
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC);

		if (step == STEP_DONE)
			break;
		if (step == STEP_WAIT && now_ns < deadline_ns)
			poll(&polled, 1, (int)((deadline_ns - now_ns + 999999) / 1000000));
	}
	loop_remove(console->options.loop, &output->writable);
	loop_timer_cancel(console->options.loop, &output->gather);
	if (output->owned)
		close_fd(&output->fd);
	output->owned = false;
	output->sink = CONSOLE_SINK_NONE;
	/* The rest, in two pieces where the ring wraps. */
	for (int i = 0; i < 2; i++)
		drain_step(console);
}
