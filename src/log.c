/*
 * The log: formats a record on the stack and hands it to the kernel in one write, so that lines of
 * several threads never mix. See include/mayfly/log.h.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <time.h>

#include "mayfly/log.h"

#define LINE_BYTES	  1536
#define THREAD_NAME_BYTES 16 /* prctl(2), PR_GET_NAME */

#define SECONDS_PER_DAY	   86400
#define DAYS_PER_400_YEARS 146097
#define DAYS_0000_TO_1970  719468 /* from March 1st of the year 0 */

static const char *const level_names[] = {
	[LOG_OFF] = "Off",   [LOG_ERROR] = "Error", [LOG_WARN] = "Warn",
	[LOG_INFO] = "Info", [LOG_DEBUG] = "Debug", [LOG_TRACE] = "Trace",
};

/* The thread's own, so nobody shares it; filled once. */
static _Thread_local char thread_name[THREAD_NAME_BYTES];

void log_name_thread(const char *name)
{
	prctl(PR_SET_NAME, name);
	snprintf(thread_name, sizeof(thread_name), "%s", name);
}

const char *log_thread_name(void)
{
	return thread_name;
}

static const char *ask_thread_name(void)
{
	if (!thread_name[0])
		prctl(PR_GET_NAME, thread_name);
	return thread_name;
}

void log_init(struct log *log)
{
	ask_thread_name();
	memset(log, 0, sizeof(*log));
	log->fd = STDERR_FILENO;
	log->level = LOG_WARN;
	strcpy(log->id, "anonymous-instance");
}

void log_close(struct log *log)
{
	if (log->fd_owned)
		close_fd(&log->fd);
	log->fd_owned = false;
	log->fd = STDERR_FILENO;
}

int log_open(struct log *log, const char *path, struct error *err)
{
	/* Read and write, so that a FIFO opens before its reader comes, as clients of this API are
	 * used to. */
	cleanup_fd int fd =
		open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);

	if (fd < 0)
		return error_errno(err, "cannot open the log file %s", path);
	log_close(log);
	log->fd = take_fd(&fd);
	log->fd_owned = true;
	return 0;
}

bool log_level_parse(const char *name, enum log_level *level)
{
	if (strcasecmp(name, "warning") == 0) {
		*level = LOG_WARN;
		return true;
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (strcasecmp(name, level_names[i]) == 0) {
			*level = (enum log_level)i;
			return true;
		}
	}
	return false;
}

const char *log_level_name(enum log_level level)
{
	return (size_t)level < ARRAY_SIZE(level_names) ? level_names[level] : "?";
}

/* Appends to `line`, leaving room for the end of the line. Returns the new length. */
static size_t append(char *line, size_t used, const char *format, ...) PRINTF_FORMAT(3, 4);
static size_t append(char *line, size_t used, const char *format, ...)
{
	size_t room = LINE_BYTES - 1 - used;
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line + used, room, format, arguments);
	va_end(arguments);
	if (length < 0)
		return used;
	return used + ((size_t)length < room ? (size_t)length : room - 1);
}

struct date {
	unsigned int year, month, day;
};

/*
 * The date of a day since 1970-01-01, UTC. Not gmtime_r(3): its first call reads the host's time
 * zone from files, which a filtered thread may not. Years are counted from a March here, so that a
 * leap day is the last of its year; 400 of them have always the same number of days.
 */
static struct date date_of_day(uint32_t days_since_1970)
{
	uint32_t days = days_since_1970 + DAYS_0000_TO_1970;
	uint32_t day_of_era = days % DAYS_PER_400_YEARS;
	uint32_t year =
		(day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	uint32_t day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
	uint32_t month = (5 * day_of_year + 2) / 153; /* since March; five months have 153 days */

	return (struct date) {
		.year = days / DAYS_PER_400_YEARS * 400 + year + (month >= 10),
		.month = month < 10 ? month + 3 : month - 9,
		.day = day_of_year - (153 * month + 2) / 5 + 1,
	};
}

static size_t append_head(struct log *log, char *line, enum log_level level, const char *file,
			  int source_line)
{
	struct timespec now;
	struct date date;
	unsigned int second;
	size_t used = 0;

	clock_gettime(CLOCK_REALTIME, &now);
	date = date_of_day((uint32_t)(now.tv_sec / SECONDS_PER_DAY));
	second = (unsigned int)(now.tv_sec % SECONDS_PER_DAY);
	used = append(line, used, "%04u-%02u-%02uT%02u:%02u:%02u.%09ld [%s:%s", date.year,
		      date.month, date.day, second / 3600, second / 60 % 60, second % 60,
		      now.tv_nsec, log->id, ask_thread_name());
	if (log->show_level)
		used = append(line, used, ":%s", log_level_name(level));
	if (log->show_origin)
		used = append(line, used, ":%s:%d", file, source_line);
	return append(line, used, "] ");
}

/*
 * What we opened does not block. Standard error may be a pipe whose reader sleeps; a pipe that is
 * ready takes a whole line at once (PIPE_BUF, pipe(7)).
 */
static bool takes_a_line(const struct log *log)
{
	struct pollfd polled = { .fd = log->fd, .events = POLLOUT };

	return log->fd_owned || poll(&polled, 1, 0) != 0;
}

void log_write(struct log *log, enum log_level level, const char *file, int line_number,
	       const char *format, ...)
{
	char line[LINE_BYTES];
	va_list arguments;
	int saved = errno;
	size_t used;
	int length;

	if (level == LOG_ERROR)
		atomic_fetch_add_explicit(&log->error_lines, 1, memory_order_relaxed);
	if (log->module[0] && strncmp(file, log->module, strlen(log->module)) != 0)
		return;
	used = append_head(log, line, level, file, line_number);
	va_start(arguments, format);
	length = vsnprintf(line + used, LINE_BYTES - 1 - used, format, arguments);
	va_end(arguments);
	if (length > 0)
		used += (size_t)length < LINE_BYTES - 1 - used ? (size_t)length
							       : LINE_BYTES - 2 - used;
	/* One record is one line whatever a path or a guest put into it. */
	for (size_t i = 0; i < used; i++) {
		if ((unsigned char)line[i] < 0x20 && line[i] != '\t')
			line[i] = ' ';
	}
	line[used++] = '\n';
	if (!takes_a_line(log) || write(log->fd, line, used) != (ssize_t)used)
		atomic_fetch_add_explicit(&log->lost_lines, 1, memory_order_relaxed);
	errno = saved;
}

bool log_limit_pass(struct log_limit *limit, struct log *log)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (limit->period_start_ns == 0 ||
	    now - limit->period_start_ns >= LOG_LIMIT_PERIOD_MS * 1000000ull) {
		if (limit->left_out)
			log_write(log, LOG_WARN, __FILE__, __LINE__,
				  "%u lines like the next were left out", limit->left_out);
		limit->period_start_ns = now;
		limit->lines = 0;
		limit->left_out = 0;
	}
	if (limit->lines >= LOG_LIMIT_BURST) {
		limit->left_out++;
		return false;
	}
	limit->lines++;
	return true;
}
