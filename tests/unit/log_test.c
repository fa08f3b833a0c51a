#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mayfly/log.h"

static char *path_in_tmp(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "/tmp/mayfly-log-test-%d-%s", (int)getpid(), name);
	unlink(path);
	return path;
}

static char *read_back(const char *path)
{
	static char text[65536];
	FILE *file = fopen(path, "r");
	size_t length;

	cr_assert(file);
	length = fread(text, 1, sizeof(text) - 1, file);
	text[length] = '\0';
	fclose(file);
	return text;
}

Test(log, a_line_has_time_id_thread_level_and_origin)
{
	char *path = path_in_tmp("line"), *text;
	struct log log;
	int year, used = 0;
	char head[64], origin[128], message[64];

	log_init(&log);
	strcpy(log.id, "vm-1");
	log.level = LOG_INFO;
	log.show_level = log.show_origin = true;
	cr_assert_eq(log_open(&log, path, NULL), 0);
	log_info(&log, "hello %d", 7);
	log_debug(&log, "not wanted");
	log_close(&log);
	text = read_back(path);
	cr_assert_eq(
		sscanf(text,
		       "%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%*9d [%63[^:]:%*[^:]:Info:%127[^]]] %63[^\n]\n%n",
		       &year, head, origin, message, &used),
		4, "%s", text);
	cr_assert_geq(year, 2020);
	cr_assert_str_eq(head, "vm-1");
	cr_assert(strstr(origin, "log_test.c:"));
	cr_assert_str_eq(message, "hello 7");
	cr_assert_eq((size_t)used, strlen(text));
	unlink(path);
}

Test(log, the_file_is_private_and_appended_to)
{
	char *path = path_in_tmp("append");
	struct stat status;
	struct log log;

	for (int i = 0; i < 2; i++) {
		log_init(&log);
		cr_assert_eq(log_open(&log, path, NULL), 0);
		log_warn(&log, "round");
		log_close(&log);
	}
	cr_assert_eq(stat(path, &status), 0);
	cr_assert_eq(status.st_mode & 0777, 0600);
	cr_assert(strstr(strstr(read_back(path), "round") + 1, "round"));
	unlink(path);
}

Test(log, control_characters_cannot_forge_a_line)
{
	char *path = path_in_tmp("forge"), *text;
	struct log log;

	log_init(&log);
	cr_assert_eq(log_open(&log, path, NULL), 0);
	log_warn(&log, "name a\nb\033[0m");
	log_close(&log);
	text = read_back(path);
	cr_assert_eq(strchr(text, '\n'), text + strlen(text) - 1);
	cr_assert_null(strchr(text, '\033'));
	unlink(path);
}

Test(log, endless_messages_are_cut)
{
	char *path = path_in_tmp("cut"), *text;
	char message[8192];
	struct log log;

	memset(message, 'x', sizeof(message) - 1);
	message[sizeof(message) - 1] = '\0';
	log_init(&log);
	cr_assert_eq(log_open(&log, path, NULL), 0);
	log_warn(&log, "%s", message);
	log_close(&log);
	text = read_back(path);
	cr_assert_lt(strlen(text), 2048);
	cr_assert_eq(text[strlen(text) - 1], '\n');
	unlink(path);
}

Test(log, a_directory_or_missing_folder_is_refused_by_name)
{
	struct error err = { 0 };
	struct log log;

	log_init(&log);
	cr_assert_lt(log_open(&log, "/tmp", &err), 0);
	cr_assert(strstr(err.message, "/tmp"));
	cr_assert_lt(log_open(&log, "/nowhere/at/all", &err), 0);
	cr_assert(strstr(err.message, "/nowhere/at/all"));
	cr_assert_eq(log.fd, STDERR_FILENO);
}

Test(log, levels_have_names_in_any_case)
{
	enum log_level level;

	cr_assert(log_level_parse("wArNiNg", &level));
	cr_assert_eq(level, LOG_WARN);
	cr_assert(log_level_parse("trace", &level));
	cr_assert_eq(level, LOG_TRACE);
	cr_assert(log_level_parse("OFF", &level));
	cr_assert_eq(level, LOG_OFF);
	cr_assert_not(log_level_parse("", &level));
	cr_assert_not(log_level_parse("loud", &level));
	cr_assert_str_eq(log_level_name(LOG_DEBUG), "Debug");
}

Test(log, module_filters_by_source_path)
{
	char *path = path_in_tmp("module"), *text;
	struct log log;

	log_init(&log);
	strcpy(log.module, "devices/");
	cr_assert_eq(log_open(&log, path, NULL), 0);
	log_write(&log, LOG_WARN, "src/x.c", 1, "left out");
	log_write(&log, LOG_WARN, "devices/x.c", 1, "kept");
	log_close(&log);
	text = read_back(path);
	cr_assert_null(strstr(text, "left out"));
	cr_assert(strstr(text, "kept"));
	unlink(path);
}

Test(log, what_a_guest_provokes_is_limited_and_counted)
{
	char *path = path_in_tmp("limit");
	struct log_limit limit = { 0 };
	struct log log;
	unsigned int lines = 0;

	log_init(&log);
	cr_assert_eq(log_open(&log, path, NULL), 0);
	for (int i = 0; i < 1000; i++)
		log_warn_limited(&limit, &log, "again");
	for (const char *at = read_back(path); (at = strstr(at, "again")); at++)
		lines++;
	cr_assert_eq(lines, LOG_LIMIT_BURST);
	cr_assert_eq(limit.left_out, 1000 - LOG_LIMIT_BURST);
	/* A new period begins: pretend that the last began long ago. */
	limit.period_start_ns = 1;
	log_warn_limited(&limit, &log, "once more");
	log_close(&log);
	cr_assert(strstr(read_back(path), "995 lines like the next were left out"));
	unlink(path);
}

Test(log, a_full_destination_loses_the_line_and_counts_it)
{
	struct log log;

	log_init(&log);
	cr_assert_eq(log_open(&log, "/dev/full", NULL), 0);
	log_warn(&log, "x");
	cr_assert_eq(atomic_load(&log.lost_lines), 1);
	log_close(&log);
}

Test(log, a_reader_of_standard_error_that_sleeps_does_not_hold_the_writer, .timeout = 60)
{
	static const char filling[65536];
	struct log log;
	int ends[2];

	cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	while (write(ends[1], filling, sizeof(filling)) > 0)
		;
	cr_assert_eq(fcntl(ends[1], F_SETFL, 0), 0);
	log_init(&log);
	log.fd = ends[1]; /* as standard error: not ours, and it may block */
	log_warn(&log, "x");
	cr_assert_eq(atomic_load(&log.lost_lines), 1);
	cr_assert_gt(read(ends[0], (char[65536]) { 0 }, 65536), 0);
	log_warn(&log, "y");
	cr_assert_eq(atomic_load(&log.lost_lines), 1);
	close(ends[0]);
	close(ends[1]);
}
