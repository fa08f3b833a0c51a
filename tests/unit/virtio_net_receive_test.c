/*
 * Frames to the guest (virtio 1.2, 5.1.6.3 and 5.1.6.4), devices/virtio/net_receive.c: which
 * buffers they fill, and what becomes of those that do not fit.
 */
#include "virtio_net_fixture.h"

static uint16_t num_buffers_at(struct fixture *f, uint64_t gpa)
{
	struct virtio_net_hdr_v1 header;

	memcpy(&header, at(f, gpa, HEADER), HEADER);
	return header.num_buffers;
}

/*
 * The next frame that the guest got: checks that it is `length` bytes of pattern `seed`, spread
 * over as many used entries as its header says. Returns how many.
 */
static unsigned int assert_frame(struct fixture *f, size_t length, unsigned int seed)
{
	struct vring_used_elem element = ring_take(&f->driver.ring);
	unsigned int count, used = 0;
	uint64_t gpa = 0;
	size_t seen = 0;

	for (count = 0; used == 0 || count < used; count++) {
		size_t skip = 0;

		if (count > 0)
			element = ring_take(&f->driver.ring);
		/* Where the driver put this descriptor's buffer. */
		memcpy(&gpa, at(f, RING_DESCRIPTORS + 16ULL * element.id, 8), 8);
		if (used == 0) {
			used = num_buffers_at(f, gpa);
			cr_assert_geq(used, 1);
			skip = HEADER;
		}
		for (size_t i = skip; i < element.len; i++, seen++)
			cr_assert_eq(*(uint8_t *)at(f, gpa + i, 1), pattern(seen, seed),
				     "byte %zu of %zu", seen, length);
	}
	cr_assert_eq(seen, length, "the frame has %zu bytes, not %zu", seen, length);
	return count;
}

static void assert_nothing_used(struct fixture *f)
{
	cr_assert_eq(ring_used_index(&f->driver.ring), f->driver.ring.used_seen);
}

Test(virtio_net_receive, frame_is_written_into_the_first_buffer)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 60, 1));
	driver_settle(&f.driver);
	cr_assert_eq(assert_frame(&f, 60, 1), 1);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_frames), 1);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_bytes), 60);
	tear_down(&f);
}

Test(virtio_net_receive, many_frames_come_with_one_interrupt)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, RING_SIZE, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	driver_take_interrupts(&f.driver);
	for (unsigned int n = 0; n < 32; n++)
		cr_assert(host_sends(&f, NULL, 100 + n, n));
	driver_settle(&f.driver);
	for (unsigned int n = 0; n < 32; n++)
		assert_frame(&f, 100 + n, n);
	cr_assert_eq(driver_take_interrupts(&f.driver), 1);
	tear_down(&f);
}

Test(virtio_net_receive, large_frame_is_spread_over_merged_buffers)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, RING_SIZE, 1536);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 65000, 3));
	cr_assert(host_sends(&f, NULL, 1, 4));
	driver_settle(&f.driver);
	cr_assert_eq(assert_frame(&f, 65000, 3), (65000 + HEADER + 1535) / 1536);
	cr_assert_eq(assert_frame(&f, 1, 4), 1);
	tear_down(&f);
}

Test(virtio_net_receive, frame_that_fills_its_buffers_exactly_takes_no_other)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 4, 1536);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 2 * 1536 - HEADER, 5));
	cr_assert(host_sends(&f, NULL, 1536 - HEADER, 6));
	driver_settle(&f.driver);
	cr_assert_eq(assert_frame(&f, 2 * 1536 - HEADER, 5), 2);
	cr_assert_eq(assert_frame(&f, 1536 - HEADER, 6), 1);
	tear_down(&f);
}

