/* A monitor's first message: see handler.h. */
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>

#include "handler.h"

#define MESSAGE_BYTES_MAX 16384
#define HUGE_PAGE_BYTES	  (2 * MIB)

static int get_number(const json_t *object, unsigned int index, const char *name, uint64_t *value,
		      struct error *err)
{
	const json_t *member = json_object_get(object, name);

	if (!json_is_integer(member) || json_integer_value(member) < 0)
		return error_set(err, EINVAL, "region %u: %s is no whole number", index, name);
	*value = (uint64_t)json_integer_value(member);
	return 0;
}

static int check_region(const struct handler_region *region, unsigned int index,
			uint64_t image_bytes, struct error *err)
{
	if (region->page_bytes != PAGE_SIZE_BYTES && region->page_bytes != HUGE_PAGE_BYTES)
		return error_set(err, EINVAL, "region %u: page_size %llu is neither 4096 nor 2 MiB",
				 index, (unsigned long long)region->page_bytes);
	if (region->size_bytes == 0 || !is_aligned(region->size_bytes, region->page_bytes) ||
	    !is_aligned(region->start, region->page_bytes) ||
	    !range_within(region->start, region->size_bytes, UINT64_MAX))
		return error_set(
			err, EINVAL,
			"region %u: base_host_virt_addr and size are not those of whole pages",
			index);
	if (!is_aligned(region->offset, PAGE_SIZE_BYTES) ||
	    !range_within(region->offset, region->size_bytes, image_bytes))
		return error_set(err, EINVAL,
				 "region %u: the memory file has no %llu bytes at offset %llu",
				 index, (unsigned long long)region->size_bytes,
				 (unsigned long long)region->offset);
	return 0;
}

static int take_region(struct connection *connection, const json_t *object, uint64_t image_bytes,
		       struct error *err)
{
	unsigned int index = connection->region_count;
	struct handler_region *region = &connection->regions[index];
	int result = get_number(object, index, "base_host_virt_addr", &region->start, err);

	if (result == 0)
		result = get_number(object, index, "size", &region->size_bytes, err);
	if (result == 0)
		result = get_number(object, index, "offset", &region->offset, err);
	if (result == 0)
		result = get_number(object, index, "page_size", &region->page_bytes, err);
	if (result == 0)
		result = check_region(region, index, image_bytes, err);
	if (result < 0)
		return result;
	connection->memory_bytes += region->size_bytes;
	connection->region_count++;
	return 0;
}

int connection_parse(struct connection *connection, const char *text, size_t length,
		     const struct memory_image *image, struct error *err)
{
	json_error_t where;
	json_t *regions = json_loadb(text, length, JSON_REJECT_DUPLICATES, &where);
	size_t count = json_array_size(regions);
	/* What stands behind the memory is no guest's. */
	uint64_t end = image->memory_bytes ? image->memory_bytes : image->size_bytes;
	int result = 0;

	connection->region_count = 0;
	connection->memory_bytes = 0;
	if (!regions)
		result =
			error_set(err, EBADMSG, "the monitor's message is no JSON: %s", where.text);
	else if (!json_is_array(regions) || count == 0 || count > HANDLER_MAX_REGIONS)
		result = error_set(err, EINVAL,
				   "the monitor's message is no array of 1 to %d regions",
				   HANDLER_MAX_REGIONS);
	for (size_t i = 0; i < count && result == 0; i++)
		result = take_region(connection, json_array_get(regions, i), end, err);
	if (result == 0 && image->memory_bytes && connection->memory_bytes != image->memory_bytes)
		result = error_set(err, EINVAL,
				   "the guest has %llu bytes of memory, and the memory file is of "
				   "one with %llu",
				   (unsigned long long)connection->memory_bytes,
				   (unsigned long long)image->memory_bytes);
	json_decref(regions);
	return result;
}

/* Takes what a message brought of descriptors: one is wanted, more are closed. */
static void take_descriptors(struct connection *connection, struct msghdr *message)
{
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header;
	     header = CMSG_NXTHDR(message, header)) {
		size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(header) + i * sizeof(fd), sizeof(fd));
			if (connection->uffd < 0)
				connection->uffd = fd;
			else
				close_fd(&fd);
		}
	}
}

static int receive(struct connection *connection, const struct memory_image *image,
		   struct error *err)
{
	char text[MESSAGE_BYTES_MAX];
	size_t used = 0;
	int result;

	/* A stream has no borders between messages: it is complete when it is an array. */
	do {
		union {
			struct cmsghdr header;
			char bytes[CMSG_SPACE(4 * sizeof(int))];
		} control;
		struct iovec iov = { .iov_base = text + used, .iov_len = sizeof(text) - used };
		struct msghdr message = { .msg_iov = &iov,
					  .msg_iovlen = 1,
					  .msg_control = control.bytes,
					  .msg_controllen = sizeof(control.bytes) };
		ssize_t got = recvmsg(connection->fd, &message, MSG_CMSG_CLOEXEC);

		if (got < 0 && errno == EINTR) {
			result = -EBADMSG;
			continue;
		}
		if (got < 0)
			return error_errno(err, "cannot receive the monitor's message");
		if (got == 0)
			return error_set(err, EINVAL, "the monitor left without a whole message");
		take_descriptors(connection, &message);
		used += (size_t)got;
		result = connection_parse(connection, text, used, image, err);
	} while (result == -EBADMSG && used < sizeof(text));
	if (result == 0 && connection->uffd < 0)
		return error_set(err, EINVAL, "the monitor's message brought no userfaultfd");
	return result;
}

int connection_open(struct connection *connection, int fd, const struct memory_image *image,
		    struct error *err)
{
	int result;

	*connection = (struct connection) { .fd = fd, .uffd = -1 };
	result = receive(connection, image, err);
	if (result < 0)
		connection_close(connection);
	return result;
}

void connection_close(struct connection *connection)
{
	close_fd(&connection->uffd);
	close_fd(&connection->fd);
}
