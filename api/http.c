/*
 * The HTTP request reader and the bytes of answers: RFC 9112, as strict as include/mayfly/http.h
 * says.
 *
 * Bytes of the request line and of each header are gathered in one line buffer until their CRLF,
 * then taken apart; nothing of a header is kept but what it decides (framing, persistence, Expect).
 * The body goes to a buffer of exactly its declared length, which is checked against the limit
 * before it is allocated.
 */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "mayfly/http.h"

void http_reader_init(struct http_reader *reader, size_t max_body_bytes)
{
	memset(reader, 0, sizeof(*reader));
	reader->max_body_bytes = max_body_bytes;
}

void http_reader_destroy(struct http_reader *reader)
{
	free(reader->request.body);
	reader->request.body = NULL;
}

void http_reader_reset(struct http_reader *reader)
{
	size_t max_body_bytes = reader->max_body_bytes;

	http_reader_destroy(reader);
	http_reader_init(reader, max_body_bytes);
}

bool http_reader_take_continue(struct http_reader *reader)
{
	/* A client that sends the body at once does not wait any more (RFC 9110, 10.1.1). */
	bool waits = reader->expects_continue && reader->state == HTTP_STATE_BODY &&
		     reader->request.body_bytes == 0;

	reader->expects_continue = reader->expects_continue && !waits;
	return waits;
}

