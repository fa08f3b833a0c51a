/* The console on a terminal: raw mode and back, foreground and background, escapes. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#include "console_helper.h"
#include "pty_helper.h"

static struct rig rig; /* of the child */

static void child_open(bool escape)
{
	pty_child_check(rig_init(&rig));
	rig.options.input_fd = STDIN_FILENO;
	rig.options.output_fd = STDOUT_FILENO;
	rig.options.escape = escape;
	pty_child_check(rig_open(&rig, NULL) == 0);
}

static void run_child(struct pty *pty, void (*child)(void *))
{
	cr_assert(pty_start(pty, child, NULL));
}

static void assert_child_succeeds(struct pty *pty)
{
	int status = pty_wait(pty);

	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %x",
		  (unsigned int)status);
}

/* Reads from the master until `text` was seen. */
static void await_text(struct pty *pty, const char *text)
{
	char seen[4096];
	size_t count = 0;

	while (count < sizeof(seen) - 1) {
		ssize_t length = read(pty->master, seen + count, sizeof(seen) - 1 - count);

		cr_assert_gt(length, 0, "the terminal went away");
		count += (size_t)length;
		seen[count] = '\0';
		if (strstr(seen, text))
			return;
	}
	cr_assert_fail("%s did not come", text);
}

static void type(struct pty *pty, const char *text)
{
	cr_assert_eq(write(pty->master, text, strlen(text)), (ssize_t)strlen(text));
}

static bool echo_until_q(struct rig *unused)
{
	(void)unused;
	rig_receive(&rig);
	return rig.received_count && rig.received[rig.received_count - 1] == 'q';
}

static void converse(void *unused)
{
	(void)unused;
	child_open(false);
	pty_child_check(pty_is_raw(STDIN_FILENO));
	pty_child_check(!(fcntl(STDIN_FILENO, F_GETFL) & O_NONBLOCK));
	pty_child_check(!(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK));
	rig_say(&rig, "login: ");
	pty_child_check(rig_run(&rig, echo_until_q));
	pty_child_check(rig_received(&rig, "\x03\x1a\x04\x01root\rq"));
	rig_say(&rig, "bye\r\n");
	console_close(&rig.console);
	pty_child_check(!pty_is_raw(STDIN_FILENO));
	rig_destroy(&rig);
}

Test(terminal, dialogue_in_raw_mode_and_the_terminal_as_found_after_it)
{
	struct pty pty;

	run_child(&pty, converse);
	await_text(&pty, "login: ");
	/* Interrupt, stop, end of file and Ctrl-A are keys for the guest. */
	type(&pty, "\x03\x1a\x04\x01root\rq");
	await_text(&pty, "bye\r\n");
	assert_child_succeeds(&pty);
	cr_assert(pty_is_as_found(&pty));
	pty_close(&pty);
}

static bool escaped_or_q(struct rig *unused)
{
	return rig.escapes || echo_until_q(unused);
}

static void use_escapes(void *unused)
{
	(void)unused;
	child_open(true);
	rig_say(&rig, "ready");
	pty_child_check(rig_run(&rig, echo_until_q));
	pty_child_check(rig.escapes == 0);
	pty_child_check(rig_received(&rig, "a\x01"
					   "b\x01"
					   "c\x01zxq"));
	rig.received_count = 0;
	rig_say(&rig, "again");
	pty_child_check(rig_run(&rig, escaped_or_q));
	pty_child_check(rig.escapes == 1);
	rig_destroy(&rig);
}

Test(terminal, ctrl_a_escapes)
{
	struct pty pty;

	run_child(&pty, use_escapes);
	await_text(&pty, "ready");
	type(&pty, "a\x01\x01"
		   "b\x01"
		   "ac\x01zxq");
	await_text(&pty, "again");
	/* The two keys may come apart. */
	type(&pty, "\x01");
	type(&pty, "x");
	assert_child_succeeds(&pty);
	cr_assert(pty_is_as_found(&pty));
	pty_close(&pty);
}

