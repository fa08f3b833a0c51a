/*
 * The virtio-mmio transport (virtio 1.2, 4.2.2): the registers, as the driver sees them through one
 * of two windows.
 *
 * The driver may write anything at any time, from several vCPUs: each register checks whether it
 * may be written in the present state, and drops the write otherwise. Control registers are 32 bits
 * wide (4.2.2.2): an access of another width reads 0 and writes nothing; the configuration space
 * takes every width.
 */
#include <string.h>
#include <sys/eventfd.h>

#include "mmio_private.h"

#define MAGIC_VALUE 0x74726976U /* "virt" */
#define VENDOR_ID   0x5946594dU /* "MYFY" */

_Static_assert(VIRTIO_MMIO_NOTIFY_OFFSET == VIRTIO_MMIO_QUEUE_NOTIFY, "4.2.2");

static uint32_t low_half(uint64_t value)
{
	return (uint32_t)value;
}

static uint32_t high_half(uint64_t value)
{
	return (uint32_t)(value >> 32);
}

static void set_low_half(uint64_t *value, uint32_t half)
{
	*value = (*value & ~0xffffffffULL) | half;
}

static void set_high_half(uint64_t *value, uint32_t half)
{
	*value = (*value & 0xffffffffULL) | (uint64_t)half << 32;
}

/* Whether the other window owns the device. Once true, for ever. */
static bool window_is_empty(const struct virtio_mmio_window *window)
{
	int owner = atomic_load(&window->mmio->owner);

	return owner >= 0 && window != &window->mmio->windows[owner];
}

static struct virtqueue *selected_queue(struct virtio_mmio *mmio)
{
	return mmio->queue_sel < mmio->ops->queue_count ? &mmio->queues[mmio->queue_sel].virtqueue
							: NULL;
}

/*
 * The selected queue when it may be set up now: negotiation is done (its outcome decides what the
 * rings mean), it is not in use, and the device is not: but a queue that was reset alone (2.6.1)
 * may be set up anew in a live device.
 */
static struct virtqueue *queue_to_set_up(struct virtio_mmio *mmio)
{
	struct virtqueue *queue = selected_queue(mmio);

	if (!queue || queue->ready || (mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET))
		return NULL;
	if ((mmio->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	    !virtio_mmio_has_feature(mmio, VIRTIO_F_RING_RESET))
		return NULL;
	return queue;
}

static uint32_t read_device_features(const struct virtio_mmio *mmio)
{
	switch (mmio->device_features_sel) {
	case 0:
		return low_half(mmio->device_features);
	case 1:
		return high_half(mmio->device_features);
	default:
		return 0;
	}
}

/* Lock held. */
static uint32_t read_register(struct virtio_mmio *mmio, uint64_t offset)
{
	struct virtqueue *queue = selected_queue(mmio);

	switch (offset) {
	case VIRTIO_MMIO_MAGIC_VALUE:
		return MAGIC_VALUE;
	case VIRTIO_MMIO_VERSION:
		return 2;
	case VIRTIO_MMIO_DEVICE_ID:
		return mmio->ops->device_id;
	case VIRTIO_MMIO_VENDOR_ID:
		return VENDOR_ID;
	case VIRTIO_MMIO_DEVICE_FEATURES:
		return read_device_features(mmio);
	case VIRTIO_MMIO_QUEUE_NUM_MAX:
		return queue ? queue->size_max : 0;
	case VIRTIO_MMIO_QUEUE_READY:
		return queue ? queue->ready : 0;
	case VIRTIO_MMIO_STATUS:
		return mmio->status;
	case VIRTIO_MMIO_SHM_LEN_LOW:
	case VIRTIO_MMIO_SHM_LEN_HIGH:
	case VIRTIO_MMIO_SHM_BASE_LOW:
	case VIRTIO_MMIO_SHM_BASE_HIGH:
		return 0xffffffffU; /* there is no such region */
	case VIRTIO_MMIO_CONFIG_GENERATION:
		return mmio->config_generation;
	default:
		/* Write-only, or nothing. QueueReset: a reset is over when its write returns. */
		return 0;
	}
}

/*
 * 2.2.2, 3.1.1: whether the features that the driver chose are ones that the device can work with.
 */
static bool features_acceptable(struct virtio_mmio *mmio)
{
	uint64_t unknown = mmio->driver_features & ~mmio->device_features;

	if (unknown == 0 && virtio_mmio_has_feature(mmio, VIRTIO_F_VERSION_1))
		return true;
	log_warn_limited(&mmio->log_limit, mmio->log,
			 "%s: the guest's driver accepted features 0x%llx of 0x%llx: refused",
			 mmio->name, (unsigned long long)mmio->driver_features,
			 (unsigned long long)mmio->device_features);
	return false;
}

/* 2.1.1: a driver adds bits, one after the other, and takes none away but by writing 0. */
static void write_status(struct virtio_mmio *mmio, uint32_t value)
{
	uint32_t added = value & DRIVER_STATUS_BITS & ~mmio->status;

	if (value == 0) {
		virtio_mmio_reset(mmio);
		return;
	}
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(mmio))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((mmio->status | added) & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    (mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET))
		added &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
	mmio->status |= added;
	if ((added & VIRTIO_CONFIG_S_DRIVER_OK) && mmio->ops->activate)
		mmio->ops->activate(mmio);
}

