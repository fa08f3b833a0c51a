/* The console with files, pipes and sockets; terminals are terminal_test.c's. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "console_helper.h"

#define PASTE_BYTES (1024 * 1024)

static struct rig rig;
static char directory[] = "/tmp/mayfly-console-XXXXXX";
static char path[64];

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	cr_assert_not_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/out", directory);
	cr_assert(rig_init(&rig));
}

static void teardown(void)
{
	rig_destroy(&rig);
	unlink(path);
	rmdir(directory);
}

TestSuite(console, .init = setup, .fini = teardown);

static void open_console(void)
{
	struct error err = { 0 };

	cr_assert_eq(rig_open(&rig, &err), 0, "%s", err.message);
}

static void assert_file(const char *expected)
{
	char content[256] = "";
	int fd = open(path, O_RDONLY);

	cr_assert_geq(fd, 0);
	cr_assert_geq(read(fd, content, sizeof(content) - 1), 0);
	close(fd);
	cr_assert_str_eq(content, expected);
}

static bool never_blocks(int fd)
{
	return fcntl(fd, F_GETFL) & O_NONBLOCK;
}

static uint8_t pattern(size_t at)
{
	return (uint8_t)((at * 2654435761U) >> 13);
}

Test(console, file_is_made_private_and_appended_to)
{
	struct stat status;
	mode_t mask = umask(0);

	rig.options.output_path = path;
	open_console();
	umask(mask);
	rig_say(&rig, "one\r\n");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	console_close(&rig.console);
	assert_file("one\r\n");
	cr_assert_eq(stat(path, &status), 0);
	cr_assert_eq(status.st_mode & 0777, 0600);

	open_console();
	rig_say(&rig, "two\r\n");
	console_close(&rig.console);
	assert_file("one\r\ntwo\r\n");
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 0);
}

Test(console, path_that_cannot_be_opened_is_named)
{
	struct error err = { 0 };

	rig.options.output_path = directory;
	cr_assert_eq(rig_open(&rig, &err), -EISDIR);
	cr_assert(strstr(err.message, "serial_out_path") && strstr(err.message, directory), "%s",
		  err.message);
	rig.options.output_path = "/nonexistent/out";
	cr_assert_eq(rig_open(&rig, &err), -ENOENT);
	cr_assert(strstr(err.message, "/nonexistent/out"), "%s", err.message);
	cr_assert_geq(fcntl(STDIN_FILENO, F_GETFD), 0, "a failure closes nobody else's descriptor");
}

Test(console, given_file_keeps_its_shared_offset)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	cr_assert_eq(write(fd, "before ", 7), 7);
	rig.options.output_fd = fd;
	open_console();
	rig_say(&rig, "guest ");
	console_close(&rig.console);
	cr_assert_eq(write(fd, "after", 5), 5);
	close(fd);
	assert_file("before guest after");
}

Test(console, full_disk_loses_pieces_and_not_the_sink)
{
	int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	rig.options.output_fd = fd;
	open_console();
	rig_say(&rig, "lost");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 4);
	cr_assert_neq(rig.console.output.sink, CONSOLE_SINK_NONE);
	cr_assert_eq(atomic_load(&rig.log.error_lines), 0, "logging is off here");
	close(fd);
}

Test(console, fifo_needs_no_reader_yet)
{
	char content[16] = "";
	int reader;

	cr_assert_eq(mkfifo(path, 0600), 0);
	rig.options.output_path = path;
	open_console();
	rig_say(&rig, "early");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	reader = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(read(reader, content, sizeof(content)), 5);
	cr_assert_str_eq(content, "early");
	close(reader);
	/* The reader left; the next one goes on. */
	rig_say(&rig, "late");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 0);
}

static bool waits_for_the_reader(struct rig *unused)
{
	(void)unused;
	return rig.console.output.writable.fd >= 0 && rig.serial.output_count > 0;
}

/* Reads `fd` until it ends or `limit` bytes came, checking the pattern. */
static size_t read_pattern(int fd, size_t from, size_t limit)
{
	uint8_t data[4096];
	size_t at = from;

	while (at - from < limit) {
		ssize_t length = read(fd, data, sizeof(data));

		if (length <= 0)
			break;
		for (ssize_t i = 0; i < length; i++, at++)
			cr_assert_eq(data[i], pattern(at), "byte %zu", at);
	}
	return at - from;
}

static void *close_console(void *unused)
{
	(void)unused;
	console_close(&rig.console);
	return NULL;
}

static bool stalled_or_empty(struct rig *unused)
{
	return waits_for_the_reader(unused) || rig_ring_is_empty(unused);
}

