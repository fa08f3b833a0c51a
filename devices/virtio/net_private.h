/*
 * What the files of the network device share: net.c (the device), net_receive.c (from the TAP to
 * the guest) and net_transmit.c (the other way). All functions here are for the main thread with
 * the device's lock held, but for the two ..._stop(), which any thread may call.
 */
#ifndef DEVICES_VIRTIO_NET_PRIVATE_H
#define DEVICES_VIRTIO_NET_PRIVATE_H

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include "mayfly/virtio_net.h"

/* Younger than the headers of some kernels. */
#ifndef VIRTIO_NET_F_GUEST_USO4
#define VIRTIO_NET_F_GUEST_USO4 54
#define VIRTIO_NET_F_GUEST_USO6 55
#define VIRTIO_NET_F_HOST_USO	56
#endif
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

enum {
	NET_RX_QUEUE,
	NET_TX_QUEUE,
	NET_QUEUES
}; /* 5.1.2 */

#define NET_ETHERNET_BYTES 14
/* The largest frame: headers of virtio and Ethernet, a VLAN tag, and an IP packet. */
#define NET_MAX_FRAME_BYTES (TAP_HEADER_BYTES + NET_ETHERNET_BYTES + 4 + 65535)

/* What one turn moves in one direction before the loop serves others. */
#define NET_TURN_FRAMES 64
#define NET_TURN_BYTES	(512 * KIB)

/* readv(2) takes no longer list (UIO_MAXIOV). */
#define NET_RX_IOVS 1024

/* A chain of the receive queue that waits for a frame. */
struct net_buffer {
	uint16_t head;
	uint16_t iov_count;
	uint64_t bytes;
};

struct net_receive {
	/* Chains in the order of the queue, as a ring; and their memory, as one list. */
	struct net_buffer buffers[VIRTIO_NET_QUEUE_SIZE];
	unsigned int first, count;
	struct iovec iov[NET_RX_IOVS];
	unsigned int iov_first, iov_count;
	uint64_t bytes;	      /* that all of them hold */
	unsigned int at_most; /* the most chains that the driver ever let us have at one time */

	/* The driver has to give buffers before anything can go on: it will notify. */
	bool starved;
	/*
	 * A frame that was read and does not fit yet: its length, and how much of it is in
	 * the buffers above. The rest is in `overflow`. 0: there is none.
	 */
	uint64_t pending_bytes, pending_placed;
	uint8_t overflow[NET_MAX_FRAME_BYTES + 1];
};

struct net_transmit {
	/* A frame that was taken from the queue and that the TAP had no room for. */
	bool held;
	uint16_t head;
	uint64_t bytes; /* without the header */
	struct virtio_net_hdr_v1 header;
	struct iovec *frame; /* within iov: the header above, then the guest's memory */
	unsigned int frame_count;
	struct iovec iov[1 + VIRTIO_NET_QUEUE_SIZE];
};

/* How often the TAP's offloads may change. */
#define NET_OFFLOAD_CHANGES   16
#define NET_OFFLOAD_PERIOD_NS 1000000000ULL

struct virtio_net {
	struct virtio_mmio mmio;
	struct tap tap;
	struct loop_source tap_source;
	bool tap_lost; /* deleted under us: nothing comes or goes any more */
	bool offloads_set;
	unsigned int offloads;	      /* that the TAP has, once set */
	unsigned int offload_changes; /* since the period began */
	uint64_t offload_period_ns;
	struct virtio_net_config config;
	struct virtio_net_metrics metrics;
	struct log_limit log_limit;
	struct rate_limiter rx_limiter, tx_limiter;
	bool rx_limited; /* a frame waits in the TAP until rx_limiter's timer */
	struct net_receive rx;
	struct net_transmit tx;
};

/*
 * Gives the guest the frames that the TAP has, until it has no more, the guest has no room, or the
 * turn's work is done.
 */
void net_receive(struct virtio_net *net);

/* Gives what was taken from the queue back to it, and keeps a frame that waits. */
void net_receive_pause(struct virtio_net *net);

/*
 * A frame of this length, in `overflow`, waits for buffers. False when none can: it is nothing that
 * the driver would take.
 */
bool net_receive_hold(struct virtio_net *net, uint64_t length);

/* Forgets what was taken from the queue. */
void net_receive_stop(struct virtio_net *net);

/* Gives the TAP the frames that the guest has, until the TAP has no room or the turn's work is
 * done. */
void net_transmit(struct virtio_net *net);

/* Gives a frame that is held back to the queue. */
void net_transmit_pause(struct virtio_net *net);

void net_transmit_stop(struct virtio_net *net);

/* Sets the TAP's offloads to what the driver has accepted. Any thread. */
void net_activate(struct virtio_mmio *mmio);

/* 5.1.4: the link as the guest sees it. */
void net_set_link(struct virtio_net *net, bool up);

/* The TAP is not there any more. */
void net_lose_tap(struct virtio_net *net);

/* The driver broke the rules. */
void net_needs_reset(struct virtio_net *net, unsigned int queue, const char *reason,
		     uint64_t value);

#endif