Test(virtio_net_receive, header_may_be_spread_over_descriptors)
{
	struct fixture f;
	static const uint32_t lengths[] = { 1, 9, 1, 1, 3, 2000 };

	set_up(&f, USUAL);
	for (uint16_t i = 0; i < ARRAY_SIZE(lengths); i++)
		ring_set(&f.driver.ring, i, RX_BUFFER(i), lengths[i],
			 VRING_DESC_F_WRITE |
				 (i + 1U < ARRAY_SIZE(lengths) ? VRING_DESC_F_NEXT : 0U),
			 (uint16_t)(i + 1));
	memset(at(&f, RX_BUFFER(3), 1), 0xee, 1);
	memset(at(&f, RX_BUFFER(2), 1), 0xee, 1);
	ring_offer(&f.driver.ring, 0);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 500, 7));
	driver_settle(&f.driver);
	cr_assert_eq(ring_take(&f.driver.ring).len, HEADER + 500);
	/* num_buffers is at 10 and 11: alone in the third and the fourth. */
	cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(2), 1), 1);
	cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(3), 1), 0);
	cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(4) + 2, 1), pattern(2, 7));
	cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(5) + 496, 1), pattern(499, 7));
	tear_down(&f);
}

Test(virtio_net_receive, frame_waits_for_buffers_and_the_loop_rests)
{
	struct fixture f;

	set_up(&f, USUAL);
	cr_assert(host_sends(&f, NULL, 60, 1));
	cr_assert_not(driver_turn(&f.driver, 0),
		      "the TAP is not waited for before there are buffers");
	notify(&f, RX);
	driver_settle(&f.driver);
	cr_assert_not(driver_turn(&f.driver, 0));
	post(&f, 0, 1, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_frame(&f, 60, 1);
	cr_assert(host_sends(&f, NULL, 61, 2));
	driver_settle(&f.driver);
	cr_assert_not(driver_turn(&f.driver, 0), "the only buffer is used");
	assert_nothing_used(&f);
	post(&f, 1, 1, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_frame(&f, 61, 2);
	cr_assert_geq(atomic_load(&metrics(&f)->rx_waits), 2);
	tear_down(&f);
}

Test(virtio_net_receive, driver_is_asked_to_notify_only_when_it_owes_buffers)
{
	struct fixture f;
	uint16_t asked;

	set_up(&f, USUAL);
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	driver_settle(&f.driver);
	asked = *ring_available_event(&f.driver.ring);
	cr_assert_neq(asked, 4, "there are buffers still");
	for (unsigned int n = 0; n < 4; n++)
		cr_assert(host_sends(&f, NULL, 60, n));
	driver_settle(&f.driver);
	cr_assert_eq(*ring_available_event(&f.driver.ring), 4, "all are used");
	tear_down(&f);
}

Test(virtio_net_receive, frame_larger_than_what_is_there_waits_for_the_rest)
{
	struct fixture f;

	set_up(&f, USUAL);
	/* The driver has shown that it has 32; 30 are used, 2 are left. */
	post(&f, 0, 32, 1536);
	notify(&f, RX);
	for (unsigned int n = 0; n < 30; n++)
		cr_assert(host_sends(&f, NULL, 100, n));
	driver_settle(&f.driver);
	for (unsigned int n = 0; n < 30; n++)
		assert_frame(&f, 100, n);
	cr_assert(host_sends(&f, NULL, 20000, 99));
	cr_assert(host_sends(&f, NULL, 70, 100));
	driver_settle(&f.driver);
	assert_nothing_used(&f);
	/* Some more are not enough, and the frame is not lost by that. */
	post(&f, 32, 4, 1536);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_nothing_used(&f);
	post(&f, 36, 20, 1536);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_frame(&f, 20000, 99);
	assert_frame(&f, 70, 100);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_no_room), 0);
	tear_down(&f);
}

Test(virtio_net_receive, frame_that_can_never_fit_is_dropped_and_counted)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 8, 1536); /* all that this driver ever gives */
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 20000, 1));
	cr_assert(host_sends(&f, NULL, 8 * 1536 - HEADER, 2));
	driver_settle(&f.driver);
	cr_assert_eq(assert_frame(&f, 8 * 1536 - HEADER, 2), 8);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_no_room), 1);
	cr_assert(is_alive(&f));
	tear_down(&f);
}

Test(virtio_net_receive, without_merging_a_frame_has_one_buffer_or_is_dropped)
{
	struct fixture f;

	set_up(&f, USUAL & ~FEATURE(VIRTIO_NET_F_MRG_RXBUF));
	post(&f, 0, 8, 1536);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 1536 - HEADER + 1, 1));
	cr_assert(host_sends(&f, NULL, 1536 - HEADER, 2));
	driver_settle(&f.driver);
	cr_assert_eq(assert_frame(&f, 1536 - HEADER, 2), 1);
	assert_nothing_used(&f);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_no_room), 1);
	tear_down(&f);
}

