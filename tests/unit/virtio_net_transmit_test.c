/*
 * Frames from the guest (virtio 1.2, 5.1.6.1 and 5.1.6.2), devices/virtio/net_transmit.c: what
 * reaches the TAP, what is refused, and what becomes of a frame that the TAP does not take.
 */
#include "virtio_net_fixture.h"

static void assert_on_wire(struct fixture *f, size_t length, unsigned int seed)
{
	static uint8_t message[70000];
	struct virtio_net_hdr_v1 header;

	cr_assert_eq(host_receives(f, message, sizeof(message)), (ssize_t)(HEADER + length));
	memcpy(&header, message, HEADER);
	cr_assert_eq(header.num_buffers, 0);
	for (size_t i = 0; i < length; i++)
		cr_assert_eq(message[HEADER + i], pattern(i, seed), "byte %zu", i);
}

static void assert_wire_is_empty(struct fixture *f)
{
	uint8_t byte;

	cr_assert_eq(host_receives(f, &byte, 1), -1);
}

Test(virtio_net_transmit, frames_reach_the_wire_in_order)
{
	struct fixture f;

	set_up(&f, USUAL);
	for (unsigned int n = 0; n < 20; n++)
		put_frame(&f, n, NULL, 60 + n);
	transmit(&f);
	for (unsigned int n = 0; n < 20; n++)
		assert_on_wire(&f, 60 + n, n);
	assert_wire_is_empty(&f);
	cr_assert_eq(ring_used_index(&f.tx), 20);
	cr_assert_eq(ring_take(&f.tx).len, 0, "nothing was written to it");
	cr_assert_eq(atomic_load(&metrics(&f)->tx_frames), 20);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_bytes), 20 * 60 + 190);
	tear_down(&f);
}

Test(virtio_net_transmit, one_notification_and_one_interrupt_serve_many_frames)
{
	struct fixture f;

	set_up(&f, USUAL);
	for (unsigned int n = 0; n < 40; n++)
		put_frame(&f, n, NULL, 1000);
	ring_publish(&f.tx);
	driver_take_interrupts(&f.driver);
	notify(&f, TX);
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.tx), 40);
	cr_assert_eq(driver_take_interrupts(&f.driver), 1);
	cr_assert_eq(atomic_load(&f.driver.mmio->metrics.notifications), 1);
	tear_down(&f);
}

Test(virtio_net_transmit, frame_may_be_spread_over_descriptors)
{
	static const uint32_t lengths[] = { 5, 7, 14, 1, 1000 };
	struct fixture f;
	size_t offset = 0;
	uint8_t whole[HEADER + 1015] = { 0 };

	set_up(&f, USUAL);
	for (size_t i = HEADER; i < sizeof(whole); i++)
		whole[i] = pattern(i - HEADER, 1);
	for (uint16_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		memcpy(at(&f, TX_BUFFER(i), lengths[i]), whole + offset, lengths[i]);
		ring_set(&f.tx, i, TX_BUFFER(i), lengths[i],
			 i + 1U < ARRAY_SIZE(lengths) ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1));
		offset += lengths[i];
	}
	ring_add(&f.tx, 0);
	transmit(&f);
	assert_on_wire(&f, 1015, 1);
	tear_down(&f);
}

Test(virtio_net_transmit, offloads_that_were_negotiated_pass)
{
	static const struct virtio_net_hdr_v1 headers[] = {
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		  .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		  .hdr_len = 54,
		  .gso_size = 1448,
		  .csum_start = 34,
		  .csum_offset = 16 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		  .gso_type = VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN,
		  .gso_size = 1428 },
		{ .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		  .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
		  .gso_size = 1472 },
	};
	uint8_t message[HEADER + 4000];
	struct fixture f;

	set_up(&f, USUAL | FEATURE(VIRTIO_NET_F_HOST_ECN) | FEATURE(VIRTIO_NET_F_HOST_USO));
	for (unsigned int n = 0; n < ARRAY_SIZE(headers); n++)
		put_frame(&f, n, &headers[n], 4000);
	transmit(&f);
	for (unsigned int n = 0; n < ARRAY_SIZE(headers); n++) {
		cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)sizeof(message));
		cr_assert_eq(memcmp(message, &headers[n], HEADER), 0, "header %u", n);
	}
	tear_down(&f);
}

Test(virtio_net_transmit, flags_without_meaning_are_taken_away)
{
	struct virtio_net_hdr_v1 header = { .flags = 0xff & ~VIRTIO_NET_HDR_F_NEEDS_CSUM,
					    .num_buffers = 77 };
	uint8_t message[HEADER + 60];
	struct fixture f;

	set_up(&f, USUAL);
	put_frame(&f, 0, &header, 60);
	transmit(&f);
	cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)sizeof(message));
	for (size_t i = 0; i < HEADER; i++)
		cr_assert_eq(message[i], 0);
	tear_down(&f);
}

static void assert_refused(uint64_t features, uint8_t flags, uint8_t gso_type)
{
	struct virtio_net_hdr_v1 header = { .flags = flags,
					    .gso_type = gso_type,
					    .gso_size = 1000 };
	struct fixture f;

	set_up(&f, features);
	put_frame(&f, 0, &header, 4000);
	put_frame(&f, 1, NULL, 60);
	transmit(&f);
	assert_on_wire(&f, 60, 1);
	assert_wire_is_empty(&f);
	cr_assert_eq(ring_used_index(&f.tx), 2);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_malformed), 1);
	cr_assert(is_alive(&f));
	tear_down(&f);
}

