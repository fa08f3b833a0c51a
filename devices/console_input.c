/*
 * From a terminal, pipe or file to the guest's receiver.
 *
 * Input goes in bursts: up to a buffer's worth (SERIAL_INPUT_BYTES), from which the guest's own
 * reads fill the FIFO; when it has taken everything, the serial port wakes the loop, and the next
 * burst follows after a pause. The pause is for the guest: a driver empties the receiver inside its
 * interrupt handler, as long as there is something, into buffers (Linux: 640 KiB, earlier 64 KiB)
 * that only run down once the handler has returned. Fed without end, it drops what a real line's
 * speed would have spread out, or leaves its handler with the line still raised. A share of the
 * time that the guest needed for the burst fits fast and slow hosts alike.
 *
 * A terminal is read, and is in raw mode, only while this process is in its foreground:
 *   - started in the background, it is only watched; edge-triggered, as its input is another's.
 *     After `fg` the first line typed (the terminal still gathers lines) finds us in front: raw
 * mode then, and that line is the guest's first;
 *   - stopped (by SIGSTOP or SIGTSTP from elsewhere: Ctrl-Z is the guest's) and continued, SIGCONT
 *     has us look again: the shell has put its own modes back meanwhile.
 *
 * System calls: openat, fstat, read, poll, signalfd4, rt_sigprocmask, close, epoll_ctl, and the
 * terminal's.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "console_private.h"

#define PAUSE_MIN_NS 1000000ULL
#define PAUSE_MAX_NS 20000000ULL
#define PAUSE_SHARE  8

#define KEY_CTRL_A 0x01

static void handle_readable(struct loop_source *source, uint32_t events);

static struct console *console_of(struct console_input *input)
{
	return container_of(input, struct console, input);
}

static void stop_watching(struct console *console)
{
	/* Out of the loop, not without events: a hang-up is reported whatever one asks for. */
	loop_remove(console->options.loop, &console->input.readable);
}

static void end_input(struct console *console)
{
	stop_watching(console);
	console->input.source = CONSOLE_SOURCE_NONE;
	log_debug(console->options.log, "serial port: end of input");
}

/* Whether more may be read now. One byte stays free for a Ctrl-A that was held back. */
static bool may_read(const struct console_input *input)
{
	return !input->pausing && !input->at_rest && input->burst_bytes < SERIAL_INPUT_BYTES - 1;
}

/* Removes escapes from `in`; `out` has room for one byte more. Returns the new length. */
static size_t filter_escapes(struct console *console, const uint8_t *in, size_t length,
			     uint8_t *out)
{
	struct console_input *input = &console->input;
	size_t kept = 0;

	for (size_t i = 0; i < length; i++) {
		if (!input->escape_seen) {
			if (in[i] == KEY_CTRL_A)
				input->escape_seen = true;
			else
				out[kept++] = in[i];
			continue;
		}
		input->escape_seen = false;
		if (in[i] == 'x' || in[i] == 'X') {
			console->options.on_escape(console->options.context);
			continue;
		}
		out[kept++] = KEY_CTRL_A;
		if (in[i] != KEY_CTRL_A && in[i] != 'a')
			out[kept++] = in[i];
	}
	return kept;
}

static ssize_t read_source(const struct console_input *input, uint8_t *data, size_t length)
{
	struct pollfd polled = { .fd = input->fd, .events = POLLIN };

	/* Where the description is shared, another process may have been quicker: then a read would
	 * wait. */
	if (!input->owned && input->source != CONSOLE_SOURCE_FILE && poll(&polled, 1, 0) <= 0) {
		errno = EAGAIN;
		return -1;
	}
	return read(input->fd, data, length);
}

static void give_to_guest(struct console *console, const uint8_t *data, size_t length)
{
	struct console_input *input = &console->input;
	uint8_t filtered[SERIAL_INPUT_BYTES];

	if (input->source == CONSOLE_SOURCE_TERMINAL && console->options.escape) {
		length = filter_escapes(console, data, length, filtered);
		data = filtered;
	}
	if (!length)
		return;
	if (!input->burst_bytes)
		input->burst_start_ns = clock_ns(CLOCK_MONOTONIC);
	input->burst_bytes += length;
	/* All of it fits: what is in the buffer belongs to this burst, which is no longer than it.
	 */
	serial_put_input(console->options.serial, data, length);
}

static void read_input(struct console *console)
{
	struct console_input *input = &console->input;
	uint8_t data[SERIAL_INPUT_BYTES];
	ssize_t length;

	if (input->source == CONSOLE_SOURCE_NONE)
		return;
	if (!may_read(input)) {
		stop_watching(console);
		return;
	}
	length = read_source(input, data, SERIAL_INPUT_BYTES - 1 - input->burst_bytes);
	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (length <= 0) {
		end_input(console);
		return;
	}
	give_to_guest(console, data, (size_t)length);
	if (!may_read(input))
		stop_watching(console);
}

/* Waits for input again, or where there is nothing to wait for reads it. */
static void continue_input(struct console *console)
{
	struct console_input *input = &console->input;
	uint32_t events = EPOLLIN;

	stop_watching(console);
	if (input->source == CONSOLE_SOURCE_NONE || !may_read(input))
		return;
	if (input->source == CONSOLE_SOURCE_FILE) {
		read_input(console);
		return;
	}
	if (input->source == CONSOLE_SOURCE_TERMINAL && !console_terminal_foreground(input->fd))
		events |= EPOLLET;
	if (loop_add(console->options.loop, &input->readable, input->fd, events, handle_readable,
		     NULL) < 0) {
		/* A file of some kind: block device, /dev/null. */
		input->source = CONSOLE_SOURCE_FILE;
		read_input(console);
	}
}