/* RFC 9110, 5.6.2: what methods and header names are made of. */
static bool is_token(const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		unsigned char c = (unsigned char)text[i];
		bool alphanumeric =
			(c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');

		if (!alphanumeric && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
			return false;
	}
	return length > 0;
}

static enum http_method find_method(const char *name)
{
	if (strcmp(name, "GET") == 0)
		return HTTP_GET;
	if (strcmp(name, "PUT") == 0)
		return HTTP_PUT;
	if (strcmp(name, "PATCH") == 0)
		return HTTP_PATCH;
	return HTTP_OTHER;
}

/* The path of a request target: origin-form, or absolute-form with its "http://authority" left out.
 */
static int take_target(struct http_request *request, const char *target, size_t length,
		       struct error *err)
{
	static const char scheme[] = "http://";

	for (size_t i = 0; i < length; i++) {
		if (target[i] <= 0x20 || target[i] >= 0x7f)
			return error_set(err, EINVAL,
					 "Malformed request line: the path has a byte that is not "
					 "printable ASCII.");
	}
	if (length > strlen(scheme) && strncasecmp(target, scheme, strlen(scheme)) == 0) {
		const char *path = memchr(target + strlen(scheme), '/', length - strlen(scheme));

		length = path ? length - (size_t)(path - target) : 1;
		target = path ? path : "/";
	}
	if (length == 0 || target[0] != '/')
		return error_set(err, EINVAL,
				 "Malformed request line: the path does not begin with a slash.");
	memcpy(request->path, target, length);
	request->path[length] = '\0';
	return 0;
}

/* "METHOD SP target SP HTTP/1.x" */
static int take_request_line(struct http_reader *reader, struct error *err)
{
	struct http_request *request = &reader->request;
	const char *line = reader->line, *end = line + reader->line_bytes;
	const char *target = memchr(line, ' ', reader->line_bytes);
	const char *version = target ? memchr(target + 1, ' ', (size_t)(end - target - 1)) : NULL;
	size_t method_bytes;
	int result;

	if (!version)
		return error_set(
			err, EINVAL,
			"Malformed request line: it is not of the form METHOD /path HTTP/1.1.");
	method_bytes = (size_t)(target - line);
	if (!is_token(line, method_bytes) || method_bytes > HTTP_MAX_METHOD_BYTES)
		return error_set(err, EINVAL, "Malformed request line: bad HTTP method.");
	memcpy(request->method_name, line, method_bytes);
	request->method_name[method_bytes] = '\0';
	request->method = find_method(request->method_name);
	target++;
	version++;
	result = take_target(request, target, (size_t)(version - 1 - target), err);
	if (result < 0)
		return result;
	if (end - version != (ptrdiff_t)strlen("HTTP/1.1") ||
	    memcmp(version, "HTTP/1.", strlen("HTTP/1.")) != 0 ||
	    (version[7] != '0' && version[7] != '1'))
		return error_set(
			err, EINVAL,
			"Unsupported HTTP version: only HTTP/1.1 and HTTP/1.0 are served.");
	request->minor_version = version[7] == '1' ? 1 : 0;
	/* RFC 9112, 9.3: connections persist from 1.1 on. */
	request->keep_alive = request->minor_version == 1;
	return 0;
}

static bool is_name(const char *name, size_t length, const char *wanted)
{
	return length == strlen(wanted) && strncasecmp(name, wanted, length) == 0;
}

static int take_content_length(struct http_reader *reader, const char *value, size_t length,
			       struct error *err)
{
	size_t total = 0;

	if (reader->has_content_length)
		return error_set(err, EINVAL, "Malformed request: more than one Content-Length.");
	if (length == 0)
		return error_set(err, EINVAL, "Malformed request: Content-Length has no value.");
	for (size_t i = 0; i < length; i++) {
		size_t digit = (size_t)(unsigned char)value[i] - '0';

		if (digit > 9)
			return error_set(err, EINVAL,
					 "Malformed request: Content-Length is not a number.");
		/* Beyond the limit the exact value does not matter, only that it never wraps. */
		if (total > (SIZE_MAX - digit) / 10)
			total = SIZE_MAX;
		else
			total = total * 10 + digit;
	}
	reader->has_content_length = true;
	reader->content_length = total;
	return 0;
}

/* Connection is a list of words, of which two matter. */
static void take_connection(struct http_request *request, const char *value, size_t length)
{
	const char *end = value + length;

	while (value < end) {
		const char *comma = memchr(value, ',', (size_t)(end - value));
		const char *word_end = comma ? comma : end;

		while (value < word_end && (*value == ' ' || *value == '\t'))
			value++;
		while (word_end > value && (word_end[-1] == ' ' || word_end[-1] == '\t'))
			word_end--;
		if (is_name(value, (size_t)(word_end - value), "close"))
			request->keep_alive = false;
		else if (is_name(value, (size_t)(word_end - value), "keep-alive") &&
			 request->minor_version == 0)
			request->keep_alive = true;
		value = comma ? comma + 1 : end;
	}
}

/* A header's name and value, trimmed. Most headers decide nothing here. */
static int use_header(struct http_reader *reader, const char *name, size_t name_bytes,
		      const char *value, size_t length, struct error *err)
{
	if (is_name(name, name_bytes, "Content-Length"))
		return take_content_length(reader, value, length, err);
	if (is_name(name, name_bytes, "Transfer-Encoding"))
		return error_set(err, EINVAL,
				 "Unsupported header: Transfer-Encoding. "
				 "Send the body with a Content-Length.");
	if (is_name(name, name_bytes, "Connection"))
		take_connection(&reader->request, value, length);
	if (is_name(name, name_bytes, "Expect")) {
		if (!is_name(value, length, "100-continue"))
			return error_set(err, EINVAL,
					 "Unsupported header: Expect knows 100-continue only.");
		/* RFC 9110, 10.1.1: from an HTTP/1.0 client the expectation is ignored. */
		reader->expects_continue = reader->request.minor_version == 1;
	}
	return 0;
}

static int take_header(struct http_reader *reader, struct error *err)
{
	const char *line = reader->line, *end = line + reader->line_bytes;
	const char *colon = memchr(line, ':', reader->line_bytes);
	size_t name_bytes = colon ? (size_t)(colon - line) : 0;
	const char *value;

	if (++reader->header_count > HTTP_MAX_HEADERS)
		return error_set(err, EINVAL, "Malformed request: more than %d headers.",
				 HTTP_MAX_HEADERS);
	/* Also refuses folded lines, which begin with a space, and a space before the colon. */
	if (!is_token(line, name_bytes))
		return error_set(err, EINVAL,
				 "Malformed request: a header is not of the form Name: value.");
	value = colon + 1;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	for (const char *c = value; c < end; c++) {
		if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
			return error_set(err, EINVAL,
					 "Malformed request: a header has a control character.");
	}
	return use_header(reader, line, name_bytes, value, (size_t)(end - value), err);
}

static int take_end_of_headers(struct http_reader *reader, struct error *err)
{
	struct http_request *request = &reader->request;

	if (reader->content_length == 0) {
		reader->state = HTTP_STATE_DONE;
		return 0;
	}
	if (reader->content_length > reader->max_body_bytes)
		return error_set(
			err, EINVAL,
			"Payload with size %zu is larger than the limit of %zu allowed by server.\n"
			"All previous unanswered requests will be dropped.",
			reader->content_length, reader->max_body_bytes);
	request->body = malloc(reader->content_length + 1);
	if (!request->body)
		return error_set(err, ENOMEM, "Out of memory for a body of %zu bytes.",
				 reader->content_length);
	request->body[0] = '\0';
	reader->state = HTTP_STATE_BODY;
	return 0;
}

/* One complete line, its CRLF left out. */
static int take_line(struct http_reader *reader, struct error *err)
{
	int result;

	if (reader->state == HTTP_STATE_HEADERS)
		return reader->line_bytes == 0 ? take_end_of_headers(reader, err)
					       : take_header(reader, err);
	/* RFC 9112, 2.2: some clients send a CRLF behind a body. */
	if (reader->line_bytes == 0 && !reader->skipped_empty_line) {
		reader->skipped_empty_line = true;
		return 0;
	}
	result = take_request_line(reader, err);
	if (result == 0)
		reader->state = HTTP_STATE_HEADERS;
	return result;
}

/* Takes one byte of a line; at its CRLF, the line. */
static int take_line_byte(struct http_reader *reader, char byte, struct error *err)
{
	bool after_cr = reader->line_bytes > 0 && reader->line[reader->line_bytes - 1] == '\r';
	int result;

	if (after_cr != (byte == '\n'))
		return error_set(
			err, EINVAL,
			"Malformed request: lines end with CR LF, and neither stands alone.");
	if (byte == '\n') {
		reader->line_bytes--;
		result = take_line(reader, err);
		reader->line_bytes = 0;
		return result;
	}
	if (reader->line_bytes == HTTP_MAX_LINE_BYTES && byte != '\r')
		return error_set(err, EINVAL, "Malformed request: a line is longer than %d bytes.",
				 HTTP_MAX_LINE_BYTES);
	reader->line[reader->line_bytes++] = byte;
	return 0;
}

static size_t take_body(struct http_reader *reader, const char *data, size_t length)
{
	struct http_request *request = &reader->request;
	size_t missing = reader->content_length - request->body_bytes;
	size_t count = length < missing ? length : missing;

	memcpy(request->body + request->body_bytes, data, count);
	request->body_bytes += count;
	request->body[request->body_bytes] = '\0';
	if (count == missing)
		reader->state = HTTP_STATE_DONE;
	return count;
}

enum http_progress http_reader_feed(struct http_reader *reader, const char *data, size_t length,
				    size_t *consumed, struct error *err)
{
	size_t used = 0;

	while (used < length && reader->state != HTTP_STATE_DONE &&
	       reader->state != HTTP_STATE_BAD) {
		if (reader->state == HTTP_STATE_BODY)
			used += take_body(reader, data + used, length - used);
		else if (take_line_byte(reader, data[used++], err) < 0)
			reader->state = HTTP_STATE_BAD;
	}
	*consumed = used;
	switch (reader->state) {
	case HTTP_STATE_DONE:
		return HTTP_COMPLETE;
	case HTTP_STATE_BAD:
		return HTTP_REFUSED;
	default:
		return HTTP_NEED_MORE;
	}
}

static const char *reason_of(unsigned int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 204:
		return "No Content";
	case 400:
		return "Bad Request";
	case 500:
		return "Internal Server Error";
	case 503:
		return "Service Unavailable";
	default:
		return "";
	}
}

