/* Each way to die, in a child with its terminal in raw mode and a socket file to leave behind. */
#include <criterion/criterion.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "console_helper.h"
#include "mayfly/signals.h"
#include "mayfly/vmm.h"
#include "pty_helper.h"

static char directory[] = "/tmp/mayfly-signals-XXXXXX";
static char socket_path[64], log_path[64];
static struct rig rig; /* of the child */

static void setup(void)
{
	int fd;

	cr_assert_not_null(mkdtemp(directory));
	snprintf(socket_path, sizeof(socket_path), "%s/api.socket", directory);
	snprintf(log_path, sizeof(log_path), "%s/log", directory);
	fd = open(socket_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	close(fd);
}

static void teardown(void)
{
	unlink(socket_path);
	unlink(log_path);
	rmdir(directory);
}

TestSuite(signals, .init = setup, .fini = teardown);

static void be_monitor(void (*die)(void))
{
	struct rlimit no_core = { 0, 0 };

	setrlimit(RLIMIT_CORE, &no_core);
	/* Whoever started the tests may ignore it (nohup), and then the monitor does. */
	signal(SIGHUP, SIG_DFL);
	pty_child_check(rig_init(&rig));
	pty_child_check(log_open(&rig.log, log_path, NULL) == 0);
	pty_child_check(signals_install(&rig.log, NULL) == 0);
	signals_set_socket_path(socket_path);
	rig.options.input_fd = STDIN_FILENO;
	rig.options.output_fd = STDOUT_FILENO;
	pty_child_check(rig_open(&rig, NULL) == 0);
	pty_child_check(pty_is_raw(STDIN_FILENO));
	die();
}

static void run_monitor(void *die)
{
	be_monitor(*(void (**)(void))die);
}

/* Returns the wait status, after checking what every death must leave behind. */
static int status_of_death(void (*die)(void), const char *name)
{
	char log[512] = "";
	struct pty pty;
	int status, fd;

	cr_assert(pty_start(&pty, run_monitor, &die));
	status = pty_wait(&pty);
	cr_assert(pty_is_as_found(&pty), "%s leaves the terminal raw", name);
	cr_assert_eq(access(socket_path, F_OK), -1, "%s leaves the socket", name);
	fd = open(log_path, O_RDONLY | O_CLOEXEC);
	cr_assert_gt(read(fd, log, sizeof(log) - 1), 0, "%s is not in the log", name);
	close(fd);
	cr_assert(strstr(log, name), "the log does not name %s: %s", name, log);
	cr_assert_eq(log[strlen(log) - 1], '\n');
	cr_assert_eq(strchr(log, '\n'), log + strlen(log) - 1, "more than one line: %s", log);
	pty_close(&pty);
	return status;
}

static void assert_exit_code(void (*die)(void), const char *name, int code)
{
	int status = status_of_death(die, name);

	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s: wait status %x", name,
		  (unsigned int)status);
}

static void assert_killed_by(void (*die)(void), const char *name, int number)
{
	int status = status_of_death(die, name);

	cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == number, "%s: wait status %x", name,
		  (unsigned int)status);
}

/* The sanitizer would report it in place of the processor. */
__attribute__((no_sanitize("undefined"))) static void segfault(void)
{
	*(volatile int *)(uintptr_t)rig.escapes = 1;
}

Test(signals, bad_memory_access_exits_150)
{
	assert_exit_code(segfault, "SIGSEGV", 150);
}

static unsigned int __attribute__((noinline, no_sanitize("address"))) overflow(unsigned int depth)
{
	volatile uint8_t frame[4096];

	frame[depth % sizeof(frame)] = (uint8_t)depth;
	return depth == UINT32_MAX ? 0 : overflow(depth + 1) + frame[(depth + 1) % sizeof(frame)];
}

static void overflow_stack(void)
{
	overflow((unsigned int)rig.escapes);
}

Test(signals, stack_overflow_is_reported_from_the_alternate_stack)
{
	assert_exit_code(overflow_stack, "SIGSEGV", 150);
}

static void *overflow_in_thread(void *unused)
{
	struct signals_stack stack;

	pty_child_check(signals_enter_thread(&stack, NULL) == 0);
	overflow_stack();
	return unused;
}

static void overflow_other_stack(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, overflow_in_thread, NULL);
	pthread_join(thread, NULL);
}

Test(signals, stack_overflow_of_another_thread_too)
{
	assert_exit_code(overflow_other_stack, "SIGSEGV", 150);
}

