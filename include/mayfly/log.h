/*
 * The log: one line a record, written by one write(2), to standard error or the file that `/logger`
 * names.
 *
 *   YYYY-MM-DDTHH:MM:SS.NNNNNNNNN [ID:THREAD:LEVEL:FILE:LINE] message
 *
 * The struct is set up before other threads exist; afterwards only log_configure() changes it,
 * before the machine starts. log_write() may be called from any thread and never blocks for good: a
 * destination that is full loses the line, and `lost_lines` counts it.
 */
#ifndef MAYFLY_LOG_H
#define MAYFLY_LOG_H

#include <stdatomic.h>
#include "mayfly/error.h"

enum log_level {
	LOG_OFF,
	LOG_ERROR,
	LOG_WARN,
	LOG_INFO,
	LOG_DEBUG,
	LOG_TRACE
};

#define LOG_ID_BYTES	 65
#define LOG_MODULE_BYTES 128

struct log {
	int fd;
	bool fd_owned;
	enum log_level level;
	bool show_level;
	bool show_origin;
	char id[LOG_ID_BYTES];
	char module[LOG_MODULE_BYTES]; /* when not empty: only source files whose path starts with
					  this */
	_Atomic uint64_t lost_lines;
	_Atomic uint64_t
		error_lines; /* what the metrics call missed or failed: lines at LOG_ERROR */
};

/* Logs to standard error at LOG_WARN, the id "anonymous-instance". */
void log_init(struct log *log);

/* Closes the file that log_open() opened. */
void log_close(struct log *log);

/* Appends to `path` (a file, made with mode 0600 when missing, or a FIFO) from now on. The message
 * names the path. */
int log_open(struct log *log, const char *path, struct error *err);

/* "Error", "Warning"/"Warn", "Info", "Debug", "Trace", "Off", in any case. Returns false for any
 * other word. */
bool log_level_parse(const char *name, enum log_level *level);
const char *log_level_name(enum log_level level);

void log_write(struct log *log, enum log_level level, const char *file, int line,
	       const char *format, ...) PRINTF_FORMAT(5, 6);

static inline bool log_wants(const struct log *log, enum log_level level)
{
	return level <= log->level;
}

#define log_at(log, level, ...)                                                 \
	do {                                                                    \
		if (log_wants(log, level))                                      \
			log_write(log, level, __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)
#define log_error(log, ...) log_at(log, LOG_ERROR, __VA_ARGS__)
#define log_warn(log, ...)  log_at(log, LOG_WARN, __VA_ARGS__)
#define log_info(log, ...)  log_at(log, LOG_INFO, __VA_ARGS__)
#define log_debug(log, ...) log_at(log, LOG_DEBUG, __VA_ARGS__)

/*
 * Names the calling thread, for the host's tools and for the log: up to 15 bytes. A line then needs
 * no system call to know it, which a filtered thread may not have. A thread that was never named is
 * asked for its name once, by its first line.
 */
void log_name_thread(const char *name);

/* The calling thread's name as the log knows it; safe in a signal's handler of a thread that was
 * named or has logged. */
const char *log_thread_name(void);

/*
 * For what a guest can provoke at will: at most LOG_LIMIT_BURST lines in LOG_LIMIT_PERIOD_MS
 * through one limit; the first line after a silence says how many were left out. One limit per
 * place and device, zero-initialised; the caller serialises its use (a device uses it under its own
 * lock).
 */
#define LOG_LIMIT_BURST	    5
#define LOG_LIMIT_PERIOD_MS 5000

struct log_limit {
	uint64_t period_start_ns;
	uint32_t lines;
	uint32_t left_out;
};

/* True when a line may be written now. */
bool log_limit_pass(struct log_limit *limit, struct log *log);

#define log_warn_limited(limit, log, ...)                                          \
	do {                                                                       \
		if (log_wants(log, LOG_WARN) && log_limit_pass(limit, log))        \
			log_write(log, LOG_WARN, __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)

#endif
