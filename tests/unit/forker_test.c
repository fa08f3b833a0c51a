/*
 * The forker: src/forker.c. A process of the test's is the first monitor; those that its forker
 * makes do what the words of their order say.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "mayfly/forker.h"
#include "mayfly/signals.h"

static int files[FORKER_MAX_DESCRIPTORS] = { -1, -1, -1 };

/* Their words go on with a path. */
#define HANG "hang "
#define DEAF "deaf "

static void hang(const char *path, bool hears)
{
	struct error err = { 0 };
	sigset_t all;

	cr_assert_eq(lockf(open(path, O_WRONLY | O_CLOEXEC), F_LOCK, 0), 0);
	if (hears) {
		cr_assert_eq(signals_install(NULL, &err), 0);
		signals_set_socket_path(path);
	} else {
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
	}
	for (;;)
		pause();
}

/* What a new monitor does, by its words; it never returns. */
static void be_monitor(struct forker *forker, struct forker_order *order)
{
	struct error err = { 0 };
	char text[8] = { 0 };

	if (strcmp(order->words, "die") == 0)
		_exit(3);
	/* Its API is there, and then it hangs. */
	if (strncmp(order->words, HANG, strlen(HANG)) == 0)
		hang(order->words + strlen(HANG), true);
	if (strncmp(order->words, DEAF, strlen(DEAF)) == 0)
		hang(order->words + strlen(DEAF), false);
	if (strcmp(order->words, "fail") == 0)
		error_set(&err, ENOENT, "there is no such drive");
	/* Its descriptors are those that were sent, and nobody's terminal is its own. */
	if (strcmp(order->words, "read") == 0 &&
	    (pread(order->descriptors[2], text, 3, 0) != 3 || strcmp(text, "two") != 0 ||
	     getsid(0) != getpid()))
		error_set(&err, EIO, "read '%s'", text);
	/* It has a forker of its own. */
	if (strcmp(order->words, "again") == 0) {
		struct pollfd poll_fd = { .fd = forker->fd, .events = POLLIN };
		pid_t pid;

		if (forker_send(forker, "read", order->descriptors, &err) == 0 &&
		    poll(&poll_fd, 1, 60000) == 1)
			(void)forker_take_answer(forker, &pid, &err);
	}
	forker_report(order, &err);
	forker_order_clear(order);
	_exit(0);
}

static void start_with(struct forker *forker, int wait_ms)
{
	struct forker_order order = { 0 };
	struct error err = { 0 };

	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++) {
		static const char *const texts[] = { "nil", "one", "two" };

		files[i] = memfd_create("test", MFD_CLOEXEC);
		cr_assert_eq(write(files[i], texts[i], 3), 3);
	}
	cr_assert_eq(forker_start(forker, &order, wait_ms, &err), 0, "%s", err.message);
	if (order.given)
		be_monitor(forker, &order);
}

static void start(struct forker *forker)
{
	start_with(forker, FORKER_WAIT_MS);
}

static int ask(struct forker *forker, const char *words, pid_t *pid, struct error *err)
{
	struct pollfd poll_fd = { .fd = forker->fd, .events = POLLIN };
	int result = forker_send(forker, words, files, err);

	if (result < 0)
		return result;
	cr_assert_eq(poll(&poll_fd, 1, 60000), 1);
	return forker_take_answer(forker, pid, err);
}

TestSuite(forker, .timeout = 120);

Test(forker, an_order_arrives_whole_and_is_answered)
{
	struct forker forker;
	struct error err = { 0 };
	pid_t pid = 0;

	start(&forker);
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(ask(&forker, "read", &pid, &err), 0, "%s", err.message);
		cr_assert_gt(pid, 1);
	}
	forker_close(&forker);
}

Test(forker, why_there_is_no_monitor_is_told)
{
	struct forker forker;
	struct error err = { 0 };
	pid_t pid;

	start(&forker);
	cr_assert_eq(ask(&forker, "fail", &pid, &err), -ENOENT);
	cr_assert_str_eq(err.message, "there is no such drive");
	cr_assert_eq(ask(&forker, "die", &pid, &err), -ECHILD);
	cr_assert(strstr(err.message, "died"));
	/* It goes on. */
	cr_assert_eq(ask(&forker, "read", &pid, &err), 0, "%s", err.message);
	forker_close(&forker);
}

/* Long enough that the monitor has come to its file, on a slow machine too. */
#define SHORT_WAIT_MS 5000

