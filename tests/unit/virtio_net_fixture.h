/*
 * What the tests of the network device share: a device whose TAP is one end of a socket pair, which
 * keeps frames apart as a TAP does, and a driver with two rings. Reads and writes of the TAP can be
 * made to fail.
 */
#ifndef TESTS_UNIT_VIRTIO_NET_FIXTURE_H
#define TESTS_UNIT_VIRTIO_NET_FIXTURE_H

#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "mayfly/virtio_net.h"
#include "virtio_driver.h"

#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define RING_SIZE 64
#define RX	  0
#define TX	  1
#define TX_RING	  0x60000ULL /* its offset */
#define ALIVE	  (FEATURES_STATUS | VIRTIO_CONFIG_S_DRIVER_OK)
#define HEADER	  sizeof(struct virtio_net_hdr_v1)

#define FEATURE(bit) (1ULL << (bit))
#define USUAL                                                                      \
	(FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | \
	 FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS) |                \
	 FEATURE(VIRTIO_NET_F_MRG_RXBUF) | FEATURE(VIRTIO_NET_F_CSUM) |            \
	 FEATURE(VIRTIO_NET_F_GUEST_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |     \
	 FEATURE(VIRTIO_NET_F_GUEST_TSO6) | FEATURE(VIRTIO_NET_F_HOST_TSO4) |      \
	 FEATURE(VIRTIO_NET_F_HOST_TSO6))

/* Buffer n of each queue. */
#define RX_BUFFER(n) (RING_BUFFERS + 0x1000ULL * (n))
#define TX_BUFFER(n) (RING_BUFFERS + 0x400000ULL + 0x20000ULL * (n))

/* The TAP as the device has it: what it is told, and how it fails. */
static struct fake_tap {
	int read_error, write_error; /* an errno; 0: as the socket says */
	int offloads;		     /* -1: never set */
	unsigned int offload_changes;
	unsigned int reads, writes;
} fake_tap;

static inline ssize_t fake_read(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length;

	fake_tap.reads++;
	if (fake_tap.read_error)
		return -fake_tap.read_error;
	length = readv(tap->fd, iov, (int)count);
	return length < 0 ? -errno : length;
}

static inline ssize_t fake_write(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length;

	fake_tap.writes++;
	if (fake_tap.write_error)
		return -fake_tap.write_error;
	length = writev(tap->fd, iov, (int)count);
	return length < 0 ? -errno : length;
}

static inline int fake_set_offloads(struct tap *tap, unsigned int offloads)
{
	fake_tap.offloads = (int)offloads;
	fake_tap.offload_changes++;
	return 0;
}

static const struct tap_ops fake_ops = { fake_read, fake_write, fake_set_offloads };

struct fixture {
	struct driver driver; /* its ring is the receive queue's */
	struct ring tx;
	struct virtio_net *net;
	int host; /* the host's end of the wire */
};

/* A device over a new TAP. */
static inline void make_device(struct fixture *f, const struct virtio_net_options *wanted,
			       bool has_uso)
{
	struct virtio_net_options options = *wanted;
	struct tap tap = { .ops = &fake_ops, .has_uso = has_uso };
	struct error err = { 0 };
	int ends[2];

	fake_tap = (struct fake_tap) { .offloads = -1 };
	cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends),
		     0);
	tap.fd = ends[0];
	f->host = ends[1];
	options.memory = &f->driver.memory;
	options.loop = &f->driver.loop;
	options.log = &f->driver.log;
	options.interrupt_fd = f->driver.interrupt_fd;
	cr_assert_eq(virtio_net_create(&f->net, &options, &tap, &err), 0, "%s", err.message);
	cr_assert_eq(tap.fd, -1, "it is the device's");
	f->driver.mmio = virtio_net_transport(f->net);
}

static inline void set_up_with(struct fixture *f, uint16_t mtu, bool has_uso)
{
	struct virtio_net_options options = {
		.iface_id = "eth0",
		.mac = { 0x06, 0x00, 0xac, 0x10, 0x00, 0x02 },
		.mtu = mtu,
	};

	memset(f, 0, sizeof(*f));
	driver_init(&f->driver, 64 * MIB);
	make_device(f, &options, has_uso);
}

static inline void tear_down(struct fixture *f)
{
	virtio_net_destroy(f->net);
	close(f->host);
	driver_destroy(&f->driver);
}

