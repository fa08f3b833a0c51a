/*
 * A guest's side of virtio for tests: rings in real guest memory (struct memory, without KVM), a
 * driver that speaks to the registers through one of the two windows, and turns of the event loop.
 * It does what a test says, also what no driver may do.
 */
#ifndef TESTS_UNIT_VIRTIO_DRIVER_H
#define TESTS_UNIT_VIRTIO_DRIVER_H

#include <criterion/criterion.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/eventfd.h>

#include "mayfly/virtio_mmio.h"

#define RING_DESCRIPTORS 0x10000ULL
#define RING_AVAILABLE	 0x20000ULL
#define RING_USED	 0x30000ULL
#define RING_INDIRECT	 0x40000ULL
#define RING_BUFFERS	 0x100000ULL

#define FEATURES_STATUS \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK)

struct ring {
	struct memory *memory;
	uint64_t offset; /* of its three parts from where the first queue's are */
	uint16_t size;
	uint16_t available_index; /* what the driver published last */
	uint16_t used_seen;
};

static inline void *guest(struct memory *memory, uint64_t gpa, uint64_t length)
{
	void *span = memory_span(memory, gpa, length);

	cr_assert(span, "the test's own address 0x%llx", (unsigned long long)gpa);
	return span;
}

static inline uint16_t *ring_u16(struct ring *ring, uint64_t gpa)
{
	return guest(ring->memory, gpa, sizeof(uint16_t));
}

static inline void table_set(struct memory *memory, uint64_t table, unsigned int index,
			     uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = {
		.addr = address, .len = length, .flags = flags, .next = next
	};

	memcpy(guest(memory, table + 16ULL * index, 16), &descriptor, 16);
}

static inline void ring_set(struct ring *ring, unsigned int index, uint64_t address,
			    uint32_t length, uint16_t flags, uint16_t next)
{
	table_set(ring->memory, ring->offset + RING_DESCRIPTORS, index, address, length, flags,
		  next);
}

/* Puts a head into the available ring without telling; ring_publish() tells. */
static inline void ring_add(struct ring *ring, uint16_t head)
{
	*ring_u16(ring, ring->offset + RING_AVAILABLE + 4 +
				2ULL * (ring->available_index++ & (ring->size - 1))) = head;
}

static inline void ring_publish(struct ring *ring)
{
	__atomic_store_n(ring_u16(ring, ring->offset + RING_AVAILABLE + 2), ring->available_index,
			 __ATOMIC_SEQ_CST);
}

static inline void ring_offer(struct ring *ring, uint16_t head)
{
	ring_add(ring, head);
	ring_publish(ring);
}

static inline uint16_t ring_used_index(struct ring *ring)
{
	return __atomic_load_n(ring_u16(ring, ring->offset + RING_USED + 2), __ATOMIC_SEQ_CST);
}

/* The next entry of the used ring, which must be there. */
static inline struct vring_used_elem ring_take(struct ring *ring)
{
	struct vring_used_elem element;

	cr_assert_neq(ring->used_seen, ring_used_index(ring), "nothing was used");
	memcpy(&element,
	       guest(ring->memory,
		     ring->offset + RING_USED + 4 + 8ULL * (ring->used_seen++ & (ring->size - 1)),
		     8),
	       8);
	return element;
}

static inline uint16_t *ring_used_event(struct ring *ring)
{
	return ring_u16(ring, ring->offset + RING_AVAILABLE + 4 + 2ULL * ring->size);
}

static inline uint16_t *ring_available_event(struct ring *ring)
{
	return ring_u16(ring, ring->offset + RING_USED + 4 + 8ULL * ring->size);
}

/* The machine around a device. */
struct driver {
	struct memory memory;
	struct loop loop;
	struct log log;
	int interrupt_fd;
	struct virtio_mmio *mmio;
	unsigned int window;
	struct ring ring;
};