/* Looks whether the terminal is ours at present. */
static void claim_terminal(struct console *console)
{
	struct console_input *input = &console->input;

	if (input->source != CONSOLE_SOURCE_TERMINAL)
		return;
	if (console_terminal_foreground(input->fd)) {
		int ret = console_terminal_set_raw(input->fd);

		if (ret < 0)
			log_warn(console->options.log,
				 "serial port: cannot put the terminal into raw mode: %s",
				 strerror(-ret));
	}
	continue_input(console);
}

static void handle_readable(struct loop_source *source, uint32_t events)
{
	struct console *console = console_of(container_of(source, struct console_input, readable));
	struct console_input *input = &console->input;

	if (input->source == CONSOLE_SOURCE_TERMINAL && !(events & EPOLLHUP)) {
		bool foreground = console_terminal_foreground(input->fd);
		bool watched_only = source->events & EPOLLET;

		if (foreground == watched_only)
			claim_terminal(console);
		if (!foreground)
			return;
	}
	read_input(console);
}

static void handle_continued(struct loop_source *source, uint32_t events)
{
	struct console_input *input = container_of(source, struct console_input, continued);
	struct signalfd_siginfo info;

	if (read(input->continued_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		claim_terminal(console_of(input));
}

static void handle_pace(struct loop_timer *timer)
{
	struct console_input *input = container_of(timer, struct console_input, pace);

	input->pausing = false;
	continue_input(console_of(input));
}

void console_input_taken(struct console *console)
{
	struct console_input *input = &console->input;
	struct loop *loop = console->options.loop;
	uint64_t pause_ns;

	if (!input->burst_bytes || !serial_input_taken(console->options.serial))
		return;
	pause_ns = (clock_ns(CLOCK_MONOTONIC) - input->burst_start_ns) / PAUSE_SHARE;
	if (pause_ns < PAUSE_MIN_NS)
		pause_ns = PAUSE_MIN_NS;
	if (pause_ns > PAUSE_MAX_NS)
		pause_ns = PAUSE_MAX_NS;
	input->burst_bytes = 0;
	if (input->source == CONSOLE_SOURCE_NONE)
		return;
	loop_timer_set(loop, &input->pace, loop_now_ns(loop) + pause_ns);
	input->pausing = true;
	stop_watching(console);
}

static int watch_continued(struct console *console, struct error *err)
{
	struct console_input *input = &console->input;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCONT);
	input->continued_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (input->continued_fd < 0)
		return error_errno(err, "serial port: cannot make a signal descriptor");
	/* Blocked, it still continues the process (signal(7)), and the descriptor tells. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return loop_add(console->options.loop, &input->continued, input->continued_fd, EPOLLIN,
			handle_continued, err);
}

static void use_given_input(struct console_input *input, int fd)
{
	struct stat status;
	int own;

	input->fd = fd;
	if (fd < 0 || fstat(fd, &status) < 0 || console_is_null(&status))
		return; /* none, or closed by whoever started us */
	if (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) || S_ISDIR(status.st_mode)) {
		input->source = CONSOLE_SOURCE_FILE;
		return;
	}
	input->source = isatty(fd) ? CONSOLE_SOURCE_TERMINAL : CONSOLE_SOURCE_STREAM;
	/*
	 * A pipe or FIFO for writing too: one who writes to it and leaves may be followed by
	 * another, and there is no hang-up that would have to be told from silence.
	 */
	own = S_ISFIFO(status.st_mode) ? console_reopen(fd, O_RDWR) : -1;
	if (own < 0)
		own = console_reopen(fd, O_RDONLY);
	if (own >= 0) {
		input->fd = own;
		input->owned = true;
	}
}

int console_input_open(struct console *console, struct error *err)
{
	struct console_input *input = &console->input;
	int ret;

	use_given_input(input, console->options.input_fd);
	/* What a restored guest has yet to take belongs to a burst of its own. */
	input->burst_bytes = serial_input_waiting(console->options.serial);
	input->burst_start_ns = clock_ns(CLOCK_MONOTONIC);
	if (input->source == CONSOLE_SOURCE_NONE)
		return 0;
	input->pace = (struct loop_timer) { .handler = handle_pace };
	if (input->source == CONSOLE_SOURCE_TERMINAL) {
		ret = watch_continued(console, err);
		if (ret < 0)
			return ret;
		claim_terminal(console);
		return 0;
	}
	continue_input(console);
	return 0;
}

void console_input_pause(struct console *console)
{
	console->input.at_rest = true;
	stop_watching(console);
}

void console_input_resume(struct console *console)
{
	console->input.at_rest = false;
	continue_input(console);
}

void console_input_close(struct console *console)
{
	struct console_input *input = &console->input;
	struct loop *loop = console->options.loop;

	loop_remove(loop, &input->readable);
	loop_timer_cancel(loop, &input->pace);
	loop_remove(loop, &input->continued);
	console_terminal_release();
	close_fd(&input->continued_fd);
	if (input->owned)
		close_fd(&input->fd);
	input->owned = false;
	input->source = CONSOLE_SOURCE_NONE;
}