/* A live device with both rings. */
static inline void start(struct fixture *f, uint64_t features)
{
	driver_negotiate(&f->driver, features);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), FEATURES_STATUS);
	driver_set_up_ring(&f->driver, &f->driver.ring, RX, 0, RING_SIZE);
	driver_set_up_ring(&f->driver, &f->tx, TX, TX_RING, RING_SIZE);
	driver_set(&f->driver, VIRTIO_MMIO_STATUS, ALIVE);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), ALIVE);
}

static inline void set_up(struct fixture *f, uint64_t features)
{
	set_up_with(f, 0, true);
	start(f, features);
}

static inline const struct virtio_net_metrics *metrics(struct fixture *f)
{
	return virtio_net_metrics(f->net);
}

static inline void *at(struct fixture *f, uint64_t gpa, uint64_t length)
{
	return guest(&f->driver.memory, gpa, length);
}

static inline void notify(struct fixture *f, unsigned int queue)
{
	driver_set(&f->driver, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
}

static inline bool is_alive(struct fixture *f)
{
	return driver_get(&f->driver, VIRTIO_MMIO_STATUS) == ALIVE;
}

/* Receive buffers first to first + count - 1 of `length` bytes, without a notification. */
static inline void post(struct fixture *f, unsigned int first, unsigned int count, uint32_t length)
{
	for (unsigned int n = first; n < first + count; n++) {
		ring_set(&f->driver.ring, n % RING_SIZE, RX_BUFFER(n), length, VRING_DESC_F_WRITE,
			 0);
		ring_add(&f->driver.ring, (uint16_t)(n % RING_SIZE));
	}
	ring_publish(&f->driver.ring);
}

static inline uint8_t pattern(size_t i, unsigned int seed)
{
	return (uint8_t)((i * 7 + seed) % 251);
}

/* What the host sends: a header and `length` bytes of a frame. Whether the wire took it. */
static inline bool host_sends(struct fixture *f, const struct virtio_net_hdr_v1 *header,
			      size_t length, unsigned int seed)
{
	static const struct virtio_net_hdr_v1 none;
	uint8_t *message = malloc(HEADER + length);
	ssize_t sent;

	memcpy(message, header ? header : &none, HEADER);
	for (size_t i = 0; i < length; i++)
		message[HEADER + i] = pattern(i, seed);
	sent = send(f->host, message, HEADER + length, 0);
	free(message);
	return sent == (ssize_t)(HEADER + length);
}

/* A chain of one buffer in the transmit queue: the header and `length` bytes. */
static inline void put_frame(struct fixture *f, unsigned int n,
			     const struct virtio_net_hdr_v1 *header, uint32_t length)
{
	static const struct virtio_net_hdr_v1 none;
	uint8_t *buffer = at(f, TX_BUFFER(n), HEADER + length);

	memcpy(buffer, header ? header : &none, HEADER);
	for (size_t i = 0; i < length; i++)
		buffer[HEADER + i] = pattern(i, n);
	ring_set(&f->tx, n, TX_BUFFER(n), (uint32_t)HEADER + length, 0, 0);
	ring_add(&f->tx, (uint16_t)n);
}

static inline void transmit(struct fixture *f)
{
	ring_publish(&f->tx);
	notify(f, TX);
	driver_settle(&f->driver);
}

/* The next frame on the wire: its length, header included, or -1. */
static inline ssize_t host_receives(struct fixture *f, uint8_t *message, size_t size)
{
	return recv(f->host, message, size, 0);
}

/* The one frame that the guest got next, which lies in as many buffers as its header says. */
static inline void assert_received(struct fixture *f, size_t length, unsigned int seed)
{
	unsigned int left = 1;
	size_t seen = 0;

	for (bool first = true; left > 0; left--, first = false) {
		struct vring_used_elem element = ring_take(&f->driver.ring);
		struct virtio_net_hdr_v1 header;
		uint64_t gpa;

		memcpy(&gpa, at(f, RING_DESCRIPTORS + 16ULL * element.id, 8), 8);
		if (first) {
			memcpy(&header, at(f, gpa, HEADER), HEADER);
			left = header.num_buffers;
		}
		for (size_t i = first ? HEADER : 0; i < element.len; i++, seen++)
			cr_assert_eq(*(uint8_t *)at(f, gpa + i, 1), pattern(seen, seed),
				     "byte %zu of %zu", seen, length);
	}
	cr_assert_eq(seen, length);
}

#endif
