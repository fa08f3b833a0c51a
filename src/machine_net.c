/* The machine's network interfaces: see machine.h. */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "machine_private.h"

void machine_init_interfaces(struct machine *machine)
{
	for (unsigned int i = 0; i < CONFIG_MAX_INTERFACES; i++)
		machine->interfaces[i].tap.fd = machine->interfaces[i].interrupt_fd = -1;
}

int machine_open_taps(struct machine *machine, const struct vm_config *config, struct error *err)
{
	for (unsigned int i = 0; i < config->interface_count; i++) {
		const struct network_interface_config *from = &config->interfaces[i];
		struct machine_interface *interface = &machine->interfaces[i];
		int result;

		if (!from->guest_mac || !config_parse_mac(from->guest_mac, interface->mac))
			return error_set(err, EINVAL, "network interface %s: no guest_mac",
					 from->iface_id);
		result = tap_open(&interface->tap, from, err);
		if (result < 0)
			return result;
		interface->mtu = (uint16_t)from->mtu;
		strcpy(interface->id, from->iface_id);
	}
	return 0;
}

static int add_interface(struct machine *machine, unsigned int index, struct error *err)
{
	const struct network_interface_config *config = &machine->config->interfaces[index];
	struct machine_interface *interface = &machine->interfaces[index];
	struct virtio_net_options options = {
		.iface_id = interface->id,
		.mtu = interface->mtu,
		.slot = machine->drive_count + index,
		.memory = &machine->memory,
		.loop = machine->request.loop,
		.log = machine->request.log,
	};
	int result;

	if (config->has_rx_rate_limiter)
		options.rx_rate_limiter = &config->rx_rate_limiter;
	if (config->has_tx_rate_limiter)
		options.tx_rate_limiter = &config->tx_rate_limiter;
	memcpy(options.mac, interface->mac, sizeof(options.mac));
	interface->interrupt_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (interface->interrupt_fd < 0)
		return error_errno(err, "network interface %s: cannot make its interrupt",
				   interface->id);
	options.interrupt_fd = interface->interrupt_fd;
	result = virtio_net_create(&interface->net, &options, &interface->tap, err);
	if (result < 0)
		return result;
	return machine_wire_virtio(machine, virtio_net_transport(interface->net),
				   interface->interrupt_fd, options.slot, err);
}

int machine_add_interfaces(struct machine *machine, struct error *err)
{
	int result = 0;

	for (unsigned int i = 0; result == 0 && i < machine->interface_count; i++)
		result = add_interface(machine, i, err);
	return result;
}

void machine_pause_interfaces(struct machine *machine)
{
	for (unsigned int i = 0; i < machine->interface_count; i++)
		virtio_net_pause(machine->interfaces[i].net);
}

void machine_resume_interfaces(struct machine *machine)
{
	for (unsigned int i = 0; i < machine->interface_count; i++)
		virtio_net_resume(machine->interfaces[i].net);
}

void machine_destroy_interfaces(struct machine *machine)
{
	for (unsigned int i = 0; i < machine->interface_count; i++) {
		struct machine_interface *interface = &machine->interfaces[i];

		virtio_net_destroy(interface->net);
		tap_close(&interface->tap);
		close_fd(&interface->interrupt_fd);
	}
}

void machine_limit_interface(struct machine *machine, unsigned int interface_index,
			     const struct network_interface_update_config *update)
{
	struct virtio_net *net = machine->interfaces[interface_index].net;

	virtio_net_set_limits(net, update->has_rx_rate_limiter ? &update->rx_rate_limiter : NULL,
			      update->has_tx_rate_limiter ? &update->tx_rate_limiter : NULL);
}

static void collect_interface(struct machine_interface *interface, json_t *metrics)
{
	const struct virtio_net_metrics *net = virtio_net_metrics(interface->net);
	const struct virtio_mmio_metrics *transport =
		&virtio_net_transport(interface->net)->metrics;
	char name[CONFIG_MAX_ID_BYTES + 8];
	json_t *object = json_object();

	machine_set_counter(object, "rx_packets_count", net->rx_frames);
	machine_set_counter(object, "rx_bytes_count", net->rx_bytes);
	machine_set_counter(object, "rx_no_room_count", net->rx_no_room);
	machine_set_counter(object, "rx_unsuitable_count", net->rx_unsuitable);
	machine_set_counter(object, "no_rx_avail_buffer", net->rx_waits);
	machine_set_counter(object, "tap_read_fails", net->tap_read_fails);
	machine_set_counter(object, "tx_packets_count", net->tx_frames);
	machine_set_counter(object, "tx_bytes_count", net->tx_bytes);
	machine_set_counter(object, "tx_malformed_frames", net->tx_malformed);
	machine_set_counter(object, "tap_write_fails", net->tap_write_fails);
	machine_set_counter(object, "malformed_count", net->malformed);
	machine_set_counter(object, "link_change_count", net->link_changes);
	machine_set_counter(object, "notification_count", transport->notifications);
	machine_set_counter(object, "interrupt_count", transport->interrupts);
	machine_set_counter(object, "reset_count", transport->resets);
	machine_set_counter(object, "needs_reset_count", transport->needs_reset);
	machine_collect_limiter(virtio_net_rx_limiter_metrics(interface->net), "rx_", object);
	machine_collect_limiter(virtio_net_tx_limiter_metrics(interface->net), "tx_", object);
	snprintf(name, sizeof(name), "net_%s", interface->id);
	json_object_set_new(metrics, name, object);
}

void machine_collect_interfaces(struct machine *machine, json_t *metrics)
{
	for (unsigned int i = 0; i < machine->interface_count; i++)
		collect_interface(&machine->interfaces[i], metrics);
}
