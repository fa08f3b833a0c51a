/*
 * The event loop: see include/mayfly/loop.h.
 *
 * Timers are a list, sorted by time: there are a few for each device, and most are not armed. The
 * loop waits for descriptors and the first timer with one system call.
 *
 * Urgent sources have an epoll descriptor of their own, which is readable while one of them is. It
 * is a member of the other, so that waiting is still one call, and can be looked at by itself
 * between two handlers, which is a second call only where the handlers so far took long.
 *
 * System calls: epoll_create1, epoll_ctl, epoll_pwait2 (since Linux 5.11).
 */
#include <string.h>

#include "mayfly/loop.h"

#define NS_PER_S 1000000000ULL

static uint64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

/* As epoll_wait(2), with a timeout in nanoseconds, or none. */
static int wait_on(int epoll_fd, struct epoll_event *events, const struct timespec *timeout)
{
	return epoll_pwait2(epoll_fd, events, LOOP_BATCH, timeout, NULL);
}

/* One call for all kinds of waiting: an older kernel is told at the start, not at the first wait.
 */
static int check_kernel(int epoll_fd, struct error *err)
{
	struct epoll_event none[LOOP_BATCH];

	if (wait_on(epoll_fd, none, &(struct timespec) { 0 }) >= 0)
		return 0;
	return error_errno(err, "the event loop cannot wait (Mayfly needs Linux 5.11 or later)");
}

int loop_init(struct loop *loop, struct error *err)
{
	int result;

	memset(loop, 0, sizeof(*loop));
	loop->clock_ns = monotonic_ns;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->urgent_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd >= 0 && loop->urgent_fd >= 0 &&
	    epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->urgent_fd,
		      &(struct epoll_event) { .events = EPOLLIN, .data.ptr = &loop->urgent }) == 0)
		result = check_kernel(loop->epoll_fd, err);
	else
		result = error_errno(err, "cannot make the event loop's epoll descriptors");
	if (result < 0)
		loop_destroy(loop);
	return result;
}

void loop_destroy(struct loop *loop)
{
	close_fd(&loop->urgent_fd);
	close_fd(&loop->epoll_fd);
}

static int epoll_fd_of(const struct loop *loop, const struct loop_source *source)
{
	return source->urgent ? loop->urgent_fd : loop->epoll_fd;
}

static int add(struct loop *loop, struct loop_source *source, int fd, struct error *err)
{
	struct epoll_event event = { .events = source->events, .data.ptr = source };

	if (epoll_ctl(epoll_fd_of(loop, source), EPOLL_CTL_ADD, fd, &event) < 0)
		return error_errno(err, "cannot wait for file descriptor %d", fd);
	source->fd = fd;
	return 0;
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
	     void (*handler)(struct loop_source *, uint32_t), struct error *err)
{
	*source = (struct loop_source) { .fd = -1, .events = events, .handler = handler };
	return add(loop, source, fd, err);
}

int loop_add_urgent(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
		    void (*handler)(struct loop_source *, uint32_t), struct error *err)
{
	*source = (struct loop_source) {
		.fd = -1, .events = events, .urgent = true, .handler = handler
	};
	return add(loop, source, fd, err);
}

int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (source->fd < 0 || source->events == events)
		return 0;
	if (epoll_ctl(epoll_fd_of(loop, source), EPOLL_CTL_MOD, source->fd, &event) < 0)
		return -errno;
	source->events = events;
	return 0;
}

/* Events that were fetched already must not reach a source that may be freed by now. */
static void forget(struct loop_batch *batch, const struct loop_source *source)
{
	for (unsigned int i = batch->next; i < batch->count; i++) {
		if (batch->events[i].data.ptr == source)
			batch->events[i].data.ptr = NULL;
	}
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	if (source->fd < 0 || !source->handler)
		return;
	epoll_ctl(epoll_fd_of(loop, source), EPOLL_CTL_DEL, source->fd, NULL);
	source->fd = -1;
	forget(source->urgent ? &loop->urgent : &loop->batch, source);
}

