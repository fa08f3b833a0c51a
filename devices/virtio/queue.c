/*
 * The split virtqueue (virtio 1.2, 2.7): see include/mayfly/virtqueue.h.
 *
 * The driver writes descriptors, puts the index of a chain's head into the available ring and moves
 * the ring's index. The device takes heads in that order, walks each chain, and later writes (head,
 * length) into the used ring and moves that one's index. Everything that the driver wrote is copied
 * once, checked, then used; the indices are read and written with the barriers that 2.7.13
 * and 2.7.14 ask for. x86-64 is little-endian, as the rings are.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "mayfly/virtqueue.h"

/* 2.7.5: "longer than 2^32 bytes in total" is forbidden. */
#define CHAIN_MAX_BYTES (1ULL << 32)

/* Offsets in the available ring (2.7.6) and the used ring (2.7.8). */
#define RING_FLAGS 0
#define RING_INDEX 2
#define RING_ITEMS 4

_Static_assert(sizeof(struct vring_desc) == 16, "2.7.5: struct virtq_desc");
_Static_assert(sizeof(struct vring_used_elem) == 8, "2.7.8: struct virtq_used_elem");

static uint16_t load_u16(const uint8_t *ring, size_t offset, int order)
{
	return __atomic_load_n((const uint16_t *)(const void *)(ring + offset), order);
}

static void store_u16(uint8_t *ring, size_t offset, uint16_t value, int order)
{
	__atomic_store_n((uint16_t *)(void *)(ring + offset), value, order);
}

/* Only the used ring is the device's to write. */
static void store_used(const struct virtqueue *queue, size_t offset, uint16_t value, int order)
{
	store_u16(queue->used, offset, value, order);
	memory_mark_dirty(queue->memory, queue->used + offset, sizeof(value));
}

static size_t available_bytes(uint16_t size)
{
	return RING_ITEMS + sizeof(uint16_t) * size + sizeof(uint16_t); /* used_event at the end */
}

static size_t used_bytes(uint16_t size)
{
	return RING_ITEMS + sizeof(struct vring_used_elem) * size +
	       sizeof(uint16_t); /* avail_event */
}

static size_t used_event_offset(const struct virtqueue *queue)
{
	return RING_ITEMS + sizeof(uint16_t) * queue->size;
}

static size_t available_event_offset(const struct virtqueue *queue)
{
	return RING_ITEMS + sizeof(struct vring_used_elem) * queue->size;
}

static int refuse(struct virtqueue *queue, int code, const char *reason, uint64_t value)
{
	queue->fault = reason;
	queue->fault_value = value;
	return -code;
}

static int broken(struct virtqueue *queue, const char *reason, uint64_t value)
{
	return refuse(queue, EPROTO, reason, value);
}

void virtqueue_init(struct virtqueue *queue, const struct memory *memory, uint16_t size_max)
{
	*queue = (struct virtqueue) { .memory = memory, .size_max = size_max, .size = size_max };
}

void virtqueue_reset(struct virtqueue *queue)
{
	virtqueue_init(queue, queue->memory, queue->size_max);
}

int virtqueue_enable(struct virtqueue *queue, uint64_t features)
{
	uint16_t size = queue->size;

	queue->fault = NULL;
	if (size == 0 || size > queue->size_max || (size & (size - 1)))
		return refuse(queue, EINVAL, "the queue size is not possible", size);
	if (!is_aligned(queue->descriptors_gpa, VRING_DESC_ALIGN_SIZE))
		return refuse(queue, EINVAL, "the descriptor table is not aligned to 16 bytes",
			      queue->descriptors_gpa);
	if (!is_aligned(queue->available_gpa, VRING_AVAIL_ALIGN_SIZE))
		return refuse(queue, EINVAL, "the available ring is not aligned to 2 bytes",
			      queue->available_gpa);
	if (!is_aligned(queue->used_gpa, VRING_USED_ALIGN_SIZE))
		return refuse(queue, EINVAL, "the used ring is not aligned to 4 bytes",
			      queue->used_gpa);
	queue->descriptors = memory_span(queue->memory, queue->descriptors_gpa,
					 sizeof(struct vring_desc) * size);
	queue->available = memory_span(queue->memory, queue->available_gpa, available_bytes(size));
	queue->used = memory_span(queue->memory, queue->used_gpa, used_bytes(size));
	if (!queue->descriptors)
		return refuse(queue, EINVAL, "the descriptor table is outside memory",
			      queue->descriptors_gpa);
	if (!queue->available)
		return refuse(queue, EINVAL, "the available ring is outside memory",
			      queue->available_gpa);
	if (!queue->used)
		return refuse(queue, EINVAL, "the used ring is outside memory", queue->used_gpa);
	queue->event_idx = features & (1ULL << VIRTIO_RING_F_EVENT_IDX);
	queue->indirect = features & (1ULL << VIRTIO_RING_F_INDIRECT_DESC);
	queue->next_available = queue->next_used = queue->published_used = 0;
	queue->ready = true;
	return 0;
}

