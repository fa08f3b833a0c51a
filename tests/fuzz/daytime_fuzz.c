/*
 * The daytime guest's answers to hostile frames: it reads nothing beyond a frame, writes nothing
 * beyond what an answer may have, and answers no frame with more than it says.
 *
 * The first byte says whether checksums are put right before, so that more is reached than their
 * check; the rest is the frame.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/guests/programs/daytime/answer.h"

#define SMALLEST_ROOM 128

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition)
{
	if (!condition)
		__builtin_trap();
}

static void mend_transport(const struct ipv4 *ip, uint8_t *payload, uint32_t bytes)
{
	const size_t at = ip->protocol == PROTOCOL_TCP ? 16 : ip->protocol == PROTOCOL_UDP ? 6 : 2;
	uint32_t sum = ip->protocol == PROTOCOL_ICMP ? 0 : checksum_pseudo_header(ip, bytes);
	uint16_t checksum = 0;

	if (bytes < at + sizeof(checksum))
		return;
	memcpy(payload + at, &checksum, sizeof(checksum));
	checksum = checksum_fold(checksum_add(sum, payload, bytes));
	memcpy(payload + at, &checksum, sizeof(checksum));
}

static void mend(uint8_t *frame, size_t size)
{
	struct ipv4 *ip = (struct ipv4 *)(frame + sizeof(struct ethernet));
	size_t header;

	if (size < sizeof(struct ethernet) + sizeof(*ip))
		return;
	size -= sizeof(struct ethernet);
	header = (size_t)(ip->version_length & 0xf) * 4;
	if (header < sizeof(*ip) || header > size)
		return;
	ip->checksum = 0;
	ip->checksum = checksum_fold(checksum_add(0, ip, header));
	if (big16(ip->bytes) >= header && big16(ip->bytes) <= size)
		mend_transport(ip, (uint8_t *)ip + header, big16(ip->bytes) - (uint32_t)header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct host host = { .mac = { 2, 0, 0, 0, 0, 2 }, .ip = big32(0x0a000002), .secret = 1 };
	size_t room;
	uint8_t *frame, *out;
	uint32_t answered;

	if (size < 2)
		return 0;
	/* Each on the heap and as large as may be, so that a byte too far is seen. */
	frame = malloc(size - 1);
	room = size - 1 < SMALLEST_ROOM ? SMALLEST_ROOM : size - 1;
	out = malloc(room);
	require(frame && out);
	memcpy(frame, data + 1, size - 1);
	if (data[0] & 1)
		mend(frame, size - 1);
	answered = answer_frame(&host, frame, (uint32_t)(size - 1), out, data[0] * 86400u);
	require(answered <= room);
	require(answered == 0 || answered >= sizeof(struct ethernet));
	free(frame);
	free(out);
	return 0;
}
