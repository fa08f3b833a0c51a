/*
 * The event loop: see include/mayfly/loop.h.
 *
 * Timers are a list, sorted by time: there are a few for each device, and most are not armed. The
 * loop waits for descriptors and the first timer with one system call.
 *
 * System calls: epoll_create1, epoll_ctl, epoll_wait, epoll_pwait2.
 */
#include <string.h>

#include "mayfly/loop.h"

#define NS_PER_S  1000000000ULL
#define NS_PER_MS 1000000ULL

static uint64_t monotonic_ns(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

int loop_init(struct loop *loop, struct error *err)
{
	memset(loop, 0, sizeof(*loop));
	loop->clock_ns = monotonic_ns;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		return error_errno(err, "cannot make the event loop's epoll descriptor");
	return 0;
}

void loop_destroy(struct loop *loop)
{
	close_fd(&loop->epoll_fd);
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
	     void (*handler)(struct loop_source *, uint32_t), struct error *err)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	*source = (struct loop_source) { .fd = -1, .events = events, .handler = handler };
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return error_errno(err, "cannot wait for file descriptor %d", fd);
	source->fd = fd;
	return 0;
}

int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = source };

	if (source->fd < 0 || source->events == events)
		return 0;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event) < 0)
		return -errno;
	source->events = events;
	return 0;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
	if (source->fd < 0 || !source->handler)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
	source->fd = -1;
	/* Events of this batch that were fetched already must not reach a source that may be freed
	 * by now. */
	for (unsigned int i = loop->batch_next; i < loop->batch_count; i++) {
		if (loop->batch[i].data.ptr == source)
			loop->batch[i].data.ptr = NULL;
	}
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

/* As epoll_wait(2), until the first timer is due. */
static int wait_for_events(struct loop *loop)
{
	struct timespec timeout;
	uint64_t now_ns, wait_ns;
	int count;

	if (!loop->timers)
		return epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, -1);
	now_ns = loop_now_ns(loop);
	wait_ns = loop->timers->at_ns > now_ns ? loop->timers->at_ns - now_ns : 0;
	timeout = (struct timespec) { .tv_sec = (time_t)(wait_ns / NS_PER_S),
				      .tv_nsec = (long)(wait_ns % NS_PER_S) };
	count = epoll_pwait2(loop->epoll_fd, loop->batch, LOOP_BATCH, &timeout, NULL);
	if (count >= 0 || errno != ENOSYS)
		return count;
	/* Before Linux 5.11: milliseconds, rounded up, a day at most. */
	wait_ns = wait_ns < 86400 * NS_PER_S ? wait_ns : 86400 * NS_PER_S;
	return epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH,
			  (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS));
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
		loop->batch_count = (unsigned int)count;
		for (loop->batch_next = 0; loop->batch_next < loop->batch_count && loop->running;) {
			struct epoll_event *event = &loop->batch[loop->batch_next++];
			struct loop_source *source = event->data.ptr;

			if (source)
				source->handler(source, event->events);
		}
		loop->batch_count = loop->batch_next = 0;
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
