/* The boot timer: see boot_timer.h. */
#include <string.h>
#include <time.h>

#include "boot_timer.h"

#define BOOT_TIMER_VALUE 123

static uint64_t clock_us(clockid_t clock)
{
	return clock_ns(clock) / 1000;
}

static void timer_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	(void)device;
	(void)offset;
	memset(data, 0, length);
}

static void timer_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
			size_t length)
{
	struct boot_timer *timer = container_of(device, struct boot_timer, device);
	unsigned long long wall, cpu;

	(void)offset;
	(void)length;
	if (data[0] != BOOT_TIMER_VALUE || atomic_exchange(&timer->stopped, true))
		return;
	wall = clock_us(CLOCK_MONOTONIC) - timer->start_us;
	cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID) - timer->start_cpu_us;
	log_info(timer->log, "Guest-boot-time = %6llu us %llu ms, %6llu CPU us %llu CPU ms", wall,
		 wall / 1000, cpu, cpu / 1000);
}

static const struct bus_ops timer_ops = { .read = timer_read, .write = timer_write };

void boot_timer_init(struct boot_timer *timer, struct log *log, uint64_t start_us)
{
	*timer = (struct boot_timer) {
		.device = { .ops = &timer_ops,
			    .base = LAYOUT_BOOT_TIMER,
			    .length = 1,
			    .name = "boot timer" },
		.log = log,
		.start_us = start_us ? start_us : clock_us(CLOCK_MONOTONIC),
		.start_cpu_us = clock_us(CLOCK_PROCESS_CPUTIME_ID),
	};
}
