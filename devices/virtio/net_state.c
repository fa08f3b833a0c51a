/*
 * The network device in a state file: see virtio_net_save() in include/mayfly/virtio_net.h.
 *
 * A device at rest has taken nothing from its queues; what it may hold is one frame that was read
 * from the TAP and that the guest has no buffers for yet. Whether the TAP was up is no more than
 * what the guest was told last: the new one says anew.
 */
#include <string.h>

#include "net_private.h"

#define SECTION "net"
#define VERSION 1

/* The transport has it in its name. */
static const char *iface_id(const struct virtio_net *net)
{
	return net->mmio.name + strlen("network interface ");
}

void virtio_net_save(struct virtio_net *net, struct state_writer *writer)
{
	virtio_mmio_lock(&net->mmio);
	state_begin(writer, SECTION, iface_id(net), VERSION);
	virtio_mmio_save(&net->mmio, writer);
	state_put_bytes(writer, net->config.mac, sizeof(net->config.mac));
	state_put_u16(writer, net->config.mtu);
	state_put_u8(writer, net->config.status == VIRTIO_NET_S_LINK_UP);
	state_put_u16(writer, (uint16_t)net->rx.at_most);
	state_put_bytes(writer, net->rx.overflow, (uint32_t)net->rx.pending_bytes);
	rate_limiter_save(&net->rx_limiter, writer);
	rate_limiter_save(&net->tx_limiter, writer);
	state_end(writer);
	virtio_mmio_unlock(&net->mmio);
}

static void restore_receiver(struct virtio_net *net, struct state_section *section)
{
	uint32_t length;
	const void *frame;

	net->rx.at_most = state_get_u16(section);
	if (net->rx.at_most > VIRTIO_NET_QUEUE_SIZE)
		state_refuse(section, "receive buffers", "the driver cannot have given %u",
			     net->rx.at_most);
	frame = state_get_span(section, NET_MAX_FRAME_BYTES, &length);
	if (!frame || length == 0)
		return;
	memcpy(net->rx.overflow, frame, length);
	if (!state_failed(section) && !net_receive_hold(net, length))
		state_refuse(section, "frame", "%u bytes cannot have waited for the guest", length);
}

/* Lock held. */
static void restore(struct virtio_net *net, struct state_section *section)
{
	uint8_t mac[VIRTIO_NET_MAC_BYTES];
	uint16_t mtu;
	bool up;

	virtio_mmio_restore(&net->mmio, section);
	state_get_bytes(section, mac, sizeof(mac));
	mtu = state_get_u16(section);
	up = state_get_bool(section, "link status");
	if (mac[0] & 1)
		state_refuse(section, "MAC address", "it is a group's");
	if (mtu != net->config.mtu)
		state_refuse(section, "MTU", "the guest was told %u, the configuration has %u", mtu,
			     net->config.mtu);
	restore_receiver(net, section);
	rate_limiter_restore(&net->rx_limiter, "rx rate limiter", section);
	rate_limiter_restore(&net->tx_limiter, "tx rate limiter", section);
	if (state_failed(section))
		return;
	memcpy(net->config.mac, mac, sizeof(mac));
	net->config.status = up ? VIRTIO_NET_S_LINK_UP : 0;
	if (net->mmio.status & VIRTIO_CONFIG_S_DRIVER_OK)
		net_activate(&net->mmio);
}

int virtio_net_restore(struct virtio_net *net, struct state_file *file, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, iface_id(net), VERSION, &section, err);

	if (result < 0)
		return result;
	virtio_mmio_lock(&net->mmio);
	restore(net, &section);
	virtio_mmio_unlock(&net->mmio);
	return state_done(&section, err);
}
