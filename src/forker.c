/*
 * The forker: see include/mayfly/forker.h.
 *
 * Orders come on a socket of whole packets, the words as the packet's content and the descriptors
 * beside it. The new monitor answers its forker on a pipe, whose end without an answer says that it
 * has died; the forker passes the answer on. Children are reaped by the kernel.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "mayfly/forker.h"

#define FORKER_ENDED "the process that makes monitors has ended"

/* For a monitor that hangs, to leave nothing behind. */
#define ABORT_WAIT_MS 1000

union control {
	struct cmsghdr head; /* for its alignment */
	char bytes[CMSG_SPACE(FORKER_MAX_DESCRIPTORS * sizeof(int))];
};

static void close_all(int descriptors[FORKER_MAX_DESCRIPTORS])
{
	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++)
		close_fd(&descriptors[i]);
}

void forker_order_clear(struct forker_order *order)
{
	if (!order->given)
		return;
	close_all(order->descriptors);
	close_fd(&order->answer_fd);
	free(order->words);
	*order = (struct forker_order) { 0 };
}

void forker_close(struct forker *forker)
{
	close_fd(&forker->fd);
}

int forker_check(const struct forker *forker, struct error *err)
{
	return forker->fd < 0 ? error_set(err, EPIPE, FORKER_ENDED) : 0;
}

