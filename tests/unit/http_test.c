/* The HTTP reader and the bytes of answers: api/http.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "mayfly/http.h"

#define LIMIT 100

struct reading {
	struct http_reader reader;
	enum http_progress progress;
	size_t consumed;
	struct error err;
};

/* Feeds `text` in pieces of `piece` bytes. */
static struct reading read_pieces(const char *text, size_t piece)
{
	struct reading reading = { .progress = HTTP_NEED_MORE };
	size_t length = strlen(text);

	http_reader_init(&reading.reader, LIMIT);
	while (reading.consumed < length && reading.progress == HTTP_NEED_MORE) {
		size_t count = length - reading.consumed < piece ? length - reading.consumed
								 : piece,
		       used;

		reading.progress = http_reader_feed(&reading.reader, text + reading.consumed, count,
						    &used, &reading.err);
		cr_assert(used <= count);
		reading.consumed += used;
	}
	return reading;
}

static struct reading read_whole(const char *text)
{
	return read_pieces(text, strlen(text));
}

static void assert_refused(const char *text, const char *message_part)
{
	for (size_t piece = 1; piece < 4; piece++) {
		struct reading reading = read_pieces(text, piece);

		cr_assert_eq(reading.progress, HTTP_REFUSED, "accepted: %s", text);
		cr_assert(strstr(reading.err.message, message_part), "message of %s: %s", text,
			  reading.err.message);
		http_reader_destroy(&reading.reader);
	}
}

static void assert_accepted(const char *text)
{
	struct reading reading = read_whole(text);

	cr_assert_eq(reading.progress, HTTP_COMPLETE, "not complete: %s: %s", text,
		     reading.err.message);
	http_reader_destroy(&reading.reader);
}

Test(http, get_request_is_read)
{
	struct reading reading =
		read_whole("GET /machine-config HTTP/1.1\r\nHost: localhost\r\n\r\n");

	cr_assert_eq(reading.progress, HTTP_COMPLETE);
	cr_assert_eq(reading.reader.request.method, HTTP_GET);
	cr_assert_str_eq(reading.reader.request.method_name, "GET");
	cr_assert_str_eq(reading.reader.request.path, "/machine-config");
	cr_assert_eq(reading.reader.request.minor_version, 1u);
	cr_assert(reading.reader.request.keep_alive);
	cr_assert_null(reading.reader.request.body);
}

Test(http, pieces_of_any_size_give_the_same_request)
{
	static const char text[] =
		"PUT /drives/a HTTP/1.1\r\nAccept: */*\r\ncontent-LENGTH:  12 \t\r\n\r\n"
		"{\"a\":\r\n true}";

	for (size_t piece = 1; piece <= strlen(text); piece++) {
		struct reading reading = read_pieces(text, piece);

		/* The declared length ends before the text does. */
		cr_assert_eq(reading.progress, HTTP_COMPLETE);
		cr_assert_eq(reading.reader.request.method, HTTP_PUT);
		cr_assert_eq(reading.reader.request.body_bytes, 12u);
		cr_assert_str_eq(reading.reader.request.body, "{\"a\":\r\n true");
		cr_assert_eq(reading.consumed, strlen(text) - 1);
		http_reader_destroy(&reading.reader);
	}
}

Test(http, pipelined_requests_are_taken_one_by_one)
{
	static const char text[] =
		"GET /a HTTP/1.1\r\n\r\nPATCH /b HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
		"\r\nGET /c HTTP/1.1\r\n\r\n";
	static const char *const paths[] = { "/a", "/b", "/c" };
	struct http_reader reader;
	size_t next = 0, used;

	http_reader_init(&reader, LIMIT);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		cr_assert_eq(
			http_reader_feed(&reader, text + next, strlen(text) - next, &used, NULL),
			HTTP_COMPLETE);
		cr_assert_str_eq(reader.request.path, paths[i]);
		next += used;
		/* Complete is complete: nothing more is taken before the reset. */
		cr_assert_eq(http_reader_feed(&reader, text, 5, &used, NULL), HTTP_COMPLETE);
		cr_assert_eq(used, 0u);
		http_reader_reset(&reader);
	}
	cr_assert_eq(next, strlen(text));
	http_reader_destroy(&reader);
}