static void *enter(void *argument)
{
	struct signals_stack *kept = argument;
	stack_t stack;

	cr_assert_eq(signals_enter_thread(kept, NULL), 0);
	cr_assert_eq(sigaltstack(NULL, &stack), 0);
	cr_assert_not(stack.ss_flags & SS_DISABLE);
	cr_assert_eq(stack.ss_sp, kept->base);
	cr_assert_eq(stack.ss_size, kept->bytes);
	return NULL;
}

/* Whether the page is mapped: mincore(2). */
static bool is_mapped(void *page)
{
	unsigned char resident;

	return mincore(page, 1, &resident) == 0;
}

Test(signals, thread_leaves_no_stack_behind)
{
	struct signals_stack stack = { 0 };
	pthread_t thread;
	void *base;

	signals_free_stack(&stack);
	cr_assert_eq(pthread_create(&thread, NULL, enter, &stack), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	base = stack.base;
	cr_assert(is_mapped(base));
	signals_free_stack(&stack);
	cr_assert_not(is_mapped(base));
	cr_assert_null(stack.base);
	signals_free_stack(&stack);
}

static void touch_cut_file(void)
{
	char path[] = "/tmp/mayfly-cut-XXXXXX";
	int fd = mkstemp(path);
	volatile char *page;

	unlink(path);
	pty_child_check(ftruncate(fd, 4096) == 0);
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	pty_child_check(ftruncate(fd, 0) == 0);
	_exit(page[0] ? 0 : 1);
}

Test(signals, file_cut_under_its_mapping_exits_149)
{
	assert_exit_code(touch_cut_file, "SIGBUS", 149);
}

static void make_forbidden_call(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = ARRAY_SIZE(filter), .filter = filter };

	pty_child_check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	pty_child_check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
	getppid();
}

Test(signals, forbidden_system_call_exits_148_and_its_number_is_logged)
{
	char log[512] = "", number[48];
	int fd;

	assert_exit_code(make_forbidden_call, "SIGSYS", 148);
	snprintf(number, sizeof(number), "number %d (getppid), thread ", SYS_getppid);
	fd = open(log_path, O_RDONLY | O_CLOEXEC);
	cr_assert_gt(read(fd, log, sizeof(log) - 1), 0);
	close(fd);
	cr_assert(strstr(log, number), "%s", log);
}

static void outgrow_limit(void)
{
	struct rlimit limit = { 8192, 8192 };
	int fd = open(log_path, O_WRONLY | O_CLOEXEC);

	pty_child_check(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	pwrite(fd, "x", 1, 8192) < 0 ? (void)0 : _exit(0);
}

Test(signals, file_size_limit_exits_151)
{
	assert_exit_code(outgrow_limit, "SIGXFSZ", 151);
}

static void exceed_cpu_time(void)
{
	raise(SIGXCPU);
}

Test(signals, cpu_time_limit_exits_154)
{
	assert_exit_code(exceed_cpu_time, "SIGXCPU", 154);
}

static void hang_up(void)
{
	kill(getpid(), SIGHUP);
}

Test(signals, hang_up_exits_156)
{
	assert_exit_code(hang_up, "SIGHUP", 156);
}

static void run_bad_instruction(void)
{
	__asm__ volatile("ud2");
}

Test(signals, bad_instruction_exits_157)
{
	assert_exit_code(run_bad_instruction, "SIGILL", 157);
}

Test(signals, abort_dies_of_its_signal_after_cleaning_up)
{
	assert_killed_by(abort, "SIGABRT", SIGABRT);
}

static void divide_by_zero(void)
{
	volatile int zero = rig.escapes;

	/* The compiler may not know, and UBSan may not tell. */
	__asm__ volatile("idivl %0" : : "r"(zero), "a"(1), "d"(0) : "cc");
}

Test(signals, arithmetic_fault_dies_of_its_signal_after_cleaning_up)
{
	assert_killed_by(divide_by_zero, "SIGFPE", SIGFPE);
}

static void *end_process(void *unused)
{
	(void)unused;
	rig.log.level = LOG_ERROR;
	log_error(&rig.log, "nothing is left");
	signals_end_process(VMM_EXIT_ERROR);
}

/* The main thread stands for one that waits for what never comes. */
static void end_from_another_thread(void)
{
	pthread_t thread;

	pty_child_check(pthread_create(&thread, NULL, end_process, NULL) == 0);
	for (;;)
		pause();
}

Test(signals, an_end_at_once_by_another_thread_leaves_nothing_behind_either)
{
	assert_exit_code(end_from_another_thread, "nothing is left", VMM_EXIT_ERROR);
}

static void be_killed_in_the_background(void *unused)
{
	pid_t monitor;
	int status = -1;

	(void)unused;
	monitor = fork();
	if (monitor == 0) {
		/* A job of its own, in the foreground, as a shell would have it. */
		signal(SIGTTOU, SIG_IGN);
		pty_child_check(setpgid(0, 0) == 0);
		pty_child_check(tcsetpgrp(STDIN_FILENO, getpid()) == 0);
		signal(SIGTTOU, SIG_DFL);
		pty_child_check(rig_init(&rig));
		pty_child_check(signals_install(NULL, NULL) == 0);
		rig.options.input_fd = STDIN_FILENO;
		pty_child_check(rig_open(&rig, NULL) == 0);
		/* The foreground goes back to the shell, which sets the modes it likes. */
		pty_child_check(tcsetpgrp(STDIN_FILENO, getppid()) == 0);
		close(STDERR_FILENO);
		raise(SIGSEGV);
	}
	pty_child_check(waitpid(monitor, &status, 0) == monitor);
	pty_child_check(WIFEXITED(status) && WEXITSTATUS(status) == 150);
	/* Not the monitor's to change any more: had it tried, it would be stopped now, not dead. */
	pty_child_check(pty_is_raw(STDIN_FILENO));
}

Test(signals, crash_in_the_background_leaves_the_terminal_to_its_owner)
{
	struct pty pty;
	int status;

	cr_assert(pty_start(&pty, be_killed_in_the_background, NULL));
	status = pty_wait(&pty);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %x",
		  (unsigned int)status);
	pty_close(&pty);
}

