/* The virtio-mmio transport (virtio 1.2, 4.2.2): devices/virtio/mmio.c and mmio_registers.c. */
#include "virtio_mmio_fixture.h"

Test(virtio_mmio, identity_is_that_of_version_2)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_VERSION), 2);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_DEVICE_ID), 42);
	cr_assert_neq(driver_get(&d, VIRTIO_MMIO_VENDOR_ID), 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, windows_lie_where_the_layout_says)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	cr_assert_eq(device.mmio.windows[0].device.base,
		     LAYOUT_VIRTIO_MMIO + 3 * LAYOUT_VIRTIO_MMIO_BYTES);
	cr_assert_eq(device.mmio.windows[1].device.base,
		     LAYOUT_VIRTIO_MMIO_CMDLINE + 3 * LAYOUT_VIRTIO_MMIO_BYTES);
	cr_assert_eq(device.mmio.windows[0].device.length, LAYOUT_VIRTIO_MMIO_BYTES);
	tear_down(&d, &device);
}

Test(virtio_mmio, slot_beyond_the_last_is_refused)
{
	struct driver d;
	struct virtio_mmio mmio;
	struct error err = { 0 };
	struct virtio_mmio_options options = { .name = "one too many",
					       .slot = LAYOUT_MAX_VIRTIO_DEVICES };

	driver_init(&d, 16 * MIB);
	cr_assert_eq(virtio_mmio_init(&mmio, &device_ops, &options, &err), -EINVAL);
	cr_assert(strstr(err.message, "one too many"));
	driver_destroy(&d);
}

Test(virtio_mmio, features_are_read_in_halves)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	cr_assert_eq(driver_offered_features(&d), OWN_FEATURES | VERSION_1 | RING_RESET |
							  EVENT_IDX |
							  1ULL << VIRTIO_RING_F_INDIRECT_DESC);
	driver_set(&d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	driver_set(&d, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0xffffffff);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_DEVICE_FEATURES), 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, driver_that_follows_the_standard_comes_up)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, EVENT_IDX | 1ULL << 3, 64);
	cr_assert_eq(device.activated, 1);
	cr_assert(virtio_mmio_has_feature(&device.mmio, 3));
	cr_assert_not(virtio_mmio_has_feature(&device.mmio, 21));
	cr_assert(device.mmio.queues[0].virtqueue.event_idx);
	cr_assert_not(device.mmio.queues[0].virtqueue.indirect);
	driver_set(&d, VIRTIO_MMIO_STATUS, ALIVE);
	cr_assert_eq(device.activated, 1, "once");
	tear_down(&d, &device);
}

static uint32_t status_with_features(uint64_t features)
{
	struct driver d;
	struct device device;
	uint32_t status;

	set_up(&d, &device);
	driver_set(&d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	driver_accept_features(&d, features);
	driver_set(&d, VIRTIO_MMIO_STATUS, FEATURES_STATUS);
	status = driver_get(&d, VIRTIO_MMIO_STATUS);
	tear_down(&d, &device);
	return status;
}

Test(virtio_mmio, features_ok_is_refused_for_what_was_not_offered)
{
	cr_assert_eq(status_with_features(VERSION_1), FEATURES_STATUS);
	cr_assert_eq(status_with_features(VERSION_1 | 1ULL << 4),
		     FEATURES_STATUS & ~VIRTIO_CONFIG_S_FEATURES_OK);
	cr_assert_eq(status_with_features(VERSION_1 | 1ULL << 63),
		     FEATURES_STATUS & ~VIRTIO_CONFIG_S_FEATURES_OK);
}

Test(virtio_mmio, features_ok_is_refused_without_version_1)
{
	cr_assert_eq(status_with_features(OWN_FEATURES),
		     FEATURES_STATUS & ~VIRTIO_CONFIG_S_FEATURES_OK);
}

Test(virtio_mmio, features_cannot_change_after_features_ok)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_negotiate(&d, 0);
	driver_accept_features(&d, VERSION_1 | OWN_FEATURES);
	cr_assert_eq(device.mmio.driver_features, VERSION_1);
	tear_down(&d, &device);
}

Test(virtio_mmio, driver_ok_without_features_ok_is_ignored)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_set(&d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), 0);
	cr_assert_eq(device.activated, 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, status_bits_are_not_taken_away_but_by_reset)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	driver_set(&d, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE);
	driver_set(&d, VIRTIO_MMIO_STATUS,
		   0xffffff00U | VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE | VIRTIO_CONFIG_S_FAILED,
		     "needs reset and what is reserved are not the driver's");
	tear_down(&d, &device);
}

Test(virtio_mmio, reset_stops_queues_and_forgets_the_driver)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, EVENT_IDX, 32);
	virtio_mmio_lock(&device.mmio);
	virtio_mmio_config_changed(&device.mmio);
	virtio_mmio_unlock(&device.mmio);
	driver_set(&d, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(device.stopped, 1, "only one queue was ready");
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	cr_assert_eq(device.mmio.driver_features, 0);
	cr_assert_eq(device.mmio.queues[0].virtqueue.descriptors_gpa, 0);
	for (unsigned int i = 0; i < 100; i++) /* drivers unload and reload */
		driver_start(&d, i % 2 ? EVENT_IDX : 0, 64);
	cr_assert_eq(atomic_load(&device.mmio.metrics.resets), 101 + 1,
		     "driver_start() begins with one");
	tear_down(&d, &device);
}

