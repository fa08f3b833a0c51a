/*
 * The HTTP reader with hostile bytes: whatever the pieces in which they arrive, the same requests
 * come out, and no request breaks what the rest of the API relies on.
 *
 * The first byte of the input chooses the sizes of the pieces; the rest is what the client sends.
 */
#include <string.h>

#include "mayfly/http.h"

#define LIMIT 300

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		__builtin_trap();
}

static void check_request(const struct http_request *request)
{
	require(request->path[0] == '/' && strlen(request->path) <= HTTP_MAX_LINE_BYTES);
	for (const char *c = request->path; *c; c++)
		require(*c > 0x20 && *c < 0x7f);
	require(request->method_name[0] != '\0');
	require(request->minor_version <= 1);
	require(!request->body == (request->body_bytes == 0));
	require(request->body_bytes <= LIMIT);
	require(!request->body || request->body[request->body_bytes] == '\0');
}

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		hash = (hash ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3u;
	return hash;
}

static uint64_t hash_request(uint64_t hash, const struct http_request *request)
{
	hash = hash_bytes(hash, request->method_name, strlen(request->method_name) + 1);
	hash = hash_bytes(hash, request->path, strlen(request->path) + 1);
	hash = hash_bytes(hash, &request->keep_alive, sizeof(request->keep_alive));
	hash = hash_bytes(hash, &request->minor_version, sizeof(request->minor_version));
	return hash_bytes(hash, request->body, request->body_bytes);
}

/* All requests of a stream, in pieces whose sizes come from `seed` (0: one piece). Returns a hash
 * of what came out. */
static uint64_t run(const char *bytes, size_t length, unsigned int seed)
{
	enum http_progress progress = HTTP_NEED_MORE;
	struct http_reader reader;
	uint64_t hash = 0xcbf29ce484222325u;
	size_t next = 0;

	http_reader_init(&reader, LIMIT);
	while (next < length && progress != HTTP_REFUSED) {
		struct error err = { 0 };
		size_t piece = length - next, consumed = 0;

		if (seed) {
			seed = seed * 1103515245u + 12345u;
			if (piece > 1 + (seed >> 16) % 40)
				piece = 1 + (seed >> 16) % 40;
		}
		progress = http_reader_feed(&reader, bytes + next, piece, &consumed, &err);
		require(consumed <= piece);
		next += consumed;
		if (progress == HTTP_NEED_MORE) {
			require(consumed == piece);
			http_reader_take_continue(&reader);
			require(!http_reader_take_continue(&reader));
		} else if (progress == HTTP_COMPLETE) {
			check_request(&reader.request);
			hash = hash_request(hash, &reader.request);
			http_reader_reset(&reader);
		} else {
			require(err.message[0] != '\0');
			hash = hash_bytes(hash, err.message, strlen(err.message));
		}
	}
	http_reader_destroy(&reader);
	return hash_bytes(hash, &next, sizeof(next));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	require(run((const char *)data + 1, size - 1, 0) ==
		run((const char *)data + 1, size - 1, 1u + data[0]));
	return 0;
}
