/*
 * The network device (virtio 1.2, 5.1), devices/virtio/net.c: features, configuration space, the
 * link, and resets at any time.
 */
#include <pthread.h>

#include "virtio_net_fixture.h"

static uint16_t link_status(struct fixture *f)
{
	return (uint16_t)driver_read(
		&f->driver, VIRTIO_MMIO_CONFIG + offsetof(struct virtio_net_config, status), 2);
}

static bool config_interrupt(struct fixture *f)
{
	bool pending =
		driver_get(&f->driver, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG;

	driver_set(&f->driver, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
	return pending;
}

static uint64_t net_features(struct fixture *f)
{
	return driver_offered_features(&f->driver) & (0xffffffULL | 0xffULL << 50);
}

Test(virtio_net, offers_what_a_tap_can_do)
{
	const uint64_t uso = FEATURE(VIRTIO_NET_F_GUEST_USO4) | FEATURE(VIRTIO_NET_F_GUEST_USO6) |
			     FEATURE(VIRTIO_NET_F_HOST_USO);
	const uint64_t always = FEATURE(VIRTIO_NET_F_CSUM) | FEATURE(VIRTIO_NET_F_GUEST_CSUM) |
				FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_GUEST_TSO4) |
				FEATURE(VIRTIO_NET_F_GUEST_TSO6) | FEATURE(VIRTIO_NET_F_GUEST_ECN) |
				FEATURE(VIRTIO_NET_F_HOST_TSO4) | FEATURE(VIRTIO_NET_F_HOST_TSO6) |
				FEATURE(VIRTIO_NET_F_HOST_ECN) | FEATURE(VIRTIO_NET_F_MRG_RXBUF) |
				FEATURE(VIRTIO_NET_F_STATUS);
	struct fixture f;

	set_up_with(&f, 0, false);
	cr_assert_eq(net_features(&f), always);
	cr_assert_eq(driver_get(&f.driver, VIRTIO_MMIO_DEVICE_ID), 1);
	tear_down(&f);
	set_up_with(&f, 9000, true);
	cr_assert_eq(net_features(&f), always | uso | FEATURE(VIRTIO_NET_F_MTU));
	tear_down(&f);
}

Test(virtio_net, configuration_space_tells_address_link_and_mtu)
{
	static const uint8_t mac[] = { 0x06, 0x00, 0xac, 0x10, 0x00, 0x02 };
	struct virtio_net_config config = { 0 };
	struct fixture f;

	set_up_with(&f, 9000, true);
	for (size_t i = 0; i < sizeof(config); i++)
		((uint8_t *)&config)[i] =
			(uint8_t)driver_read(&f.driver, VIRTIO_MMIO_CONFIG + i, 1);
	cr_assert_eq(memcmp(config.mac, mac, sizeof(mac)), 0);
	cr_assert_eq(config.status, VIRTIO_NET_S_LINK_UP);
	cr_assert_eq(config.mtu, 9000);
	cr_assert_eq(config.speed, 0, "not a field of this device");
	tear_down(&f);
}

static int offloads_after(uint64_t features)
{
	struct fixture f;

	set_up(&f, features);
	tear_down(&f);
	return fake_tap.offloads;
}

Test(virtio_net, tap_is_told_what_the_driver_accepted)
{
	const uint64_t csum = FEATURE(VIRTIO_NET_F_GUEST_CSUM);
	const uint64_t tso4 = csum | FEATURE(VIRTIO_NET_F_GUEST_TSO4);
	const uint64_t tso6 = csum | FEATURE(VIRTIO_NET_F_GUEST_TSO6);
	const uint64_t uso4 = csum | FEATURE(VIRTIO_NET_F_GUEST_USO4);
	const uint64_t uso6 = csum | FEATURE(VIRTIO_NET_F_GUEST_USO6);
	const uint64_t ecn = FEATURE(VIRTIO_NET_F_GUEST_ECN);

	cr_assert_eq(offloads_after(0), 0);
	cr_assert_eq(offloads_after(csum), TAP_OFFLOAD_CHECKSUM);
	cr_assert_eq(offloads_after(tso4), TAP_OFFLOAD_CHECKSUM | TAP_OFFLOAD_TSO4);
	cr_assert_eq(offloads_after(tso6 | ecn),
		     TAP_OFFLOAD_CHECKSUM | TAP_OFFLOAD_TSO6 | TAP_OFFLOAD_TSO_ECN);
	cr_assert_eq(offloads_after(csum | ecn), TAP_OFFLOAD_CHECKSUM, "ECN of no TSO");
	cr_assert_eq(offloads_after(uso4), TAP_OFFLOAD_CHECKSUM, "the TAP has both or none");
	cr_assert_eq(offloads_after(uso4 | uso6),
		     TAP_OFFLOAD_CHECKSUM | TAP_OFFLOAD_USO4 | TAP_OFFLOAD_USO6);
	cr_assert_eq(offloads_after(FEATURE(VIRTIO_NET_F_GUEST_TSO4)), 0, "TSO without checksums");
}

Test(virtio_net, reset_takes_the_offloads_back)
{
	struct fixture f;

	set_up(&f, USUAL);
	cr_assert_gt(fake_tap.offloads, 0);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, 0);
	cr_assert_eq(fake_tap.offloads, 0);
	tear_down(&f);
}

