/*
 * Lists of iovecs over guest memory, as virtqueue_pop() makes them: parts of them are copied, once.
 * The caller knows that the list is long enough.
 */
#ifndef DEVICES_VIRTIO_IOV_H
#define DEVICES_VIRTIO_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* Copies the first `length` bytes of the list, which may change under us: never read again. */
void iov_gather(const struct iovec *iov, void *destination, size_t length);

/* Copies to the list, from `offset` in it on. */
void iov_scatter(const struct iovec *iov, size_t offset, const void *source, size_t length);

/* Drops `bytes` off the front of the list; empty parts go too. */
void iov_skip(struct iovec **iov, unsigned int *count_left, size_t bytes);

#endif