uint64_t loop_now_ns(const struct loop *loop)
{
	return loop->clock_ns();
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns)
{
	struct loop_timer **place = &loop->timers;

	loop_timer_cancel(loop, timer);
	while (*place && (*place)->at_ns <= at_ns)
		place = &(*place)->next;
	timer->at_ns = at_ns;
	timer->armed = true;
	timer->next = *place;
	*place = timer;
}

void loop_timer_cancel(struct loop *loop, struct loop_timer *timer)
{
	struct loop_timer **place = &loop->timers;

	if (!timer->armed)
		return;
	while (*place != timer)
		place = &(*place)->next;
	*place = timer->next;
	timer->next = NULL;
	timer->armed = false;
}

void loop_run_timers(struct loop *loop)
{
	unsigned int due = 0;
	uint64_t now_ns;

	if (!loop->timers)
		return;
	/* Counted first: one that its handler arms for the past again waits for the next turn. */
	now_ns = loop_now_ns(loop);
	for (struct loop_timer *timer = loop->timers; timer && timer->at_ns <= now_ns;
	     timer = timer->next)
		due++;
	for (; due > 0 && loop->timers && loop->timers->at_ns <= now_ns; due--) {
		struct loop_timer *timer = loop->timers;

		loop_timer_cancel(loop, timer);
		timer->handler(timer);
	}
}

/* Until the first timer is due. */
static int wait_for_events(struct loop *loop)
{
	struct timespec timeout;
	uint64_t now_ns, wait_ns;
	struct epoll_event *events = loop->batch.events;

	if (!loop->timers)
		return wait_on(loop->epoll_fd, events, NULL);
	now_ns = loop_now_ns(loop);
	wait_ns = loop->timers->at_ns > now_ns ? loop->timers->at_ns - now_ns : 0;
	timeout = (struct timespec) { .tv_sec = (time_t)(wait_ns / NS_PER_S),
				      .tv_nsec = (long)(wait_ns % NS_PER_S) };
	return wait_on(loop->epoll_fd, events, &timeout);
}

static void call_handler(const struct epoll_event *event)
{
	struct loop_source *source = event->data.ptr;

	if (source)
		source->handler(source, event->events);
}

/* Whatever is urgent by now. */
static void handle_urgent(struct loop *loop)
{
	struct loop_batch *batch = &loop->urgent;
	int count = wait_on(loop->urgent_fd, batch->events, &(struct timespec) { 0 });

	batch->count = count > 0 ? (unsigned int)count : 0;
	for (batch->next = 0; batch->next < batch->count && loop->running;)
		call_handler(&batch->events[batch->next++]);
	batch->count = batch->next = 0;
	loop->urgent_looked_ns = loop_now_ns(loop);
}

/* Takes the urgent ones' descriptor out of the batch; true when it was there. */
static bool take_urgent(struct loop *loop)
{
	for (unsigned int i = 0; i < loop->batch.count; i++) {
		if (loop->batch.events[i].data.ptr == &loop->urgent) {
			loop->batch.events[i].data.ptr = NULL;
			return true;
		}
	}
	return false;
}

static void handle_batch(struct loop *loop)
{
	struct loop_batch *batch = &loop->batch;

	if (take_urgent(loop))
		handle_urgent(loop);
	else
		loop->urgent_looked_ns = loop_now_ns(loop);
	while (batch->next < batch->count && loop->running) {
		call_handler(&batch->events[batch->next++]);
		if (batch->next < batch->count && loop->running &&
		    loop_now_ns(loop) - loop->urgent_looked_ns >= LOOP_URGENT_NS)
			handle_urgent(loop);
	}
}

int loop_run(struct loop *loop)
{
	loop->running = true;
	while (loop->running) {
		int count = wait_for_events(loop);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return -errno;
		loop->batch.count = (unsigned int)count;
		loop->batch.next = 0;
		handle_batch(loop);
		loop->batch.count = loop->batch.next = 0;
		if (loop->running)
			loop_run_timers(loop);
	}
	return loop->result;
}

void loop_stop(struct loop *loop, int result)
{
	loop->running = false;
	loop->result = result;
}
