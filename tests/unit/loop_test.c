#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>

#include "mayfly/loop.h"

struct item {
	struct loop_source source;
	struct loop *loop;
	struct item *other;
	unsigned int calls;
};

static int ready_eventfd(void)
{
	return eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void count_and_stop(struct loop_source *source, uint32_t events)
{
	struct item *item = container_of(source, struct item, source);

	(void)events;
	item->calls++;
	loop_stop(item->loop, 42);
}

Test(loop, run_returns_what_stop_was_given)
{
	struct item item = { 0 };
	struct loop loop;
	int fd = ready_eventfd();

	cr_assert_eq(loop_init(&loop, NULL), 0);
	item.loop = &loop;
	cr_assert_eq(loop_add(&loop, &item.source, fd, EPOLLIN, count_and_stop, NULL), 0);
	cr_assert_eq(loop_run(&loop), 42);
	cr_assert_eq(item.calls, 1);
	loop_remove(&loop, &item.source);
	loop_remove(&loop, &item.source);
	close(fd);
	loop_destroy(&loop);
}

static void remove_the_other(struct loop_source *source, uint32_t events)
{
	struct item *item = container_of(source, struct item, source);

	(void)events;
	item->calls++;
	loop_remove(item->loop, &item->other->source);
	loop_remove(item->loop, &item->source);
}

Test(loop, a_source_removed_by_another_of_the_same_batch_is_not_called)
{
	struct item a = { 0 }, b = { 0 }, last = { 0 };
	struct loop loop;
	int fd_a = ready_eventfd(), fd_b = ready_eventfd(), fd_last;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	a = (struct item) { .loop = &loop, .other = &b };
	b = (struct item) { .loop = &loop, .other = &a };
	last.loop = &loop;
	cr_assert_eq(loop_add(&loop, &a.source, fd_a, EPOLLIN, remove_the_other, NULL), 0);
	cr_assert_eq(loop_add(&loop, &b.source, fd_b, EPOLLIN, remove_the_other, NULL), 0);
	fd_last = ready_eventfd();
	cr_assert_eq(loop_add(&loop, &last.source, fd_last, EPOLLIN, count_and_stop, NULL), 0);
	cr_assert_eq(loop_run(&loop), 42);
	cr_assert_eq(a.calls + b.calls, 1);
	loop_destroy(&loop);
	close(fd_a);
	close(fd_b);
	close(fd_last);
}

Test(loop, regular_files_cannot_be_waited_for)
{
	struct item item = { 0 };
	struct error err = { 0 };
	struct loop loop;
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(loop_add(&loop, &item.source, fd, EPOLLIN, count_and_stop, &err), -EPERM);
	loop_remove(&loop, &item.source);
	loop_destroy(&loop);
	close(fd);
}

Test(loop, modify_changes_what_is_waited_for)
{
	struct item quiet = { 0 }, loud = { 0 };
	struct loop loop;
	int fd_quiet = ready_eventfd(), fd_loud = ready_eventfd();

	cr_assert_eq(loop_init(&loop, NULL), 0);
	quiet.loop = loud.loop = &loop;
	cr_assert_eq(loop_add(&loop, &quiet.source, fd_quiet, EPOLLIN, count_and_stop, NULL), 0);
	cr_assert_eq(loop_modify(&loop, &quiet.source, 0), 0);
	cr_assert_eq(loop_add(&loop, &loud.source, fd_loud, EPOLLIN, count_and_stop, NULL), 0);
	cr_assert_eq(loop_run(&loop), 42);
	cr_assert_eq(quiet.calls, 0);
	cr_assert_eq(loop_modify(&loop, &quiet.source, EPOLLIN), 0);
	loop_remove(&loop, &loud.source);
	cr_assert_eq(loop_run(&loop), 42);
	cr_assert_eq(quiet.calls, 1);
	loop_destroy(&loop);
	close(fd_quiet);
	close(fd_loud);
}
