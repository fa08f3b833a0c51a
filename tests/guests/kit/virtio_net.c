/* virtio-net: see virtio_net.h. */
#include "pages.h"
#include "text.h"
#include "virtio_net.h"

#define QUEUE_RECEIVE  0
#define QUEUE_TRANSMIT 1

#define NET_F_MAC (1ULL << 5)

#define RECEIVE_BUFFERS	   32
#define ETHERNET_MIN_BYTES 14 /* a header */

static void offer(struct net *net, struct net_buffer *buffer)
{
	virtqueue_add(&net->receive, &(struct virtq_buffer) { buffer, sizeof(*buffer), true }, 1);
}

/* Addresses that a device does not bring along are made up, locally administered. */
static void read_mac(struct net *net)
{
	static const uint8_t made_up[NET_MAC_BYTES] = { 0x02, 0x4d, 0x46, 0x00, 0x00, 0x01 };

	memcpy(net->mac, made_up, sizeof(made_up));
	if (!(net->device->features & NET_F_MAC))
		return;
	for (unsigned int i = 0; i < NET_MAC_BYTES; i++)
		net->mac[i] = mmio_read8(net->device->base + VIRTIO_CONFIG + i);
}

bool net_open(struct net *net, unsigned int index)
{
	struct virtio_device *device = virtio_find(VIRTIO_NET, index);
	struct net_buffer *buffers;

	if (!device)
		return false;
	net->device = device;
	virtio_open(device, NET_F_MAC);
	read_mac(net);
	virtio_queue_open(&net->receive, device, QUEUE_RECEIVE, RECEIVE_BUFFERS);
	virtio_queue_open(&net->transmit, device, QUEUE_TRANSMIT, 1);
	buffers = pages_take((net->receive.size + 1ULL) * sizeof(*buffers) / PAGE_BYTES + 1);
	net->out = &buffers[net->receive.size];
	virtio_enable_interrupt(device);
	net->receive.avail->flags = 0;
	virtio_ready(device);
	for (uint16_t i = 0; i < net->receive.size; i++)
		offer(net, &buffers[i]);
	virtqueue_notify(&net->receive);
	return true;
}

uint8_t *net_receive(struct net *net, uint32_t *bytes)
{
	for (;;) {
		uint32_t written;
		uint16_t head = virtqueue_wait(&net->receive, &written);
		struct net_buffer *buffer = (struct net_buffer *)net->receive.desc[head].address;

		if (written > sizeof(*buffer)) /* a device that lies */
			written = sizeof(*buffer);
		net->received++;
		if (written >= sizeof(buffer->header) + ETHERNET_MIN_BYTES) {
			*bytes = written - (uint32_t)sizeof(buffer->header);
			return buffer->frame;
		}
		net_give_back(net, buffer->frame);
	}
}

void net_give_back(struct net *net, uint8_t *frame)
{
	offer(net, (struct net_buffer *)(frame - offsetof(struct net_buffer, frame)));
	virtqueue_notify(&net->receive);
}

uint8_t *net_next_frame(struct net *net)
{
	if (net->transmit.free_count == 0)
		virtqueue_wait(&net->transmit, NULL);
	return net->out->frame;
}

void net_send(struct net *net, uint32_t bytes)
{
	net->out->header = (struct net_header) { 0 };
	virtqueue_add(&net->transmit,
		      &(struct virtq_buffer) { net->out, (uint32_t)sizeof(net->out->header) + bytes,
					       false },
		      1);
	net->sent++;
	virtqueue_notify(&net->transmit);
}