static inline void driver_init(struct driver *driver, uint64_t memory_bytes)
{
	struct error err = { 0 };

	memset(driver, 0, sizeof(*driver));
	cr_assert_eq(memory_create(&driver->memory, memory_bytes, HUGE_PAGES_NONE, &err), 0, "%s",
		     err.message);
	cr_assert_eq(loop_init(&driver->loop, &err), 0);
	log_init(&driver->log);
	driver->log.level = LOG_OFF;
	driver->interrupt_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	driver->ring = (struct ring) { .memory = &driver->memory, .size = VIRTQUEUE_MAX_SIZE };
}

static inline void driver_destroy(struct driver *driver)
{
	close_fd(&driver->interrupt_fd);
	log_close(&driver->log);
	loop_destroy(&driver->loop);
	memory_destroy(&driver->memory);
}

static inline uint64_t driver_read(struct driver *driver, uint64_t offset, size_t length)
{
	struct bus_device *device = &driver->mmio->windows[driver->window].device;
	uint8_t data[8];

	memset(data, 0xa5, sizeof(data));
	device->ops->read(device, offset, data, length);
	return bus_load(data, length);
}

static inline void driver_write(struct driver *driver, uint64_t offset, uint64_t value,
				size_t length)
{
	struct bus_device *device = &driver->mmio->windows[driver->window].device;
	uint8_t data[8];

	bus_store(data, length, value);
	device->ops->write(device, offset, data, length);
}

static inline uint32_t driver_get(struct driver *driver, uint64_t offset)
{
	return (uint32_t)driver_read(driver, offset, 4);
}

static inline void driver_set(struct driver *driver, uint64_t offset, uint32_t value)
{
	driver_write(driver, offset, value, 4);
}

