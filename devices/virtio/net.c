/*
 * The network device (virtio 1.2, 5.1): two queues and a TAP. See include/mayfly/virtio_net.h.
 *
 * The main thread moves frames when the TAP is readable (net_receive.c) or the driver has notified
 * (net_transmit.c), a bounded number in each turn of the loop, and ends each turn with one look at
 * whether the guest wants an interrupt. The TAP is waited for only while something can be done
 * about it: for reading while the guest has buffers, for writing while a frame is held or the TAP
 * is down. Where a rate limit is reached, frames stay in the TAP, or in the ring, until the
 * limiter's timer. All that touches guest memory happens under the device's lock, within a system
 * call that does not wait, so that a reset has nothing to wait for.
 */
#include <stdio.h>
#include <string.h>

#include "net_private.h"

#define DEVICE_ID_NET 1 /* 5.1.1 */

#define FEATURE(bit) (1ULL << (bit))

/* What every TAP with a header does. */
#define BASE_FEATURES                                                         \
	(FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |      \
	 FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |       \
	 FEATURE(VIRTIO_NET_F_GUEST_TSO6) | FEATURE(VIRTIO_NET_F_GUEST_ECN) | \
	 FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_HOST_TSO6) |  \
	 FEATURE(VIRTIO_NET_F_HOST_ECN) | FEATURE(VIRTIO_NET_F_MRG_RXBUF) |   \
	 FEATURE(VIRTIO_NET_F_STATUS))
#define USO_FEATURES                                                           \
	(FEATURE(VIRTIO_NET_F_GUEST_USO4) | FEATURE(VIRTIO_NET_F_GUEST_USO6) | \
	 FEATURE(VIRTIO_NET_F_HOST_USO))

/* The driver sees no more of the configuration space than there are features for. */
#define CONFIG_BYTES offsetof(struct virtio_net_config, speed)

_Static_assert(CONFIG_BYTES == 12, "5.1.4");

static struct virtio_net *net_of(struct virtio_mmio *mmio)
{
	return container_of(mmio, struct virtio_net, mmio);
}

void net_needs_reset(struct virtio_net *net, unsigned int queue, const char *reason, uint64_t value)
{
	counter_add(&net->metrics.malformed, 1);
	virtio_mmio_needs_reset(&net->mmio, queue, reason, value);
}

void net_set_link(struct virtio_net *net, bool up)
{
	uint16_t status = up ? VIRTIO_NET_S_LINK_UP : 0;

	if (net->config.status == status)
		return;
	net->config.status = status;
	counter_add(&net->metrics.link_changes, 1);
	log_warn_limited(&net->log_limit, net->mmio.log, "%s: the link is %s", net->mmio.name,
			 up ? "up again" : "down: the host's TAP is");
	virtio_mmio_config_changed(&net->mmio);
}

void net_lose_tap(struct virtio_net *net)
{
	if (net->tap_lost)
		return;
	net->tap_lost = true;
	/* It would be ready for ever. */
	loop_remove(net->mmio.loop, &net->tap_source);
	log_warn(net->mmio.log,
		 "%s: the host's TAP was deleted: the interface has no link any more",
		 net->mmio.name);
	net_set_link(net, false);
}

/* What the TAP is waited for, as things are now. Main thread, lock held. */
static void watch_tap(struct virtio_net *net)
{
	bool live = virtio_mmio_is_live(&net->mmio);
	uint32_t events = 0;

	if (live && !net->rx.starved && !net->rx_limited)
		events |= EPOLLIN;
	if (live && (net->tx.held || !net->config.status))
		events |= EPOLLOUT;
	loop_modify(net->mmio.loop, &net->tap_source, events);
}

static void handle_tap(struct loop_source *source, uint32_t events)
{
	struct virtio_net *net = container_of(source, struct virtio_net, tap_source);

	virtio_mmio_lock(&net->mmio);
	if (events & (EPOLLERR | EPOLLHUP)) {
		net_lose_tap(net);
	} else if (virtio_mmio_is_live(&net->mmio)) {
		if (events & EPOLLOUT)
			net_set_link(net, true);
		if ((events & EPOLLOUT) && net->tx.held)
			net_transmit(net);
		if ((events & EPOLLIN) && !net->rx.starved)
			net_receive(net);
	}
	watch_tap(net);
	virtio_mmio_unlock(&net->mmio);
}

