#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

/* Of a process in which epoll_pwait2(2) is what it is before Linux 5.11. */
static int run_on_an_old_kernel(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { .len = ARRAY_SIZE(code), .filter = code };
	struct error err = { 0 };
	struct loop loop;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return 1;
	if (loop_init(&loop, &err) != -ENOSYS || !strstr(err.message, "Linux 5.11"))
		return 2;
	return loop.epoll_fd < 0 && loop.urgent_fd < 0 ? 0 : 3;
}

Test(loop, kernel_that_is_too_old_is_told_at_the_start)
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0)
		_exit(run_on_an_old_kernel());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	cr_assert_eq(WEXITSTATUS(status), 0);
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

static uint64_t fake_now_ns;

static uint64_t fake_clock(void)
{
	return fake_now_ns;
}

struct alarm {
	struct loop_timer timer;
	struct loop *loop;
	struct loop_timer *other;
	uint64_t again_at_ns;
	unsigned int calls, order;
};

static unsigned int alarms_rung;

static void ring(struct loop_timer *timer)
{
	struct alarm *alarm = container_of(timer, struct alarm, timer);

	alarm->calls++;
	alarm->order = ++alarms_rung;
	if (alarm->other)
		loop_timer_cancel(alarm->loop, alarm->other);
	if (alarm->again_at_ns)
		loop_timer_set(alarm->loop, timer, alarm->again_at_ns);
}

static void init_alarms(struct loop *loop, struct alarm *alarms, size_t count)
{
	cr_assert_eq(loop_init(loop, NULL), 0);
	loop->clock_ns = fake_clock;
	fake_now_ns = 1000;
	for (size_t i = 0; i < count; i++)
		alarms[i] = (struct alarm) { .timer.handler = ring, .loop = loop };
}

Test(loop, timers_ring_in_order_when_their_time_has_come)
{
	struct alarm alarms[4];
	struct loop loop;

	init_alarms(&loop, alarms, 4);
	loop_timer_set(&loop, &alarms[0].timer, 3000);
	loop_timer_set(&loop, &alarms[1].timer, 1500);
	loop_timer_set(&loop, &alarms[2].timer, 9000);
	loop_timer_set(&loop, &alarms[3].timer, 2000);
	loop_timer_set(&loop, &alarms[2].timer, 1200);
	loop_run_timers(&loop);
	cr_assert_eq(alarms_rung, 0);
	fake_now_ns = 2000;
	loop_run_timers(&loop);
	cr_assert_eq(alarms[2].order, 1);
	cr_assert_eq(alarms[1].order, 2);
	cr_assert_eq(alarms[3].order, 3, "due at this very moment");
	cr_assert_eq(alarms[0].calls, 0);
	loop_timer_cancel(&loop, &alarms[0].timer);
	loop_timer_cancel(&loop, &alarms[0].timer);
	fake_now_ns = 5000;
	loop_run_timers(&loop);
	cr_assert_eq(alarms_rung, 3);
	loop_destroy(&loop);
}

Test(loop, timer_that_sets_itself_for_the_past_waits_for_the_next_turn)
{
	struct alarm alarms[2];
	struct loop loop;

	init_alarms(&loop, alarms, 2);
	alarms[0].again_at_ns = 1;
	loop_timer_set(&loop, &alarms[0].timer, 500);
	loop_timer_set(&loop, &alarms[1].timer, 600);
	loop_run_timers(&loop);
	cr_assert_eq(alarms[0].calls + alarms[1].calls, 2);
	loop_run_timers(&loop);
	cr_assert_geq(alarms[0].calls, 2);
	loop_destroy(&loop);
}

Test(loop, timer_may_cancel_another_that_is_due)
{
	struct alarm alarms[3];
	struct loop loop;

	init_alarms(&loop, alarms, 3);
	alarms[0].other = &alarms[1].timer;
	for (int i = 0; i < 3; i++)
		loop_timer_set(&loop, &alarms[i].timer, 100);
	loop_run_timers(&loop);
	cr_assert_eq(alarms[0].calls, 1);
	cr_assert_eq(alarms[1].calls, 0);
	cr_assert_eq(alarms[2].calls, 1);
	cr_assert_null(loop.timers);
	loop_destroy(&loop);
}

static void stop_at_timer(struct loop_timer *timer)
{
	loop_stop(container_of(timer, struct alarm, timer)->loop, 7);
}

