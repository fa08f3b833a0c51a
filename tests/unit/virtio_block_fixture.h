/* What the tests of the block device share: a device over a real file, a driver, requests. */
#ifndef TESTS_UNIT_VIRTIO_BLOCK_FIXTURE_H
#define TESTS_UNIT_VIRTIO_BLOCK_FIXTURE_H

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "mayfly/virtio_block.h"
#include "virtio_driver.h"

#define DISK_BYTES   (4 * MIB)
#define DISK_SECTORS (DISK_BYTES / 512)
#define RING_SIZE    64
#define ALIVE	     (FEATURES_STATUS | VIRTIO_CONFIG_S_DRIVER_OK)
#define NOT_ANSWERED 0xff

#define FEATURE(bit) (1ULL << (bit))
#define USUAL                                                                      \
	(FEATURE(VIRTIO_RING_F_EVENT_IDX) | FEATURE(VIRTIO_RING_F_INDIRECT_DESC) | \
	 FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_SEG_MAX))

#define HEADER (RING_BUFFERS + 0x0000) /* + 16 * n: of request n */
#define STATUS (RING_BUFFERS + 0x8000) /* + n */
#define DATA   (RING_BUFFERS + 0x10000)

struct fixture {
	struct driver driver;
	struct virtio_block *block;
	struct drive_config config;
	char path[64];
	int fd;
	uint32_t used_length;
};

/* Turns do not end by the time that the machine takes, unless a test says so. */
static inline uint64_t standing_clock(void)
{
	return 1;
}

static char drive_id[] = "the_root_file_system_of_a_guest";

static inline void set_up_with(struct fixture *f, enum io_engine engine, enum cache_type cache,
			       bool read_only)
{
	struct disk *disk;
	struct error err = { 0 };
	struct virtio_block_options options;

	memset(f, 0, sizeof(*f));
	driver_init(&f->driver, 64 * MIB);
	f->driver.loop.clock_ns = standing_clock;
	snprintf(f->path, sizeof(f->path), "/var/tmp/mayfly-block-test.XXXXXX");
	f->fd = mkstemp(f->path);
	cr_assert(f->fd >= 0 && ftruncate(f->fd, DISK_BYTES) == 0);
	f->config = (struct drive_config) {
		.drive_id = drive_id,
		.path_on_host = f->path,
		.is_read_only = read_only,
		.cache_type = cache,
		.io_engine = engine,
	};
	cr_assert_eq(disk_open(&disk, &f->config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, &err), 0, "%s",
		     err.message);
	options = (struct virtio_block_options) {
		.drive_id = drive_id,
		.slot = 0,
		.memory = &f->driver.memory,
		.loop = &f->driver.loop,
		.log = &f->driver.log,
		.interrupt_fd = f->driver.interrupt_fd,
	};
	cr_assert_eq(virtio_block_create(&f->block, &options, disk, &err), 0, "%s", err.message);
	f->driver.mmio = virtio_block_transport(f->block);
}

static inline void tear_down(struct fixture *f)
{
	virtio_block_destroy(f->block);
	driver_destroy(&f->driver);
	close(f->fd);
	unlink(f->path);
}

/* A live device; then the body; for each engine. */
static inline void with_each_engine(void (*body)(struct fixture *f))
{
	static const enum io_engine engines[] = { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct fixture f;

		set_up_with(&f, engines[i], CACHE_WRITEBACK, false);
		driver_start(&f.driver, USUAL, RING_SIZE);
		body(&f);
		tear_down(&f);
	}
}

static inline uint64_t counter(const _Atomic uint64_t *value)
{
	return atomic_load(value);
}

static inline void *at(struct fixture *f, uint64_t gpa, uint64_t length)
{
	return guest(&f->driver.memory, gpa, length);
}

static inline void put_header(struct fixture *f, unsigned int n, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };

	memcpy(at(f, HEADER + 16ULL * n, 16), &header, 16);
	*(uint8_t *)at(f, STATUS + n, 1) = NOT_ANSWERED;
}

/* Request `n` in descriptors 3n to 3n + 2: header, data (when there is any), status. */
static inline void put_request(struct fixture *f, unsigned int n, uint32_t type, uint64_t sector,
			       uint64_t data, uint32_t length)
{
	struct ring *ring = &f->driver.ring;
	uint16_t head = (uint16_t)(3 * n);
	uint16_t direction =
		type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID ? VRING_DESC_F_WRITE : 0;

	put_header(f, n, type, sector);
	ring_set(ring, head, HEADER + 16ULL * n, 16, VRING_DESC_F_NEXT,
		 (uint16_t)(head + (length ? 1 : 2)));
	if (length)
		ring_set(ring, head + 1U, data, length, direction | VRING_DESC_F_NEXT,
			 (uint16_t)(head + 2));
	ring_set(ring, head + 2U, STATUS + n, 1, VRING_DESC_F_WRITE, 0);
	ring_add(ring, head);
}

static inline uint8_t status_of(struct fixture *f, unsigned int n)
{
	return *(uint8_t *)at(f, STATUS + n, 1);
}

/* Everything that was put, until the device has answered it all. */
static inline void submit(struct fixture *f)
{
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_wait_used(&f->driver, f->driver.ring.available_index);
}

/* One request, its status; f->used_length is what the used ring says. */
static inline uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint64_t data,
			      uint32_t length)
{
	put_request(f, 0, type, sector, data, length);
	submit(f);
	f->used_length = ring_take(&f->driver.ring).len;
	return status_of(f, 0);
}

/* The chain at descriptor 0 as the test made it. */
static inline uint8_t chain(struct fixture *f)
{
	ring_add(&f->driver.ring, 0);
	submit(f);
	f->used_length = ring_take(&f->driver.ring).len;
	return status_of(f, 0);
}

static inline void fill(uint8_t *data, size_t length, unsigned int seed)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)((i + seed) % 251 + 1);
}

static inline bool in_file(struct fixture *f, uint64_t offset, const void *data, size_t length)
{
	uint8_t *there = malloc(length);
	bool same = pread(f->fd, there, length, (off_t)offset) == (ssize_t)length &&
		    memcmp(there, data, length) == 0;

	free(there);
	return same;
}

#endif