/* A table of descriptors in guest memory, which changes as the driver likes. */
struct table {
	const uint8_t *descriptors;
	unsigned int count;
	bool indirect;
};

/* The only read of a descriptor. The compiler may not read it again behind the barrier. */
static struct vring_desc copy_descriptor(const struct table *table, unsigned int index)
{
	struct vring_desc descriptor;

	memcpy(&descriptor, table->descriptors + sizeof(descriptor) * index, sizeof(descriptor));
	__asm__ volatile("" ::: "memory");
	return descriptor;
}

/*
 * 2.7.5.3: the descriptor refers to a table of its own; VIRTQ_DESC_F_WRITE in it means nothing.
 * Goes on at the first entry of that table.
 */
static int enter_indirect(struct virtqueue *queue, const struct vring_desc *descriptor,
			  struct table *table)
{
	if (!queue->indirect)
		return broken(queue, "an indirect descriptor, which was not negotiated",
			      descriptor->flags);
	if (table->indirect)
		return broken(queue, "an indirect descriptor within an indirect table",
			      descriptor->addr);
	if (descriptor->flags & VRING_DESC_F_NEXT)
		return broken(queue, "an indirect descriptor with a next one", descriptor->next);
	if (descriptor->len == 0 || descriptor->len % sizeof(struct vring_desc))
		return broken(queue, "an indirect table whose length is no multiple of 16",
			      descriptor->len);
	table->descriptors = memory_span(queue->memory, descriptor->addr, descriptor->len);
	if (!table->descriptors)
		return broken(queue, "an indirect table outside memory", descriptor->addr);
	table->count = descriptor->len / (unsigned int)sizeof(struct vring_desc);
	table->indirect = true;
	return 0;
}

/* Adds one buffer to the chain, translated. */
static int add_buffer(struct virtqueue *queue, const struct vring_desc *descriptor,
		      struct virtqueue_chain *chain)
{
	unsigned int count = chain->readable_count + chain->writable_count;
	bool writable = descriptor->flags & VRING_DESC_F_WRITE;
	void *hva;

	/*
	 * A driver may not make a chain longer than the queue (2.7.5.3.1), but Linux does when it
	 * has made the queue smaller than the device offers, since it counts an indirect table as
	 * one. Nothing is lost by allowing it.
	 */
	if (count >= queue->size_max)
		return broken(queue, "a chain longer than the queue", count + 1);
	if (descriptor->len == 0)
		return broken(queue, "a buffer of no length", descriptor->addr);
	if (!writable && chain->writable_count)
		return broken(queue, "a device-readable buffer behind a device-writable one",
			      descriptor->addr);
	if (chain->readable_bytes + chain->writable_bytes + descriptor->len > CHAIN_MAX_BYTES)
		return broken(queue, "a chain of more than 2^32 bytes", descriptor->len);
	hva = memory_span(queue->memory, descriptor->addr, descriptor->len);
	if (!hva)
		return broken(queue, "a buffer outside memory", descriptor->addr);

	chain->iov[count] = (struct iovec) { .iov_base = hva, .iov_len = descriptor->len };
	if (writable) {
		/* For the whole chain at once, and in good time: nobody takes a snapshot of a
		 * device that has work in flight. */
		memory_mark_dirty(queue->memory, hva, descriptor->len);
		chain->writable_count++;
		chain->writable_bytes += descriptor->len;
	} else {
		chain->readable_count++;
		chain->readable_bytes += descriptor->len;
	}
	return 0;
}

