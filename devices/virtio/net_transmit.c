/*
 * Frames from the guest (virtio 1.2, 5.1.6.1 and 5.1.6.2).
 *
 * Each chain is one frame, which the kernel reads from the guest's memory; nothing of it is copied
 * here but the header before it. That one is copied once, held against what was negotiated, and
 * handed on from the copy: a guest reaches the parts of the host's network code that its features
 * name and no others, and cannot change the header behind the check. That offsets and sizes in the
 * header suit the frame is for the kernel to see (virtio_net_hdr_to_skb()), which has a copy of
 * both by then; it refuses what does not.
 */
#include "iov.h"
#include "net_private.h"

static struct virtqueue *queue_of(struct virtio_net *net)
{
	return &net->mmio.queues[NET_TX_QUEUE].virtqueue;
}

static bool has(const struct virtio_net *net, unsigned int feature)
{
	return virtio_mmio_has_feature(&net->mmio, feature);
}

/*
 * 5.1.6.2.1, and the device's part in 5.1.6.2.2: flags that mean nothing here are ignored, and so
 * taken away. False for an offload that was not negotiated.
 */
static bool clean_header(const struct virtio_net *net, struct virtio_net_hdr_v1 *header)
{
	bool partial = header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
	bool ecn = header->gso_type & VIRTIO_NET_HDR_GSO_ECN;

	header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM;
	header->num_buffers = 0;
	if (partial && !has(net, VIRTIO_NET_F_CSUM))
		return false;
	switch (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return !ecn;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return partial && has(net, VIRTIO_NET_F_HOST_TSO4) &&
		       (!ecn || has(net, VIRTIO_NET_F_HOST_ECN));
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return partial && has(net, VIRTIO_NET_F_HOST_TSO6) &&
		       (!ecn || has(net, VIRTIO_NET_F_HOST_ECN));
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return partial && !ecn && has(net, VIRTIO_NET_F_HOST_USO);
	default:
		return false;
	}
}

/*
 * Takes the next chain and makes net->tx its frame. 1: done. 0: there is none. -EBADMSG: there is
 * one, which is no frame that can be sent. -EPROTO: the driver broke the rules.
 */
static int take_frame(struct virtio_net *net)
{
	struct virtqueue *queue = queue_of(net);
	struct net_transmit *tx = &net->tx;
	struct virtqueue_chain chain = { .iov = tx->iov + 1 };
	int popped = virtqueue_pop(queue, &chain);

	if (popped == 0)
		return 0;
	if (popped < 0)
		net_needs_reset(net, NET_TX_QUEUE, queue->fault, queue->fault_value);
	else if (chain.writable_count)
		net_needs_reset(net, NET_TX_QUEUE, "a device-writable buffer in the transmit queue",
				chain.head);
	else if (chain.readable_bytes < TAP_HEADER_BYTES)
		net_needs_reset(net, NET_TX_QUEUE, "a frame shorter than its header",
				chain.readable_bytes);
	if (!virtio_mmio_is_live(&net->mmio))
		return -EPROTO;

	tx->head = chain.head;
	tx->bytes = chain.readable_bytes - TAP_HEADER_BYTES;
	if (tx->bytes < NET_ETHERNET_BYTES || chain.readable_bytes > NET_MAX_FRAME_BYTES)
		return -EBADMSG;
	iov_gather(chain.iov, &tx->header, sizeof(tx->header));
	if (!clean_header(net, &tx->header))
		return -EBADMSG;
	tx->frame = chain.iov;
	tx->frame_count = chain.readable_count;
	iov_skip(&tx->frame, &tx->frame_count, sizeof(tx->header));
	/* The copy takes the place in front: tx->iov has one for it. */
	tx->frame--;
	tx->frame_count++;
	tx->frame[0] = (struct iovec) { &tx->header, sizeof(tx->header) };
	return 1;
}

static void drop_frame(struct virtio_net *net, _Atomic uint64_t *counter)
{
	counter_add(counter, 1);
	virtqueue_push(queue_of(net), net->tx.head, 0);
}

/* Hands the frame to the TAP, which takes it, refuses it, or has no room: then it is held. */
static void send_frame(struct virtio_net *net)
{
	struct net_transmit *tx = &net->tx;
	ssize_t result = -EBADFD;

	tx->held = false;
	if (!net->tap_lost)
		result = net->tap.ops->write(&net->tap, tx->frame, tx->frame_count);
	switch (result < 0 ? (int)-result : 0) {
	case 0:
		net_set_link(net, true);
		counter_add(&net->metrics.tx_frames, 1);
		counter_add(&net->metrics.tx_bytes, tx->bytes);
		virtqueue_push(queue_of(net), tx->head, 0);
		return;
	case EAGAIN:
	case EINTR:
		tx->held = true;
		return;
	case EINVAL:
		drop_frame(net, &net->metrics.tx_malformed);
		return;
	case EIO:
		net_set_link(net, false);
		break;
	case EBADFD:
		net_lose_tap(net);
		break;
	default:
		break;
	}
	drop_frame(net, &net->metrics.tap_write_fails);
}

/*
 * Until there is no frame, the TAP has no room, a limit is reached, or the turn's work is done:
 * true for that. A frame that is held was let through already.
 */
static bool send_frames(struct virtio_net *net)
{
	unsigned int frames = 0;
	uint64_t bytes = 0;

	while (frames < NET_TURN_FRAMES && bytes < NET_TURN_BYTES) {
		int taken;

		if (!net->tx.held && !rate_limiter_admits(&net->tx_limiter))
			return false;
		taken = net->tx.held ? 1 : take_frame(net);
		if (taken == 1)
			send_frame(net);
		else if (taken == -EBADMSG)
			drop_frame(net, &net->metrics.tx_malformed);
		else
			return false;
		if (net->tx.held)
			return false;
		frames++;
		bytes += net->tx.bytes;
		rate_limiter_take(&net->tx_limiter, 1, taken == 1 ? net->tx.bytes : 0);
	}
	return true;
}

void net_transmit(struct virtio_net *net)
{
	struct virtqueue *queue = queue_of(net);
	bool more;

	do {
		virtqueue_disable_notify(queue);
		more = send_frames(net);
		virtio_mmio_publish(&net->mmio, NET_TX_QUEUE);
		if (more)
			virtio_mmio_notify_later(&net->mmio, NET_TX_QUEUE);
		/* What is held goes on when the TAP has room. */
		if (more || net->tx.held || !virtio_mmio_is_live(&net->mmio))
			return;
		if (!virtqueue_enable_notify(queue))
			return;
	} while (rate_limiter_admits(&net->tx_limiter));
	virtqueue_disable_notify(queue);
	rate_limiter_wait(&net->tx_limiter);
}

void net_transmit_pause(struct virtio_net *net)
{
	if (net->tx.held)
		virtqueue_unpop(queue_of(net), 1);
	net->tx.held = false;
}

void net_transmit_stop(struct virtio_net *net)
{
	net->tx.held = false;
}
