/* What the tests of the ring walker share: a ring in guest memory. */
#ifndef TESTS_UNIT_VIRTQUEUE_FIXTURE_H
#define TESTS_UNIT_VIRTQUEUE_FIXTURE_H

#include <pthread.h>

#include "virtio_driver.h"

#define ALL_FEATURES (1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << VIRTIO_RING_F_INDIRECT_DESC)
#define SIZE	     16

struct fixture {
	struct memory memory;
	struct virtqueue queue;
	struct ring ring;
	struct virtqueue_chain chain;
	struct iovec iov[VIRTQUEUE_MAX_SIZE];
};

static inline void set_up_large(struct fixture *f, uint64_t features, uint16_t size_max,
				uint16_t size, uint64_t memory)
{
	struct error err = { 0 };

	memset(f, 0, sizeof(*f));
	cr_assert_eq(memory_create(&f->memory, memory, HUGE_PAGES_NONE, &err), 0, "%s",
		     err.message);
	virtqueue_init(&f->queue, &f->memory, size_max);
	f->queue.size = size;
	f->queue.descriptors_gpa = RING_DESCRIPTORS;
	f->queue.available_gpa = RING_AVAILABLE;
	f->queue.used_gpa = RING_USED;
	cr_assert_eq(virtqueue_enable(&f->queue, features), 0, "%s", f->queue.fault);
	f->ring = (struct ring) { .memory = &f->memory, .size = size };
	f->chain.iov = f->iov;
}

static inline void set_up(struct fixture *f, uint64_t features)
{
	set_up_large(f, features, SIZE, SIZE, 16 * MIB);
}

static inline void tear_down(struct fixture *f)
{
	memory_destroy(&f->memory);
}

static inline int pop(struct fixture *f)
{
	return virtqueue_pop(&f->queue, &f->chain);
}

/* Offers chain 0, which must be refused with these words; and stays refused. */
static inline void refuses(struct fixture *f, const char *words)
{
	ring_offer(&f->ring, 0);
	cr_assert_eq(pop(f), -EPROTO);
	cr_assert(f->queue.fault && strstr(f->queue.fault, words), "it says: %s", f->queue.fault);
	cr_assert_eq(pop(f), -EPROTO);
	cr_assert_not(virtqueue_enable_notify(&f->queue));
	tear_down(f);
}

#endif
