/*
 * The virtio-mmio transport, version 2 (virtio 1.2, 4.2): registers, feature negotiation, device
 * status, queues' notifications, interrupts. A device embeds a struct virtio_mmio and fills in what
 * it is in struct virtio_mmio_ops.
 *
 * Threads. Register accesses come on vCPU threads, everything else on the main thread; one lock per
 * device serialises both, and all of `ops` is called with it held. InterruptStatus, InterruptACK
 * and QueueNotify take no lock, so that neither an interrupt handler nor a notification ever waits
 * for I/O.
 *
 * Windows. A device has two register windows (layout.h, LAYOUT_VIRTIO_MMIO_CMDLINE): one that ACPI
 * names, one that the kernel command line names. The one through which Status is first written
 * non-zero owns the device for the life of the machine; the other then reads as an empty slot and
 * ignores writes.
 *
 * For the machine (vmm): attach windows[0].device and windows[1].device to the MMIO bus; register
 * virtio_mmio_notify_fd(n) as ioeventfd at base + VIRTIO_MMIO_NOTIFY_OFFSET of both windows, length
 * 4, datamatch n; register `interrupt_fd` as irqfd (edge) of the device's line.
 */
#ifndef MAYFLY_VIRTIO_MMIO_H
#define MAYFLY_VIRTIO_MMIO_H

#include <pthread.h>
#include <stdatomic.h>
#include "mayfly/bus.h"
#include "mayfly/log.h"
#include "mayfly/loop.h"
#include "mayfly/virtqueue.h"

#define VIRTIO_MMIO_WINDOWS	  2
#define VIRTIO_MMIO_MAX_QUEUES	  2
#define VIRTIO_MMIO_NOTIFY_OFFSET 0x50
#define VIRTIO_MMIO_NAME_BYTES	  80

struct virtio_mmio;

/* What a device is. All functions are called with the lock held. */
struct virtio_mmio_ops {
	uint32_t device_id; /* virtio 1.2, 5 */
	uint16_t queue_count;
	uint16_t queue_size_max;

	/*
	 * The driver notified `queue`, which is ready, and the device is live (DRIVER_OK, not
	 * broken). Main thread.
	 */
	void (*notify)(struct virtio_mmio *mmio, unsigned int queue);

	/* The driver set DRIVER_OK: `mmio->driver_features` are final. May be NULL. Any thread. */
	void (*activate)(struct virtio_mmio *mmio);

	/* Device reset (2.4), once its queues are stopped. May be NULL. Any thread. */
	void (*reset)(struct virtio_mmio *mmio);

	/*
	 * Queue `queue` goes away: when this returns, nothing of it touches guest memory any more.
	 * Called for a queue that is ready, by device reset (2.4), queue reset (2.6.1) and
	 * QueueReady = 0. Any thread.
	 */
	void (*stop_queue)(struct virtio_mmio *mmio, unsigned int queue);
};

/* Any thread may read these; the device's lock serialises writers. */
struct virtio_mmio_metrics {
	_Atomic uint64_t notifications; /* times the main thread was woken by the driver */
	_Atomic uint64_t interrupts;	/* used buffer notifications sent */
	_Atomic uint64_t config_changes;
	_Atomic uint64_t resets;
	_Atomic uint64_t needs_reset; /* times the driver broke the rules */
};

/* For metrics: any thread, and no order with anything else. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t amount)
{
	atomic_fetch_add_explicit(counter, amount, memory_order_relaxed);
}

struct virtio_mmio_window {
	struct bus_device device;
	struct virtio_mmio *mmio;
};

struct virtio_mmio_queue {
	struct virtqueue virtqueue;
	struct loop_source notify;
	struct virtio_mmio *mmio;
	int notify_fd;
};

struct virtio_mmio {
	const struct virtio_mmio_ops *ops;
	struct virtio_mmio_window windows[VIRTIO_MMIO_WINDOWS];
	struct virtio_mmio_queue queues[VIRTIO_MMIO_MAX_QUEUES];
	char name[VIRTIO_MMIO_NAME_BYTES]; /* in messages: "drive rootfs" */
	struct loop *loop;
	struct log *log;
	int interrupt_fd; /* borrowed */

	pthread_mutex_t lock;
	uint64_t device_features;
	uint64_t driver_features;
	uint32_t device_features_sel, driver_features_sel, queue_sel;
	uint32_t status;
	bool paused;
	bool interrupt_on_resume;
	uint32_t config_generation;
	const void *config; /* the device's configuration space, read-only for the driver */
	size_t config_bytes;
	struct log_limit log_limit;

	_Atomic uint32_t interrupt_status;
	_Atomic int owner; /* the window that owns the device, or -1 */
	struct virtio_mmio_metrics metrics;
};