int forker_send(struct forker *forker, const char *words,
		const int descriptors[FORKER_MAX_DESCRIPTORS], struct error *err)
{
	struct iovec content = { (void *)(uintptr_t)words, strlen(words) };
	union control control = { .bytes = { 0 } };
	struct msghdr message = {
		.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t sent;

	if (content.iov_len >= FORKER_MAX_WORDS_BYTES)
		return error_set(err, E2BIG, "the request has more than %llu KiB",
				 (unsigned long long)(FORKER_MAX_WORDS_BYTES / KIB));
	control.head = (struct cmsghdr) {
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = SCM_RIGHTS,
		.cmsg_len = CMSG_LEN(FORKER_MAX_DESCRIPTORS * sizeof(int)),
	};
	memcpy(CMSG_DATA(&control.head), descriptors, FORKER_MAX_DESCRIPTORS * sizeof(int));
	do {
		sent = sendmsg(forker->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno == EPIPE) {
		forker_close(forker);
		return error_set(err, EPIPE, FORKER_ENDED);
	}
	if (sent < 0)
		return error_errno(err, "the process that makes monitors cannot be reached");
	return 0;
}

int forker_take_answer(struct forker *forker, pid_t *process_id, struct error *err)
{
	struct forker_answer answer;
	ssize_t got;

	do {
		got = read(forker->fd, &answer, sizeof(answer));
	} while (got < 0 && errno == EINTR);
	if (got != (ssize_t)sizeof(answer)) {
		forker_close(forker);
		return error_set(err, EPIPE, FORKER_ENDED);
	}
	answer.message[sizeof(answer.message) - 1] = '\0';
	*process_id = answer.process_id;
	/* A positive errno, whoever has written it. */
	if (answer.code)
		return error_set(err, answer.code > 0 ? answer.code : EIO, "%s", answer.message);
	return 0;
}

void forker_report(struct forker_order *order, const struct error *err)
{
	struct forker_answer answer = { .code = err->code };

	if (!order->given || order->answer_fd < 0)
		return;
	memcpy(answer.message, err->message, sizeof(answer.message));
	/* A forker that is gone has nobody to tell. */
	(void)!write(order->answer_fd, &answer, sizeof(answer));
	close_fd(&order->answer_fd);
}

/* The next order: 1, 0 when the monitor has ended, or a negative errno. */
static int receive(int socket_fd, char *words, int descriptors[FORKER_MAX_DESCRIPTORS])
{
	struct iovec content = { words, FORKER_MAX_WORDS_BYTES - 1 };
	union control control;
	struct msghdr message = {
		.msg_iov = &content,
		.msg_iovlen = 1,
		.msg_control = &control,
		/* Not CMSG_SPACE, whose padding has room for one more that nobody would close. */
		.msg_controllen = CMSG_LEN(FORKER_MAX_DESCRIPTORS * sizeof(int)),
	};
	struct cmsghdr *head;
	size_t bytes = 0;
	ssize_t got;

	do {
		got = recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC);
	} while (got < 0 && errno == EINTR);
	if (got <= 0)
		return 0;
	words[got] = '\0';
	for (unsigned int i = 0; i < FORKER_MAX_DESCRIPTORS; i++)
		descriptors[i] = -1;
	head = CMSG_FIRSTHDR(&message);
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		bytes = head->cmsg_len - CMSG_LEN(0);
	if (bytes > sizeof(int) * FORKER_MAX_DESCRIPTORS)
		bytes = sizeof(int) * FORKER_MAX_DESCRIPTORS;
	if (bytes)
		memcpy(descriptors, CMSG_DATA(head), bytes);
	if (bytes == sizeof(int) * FORKER_MAX_DESCRIPTORS &&
	    !(message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return 1;
	close_all(descriptors);
	/* The kernel leaves out what finds no free number. */
	return message.msg_flags & MSG_CTRUNC ? -EMFILE : -EINVAL;
}

static void refuse(struct forker_answer *answer, int code, const char *text)
{
	answer->code = code;
	snprintf(answer->message, sizeof(answer->message), "%s", text);
}

/* One that was stopped has to go on to hear of it. */
static void end_monitor(int process_fd)
{
	struct pollfd poll_fd = { .fd = process_fd, .events = POLLIN };

	if (process_fd < 0)
		return;
	(void)pidfd_send_signal(process_fd, SIGABRT, NULL, 0);
	(void)pidfd_send_signal(process_fd, SIGCONT, NULL, 0);
	if (poll(&poll_fd, 1, ABORT_WAIT_MS) != 1)
		(void)pidfd_send_signal(process_fd, SIGKILL, NULL, 0);
}

/* What the new monitor says, or that it does not. */
static void wait_for(pid_t child, int answer_fd, int wait_ms, struct forker_answer *answer)
{
	/* The kernel reaps at once: a number alone might be another process's when it is killed. */
	cleanup_fd int process_fd = pidfd_open(child, 0);
	struct pollfd poll_fd = { .fd = answer_fd, .events = POLLIN };
	int ready;

	do {
		ready = poll(&poll_fd, 1, wait_ms);
	} while (ready < 0 && errno == EINTR);
	if (ready > 0 && read(answer_fd, answer, sizeof(*answer)) == (ssize_t)sizeof(*answer)) {
		answer->process_id = child;
		return;
	}
	end_monitor(process_fd);
	refuse(answer, ready > 0 ? ECHILD : ETIMEDOUT,
	       ready > 0 ? "the new monitor died while it started; its log may say why"
			 : "the new monitor did not start in time and was ended");
}

static void answer_back(int socket_fd, const struct forker_answer *answer)
{
	(void)!send(socket_fd, answer, sizeof(*answer), MSG_NOSIGNAL);
}

/*
 * Nothing of who started the first monitor: no terminal whose signals would come here, and no pipe
 * whose reader would wait for all forks to end.
 */
static void leave_terminal(void)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (null_fd < 0)
		return;
	dup2(null_fd, STDIN_FILENO);
	dup2(null_fd, STDOUT_FILENO);
	dup2(null_fd, STDERR_FILENO);
	if (null_fd > STDERR_FILENO)
		close(null_fd);
}

/* True in the new monitor. */
static bool serve(int socket_fd, int wait_ms, char *words, struct forker_order *order)
{
	struct forker_answer answer = { 0 };
	int descriptors[FORKER_MAX_DESCRIPTORS];
	int ends[2] = { -1, -1 };
	int result = receive(socket_fd, words, descriptors);
	pid_t child;

	if (result == 0)
		_exit(0);
	if (result < 0) {
		refuse(&answer, -result, "the descriptors of guest memory did not arrive");
		answer_back(socket_fd, &answer);
		return false;
	}
	child = pipe2(ends, O_CLOEXEC) < 0 ? -1 : fork();
	if (child == 0) {
		close(ends[0]);
		*order = (struct forker_order) { .given = true,
						 .words = words,
						 .answer_fd = ends[1] };
		memcpy(order->descriptors, descriptors, sizeof(descriptors));
		return true;
	}
	if (child < 0)
		refuse(&answer, errno, strerror(errno));
	close_fd(&ends[1]);
	close_all(descriptors);
	if (child > 0)
		wait_for(child, ends[0], wait_ms, &answer);
	close_fd(&ends[0]);
	answer_back(socket_fd, &answer);
	return false;
}

/* Returns in new monitors only. */
static void live(int socket_fd, int wait_ms, struct forker_order *order)
{
	char *words = malloc(FORKER_MAX_WORDS_BYTES);

	forker_order_clear(order);
	leave_terminal();
	prctl(PR_SET_NAME, "mayfly-forker");
	/* The kernel reaps; nobody asks how a monitor ended. */
	signal(SIGCHLD, SIG_IGN);
	if (!words)
		_exit(1);
	while (!serve(socket_fd, wait_ms, words, order))
		;
	signal(SIGCHLD, SIG_DFL);
	prctl(PR_SET_NAME, "mayfly");
	setsid();
}

int forker_start(struct forker *forker, struct forker_order *order, int wait_ms, struct error *err)
{
	for (;;) {
		int ends[2];
		pid_t child;

		forker->fd = -1;
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
			return error_errno(err, "--enable-fork: cannot make a socket");
		child = fork();
		if (child < 0) {
			int result = error_errno(err, "--enable-fork: cannot make a process");

			close(ends[0]);
			close(ends[1]);
			return result;
		}
		if (child > 0) {
			close(ends[1]);
			forker->fd = ends[0];
			return 0;
		}
		close(ends[0]);
		live(ends[1], wait_ms, order);
		/* A new monitor, which needs a forker of its own. */
		close(ends[1]);
	}
}
