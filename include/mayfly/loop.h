/*
 * The event loop of the main thread: epoll(7), level-triggered.
 *
 * A source is embedded in the thing it serves, which finds itself again with container_of. Only the
 * main thread may call these functions, and handlers run on it; other threads wake it through an
 * eventfd that is a source.
 */
#ifndef MAYFLY_LOOP_H
#define MAYFLY_LOOP_H

#include <sys/epoll.h>
#include "mayfly/error.h"

struct loop_source {
	int fd; /* borrowed; -1 while not in a loop */
	uint32_t events;
	void (*handler)(struct loop_source *source, uint32_t events);
};

#define LOOP_BATCH 16

struct loop {
	int epoll_fd;
	bool running;
	int result;
	struct epoll_event batch[LOOP_BATCH];
	unsigned int batch_count, batch_next;
};

int loop_init(struct loop *loop, struct error *err);
void loop_destroy(struct loop *loop);

/* Watches `fd` for `events` (EPOLLIN, EPOLLOUT, ...). -EPERM for what cannot be waited for, such as
 * regular files. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
	     void (*handler)(struct loop_source *, uint32_t), struct error *err);

/* Changes the events waited for; 0 waits for errors and hang-up only. Does nothing when they are
 * the same. */
int loop_modify(struct loop *loop, struct loop_source *source, uint32_t events);

/* Takes the source out. Safe from any handler, its own included: it is not called again. Twice does
 * no harm. */
void loop_remove(struct loop *loop, struct loop_source *source);

/* Handles events until loop_stop(). Returns the result given to it, or a negative errno. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop, int result);

#endif