static void handle_rx_limit_over(struct rate_limiter *limiter)
{
	struct virtio_net *net = container_of(limiter, struct virtio_net, rx_limiter);

	virtio_mmio_lock(&net->mmio);
	net->rx_limited = false;
	watch_tap(net);
	virtio_mmio_unlock(&net->mmio);
}

/* Takes what waits in the ring, if the device is live by now. */
static void handle_tx_limit_over(struct rate_limiter *limiter)
{
	struct virtio_net *net = container_of(limiter, struct virtio_net, tx_limiter);

	virtio_mmio_notify_later(&net->mmio, NET_TX_QUEUE);
}

static void notify(struct virtio_mmio *mmio, unsigned int queue)
{
	struct virtio_net *net = net_of(mmio);

	if (queue == NET_RX_QUEUE)
		net_receive(net);
	else if (!net->tx.held)
		net_transmit(net);
	watch_tap(net);
}

/*
 * 5.1.6.4: what the TAP may give from now on. It takes both kinds of UDP segmentation or none, and
 * nothing without checksums.
 */
static unsigned int accepted_offloads(const struct virtio_mmio *mmio)
{
	unsigned int offloads = TAP_OFFLOAD_CHECKSUM;
	unsigned int tso = 0;

	if (!virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_CSUM))
		return 0;
	if (virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_TSO4))
		tso |= TAP_OFFLOAD_TSO4;
	if (virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_TSO6))
		tso |= TAP_OFFLOAD_TSO6;
	if (tso && virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_ECN))
		tso |= TAP_OFFLOAD_TSO_ECN;
	if (virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_USO4) &&
	    virtio_mmio_has_feature(mmio, VIRTIO_NET_F_GUEST_USO6))
		offloads |= TAP_OFFLOAD_USO4 | TAP_OFFLOAD_USO6;
	return offloads | tso;
}

/*
 * A change takes the lock of all of the host's network configuration, and tells everybody who
 * listens: a guest that starts its device all the time must not hold that up. What the TAP then
 * gives beyond what was accepted is dropped (is_suitable()).
 */
static bool may_change_offloads(struct virtio_net *net)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (now - net->offload_period_ns >= NET_OFFLOAD_PERIOD_NS) {
		net->offload_period_ns = now;
		net->offload_changes = 0;
	}
	return net->offload_changes++ < NET_OFFLOAD_CHANGES;
}

/* Any thread. A TAP that was deleted cannot be set, and need not be. */
static void set_offloads(struct virtio_net *net, unsigned int offloads)
{
	int result;

	if (net->tap_lost || (net->offloads_set && offloads == net->offloads))
		return;
	if (!may_change_offloads(net)) {
		log_warn_limited(&net->log_limit, net->mmio.log,
				 "%s: the guest's driver starts too often: the TAP keeps the "
				 "offloads 0x%x",
				 net->mmio.name, net->offloads);
		return;
	}
	result = net->tap.ops->set_offloads(&net->tap, offloads);
	if (result == 0) {
		net->offloads = offloads;
		net->offloads_set = true;
	}
	if (result < 0 && result != -EBADFD)
		log_warn_limited(&net->log_limit, net->mmio.log,
				 "%s: the TAP does not take the offloads 0x%x: %s (os error %d); "
				 "frames that use others are dropped",
				 net->mmio.name, offloads, strerror(-result), -result);
}

void net_activate(struct virtio_mmio *mmio)
{
	set_offloads(net_of(mmio), accepted_offloads(mmio));
}

static void reset(struct virtio_mmio *mmio)
{
	if (mmio->status & VIRTIO_CONFIG_S_DRIVER_OK)
		set_offloads(net_of(mmio), 0);
}

static void stop_queue(struct virtio_mmio *mmio, unsigned int queue)
{
	if (queue == NET_RX_QUEUE)
		net_receive_stop(net_of(mmio));
	else
		net_transmit_stop(net_of(mmio));
}

static const struct virtio_mmio_ops net_ops = {
	.device_id = DEVICE_ID_NET,
	.queue_count = NET_QUEUES,
	.queue_size_max = VIRTIO_NET_QUEUE_SIZE,
	.notify = notify,
	.activate = net_activate,
	.reset = reset,
	.stop_queue = stop_queue,
};

