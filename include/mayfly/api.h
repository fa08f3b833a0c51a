/*
 * The API server: the HTTP resources of api/openapi.yaml on a Unix stream socket.
 *
 * It runs on the main thread's loop and never blocks it: a connection's bytes are parsed as they
 * come, a complete request becomes one call of vmm, and its answer is written out before the next
 * request of that connection is looked at. A client that does not read its answers is not read
 * from. The process ignores SIGPIPE (signals.h): a client that has left is an error of a write.
 */
#ifndef MAYFLY_API_H
#define MAYFLY_API_H

#include "mayfly/http.h"
#include "mayfly/loop.h"
#include "mayfly/vmm.h"

#define API_DEFAULT_SOCKET_PATH "/run/mayfly.socket"
#define API_MAX_CONNECTIONS	10
#define API_VERSION		"1.17.0" /* of the API spoken: firecracker_version in GET /version */
#define API_APP_NAME		"Mayfly"

struct api_server;

struct api_server_options {
	const char *socket_path;  /* copied */
	size_t max_payload_bytes; /* of a request's body; 0: HTTP_DEFAULT_PAYLOAD_BYTES */
};

/*
 * Makes the socket, with mode 0600 (less what the umask takes away), and serves it from `loop` on.
 * Borrows `loop` and `vmm`, which outlive it. Fails when the path exists (-EADDRINUSE), is too long
 * (-ENAMETOOLONG) or cannot be made; the message names it. Main thread.
 */
int api_server_create(struct api_server **server, struct loop *loop, struct vmm *vmm,
		      const struct api_server_options *options, struct error *err);

/* Closes every connection and removes the socket file, if it is still the one that was made. NULL
 * does nothing. */
void api_server_destroy(struct api_server *server);

/*
 * One request to its answer: the resources themselves, without sockets. `response` is filled by the
 * callee and cleared by the caller with http_response_clear(). Main thread.
 */
void api_handle(struct vmm *vmm, const struct http_request *request,
		struct http_response *response);

/* Where an answer goes that takes longer than a turn of the loop: one at a time. */
struct api_later {
	/* The callee clears `response`. */
	void (*on_answer)(struct api_later *later, struct http_response *response);
};

/*
 * The same, with status 0 in `response` when the answer comes later (PUT /snapshot/fork). `later`
 * is borrowed until then, or until the vmm is destroyed.
 */
void api_handle_later(struct vmm *vmm, const struct http_request *request, struct api_later *later,
		      struct http_response *response);

#endif
