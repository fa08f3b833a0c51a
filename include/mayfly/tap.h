/*
 * A TAP of the host: the other end of a network interface's wire.
 *
 * Every frame that goes through begins with a struct virtio_net_hdr_v1 (TAP_HEADER_BYTES), in both
 * directions, so that checksums and segmentation are passed on as they are. One call moves one
 * frame, and never waits.
 *
 * Source: Linux Documentation/networking/tuntap.rst, drivers/net/tun.c. One thread at a time may
 * use a TAP (the device's lock sees to that); it need not be the same one.
 */
#ifndef MAYFLY_TAP_H
#define MAYFLY_TAP_H

#include <sys/uio.h>
#include "mayfly/config.h"

#define TAP_HEADER_BYTES 12

/* What the reader of a TAP can take, as TUNSETOFFLOAD has it. */
enum tap_offload {
	TAP_OFFLOAD_CHECKSUM = 1 << 0, /* without it, none of the others */
	TAP_OFFLOAD_TSO4 = 1 << 1,
	TAP_OFFLOAD_TSO6 = 1 << 2,
	TAP_OFFLOAD_TSO_ECN = 1 << 3,
	TAP_OFFLOAD_USO4 = 1 << 4, /* UDP; only with USO6, and the reverse */
	TAP_OFFLOAD_USO6 = 1 << 5,
};

struct tap;

/*
 * How frames move. There is one for the kernel's TAPs; tests have others. read() and write() return
 * a frame's length, header included, or a negative errno. -EAGAIN: not now; wait for EPOLLIN or
 * EPOLLOUT. -EIO from write(): the TAP is down; EPOLLOUT comes when it is up again. -EBADFD: it was
 * deleted.
 */
struct tap_ops {
	ssize_t (*read)(struct tap *tap, const struct iovec *iov, unsigned int iov_count);
	ssize_t (*write)(struct tap *tap, const struct iovec *iov, unsigned int iov_count);
	/* `offloads` of enum tap_offload. 0 or a negative errno. */
	int (*set_offloads)(struct tap *tap, unsigned int offloads);
};

struct tap {
	const struct tap_ops *ops;
	int fd;
	bool has_uso; /* the kernel knows UDP segmentation (Linux 6.2) */
};

/*
 * Attaches to the TAP that `config` names, with no offloads. It must be there already, and nobody
 * else attached. On failure nothing is attached or made; the message begins "network interface ID:
 * host_dev_name NAME: " and says what to do.
 */
int tap_open(struct tap *tap, const struct network_interface_config *config, struct error *err);

/* Detaches. Does nothing to one that is not open (fd -1). */
void tap_close(struct tap *tap);

/* Whether tap_open() would succeed now. */
int tap_check(const struct network_interface_config *config, struct error *err);

#endif
