/* Metrics: see metrics.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include "metrics.h"

void metrics_init(struct metrics *metrics)
{
	*metrics = (struct metrics) { .fd = -1, .timer_fd = -1, .timer = { .fd = -1 } };
}

void metrics_close(struct metrics *metrics, struct loop *loop)
{
	loop_remove(loop, &metrics->timer);
	close_fd(&metrics->timer_fd);
	close_fd(&metrics->fd);
}

int metrics_open(struct metrics *metrics, const char *path, struct error *err)
{
	/* Read and write, so that a FIFO opens before its reader comes, as clients of this API are
	 * used to. */
	int flags = O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	cleanup_fd int fd = open(path, flags, 0600);

	if (fd < 0)
		return error_errno(err, "cannot open the metrics file %s", path);
	close_fd(&metrics->fd);
	metrics->fd = take_fd(&fd);
	return 0;
}

static void on_timer(struct loop_source *source, uint32_t events)
{
	struct metrics *metrics = container_of(source, struct metrics, timer);
	struct error err = { 0 };
	uint64_t expirations;

	(void)events;
	if (read(metrics->timer_fd, &expirations, sizeof(expirations)) < 0)
		return;
	if (vmm_flush_metrics(metrics->vmm, &err) < 0)
		log_error(vmm_log(metrics->vmm), "metrics: %s", err.message);
}

int metrics_start_timer(struct metrics *metrics, struct loop *loop, struct vmm *vmm,
			struct error *err)
{
	struct itimerspec period = {
		.it_interval.tv_sec = METRICS_PERIOD_S,
		.it_value.tv_sec = METRICS_PERIOD_S,
	};

	if (metrics->timer_fd >= 0)
		return 0; /* of a start that was refused */
	metrics->vmm = vmm;
	metrics->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (metrics->timer_fd < 0 || timerfd_settime(metrics->timer_fd, 0, &period, NULL) < 0)
		return error_errno(err, "cannot make the metrics timer");
	return loop_add(loop, &metrics->timer, metrics->timer_fd, EPOLLIN, on_timer, err);
}

json_t *metrics_collect(const struct metrics *metrics, struct log *log)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return json_pack("{s:I, s:{s:I}, s:{s:I, s:I}}", "utc_timestamp_ms",
			 (json_int_t)now.tv_sec * 1000 + now.tv_nsec / 1000000, "metrics",
			 "lost_lines", (json_int_t)metrics->lost_lines, "logger",
			 "missed_log_count", (json_int_t)atomic_load(&log->lost_lines),
			 "error_log_count", (json_int_t)atomic_load(&log->error_lines));
}

int metrics_write(struct metrics *metrics, const json_t *values, struct error *err)
{
	cleanup_free char *text = json_dumps(values, JSON_COMPACT);
	size_t length;
	ssize_t written;

	if (!text)
		return error_set(err, ENOMEM, "no memory for the metrics");
	length = strlen(text);
	text[length++] = '\n'; /* takes the place of the terminator: it is written by length */
	written = write(metrics->fd, text, length);
	if (written == (ssize_t)length)
		return 0;
	metrics->lost_lines++;
	if (written >= 0)
		errno = ENOSPC;
	return error_errno(err, "cannot write the metrics");
}
