/*
 * The API server over real Unix sockets: api/server.c and api/socket.c. The server runs its loop on
 * a thread of its own, against a double of vmm; the test is the client. Nothing here waits for a
 * time to pass: reads block until the server has answered, and a server that hangs ends the test by
 * criterion's time-out.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "mayfly/api.h"
#include "vmm_mock.h"

#define GET_VERSION   "GET /version HTTP/1.1\r\n\r\n"
#define PAYLOAD_LIMIT 1000

static char directory[] = "/tmp/mayfly-api-XXXXXX";
static char path[64];
static struct vmm vmm;
static struct loop loop;
static struct api_server *server;
static struct loop_source stop;
static int stop_fd = -1;
static pthread_t thread;

static void on_stop(struct loop_source *source, uint32_t events)
{
	loop_stop(&loop, 0);
}

static void *run_loop(void *unused)
{
	loop_run(&loop);
	return NULL;
}

static int create_at(const char *at, struct error *err)
{
	struct api_server_options options = { .socket_path = at,
					      .max_payload_bytes = PAYLOAD_LIMIT };

	return api_server_create(&server, &loop, &vmm, &options, err);
}

static void set_up(void)
{
	struct error err;

	signal(SIGPIPE, SIG_IGN);
	cr_assert(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/api.socket", directory);
	vmm_mock_init(&vmm);
	cr_assert_eq(loop_init(&loop, &err), 0);
}

static void tear_down(void)
{
	api_server_destroy(server);
	loop_destroy(&loop);
	vmm_mock_clear(&vmm);
	unlink(path);
	rmdir(directory);
}

static void start(void)
{
	struct error err = { 0 };

	set_up();
	cr_assert_eq(create_at(path, &err), 0, "%s", err.message);
	stop_fd = eventfd(0, EFD_CLOEXEC);
	cr_assert_eq(loop_add(&loop, &stop, stop_fd, EPOLLIN, on_stop, &err), 0);
	cr_assert_eq(pthread_create(&thread, NULL, run_loop, NULL), 0);
}

static void finish(void)
{
	uint64_t one = 1;

	cr_assert_eq(write(stop_fd, &one, sizeof(one)), (ssize_t)sizeof(one));
	pthread_join(thread, NULL);
	close(stop_fd);
	tear_down();
}

/* Suites: one with a server that runs, one where the test makes it. */
TestSuite(api_server, .init = start, .fini = finish, .timeout = 120);
TestSuite(api_socket, .init = set_up, .fini = tear_down, .timeout = 120);

static int client(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void send_bytes(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t count = send(fd, bytes, length, MSG_NOSIGNAL);

		cr_assert(count > 0, "send: %s", strerror(errno));
		bytes += count;
		length -= (size_t)count;
	}
}

static void send_text(int fd, const char *text)
{
	send_bytes(fd, text, strlen(text));
}

struct answer {
	unsigned int status;
	char head[1024];
	char body[2048];
};

/* Reads one byte at a time, so that what follows the answer stays in the socket. */
static struct answer read_answer(int fd)
{
	struct answer answer = { 0 };
	size_t used = 0, length = 0;
	const char *field;

	while (!strstr(answer.head, "\r\n\r\n")) {
		cr_assert(used < sizeof(answer.head) - 1);
		cr_assert_eq(recv(fd, answer.head + used, 1, 0), 1, "the answer ends after: %s",
			     answer.head);
		used++;
	}
	cr_assert_eq(sscanf(answer.head, "HTTP/1.%*u %u", &answer.status), 1, "%s", answer.head);
	field = strstr(answer.head, "Content-Length: ");
	if (field)
		length = strtoul(field + strlen("Content-Length: "), NULL, 10);
	cr_assert(length < sizeof(answer.body));
	if (length > 0)
		cr_assert_eq(recv(fd, answer.body, length, MSG_WAITALL), (ssize_t)length);
	return answer;
}

static void assert_end(int fd)
{
	char byte;

	cr_assert_eq(recv(fd, &byte, 1, 0), 0, "no end of file");
}

/* A loop in which something always waits is stopped in its first turn; by then the answer is there.
 */
Test(api_socket, request_that_came_with_its_connection_is_answered_in_the_same_turn)
{
	struct error err = { 0 };
	int fd;

	cr_assert_eq(create_at(path, &err), 0, "%s", err.message);
	stop_fd = eventfd(1, EFD_CLOEXEC);
	cr_assert_eq(loop_add(&loop, &stop, stop_fd, EPOLLIN, on_stop, &err), 0);
	fd = client();
	send_text(fd, GET_VERSION);
	loop_run(&loop);
	cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	cr_assert_eq(read_answer(fd).status, 200);
	close(fd);
	close(stop_fd);
}