Test(virtio_net_transmit, offload_that_was_not_negotiated_is_dropped)
{
	const uint8_t csum = VIRTIO_NET_HDR_F_NEEDS_CSUM;

	assert_refused(USUAL & ~FEATURE(VIRTIO_NET_F_CSUM), csum, VIRTIO_NET_HDR_GSO_NONE);
	assert_refused(USUAL & ~FEATURE(VIRTIO_NET_F_HOST_TSO4), csum, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_refused(USUAL & ~FEATURE(VIRTIO_NET_F_HOST_TSO6), csum, VIRTIO_NET_HDR_GSO_TCPV6);
	assert_refused(USUAL, csum, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN);
	assert_refused(USUAL, csum, VIRTIO_NET_HDR_GSO_UDP_L4);
	assert_refused(USUAL, csum, VIRTIO_NET_HDR_GSO_UDP);
	assert_refused(USUAL, csum, 0x7f);
	assert_refused(USUAL, 0, VIRTIO_NET_HDR_GSO_TCPV4);
	assert_refused(USUAL, csum, VIRTIO_NET_HDR_GSO_ECN);
}

Test(virtio_net_transmit, no_frame_behind_the_header_and_one_too_long_are_dropped)
{
	struct fixture f;

	set_up(&f, USUAL);
	put_frame(&f, 0, NULL, 0);
	put_frame(&f, 1, NULL, 13);
	put_frame(&f, 2, NULL, 14 + 4 + 65536);
	put_frame(&f, 3, NULL, 14);
	put_frame(&f, 4, NULL, 14 + 4 + 65535);
	transmit(&f);
	assert_on_wire(&f, 14, 3);
	assert_on_wire(&f, 14 + 4 + 65535, 4);
	assert_wire_is_empty(&f);
	cr_assert_eq(atomic_load(&metrics(&f)->tx_malformed), 3);
	cr_assert_eq(ring_used_index(&f.tx), 5);
	tear_down(&f);
}

Test(virtio_net_transmit, frame_that_the_wire_has_no_room_for_is_held_not_lost)
{
	struct fixture f;
	unsigned int sent = 0, received = 0;
	uint8_t message[HEADER + 4000];

	set_up(&f, USUAL);
	for (unsigned int n = 0; n < RING_SIZE; n++)
		put_frame(&f, n, NULL, 4000);
	transmit(&f);
	sent = ring_used_index(&f.tx);
	cr_assert_lt(sent, RING_SIZE, "the socket takes all: the test must send more");
	cr_assert_not(driver_turn(&f.driver, 0), "the loop rests while the wire is full");
	notify(&f, TX);
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.tx), sent);
	while (host_receives(&f, message, sizeof(message)) > 0) {
		cr_assert_eq(message[HEADER + 100], pattern(100, received));
		received++;
		driver_settle(&f.driver);
	}
	cr_assert_eq(received, RING_SIZE);
	cr_assert_eq(ring_used_index(&f.tx), RING_SIZE);
	cr_assert_not(driver_turn(&f.driver, 0), "nobody waits for room any more");
	tear_down(&f);
}

Test(virtio_net_transmit, turn_is_bounded)
{
	struct fixture f;

	set_up_with(&f, 0, true);
	driver_negotiate(&f.driver, USUAL);
	driver_set_up_ring(&f.driver, &f.tx, TX, TX_RING, 256);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, ALIVE);
	for (unsigned int n = 0; n < 150; n++) {
		ring_set(&f.tx, n, TX_BUFFER(0), HEADER + 60, 0, 0);
		ring_add(&f.tx, (uint16_t)n);
	}
	ring_publish(&f.tx);
	notify(&f, TX);
	driver_turn(&f.driver, 0);
	cr_assert_eq(ring_used_index(&f.tx), 64, "the loop serves others now");
	driver_settle(&f.driver);
	cr_assert_eq(ring_used_index(&f.tx), 150);
	tear_down(&f);
}

/* What the driver may not do */

static void assert_broken(struct fixture *f)
{
	transmit(f);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS),
		     ALIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(atomic_load(&metrics(f)->malformed), 1);
	assert_wire_is_empty(f);
	start(f, USUAL);
	put_frame(f, 0, NULL, 60);
	transmit(f);
	assert_on_wire(f, 60, 0);
	tear_down(f);
}

Test(virtio_net_transmit, writable_buffer_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	ring_set(&f.tx, 0, TX_BUFFER(0), 100, VRING_DESC_F_NEXT, 1);
	ring_set(&f.tx, 1, TX_BUFFER(1), 100, VRING_DESC_F_WRITE, 0);
	ring_add(&f.tx, 0);
	assert_broken(&f);
}

Test(virtio_net_transmit, frame_shorter_than_its_header_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	ring_set(&f.tx, 0, TX_BUFFER(0), HEADER - 1, 0, 0);
	ring_add(&f.tx, 0);
	assert_broken(&f);
}

Test(virtio_net_transmit, buffer_outside_memory_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	ring_set(&f.tx, 0, ~0ULL - 10, 100, 0, 0);
	ring_add(&f.tx, 0);
	assert_broken(&f);
}
