/*
 * The boot timer (`--boot-timer`): the guest's init writes 123 to LAYOUT_BOOT_TIMER, and the log
 * says how long the guest took to get there. Not a device of the machine: a stopwatch for those who
 * measure.
 */
#ifndef MAYFLY_SRC_BOOT_TIMER_H
#define MAYFLY_SRC_BOOT_TIMER_H

#include <stdatomic.h>
#include "mayfly/bus.h"
#include "mayfly/log.h"

struct boot_timer {
	struct bus_device device;
	struct log *log;
	atomic_bool stopped;   /* once: a guest that goes on writing must not fill the log */
	uint64_t start_us;     /* CLOCK_MONOTONIC */
	uint64_t start_cpu_us; /* CPU time of the process */
};

/* Starts the stopwatch; `start_us` when somebody knows better when the start was asked for, else 0.
 */
void boot_timer_init(struct boot_timer *timer, struct log *log, uint64_t start_us);

#endif