/* Notifications */

Test(virtio_mmio, notification_reaches_the_device_in_the_loop)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	driver_notify(&d);
	driver_notify(&d);
	cr_assert_eq(device.notified, 0, "not on the vCPU's thread");
	driver_settle(&d);
	cr_assert_eq(device.notified, 1, "two in one");
	cr_assert_eq(eventfd_write(virtio_mmio_notify_fd(&device.mmio, 0), 1), 0);
	driver_settle(&d);
	cr_assert_eq(device.notified, 2, "as the kernel signals it");
	tear_down(&d, &device);
}

Test(virtio_mmio, notification_of_any_width_counts)
{
	static const size_t widths[] = { 1, 2, 4, 8 };
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	for (unsigned int i = 0; i < ARRAY_SIZE(widths); i++) {
		driver_write(&d, VIRTIO_MMIO_QUEUE_NOTIFY, 0, widths[i]);
		driver_settle(&d);
		cr_assert_eq(device.notified, i + 1);
	}
	tear_down(&d, &device);
}

Test(virtio_mmio, notification_out_of_place_is_dropped)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_notify(&d);
	driver_settle(&d); /* no driver */
	driver_start(&d, 0, 64);
	driver_set(&d, VIRTIO_MMIO_QUEUE_NOTIFY, OTHER_QUEUE); /* not ready */
	driver_set(&d, VIRTIO_MMIO_QUEUE_NOTIFY, QUEUES);
	driver_set(&d, VIRTIO_MMIO_QUEUE_NOTIFY, 0xffffffff);
	driver_settle(&d);
	driver_notify(&d);
	driver_set(&d, VIRTIO_MMIO_STATUS, 0); /* reset before the loop saw it */
	driver_settle(&d);
	cr_assert_eq(device.notified, 0);
	tear_down(&d, &device);
}

/* Interrupts */

static void use_one(struct driver *d, struct device *device)
{
	struct virtqueue_chain chain;
	struct iovec iov[VIRTQUEUE_MAX_SIZE];

	chain.iov = iov;
	ring_set(&d->ring, 0, RING_BUFFERS, 8, 0, 0);
	ring_offer(&d->ring, 0);
	virtio_mmio_lock(&device->mmio);
	cr_assert_eq(virtqueue_pop(&device->mmio.queues[0].virtqueue, &chain), 1);
	virtqueue_push(&device->mmio.queues[0].virtqueue, chain.head, 0);
	virtio_mmio_publish(&device->mmio, 0);
	virtio_mmio_unlock(&device->mmio);
}

Test(virtio_mmio, used_buffer_interrupts_and_is_acknowledged)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	use_one(&d, &device);
	cr_assert_eq(driver_take_interrupts(&d), 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	virtio_mmio_lock(&device.mmio);
	virtio_mmio_config_changed(&device.mmio);
	virtio_mmio_unlock(&device.mmio);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS),
		     VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
	driver_set(&d, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	driver_set(&d, VIRTIO_MMIO_INTERRUPT_ACK, 0xffffffff);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	tear_down(&d, &device);
}

static void *read_interrupt_status(void *argument)
{
	struct driver *d = argument;
	uint32_t status = driver_get(d, VIRTIO_MMIO_INTERRUPT_STATUS);

	driver_set(d, VIRTIO_MMIO_INTERRUPT_ACK, status);
	driver_notify(d);
	return NULL;
}

Test(virtio_mmio, interrupt_handler_does_not_wait_for_the_device, .timeout = 60)
{
	struct driver d;
	struct device device;
	pthread_t vcpu;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	use_one(&d, &device);
	virtio_mmio_lock(&device.mmio);
	cr_assert_eq(pthread_create(&vcpu, NULL, read_interrupt_status, &d), 0);
	pthread_join(vcpu, NULL); /* for ever, should it want the lock */
	virtio_mmio_unlock(&device.mmio);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, broken_driver_is_told_to_reset)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	virtio_mmio_lock(&device.mmio);
	virtio_mmio_needs_reset(&device.mmio, 0, "a test", 1);
	virtio_mmio_needs_reset(&device.mmio, 0, "a test", 1);
	virtio_mmio_unlock(&device.mmio);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
	cr_assert_eq(driver_take_interrupts(&d), 1);
	cr_assert_eq(atomic_load(&device.mmio.metrics.needs_reset), 1, "said once");
	driver_notify(&d);
	driver_settle(&d);
	cr_assert_eq(device.notified, 0);
	driver_start(&d, 0, 64);
	driver_notify(&d);
	driver_settle(&d);
	cr_assert_eq(device.notified, 1);
	tear_down(&d, &device);
}

/* Widths and holes */