/* Several descriptors each, so that the list of the device gets full and is moved often. */
Test(virtio_net_receive, buffers_of_many_descriptors_do_not_overrun_the_list)
{
	struct fixture f;
	const unsigned int parts = 250, chains = 60;

	set_up(&f, USUAL);
	for (unsigned int round = 0; round < 3; round++) {
		for (uint16_t n = 0; n < chains; n++) {
			uint64_t table = RING_INDIRECT + 0x1000000ULL + 0x4000ULL * n;

			for (uint16_t i = 0; i < parts; i++)
				table_set(&f.driver.memory, table, i, RX_BUFFER(n) + 8ULL * i, 8,
					  VRING_DESC_F_WRITE |
						  (i + 1U < parts ? VRING_DESC_F_NEXT : 0U),
					  (uint16_t)(i + 1));
			ring_set(&f.driver.ring, n, table, parts * 16, VRING_DESC_F_INDIRECT, 0);
			ring_add(&f.driver.ring, n);
		}
		ring_publish(&f.driver.ring);
		notify(&f, RX);
		for (unsigned int n = 0; n < chains / 3; n++) {
			struct vring_used_elem element;

			cr_assert(host_sends(&f, NULL, 4500, n));
			driver_settle(&f.driver);
			for (unsigned int k = 0; k < 3; k++) {
				element = ring_take(&f.driver.ring);
				cr_assert_eq(*(uint8_t *)at(&f, RX_BUFFER(element.id) + 500, 1),
					     pattern(k * 2000 + 500 - HEADER, n));
			}
		}
		assert_nothing_used(&f);
	}
	/* One that more of such buffers hold than the list has room for. */
	for (uint16_t n = 0; n < chains; n++)
		ring_add(&f.driver.ring, n);
	ring_publish(&f.driver.ring);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 60000, 1));
	cr_assert(host_sends(&f, NULL, 60, 2));
	driver_settle(&f.driver);
	cr_assert_eq(ring_take(&f.driver.ring).len, HEADER + 60);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_no_room), 1);
	tear_down(&f);
}

Test(virtio_net_receive, turn_is_bounded)
{
	struct fixture f;

	set_up_with(&f, 0, true);
	driver_negotiate(&f.driver, USUAL);
	driver_set_up_ring(&f.driver, &f.driver.ring, RX, 0, 256);
	driver_set(&f.driver, VIRTIO_MMIO_STATUS, ALIVE);
	for (unsigned int n = 0; n < 256; n++) {
		ring_set(&f.driver.ring, n, RX_BUFFER(n), 2048, VRING_DESC_F_WRITE, 0);
		ring_add(&f.driver.ring, (uint16_t)n);
	}
	ring_publish(&f.driver.ring);
	for (unsigned int n = 0; n < 150; n++)
		cr_assert(host_sends(&f, NULL, 60, n));
	notify(&f, RX);
	driver_turn(&f.driver, 0);
	cr_assert_eq(ring_used_index(&f.driver.ring), 64, "the loop serves others now");
	driver_settle(&f.driver);
	for (unsigned int n = 0; n < 150; n++)
		assert_frame(&f, 60, n);
	tear_down(&f);
}

/* What the driver may not do */

static void assert_broken(struct fixture *f)
{
	notify(f, RX);
	host_sends(f, NULL, 60, 1);
	driver_settle(&f->driver);
	cr_assert_eq(driver_get(&f->driver, VIRTIO_MMIO_STATUS),
		     ALIVE | VIRTIO_CONFIG_S_NEEDS_RESET);
	cr_assert_eq(ring_used_index(&f->driver.ring), 0);
	cr_assert_eq(atomic_load(&metrics(f)->malformed), 1);
	cr_assert_not(driver_turn(&f->driver, 0), "the loop rests");
	start(f, USUAL);
	post(f, 0, 1, 2048);
	notify(f, RX);
	driver_settle(&f->driver);
	assert_frame(f, 60, 1);
}