/* Talks until the reader's side and our ring are both full. Returns the bytes that were kept. */
static size_t talk_until_full(void)
{
	while (!rig.serial.metrics.dropped_bytes) {
		for (size_t i = 0; i < 1000; i++)
			rig_out(&rig, REG_DATA, pattern(rig.serial.metrics.tx_bytes));
		if (rig.console.output.writable.fd < 0)
			cr_assert(rig_run(&rig, stalled_or_empty));
		cr_assert_leq(rig.serial.metrics.tx_bytes, 64 * MIB, "somebody has no bound");
	}
	return rig.serial.metrics.tx_bytes - rig.serial.metrics.dropped_bytes;
}

static void assert_stall_is_survived(int reader, int writer)
{
	pthread_t closing;
	size_t kept;

	rig.options.output_fd = writer;
	open_console();
	kept = talk_until_full();
	cr_assert(rig_run(&rig, rig_is_quiet), "a stalled reader costs nothing");
	cr_assert_not(never_blocks(writer), "the flag would be seen by all who share it");
	/* Now it reads again, while the console writes the rest out. */
	pthread_create(&closing, NULL, close_console, NULL);
	cr_assert_eq(read_pattern(reader, 0, kept), kept);
	pthread_join(closing, NULL);
	cr_assert_eq(rig.serial.metrics.dropped_bytes + kept, rig.serial.metrics.tx_bytes);
	cr_assert_not(never_blocks(writer));
}

Test(console, stalled_pipe_reader_gets_all_that_was_kept)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	assert_stall_is_survived(ends[0], ends[1]);
	cr_assert_eq(rig.console.output.sink, CONSOLE_SINK_NONE, "closed");
}

Test(console, stalled_socket_reader_gets_all_that_was_kept)
{
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_stall_is_survived(ends[0], ends[1]);
}

Test(console, pipe_that_cannot_be_opened_anew_is_polled)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	cr_assert_eq(fchmod(ends[1], 0), 0);
	if (geteuid() == 0)
		cr_assert_eq(seteuid(65534), 0);
	rig.options.output_fd = ends[1];
	open_console();
	cr_assert_eq(rig.console.output.sink, CONSOLE_SINK_POLLED);
	console_close(&rig.console);
	assert_stall_is_survived(ends[0], ends[1]);
	if (getuid() == 0)
		cr_assert_eq(seteuid(0), 0);
}

Test(console, reader_that_leaves_drops_output_and_costs_nothing)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	rig.options.output_fd = ends[1];
	open_console();
	talk_until_full();
	close(ends[0]);
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(rig.console.output.sink, CONSOLE_SINK_NONE);
	rig_say(&rig, "to nobody");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert(rig_run(&rig, rig_is_quiet));
	close(ends[1]);
}

Test(console, closed_standard_output_is_no_error)
{
	rig.options.output_fd = -1;
	open_console();
	rig_say(&rig, "to nobody");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 9);
}

Test(console, last_words_to_a_stalled_reader_do_not_keep_the_process)
{
	int ends[2];
	size_t kept;

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	rig.options.output_fd = ends[1];
	open_console();
	kept = talk_until_full();
	console_close(&rig.console);
	cr_assert_gt(rig.serial.metrics.dropped_bytes, rig.serial.metrics.tx_bytes - kept,
		     "what was left is counted");
	close(ends[0]);
	close(ends[1]);
}

static bool all_received(struct rig *unused)
{
	(void)unused;
	rig_receive(&rig);
	return rig.received_count >= PASTE_BYTES;
}

static void *write_paste(void *argument)
{
	int fd = *(int *)argument;
	uint8_t data[997];
	size_t at = 0;

	while (at < PASTE_BYTES) {
		size_t length = PASTE_BYTES - at < sizeof(data) ? PASTE_BYTES - at : sizeof(data);
		ssize_t written;

		for (size_t i = 0; i < length; i++)
			data[i] = pattern(at + i);
		written = write(fd, data, length);
		if (written <= 0)
			break;
		at += (size_t)written;
	}
	return NULL;
}

static void assert_paste_arrived(void)
{
	cr_assert(rig_run(&rig, all_received), "%zu bytes arrived", rig.received_count);
	cr_assert_eq(rig.received_count, PASTE_BYTES);
	for (size_t i = 0; i < PASTE_BYTES; i++)
		cr_assert_eq(rig.received[i], pattern(i), "byte %zu", i);
	cr_assert_eq(rig.serial.metrics.rx_bytes, PASTE_BYTES);
}

Test(console, a_mebibyte_through_a_pipe_arrives_whole, .timeout = 120)
{
	pthread_t writer;
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	rig.options.input_fd = ends[0];
	open_console();
	cr_assert_not(never_blocks(ends[0]));
	pthread_create(&writer, NULL, write_paste, &ends[1]);
	assert_paste_arrived();
	pthread_join(writer, NULL);
	close(ends[1]);
	cr_assert(rig_run(&rig, rig_is_quiet));
	close(ends[0]);
}