Test(loop, run_waits_for_timers_as_well_as_for_descriptors)
{
	struct alarm alarm = { .timer.handler = stop_at_timer };
	struct loop loop;
	uint64_t start_ns;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	alarm.loop = &loop;
	start_ns = loop_now_ns(&loop);
	loop_timer_set(&loop, &alarm.timer, start_ns + 20000000);
	cr_assert_eq(loop_run(&loop), 7);
	cr_assert_geq(loop_now_ns(&loop) - start_ns, 20000000);
	loop_destroy(&loop);
}

/* Handlers that take their time, on the fake clock, and what they make happen meanwhile. */
struct work {
	struct loop_source source;
	struct loop *loop;
	uint64_t takes_ns;
	int wakes_fd; /* -1: nothing */
	unsigned int order;
};

static unsigned int works_done;

static void work(struct loop_source *source, uint32_t events)
{
	struct work *item = container_of(source, struct work, source);
	int fd = source->fd;
	eventfd_t count;

	(void)events;
	eventfd_read(fd, &count);
	works_done++;
	if (!item->order)
		item->order = works_done;
	fake_now_ns += item->takes_ns;
	if (item->wakes_fd >= 0)
		eventfd_write(item->wakes_fd, 1);
	if (works_done == 4)
		loop_stop(item->loop, 0);
}

/* Three devices that are ready, the first of which makes the urgent source ready: when that is
 * served. */
static unsigned int place_of_urgent_beside(uint64_t takes_ns)
{
	struct work urgent = { .wakes_fd = -1 }, devices[3];
	int urgent_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), fds[3];
	struct loop loop;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	loop.clock_ns = fake_clock;
	works_done = 0;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++) {
		fds[i] = ready_eventfd();
		devices[i] = (struct work) { .loop = &loop,
					     .takes_ns = takes_ns,
					     .wakes_fd = urgent_fd };
		cr_assert_eq(loop_add(&loop, &devices[i].source, fds[i], EPOLLIN, work, NULL), 0);
	}
	urgent.loop = &loop;
	cr_assert_eq(loop_add_urgent(&loop, &urgent.source, urgent_fd, EPOLLIN, work, NULL), 0);
	cr_assert_eq(loop_run(&loop), 0);
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		close(fds[i]);
	close(urgent_fd);
	loop_destroy(&loop);
	return urgent.order;
}

Test(loop, urgent_source_is_served_between_handlers_that_take_long)
{
	cr_assert_eq(place_of_urgent_beside(LOOP_URGENT_NS), 2);
	cr_assert_eq(place_of_urgent_beside(LOOP_URGENT_NS / 2), 3);
	cr_assert_eq(place_of_urgent_beside(0), 4, "a look after each handler would cost a call");
}

Test(loop, urgent_source_is_served_first)
{
	struct work urgent = { .wakes_fd = -1 }, device = { .wakes_fd = -1 };
	int urgent_fd = ready_eventfd(), device_fd = ready_eventfd();
	struct loop loop;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	works_done = 2;
	device.loop = urgent.loop = &loop;
	cr_assert_eq(loop_add(&loop, &device.source, device_fd, EPOLLIN, work, NULL), 0);
	cr_assert_eq(loop_add_urgent(&loop, &urgent.source, urgent_fd, EPOLLIN, work, NULL), 0);
	cr_assert_eq(loop_run(&loop), 0);
	cr_assert_eq(urgent.order, 3);
	cr_assert_eq(device.order, 4);
	loop_remove(&loop, &urgent.source);
	loop_remove(&loop, &device.source);
	close(urgent_fd);
	close(device_fd);
	loop_destroy(&loop);
}

Test(loop, urgent_source_removed_by_another_of_the_same_batch_is_not_called)
{
	struct item a = { 0 }, b = { 0 }, last = { 0 };
	int fd_a = ready_eventfd(), fd_b = ready_eventfd(), fd_last = ready_eventfd();
	struct loop loop;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	a.loop = b.loop = last.loop = &loop;
	a.other = &b;
	b.other = &a;
	cr_assert_eq(loop_add_urgent(&loop, &a.source, fd_a, EPOLLIN, remove_the_other, NULL), 0);
	cr_assert_eq(loop_add_urgent(&loop, &b.source, fd_b, EPOLLIN, remove_the_other, NULL), 0);
	cr_assert_eq(loop_add(&loop, &last.source, fd_last, EPOLLIN, count_and_stop, NULL), 0);
	cr_assert_eq(loop_run(&loop), 42);
	cr_assert_eq(a.calls + b.calls, 1);
	close(fd_a);
	close(fd_b);
	close(fd_last);
	loop_destroy(&loop);
}
