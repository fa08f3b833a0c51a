/*
 * The network device (virtio 1.2, 5.1): a receive queue and a transmit queue over a TAP.
 *
 * Made by the machine before the vCPUs run; all functions here are for the main thread.
 */
#ifndef MAYFLY_VIRTIO_NET_H
#define MAYFLY_VIRTIO_NET_H

#include "mayfly/rate_limiter.h"
#include "mayfly/tap.h"
#include "mayfly/virtio_mmio.h"

#define VIRTIO_NET_QUEUE_SIZE VIRTQUEUE_MAX_SIZE
#define VIRTIO_NET_MAC_BYTES  6

struct virtio_net;

/* Counted since the device was made; any thread may read them. Bytes are those of the frames,
 * without the header of virtio. Receiving and transmitting are the guest's. */
struct virtio_net_metrics {
	_Atomic uint64_t rx_frames, rx_bytes; /* given to the guest */
	_Atomic uint64_t rx_no_room;	      /* dropped: larger than the guest's buffers */
	_Atomic uint64_t rx_unsuitable; /* dropped: in a form that its driver did not accept */
	_Atomic uint64_t rx_waits;	/* times that the guest had no buffer for what could come */
	_Atomic uint64_t tap_read_fails;      /* the host could not give a frame */
	_Atomic uint64_t tx_frames, tx_bytes; /* taken by the TAP */
	_Atomic uint64_t tx_malformed; /* dropped: no frame, or a header that was not negotiated */
	_Atomic uint64_t tap_write_fails; /* dropped: the host did not take it (down, deleted) */
	_Atomic uint64_t malformed; /* no chain that may be here: the device asked for a reset */
	_Atomic uint64_t link_changes;
};

struct virtio_net_options {
	const char *iface_id; /* in messages */
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	uint16_t mtu;	   /* 0: the guest is told none */
	unsigned int slot; /* below LAYOUT_MAX_VIRTIO_DEVICES: which MMIO windows */
	const struct memory *memory;
	struct loop *loop;
	struct log *log;
	int interrupt_fd; /* an eventfd, borrowed */
	/* For this call; NULL: no limits. */
	const struct rate_limiter_config *rx_rate_limiter, *tx_rate_limiter;
};

/*
 * Makes the device and puts its sources into the loop. Takes what `tap` has open on success, and
 * closes it in virtio_net_destroy(). All pointers in `options` outlive the device but for iface_id.
 */
int virtio_net_create(struct virtio_net **net, const struct virtio_net_options *options,
		      struct tap *tap, struct error *err);

/* When no vCPU runs any more: takes the sources out, closes the TAP. NULL does nothing. */
void virtio_net_destroy(struct virtio_net *net);

/*
 * Brings the device to rest: the TAP is neither read nor written, the buffers that were taken from
 * the guest ahead are given back, until virtio_net_resume(). A frame that was read and waits for
 * buffers is kept; one that waits for the TAP is in the ring again. All that may be done with the
 * device may be done meanwhile. The vCPUs have stopped, so that none asks for more.
 */
void virtio_net_pause(struct virtio_net *net);
void virtio_net_resume(struct virtio_net *net);

/*
 * Writes the state of a device at rest as section "net", the interface's id its instance, a frame
 * that waits for buffers with it. Reads it into a device that was just made over some TAP, sets
 * that one's offloads, and leaves the device at rest. Refused is what no device can have been in,
 * and a TAP that cannot do what the driver has negotiated.
 */
void virtio_net_save(struct virtio_net *net, struct state_writer *writer);
int virtio_net_restore(struct virtio_net *net, struct state_file *file, struct error *err);

/* Registers, windows, notify fds and the transport's metrics, for the machine to wire up. */
struct virtio_mmio *virtio_net_transport(struct virtio_net *net);

const struct virtio_net_metrics *virtio_net_metrics(const struct virtio_net *net);
const struct rate_limiter_metrics *virtio_net_rx_limiter_metrics(const struct virtio_net *net);
const struct rate_limiter_metrics *virtio_net_tx_limiter_metrics(const struct virtio_net *net);

/*
 * Changes the limits of a running device: see rate_limiter_change(). NULL leaves a direction alone.
 * A frame is an operation, and has as many bytes as go over the TAP without the header of virtio.
 */
void virtio_net_set_limits(struct virtio_net *net, const struct rate_limiter_config *rx,
			   const struct rate_limiter_config *tx);

#endif
