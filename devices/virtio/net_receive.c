/*
 * Frames to the guest (virtio 1.2, 5.1.6.3 and 5.1.6.4).
 *
 * The TAP gives a frame for each read, of a length that is known only afterwards. Chains are taken
 * from the queue ahead, enough for the largest frame where the driver has given so many, and the
 * kernel writes the frame right into them; behind them in the list stands a buffer of our own. A
 * frame that reaches into that one waits for more chains when frames may be spread over several
 * (VIRTIO_NET_F_MRG_RXBUF), and is dropped otherwise. So no frame is lost because the guest was
 * slow, and none is copied but the end of one that came when it was.
 *
 * Chains are used in the order in which they were taken: those of the list are always the queue's
 * last ones that are out.
 */
#include <string.h>

#include "iov.h"
#include "net_private.h"

static struct virtqueue *queue_of(struct virtio_net *net)
{
	return &net->mmio.queues[NET_RX_QUEUE].virtqueue;
}

static bool is_mergeable(const struct virtio_net *net)
{
	return virtio_mmio_has_feature(&net->mmio, VIRTIO_NET_F_MRG_RXBUF);
}

/* Room behind the list for the longest chain, and for our own buffer. */
static bool has_iov_room(struct net_receive *rx)
{
	const unsigned int needed = VIRTIO_NET_QUEUE_SIZE + 1;

	if (rx->iov_first + rx->iov_count + needed > NET_RX_IOVS) {
		memmove(rx->iov, rx->iov + rx->iov_first, rx->iov_count * sizeof(rx->iov[0]));
		rx->iov_first = 0;
	}
	return rx->iov_count + needed <= NET_RX_IOVS;
}

static void add_buffer(struct net_receive *rx, const struct virtqueue_chain *chain)
{
	rx->buffers[(rx->first + rx->count++) % VIRTIO_NET_QUEUE_SIZE] = (struct net_buffer) {
		.head = chain->head,
		.iov_count = (uint16_t)chain->writable_count,
		.bytes = chain->writable_bytes,
	};
	rx->iov_count += chain->writable_count;
	rx->bytes += chain->writable_bytes;
}

/*
 * Takes chains until the largest frame fits, or there are no more. False when the driver broke the
 * rules.
 */
static bool take_buffers(struct virtio_net *net)
{
	const unsigned int most = is_mergeable(net) ? VIRTIO_NET_QUEUE_SIZE : 1;
	struct virtqueue *queue = queue_of(net);
	struct net_receive *rx = &net->rx;
	unsigned int offered = virtqueue_in_flight(queue) + virtqueue_waiting(queue);

	if (offered > rx->at_most)
		rx->at_most = offered;
	while (rx->count < most && rx->bytes < NET_MAX_FRAME_BYTES && has_iov_room(rx)) {
		struct virtqueue_chain chain = { .iov = rx->iov + rx->iov_first + rx->iov_count };
		int popped = virtqueue_pop(queue, &chain);

		if (popped == 0)
			break;
		if (popped < 0)
			net_needs_reset(net, NET_RX_QUEUE, queue->fault, queue->fault_value);
		else if (chain.readable_count)
			net_needs_reset(net, NET_RX_QUEUE,
					"a device-readable buffer in the receive queue",
					chain.head);
		else if (chain.writable_bytes < TAP_HEADER_BYTES)
			net_needs_reset(net, NET_RX_QUEUE,
					"a receive buffer shorter than its header",
					chain.writable_bytes);
		else
			add_buffer(rx, &chain);
		if (!virtio_mmio_is_live(&net->mmio))
			return false;
	}
	return true;
}

/* How many buffers a frame of this length fills; 0 when it does not fit. */
static unsigned int buffers_for(const struct virtio_net *net, uint64_t length)
{
	const struct net_receive *rx = &net->rx;
	const unsigned int most = is_mergeable(net) ? rx->count : 1;
	uint64_t room = 0;

	for (unsigned int n = 0; n < most && n < rx->count; n++) {
		room += rx->buffers[(rx->first + n) % VIRTIO_NET_QUEUE_SIZE].bytes;
		if (room >= length)
			return n + 1;
	}
	return 0;
}

/*
 * Whether more buffers can be expected: the driver has some that it was given back. One that has
 * none will not get any.
 */
static bool may_get_more(struct virtio_net *net)
{
	return is_mergeable(net) && has_iov_room(&net->rx) &&
	       virtqueue_in_flight(queue_of(net)) < net->rx.at_most;
}