/* Each change takes a lock that all of the host's network configuration needs. */
Test(virtio_net, driver_that_starts_all_the_time_does_not_hold_the_host_up)
{
	const unsigned int starts = 1000, a_second = 16;
	uint64_t begin = clock_ns(CLOCK_MONOTONIC), seconds;
	struct fixture f;

	set_up(&f, USUAL);
	for (unsigned int i = 0; i < starts; i++)
		driver_start(&f.driver, i & 1 ? USUAL : 0, RING_SIZE);
	seconds = (clock_ns(CLOCK_MONOTONIC) - begin) / 1000000000ULL + 1;
	cr_assert_leq(fake_tap.offload_changes, a_second * (seconds + 1));
	cr_assert_lt(fake_tap.offload_changes, starts);
	tear_down(&f);
}

Test(virtio_net, offloads_that_do_not_change_are_not_set_again)
{
	struct fixture f;

	set_up(&f, 0);
	for (unsigned int i = 0; i < 100; i++)
		driver_start(&f.driver, 0, RING_SIZE);
	cr_assert_eq(fake_tap.offload_changes, 1);
	tear_down(&f);
}

/* The link */

Test(virtio_net, tap_that_is_down_takes_the_link_down_until_it_is_up)
{
	struct fixture f;
	uint8_t message[200];

	set_up(&f, USUAL);
	fake_tap.write_error = EIO;
	put_frame(&f, 0, NULL, 60);
	ring_publish(&f.tx);
	notify(&f, TX);
	driver_turn(&f.driver, 0);
	cr_assert_eq(link_status(&f), 0);
	cr_assert(config_interrupt(&f));
	cr_assert_eq(ring_used_index(&f.tx), 1, "the frame is lost, not held");
	cr_assert_eq(atomic_load(&metrics(&f)->tap_write_fails), 1);
	/* The socket is writable, as a TAP is once it is up. */
	fake_tap.write_error = 0;
	driver_settle(&f.driver);
	cr_assert_eq(link_status(&f), VIRTIO_NET_S_LINK_UP);
	cr_assert(config_interrupt(&f));
	put_frame(&f, 1, NULL, 61);
	transmit(&f);
	cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)HEADER + 61);
	cr_assert_eq(atomic_load(&metrics(&f)->link_changes), 2);
	tear_down(&f);
}

static void assert_tap_lost(struct fixture *f)
{
	unsigned int writes;

	cr_assert_eq(link_status(f), 0);
	cr_assert(config_interrupt(f));
	cr_assert_not(driver_turn(&f->driver, 0), "the loop rests");
	writes = fake_tap.writes;
	for (unsigned int n = 10; n < 20; n++)
		put_frame(f, n, NULL, 60);
	transmit(f);
	cr_assert_eq(ring_used_index(&f->tx), f->tx.available_index, "frames do not pile up");
	cr_assert_geq(atomic_load(&metrics(f)->tap_write_fails), 10);
	cr_assert_eq(fake_tap.writes, writes);
	cr_assert(is_alive(f));
	/* A driver that comes anew finds the link down. */
	start(f, USUAL);
	cr_assert_eq(link_status(f), 0);
	post(f, 0, 4, 2048);
	notify(f, RX);
	driver_settle(&f->driver);
	cr_assert_eq(ring_used_index(&f->driver.ring), 0);
}

Test(virtio_net, deleted_tap_is_survived_when_the_loop_sees_it)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	shutdown(f.host, SHUT_RDWR); /* EPOLLHUP here; a TAP says EPOLLERR */
	driver_settle(&f.driver);
	assert_tap_lost(&f);
	tear_down(&f);
}

