/*
 * The block device (virtio 1.2, 5.2), devices/virtio/block.c: resets at any time, another disk, the
 * end.
 */
#include "virtio_block_fixture.h"

/* Reset at any time */

static void resets_in_flight(struct fixture *f)
{
	for (unsigned int round = 0; round < 50; round++) {
		uint8_t *data = at(f, DATA, 16 * 65536);

		for (unsigned int n = 0; n < 16; n++)
			put_request(f, n, VIRTIO_BLK_T_IN, n * 128, DATA + 65536 * n, 65536);
		ring_publish(&f->driver.ring);
		driver_notify(&f->driver);
		driver_turn(&f->driver, 60000); /* submitted; perhaps not finished */
		driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
		/* From here on the memory is the driver's again. */
		memset(data, 0x77, 16 * 65536);
		driver_settle(&f->driver);
		for (size_t i = 0; i < 16 * 65536; i++)
			cr_assert_eq(data[i], 0x77);
		driver_start(&f->driver, USUAL, RING_SIZE);
	}
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
}

Test(virtio_block, reset_waits_for_requests_in_flight)
{
	with_each_engine(resets_in_flight);
}

/* Requests of several megabytes each, of which a reset waits for a part only. */
static void resets_large_requests(struct fixture *f)
{
	for (unsigned int round = 0; round < 4; round++) {
		uint8_t *data = at(f, DATA, 3 * 4 * MIB);

		for (unsigned int n = 0; n < 3; n++)
			put_request(f, n, VIRTIO_BLK_T_IN, 0, DATA + n * 4 * MIB, 4 * MIB);
		ring_publish(&f->driver.ring);
		driver_notify(&f->driver);
		for (unsigned int turn = 0; turn < round; turn++)
			driver_turn(&f->driver, 0);
		driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
		memset(data, 0x77, 3 * 4 * MIB);
		driver_settle(&f->driver);
		for (size_t i = 0; i < 3 * 4 * MIB; i++)
			cr_assert_eq(data[i], 0x77);
		driver_start(&f->driver, USUAL, RING_SIZE);
	}
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 4 * MIB), VIRTIO_BLK_S_OK);
}

Test(virtio_block, reset_ends_large_requests)
{
	with_each_engine(resets_large_requests);
}

/* A vCPU resets, while the main thread's loop works on what another notified. */
struct resetter {
	struct fixture *f;
	_Atomic bool done;
};

static void *reset_often(void *argument)
{
	struct resetter *resetter = argument;
	struct fixture *f = resetter->f;

	for (unsigned int round = 0; round < 300; round++) {
		driver_start(&f->driver, USUAL, RING_SIZE);
		for (unsigned int n = 0; n < 16; n++)
			put_request(f, n, n % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, n * 8,
				    DATA + 4096 * n, 4096);
		ring_publish(&f->driver.ring);
		driver_notify(&f->driver);
		if (round % 3)
			usleep(round % 50);
		if (round % 2)
			driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
		else
			driver_set(&f->driver, VIRTIO_MMIO_QUEUE_READY, 0);
	}
	atomic_store(&resetter->done, true);
	return NULL;
}

static void resets_from_a_vcpu(struct fixture *f)
{
	struct resetter resetter = { .f = f };
	pthread_t vcpu;

	cr_assert_eq(pthread_create(&vcpu, NULL, reset_often, &resetter), 0);
	while (!atomic_load(&resetter.done))
		driver_turn(&f->driver, 1);
	pthread_join(vcpu, NULL);
	driver_settle(&f->driver);
	driver_start(&f->driver, USUAL, RING_SIZE);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->malformed), 0);
}

Test(virtio_block, reset_on_one_thread_and_work_on_another_agree)
{
	with_each_engine(resets_from_a_vcpu);
}

/* Configuration space and another disk */

static uint64_t capacity(struct fixture *f)
{
	return driver_read(&f->driver,
			   VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, capacity), 8);
}

Test(virtio_block, configuration_space_tells_the_limits)
{
	struct fixture f;
	struct virtio_blk_config config;
	uint64_t features;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	features = driver_offered_features(&f.driver);
	cr_assert_eq(features & 0xffffff,
		     FEATURE(VIRTIO_BLK_F_SEG_MAX) | FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
			     FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_DISCARD) |
			     FEATURE(VIRTIO_BLK_F_WRITE_ZEROES));
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_DEVICE_ID), 2);
	for (size_t i = 0; i < sizeof(config); i++)
		((uint8_t *)&config)[i] =
			(uint8_t)driver_read(&f.driver, VIRTIO_MMIO_CONFIG + i, 1);
	cr_assert_eq(config.capacity, DISK_SECTORS);
	cr_assert_eq(config.seg_max, 254);
	cr_assert_eq(config.blk_size, 512);
	cr_assert_eq(config.max_discard_seg, 16);
	cr_assert_eq(config.max_write_zeroes_seg, 16);
	cr_assert_gt(config.max_discard_sectors, 0);
	cr_assert_gt(config.max_write_zeroes_sectors, 0);
	cr_assert_eq(config.write_zeroes_may_unmap, 1);
	tear_down(&f);
}