Test(virtio_mmio, registers_take_no_other_width)
{
	static const size_t widths[] = { 1, 2, 8 };
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
		for (uint64_t offset = 0; offset < VIRTIO_MMIO_CONFIG; offset += widths[i]) {
			cr_assert_eq(driver_read(&d, offset, widths[i]), 0, "offset 0x%llx",
				     (unsigned long long)offset);
			driver_write(&d, offset, 0, widths[i]);
		}
	}
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 1);
	tear_down(&d, &device);
}

Test(virtio_mmio, unaligned_and_unknown_registers_read_zero)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	cr_assert_eq(driver_get(&d, 2), 0);
	cr_assert_eq(driver_get(&d, 0x3c), 0);
	cr_assert_eq(driver_get(&d, 0xfe), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_NUM), 0, "write-only");
	driver_set(&d, 0x3c, 0xffffffff);
	driver_set(&d, 0x71, 0xffffffff);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, there_is_no_shared_memory)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_set(&d, VIRTIO_MMIO_SHM_SEL, 0);
	for (uint64_t offset = VIRTIO_MMIO_SHM_LEN_LOW; offset <= VIRTIO_MMIO_SHM_BASE_HIGH;
	     offset += 4)
		cr_assert_eq(driver_get(&d, offset), 0xffffffff);
	tear_down(&d, &device);
}

Test(virtio_mmio, config_space_is_read_at_every_width_and_offset)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	cr_assert_eq(driver_read(&d, 0x100, 1), 0x10);
	cr_assert_eq(driver_read(&d, 0x103, 2), 0x1413);
	cr_assert_eq(driver_read(&d, 0x101, 4), 0x14131211);
	cr_assert_eq(driver_read(&d, 0x104, 8), 0x1b1a191817161514);
	cr_assert_eq(driver_read(&d, 0x10a, 4), 0x1b1a, "zero behind its end");
	cr_assert_eq(driver_read(&d, 0x10c, 8), 0);
	cr_assert_eq(driver_read(&d, 0xff8, 8), 0);
	driver_write(&d, 0x100, 0xffffffff, 4);
	cr_assert_eq(driver_read(&d, 0x100, 4), 0x13121110);
	tear_down(&d, &device);
}

Test(virtio_mmio, config_generation_tells_of_changes)
{
	struct driver d;
	struct device device;
	uint32_t generation;

	set_up(&d, &device);
	generation = driver_get(&d, VIRTIO_MMIO_CONFIG_GENERATION);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	virtio_mmio_lock(&device.mmio);
	virtio_mmio_config_changed(&device.mmio);
	virtio_mmio_unlock(&device.mmio);
	cr_assert_neq(driver_get(&d, VIRTIO_MMIO_CONFIG_GENERATION), generation);
	cr_assert_eq(driver_take_interrupts(&d), 0, "no driver to tell");
	tear_down(&d, &device);
}

/* The two windows */

static void window_owns(unsigned int owner)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	for (d.window = 0; d.window < VIRTIO_MMIO_WINDOWS; d.window++) {
		cr_assert_eq(driver_get(&d, VIRTIO_MMIO_DEVICE_ID), 42);
		driver_set(&d, VIRTIO_MMIO_STATUS, 0); /* claims nothing */
	}
	d.window = owner;
	driver_start(&d, 0, 64);
	use_one(&d, &device);

	d.window = 1 - owner;
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_VERSION), 2);
	for (uint64_t offset = VIRTIO_MMIO_DEVICE_ID; offset < 0x120; offset += 4)
		cr_assert_eq(driver_get(&d, offset), 0, "offset 0x%llx",
			     (unsigned long long)offset);
	for (uint64_t offset = 0; offset < 0x120; offset += 4)
		driver_set(&d, offset, offset == VIRTIO_MMIO_INTERRUPT_ACK ? 0xffffffff : 0);
	driver_settle(&d);
	cr_assert_eq(device.notified, 0);

	d.window = owner;
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
	driver_set(&d, VIRTIO_MMIO_STATUS, 0);
	d.window = 1 - owner;
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_DEVICE_ID), 0, "for good, also after a reset");
	tear_down(&d, &device);
}

Test(virtio_mmio, first_window_to_acknowledge_owns_the_device)
{
	window_owns(0);
	window_owns(1);
}

/* Every register, any value, any order: nothing comes of it that a driver could not have done. */
Test(virtio_mmio, registers_written_at_random_do_no_harm)
{
	struct driver d;
	struct device device;
	uint32_t random = 1;

	set_up(&d, &device);
	for (unsigned int i = 0; i < 200000; i++) {
		static const uint32_t values[] = { 0,  1,  2,	    3,	     7,	      11,
						   15, 64, 0x10000, 0x20000, 0x30000, ~0U };

		random = random * 1664525 + 1013904223;
		driver_set(&d, random >> 24 & 0xfc, values[(random >> 8) % ARRAY_SIZE(values)]);
		driver_get(&d, random >> 16 & 0xfc);
		if (random >> 31)
			driver_settle(&d);
		cr_assert(!virtio_mmio_is_live(&device.mmio) ||
			  (device.mmio.driver_features & ~device.mmio.device_features) == 0);
	}
	driver_start(&d, 0, 64);
	tear_down(&d, &device);
}
