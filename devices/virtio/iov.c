/* Lists of iovecs over guest memory: see iov.h. */
#include <stdint.h>
#include <string.h>

#include "iov.h"

void iov_gather(const struct iovec *iov, void *destination, size_t length)
{
	uint8_t *out = destination;

	while (length > 0) {
		size_t part = iov->iov_len < length ? iov->iov_len : length;

		memcpy(out, iov->iov_base, part);
		out += part;
		length -= part;
		iov++;
	}
	/* The compiler may not read it again behind this. */
	__asm__ volatile("" ::: "memory");
}

void iov_scatter(const struct iovec *iov, size_t offset, const void *source, size_t length)
{
	const uint8_t *in = source;

	while (length > 0 && offset >= iov->iov_len) {
		offset -= iov->iov_len;
		iov++;
	}
	while (length > 0) {
		size_t room = iov->iov_len - offset;
		size_t part = room < length ? room : length;

		memcpy((uint8_t *)iov->iov_base + offset, in, part);
		in += part;
		length -= part;
		offset = 0;
		iov++;
	}
}

void iov_skip(struct iovec **iov, unsigned int *count_left, size_t bytes)
{
	while (*count_left > 0 && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		(*count_left)--;
	}
	if (bytes > 0 && *count_left > 0) {
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
}
