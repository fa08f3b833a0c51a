/*
 * The virtio-mmio transport (virtio 1.2, 4.2): the device's side of it. See
 * include/mayfly/virtio_mmio.h; the registers themselves are in mmio_registers.c.
 *
 * A notification arrives as an eventfd that the main thread's loop waits for; an interrupt leaves
 * as a write to another. Of the first, edges are waited for, so that it need not be read: each
 * write is one, and a count that grows by one with each does not come to its end.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "mmio_private.h"

void virtio_mmio_lock(struct virtio_mmio *mmio)
{
	pthread_mutex_lock(&mmio->lock);
}

void virtio_mmio_unlock(struct virtio_mmio *mmio)
{
	pthread_mutex_unlock(&mmio->lock);
}

int virtio_mmio_notify_fd(const struct virtio_mmio *mmio, unsigned int queue)
{
	return mmio->queues[queue].notify_fd;
}

bool virtio_mmio_is_live(const struct virtio_mmio *mmio)
{
	return !mmio->paused &&
	       (mmio->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
		       VIRTIO_CONFIG_S_DRIVER_OK;
}

bool virtio_mmio_has_feature(const struct virtio_mmio *mmio, unsigned int bit)
{
	return mmio->driver_features & VIRTIO_FEATURE(bit);
}

/* An eventfd refuses a write only when its count is full, and then it is readable already. */
static void signal_eventfd(int fd)
{
	(void)!eventfd_write(fd, 1);
}

/*
 * The status before the edge: a handler that runs at once must find it (4.2.3.3). One that is about
 * to acknowledge an earlier one at this moment gets another edge.
 */
static void interrupt(struct virtio_mmio *mmio, uint32_t cause)
{
	atomic_fetch_or(&mmio->interrupt_status, cause);
	signal_eventfd(mmio->interrupt_fd);
}

