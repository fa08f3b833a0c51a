/*
 * The split virtqueue (virtio 1.2, 2.7), seen from the device: the only code which reads or writes
 * rings.
 *
 * A device takes work with virtqueue_pop(), which copies every descriptor once, checks it, and
 * turns the chain into host iovecs; gives it back with virtqueue_push(); and makes all that it has
 * given back visible at once with virtqueue_publish(), which also says whether the driver wants an
 * interrupt.
 *
 * What the driver did wrong makes virtqueue_pop() fail for good, with a reason, until
 * virtqueue_reset(). Nothing here locks: the device's lock (virtio_mmio.h) serialises every call on
 * one queue.
 */
#ifndef MAYFLY_VIRTQUEUE_H
#define MAYFLY_VIRTQUEUE_H

#include <sys/uio.h>
#include "mayfly/memory.h"
#include "mayfly/state.h"

/* The most that any device here offers; a power of two. */
#define VIRTQUEUE_MAX_SIZE 256

struct virtqueue {
	const struct memory *memory;
	uint16_t size_max; /* what the device offers, and the longest chain that it takes */

	/* Set by the driver, through the transport, while not ready. */
	uint16_t size;
	uint64_t descriptors_gpa, available_gpa, used_gpa;

	/* Valid while ready. The ring parts are spans taken once, by virtqueue_enable(). */
	bool ready;
	bool event_idx; /* VIRTIO_F_EVENT_IDX was negotiated */
	bool indirect;	/* VIRTIO_F_INDIRECT_DESC was negotiated */
	uint8_t *descriptors, *available, *used;
	uint16_t next_available; /* the next entry of the available ring to take */
	uint16_t next_used;	 /* the next entry of the used ring to write */
	uint16_t published_used; /* the used index that the driver can see */

	/* Why the queue cannot go on, or NULL: a constant text and the value that it is about. */
	const char *fault;
	uint64_t fault_value;
};

/*
 * One chain of descriptors as host memory: the device-readable parts first, then the
 * device-writable ones. The caller supplies `iov` with room for virtqueue->size_max entries. The
 * memory stays the guest's: it may change while it is looked at.
 */
struct virtqueue_chain {
	struct iovec *iov;
	unsigned int readable_count; /* iov[0] to iov[readable_count - 1] */
	unsigned int writable_count; /* those behind */
	uint64_t readable_bytes, writable_bytes;
	uint16_t head; /* what virtqueue_push() wants back */
};

/*
 * An unused queue that offers `size_max` entries: a power of two, at most VIRTQUEUE_MAX_SIZE.
 * Borrows `memory`.
 */
void virtqueue_init(struct virtqueue *queue, const struct memory *memory, uint16_t size_max);

/* Back to the state after virtqueue_init(). What was popped and not pushed is forgotten. */
void virtqueue_reset(struct virtqueue *queue);

/*
 * Checks size, alignment and place of the three ring parts (2.7) and makes the queue ready, with
 * the negotiated `features`. On failure (-EINVAL) it stays unready and `fault` says why.
 */
int virtqueue_enable(struct virtqueue *queue, uint64_t features);

/*
 * Takes the next chain. 1: `chain` is filled. 0: nothing is there (or the queue is not ready).
 * -EPROTO: the driver broke the rules; `fault` and `fault_value` say how, and every later call
 * fails alike. The number of chains taken and not yet pushed never exceeds the queue's size.
 */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);

/*
 * Gives the last `count` chains that were popped, and not pushed, back to the available ring:
 * virtqueue_pop() takes them again. For a device that takes chains ahead, when it comes to rest.
 */
void virtqueue_unpop(struct virtqueue *queue, uint16_t count);

/*
 * Puts a chain into the used ring: `length` is the number of bytes written to it. Not yet visible
 * to the driver.
 */
void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t length);

/*
 * Shows the driver all that was pushed. True when there was something and the driver wants an
 * interrupt for it.
 */
bool virtqueue_publish(struct virtqueue *queue);

/* "No notifications, please": while the device looks at the ring anyway. A hint only. */
void virtqueue_disable_notify(struct virtqueue *queue);

/*
 * Asks for a notification of the next chain. True when one is there already, which the device must
 * then take.
 */
bool virtqueue_enable_notify(struct virtqueue *queue);

/*
 * Chains that the driver has made available and that were not popped yet, by its own account: a
 * hint, at most the queue's size.
 */
uint16_t virtqueue_waiting(const struct virtqueue *queue);

/*
 * Writes what the driver set and how far the rings were worked on into the open section: of a queue
 * that is at rest. Reads it into a queue after virtqueue_init(), with the negotiated `features`,
 * through the same checks as virtqueue_enable(); `name` is for what is refused, such as "queue 0".
 */
void virtqueue_save(const struct virtqueue *queue, struct state_writer *writer);
void virtqueue_restore(struct virtqueue *queue, uint64_t features, const char *name,
		       struct state_section *section);

/* Chains popped and not yet pushed. */
static inline uint16_t virtqueue_in_flight(const struct virtqueue *queue)
{
	return (uint16_t)(queue->next_available - queue->next_used);
}

#endif
