#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "src/startup_trace.h"

static char *temporary_file(void)
{
	static char path[] = "/tmp/mayfly-startup-trace-XXXXXX";
	int fd = mkstemp(path);

	cr_assert_geq(fd, 0);
	close(fd);
	return path;
}

static size_t contents(const char *path, char *text, size_t room)
{
	cleanup_fd int fd = open(path, O_RDONLY);
	ssize_t length = read(fd, text, room - 1);

	cr_assert_geq(length, 0);
	text[length] = '\0';
	return (size_t)length;
}

Test(startup_trace, a_line_for_each_stage_that_was_reached_in_the_order_of_a_life)
{
	char *path = temporary_file(), text[1024];
	struct startup_trace trace;
	unsigned long long main_ns, run_ns;
	struct error err = { 0 };
	uint64_t before, after;

	startup_trace_init(&trace);
	cr_assert_eq(startup_trace_open(&trace, path, &err), 0);
	before = clock_ns(CLOCK_MONOTONIC);
	startup_mark(&trace, STARTUP_RUN);
	startup_mark(&trace, STARTUP_MAIN);
	after = clock_ns(CLOCK_MONOTONIC);
	cr_assert_eq(startup_trace_finish(&trace, &err), 0, "%s", err.message);
	contents(path, text, sizeof(text));
	cr_assert_eq(sscanf(text, "main %llu\nrun %llu\n", &main_ns, &run_ns), 2, "%s", text);
	cr_assert_eq(strlen(strchr(strchr(text, '\n') + 1, '\n')), 1, "%s", text);
	cr_assert(before <= run_ns && run_ns <= main_ns && main_ns <= after);
	unlink(path);
}

Test(startup_trace, the_first_mark_of_a_stage_counts)
{
	struct startup_trace trace;
	uint64_t first;

	startup_trace_init(&trace);
	startup_mark(&trace, STARTUP_EXIT);
	first = trace.at_ns[STARTUP_EXIT];
	cr_assert_neq(first, 0);
	while (clock_ns(CLOCK_MONOTONIC) == first)
		;
	startup_mark(&trace, STARTUP_EXIT);
	cr_assert_eq(trace.at_ns[STARTUP_EXIT], first);
}

Test(startup_trace, every_stage_has_a_name_and_the_longest_trace_fits)
{
	char *path = temporary_file(), text[2048];
	struct startup_trace trace;
	struct error err = { 0 };
	unsigned int lines = 0;

	startup_trace_init(&trace);
	cr_assert_eq(startup_trace_open(&trace, path, &err), 0);
	for (unsigned int stage = 0; stage < STARTUP_STAGES; stage++)
		trace.at_ns[stage] = UINT64_MAX;
	cr_assert_eq(startup_trace_finish(&trace, &err), 0, "%s", err.message);
	contents(path, text, sizeof(text));
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++)
		cr_assert(strstr(line, " 18446744073709551615") && !strstr(line, "null"), "%s",
			  line);
	cr_assert_eq(lines, STARTUP_STAGES);
	unlink(path);
}

Test(startup_trace, without_a_trace_a_mark_and_the_end_do_nothing)
{
	struct startup_trace trace;
	struct error err = { 0 };

	startup_mark(NULL, STARTUP_RUN);
	startup_trace_init(&trace);
	startup_mark(&trace, STARTUP_RUN);
	cr_assert_eq(startup_trace_finish(&trace, &err), 0);
}

Test(startup_trace, a_file_that_cannot_be_made_is_named)
{
	struct startup_trace trace;
	struct error err = { 0 };

	startup_trace_init(&trace);
	cr_assert_eq(startup_trace_open(&trace, "/nowhere/trace", &err), -ENOENT);
	cr_assert(strstr(err.message, "/nowhere/trace"), "%s", err.message);
	cr_assert_eq(trace.fd, -1);
}

Test(startup_trace, a_disk_that_is_full_is_an_error)
{
	struct startup_trace trace;
	struct error err = { 0 };

	startup_trace_init(&trace);
	cr_assert_eq(startup_trace_open(&trace, "/dev/full", &err), 0);
	startup_mark(&trace, STARTUP_RUN);
	cr_assert_eq(startup_trace_finish(&trace, &err), -ENOSPC);
	cr_assert_eq(trace.fd, -1);
}