void http_response_clear(struct http_response *response)
{
	free(response->body);
	memset(response, 0, sizeof(*response));
}

char *http_response_format(const struct http_response *response, unsigned int minor_version,
			   bool keep_alive, size_t *length)
{
	size_t body_bytes = response->body ? response->body_bytes : 0;
	char content[96] = "", head[320];
	char *bytes;
	int head_bytes;

	/* RFC 9110, 8.6: never a Content-Length with 204, always one with an empty body of another
	 * status. */
	if (response->body)
		snprintf(content, sizeof(content),
			 "Content-Type: application/json\r\nContent-Length: %zu\r\n", body_bytes);
	else if (response->status != 204)
		snprintf(content, sizeof(content), "Content-Length: 0\r\n");
	head_bytes = snprintf(head, sizeof(head),
			      "HTTP/1.%u %u %s\r\nServer: Mayfly API\r\nConnection: %s\r\n%s%s\r\n",
			      minor_version, response->status, reason_of(response->status),
			      keep_alive ? "keep-alive" : "close",
			      response->deprecated ? "Deprecation: true\r\n" : "", content);
	if (head_bytes < 0 || (size_t)head_bytes >= sizeof(head))
		return NULL;
	if (response->head_only)
		body_bytes = 0;
	bytes = malloc((size_t)head_bytes + body_bytes);
	if (!bytes)
		return NULL;
	memcpy(bytes, head, (size_t)head_bytes);
	if (body_bytes > 0)
		memcpy(bytes + head_bytes, response->body, body_bytes);
	*length = (size_t)head_bytes + body_bytes;
	return bytes;
}
