/*
 * The block device in a state file: devices/virtio/block_state.c, and with it the transport's and
 * the queue's part, mmio_state.c and queue_state.c.
 */
#include "devices/virtio/block_private.h"
#include "saved_state.h"
#include "virtio_block_fixture.h"

#define SECTION "block"

/* Where fields are in the section. */
enum {
	DEVICE_FEATURES = 0,
	DRIVER_FEATURES = 8,
	STATUS_REGISTER = 28,
	INTERRUPT_STATUS = 36,
	OWNER = 40,
	QUEUE_COUNT = 41,
	QUEUE_SIZE = 43,
	QUEUE_DESCRIPTORS = 45,
	QUEUE_AVAILABLE = 53,
	QUEUE_USED = 61,
	QUEUE_IS_READY = 69,
	NEXT_AVAILABLE = 70,
	NEXT_USED = 72,
	ID_LENGTH = 74,
	CAPACITY = 98,
	READ_ONLY = 106,
	WRITEBACK = 107,
	BANDWIDTH_SIZE = 108,
	BANDWIDTH_REFILL = 116,
	BANDWIDTH_BURST = 124,
	BANDWIDTH_FRACTION = 140,
	OPS_REFILL = 156,
};

static void save(struct fixture *f, struct saved_state *saved)
{
	virtio_block_pause(f->block);
	state_writer_init(&saved->writer);
	virtio_block_save(f->block, &saved->writer);
	saved_state_read(saved);
}

/* Another process, as it were: a new device over the file and the same memory. */
static void make_anew(struct fixture *f)
{
	struct error err = { 0 };
	struct disk *disk;
	struct virtio_block_options options = {
		.drive_id = drive_id,
		.memory = &f->driver.memory,
		.loop = &f->driver.loop,
		.log = &f->driver.log,
		.interrupt_fd = f->driver.interrupt_fd,
	};

	virtio_block_destroy(f->block);
	cr_assert_eq(disk_open(&disk, &f->config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, &err), 0, "%s",
		     err.message);
	cr_assert_eq(virtio_block_create(&f->block, &options, disk, &err), 0, "%s", err.message);
	f->driver.mmio = virtio_block_transport(f->block);
	driver_take_interrupts(&f->driver);
}

static bool writes_through(struct fixture *f)
{
	return f->block->write_through;
}

static void restore(struct fixture *f, struct saved_state *saved)
{
	struct error err = { 0 };

	cr_assert_eq(virtio_block_restore(f->block, &saved->file, &err), 0, "%s", err.message);
}

/* The whole way; the device goes on. */
static void move(struct fixture *f)
{
	struct saved_state saved;

	save(f, &saved);
	make_anew(f);
	restore(f, &saved);
	virtio_block_resume(f->block);
	saved_state_destroy(&saved);
}

static void moves_and_works_on(struct fixture *f)
{
	for (unsigned int round = 0; round < 70; round++) {
		uint8_t *data = at(f, DATA, 4096);

		fill(data, 4096, round);
		cr_assert_eq(request(f, VIRTIO_BLK_T_OUT, round * 8, DATA, 4096), VIRTIO_BLK_S_OK);
		move(f);
		memset(data, 0, 4096);
		cr_assert_eq(request(f, VIRTIO_BLK_T_IN, round * 8, DATA, 4096), VIRTIO_BLK_S_OK);
		cr_assert(in_file(f, round * 4096, data, 4096));
	}
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS), ALIVE);
}

Test(virtio_block_state, restored_device_goes_on_where_it_was)
{
	with_each_engine(moves_and_works_on);
}

static void moves_with_waiting_requests(struct fixture *f)
{
	for (unsigned int n = 0; n < 16; n++)
		put_request(f, n, VIRTIO_BLK_T_IN, n * 8, DATA + 4096 * n, 4096);
	ring_publish(&f->driver.ring);
	driver_notify(&f->driver);
	move(f);
	driver_wait_used(&f->driver, 16);
	for (unsigned int n = 0; n < 16; n++)
		cr_assert_eq(status_of(f, n), VIRTIO_BLK_S_OK);
}

Test(virtio_block_state, requests_that_nobody_took_are_answered_afterwards)
{
	with_each_engine(moves_with_waiting_requests);
}

