/*
 * The API server: accepts connections, moves bytes between them and the reader, and answers.
 *
 * A connection holds what it has read and not yet parsed (one buffer), and the answer that is being
 * sent (one at a time). While an answer is not fully written the connection is not read, so that a
 * client which does not take its answers costs no more memory than one of them; the rest waits in
 * the kernel's socket buffer, and then in the client.
 *
 * A connection that ends from our side is shut down for writing and read until the client closes
 * it: closing it with bytes unread would make the kernel report ECONNRESET to a client that has not
 * read our last answer yet. Such lingering connections do not count as open; when their places run
 * out, the one that lingers longest is closed.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "answer.h"
#include "mayfly/api.h"
#include "socket.h"

#define INPUT_BYTES	  4096
#define MAX_LINGERING	  6
#define MAX_DISCARD_BYTES (4 * MIB)

struct connection {
	struct loop_source source;
	struct api_server *server;
	int fd;
	struct http_reader reader;
	char input[INPUT_BYTES];
	size_t input_bytes, input_next;
	char *output; /* the answer being sent; NULL: none */
	size_t output_bytes, output_sent;
	bool end_of_input;
	bool waiting;	 /* for an answer that comes later: nothing is read */
	bool keep_alive; /* of the request that it is for, as is this: */
	unsigned int minor_version;
	bool closing;	/* after `output`, no request is answered any more */
	bool lingering; /* all is sent; only waits for the client to close */
	uint64_t linger_number;
	uint64_t discarded_bytes;
};

struct api_server {
	struct loop *loop;
	struct vmm *vmm;
	struct api_socket socket;
	struct loop_source listener;
	size_t max_payload_bytes;
	struct connection *connections[API_MAX_CONNECTIONS + MAX_LINGERING];
	uint64_t linger_count;
	struct api_later later;
	int spare_fd; /* given up to accept and refuse a connection when descriptors run out */
};

static void connection_close(struct connection *connection)
{
	struct api_server *server = connection->server;

	for (size_t i = 0; i < ARRAY_SIZE(server->connections); i++) {
		if (server->connections[i] == connection)
			server->connections[i] = NULL;
	}
	loop_remove(server->loop, &connection->source);
	close_fd(&connection->fd);
	http_reader_destroy(&connection->reader);
	free(connection->output);
	free(connection);
}

/* Returns false when memory is out: the connection cannot go on then. */
static bool queue_answer(struct connection *connection, const struct http_response *response,
			 unsigned int minor_version, bool keep_alive)
{
	connection->output = http_response_format(response, minor_version, keep_alive,
						  &connection->output_bytes);
	connection->output_sent = 0;
	connection->closing = !keep_alive;
	return connection->output != NULL;
}

static bool queue_refusal(struct connection *connection, unsigned int status, const char *text)
{
	struct http_response response = { 0 };
	bool queued;

	answer_error(&response, status, "error", text);
	queued = queue_answer(connection, &response, 1, false);
	http_response_clear(&response);
	return queued;
}

static bool queue_continue(struct connection *connection)
{
	connection->output = strdup(HTTP_CONTINUE);
	connection->output_bytes = strlen(HTTP_CONTINUE);
	connection->output_sent = 0;
	return connection->output != NULL;
}

static bool answer_request(struct connection *connection)
{
	struct http_reader *reader = &connection->reader;
	struct http_response response = { 0 };
	bool queued;

	api_handle_later(connection->server->vmm, &reader->request, &connection->server->later,
			 &response);
	if (response.status == 0) {
		connection->waiting = true;
		connection->keep_alive = reader->request.keep_alive;
		connection->minor_version = reader->request.minor_version;
		http_reader_reset(reader);
		return true;
	}
	queued = queue_answer(connection, &response, reader->request.minor_version,
			      reader->request.keep_alive);
	http_response_clear(&response);
	http_reader_reset(reader);
	return queued;
}

/* Parses what was read up to the next thing to send. Returns false when the connection cannot go
 * on. */