Test(http, other_methods_are_read_for_the_routes_to_refuse)
{
	struct reading reading = read_whole("DELETE /x HTTP/1.1\r\n\r\n");

	cr_assert_eq(reading.progress, HTTP_COMPLETE);
	cr_assert_eq(reading.reader.request.method, HTTP_OTHER);
	cr_assert_str_eq(reading.reader.request.method_name, "DELETE");
	reading = read_whole("get /x HTTP/1.1\r\n\r\n");
	cr_assert_eq(reading.reader.request.method, HTTP_OTHER, "methods are case-sensitive");
}

Test(http, connection_persists_as_version_and_header_say)
{
	static const struct {
		const char *text;
		bool keep_alive;
	} cases[] = {
		{ "GET / HTTP/1.1\r\n\r\n", true },
		{ "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", false },
		{ "GET / HTTP/1.1\r\nCONNECTION: foo ,\tClose\r\n\r\n", false },
		{ "GET / HTTP/1.1\r\nConnection: closed\r\n\r\n", true },
		{ "GET / HTTP/1.1\r\nConnection: close\r\nConnection: keep-alive\r\n\r\n", false },
		{ "GET / HTTP/1.0\r\n\r\n", false },
		{ "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true },
		{ "GET / HTTP/1.1\r\nConnection:\r\n\r\n", true },
		{ "GET / HTTP/1.1\r\nConnection: ,,\r\n\r\n", true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct reading reading = read_whole(cases[i].text);

		cr_assert_eq(reading.progress, HTTP_COMPLETE, "%s", cases[i].text);
		cr_assert_eq(reading.reader.request.keep_alive, cases[i].keep_alive, "%s",
			     cases[i].text);
	}
}

Test(http, absolute_form_gives_the_path)
{
	struct reading reading = read_whole("GET http://localhost/version HTTP/1.1\r\n\r\n");

	cr_assert_str_eq(reading.reader.request.path, "/version");
	reading = read_whole("GET HTTP://localhost HTTP/1.1\r\n\r\n");
	cr_assert_eq(reading.progress, HTTP_COMPLETE);
	cr_assert_str_eq(reading.reader.request.path, "/");
}

Test(http, malformed_request_lines_are_refused)
{
	assert_refused("\r\n\r\n", "request line");
	assert_refused("GET\r\n", "request line");
	assert_refused("GET /\r\n", "request line");
	assert_refused(" GET / HTTP/1.1\r\n", "bad HTTP method");
	assert_refused("G@T / HTTP/1.1\r\n", "bad HTTP method");
	assert_refused("GETGETGETGETGETGETGETGETGETGETGET / HTTP/1.1\r\n", "bad HTTP method");
	assert_refused("GET  / HTTP/1.1\r\n", "slash");
	assert_refused("GET x HTTP/1.1\r\n", "slash");
	assert_refused("GET * HTTP/1.1\r\n", "slash");
	assert_refused("GET /\x01 HTTP/1.1\r\n", "printable");
	assert_refused("GET /\xc3\xa4 HTTP/1.1\r\n", "printable");
	assert_refused("GET /  HTTP/1.1\r\n", "version");
	assert_refused("GET / HTTP/1.1 \r\n", "version");
	assert_refused("GET / HTTP/2.0\r\n", "version");
	assert_refused("GET / HTTP/1.2\r\n", "version");
	assert_refused("GET / http/1.1\r\n", "version");
	assert_refused("GET / HTTP/1.10\r\n", "version");
}

Test(http, malformed_headers_are_refused)
{
	assert_refused("GET / HTTP/1.1\r\nnocolon\r\n", "Name: value");
	assert_refused("GET / HTTP/1.1\r\n: x\r\n", "Name: value");
	assert_refused("GET / HTTP/1.1\r\nHost : x\r\n", "Name: value");
	assert_refused("GET / HTTP/1.1\r\nHost: x\r\n folded\r\n", "Name: value");
	assert_refused("GET / HTTP/1.1\r\nHost: a\x01\r\n", "control character");
	assert_refused("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding");
	assert_refused("GET / HTTP/1.1\r\nExpect: 200-ok\r\n", "Expect");
	assert_accepted("GET / HTTP/1.1\r\nX:\r\nY: caf\xc3\xa9\tb\r\n\r\n");
}

Test(http, lines_end_with_cr_lf_only)
{
	assert_refused("GET / HTTP/1.1\n", "CR LF");
	assert_refused("GET / HTTP/1.1\r\r\n", "CR LF");
	assert_refused("GET / HTTP/1.1\rX", "CR LF");
	assert_refused("GET / HTTP/1.1\r\nA: b\n", "CR LF");
	assert_refused("GET / HTTP/1.1\r\n\n", "CR LF");
}

Test(http, nul_bytes_are_refused)
{
	static const char text[] = "GET / HTTP/1.1\r\nA\0B: x\r\n";
	static const char in_path[] = "GET /\0 HTTP/1.1\r\n";
	struct http_reader reader;
	struct error err;
	size_t used;

	http_reader_init(&reader, LIMIT);
	cr_assert_eq(http_reader_feed(&reader, text, sizeof(text) - 1, &used, &err), HTTP_REFUSED);
	http_reader_init(&reader, LIMIT);
	cr_assert_eq(http_reader_feed(&reader, in_path, sizeof(in_path) - 1, &used, &err),
		     HTTP_REFUSED);
}

static char *long_line(const char *before, size_t total, const char *after)
{
	size_t before_bytes = strlen(before), after_bytes = strlen(after);
	char *line = calloc(1, total + 3);

	memcpy(line, before, before_bytes);
	memset(line + before_bytes, 'x', total - before_bytes - after_bytes);
	memcpy(line + total - after_bytes, after, after_bytes);
	memcpy(line + total, "\r\n", 2);
	return line;
}

Test(http, lines_are_bounded)
{
	char request[4096];
	char *line = long_line("GET /", HTTP_MAX_LINE_BYTES, " HTTP/1.1");

	snprintf(request, sizeof(request), "%s\r\n", line);
	assert_accepted(request);
	free(line);
	line = long_line("GET /", HTTP_MAX_LINE_BYTES + 1, " HTTP/1.1");
	assert_refused(line, "longer than 1024");
	free(line);
	line = long_line("A: ", HTTP_MAX_LINE_BYTES, "");
	snprintf(request, sizeof(request), "GET / HTTP/1.1\r\n%s\r\n", line);
	assert_accepted(request);
	free(line);
	line = long_line("A: ", HTTP_MAX_LINE_BYTES + 1, "");
	snprintf(request, sizeof(request), "GET / HTTP/1.1\r\n%s\r\n", line);
	assert_refused(request, "longer than 1024");
	free(line);
}

Test(http, endless_headers_are_refused)
{
	char request[4096] = "GET / HTTP/1.1\r\n";

	for (int i = 0; i < HTTP_MAX_HEADERS; i++)
		strcat(request, "A: b\r\n");
	strcat(request, "\r\n");
	assert_accepted(request);
	request[strlen(request) - 2] = '\0';
	strcat(request, "A: b\r\n");
	assert_refused(request, "more than 100 headers");
}

Test(http, content_length_is_read_strictly)
{
#define WITH(value) "PUT / HTTP/1.1\r\nContent-Length:" value "\r\n"
	assert_refused(WITH(""), "no value");
	assert_refused(WITH(" +2"), "not a number");
	assert_refused(WITH(" -2"), "not a number");
	assert_refused(WITH(" 0x2"), "not a number");
	assert_refused(WITH(" 2, 2"), "not a number");
	assert_refused(WITH(" 2 2"), "not a number");
	assert_refused(WITH(" 2") "Content-Length: 2\r\n", "more than one");
	assert_refused(WITH(" 0") "Content-Length: 5\r\n", "more than one");
	assert_refused(WITH(" 101") "\r\n",
		       "Payload with size 101 is larger than the limit of 100 allowed");
	assert_refused(WITH(" 99999999999999999999999999999999999999") "\r\n", "Payload with size");
	/* 2^64 + 2: must not wrap to 2. */
	assert_refused(WITH(" 18446744073709551618") "\r\n", "Payload with size");
	assert_accepted(WITH(" 002") "\r\n{}");
	assert_accepted(WITH(" 0") "\r\n");
#undef WITH
}

Test(http, body_of_exactly_the_limit_is_taken)
{
	char request[256] = "PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\n";
	struct reading reading;

	memset(request + strlen(request), 'x', LIMIT);
	reading = read_pieces(request, 7);
	cr_assert_eq(reading.progress, HTTP_COMPLETE);
	cr_assert_eq(reading.reader.request.body_bytes, (size_t)LIMIT);
	http_reader_destroy(&reading.reader);
}

Test(http, body_of_no_bytes_is_no_body)
{
	struct reading reading = read_whole("PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n");

	cr_assert_eq(reading.progress, HTTP_COMPLETE);
	cr_assert_null(reading.reader.request.body);
}

Test(http, waiting_client_is_told_to_continue_once)
{
	struct reading reading =
		read_whole("PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
	size_t used;

	cr_assert_eq(reading.progress, HTTP_NEED_MORE);
	cr_assert(http_reader_take_continue(&reading.reader));
	cr_assert_not(http_reader_take_continue(&reading.reader));
	cr_assert_eq(http_reader_feed(&reading.reader, "{}", 2, &used, NULL), HTTP_COMPLETE);
	http_reader_reset(&reading.reader);
	cr_assert_not(http_reader_take_continue(&reading.reader));
}

Test(http, client_that_does_not_wait_is_not_told_to_continue)
{
	static const char *const texts[] = {
		"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{", /* sends
											   already
											 */
		"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",	/* does not
											   know it */
		"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",	/* has
											   nothing to
											   send */
		"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", /* not there yet
										    */
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct reading reading = read_whole(texts[i]);

		cr_assert_not(http_reader_take_continue(&reading.reader), "%s", texts[i]);
		http_reader_destroy(&reading.reader);
	}
}

static void assert_answer(struct http_response response, unsigned int minor_version,
			  bool keep_alive, const char *expected)
{
	size_t length;
	char *bytes = http_response_format(&response, minor_version, keep_alive, &length);

	cr_assert_eq(length, strlen(expected));
	cr_assert_eq(memcmp(bytes, expected, length), 0, "%.*s", (int)length, bytes);
	free(bytes);
}

Test(http, answer_without_content_has_no_length)
{
	assert_answer(
		(struct http_response) { .status = 204 }, 1, true,
		"HTTP/1.1 204 No Content\r\nServer: Mayfly API\r\nConnection: keep-alive\r\n\r\n");
}

Test(http, answer_with_content_names_type_and_length)
{
	char body[] = "{}";

	assert_answer((struct http_response) { .status = 200, .body = body, .body_bytes = 2 }, 1,
		      true,
		      "HTTP/1.1 200 OK\r\nServer: Mayfly API\r\nConnection: keep-alive\r\n"
		      "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
}

Test(http, answer_echoes_version_and_says_that_it_closes)
{
	char body[] = "{}";

	assert_answer((struct http_response) { .status = 400, .body = body, .body_bytes = 2 }, 0,
		      false,
		      "HTTP/1.0 400 Bad Request\r\nServer: Mayfly API\r\nConnection: close\r\n"
		      "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
}

Test(http, answer_to_deprecated_use_says_so)
{
	assert_answer((struct http_response) { .status = 204, .deprecated = true }, 1, true,
		      "HTTP/1.1 204 No Content\r\nServer: Mayfly API\r\nConnection: keep-alive\r\n"
		      "Deprecation: true\r\n\r\n");
}

Test(http, answer_whose_body_could_not_be_made_is_empty)
{
	assert_answer(
		(struct http_response) { .status = 500 }, 1, true,
		"HTTP/1.1 500 Internal Server Error\r\nServer: Mayfly API\r\nConnection: keep-alive\r\n"
		"Content-Length: 0\r\n\r\n");
}