Test(virtio_block_state, interrupt_that_was_not_acknowledged_is_sent_again)
{
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	move(&f);
	cr_assert_eq(driver_take_interrupts(&f.driver), 1);
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	driver_set(&f.driver, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	move(&f);
	cr_assert_eq(driver_take_interrupts(&f.driver), 0);
	virtio_block_pause(f.block);
	virtio_block_resume(f.block);
	cr_assert_eq(driver_take_interrupts(&f.driver), 0, "once is enough");
	tear_down(&f);
}

Test(virtio_block_state, registers_are_as_they_were)
{
	struct fixture f;

	for (unsigned int window = 0; window < VIRTIO_MMIO_WINDOWS; window++) {
		uint64_t offered;

		set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
		f.driver.window = window;
		driver_start(&f.driver, USUAL, RING_SIZE);
		offered = driver_offered_features(&f.driver);
		virtio_mmio_lock(f.driver.mmio);
		virtio_mmio_config_changed(f.driver.mmio);
		virtio_mmio_unlock(f.driver.mmio);
		driver_set(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 5);
		move(&f);
		cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_CONFIG_GENERATION), 1);
		cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS),
			     VIRTIO_MMIO_INT_CONFIG);
		cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_QUEUE_READY), 0, "queue 5");
		driver_set(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 0);
		cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_QUEUE_READY), 1);
		cr_assert_eq(driver_offered_features(&f.driver), offered);
		f.driver.window = 1 - window;
		cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_DEVICE_ID), 0, "the other window");
		tear_down(&f);
	}
}

Test(virtio_block_state, a_driver_in_the_middle_of_its_start_finishes_it)
{
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	move(&f);
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_STATUS), 0);
	driver_negotiate(&f.driver, USUAL);
	move(&f);
	driver_set(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 0);
	driver_place_selected(&f.driver, RING_SIZE, RING_DESCRIPTORS, RING_AVAILABLE, RING_USED);
	f.driver.ring = (struct ring) { .memory = &f.driver.memory, .size = RING_SIZE };
	move(&f);
	driver_set(&f.driver, VIRTIO_MMIO_QUEUE_READY, 1);
	move(&f);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, ALIVE);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	tear_down(&f);
}

Test(virtio_block_state, broken_device_stays_broken_until_its_reset)
{
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	ring_set(&f.driver.ring, 0, DATA, 4, 0, 0); /* no request */
	ring_offer(&f.driver.ring, 0);
	driver_notify(&f.driver);
	driver_settle(&f.driver);
	cr_assert(driver_get(&f.driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	move(&f);
	cr_assert(driver_get(&f.driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.driver.ring), 0);
	driver_start(&f.driver, USUAL, RING_SIZE);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	tear_down(&f);
}

/* 5.2.6.2: such a driver relies on every write being durable when it is answered. */
Test(virtio_block_state, driver_without_flushes_has_its_writes_through)
{
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL & ~FEATURE(VIRTIO_BLK_F_FLUSH), RING_SIZE);
	cr_assert(writes_through(&f));
	move(&f);
	cr_assert(writes_through(&f));
	tear_down(&f);
}

Test(virtio_block_state, another_size_is_told_when_the_guest_goes_on)
{
	struct fixture f;
	struct saved_state saved;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	save(&f, &saved);
	cr_assert_eq(ftruncate(f.fd, 2 * DISK_BYTES), 0);
	make_anew(&f);
	restore(&f, &saved);
	virtio_block_resume(f.block);
	cr_assert_geq(driver_take_interrupts(&f.driver), 1);
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_CONFIG_GENERATION), 1);
	cr_assert_eq(driver_read(&f.driver, VIRTIO_MMIO_CONFIG, 8), 2 * DISK_SECTORS);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, DISK_SECTORS, DATA, 512), VIRTIO_BLK_S_OK);
	saved_state_destroy(&saved);
	tear_down(&f);
}

static void refuse(bool read_only, enum cache_type cache, const char *words)
{
	struct fixture f;
	struct saved_state saved;
	struct error err = { 0 };

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL & ~FEATURE(VIRTIO_BLK_F_FLUSH), RING_SIZE);
	save(&f, &saved);
	f.config.is_read_only = read_only;
	f.config.cache_type = cache;
	make_anew(&f);
	cr_assert_eq(virtio_block_restore(f.block, &saved.file, &err), -EINVAL);
	cr_assert(strstr(err.message, words), "%s", err.message);
	saved_state_destroy(&saved);
	tear_down(&f);
}

Test(virtio_block_state, disk_that_is_not_what_the_driver_was_told_is_refused)
{
	refuse(true, CACHE_WRITEBACK, "read-only");
	refuse(false, CACHE_UNSAFE, "cache type");
}

Test(virtio_block_state, limits_go_on_with_what_was_left)
{
	struct fixture f;
	struct rate_limiter_config two = { .has_ops = true, .ops = { 2, 3600000 } };

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	virtio_block_set_limits(f.block, &two);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	move(&f);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	move(&f);
	put_request(&f, 0, VIRTIO_BLK_T_IN, 0, DATA, 512);
	ring_publish(&f.driver.ring);
	driver_notify(&f.driver);
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.driver.ring), 2, "the third waits for an hour");
	tear_down(&f);
}