static bool use_input(struct connection *connection)
{
	struct log *log = vmm_log(connection->server->vmm);
	struct error err = { 0 };
	size_t consumed;

	switch (http_reader_feed(&connection->reader, connection->input + connection->input_next,
				 connection->input_bytes - connection->input_next, &consumed,
				 &err)) {
	case HTTP_COMPLETE:
		connection->input_next += consumed;
		return answer_request(connection);
	case HTTP_REFUSED:
		log_warn(log, "an API request was refused and its connection closed: %s",
			 err.message);
		return queue_refusal(connection, 400, err.message);
	case HTTP_NEED_MORE:
		break;
	}
	connection->input_next += consumed;
	return http_reader_take_continue(&connection->reader) ? queue_continue(connection) : true;
}

/* Sends what the socket takes. Returns false when the client is gone. */
static bool send_output(struct connection *connection)
{
	while (connection->output && connection->output_sent < connection->output_bytes) {
		ssize_t count = write(connection->fd, connection->output + connection->output_sent,
				      connection->output_bytes - connection->output_sent);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0)
			return errno == EAGAIN;
		connection->output_sent += (size_t)count;
	}
	free(connection->output);
	connection->output = NULL;
	return true;
}

/* Reads once. Returns false when the client is gone. */
static bool read_input(struct connection *connection)
{
	ssize_t count = read(connection->fd, connection->input, sizeof(connection->input));

	if (count < 0)
		return errno == EAGAIN || errno == EINTR;
	connection->input_next = 0;
	connection->input_bytes = (size_t)count;
	connection->end_of_input = count == 0;
	return true;
}

/* Returns false when there is nothing to wait for. */
static bool start_lingering(struct connection *connection)
{
	if (connection->end_of_input || shutdown(connection->fd, SHUT_WR) < 0)
		return false;
	connection->lingering = true;
	connection->linger_number = connection->server->linger_count++;
	return loop_modify(connection->server->loop, &connection->source, EPOLLIN) == 0;
}

static bool linger(struct connection *connection)
{
	if (!read_input(connection) || connection->end_of_input)
		return false;
	connection->discarded_bytes += connection->input_bytes;
	return connection->discarded_bytes <= MAX_DISCARD_BYTES;
}

/* Moves a connection on as far as it goes without waiting. Returns false when it is over. */
static bool connection_advance(struct connection *connection)
{
	struct loop *loop = connection->server->loop;

	for (;;) {
		if (!send_output(connection))
			return false;
		if (connection->output)
			return loop_modify(loop, &connection->source, EPOLLOUT) == 0;
		if (connection->closing)
			return start_lingering(connection);
		if (connection->waiting)
			return loop_modify(loop, &connection->source, 0) == 0;
		if (connection->input_next == connection->input_bytes)
			break;
		if (!use_input(connection))
			return false;
	}
	return !connection->end_of_input && loop_modify(loop, &connection->source, EPOLLIN) == 0;
}

static void on_connection(struct loop_source *source, uint32_t events)
{
	struct connection *connection = container_of(source, struct connection, source);
	bool goes_on;

	if (connection->lingering)
		goes_on = linger(connection);
	else if (connection->waiting)
		goes_on = false; /* only its end is reported: nobody waits any more */
	else if (connection->output)
		goes_on = connection_advance(connection);
	else
		goes_on = read_input(connection) && connection_advance(connection);
	if (!goes_on)
		connection_close(connection);
}

/* Whoever has asked may be gone by now. */
static void on_later_answer(struct api_later *later, struct http_response *response)
{
	struct api_server *server = container_of(later, struct api_server, later);

	for (size_t i = 0; i < ARRAY_SIZE(server->connections); i++) {
		struct connection *connection = server->connections[i];

		if (!connection || !connection->waiting)
			continue;
		connection->waiting = false;
		if (!queue_answer(connection, response, connection->minor_version,
				  connection->keep_alive) ||
		    !connection_advance(connection))
			connection_close(connection);
		break;
	}
	http_response_clear(response);
}

static unsigned int count_serving(const struct api_server *server)
{
	unsigned int count = 0;

	for (size_t i = 0; i < ARRAY_SIZE(server->connections); i++) {
		if (server->connections[i] && !server->connections[i]->lingering)
			count++;
	}
	return count;
}