struct virtio_mmio_options {
	const char *name;
	unsigned int slot; /* which window pair: below LAYOUT_MAX_VIRTIO_DEVICES */
	const struct memory *memory;
	struct loop *loop;
	struct log *log;
	int interrupt_fd;   /* an eventfd, borrowed */
	uint64_t features;  /* the device's own; the transport adds what it and the queues offer */
	const void *config; /* borrowed, changes only inside virtio_mmio_lock() ...
			       virtio_mmio_config_changed() */
	size_t config_bytes;
};

/* Main thread. Everything in `options` outlives the device, but for the name, which is copied. */
int virtio_mmio_init(struct virtio_mmio *mmio, const struct virtio_mmio_ops *ops,
		     const struct virtio_mmio_options *options, struct error *err);

/* Main thread, when no vCPU runs any more. The device has stopped its queues. */
void virtio_mmio_destroy(struct virtio_mmio *mmio);

void virtio_mmio_lock(struct virtio_mmio *mmio);
void virtio_mmio_unlock(struct virtio_mmio *mmio);

/* EFD_NONBLOCK; owned by the transport. */
int virtio_mmio_notify_fd(const struct virtio_mmio *mmio, unsigned int queue);

/*
 * At rest: virtio_mmio_is_live() says no, and ops->notify is not called, until
 * virtio_mmio_resume(), which then calls it for every queue that is ready, notified or not.
 * Registers work as ever. Main thread, lock held; the device has nothing in flight.
 */
void virtio_mmio_pause(struct virtio_mmio *mmio);
void virtio_mmio_resume(struct virtio_mmio *mmio);

/*
 * Writes registers and queues of a device at rest into the open section. Reads them into a device
 * that was just made, perhaps over another disk or TAP, and leaves it at rest, lock held: what the
 * driver negotiated must be on offer there; what it never saw is not offered afterwards. An
 * interrupt that the driver has not acknowledged is sent again by virtio_mmio_resume(). Values that
 * no driver can have brought about are refused.
 */
void virtio_mmio_save(const struct virtio_mmio *mmio, struct state_writer *writer);
void virtio_mmio_restore(struct virtio_mmio *mmio, struct state_section *section);

/*
 * DRIVER_OK is set, the device is neither broken nor at rest: queues may be worked on. Lock held,
 * as for all below.
 */
bool virtio_mmio_is_live(const struct virtio_mmio *mmio);
bool virtio_mmio_has_feature(const struct virtio_mmio *mmio, unsigned int bit);

/* Publishes the used ring of `queue`, and interrupts when the driver asked for it. */
void virtio_mmio_publish(struct virtio_mmio *mmio, unsigned int queue);

/*
 * Calls ops->notify again in a later turn of the loop: for a device that has worked long enough in
 * this one.
 */
void virtio_mmio_notify_later(struct virtio_mmio *mmio, unsigned int queue);

/* The configuration space has changed: a new generation, and an interrupt (2.5, 4.2.2.1). */
void virtio_mmio_config_changed(struct virtio_mmio *mmio);

/*
 * The driver broke the rules: DEVICE_NEEDS_RESET (2.1.2), a line in the log, no more work until the
 * driver resets the device. `reason` is a constant text, `value` what it is about.
 */
void virtio_mmio_needs_reset(struct virtio_mmio *mmio, unsigned int queue, const char *reason,
			     uint64_t value);

#endif