Test(console, a_mebibyte_from_a_file_arrives_whole, .timeout = 120)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	write_paste(&fd);
	lseek(fd, 0, SEEK_SET);
	rig.options.input_fd = fd;
	open_console();
	assert_paste_arrived();
	close(fd);
}

static bool input_ended(struct rig *unused)
{
	(void)unused;
	rig_receive(&rig);
	return rig.console.input.source == CONSOLE_SOURCE_NONE;
}

Test(console, end_of_file_ends_the_input)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	cr_assert_eq(write(fd, "ls\n", 3), 3);
	lseek(fd, 0, SEEK_SET);
	rig.options.input_fd = fd;
	open_console();
	cr_assert(rig_run(&rig, input_ended));
	cr_assert(rig_received(&rig, "ls\n"));
	cr_assert(rig_run(&rig, rig_is_quiet));
	close(fd);
}

Test(console, null_device_is_an_ended_input)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	rig.options.input_fd = fd;
	open_console();
	cr_assert(rig_run(&rig, input_ended));
	cr_assert(rig_run(&rig, rig_is_quiet));
	close(fd);
}

Test(console, null_device_as_output_takes_everything_without_being_opened_anew)
{
	int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);

	rig.options.output_fd = fd;
	open_console();
	cr_assert_eq(rig.console.output.sink, CONSOLE_SINK_FILE);
	cr_assert_eq(rig.console.output.fd, fd);
	rig_say(&rig, "gone");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(atomic_load(&rig.serial.metrics.dropped_bytes), 0);
	close(fd);
}

Test(console, directory_as_input_is_an_ended_input)
{
	int fd = open(directory, O_RDONLY | O_CLOEXEC);

	rig.options.input_fd = fd;
	open_console();
	cr_assert(rig_run(&rig, input_ended));
	close(fd);
}

Test(console, closed_standard_input_is_no_error)
{
	/* A number that the console's own descriptors do not get. */
	int fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 500);

	cr_assert_geq(fd, 500);
	close(fd);
	rig.options.input_fd = fd;
	open_console();
	cr_assert_eq(rig.console.input.source, CONSOLE_SOURCE_NONE);
}

Test(console, socket_input_that_hangs_up_ends)
{
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	rig.options.input_fd = ends[0];
	open_console();
	cr_assert_eq(write(ends[1], "bye", 3), 3);
	close(ends[1]);
	cr_assert(rig_run(&rig, input_ended));
	cr_assert(rig_received(&rig, "bye"));
	cr_assert(rig_run(&rig, rig_is_quiet));
	close(ends[0]);
}

static bool buffer_is_full(struct rig *unused)
{
	(void)unused;
	return rig.console.input.burst_bytes == SERIAL_INPUT_BYTES - 1;
}

Test(console, hang_up_while_the_guest_does_not_read_costs_nothing)
{
	uint8_t data[3 * SERIAL_INPUT_BYTES] = { 0 };
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	rig.options.input_fd = ends[0];
	open_console();
	cr_assert_eq(write(ends[1], data, sizeof(data)), (ssize_t)sizeof(data));
	close(ends[1]);
	cr_assert(rig_run(&rig, buffer_is_full));
	cr_assert(rig_run(&rig, rig_is_quiet));
	cr_assert(rig_run(&rig, input_ended));
	cr_assert_eq(rig.received_count, sizeof(data));
	close(ends[0]);
}

static bool both_commands_received(struct rig *unused)
{
	(void)unused;
	return rig_received(&rig, "cmd\ncmd\n");
}

Test(console, fifo_input_outlives_its_writers)
{
	int reader, writer;

	cr_assert_eq(mkfifo(path, 0600), 0);
	reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	rig.options.input_fd = reader;
	open_console();
	for (int i = 0; i < 2; i++) {
		writer = open(path, O_WRONLY | O_CLOEXEC);
		cr_assert_eq(write(writer, "cmd\n", 4), 4);
		close(writer);
	}
	cr_assert(rig_run(&rig, both_commands_received));
	close(reader);
}

static bool keys_received(struct rig *unused)
{
	(void)unused;
	return rig_received(&rig, "\x01xy");
}

Test(console, escape_is_for_terminals_only)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	rig.options.input_fd = ends[0];
	rig.options.escape = true;
	open_console();
	cr_assert_eq(write(ends[1], "\x01xy", 3), 3);
	cr_assert(rig_run(&rig, keys_received));
	cr_assert_eq(rig.escapes, 0);
	close(ends[0]);
	close(ends[1]);
}