static void fork_that_hangs(const char *how, const char *path)
{
	struct forker forker;
	struct error err = { 0 };
	char words[64];
	pid_t pid;

	snprintf(words, sizeof(words), "%s%s", how, path);
	start_with(&forker, SHORT_WAIT_MS);
	cr_assert_eq(ask(&forker, words, &pid, &err), -ETIMEDOUT);
	cr_assert(strstr(err.message, "did not start in time"));
	/* It goes on. */
	cr_assert_eq(ask(&forker, "read", &pid, &err), 0, "%s", err.message);
	forker_close(&forker);
}

Test(forker, a_monitor_that_hangs_is_ended_and_takes_its_socket_with_it)
{
	char path[] = "/tmp/forker-test-XXXXXX";

	close(mkstemp(path));
	fork_that_hangs(HANG, path);
	cr_assert_lt(access(path, F_OK), 0);
	cr_assert_eq(errno, ENOENT);
}

Test(forker, one_that_does_not_hear_is_killed)
{
	char path[] = "/tmp/forker-test-XXXXXX";
	int fd = mkstemp(path);

	/* The lock is the process's, and goes with its end. */
	fork_that_hangs(DEAF, path);
	cr_assert_eq(lockf(fd, F_LOCK, 0), 0);
	close(fd);
	unlink(path);
}

Test(forker, a_new_monitor_has_a_forker_of_its_own)
{
	struct forker forker;
	struct error err = { 0 };
	pid_t pid;

	start(&forker);
	cr_assert_eq(ask(&forker, "again", &pid, &err), 0, "%s", err.message);
	forker_close(&forker);
}

Test(forker, it_ends_with_its_monitor)
{
	struct forker forker;
	int status;

	start(&forker);
	forker_close(&forker);
	cr_assert_gt(wait(&status), 0);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(forker, one_that_is_gone_is_an_error)
{
	struct forker forker;
	struct error err = { 0 };
	pid_t pid;
	FILE *children;

	start(&forker);
	children = fopen("/proc/thread-self/children", "re");
	cr_assert(children && fscanf(children, "%d", &pid) == 1);
	fclose(children);
	kill(pid, SIGKILL);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_assert_eq(ask(&forker, "read", &pid, &err), -EPIPE);
	cr_assert_eq(forker_check(&forker, &err), -EPIPE);
	cr_assert(strstr(err.message, "has ended"));
}

Test(forker, words_that_are_too_many_are_refused)
{
	struct forker forker;
	struct error err = { 0 };
	char *words = calloc(1, FORKER_MAX_WORDS_BYTES + 1);
	pid_t pid;

	start(&forker);
	memset(words, 'x', FORKER_MAX_WORDS_BYTES);
	cr_assert_eq(ask(&forker, words, &pid, &err), -E2BIG);
	words[FORKER_MAX_WORDS_BYTES - 1] = '\0';
	cr_assert_eq(ask(&forker, words, &pid, &err), 0, "%s", err.message);
	free(words);
	forker_close(&forker);
}

/* What a monitor that was taken over could send: this many descriptors, and words of this length.
 */
static void send_raw(const struct forker *forker, unsigned int count, size_t words)
{
	static char text[2 * FORKER_MAX_WORDS_BYTES];
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(8 * sizeof(int))];
	} control = { .bytes = { 0 } };
	struct iovec content = { text, words };
	struct msghdr message = { .msg_iov = &content, .msg_iovlen = 1 };

	if (count) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.head = (struct cmsghdr) { .cmsg_level = SOL_SOCKET,
						  .cmsg_type = SCM_RIGHTS,
						  .cmsg_len = CMSG_LEN(count * sizeof(int)) };
		for (unsigned int i = 0; i < count; i++)
			memcpy(CMSG_DATA(&control.head) + i * sizeof(int), &files[0], sizeof(int));
	}
	cr_assert_eq(sendmsg(forker->fd, &message, MSG_NOSIGNAL), (ssize_t)words);
}

Test(forker, orders_with_too_few_or_too_much_are_refused_and_it_goes_on)
{
	static const struct {
		unsigned int descriptors;
		size_t words;
	} wrong[] = { { 0, 1 }, { 1, 1 }, { 2, 4 },
		      { 4, 4 }, { 8, 4 }, { 3, FORKER_MAX_WORDS_BYTES } };
	struct forker forker;
	struct error err = { 0 };
	pid_t pid;

	start(&forker);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct pollfd poll_fd = { .fd = forker.fd, .events = POLLIN };

		send_raw(&forker, wrong[i].descriptors, wrong[i].words);
		cr_assert_eq(poll(&poll_fd, 1, 60000), 1);
		cr_assert_lt(forker_take_answer(&forker, &pid, &err), 0, "%zu", i);
		cr_assert(strstr(err.message, "did not arrive"), "%zu: %s", i, err.message);
	}
	cr_assert_eq(ask(&forker, "read", &pid, &err), 0, "%s", err.message);
	forker_close(&forker);
}