/* 5.1.6.4.1: the TAP may have queued a frame for a driver that had accepted more than this one. */
static bool is_suitable(const struct virtio_net *net, const struct virtio_net_hdr_v1 *header)
{
	const struct virtio_mmio *mmio = &net->mmio;

	if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) &&
	    !virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_CSUM))
		return false;
	if ((header->gso_type & VIRTIO_NET_HDR_GSO_ECN) &&
	    !virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_ECN))
		return false;
	switch (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE:
		return true;
	case VIRTIO_NET_HDR_GSO_TCPV4:
		return virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6:
		return virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_TSO6);
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		/* The header does not say which IP it is. */
		return virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_USO4) &&
		       virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_USO6);
	default:
		return false;
	}
}

/* What only we can say in the header, which the kernel has written. */
static void complete_header(struct virtio_net *net, unsigned int buffer_count)
{
	const struct iovec *iov = net->rx.iov + net->rx.iov_first;
	const uint8_t no_flags = 0;
	const uint16_t num_buffers = (uint16_t)buffer_count;

	/* 5.1.6.4.1: the kernel may have said that it has verified the checksum. */
	if (!virtio_mmio_has_feature(&net->mmio, VIRTIO_NET_F_GUEST_CSUM))
		iov_scatter(iov, offsetof(struct virtio_net_hdr_v1, flags), &no_flags,
			    sizeof(no_flags));
	iov_scatter(iov, offsetof(struct virtio_net_hdr_v1, num_buffers), &num_buffers,
		    sizeof(num_buffers));
}

/* Gives the frame of this length, which is in the first buffers, to the guest. */
static void give_frame(struct virtio_net *net, uint64_t length, unsigned int buffer_count)
{
	struct net_receive *rx = &net->rx;

	counter_add(&net->metrics.rx_frames, 1);
	counter_add(&net->metrics.rx_bytes, length - TAP_HEADER_BYTES);
	complete_header(net, buffer_count);
	for (unsigned int n = 0; n < buffer_count; n++) {
		const struct net_buffer *buffer = &rx->buffers[rx->first];
		uint64_t filled = length < buffer->bytes ? length : buffer->bytes;

		virtqueue_push(queue_of(net), buffer->head, (uint32_t)filled);
		length -= filled;
		rx->bytes -= buffer->bytes;
		rx->iov_first += buffer->iov_count;
		rx->iov_count -= buffer->iov_count;
		rx->first = (rx->first + 1) % VIRTIO_NET_QUEUE_SIZE;
		rx->count--;
	}
}

/* The frame that waits, now that there may be more buffers. False while it still waits. */
static bool place_pending(struct virtio_net *net)
{
	struct net_receive *rx = &net->rx;
	unsigned int buffer_count = buffers_for(net, rx->pending_bytes);

	if (buffer_count == 0 && may_get_more(net))
		return false;
	if (buffer_count == 0) {
		counter_add(&net->metrics.rx_no_room, 1);
	} else {
		iov_scatter(rx->iov + rx->iov_first, rx->pending_placed, rx->overflow,
			    rx->pending_bytes - rx->pending_placed);
		give_frame(net, rx->pending_bytes, buffer_count);
	}
	rx->pending_bytes = 0;
	return true;
}

/* A read failed. True when the next may succeed. */
static bool survive_failure(struct virtio_net *net, int code)
{
	switch (code) {
	case EAGAIN:
	case EINTR:
		return false;
	case EINVAL: /* a frame that no header of virtio can describe; the kernel has dropped it */
	case ENOMEM:
	case ENOBUFS:
		counter_add(&net->metrics.tap_read_fails, 1);
		return true;
	default:
		counter_add(&net->metrics.tap_read_fails, 1);
		net_lose_tap(net);
		return false;
	}
}

/* The frame of this length that was read into the list. */
static void take_frame(struct virtio_net *net, uint64_t length)
{
	struct net_receive *rx = &net->rx;
	struct virtio_net_hdr_v1 header;
	unsigned int buffer_count;

	if (length <= TAP_HEADER_BYTES || length > NET_MAX_FRAME_BYTES) {
		counter_add(&net->metrics.rx_unsuitable, 1);
		return;
	}
	iov_gather(rx->iov + rx->iov_first, &header, sizeof(header));
	if (!is_suitable(net, &header)) {
		counter_add(&net->metrics.rx_unsuitable, 1);
		return;
	}
	buffer_count = buffers_for(net, length);
	if (buffer_count) {
		give_frame(net, length, buffer_count);
	} else {
		rx->pending_bytes = length;
		rx->pending_placed = rx->bytes < length ? rx->bytes : length;
	}
}