static void assert_serves(void)
{
	int fd = client();

	send_text(fd, GET_VERSION);
	cr_assert_eq(read_answer(fd).status, 200u);
	close(fd);
}

Test(api_server, connection_is_kept_for_the_next_request)
{
	int fd = client();

	for (int i = 0; i < 3; i++) {
		struct answer answer;

		send_text(fd, GET_VERSION);
		answer = read_answer(fd);
		cr_assert_eq(answer.status, 200u);
		cr_assert(strstr(answer.head, "Connection: keep-alive\r\n"));
		cr_assert(strstr(answer.head, "Content-Type: application/json\r\n"));
		cr_assert(strstr(answer.head, "Server: Mayfly API\r\n"));
		cr_assert(strstr(answer.body, "\"firecracker_version\""));
	}
	close(fd);
}

Test(api_server, slow_client_is_served_and_holds_nobody_up)
{
	static const char request[] =
		"PUT /serial HTTP/1.1\r\nContent-Length: 24\r\n\r\n{\"serial_out_path\":\"/s\"}";
	int fd = client();

	for (size_t i = 0; i < strlen(request); i++) {
		send_bytes(fd, request + i, 1);
		if (i % 16 == 0)
			assert_serves();
	}
	cr_assert_eq(read_answer(fd).status, 204u);
	close(fd);
}

Test(api_server, pipelined_requests_are_answered_in_order)
{
	int fd = client();

	send_text(
		fd,
		"GET /version HTTP/1.1\r\n\r\n"
		"PUT /boot-source HTTP/1.1\r\nContent-Length: 26\r\n\r\n{\"kernel_image_path\":\"/k\"}"
		"GET /none HTTP/1.1\r\n\r\n"
		"GET / HTTP/1.1\r\n\r\n");
	cr_assert_eq(read_answer(fd).status, 200u);
	cr_assert_eq(read_answer(fd).status, 204u);
	cr_assert_eq(read_answer(fd).status, 400u);
	cr_assert(strstr(read_answer(fd).body, "Not started"));
	close(fd);
}

