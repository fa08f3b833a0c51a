/*
 * mayfly-uffd with a hostile monitor: its first message, in pieces and with any number of
 * descriptors, over a real socket; and the memory file that another tool may have cut. What is
 * accepted lies within the file, in whole pages, and no descriptor is left open.
 *
 * The first byte says how many descriptors come, the second after how many bytes the message is cut
 * in two; the rest is the message.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz_input.h"
#include "uffd/handler.h"

#define IMAGE_BYTES	(8 * MIB)
#define DESCRIPTORS_MAX 7
#define FDS		64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

static unsigned int count_open(void)
{
	unsigned int count = 0;

	for (int fd = 0; fd < FDS; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void check_regions(const struct connection *connection)
{
	uint64_t total = 0;

	FUZZ_CHECK(connection->region_count >= 1 &&
		   connection->region_count <= HANDLER_MAX_REGIONS);
	for (unsigned int i = 0; i < connection->region_count; i++) {
		const struct handler_region *region = &connection->regions[i];

		FUZZ_CHECK(region->page_bytes == 4096 || region->page_bytes == 2 * MIB);
		FUZZ_CHECK(region->size_bytes > 0 && region->size_bytes % region->page_bytes == 0);
		FUZZ_CHECK(region->start % region->page_bytes == 0);
		FUZZ_CHECK(region->start + region->size_bytes >= region->start);
		FUZZ_CHECK(region->offset <= IMAGE_BYTES &&
			   region->size_bytes <= IMAGE_BYTES - region->offset);
		total += region->size_bytes;
	}
	FUZZ_CHECK(total == connection->memory_bytes);
}

static void send_piece(int fd, const uint8_t *bytes, size_t length, unsigned int descriptors)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)bytes, .iov_len = length };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (length == 0)
		return;
	if (descriptors) {
		struct cmsghdr *header;
		int passed[DESCRIPTORS_MAX];

		for (unsigned int i = 0; i < descriptors; i++)
			passed[i] = STDERR_FILENO;
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
		header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(descriptors * sizeof(int));
		memcpy(CMSG_DATA(header), passed, descriptors * sizeof(int));
	}
	FUZZ_CHECK(sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	struct fuzz_input input = { data, length < 20000 ? length : 20000 };
	/* A file of Mayfly's says how much memory it is of. */
	struct memory_image image = { .size_bytes = IMAGE_BYTES,
				      .fd = -1,
				      .memory_bytes = length % 2 ? IMAGE_BYTES : 0 };
	unsigned int before = count_open(), descriptors = input_u8(&input) % (DESCRIPTORS_MAX + 1);
	size_t cut = (size_t)input_u8(&input) * 8;
	struct connection connection;
	struct error err = { 0 };
	int ends[2];

	if (cut > input.length)
		cut = input.length;
	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	/* What comes in one piece brings its descriptors with it. */
	send_piece(ends[1], input.data, cut, descriptors);
	send_piece(ends[1], input.data + cut, input.length - cut, cut ? 0 : descriptors);
	shutdown(ends[1], SHUT_WR);
	if (connection_open(&connection, ends[0], &image, &err) == 0) {
		check_regions(&connection);
		FUZZ_CHECK(connection.uffd >= 0);
		connection_close(&connection);
	} else {
		FUZZ_CHECK(err.message[0] != '\0');
		FUZZ_CHECK(connection.uffd < 0 && connection.fd < 0);
	}
	close(ends[1]);
	FUZZ_CHECK(count_open() == before);
	return 0;
}
