/* The event loop: see include/mayfly/loop.h. */
#include <string.h>

#include "mayfly/loop.h"

int loop_init(struct loop *loop, struct error *err)
{
	memset(loop, 0, sizeof(*loop));
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

int loop_run(struct loop *loop)
{
	loop->running = true;
	while (loop->running) {
		int count = epoll_wait(loop->epoll_fd, loop->batch, LOOP_BATCH, -1);

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
	}
	return loop->result;
}

void loop_stop(struct loop *loop, int result)
{
	loop->running = false;
	loop->result = result;
}