Test(api_server, answer_to_head_ends_with_its_head)
{
	int fd = client();
	char answer[1024];
	ssize_t count;
	size_t used = 0;

	send_text(fd, "HEAD /version HTTP/1.1\r\nConnection: close\r\n\r\n");
	while (used < sizeof(answer) - 1 &&
	       (count = recv(fd, answer + used, sizeof(answer) - 1 - used, 0)) > 0)
		used += (size_t)count;
	answer[used] = '\0';
	cr_assert(strstr(answer, "HTTP/1.1 400 Bad Request\r\n"), "%s", answer);
	cr_assert(strstr(answer, "Content-Length: "), "%s", answer);
	cr_assert_str_eq(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
	close(fd);
}

Test(api_server, connection_closes_when_the_client_asks)
{
	int fd = client();

	send_text(fd, "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n" GET_VERSION);
	cr_assert(strstr(read_answer(fd).head, "Connection: close\r\n"));
	assert_end(fd);
	close(fd);
	fd = client();
	send_text(fd, "GET /version HTTP/1.0\r\n\r\n");
	cr_assert(strstr(read_answer(fd).head, "HTTP/1.0 200 OK\r\n"));
	assert_end(fd);
	close(fd);
}

Test(api_server, client_that_waits_for_continue_gets_it)
{
	int fd = client();

	send_text(fd, "PUT /serial HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
	cr_assert_eq(read_answer(fd).status, 100u);
	send_text(fd, "{}");
	cr_assert_eq(read_answer(fd).status, 204u);
	close(fd);
}

Test(api_server, body_over_the_limit_is_refused_and_the_answer_arrives)
{
	static char body[100000];
	struct answer answer;
	char head[128];
	int fd = client();

	memset(body, ' ', sizeof(body));
	snprintf(head, sizeof(head), "PUT /serial HTTP/1.1\r\nContent-Length: %zu\r\n\r\n",
		 sizeof(body));
	send_text(fd, head);
	/* The client sends it all before it looks at the answer. */
	send_bytes(fd, body, sizeof(body));
	answer = read_answer(fd);
	cr_assert_eq(answer.status, 400u);
	cr_assert(strstr(answer.head, "Connection: close\r\n"));
	cr_assert_str_eq(
		answer.body,
		"{\"error\":\"Payload with size 100000 is larger than the limit of 1000 allowed by "
		"server.\\nAll previous unanswered requests will be dropped.\"}");
	assert_end(fd);
	close(fd);
	cr_assert_str_eq(vmm.calls, "");
}

Test(api_server, malformed_http_is_refused_and_the_connection_closes)
{
	static const char *const requests[] = {
		"nonsense\r\n\r\n", "GET / HTTP/3.0\r\n\r\n",
		"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
	};

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		int fd = client();
		struct answer answer;

		send_text(fd, requests[i]);
		answer = read_answer(fd);
		cr_assert_eq(answer.status, 400u);
		cr_assert_eq(strncmp(answer.body, "{\"error\":\"", 10), 0, "%s", answer.body);
		assert_end(fd);
		close(fd);
	}
}

Test(api_server, eleventh_connection_is_told_and_closed)
{
	int fds[API_MAX_CONNECTIONS], surplus;
	struct answer answer;

	for (int i = 0; i < API_MAX_CONNECTIONS; i++) {
		fds[i] = client();
		send_text(fds[i], GET_VERSION);
		cr_assert_eq(read_answer(fds[i]).status, 200u);
	}
	surplus = client();
	send_text(surplus, GET_VERSION);
	answer = read_answer(surplus);
	cr_assert_eq(answer.status, 503u);
	cr_assert_str_eq(answer.body, "{\"error\":\"Too many open connections\"}");
	assert_end(surplus);
	close(surplus);
	/* The ten do not notice. */
	for (int i = 0; i < API_MAX_CONNECTIONS; i++) {
		send_text(fds[i], GET_VERSION);
		cr_assert_eq(read_answer(fds[i]).status, 200u);
	}
	/* A place that becomes free is given away: the server sees the end first, since it came
	 * first. */
	send_text(fds[0], "GET /version HTTP/1.1\r\nConnection: close\r\n\r\n");
	cr_assert_eq(read_answer(fds[0]).status, 200u);
	assert_end(fds[0]);
	assert_serves();
	for (int i = 0; i < API_MAX_CONNECTIONS; i++)
		close(fds[i]);
}

Test(api_server, connections_that_the_client_never_closes_do_not_use_up_places)
{
	int fds[40];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client();
		send_text(fds[i], "nonsense\r\n\r\n");
		cr_assert_eq(read_answer(fds[i]).status, 400u);
	}
	assert_serves();
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

Test(api_server, client_gone_before_the_answer_does_no_harm)
{
	for (int i = 0; i < 50; i++) {
		int fd = client();

		send_text(fd, i % 2 ? GET_VERSION
				    : "PUT /serial HTTP/1.1\r\nContent-Length: 9\r\n\r\n{");
		close(fd);
	}
	assert_serves();
}

Test(api_server, client_that_sends_no_more_still_gets_its_answers)
{
	int fd = client();

	send_text(fd, GET_VERSION GET_VERSION);
	shutdown(fd, SHUT_WR);
	cr_assert_eq(read_answer(fd).status, 200u);
	cr_assert_eq(read_answer(fd).status, 200u);
	assert_end(fd);
	close(fd);
}

Test(api_server, client_that_does_not_read_its_answers_is_not_read)
{
	static const char request[] = GET_VERSION;
	size_t sent = 0, answers;
	int fd = client(), flags = fcntl(fd, F_GETFL);

	/* The kernel's buffers fill up, and the server must not take more: so sending comes to an
	 * end. */
	cr_assert_eq(fcntl(fd, F_SETFL, flags | O_NONBLOCK), 0);
	for (;;) {
		size_t within = sent % strlen(request);
		ssize_t count = send(fd, request + within, strlen(request) - within, MSG_NOSIGNAL);

		if (count < 0) {
			cr_assert_eq(errno, EAGAIN);
			/* The server may still be at it: it has stopped when it has served somebody
			 * else twice. */
			assert_serves();
			assert_serves();
			if (send(fd, request + within, 1, MSG_NOSIGNAL) < 0)
				break;
			count = 1;
		}
		sent += (size_t)count;
		cr_assert(sent < 64 * MIB, "the server takes requests without end");
	}
	cr_assert_eq(fcntl(fd, F_SETFL, flags), 0);
	/* Every complete request is answered as soon as the client reads. */
	shutdown(fd, SHUT_WR);
	for (answers = 0; answers < sent / strlen(request); answers++)
		cr_assert_eq(read_answer(fd).status, 200u);
	assert_end(fd);
	close(fd);
}

Test(api_server, running_out_of_descriptors_drops_the_connection_only)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), next = dup(fd);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct rlimit limit, none;

	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	close(next);
	none = (struct rlimit) { .rlim_cur = (rlim_t)next, .rlim_max = limit.rlim_max };
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	strcpy(address.sun_path, path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_end(fd);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	close(fd);
	assert_serves();
}

Test(api_socket, file_is_private_from_the_first_moment)
{
	struct stat status;
	struct error err;
	mode_t old = umask(0);

	cr_assert_eq(create_at(path, &err), 0, "%s", err.message);
	umask(old);
	cr_assert_eq(stat(path, &status), 0);
	cr_assert(S_ISSOCK(status.st_mode));
	cr_assert_eq(status.st_mode & 07777, 0600u, "mode %o", status.st_mode & 07777);
}

