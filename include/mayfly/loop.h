/*
 * The event loop of the main thread: epoll(7), level-triggered but where a source says EPOLLET.
 *
 * A source is embedded in the thing it serves, which finds itself again with container_of. Only the
 * main thread may call these functions, and handlers run on it; other threads wake it through an
 * eventfd that is a source.
 *
 * Handlers do a bounded piece of work each. Urgent sources (the API's, signals) are looked at
 * before the others of a turn and again whenever LOOP_URGENT_NS have passed, so that an answer
 * waits for one handler and not for those of all devices.
 */
#ifndef MAYFLY_LOOP_H
#define MAYFLY_LOOP_H

#include <sys/epoll.h>
#include "mayfly/error.h"

struct loop_source {
	int fd; /* borrowed; -1 while not in a loop */
	uint32_t events;
	bool urgent;
	void (*handler)(struct loop_source *source, uint32_t events);
};

/*
 * A time at which something is to be done, embedded like a source. Arming and cancelling are no
 * system calls: the loop waits no longer than for the first.
 */
struct loop_timer {
	void (*handler)(struct loop_timer *timer); /* set by the user */
	bool armed;
	uint64_t at_ns;
	struct loop_timer *next;
};

#define LOOP_BATCH     16
#define LOOP_URGENT_NS 1000000ULL

/* What one epoll_wait(2) brought. */
struct loop_batch {
	struct epoll_event events[LOOP_BATCH];
	unsigned int count, next;
};

struct loop {
	int epoll_fd;
	int urgent_fd;		    /* an epoll descriptor, too, which is among epoll_fd's */
	uint64_t urgent_looked_ns;  /* when it was looked at last */
	uint64_t (*clock_ns)(void); /* CLOCK_MONOTONIC, unless a test has its own */
	struct loop_timer *timers;  /* armed, the next one first */
	bool running;
	int result;
	struct loop_batch batch, urgent;
};

int loop_init(struct loop *loop, struct error *err);
void loop_destroy(struct loop *loop);

/* Watches `fd` for `events` (EPOLLIN, EPOLLOUT, ...). -EPERM for what cannot be waited for, such as
 * regular files. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
	     void (*handler)(struct loop_source *, uint32_t), struct error *err);

/* The same, for what must not wait for the others: see above. */
int loop_add_urgent(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
		    void (*handler)(struct loop_source *, uint32_t), struct error *err);

/* Changes the events waited for; 0 waits for errors and hang-up only. Does nothing when they are
 * the same. */
int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events);

/* Takes the source out. Safe from any handler, its own included: it is not called again. Twice does
 * no harm. */
void loop_remove(struct loop *loop, struct loop_source *source);

/* What the loop's clock shows. */
uint64_t loop_now_ns(const struct loop *loop);

/* Calls timer->handler once, when the loop's clock shows `at_ns` or later. An armed one is armed
 * anew. */
void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t at_ns);

/* It is not called any more. Safe from any handler; does nothing when it is not armed. */
void loop_timer_cancel(struct loop *loop, struct loop_timer *timer);

/* Calls what is due. loop_run() does so in every turn. */
void loop_run_timers(struct loop *loop);

/* Handles events until loop_stop(). Returns the result given to it, or a negative errno. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int result);

#endif