Test(virtio_net, deleted_tap_is_survived_when_a_write_sees_it)
{
	struct fixture f;

	set_up(&f, USUAL);
	fake_tap.write_error = EBADFD;
	put_frame(&f, 0, NULL, 60);
	transmit(&f);
	assert_tap_lost(&f);
	tear_down(&f);
}

Test(virtio_net, deleted_tap_is_survived_when_a_read_sees_it)
{
	struct fixture f;

	set_up(&f, USUAL);
	fake_tap.read_error = EBADFD;
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_tap_lost(&f);
	tear_down(&f);
}

/* Life */

Test(virtio_net, tap_is_left_alone_before_the_driver_is_ready)
{
	struct fixture f;

	set_up_with(&f, 0, true);
	cr_assert(host_sends(&f, NULL, 60, 1));
	cr_assert_not(driver_turn(&f.driver, 0));
	cr_assert_eq(fake_tap.reads, 0);
	start(&f, USUAL);
	post(&f, 0, 1, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	cr_assert_eq(ring_take(&f.driver.ring).len, HEADER + 60, "it waited in the TAP");
	tear_down(&f);
}

Test(virtio_net, reset_gives_all_memory_back)
{
	struct fixture f;
	uint8_t *buffers;

	set_up(&f, USUAL);
	for (unsigned int round = 0; round < 10; round++) {
		start(&f, USUAL);
		post(&f, 0, 32, 1536);
		notify(&f, RX);
		driver_settle(&f.driver);
		/* Leaves two buffers, and a frame that waits for more in the first of them. */
		for (unsigned int n = 0; n < 30; n++)
			cr_assert(host_sends(&f, NULL, 60, n));
		cr_assert(host_sends(&f, NULL, 9000, round));
		driver_settle(&f.driver);
		cr_assert_eq(ring_used_index(&f.driver.ring), 30);
		if (round % 2)
			driver_set(&f.driver, VIRTIO_MMIO_STATUS, 0);
		else {
			driver_set(&f.driver, VIRTIO_MMIO_QUEUE_SEL, RX);
			driver_set(&f.driver, VIRTIO_MMIO_QUEUE_READY, 0);
		}
		buffers = at(&f, RX_BUFFER(0), 64 * 0x1000);
		memset(buffers, 0x77, 64 * 0x1000);
		for (unsigned int n = 0; n < 4; n++)
			host_sends(&f, NULL, 1000, n);
		notify(&f, RX);
		driver_settle(&f.driver);
		for (size_t i = 0; i < 64 * 0x1000; i++)
			cr_assert_eq(buffers[i], 0x77);
		/* What arrived meanwhile comes first. */
		start(&f, USUAL);
		post(&f, 0, 32, 1536);
		notify(&f, RX);
		driver_settle(&f.driver);
		cr_assert_eq(ring_used_index(&f.driver.ring), 4);
	}
	cr_assert_eq(atomic_load(&metrics(&f)->malformed), 0);
	tear_down(&f);
}

/* A vCPU resets, while the main thread's loop moves frames. */
struct resetter {
	struct fixture *f;
	_Atomic bool done;
};

static void *reset_often(void *argument)
{
	struct resetter *resetter = argument;
	struct fixture *f = resetter->f;

	for (unsigned int round = 0; round < 300; round++) {
		start(f, USUAL);
		post(f, 0, 32, 1536);
		notify(f, RX);
		for (unsigned int n = 0; n < 8; n++) {
			put_frame(f, n, NULL, 1000);
			host_sends(f, NULL, 3000, n);
		}
		ring_publish(&f->tx);
		notify(f, TX);
		if (round % 3)
			usleep(round % 50);
		driver_set(&f->driver, VIRTIO_MMIO_STATUS, 0);
	}
	atomic_store(&resetter->done, true);
	return NULL;
}

Test(virtio_net, reset_on_one_thread_and_work_on_another_agree)
{
	struct fixture f;
	struct resetter resetter = { .f = &f };
	uint8_t message[4096];
	pthread_t vcpu;

	set_up(&f, USUAL);
	cr_assert_eq(pthread_create(&vcpu, NULL, reset_often, &resetter), 0);
	while (!atomic_load(&resetter.done)) {
		driver_turn(&f.driver, 1);
		while (host_receives(&f, message, sizeof(message)) > 0)
			;
	}
	pthread_join(vcpu, NULL);
	driver_settle(&f.driver);
	cr_assert_eq(atomic_load(&metrics(&f)->malformed), 0);
	start(&f, USUAL);
	put_frame(&f, 0, NULL, 60);
	transmit(&f);
	cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)HEADER + 60);
	tear_down(&f);
}