/* A guest that hangs takes no input: the way out must work all the same. */
static void escape_from_hung_guest(void *unused)
{
	(void)unused;
	child_open(true);
	rig_out(&rig, REG_MCR, 0);
	rig_say(&rig, "hung");
	pty_child_check(rig_run(&rig, escaped_or_q));
	pty_child_check(rig.escapes == 1 && rig.received_count == 0);
	rig_destroy(&rig);
}

Test(terminal, escape_works_while_the_guest_takes_nothing)
{
	struct pty pty;

	run_child(&pty, escape_from_hung_guest);
	await_text(&pty, "hung");
	type(&pty, "help help help\r\x01x");
	assert_child_succeeds(&pty);
	pty_close(&pty);
}

static bool some_time_passed(struct rig *unused)
{
	(void)unused;
	return rig.ticks >= 50;
}

static bool sent_line_received(struct rig *unused)
{
	(void)unused;
	return rig_received(&rig, "for the guest\n");
}

/*
 * Leads the session and plays the shell: its child, in a process group of its own, is the monitor
 * in the background; then the shell gives it the terminal, as `fg` does, without any signal.
 */
static void play_shell(void *unused)
{
	int ready[2], go[2], status = -1;
	char byte = 0;
	pid_t monitor;

	(void)unused;
	pty_child_check(pipe(ready) == 0 && pipe(go) == 0);
	monitor = fork();
	if (monitor == 0) {
		setpgid(0, 0);
		child_open(true);
		pty_child_check(!pty_is_raw(STDIN_FILENO));
		rig_say(&rig, "output is shown from the background too\r\n");
		pty_child_check(write(ready[1], "r", 1) == 1);
		/* What is typed belongs to the shell, and must neither be taken nor keep the loop
		 * busy. */
		pty_child_check(read(go[0], &byte, 1) == 1);
		pty_child_check(rig_run(&rig, some_time_passed));
		pty_child_check(rig_run(&rig, rig_is_quiet));
		pty_child_check(rig.received_count == 0 && !pty_is_raw(STDIN_FILENO));
		pty_child_check(write(ready[1], "r", 1) == 1);
		pty_child_check(rig_run(&rig, sent_line_received));
		pty_child_check(pty_is_raw(STDIN_FILENO));
		console_close(&rig.console);
		pty_child_check(!pty_is_raw(STDIN_FILENO));
		_exit(0);
	}
	setpgid(monitor, monitor);
	pty_child_check(read(ready[0], &byte, 1) == 1);
	dprintf(STDOUT_FILENO, "type to the shell");
	{
		struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };

		pty_child_check(poll(&input, 1, -1) == 1);
	}
	pty_child_check(write(go[1], "g", 1) == 1);
	pty_child_check(read(ready[0], &byte, 1) == 1);
	{
		char line[64] = "";

		pty_child_check(read(STDIN_FILENO, line, sizeof(line)) == 14);
		pty_child_check(strcmp(line, "for the shell\n") == 0);
	}
	signal(SIGTTOU, SIG_IGN);
	pty_child_check(tcsetpgrp(STDIN_FILENO, monitor) == 0);
	dprintf(STDOUT_FILENO, "type to the guest");
	pty_child_check(waitpid(monitor, &status, 0) == monitor);
	pty_child_check(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(terminal, background_process_leaves_the_terminal_alone_until_it_is_given_it)
{
	struct pty pty;

	run_child(&pty, play_shell);
	await_text(&pty, "type to the shell");
	type(&pty, "for the shell\n");
	await_text(&pty, "type to the guest");
	type(&pty, "for the guest\n");
	assert_child_succeeds(&pty);
	cr_assert(pty_is_as_found(&pty));
	pty_close(&pty);
}

static bool terminal_is_raw(struct rig *unused)
{
	(void)unused;
	return pty_is_raw(STDIN_FILENO);
}

static void be_continued(void *context)
{
	struct termios cooked;

	(void)context;
	pty_child_check(tcgetattr(STDIN_FILENO, &cooked) == 0);
	child_open(true);
	/* Stopped meanwhile: the shell put its own modes back. */
	pty_child_check(tcsetattr(STDIN_FILENO, TCSANOW, &cooked) == 0);
	pty_child_check(kill(getpid(), SIGCONT) == 0);
	pty_child_check(rig_run(&rig, terminal_is_raw));
	rig_destroy(&rig);
	pty_child_check(!pty_is_raw(STDIN_FILENO));
}

Test(terminal, continued_process_takes_raw_mode_again)
{
	struct pty pty;

	run_child(&pty, be_continued);
	assert_child_succeeds(&pty);
	cr_assert(pty_is_as_found(&pty));
	pty_close(&pty);
}

static bool input_ended(struct rig *unused)
{
	(void)unused;
	return rig.console.input.source == CONSOLE_SOURCE_NONE;
}

static void outlive_the_terminal(void *unused)
{
	(void)unused;
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	child_open(true);
	rig_say(&rig, "ready");
	pty_child_check(rig_run(&rig, input_ended));
	rig_say(&rig, "to nobody");
	pty_child_check(rig_run(&rig, rig_ring_is_empty));
	pty_child_check(rig_run(&rig, rig_is_quiet));
	pty_child_check(rig.serial.metrics.dropped_bytes == 9);
	rig_destroy(&rig);
}

Test(terminal, hang_up_ends_input_and_output_without_harm)
{
	struct pty pty;

	run_child(&pty, outlive_the_terminal);
	close(pty.slave);
	await_text(&pty, "ready");
	close(pty.master);
	assert_child_succeeds(&pty);
}

static bool waits_for_the_reader(struct rig *unused)
{
	(void)unused;
	if (rig.serial.metrics.dropped_bytes < 1000)
		rig_say(&rig, "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuv"
			      "wxyz\r\n"
			      "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuv"
			      "wxyz\r\n");
	return rig.console.output.writable.fd >= 0;
}

static void talk_to_stalled_terminal(void *unused)
{
	(void)unused;
	child_open(true);
	pty_child_check(rig_run(&rig, waits_for_the_reader));
	pty_child_check(rig_run(&rig, rig_is_quiet));
	rig_destroy(&rig);
}

Test(terminal, terminal_that_nobody_reads_blocks_nothing)
{
	struct pty pty;

	run_child(&pty, talk_to_stalled_terminal);
	assert_child_succeeds(&pty);
	cr_assert(pty_is_as_found(&pty));
	pty_close(&pty);
}

#define PASTE_BYTES (256 * 1024)

static bool paste_received(struct rig *unused)
{
	(void)unused;
	rig_receive(&rig);
	return rig.received_count >= PASTE_BYTES;
}

static void receive_paste(void *unused)
{
	(void)unused;
	child_open(false);
	rig_say(&rig, "ready");
	pty_child_check(rig_run(&rig, paste_received));
	for (size_t i = 0; i < PASTE_BYTES; i++)
		pty_child_check(rig.received[i] == (uint8_t)(i * 7 + (i >> 8)));
	rig_destroy(&rig);
}

Test(terminal, long_paste_arrives_whole, .timeout = 120)
{
	static uint8_t paste[PASTE_BYTES];
	struct pty pty;
	size_t at = 0;

	for (size_t i = 0; i < PASTE_BYTES; i++)
		paste[i] = (uint8_t)(i * 7 + (i >> 8));
	run_child(&pty, receive_paste);
	await_text(&pty, "ready");
	while (at < PASTE_BYTES) {
		ssize_t length = write(pty.master, paste + at, PASTE_BYTES - at);

		cr_assert_gt(length, 0);
		at += (size_t)length;
	}
	assert_child_succeeds(&pty);
	pty_close(&pty);
}
