/*
 * The console at rest, devices/console.c: input stays where it is, output does not.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <unistd.h>

#include "console_helper.h"

static struct rig rig;
static int input[2], output[2];

static void setup(void)
{
	cr_assert(rig_init(&rig));
	cr_assert_eq(pipe2(input, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(output, O_CLOEXEC | O_NONBLOCK), 0);
}

static void teardown(void)
{
	rig_destroy(&rig);
	close(input[0]);
	close(input[1]);
	close(output[0]);
	close(output[1]);
}

TestSuite(console_pause, .init = setup, .fini = teardown);

static bool got_all(struct rig *r)
{
	return rig_received(r, "before after");
}

static bool got_first(struct rig *r)
{
	return rig_received(r, "before ");
}

static void open_console(void)
{
	struct error err = { 0 };

	rig.options.input_fd = input[0];
	rig.options.output_fd = output[1];
	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
}

static void type(const char *text)
{
	cr_assert_eq(write(input[1], text, strlen(text)), (ssize_t)strlen(text));
}

Test(console_pause, input_waits_outside_and_comes_afterwards)
{
	open_console();
	type("before ");
	cr_assert(rig_run(&rig, got_first));
	console_pause(&rig.console);
	type("after");
	/* The pause between two bursts ends, and nothing comes of it. */
	cr_assert(rig_run(&rig, rig_is_quiet));
	usleep(30000);
	cr_assert(rig_run(&rig, rig_is_quiet));
	cr_assert(rig_received(&rig, "before "));
	console_resume(&rig.console);
	cr_assert(rig_run(&rig, got_all));
}

Test(console_pause, input_from_a_file_waits_too)
{
	char path[] = "/tmp/mayfly-console-pause.XXXXXX";
	int fd = mkstemp(path);
	struct error err = { 0 };
	char text[2 * SERIAL_INPUT_BYTES];

	memset(text, 'x', sizeof(text));
	cr_assert_eq(write(fd, text, sizeof(text)), (ssize_t)sizeof(text));
	lseek(fd, 0, SEEK_SET);
	rig.options.input_fd = fd;
	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
	console_pause(&rig.console);
	rig_receive(&rig);
	cr_assert(rig_run(&rig, rig_is_quiet));
	usleep(30000);
	cr_assert(rig_run(&rig, rig_is_quiet));
	rig_receive(&rig);
	cr_assert_eq(rig.received_count, SERIAL_INPUT_BYTES - 1, "the first burst and no more");
	console_resume(&rig.console);
	while (rig.received_count < sizeof(text)) {
		cr_assert(rig_run(&rig, rig_is_quiet));
		rig_receive(&rig);
	}
	close(fd);
	unlink(path);
}

Test(console_pause, output_goes_on)
{
	char text[16] = "";

	open_console();
	console_pause(&rig.console);
	rig_say(&rig, "last words");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(read(output[0], text, sizeof(text)), 10);
	cr_assert_str_eq(text, "last words");
}

Test(console_pause, a_console_without_input_rests_as_well)
{
	struct error err = { 0 };

	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
	console_pause(&rig.console);
	console_resume(&rig.console);
	cr_assert(rig_run(&rig, rig_is_quiet));
}

Test(console_pause, what_was_said_before_is_out)
{
	char text[16] = "";

	open_console();
	rig_say(&rig, "a");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	/* This would be gathered for a while. */
	rig_say(&rig, "bcd");
	cr_assert_not(rig_ring_is_empty(&rig));
	console_pause(&rig.console);
	cr_assert(rig_ring_is_empty(&rig));
	cr_assert_eq(read(output[0], text, sizeof(text)), 4);
	cr_assert_str_eq(text, "abcd");
	rig_say(&rig, "e");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
}
