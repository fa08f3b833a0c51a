/*
 * HTTP/1.1 as the API speaks it (RFC 9112): an incremental request reader, and the bytes of an
 * answer.
 *
 * The reader takes bytes in pieces of any size and keeps no more than one line and one body. It is
 * strict where two readers could disagree: CRLF only, no folded lines, no spaces before a colon,
 * one Content-Length of plain digits, no transfer codings. After a refusal the connection has lost
 * its framing and must be closed.
 *
 * Nothing here knows sockets or the API's resources. A reader belongs to its caller; any thread.
 */
#ifndef MAYFLY_HTTP_H
#define MAYFLY_HTTP_H

#include "mayfly/error.h"

#define HTTP_MAX_LINE_BYTES	   1024 /* request line or header line, without its CRLF */
#define HTTP_MAX_HEADERS	   100
#define HTTP_MAX_METHOD_BYTES	   31
#define HTTP_DEFAULT_PAYLOAD_BYTES 51200

enum http_method {
	HTTP_GET,
	HTTP_PUT,
	HTTP_PATCH,
	HTTP_OTHER
};

/* What the reader has read. Valid until http_reader_reset() or http_reader_destroy(). */
struct http_request {
	enum http_method method;
	char method_name[HTTP_MAX_METHOD_BYTES + 1];
	char path[HTTP_MAX_LINE_BYTES +
		  1];		    /* printable ASCII, starts with '/'; as sent, nothing decoded */
	unsigned int minor_version; /* HTTP/1.minor: 0 or 1 */
	bool keep_alive;
	char *body; /* NUL-terminated for convenience; NULL when there is none or it has no byte */
	size_t body_bytes;
};

enum http_state {
	HTTP_STATE_REQUEST_LINE,
	HTTP_STATE_HEADERS,
	HTTP_STATE_BODY,
	HTTP_STATE_DONE,
	HTTP_STATE_BAD
};
enum http_progress {
	HTTP_NEED_MORE,
	HTTP_COMPLETE,
	HTTP_REFUSED
};

struct http_reader {
	struct http_request request;
	enum http_state state;
	size_t max_body_bytes;
	char line[HTTP_MAX_LINE_BYTES + 2];
	size_t line_bytes;
	unsigned int header_count;
	bool skipped_empty_line;
	bool has_content_length;
	bool expects_continue;
	size_t content_length;
};

/* A body longer than `max_body_bytes` is refused. */
void http_reader_init(struct http_reader *reader, size_t max_body_bytes);
void http_reader_destroy(struct http_reader *reader);

/*
 * Takes bytes up to the end of one request at most and says in `consumed` how many. HTTP_COMPLETE:
 * `request` is filled, and nothing more is taken until http_reader_reset(). HTTP_REFUSED: `err`
 * says why; nothing more is taken.
 */
enum http_progress http_reader_feed(struct http_reader *reader, const char *data, size_t length,
				    size_t *consumed, struct error *err);

/* Whether the client waits for "100 Continue" before it sends the body. True once per request. */
bool http_reader_take_continue(struct http_reader *reader);

/* Makes ready for the next request on the connection. */
void http_reader_reset(struct http_reader *reader);

struct http_response {
	unsigned int status;
	bool deprecated; /* the request used something deprecated */
	bool head_only;	 /* to a HEAD: the body is not sent, only its length (RFC 9110, 9.3.2) */
	char *body;	 /* JSON, malloc'd and owned; NULL: none, and no Content-Length for 204 */
	size_t body_bytes;
};

void http_response_clear(struct http_response *response);

/*
 * The answer's bytes, malloc'd, for the caller to free; NULL when out of memory. The version is
 * echoed as HTTP/1.`minor_version`; without `keep_alive` the answer says that the connection
 * closes.
 */
char *http_response_format(const struct http_response *response, unsigned int minor_version,
			   bool keep_alive, size_t *length);

#define HTTP_CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

#endif