static void swaps_disks(struct fixture *f)
{
	char path[] = "/var/tmp/mayfly-block-swap.XXXXXX";
	struct drive_config other = f->config;
	uint32_t generation = driver_get(&f->driver, VIRTIO_MMIO_CONFIG_GENERATION);
	struct disk *disk, *reader;
	struct error err = { 0 };
	int fd = mkstemp(path);

	other.path_on_host = path;
	cr_assert_eq(ftruncate(fd, 8 * MIB), 0);
	fill(at(f, DATA, 16 * 4096), 16 * 4096, 10);
	for (unsigned int n = 0; n < 16; n++)
		put_request(f, n, VIRTIO_BLK_T_OUT, n * 8, DATA + 4096 * n, 4096);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_turn(&f->driver, 60000); /* in flight, perhaps */
	driver_take_interrupts(&f->driver);
	cr_assert_eq(disk_open(&disk, &other, VIRTIO_BLOCK_QUEUE_SIZE, virtio_block_disk(f->block),
			       &err),
		     0, "%s", err.message);
	cr_assert_eq(virtio_block_set_disk(f->block, disk, &err), 0, "%s", err.message);
	cr_assert_eq(ring_used_index(&f->driver.ring), 16, "they were finished, on the old disk");
	cr_assert(in_file(f, 0, at(f, DATA, 16 * 4096), 16 * 4096));

	cr_assert_eq(capacity(f), 8 * MIB / 512);
	cr_assert_neq(driver_get(&f->driver, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	cr_assert(driver_get(&f->driver, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	cr_assert_geq(driver_take_interrupts(&f->driver), 1);
	f->driver.ring.used_seen = 16;
	cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, 8 * MIB / 512 - 8, DATA, 4096), VIRTIO_BLK_S_OK);
	cr_assert_eq(disk_check(&f->config, &err), 0, "the old file is free: %s", err.message);

	/* The same file, grown: the lock is kept. */
	cr_assert_eq(ftruncate(fd, 9 * MIB), 0);
	cr_assert_eq(disk_open(&disk, &other, VIRTIO_BLOCK_QUEUE_SIZE, virtio_block_disk(f->block),
			       &err),
		     0, "%s", err.message);
	cr_assert_eq(virtio_block_set_disk(f->block, disk, &err), 0, "%s", err.message);
	cr_assert_eq(capacity(f), 9 * MIB / 512);
	cr_assert_eq(request(f, VIRTIO_BLK_T_IN, 9 * MIB / 512 - 1, DATA, 512), VIRTIO_BLK_S_OK);
	cr_assert_eq(counter(&virtio_block_metrics(f->block)->disk_updates), 2);

	/* What the guest cannot learn anew is refused, and changes nothing. */
	other = f->config;
	other.is_read_only = true;
	cr_assert_eq(disk_open(&reader, &other, VIRTIO_BLOCK_QUEUE_SIZE, NULL, &err), 0);
	cr_assert_eq(virtio_block_set_disk(f->block, reader, &err), -EINVAL);
	cr_assert(strstr(err.message, "read-only"));
	disk_close(reader);
	cr_assert_eq(capacity(f), 9 * MIB / 512);
	close(fd);
	unlink(path);
}

Test(virtio_block, disk_is_swapped_under_a_running_guest)
{
	with_each_engine(swaps_disks);
}

static void flushes_at_exit(struct fixture *f)
{
	struct error err = { 0 };

	for (unsigned int n = 0; n < 16; n++)
		put_request(f, n, VIRTIO_BLK_T_OUT, n * 8, DATA + 4096 * n, 4096);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	driver_turn(&f->driver, 60000);
	cr_assert_eq(virtio_block_flush(f->block, &err), 0, "%s", err.message);
	cr_assert_eq(ring_used_index(&f->driver.ring), 16);
}

Test(virtio_block, flush_at_exit_waits_for_requests_in_flight)
{
	with_each_engine(flushes_at_exit);
}
