/*
 * A serial port with a console on a loop, and a guest that is driven by hand: what the console's
 * tests share.
 */
#ifndef TESTS_CONSOLE_HELPER_H
#define TESTS_CONSOLE_HELPER_H

#include <string.h>
#include <sys/timerfd.h>

#include "devices/serial_private.h"
#include "mayfly/console.h"

/* Long enough for any machine: a test that runs into it has failed. */
#define RIG_DEADLINE_TICKS 60000

struct rig {
	struct loop loop;
	struct log log;
	struct serial serial;
	struct console console;
	struct console_options options;
	/* rig_run() looks whether this holds once a millisecond. */
	bool (*done)(struct rig *rig);
	struct loop_source tick;
	unsigned int ticks;
	/* What the guest received. */
	uint8_t *received;
	size_t received_count, received_limit;
	int escapes;
};

static inline void rig_count_escape(void *context)
{
	((struct rig *)context)->escapes++;
}

static inline uint8_t rig_in(struct rig *rig, unsigned int port)
{
	uint8_t value = 0;

	rig->serial.device.ops->read(&rig->serial.device, port, &value, 1);
	return value;
}

static inline void rig_out(struct rig *rig, unsigned int port, unsigned int value)
{
	uint8_t byte = (uint8_t)value;

	rig->serial.device.ops->write(&rig->serial.device, port, &byte, 1);
}

/* No files yet: set the options, then console_open(). The guest has opened its port. */
static inline bool rig_init(struct rig *rig)
{
	memset(rig, 0, sizeof(*rig));
	log_init(&rig->log);
	rig->log.level = LOG_OFF;
	if (loop_init(&rig->loop, NULL) < 0 || serial_init(&rig->serial, NULL) < 0)
		return false;
	rig->options = (struct console_options) {
		.serial = &rig->serial,
		.loop = &rig->loop,
		.log = &rig->log,
		.input_fd = -1,
		.output_fd = -1,
		.on_escape = rig_count_escape,
		.context = rig,
	};
	rig_out(rig, REG_IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
	rig_out(rig, REG_MCR, MCR_DTR | MCR_RTS | MCR_OUT2);
	rig_out(rig, REG_IER, IER_RX);
	return true;
}

static inline int rig_open(struct rig *rig, struct error *err)
{
	return console_open(&rig->console, &rig->options, err);
}

static inline void rig_destroy(struct rig *rig)
{
	console_close(&rig->console);
	console_close(&rig->console);
	serial_destroy(&rig->serial);
	loop_destroy(&rig->loop);
	free(rig->received);
}

static inline void rig_tick(struct loop_source *source, uint32_t events)
{
	struct rig *rig = container_of(source, struct rig, tick);
	uint64_t expirations;

	(void)events;
	if (read(source->fd, &expirations, sizeof(expirations)) < 0)
		return;
	if (rig->done(rig))
		loop_stop(&rig->loop, 0);
	else if (++rig->ticks >= RIG_DEADLINE_TICKS)
		loop_stop(&rig->loop, -ETIMEDOUT);
}

/* Runs the loop until done() holds. False when it never did. */
static inline bool rig_run(struct rig *rig, bool (*done)(struct rig *rig))
{
	struct itimerspec every = { .it_interval.tv_nsec = 1000000, .it_value.tv_nsec = 1000000 };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	int result;

	rig->done = done;
	rig->ticks = 0;
	timerfd_settime(timer, 0, &every, NULL);
	if (loop_add(&rig->loop, &rig->tick, timer, EPOLLIN, rig_tick, NULL) < 0)
		return false;
	result = loop_run(&rig->loop);
	loop_remove(&rig->loop, &rig->tick);
	close(timer);
	return result == 0;
}

/* For rig_run(): the loop would sleep. Never so while something is reported again and again. */
static inline bool rig_is_quiet(struct rig *rig)
{
	struct epoll_event event;

	return epoll_wait(rig->loop.epoll_fd, &event, 1, 0) == 0;
}

static inline void rig_say(struct rig *rig, const char *text)
{
	for (; *text; text++)
		rig_out(rig, REG_DATA, (uint8_t)*text);
}

/* What a driver's interrupt handler does: takes all there is. */
static inline void rig_receive(struct rig *rig)
{
	while (rig_in(rig, REG_LSR) & LSR_DATA_READY) {
		uint8_t byte = rig_in(rig, REG_DATA);

		if (rig->received_count == rig->received_limit) {
			rig->received_limit = rig->received_limit ? 2 * rig->received_limit : 4096;
			rig->received = realloc(rig->received, rig->received_limit);
		}
		rig->received[rig->received_count++] = byte;
	}
}

static inline bool rig_received(struct rig *rig, const char *text)
{
	rig_receive(rig);
	return rig->received_count == strlen(text) &&
	       memcmp(rig->received, text, strlen(text)) == 0;
}

static inline bool rig_ring_is_empty(struct rig *rig)
{
	const uint8_t *data;

	return serial_peek_output(&rig->serial, &data) == 0;
}

#endif
