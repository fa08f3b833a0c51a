/* The virtio-mmio transport (virtio 1.2, 4.2.2.2): how queues are set up, stopped and reset. */
#include "virtio_mmio_fixture.h"

Test(virtio_mmio, queue_beyond_the_last_reads_as_absent)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_negotiate(&d, RING_RESET);
	for (uint32_t i = 0; i < QUEUES; i++) {
		driver_set(&d, VIRTIO_MMIO_QUEUE_SEL, i);
		cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
	}
	driver_set(&d, VIRTIO_MMIO_QUEUE_SEL, QUEUES);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	driver_set(&d, VIRTIO_MMIO_QUEUE_SEL, 0xffffffff);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
	driver_set(&d, VIRTIO_MMIO_QUEUE_NUM, 64);
	driver_set(&d, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 0);
	driver_set(&d, QUEUE_RESET, 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), FEATURES_STATUS);
	tear_down(&d, &device);
}

Test(virtio_mmio, impossible_queue_sizes_break_the_device)
{
	static const uint32_t sizes[] = { 0, 3, 65, 128, 0x10040, 0x80000000, 0xffffffff };
	struct driver d;
	struct device device;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		set_up(&d, &device);
		driver_negotiate(&d, 0);
		driver_place_queue(&d, sizes[i], RING_DESCRIPTORS, RING_AVAILABLE, RING_USED);
		cr_assert(driver_get(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET,
			  "size %u", sizes[i]);
		driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 1);
		cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
		driver_set(&d, VIRTIO_MMIO_STATUS, ALIVE);
		cr_assert_not(driver_get(&d, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK);
		tear_down(&d, &device);
	}
}

Test(virtio_mmio, absurd_queue_address_breaks_the_device_until_reset)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_negotiate(&d, 0);
	driver_place_queue(&d, 64, ~0ULL << 4, RING_AVAILABLE, RING_USED);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS),
		     FEATURES_STATUS | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(driver_take_interrupts(&d), 0, "not before DRIVER_OK");
	cr_assert_eq(atomic_load(&device.mmio.metrics.needs_reset), 1);
	driver_start(&d, 0, 64);
	tear_down(&d, &device);
}

Test(virtio_mmio, queue_cannot_be_made_ready_before_features_ok)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_set_up_queue(&d, 64);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	tear_down(&d, &device);
}

static void cannot_be_moved(struct driver *d, const struct virtqueue *queue)
{
	driver_place_queue(d, 32, 0x1000, 0x2000, 0x3000);
	driver_set(d, VIRTIO_MMIO_QUEUE_READY, 1);
	cr_assert(queue->ready);
	cr_assert_eq(queue->size, 64);
	cr_assert_eq(queue->descriptors_gpa, RING_DESCRIPTORS);
	cr_assert_eq(queue->available_gpa, RING_AVAILABLE);
	cr_assert_eq(queue->used_gpa, RING_USED);
}

Test(virtio_mmio, ready_queue_cannot_be_moved)
{
	struct driver d;
	struct device device;
	struct virtqueue *queue = &device.mmio.queues[0].virtqueue;

	set_up(&d, &device);
	driver_negotiate(&d, RING_RESET);
	driver_set_up_queue(&d, 64);
	cannot_be_moved(&d, queue);
	driver_set(&d, VIRTIO_MMIO_STATUS, ALIVE);
	cannot_be_moved(&d, queue);
	tear_down(&d, &device);
}

Test(virtio_mmio, queue_cannot_be_added_to_a_live_device)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	driver_set(&d, VIRTIO_MMIO_QUEUE_SEL, OTHER_QUEUE);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	tear_down(&d, &device);
}

Test(virtio_mmio, queue_address_halves_make_64_bits)
{
	struct driver d;
	struct device device;
	struct virtqueue *queue = &device.mmio.queues[0].virtqueue;

	set_up(&d, &device);
	driver_negotiate(&d, 0);
	driver_place_queue(&d, 64, 0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef);
	cr_assert_eq(queue->descriptors_gpa, 0x1122334455667788);
	cr_assert_eq(queue->available_gpa, 0x99aabbccddeeff00);
	cr_assert_eq(queue->used_gpa, 0x0123456789abcdef);
	tear_down(&d, &device);
}

Test(virtio_mmio, queue_ready_zero_stops_the_queue)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_assert_eq(device.stopped, 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	driver_set(&d, VIRTIO_MMIO_QUEUE_READY, 0);
	cr_assert_eq(device.stopped, 1);
	driver_set_up_queue(&d, 64);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0, "the device is live");
	tear_down(&d, &device);
}

Test(virtio_mmio, single_queue_is_reset_and_set_up_again)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, RING_RESET, 64);
	driver_set(&d, QUEUE_RESET, 1);
	cr_assert_eq(device.stopped, 1);
	cr_assert_eq(driver_get(&d, QUEUE_RESET), 0, "it is over");
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 0);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_STATUS), ALIVE);
	driver_set_up_queue(&d, 16);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 1);
	cr_assert_eq(device.mmio.queues[0].virtqueue.size, 16);
	tear_down(&d, &device);
}

Test(virtio_mmio, queue_reset_not_negotiated_does_nothing)
{
	struct driver d;
	struct device device;

	set_up(&d, &device);
	driver_start(&d, 0, 64);
	driver_set(&d, QUEUE_RESET, 1);
	cr_assert_eq(driver_get(&d, VIRTIO_MMIO_QUEUE_READY), 1);
	tear_down(&d, &device);
}