static inline uint64_t driver_offered_features(struct driver *driver)
{
	uint64_t features;

	driver_set(driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
	features = driver_get(driver, VIRTIO_MMIO_DEVICE_FEATURES);
	driver_set(driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
	return features | (uint64_t)driver_get(driver, VIRTIO_MMIO_DEVICE_FEATURES) << 32;
}

static inline void driver_accept_features(struct driver *driver, uint64_t features)
{
	driver_set(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	driver_set(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	driver_set(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	driver_set(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
}

/* 3.1.1 up to FEATURES_OK. */
static inline void driver_negotiate(struct driver *driver, uint64_t features)
{
	driver_set(driver, VIRTIO_MMIO_STATUS, 0);
	driver_set(driver, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	driver_set(driver, VIRTIO_MMIO_STATUS,
		   VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	driver_accept_features(driver, features | 1ULL << VIRTIO_F_VERSION_1);
	driver_set(driver, VIRTIO_MMIO_STATUS, FEATURES_STATUS);
}

static inline void driver_place_selected(struct driver *driver, uint32_t size, uint64_t descriptors,
					 uint64_t available, uint64_t used)
{
	driver_set(driver, VIRTIO_MMIO_QUEUE_NUM, size);
	driver_set(driver, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)descriptors);
	driver_set(driver, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(descriptors >> 32));
	driver_set(driver, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)available);
	driver_set(driver, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(available >> 32));
	driver_set(driver, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)used);
	driver_set(driver, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(used >> 32));
}

static inline void driver_place_queue(struct driver *driver, uint32_t size, uint64_t descriptors,
				      uint64_t available, uint64_t used)
{
	driver_set(driver, VIRTIO_MMIO_QUEUE_SEL, 0);
	driver_place_selected(driver, size, descriptors, available, used);
}

/* An empty ring of `size` for queue `index`, ready. */
static inline void driver_set_up_ring(struct driver *driver, struct ring *ring, unsigned int index,
				      uint64_t offset, uint16_t size)
{
	*ring = (struct ring) { .memory = &driver->memory, .offset = offset, .size = size };
	memset(guest(&driver->memory, offset + RING_AVAILABLE, 0x1000), 0, 0x1000);
	memset(guest(&driver->memory, offset + RING_USED, 0x2000), 0, 0x2000);
	driver_set(driver, VIRTIO_MMIO_QUEUE_SEL, index);
	driver_place_selected(driver, size, offset + RING_DESCRIPTORS, offset + RING_AVAILABLE,
			      offset + RING_USED);
	driver_set(driver, VIRTIO_MMIO_QUEUE_READY, 1);
}

/* An empty ring of `size` at the usual place, ready. */
static inline void driver_set_up_queue(struct driver *driver, uint16_t size)
{
	driver_set_up_ring(driver, &driver->ring, 0, 0, size);
}

/* A live device with these features and one ring. */
static inline void driver_start(struct driver *driver, uint64_t features, uint16_t size)
{
	driver_negotiate(driver, features);
	cr_assert_eq(driver_get(driver, VIRTIO_MMIO_STATUS), FEATURES_STATUS);
	driver_set_up_queue(driver, size);
	cr_assert_eq(driver_get(driver, VIRTIO_MMIO_QUEUE_READY), 1);
	driver_set(driver, VIRTIO_MMIO_STATUS, FEATURES_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
	cr_assert_eq(driver_get(driver, VIRTIO_MMIO_STATUS),
		     FEATURES_STATUS | VIRTIO_CONFIG_S_DRIVER_OK);
}

static inline void driver_notify(struct driver *driver)
{
	driver_set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

/*
 * One turn of the main thread's loop; waits at most `timeout_ms` for something to happen. Whether
 * something did.
 */
static inline bool driver_turn(struct driver *driver, int timeout_ms)
{
	struct epoll_event events[4];
	int count = epoll_wait(driver->loop.epoll_fd, events, 4, timeout_ms);

	for (int i = 0; i < count; i++) {
		struct loop_source *source = events[i].data.ptr;

		if (source->fd >= 0)
			source->handler(source, events[i].events);
	}
	/* io_uring interrupts a wait to work in this thread: nothing has come to its end by that.
	 */
	return count > 0 || (count < 0 && errno == EINTR);
}

/* Turns until there is nothing left that waits. */
static inline void driver_settle(struct driver *driver)
{
	while (driver_turn(driver, 0))
		;
}

/* Turns until the used index is `index`; a disk that never answers fails the test. */
static inline void driver_wait_used(struct driver *driver, uint16_t index)
{
	while (ring_used_index(&driver->ring) != index)
		cr_assert(driver_turn(driver, 60000), "the device does not answer");
}

/* Guest memory as it is now, and all of it clean. The caller frees it. */
static inline uint8_t *driver_track_memory(struct driver *driver)
{
	const struct memory_region *region = &driver->memory.regions[0];
	uint8_t *copy = malloc(region->size_bytes);
	struct error err = { 0 };

	cr_assert_eq(memory_track_dirty(&driver->memory, &err), 0, "%s", err.message);
	memcpy(copy, region->hva, region->size_bytes);
	return copy;
}

/* Every page that differs from the copy is on record; returns how many are on record. */
static inline unsigned int driver_assert_recorded(struct driver *driver, const uint8_t *copy)
{
	const struct memory_region *region = &driver->memory.regions[0];
	unsigned int recorded = 0;

	for (uint64_t at = 0; at < region->size_bytes; at += PAGE_SIZE_BYTES) {
		bool dirty = memory_is_dirty(&driver->memory, at);

		recorded += dirty;
		cr_assert(dirty || memcmp(copy + at, region->hva + at, PAGE_SIZE_BYTES) == 0,
			  "the page at 0x%llx was written", (unsigned long long)at);
	}
	return recorded;
}

static inline uint64_t driver_take_interrupts(struct driver *driver)
{
	eventfd_t interrupts = 0;

	return eventfd_read(driver->interrupt_fd, &interrupts) < 0 ? 0 : interrupts;
}

#endif
