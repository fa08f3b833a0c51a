/*
 * A virtio network device (virtio 1.2, 5.1): one pair of queues, no offloads, whole Ethernet frames
 * of at most 1514 bytes, without the checksum that follows them on a wire.
 */
#ifndef KIT_VIRTIO_NET_H
#define KIT_VIRTIO_NET_H

#include "virtio.h"

#define NET_MAC_BYTES	    6
#define NET_FRAME_MAX_BYTES 1514

/* struct virtio_net_hdr, as VERSION_1 has it. */
struct net_header {
	uint8_t flags, gso_type;
	uint16_t header_bytes, gso_bytes, checksum_start, checksum_offset, buffers;
};

struct net_buffer {
	struct net_header header;
	uint8_t frame[2048 - sizeof(struct net_header)];
};

struct net {
	struct virtio_device *device;
	struct virtqueue receive, transmit;
	struct net_buffer *out; /* the one frame that is sent at a time */
	uint8_t mac[NET_MAC_BYTES];
	uint64_t received, sent; /* frames */
};

/* Opens the index-th network device; false when there is none. Its interrupts are on. */
bool net_open(struct net *net, unsigned int index);

/*
 * Waits, asleep, for the next frame. It belongs to the caller until net_give_back(). Frames that
 * are too short to be any are passed over.
 */
uint8_t *net_receive(struct net *net, uint32_t *bytes);
void net_give_back(struct net *net, uint8_t *frame);

/* Where to write the next frame; waits until the one before is gone. */
uint8_t *net_next_frame(struct net *net);

/* Sends what was written there. */
void net_send(struct net *net, uint32_t bytes);

#endif