static void write_driver_features(struct virtio_mmio *mmio, uint32_t value)
{
	if (mmio->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	if (mmio->driver_features_sel == 0)
		set_low_half(&mmio->driver_features, value);
	else if (mmio->driver_features_sel == 1)
		set_high_half(&mmio->driver_features, value);
}

static void write_queue_size(struct virtio_mmio *mmio, uint32_t value)
{
	struct virtqueue *queue = queue_to_set_up(mmio);

	if (!queue)
		return;
	/* To go on with another size than the driver's would be to misread its rings. */
	if (value == 0 || value > queue->size_max || (value & (value - 1)))
		virtio_mmio_needs_reset(mmio, mmio->queue_sel, "the queue size is not possible",
					value);
	else
		queue->size = (uint16_t)value;
}

static void write_queue_address(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	struct virtqueue *queue = queue_to_set_up(mmio);

	if (!queue)
		return;
	switch (offset) {
	case VIRTIO_MMIO_QUEUE_DESC_LOW:
		set_low_half(&queue->descriptors_gpa, value);
		break;
	case VIRTIO_MMIO_QUEUE_DESC_HIGH:
		set_high_half(&queue->descriptors_gpa, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
		set_low_half(&queue->available_gpa, value);
		break;
	case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
		set_high_half(&queue->available_gpa, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_LOW:
		set_low_half(&queue->used_gpa, value);
		break;
	case VIRTIO_MMIO_QUEUE_USED_HIGH:
		set_high_half(&queue->used_gpa, value);
		break;
	default:
		break;
	}
}

static void write_queue_ready(struct virtio_mmio *mmio, uint32_t value)
{
	struct virtqueue *queue = selected_queue(mmio);

	if (value == 0 && queue && queue->ready) {
		virtio_mmio_stop_queue(mmio, mmio->queue_sel);
		return;
	}
	queue = queue_to_set_up(mmio);
	if (value != 1 || !queue || !(mmio->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	if (virtqueue_enable(queue, mmio->driver_features) < 0)
		virtio_mmio_needs_reset(mmio, mmio->queue_sel, queue->fault, queue->fault_value);
}

static void write_queue_reset(struct virtio_mmio *mmio, uint32_t value)
{
	if (value == 1 && selected_queue(mmio) &&
	    virtio_mmio_has_feature(mmio, VIRTIO_F_RING_RESET))
		virtio_mmio_stop_queue(mmio, mmio->queue_sel);
}

/* Lock held. */
static void write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
	switch (offset) {
	case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
		mmio->device_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
		mmio->driver_features_sel = value;
		break;
	case VIRTIO_MMIO_DRIVER_FEATURES:
		write_driver_features(mmio, value);
		break;
	case VIRTIO_MMIO_QUEUE_SEL:
		mmio->queue_sel = value;
		break;
	case VIRTIO_MMIO_QUEUE_NUM:
		write_queue_size(mmio, value);
		break;
	case VIRTIO_MMIO_QUEUE_READY:
		write_queue_ready(mmio, value);
		break;
	case VIRTIO_MMIO_QUEUE_RESET:
		write_queue_reset(mmio, value);
		break;
	case VIRTIO_MMIO_STATUS:
		write_status(mmio, value);
		break;
	default:
		write_queue_address(mmio, offset, value);
		break;
	}
}

static void read_config(struct virtio_mmio *mmio, uint64_t offset, uint8_t *data, size_t length)
{
	size_t there;

	memset(data, 0, length);
	if (offset >= mmio->config_bytes)
		return;
	there = mmio->config_bytes - offset;
	memcpy(data, (const uint8_t *)mmio->config + offset, length < there ? length : there);
}

static void window_read(struct bus_device *device, uint64_t offset, uint8_t *data, size_t length)
{
	struct virtio_mmio_window *window = container_of(device, struct virtio_mmio_window, device);
	struct virtio_mmio *mmio = window->mmio;

	if (window_is_empty(window) && offset > VIRTIO_MMIO_VERSION) {
		memset(data, 0, length);
		return;
	}
	if (offset < VIRTIO_MMIO_CONFIG && length != sizeof(uint32_t)) {
		memset(data, 0, length);
		return;
	}
	if (offset == VIRTIO_MMIO_INTERRUPT_STATUS) {
		bus_store(data, length, atomic_load(&mmio->interrupt_status));
		return;
	}
	virtio_mmio_lock(mmio);
	if (offset >= VIRTIO_MMIO_CONFIG)
		read_config(mmio, offset - VIRTIO_MMIO_CONFIG, data, length);
	else
		bus_store(data, length, read_register(mmio, offset));
	virtio_mmio_unlock(mmio);
}

/*
 * The kernel takes notifications itself (ioeventfd); one that comes here was written in another
 * way, or early.
 */
static void write_notify(struct virtio_mmio *mmio, uint64_t queue)
{
	if (queue < mmio->ops->queue_count)
		virtio_mmio_notify_later(mmio, (unsigned int)queue);
}

static void window_write(struct bus_device *device, uint64_t offset, const uint8_t *data,
			 size_t length)
{
	struct virtio_mmio_window *window = container_of(device, struct virtio_mmio_window, device);
	struct virtio_mmio *mmio = window->mmio;
	uint64_t value = bus_load(data, length);

	if (window_is_empty(window))
		return;
	if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
		write_notify(mmio, value);
		return;
	}
	/* No device here has configuration space that a driver may write. */
	if (offset >= VIRTIO_MMIO_CONFIG || length != sizeof(uint32_t))
		return;
	if (offset == VIRTIO_MMIO_INTERRUPT_ACK) {
		atomic_fetch_and(&mmio->interrupt_status, ~(uint32_t)value);
		return;
	}
	virtio_mmio_lock(mmio);
	if (offset == VIRTIO_MMIO_STATUS && value != 0 && atomic_load(&mmio->owner) < 0)
		atomic_store(&mmio->owner, (int)(window - mmio->windows));
	/* Another vCPU may have come first through the other window. */
	if (!window_is_empty(window))
		write_register(mmio, offset, (uint32_t)value);
	virtio_mmio_unlock(mmio);
}

const struct bus_ops virtio_mmio_window_ops = { .read = window_read, .write = window_write };
