/*
 * What a driver may have with the disk at once, and who waits for it: devices/virtio/block.c and
 * the disk's steps.
 */
#include "virtio_block_fixture.h"

#define LARGE_DISK_BYTES (256 * MIB)
#define PART_BYTES	 (8U * (unsigned int)MIB)
#define PARTS		 16 /* into the same memory, again and again */
#define LARGE_BYTES	 ((uint64_t)PARTS * PART_BYTES)
#define REQUESTS	 8

/* A table for each request: header, parts, status. */
static void put_large(struct fixture *f, unsigned int n, uint32_t type)
{
	struct memory *memory = &f->driver.memory;
	uint64_t table = RING_INDIRECT + n * 16ULL * (PARTS + 2);
	uint16_t direction = type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0;

	put_header(f, n, type, 0);
	table_set(memory, table, 0, HEADER + 16ULL * n, 16, VRING_DESC_F_NEXT, 1);
	for (unsigned int i = 1; i <= PARTS; i++)
		table_set(memory, table, i, 16 * MIB, PART_BYTES, direction | VRING_DESC_F_NEXT,
			  (uint16_t)(i + 1));
	table_set(memory, table, PARTS + 1, STATUS + n, 1, VRING_DESC_F_WRITE, 0);
	ring_set(&f->driver.ring, n, table, 16 * (PARTS + 2), VRING_DESC_F_INDIRECT, 0);
	ring_add(&f->driver.ring, (uint16_t)n);
}

static void with_a_large_disk(void (*body)(struct fixture *f))
{
	static const enum io_engine engines[] = { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		struct error err = { 0 };
		struct disk *disk;
		struct fixture f;

		set_up_with(&f, engines[i], CACHE_WRITEBACK, false);
		cr_assert_eq(ftruncate(f.fd, LARGE_DISK_BYTES), 0);
		cr_assert_eq(disk_open(&disk, &f.config, VIRTIO_BLOCK_QUEUE_SIZE,
				       virtio_block_disk(f.block), &err),
			     0, "%s", err.message);
		cr_assert_eq(virtio_block_set_disk(f.block, disk, &err), 0, "%s", err.message);
		driver_start(&f.driver, USUAL, RING_SIZE);
		body(&f);
		tear_down(&f);
	}
}

static unsigned int taken(struct fixture *f)
{
	return f->driver.mmio->queues[0].virtqueue.next_available;
}

static uint64_t allocated_bytes(struct fixture *f)
{
	struct stat status;

	cr_assert_eq(fstat(f->fd, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static void reset_cuts_short(struct fixture *f)
{
	for (unsigned int n = 0; n < REQUESTS; n++)
		put_large(f, n, VIRTIO_BLK_T_OUT);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	cr_assert(driver_turn(&f->driver, 60000));
	cr_assert_eq(taken(f), 1, "%u", taken(f));
	driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
	cr_assert_lt(allocated_bytes(f), LARGE_BYTES / 2);
	cr_assert_eq(status_of(f, 0), NOT_ANSWERED);

	/* And it lives. */
	driver_start(&f->driver, USUAL, RING_SIZE);
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 0, DATA, 4096), VIRTIO_BLK_S_OK);
}

Test(virtio_block_limits, reset_does_not_wait_for_all_that_a_large_request_asks)
{
	with_a_large_disk(reset_cuts_short);
}

static void answers_all(struct fixture *f)
{
	for (unsigned int n = 0; n < REQUESTS; n++)
		put_large(f, n, VIRTIO_BLK_T_IN);
	submit(f);
	for (unsigned int n = 0; n < REQUESTS; n++) {
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
		cr_assert_eq(ring_take(&f->driver.ring).len, LARGE_BYTES + 1);
	}
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->read_bytes), REQUESTS * LARGE_BYTES);
}

Test(virtio_block_limits, what_found_no_room_is_done_afterwards)
{
	with_a_large_disk(answers_all);
}