static const struct wrong_value wrong[] = {
	{ DRIVER_FEATURES, 8, 1ULL << 63 | FEATURE(VIRTIO_F_VERSION_1), "driver features" },
	{ DRIVER_FEATURES, 8, 0, "driver features" },
	{ DEVICE_FEATURES, 8, FEATURE(VIRTIO_F_VERSION_1), "driver features" },
	{ DEVICE_FEATURES, 8, ~FEATURE(VIRTIO_F_VERSION_1), "device features" },
	{ STATUS_REGISTER, 4, 0x100 | ALIVE, "status" },
	{ STATUS_REGISTER, 4, ALIVE & ~VIRTIO_CONFIG_S_FEATURES_OK, "status" },
	{ STATUS_REGISTER, 4, VIRTIO_CONFIG_S_DRIVER, "queue 0" },
	{ INTERRUPT_STATUS, 4, 4, "interrupt status" },
	{ OWNER, 1, 2, "owner" },
	{ OWNER, 1, 0xff, "owner" },
	{ QUEUE_COUNT, 2, 2, "queue count" },
	{ QUEUE_COUNT, 2, 0, "queue count" },
	{ QUEUE_SIZE, 2, 0, "queue 0 size" },
	{ QUEUE_SIZE, 2, 63, "queue 0 size" },
	{ QUEUE_SIZE, 2, 512, "queue 0 size" },
	{ QUEUE_DESCRIPTORS, 8, RING_DESCRIPTORS + 1, "queue 0 addresses: the descriptor table" },
	{ QUEUE_DESCRIPTORS, 8, UINT64_MAX - 15, "outside memory" },
	{ QUEUE_AVAILABLE, 8, 1ULL << 40, "queue 0 addresses: the available ring is outside" },
	{ QUEUE_USED, 8, RING_USED + 2, "queue 0 addresses: the used ring is not aligned" },
	{ QUEUE_IS_READY, 1, 2, "queue ready" },
	{ QUEUE_IS_READY, 1, 0, "queue 0 indices" },
	{ NEXT_AVAILABLE, 2, 1 + RING_SIZE + 1, "queue 0 indices" },
	{ NEXT_USED, 2, 2, "queue 0 indices" },
	{ ID_LENGTH, 4, 19, "" },
	{ READ_ONLY, 1, 2, "read-only" },
	{ WRITEBACK, 1, 7, "cache type" },
	{ BANDWIDTH_REFILL, 8, 0, "rate limiter bandwidth refill time" },
	{ BANDWIDTH_REFILL, 8, UINT64_MAX, "rate limiter bandwidth refill time" },
	{ BANDWIDTH_SIZE, 8, 0, "rate limiter bandwidth" },
	{ BANDWIDTH_FRACTION, 8, 1000, "rate limiter bandwidth fraction" },
	{ OPS_REFILL, 8, 5, "rate limiter ops refill time" },
};

static int try_to_restore(void *context, struct state_file *file, struct error *err)
{
	struct fixture *f = context;
	int result;

	make_anew(f);
	result = virtio_block_restore(f->block, file, err);
	virtio_block_resume(f->block);
	driver_settle(&f->driver);
	return result;
}

Test(virtio_block_state, values_that_cannot_be_are_refused_by_name)
{
	struct rate_limiter_config limit = { .has_bandwidth = true,
					     .bandwidth = { .size = 1000, .refill_time = 1000 } };
	struct saved_state saved;
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	virtio_block_set_limits(f.block, &limit);
	cr_assert_eq(request(&f, VIRTIO_BLK_T_IN, 0, DATA, 512), VIRTIO_BLK_S_OK);
	save(&f, &saved);
	saved_state_refuses(&saved, SECTION, drive_id, wrong, ARRAY_SIZE(wrong), try_to_restore,
			    &f);
	saved_state_destroy(&saved);
	tear_down(&f);
}

Test(virtio_block_state, section_that_ends_early_or_late_is_refused)
{
	struct saved_state saved;
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	driver_start(&f.driver, USUAL, RING_SIZE);
	save(&f, &saved);
	saved_state_refuses_cuts(&saved, SECTION, try_to_restore, &f);
	saved_state_destroy(&saved);
	tear_down(&f);
}

Test(virtio_block_state, missing_section_is_refused)
{
	struct saved_state saved;
	struct error err = { 0 };
	struct fixture f;

	set_up_with(&f, IO_ENGINE_SYNC, CACHE_WRITEBACK, false);
	state_writer_init(&saved.writer);
	saved_state_read(&saved);
	cr_assert_eq(virtio_block_restore(f.block, &saved.file, &err), -ENOENT);
	saved_state_destroy(&saved);
	tear_down(&f);
}