static int walk(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	struct table table = { .descriptors = queue->descriptors, .count = queue->size };
	unsigned int index = chain->head, seen = 0;
	struct vring_desc descriptor;
	int result;

	for (;;) {
		if (index >= table.count)
			return broken(queue, "a descriptor index out of range", index);
		/* More steps than the table has descriptors: one of them was met twice. */
		if (seen++ >= table.count)
			return broken(queue, "a chain that loops", chain->head);
		descriptor = copy_descriptor(&table, index);
		if (descriptor.flags & VRING_DESC_F_INDIRECT) {
			result = enter_indirect(queue, &descriptor, &table);
			index = seen = 0;
		} else {
			result = add_buffer(queue, &descriptor, chain);
			if (result == 0 && !(descriptor.flags & VRING_DESC_F_NEXT))
				return 0;
			index = descriptor.next;
		}
		if (result < 0)
			return result;
	}
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
	uint16_t index, waiting, head;
	int result;

	if (!queue->ready)
		return 0;
	if (queue->fault)
		return -EPROTO;
	/*
	 * Acquire: the descriptors and the ring's entries were written before the index (2.7.13.3).
	 */
	index = load_u16(queue->available, RING_INDEX, __ATOMIC_ACQUIRE);
	waiting = (uint16_t)(index - queue->next_available);
	if (waiting == 0)
		return 0;
	/*
	 * Each entry is one descriptor at least, so that no more than the queue's size can be out.
	 */
	if (waiting > queue->size - virtqueue_in_flight(queue))
		return broken(queue, "the available index jumped", index);

	head = load_u16(queue->available,
			RING_ITEMS + sizeof(uint16_t) * (queue->next_available & (queue->size - 1)),
			__ATOMIC_RELAXED);
	chain->head = head;
	chain->readable_count = chain->writable_count = 0;
	chain->readable_bytes = chain->writable_bytes = 0;
	result = walk(queue, chain);
	if (result < 0)
		return result;
	queue->next_available++;
	return 1;
}

void virtqueue_unpop(struct virtqueue *queue, uint16_t count)
{
	/* None are out of a queue that was reset meanwhile. */
	if (count <= virtqueue_in_flight(queue))
		queue->next_available = (uint16_t)(queue->next_available - count);
}

uint16_t virtqueue_waiting(const struct virtqueue *queue)
{
	uint16_t waiting;

	if (!queue->ready)
		return 0;
	waiting = (uint16_t)(load_u16(queue->available, RING_INDEX, __ATOMIC_RELAXED) -
			     queue->next_available);
	return waiting < queue->size ? waiting : queue->size;
}

void virtqueue_push(struct virtqueue *queue, uint16_t head, uint32_t length)
{
	struct vring_used_elem element = { .id = head, .len = length };
	uint8_t *entry;

	if (!queue->ready)
		return;
	entry = queue->used + RING_ITEMS + sizeof(element) * (queue->next_used & (queue->size - 1));
	memcpy(entry, &element, sizeof(element));
	memory_mark_dirty(queue->memory, entry, sizeof(element));
	queue->next_used++;
}

/*
 * 2.7.7.2: whether the driver wants to hear that the used index went from `old` to where it is now.
 */
static bool wants_interrupt(const struct virtqueue *queue, uint16_t old)
{
	uint16_t event;

	if (!queue->event_idx)
		return !(load_u16(queue->available, RING_FLAGS, __ATOMIC_RELAXED) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	event = load_u16(queue->available, used_event_offset(queue), __ATOMIC_RELAXED);
	return vring_need_event(event, queue->published_used, old);
}

bool virtqueue_publish(struct virtqueue *queue)
{
	uint16_t old = queue->published_used;

	if (!queue->ready || queue->next_used == old)
		return false;
	queue->published_used = queue->next_used;
	/*
	 * Release: what the device wrote, buffers and entries, is visible before the index
	 * (2.7.8.2).
	 */
	store_used(queue, RING_INDEX, queue->published_used, __ATOMIC_RELEASE);
	/*
	 * The driver writes used_event (or the flag), then looks at the index again; the device
	 * writes the index, then looks at used_event. With a full barrier on both sides at least
	 * one of them sees the other's write.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return wants_interrupt(queue, old);
}

void virtqueue_disable_notify(struct virtqueue *queue)
{
	/*
	 * With event_idx the event that the driver passed already stays behind it: it is silent
	 * without our doing.
	 */
	if (queue->ready && !queue->event_idx)
		store_used(queue, RING_FLAGS, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool virtqueue_enable_notify(struct virtqueue *queue)
{
	if (!queue->ready || queue->fault)
		return false;
	if (queue->event_idx)
		store_used(queue, available_event_offset(queue), queue->next_available,
			   __ATOMIC_RELAXED);
	else
		store_used(queue, RING_FLAGS, 0, __ATOMIC_RELAXED);
	/* As in virtqueue_publish(), the other way round: first ask, then look again. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load_u16(queue->available, RING_INDEX, __ATOMIC_RELAXED) != queue->next_available;
}