static int status_of_child(void (*child)(void))
{
	pid_t pid = fork();
	int status = -1;

	if (pid == 0) {
		child();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return status;
}

static void keep_socket(void)
{
	char long_path[200];

	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	pty_child_check(signals_install(NULL, NULL) == 0);
	signals_set_socket_path(socket_path);
	signals_set_socket_path(NULL);
	signals_set_socket_path("");
	signals_set_socket_path(long_path);
	close(STDERR_FILENO);
	raise(SIGSEGV);
}

Test(signals, socket_that_is_no_longer_ours_is_left_alone)
{
	int status = status_of_child(keep_socket);

	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 150);
	cr_assert_eq(access(socket_path, F_OK), 0);
}

static void write_to_nobody(void)
{
	int ends[2];

	pty_child_check(signals_install(NULL, NULL) == 0);
	pty_child_check(pipe(ends) == 0);
	close(ends[0]);
	pty_child_check(write(ends[1], "x", 1) < 0 && errno == EPIPE);
}

Test(signals, broken_pipe_is_an_error_and_no_death)
{
	cr_assert_eq(status_of_child(write_to_nobody), 0);
}

static void be_nohup(void)
{
	signal(SIGHUP, SIG_IGN);
	pty_child_check(signals_install(NULL, NULL) == 0);
	raise(SIGHUP);
}

Test(signals, ignored_hang_up_stays_ignored)
{
	cr_assert_eq(status_of_child(be_nohup), 0);
}

static int end_signal;

static void note_end(int number, void *context)
{
	end_signal = number;
	loop_stop(context, 0);
}

static void check_end_signal(int number)
{
	struct signals signals;
	struct loop loop;

	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(signals_add_to_loop(&signals, &loop, note_end, &loop, NULL), 0);
	kill(getpid(), number);
	cr_assert_eq(loop_run(&loop), 0);
	cr_assert_eq(end_signal, number);
	signals_remove_from_loop(&signals, &loop);
	signals_remove_from_loop(&signals, &loop);
	loop_destroy(&loop);
}

Test(signals, terminate_comes_to_the_loop)
{
	check_end_signal(SIGTERM);
}

Test(signals, interrupt_comes_to_the_loop)
{
	signal(SIGINT, SIG_DFL);
	check_end_signal(SIGINT);
}

Test(signals, quit_comes_to_the_loop)
{
	signal(SIGQUIT, SIG_DFL);
	check_end_signal(SIGQUIT);
}

Test(signals, ignored_interrupt_stays_ignored)
{
	struct epoll_event event;
	struct signals signals;
	struct loop loop;

	signal(SIGINT, SIG_IGN);
	signal(SIGQUIT, SIG_IGN);
	cr_assert_eq(loop_init(&loop, NULL), 0);
	cr_assert_eq(signals_add_to_loop(&signals, &loop, note_end, &loop, NULL), 0);
	kill(getpid(), SIGINT);
	kill(getpid(), SIGQUIT);
	cr_assert_eq(epoll_wait(loop.epoll_fd, &event, 1, 0), 0);
	signals_remove_from_loop(&signals, &loop);
	loop_destroy(&loop);
}