Test(virtio_net_receive, readable_buffer_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	ring_set(&f.driver.ring, 0, RX_BUFFER(0), 64, VRING_DESC_F_NEXT, 1);
	ring_set(&f.driver.ring, 1, RX_BUFFER(1), 2048, VRING_DESC_F_WRITE, 0);
	ring_offer(&f.driver.ring, 0);
	assert_broken(&f);
	tear_down(&f);
}

Test(virtio_net_receive, buffer_without_room_for_the_header_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 1, HEADER - 1);
	assert_broken(&f);
	tear_down(&f);
}

Test(virtio_net_receive, buffer_outside_memory_breaks_the_device)
{
	struct fixture f;

	set_up(&f, USUAL);
	ring_set(&f.driver.ring, 0, 64 * MIB - 100, 2048, VRING_DESC_F_WRITE, 0);
	ring_offer(&f.driver.ring, 0);
	assert_broken(&f);
	tear_down(&f);
}

/* What the host may do */

static void assert_dropped(uint64_t features, const struct virtio_net_hdr_v1 *header)
{
	struct fixture f;

	set_up(&f, features);
	post(&f, 0, RING_SIZE, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, header, 3000, 1));
	cr_assert(host_sends(&f, NULL, 60, 2));
	driver_settle(&f.driver);
	assert_frame(&f, 60, 2);
	assert_nothing_used(&f);
	cr_assert_eq(atomic_load(&metrics(&f)->rx_unsuitable), 1);
	tear_down(&f);
}

Test(virtio_net_receive, frame_in_a_form_that_the_driver_did_not_accept_is_dropped)
{
	struct virtio_net_hdr_v1 header = { .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM };

	assert_dropped(USUAL & ~FEATURE(VIRTIO_NET_F_GUEST_CSUM), &header);
	header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
	assert_dropped(USUAL & ~FEATURE(VIRTIO_NET_F_GUEST_TSO4), &header);
	header.gso_type = VIRTIO_NET_HDR_GSO_TCPV6;
	assert_dropped(USUAL & ~FEATURE(VIRTIO_NET_F_GUEST_TSO6), &header);
	header.gso_type = VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN;
	assert_dropped(USUAL, &header);
	header.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
	assert_dropped(USUAL | FEATURE(VIRTIO_NET_F_GUEST_USO4), &header);
	header.gso_type = VIRTIO_NET_HDR_GSO_UDP;
	assert_dropped(USUAL, &header);
}

Test(virtio_net_receive, header_is_passed_on_and_completed)
{
	struct virtio_net_hdr_v1 header = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
		.hdr_len = 54,
		.gso_size = 1448,
		.csum_start = 34,
		.csum_offset = 16,
		.num_buffers = 0x1234,
	};
	struct virtio_net_hdr_v1 seen;
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, RING_SIZE, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, &header, 3000, 1));
	driver_settle(&f.driver);
	memcpy(&seen, at(&f, RX_BUFFER(0), HEADER), HEADER);
	header.num_buffers = 2;
	cr_assert_eq(memcmp(&seen, &header, HEADER), 0);
	tear_down(&f);
}

Test(virtio_net_receive, driver_without_checksums_sees_no_flags)
{
	struct virtio_net_hdr_v1 header = { .flags = VIRTIO_NET_HDR_F_DATA_VALID }, seen;
	struct fixture f;

	set_up(&f, USUAL & ~FEATURE(VIRTIO_NET_F_GUEST_CSUM));
	post(&f, 0, 4, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, &header, 60, 1));
	driver_settle(&f.driver);
	memcpy(&seen, at(&f, RX_BUFFER(0), HEADER), HEADER);
	cr_assert_eq(seen.flags, 0);
	tear_down(&f);
}

Test(virtio_net_receive, frame_that_the_host_cannot_give_is_counted_and_the_next_taken)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 4, 2048);
	fake_tap.read_error = EINVAL;
	cr_assert(host_sends(&f, NULL, 60, 1));
	notify(&f, RX);
	driver_turn(&f.driver, 0);
	cr_assert_gt(atomic_load(&metrics(&f)->tap_read_fails), 0);
	fake_tap.read_error = 0;
	driver_settle(&f.driver);
	assert_frame(&f, 60, 1);
	tear_down(&f);
}