/* A free place; the connection that lingers longest makes room when there is none. */
static struct connection **find_place(struct api_server *server)
{
	struct connection **oldest = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(server->connections); i++) {
		struct connection **place = &server->connections[i];

		if (!*place)
			return place;
		if ((*place)->lingering &&
		    (!oldest || (*place)->linger_number < (*oldest)->linger_number))
			oldest = place;
	}
	if (oldest)
		connection_close(*oldest);
	return oldest;
}

/* Takes `fd` over. */
static void connection_open(struct api_server *server, int fd)
{
	bool surplus = count_serving(server) >= API_MAX_CONNECTIONS;
	struct connection **place = find_place(server);
	struct connection *connection = place ? calloc(1, sizeof(*connection)) : NULL;
	struct error err = { 0 };

	if (!connection) {
		close_fd(&fd);
		return;
	}
	connection->server = server;
	connection->fd = fd;
	http_reader_init(&connection->reader, server->max_payload_bytes);
	*place = connection;
	if (loop_add_urgent(server->loop, &connection->source, fd, EPOLLIN, on_connection, &err) <
	    0) {
		log_error(vmm_log(server->vmm), "an API connection cannot be served: %s",
			  err.message);
		connection_close(connection);
		return;
	}
	if (!surplus) {
		/* The first request is mostly there already: it need not wait for a turn of its
		 * own. */
		on_connection(&connection->source, EPOLLIN);
		return;
	}
	log_warn(vmm_log(server->vmm), "an API connection was refused: %d are open already",
		 API_MAX_CONNECTIONS);
	if (!queue_refusal(connection, 503, "Too many open connections") ||
	    !connection_advance(connection))
		connection_close(connection);
}

/*
 * No descriptor is left for the connection that waits. It must be taken all the same, since a
 * level-triggered loop would report it again and again: the spare one makes room for it, and it is
 * closed.
 */
static void drop_waiting_connection(struct api_server *server)
{
	int fd;

	log_error(vmm_log(server->vmm),
		  "an API connection was dropped: no file descriptor is left");
	close_fd(&server->spare_fd);
	fd = accept4(server->socket.fd, NULL, NULL, SOCK_CLOEXEC);
	close_fd(&fd);
	server->spare_fd = fcntl(server->socket.fd, F_DUPFD_CLOEXEC, 0);
}

static void on_listener(struct loop_source *source, uint32_t events)
{
	struct api_server *server = container_of(source, struct api_server, listener);
	int fd = accept4(server->socket.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0) {
		connection_open(server, fd);
	} else if (errno == EMFILE || errno == ENFILE) {
		drop_waiting_connection(server);
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		struct error err;

		error_errno(&err, "an API connection cannot be accepted");
		log_error(vmm_log(server->vmm), "%s", err.message);
	}
}

int api_server_create(struct api_server **out, struct loop *loop, struct vmm *vmm,
		      const struct api_server_options *options, struct error *err)
{
	struct api_server *server = calloc(1, sizeof(*server));
	int result;

	if (!server)
		return error_set(err, ENOMEM, "out of memory for the API server");
	server->loop = loop;
	server->vmm = vmm;
	server->max_payload_bytes = options->max_payload_bytes ? options->max_payload_bytes
							       : HTTP_DEFAULT_PAYLOAD_BYTES;
	server->later.on_answer = on_later_answer;
	server->listener.fd = -1;
	server->spare_fd = -1;
	result = api_socket_open(&server->socket, options->socket_path, err);
	if (result == 0) {
		server->spare_fd = fcntl(server->socket.fd, F_DUPFD_CLOEXEC, 0);
		result = loop_add_urgent(loop, &server->listener, server->socket.fd, EPOLLIN,
					 on_listener, err);
	}
	if (result < 0) {
		api_server_destroy(server);
		return result;
	}
	*out = server;
	return 0;
}

void api_server_destroy(struct api_server *server)
{
	if (!server)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(server->connections); i++) {
		if (server->connections[i])
			connection_close(server->connections[i]);
	}
	loop_remove(server->loop, &server->listener);
	api_socket_close(&server->socket);
	close_fd(&server->spare_fd);
	free(server);
}
