/*
 * The virtio-mmio transport in a state file: see virtio_mmio_save() in
 * include/mayfly/virtio_mmio.h.
 *
 * A device is restored in the state in which its driver left it, of which the driver must not see
 * the break: what it read before stays true, but for what the user changed.
 */
#include <stdio.h>

#include "mmio_private.h"

#define NO_OWNER    0xff
#define INTERRUPTS  (VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG)
#define STATUS_BITS ((uint32_t)(DRIVER_STATUS_BITS | VIRTIO_CONFIG_S_NEEDS_RESET))

void virtio_mmio_save(const struct virtio_mmio *mmio, struct state_writer *writer)
{
	int owner = atomic_load(&mmio->owner);

	state_put_u64(writer, mmio->device_features);
	state_put_u64(writer, mmio->driver_features);
	state_put_u32(writer, mmio->device_features_sel);
	state_put_u32(writer, mmio->driver_features_sel);
	state_put_u32(writer, mmio->queue_sel);
	state_put_u32(writer, mmio->status);
	state_put_u32(writer, mmio->config_generation);
	state_put_u32(writer, atomic_load(&mmio->interrupt_status));
	state_put_u8(writer, owner < 0 ? NO_OWNER : (uint8_t)owner);
	state_put_u16(writer, mmio->ops->queue_count);
	for (unsigned int i = 0; i < mmio->ops->queue_count; i++)
		virtqueue_save(&mmio->queues[i].virtqueue, writer);
}

/* What is not yet agreed on may be anything: the driver is still writing it. */
static void check_features(const struct virtio_mmio *mmio, struct state_section *section,
			   uint64_t saved_features)
{
	uint64_t missing = mmio->driver_features & ~(saved_features & mmio->device_features);

	/* No device of ours was ever without it, and no driver would take one. */
	if (!(saved_features & VIRTIO_FEATURE(VIRTIO_F_VERSION_1)))
		state_refuse(section, "device features", "0x%llx is without VIRTIO_F_VERSION_1",
			     (unsigned long long)saved_features);
	if (!(mmio->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	if (!virtio_mmio_has_feature(mmio, VIRTIO_F_VERSION_1))
		state_refuse(section, "driver features", "0x%llx is without VIRTIO_F_VERSION_1",
			     (unsigned long long)mmio->driver_features);
	else if (missing)
		state_refuse(section, "driver features",
			     "the guest uses 0x%llx, of which 0x%llx cannot be had here",
			     (unsigned long long)mmio->driver_features,
			     (unsigned long long)missing);
}

static void check_status(const struct virtio_mmio *mmio, struct state_section *section,
			 uint8_t owner)
{
	uint32_t status = mmio->status;

	if ((status & ~STATUS_BITS) ||
	    ((status & VIRTIO_CONFIG_S_DRIVER_OK) && !(status & VIRTIO_CONFIG_S_FEATURES_OK)))
		state_refuse(section, "status", "it cannot be 0x%x", status);
	if (owner != NO_OWNER && owner >= VIRTIO_MMIO_WINDOWS)
		state_refuse(section, "owner", "there is no window %u", owner);
	/* A driver breaks the device even before it has said that it is there. */
	if (owner == NO_OWNER && (status & DRIVER_STATUS_BITS))
		state_refuse(section, "owner", "no window has it, but the status is 0x%x", status);
}

static void restore_queues(struct virtio_mmio *mmio, struct state_section *section)
{
	char name[16];

	for (unsigned int i = 0; i < mmio->ops->queue_count && !state_failed(section); i++) {
		struct virtqueue *queue = &mmio->queues[i].virtqueue;

		snprintf(name, sizeof(name), "queue %u", i);
		virtqueue_restore(queue, mmio->driver_features, name, section);
		if (queue->ready && !(mmio->status & VIRTIO_CONFIG_S_FEATURES_OK))
			state_refuse(section, name,
				     "it is ready before the features are agreed on");
	}
}

void virtio_mmio_restore(struct virtio_mmio *mmio, struct state_section *section)
{
	uint64_t saved_features = state_get_u64(section);
	uint32_t interrupts;
	uint16_t queue_count;
	uint8_t owner;

	mmio->driver_features = state_get_u64(section);
	mmio->device_features_sel = state_get_u32(section);
	mmio->driver_features_sel = state_get_u32(section);
	mmio->queue_sel = state_get_u32(section);
	mmio->status = state_get_u32(section);
	mmio->config_generation = state_get_u32(section);
	interrupts = state_get_u32(section);
	owner = state_get_u8(section);
	queue_count = state_get_u16(section);
	check_status(mmio, section, owner);
	check_features(mmio, section, saved_features);
	if (interrupts & ~(uint32_t)INTERRUPTS)
		state_refuse(section, "interrupt status", "it cannot be 0x%x", interrupts);
	if (queue_count != mmio->ops->queue_count)
		state_refuse(section, "queue count", "the device has %u queues, not %u",
			     mmio->ops->queue_count, queue_count);
	restore_queues(mmio, section);
	mmio->paused = true;
	if (state_failed(section)) {
		/* Nobody may work on half of it. */
		mmio->status = 0;
		return;
	}
	mmio->device_features &= saved_features;
	atomic_store(&mmio->interrupt_status, interrupts);
	atomic_store(&mmio->owner, owner == NO_OWNER ? -1 : (int)owner);
	mmio->interrupt_on_resume = true;
}