static uint64_t features_of(const struct virtio_net_options *options, const struct tap *tap)
{
	uint64_t features = BASE_FEATURES;

	if (tap->has_uso)
		features |= USO_FEATURES;
	if (options->mtu)
		features |= FEATURE(VIRTIO_NET_F_MTU);
	return features;
}

static void fill_config(struct virtio_net_config *config, const struct virtio_net_options *options)
{
	memcpy(config->mac, options->mac, sizeof(config->mac));
	config->status = VIRTIO_NET_S_LINK_UP;
	config->max_virtqueue_pairs = 1;
	config->mtu = options->mtu;
}

int virtio_net_create(struct virtio_net **out, const struct virtio_net_options *options,
		      struct tap *tap, struct error *err)
{
	struct virtio_net *net = calloc(1, sizeof(*net));
	char name[VIRTIO_MMIO_NAME_BYTES];
	int result;

	if (!net)
		return error_set(err, ENOMEM, "network interface %s: no memory", options->iface_id);
	fill_config(&net->config, options);
	net->tap = *tap;
	net_receive_stop(net);
	snprintf(name, sizeof(name), "network interface %s", options->iface_id);
	result = virtio_mmio_init(
		&net->mmio, &net_ops,
		&(struct virtio_mmio_options) { .name = name,
						.slot = options->slot,
						.memory = options->memory,
						.loop = options->loop,
						.log = options->log,
						.interrupt_fd = options->interrupt_fd,
						.features = features_of(options, tap),
						.config = &net->config,
						.config_bytes = CONFIG_BYTES },
		err);
	if (result == 0) {
		result = loop_add(options->loop, &net->tap_source, tap->fd, 0, handle_tap, err);
		if (result < 0) {
			error_prefix(err, "%s", net->mmio.name);
			virtio_mmio_destroy(&net->mmio);
		}
	}
	if (result < 0) {
		free(net);
		return result;
	}
	rate_limiter_init(&net->rx_limiter, options->loop, handle_rx_limit_over,
			  options->rx_rate_limiter);
	rate_limiter_init(&net->tx_limiter, options->loop, handle_tx_limit_over,
			  options->tx_rate_limiter);
	tap->fd = -1;
	*out = net;
	return 0;
}

void virtio_net_destroy(struct virtio_net *net)
{
	if (!net)
		return;
	rate_limiter_destroy(&net->rx_limiter);
	rate_limiter_destroy(&net->tx_limiter);
	loop_remove(net->mmio.loop, &net->tap_source);
	virtio_mmio_destroy(&net->mmio);
	tap_close(&net->tap);
	free(net);
}

void virtio_net_pause(struct virtio_net *net)
{
	virtio_mmio_lock(&net->mmio);
	rate_limiter_stop(&net->rx_limiter);
	rate_limiter_stop(&net->tx_limiter);
	net->rx_limited = false;
	net_receive_pause(net);
	net_transmit_pause(net);
	virtio_mmio_pause(&net->mmio);
	watch_tap(net);
	virtio_mmio_unlock(&net->mmio);
}

void virtio_net_resume(struct virtio_net *net)
{
	virtio_mmio_lock(&net->mmio);
	virtio_mmio_resume(&net->mmio);
	watch_tap(net);
	virtio_mmio_unlock(&net->mmio);
}

struct virtio_mmio *virtio_net_transport(struct virtio_net *net)
{
	return &net->mmio;
}

const struct virtio_net_metrics *virtio_net_metrics(const struct virtio_net *net)
{
	return &net->metrics;
}

const struct rate_limiter_metrics *virtio_net_rx_limiter_metrics(const struct virtio_net *net)
{
	return &net->rx_limiter.metrics;
}

const struct rate_limiter_metrics *virtio_net_tx_limiter_metrics(const struct virtio_net *net)
{
	return &net->tx_limiter.metrics;
}

void virtio_net_set_limits(struct virtio_net *net, const struct rate_limiter_config *rx,
			   const struct rate_limiter_config *tx)
{
	if (rx)
		rate_limiter_change(&net->rx_limiter, rx);
	if (tx)
		rate_limiter_change(&net->tx_limiter, tx);
}