/* Reads one frame, if there is one. False when there is no use in trying again now. */
static bool read_frame(struct virtio_net *net, uint64_t *turn_bytes)
{
	struct net_receive *rx = &net->rx;
	struct iovec *iov = rx->iov + rx->iov_first;
	ssize_t length;

	/* There is room for it: see has_iov_room(). */
	iov[rx->iov_count] = (struct iovec) { rx->overflow, sizeof(rx->overflow) };
	length = net->tap.ops->read(&net->tap, iov, rx->iov_count + 1);
	if (length < 0)
		return survive_failure(net, (int)-length);
	*turn_bytes += (uint64_t)length;
	rate_limiter_take(&net->rx_limiter, 1,
			  length > TAP_HEADER_BYTES ? (uint64_t)length - TAP_HEADER_BYTES : 0);
	take_frame(net, (uint64_t)length);
	return true;
}

/*
 * No buffers, or not enough of them: the driver is asked to notify. True when it has given some in
 * the meantime.
 */
static bool ask_for_buffers(struct virtio_net *net)
{
	virtio_mmio_publish(&net->mmio, NET_RX_QUEUE);
	if (virtqueue_enable_notify(queue_of(net)))
		return true;
	net->rx.starved = true;
	counter_add(&net->metrics.rx_waits, 1);
	return false;
}

static void wait_for_limit(struct virtio_net *net)
{
	net->rx_limited = true;
	rate_limiter_wait(&net->rx_limiter);
}

void net_receive(struct virtio_net *net)
{
	struct net_receive *rx = &net->rx;
	uint64_t bytes = 0;

	rx->starved = false;
	virtqueue_disable_notify(queue_of(net));
	for (unsigned int frames = 0; frames < NET_TURN_FRAMES && bytes < NET_TURN_BYTES;) {
		if (net->tap_lost || !take_buffers(net))
			break;
		if (rx->count == 0 || (rx->pending_bytes && !place_pending(net))) {
			if (!ask_for_buffers(net))
				break;
			continue;
		}
		/* The pending frame may have taken the last buffers. */
		if (rx->count == 0)
			continue;
		if (!rate_limiter_admits(&net->rx_limiter)) {
			/* After others, it is not known yet whether there is one more. */
			if (frames == 0)
				wait_for_limit(net);
			break;
		}
		if (!read_frame(net, &bytes))
			break;
		frames++;
	}
	virtio_mmio_publish(&net->mmio, NET_RX_QUEUE);
}

/*
 * The part of a waiting frame that is in the guest's buffers already. They will be taken anew, and
 * may be others then.
 */
static void take_pending_back(struct net_receive *rx)
{
	memmove(rx->overflow + rx->pending_placed, rx->overflow,
		rx->pending_bytes - rx->pending_placed);
	iov_gather(rx->iov + rx->iov_first, rx->overflow, rx->pending_placed);
	rx->pending_placed = 0;
}

void net_receive_pause(struct virtio_net *net)
{
	struct net_receive *rx = &net->rx;

	if (rx->pending_bytes)
		take_pending_back(rx);
	virtqueue_unpop(queue_of(net), (uint16_t)rx->count);
	rx->first = rx->count = rx->iov_first = rx->iov_count = 0;
	rx->bytes = 0;
}

bool net_receive_hold(struct virtio_net *net, uint64_t length)
{
	struct virtio_net_hdr_v1 header;

	if (length <= TAP_HEADER_BYTES || length > NET_MAX_FRAME_BYTES)
		return false;
	memcpy(&header, net->rx.overflow, sizeof(header));
	if (!queue_of(net)->ready || !is_suitable(net, &header))
		return false;
	net->rx.pending_bytes = length;
	net->rx.pending_placed = 0;
	return true;
}

void net_receive_stop(struct virtio_net *net)
{
	struct net_receive *rx = &net->rx;

	rx->first = rx->count = rx->iov_first = rx->iov_count = rx->at_most = 0;
	rx->bytes = rx->pending_bytes = 0;
	rx->starved = true;
}