Test(console, input_pauses_between_bursts)
{
	uint8_t data[2 * SERIAL_INPUT_BYTES] = { 0 };
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
	rig.options.input_fd = ends[0];
	open_console();
	cr_assert_eq(write(ends[1], data, sizeof(data)), (ssize_t)sizeof(data));
	cr_assert(rig_run(&rig, buffer_is_full));
	rig_receive(&rig);
	cr_assert_eq(rig.received_count, SERIAL_INPUT_BYTES - 1, "the handler comes to an end");
	close(ends[0]);
	close(ends[1]);
}

static bool gathering_ended(struct rig *unused)
{
	(void)unused;
	return rig.serial.output_watched;
}

Test(console, output_after_the_first_byte_is_gathered)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	uint64_t count;

	rig.options.output_fd = fd;
	open_console();
	rig_say(&rig, "a");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	assert_file("a");
	cr_assert_not(rig.serial.output_watched);
	rig_say(&rig, "bcdef");
	cr_assert_lt(read(rig.serial.host_fd, &count, sizeof(count)), 0, "the loop is left alone");
	cr_assert(rig_run(&rig, gathering_ended));
	assert_file("abcdef");
	rig_say(&rig, "g");
	cr_assert_eq(read(rig.serial.host_fd, &count, sizeof(count)), (ssize_t)sizeof(count));
	close(fd);
}

static uint64_t fake_now_ns;

static uint64_t fake_clock(void)
{
	return fake_now_ns;
}

/* The timers that are due by then, and what follows from them. */
static void pass(uint64_t duration_ns)
{
	uint64_t end_ns = fake_now_ns + duration_ns;
	struct epoll_event event;

	do {
		while (epoll_wait(rig.loop.epoll_fd, &event, 1, 0) == 1) {
			struct loop_source *source = event.data.ptr;

			source->handler(source, event.events);
		}
		if (!rig.loop.timers || rig.loop.timers->at_ns > end_ns)
			break;
		if (rig.loop.timers->at_ns > fake_now_ns)
			fake_now_ns = rig.loop.timers->at_ns;
		loop_run_timers(&rig.loop);
	} while (true);
	fake_now_ns = end_ns;
}

static size_t file_bytes(void)
{
	struct stat status;

	cr_assert_eq(stat(path, &status), 0);
	return (size_t)status.st_size;
}

static void open_limited(struct rate_limiter_config *config)
{
	fake_now_ns = 5000000000;
	rig.loop.clock_ns = fake_clock;
	rig.options.output_path = path;
	rig.options.rate_limiter = config;
	open_console();
	memset(config, 0xff, sizeof(*config)); /* it was lent for the call */
}

Test(console, output_beyond_its_limit_waits)
{
	struct rate_limiter_config config = { .has_bandwidth = true,
					      .bandwidth = { 100, 1000, 50 } };

	open_limited(&config);
	for (int i = 0; i < 1000; i++)
		rig_out(&rig, REG_DATA, 'x');
	pass(0);
	cr_assert_eq(file_bytes(), 150);
	cr_assert(rig_is_quiet(&rig), "it waits for the limiter alone");
	pass(1000000000);
	cr_assert_eq(file_bytes(), 250);
	rig_say(&rig, "more");
	cr_assert(rig_is_quiet(&rig));
	pass(10000000000);
	cr_assert_eq(file_bytes(), 1004);
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 0);
	cr_assert_gt(console_limiter_metrics(&rig.console)->throttled, 0);

	/* And then it is awake as before. */
	pass(10000000000);
	rig_say(&rig, "end");
	cr_assert(rig_run(&rig, rig_ring_is_empty));
	cr_assert_eq(file_bytes(), 1007);
}

Test(console, output_beyond_its_limit_is_bounded_and_the_rest_is_counted)
{
	struct rate_limiter_config config = { .has_ops = true, .ops = { 1, 3600000 } };

	open_limited(&config);
	rig_out(&rig, REG_DATA, 'x');
	pass(0);
	cr_assert_eq(file_bytes(), 1);
	for (int i = 0; i < SERIAL_OUTPUT_BYTES + 1000; i++)
		rig_out(&rig, REG_DATA, 'y');
	pass(0);
	cr_assert_eq(file_bytes(), 1);
	cr_assert_eq(rig.serial.metrics.dropped_bytes, 1000);
}

Test(console, last_words_are_not_limited)
{
	struct rate_limiter_config config = { .has_bandwidth = true, .bandwidth = { 1, 3600000 } };

	open_limited(&config);
	rig_say(&rig, "panic: the reason\r\n");
	pass(0);
	cr_assert_eq(file_bytes(), 1);
	console_close(&rig.console);
	assert_file("panic: the reason\r\n");
}