/* 2.1.2: no notification before DRIVER_OK. */
static void interrupt_config(struct virtio_mmio *mmio)
{
	if (!(mmio->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	counter_add(&mmio->metrics.config_changes, 1);
	interrupt(mmio, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_mmio_publish(struct virtio_mmio *mmio, unsigned int queue)
{
	if (!virtqueue_publish(&mmio->queues[queue].virtqueue))
		return;
	counter_add(&mmio->metrics.interrupts, 1);
	interrupt(mmio, VIRTIO_MMIO_INT_VRING);
}

void virtio_mmio_notify_later(struct virtio_mmio *mmio, unsigned int queue)
{
	signal_eventfd(mmio->queues[queue].notify_fd);
}

void virtio_mmio_pause(struct virtio_mmio *mmio)
{
	mmio->paused = true;
}

/*
 * A notification that came meanwhile was dropped. Which queue it was for need not be
 * known: to look at a queue in vain does no harm.
 */
void virtio_mmio_resume(struct virtio_mmio *mmio)
{
	mmio->paused = false;
	if (mmio->interrupt_on_resume && atomic_load(&mmio->interrupt_status))
		signal_eventfd(mmio->interrupt_fd);
	mmio->interrupt_on_resume = false;
	for (unsigned int i = 0; i < mmio->ops->queue_count; i++) {
		if (mmio->queues[i].virtqueue.ready)
			virtio_mmio_notify_later(mmio, i);
	}
}

void virtio_mmio_config_changed(struct virtio_mmio *mmio)
{
	mmio->config_generation++;
	interrupt_config(mmio);
}

void virtio_mmio_needs_reset(struct virtio_mmio *mmio, unsigned int queue, const char *reason,
			     uint64_t value)
{
	if (mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	mmio->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	counter_add(&mmio->metrics.needs_reset, 1);
	log_warn_limited(&mmio->log_limit, mmio->log,
			 "%s: queue %u: the guest's driver broke the rules: %s (0x%llx); the "
			 "device stops until it is "
			 "reset",
			 mmio->name, queue, reason, (unsigned long long)value);
	interrupt_config(mmio);
}

void virtio_mmio_stop_queue(struct virtio_mmio *mmio, unsigned int index)
{
	struct virtqueue *queue = &mmio->queues[index].virtqueue;

	if (queue->ready)
		mmio->ops->stop_queue(mmio, index);
	virtqueue_reset(queue);
}

void virtio_mmio_reset(struct virtio_mmio *mmio)
{
	for (unsigned int i = 0; i < mmio->ops->queue_count; i++)
		virtio_mmio_stop_queue(mmio, i);
	if (mmio->ops->reset)
		mmio->ops->reset(mmio);
	mmio->status = 0;
	mmio->driver_features = 0;
	mmio->device_features_sel = mmio->driver_features_sel = mmio->queue_sel = 0;
	atomic_store(&mmio->interrupt_status, 0);
	counter_add(&mmio->metrics.resets, 1);
}

/*
 * The driver's notification, on the main thread. It may be late: the device may have been reset, or
 * come to rest, in the meantime.
 */
static void handle_notify(struct loop_source *source, uint32_t events)
{
	struct virtio_mmio_queue *queue = container_of(source, struct virtio_mmio_queue, notify);
	struct virtio_mmio *mmio = queue->mmio;

	(void)events;
	virtio_mmio_lock(mmio);
	counter_add(&mmio->metrics.notifications, 1);
	if (virtio_mmio_is_live(mmio) && queue->virtqueue.ready)
		mmio->ops->notify(mmio, (unsigned int)(queue - mmio->queues));
	virtio_mmio_unlock(mmio);
}

static int init_queue(struct virtio_mmio *mmio, struct virtio_mmio_queue *queue,
		      const struct virtio_mmio_options *options, struct error *err)
{
	int result;

	queue->mmio = mmio;
	virtqueue_init(&queue->virtqueue, options->memory, mmio->ops->queue_size_max);
	queue->notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (queue->notify_fd < 0)
		return error_errno(err, "%s: cannot make an eventfd for its queue", mmio->name);
	result = loop_add(mmio->loop, &queue->notify, queue->notify_fd, EPOLLIN | EPOLLET,
			  handle_notify, err);
	return result < 0 ? error_prefix(err, "%s", mmio->name) : 0;
}

static void init_window(struct virtio_mmio *mmio, unsigned int index, uint64_t base)
{
	mmio->windows[index] = (struct virtio_mmio_window) {
		.device = { .ops = &virtio_mmio_window_ops,
			    .base = base,
			    .length = LAYOUT_VIRTIO_MMIO_BYTES,
			    .name = mmio->name },
		.mmio = mmio,
	};
}

int virtio_mmio_init(struct virtio_mmio *mmio, const struct virtio_mmio_ops *ops,
		     const struct virtio_mmio_options *options, struct error *err)
{
	uint64_t offset = options->slot * LAYOUT_VIRTIO_MMIO_BYTES;
	int result = 0;

	memset(mmio, 0, sizeof(*mmio));
	if (options->slot >= LAYOUT_MAX_VIRTIO_DEVICES || ops->queue_count > VIRTIO_MMIO_MAX_QUEUES)
		return error_set(err, EINVAL, "%s: there is no place %u for a virtio device",
				 options->name, options->slot);
	mmio->ops = ops;
	snprintf(mmio->name, sizeof(mmio->name), "%s", options->name);
	mmio->loop = options->loop;
	mmio->log = options->log;
	mmio->interrupt_fd = options->interrupt_fd;
	mmio->config = options->config;
	mmio->config_bytes = options->config_bytes;
	mmio->device_features = options->features | VIRTIO_FEATURE(VIRTIO_F_VERSION_1) |
				VIRTIO_FEATURE(VIRTIO_RING_F_EVENT_IDX) |
				VIRTIO_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
				VIRTIO_FEATURE(VIRTIO_F_RING_RESET);
	atomic_init(&mmio->owner, -1);
	init_window(mmio, 0, LAYOUT_VIRTIO_MMIO + offset);
	init_window(mmio, 1, LAYOUT_VIRTIO_MMIO_CMDLINE + offset);
	pthread_mutex_init(&mmio->lock, NULL);
	for (unsigned int i = 0; i < VIRTIO_MMIO_MAX_QUEUES; i++)
		mmio->queues[i].notify.fd = mmio->queues[i].notify_fd = -1;
	for (unsigned int i = 0; result == 0 && i < ops->queue_count; i++)
		result = init_queue(mmio, &mmio->queues[i], options, err);
	if (result < 0)
		virtio_mmio_destroy(mmio);
	return result;
}

void virtio_mmio_destroy(struct virtio_mmio *mmio)
{
	for (unsigned int i = 0; i < VIRTIO_MMIO_MAX_QUEUES; i++) {
		loop_remove(mmio->loop, &mmio->queues[i].notify);
		close_fd(&mmio->queues[i].notify_fd);
	}
	pthread_mutex_destroy(&mmio->lock);
}