Test(api_socket, file_is_removed_at_the_end)
{
	struct stat status;
	struct error err;

	cr_assert_eq(create_at(path, &err), 0);
	api_server_destroy(server);
	server = NULL;
	cr_assert_eq(stat(path, &status), -1);
	cr_assert_eq(errno, ENOENT);
}

Test(api_socket, file_of_somebody_else_is_not_removed)
{
	struct stat status;
	struct error err;

	cr_assert_eq(create_at(path, &err), 0);
	unlink(path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	api_server_destroy(server);
	server = NULL;
	cr_assert_eq(stat(path, &status), 0);
}

static void assert_not_created(const char *at, int code, const char *message)
{
	struct error err = { 0 };

	cr_assert_eq(create_at(at, &err), -code, "%s: %s", at, err.message);
	cr_assert_null(server);
	cr_assert(strstr(err.message, message), "%s", err.message);
}

Test(api_socket, path_that_exists_is_refused_with_advice)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct api_server *first;
	struct stat status;
	struct error err;
	int fd;

	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_not_created(path, EADDRINUSE, "a file that is no socket has this name");
	unlink(path);
	cr_assert_eq(create_at(path, &err), 0);
	first = server;
	server = NULL;
	assert_not_created(path, EADDRINUSE,
			   "another process listens there. Choose another path with --api-sock");
	cr_assert_eq(stat(path, &status), 0, "the refused server removed the other's socket");
	api_server_destroy(first);
	/* Left behind by a process that was killed. */
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(address.sun_path, path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	assert_not_created(path, EADDRINUSE, "nobody listens there. Remove it (rm ");
	assert_not_created(path, EADDRINUSE, path);
	unlink(path);
	/* One that cannot be asked is not called unused, and nobody is told to remove it. */
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_not_created(
		path, EPROTOTYPE,
		"it exists already and may be in use (choose another path with --api-sock)");
	close(fd);
}

Test(api_socket, impossible_paths_are_refused_by_name)
{
	char long_path[109];

	memset(long_path, 'a', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_not_created(long_path, ENAMETOOLONG,
			   "the path has 108 bytes, and a socket's path can have 107 at most");
	assert_not_created(long_path, ENAMETOOLONG, long_path);
	assert_not_created("", EINVAL, "its path is empty");
	assert_not_created("/nonexistent/api.socket", ENOENT,
			   "/nonexistent/api.socket: its directory does not exist");
	assert_not_created("/dev/null/api.socket", ENOTDIR, "/dev/null/api.socket");
}

#define FORK \
	"PUT /snapshot/fork HTTP/1.1\r\nContent-Length: 26\r\n\r\n{\"api_socket_path\":\"/x.s\"}"
#define FLUSH \
	"PUT /actions HTTP/1.1\r\nContent-Length: 31\r\n\r\n{\"action_type\": \"FlushMetrics\"}"

/* Begins a fork, and waits until the server has seen that: it answers in the order of what came. */
static int begin_fork(void)
{
	int fd = client(), other = client();

	send_text(fd, FORK);
	do {
		send_text(other, GET_VERSION);
		cr_assert_eq(read_answer(other).status, 200);
	} while (!strstr(vmm.calls, "fork /x.s"));
	close(other);
	return fd;
}

static void give_answer(void)
{
	int fd = client();

	send_text(fd, FLUSH);
	cr_assert_eq(read_answer(fd).status, 204);
	close(fd);
}

Test(api_server, an_answer_may_come_later_while_others_are_served)
{
	int fd = begin_fork();
	struct answer answer;

	/* What the client sends meanwhile waits for its turn. */
	send_text(fd, GET_VERSION);
	give_answer();
	answer = read_answer(fd);
	cr_assert_eq(answer.status, 200);
	cr_assert_str_eq(answer.body,
			 "{\"pid\":7,\"pause_us\":300,\"copied_bytes\":0,\"ready_us\":2000}");
	answer = read_answer(fd);
	cr_assert_eq(answer.status, 200);
	cr_assert(strstr(answer.body, "mayfly_version"));
	close(fd);
}

Test(api_server, a_later_answer_may_be_a_refusal)
{
	int fd = begin_fork(), other = client();
	struct answer answer;

	vmm.failure = "no room";
	send_text(other, FLUSH);
	cr_assert_eq(read_answer(other).status, 400);
	answer = read_answer(fd);
	cr_assert_eq(answer.status, 400);
	cr_assert_str_eq(answer.body, "{\"fault_message\":\"no room\"}");
	close(fd);
	close(other);
}

Test(api_server, a_client_that_does_not_wait_for_a_later_answer_is_forgotten)
{
	int fd = begin_fork();

	close(fd);
	/* Its end is seen, or not yet, when the answer comes. */
	give_answer();
	fd = begin_fork();
	give_answer();
	cr_assert_eq(read_answer(fd).status, 200);
	close(fd);
}
