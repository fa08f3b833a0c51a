/*
 * Metrics: the counters of a microVM as one JSON object a line, to the file or FIFO that `/metrics`
 * names: at the start, every 60 seconds, when a client asks (FlushMetrics) and at the end. Main
 * thread.
 */
#ifndef MAYFLY_SRC_METRICS_H
#define MAYFLY_SRC_METRICS_H

#include <jansson.h>
#include "mayfly/log.h"
#include "mayfly/loop.h"
#include "mayfly/vmm.h"

#define METRICS_PERIOD_S 60

struct metrics {
	int fd; /* -1: nobody wants them */
	int timer_fd;
	struct loop_source timer;
	struct vmm *vmm; /* whose timer it is; borrowed */
	uint64_t lost_lines;
};

void metrics_init(struct metrics *metrics);
void metrics_close(struct metrics *metrics, struct loop *loop);

/* Appends to `path` from now on: a file, made with mode 0600 when missing, or a FIFO with a reader.
 */
int metrics_open(struct metrics *metrics, const char *path, struct error *err);
int metrics_start_timer(struct metrics *metrics, struct loop *loop, struct vmm *vmm,
			struct error *err);

/* What is not a device's: time, log, lost lines. Owned by the caller; NULL when out of memory. */
json_t *metrics_collect(const struct metrics *metrics, struct log *log);
int metrics_write(struct metrics *metrics, const json_t *values, struct error *err);

#endif
