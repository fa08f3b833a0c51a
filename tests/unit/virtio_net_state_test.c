/* The network device in a state file: devices/virtio/net_state.c. */
#include "saved_state.h"
#include "virtio_net_fixture.h"

#define SECTION "net"

/* Where fields are in the section. */
enum {
	DRIVER_FEATURES = 8,
	QUEUE_1_SIZE = 74,
	MAC_LENGTH = 105,
	MAC = 109,
	MTU = 115,
	LINK = 117,
	AT_MOST = 118,
	FRAME_LENGTH = 120,
	FRAME = 124, /* when there is one, the rest is behind it */
	RX_BANDWIDTH_REFILL = 132,
	TX_OPS_FRACTION = 276,
};

static void save(struct fixture *f, struct saved_state *saved)
{
	virtio_net_pause(f->net);
	state_writer_init(&saved->writer);
	virtio_net_save(f->net, &saved->writer);
	saved_state_read(saved);
}

/* Another process, as it were: a new device over another TAP and the same memory. */
static void make_anew(struct fixture *f, uint16_t mtu, bool has_uso)
{
	struct virtio_net_options options = {
		.iface_id = "eth0",
		.mac = { 0x02, 0x00, 0x00, 0x00, 0x00, 0x07 },
		.mtu = mtu,
	};

	virtio_net_destroy(f->net);
	close(f->host);
	make_device(f, &options, has_uso);
	driver_take_interrupts(&f->driver);
}

static void move(struct fixture *f)
{
	struct saved_state saved;
	struct error err = { 0 };

	save(f, &saved);
	make_anew(f, 0, true);
	cr_assert_eq(virtio_net_restore(f->net, &saved.file, &err), 0, "%s", err.message);
	cr_assert_not(driver_turn(&f->driver, 0), "it rests");
	virtio_net_resume(f->net);
	driver_settle(&f->driver);
	saved_state_destroy(&saved);
}

Test(virtio_net_state, restored_device_goes_on_over_another_tap)
{
	struct fixture f;
	uint8_t message[HEADER + 300];

	set_up(&f, USUAL);
	post(&f, 0, 64, 2048);
	notify(&f, RX);
	for (unsigned int n = 0; n < 40; n++) {
		cr_assert(host_sends(&f, NULL, 100 + n, n));
		driver_settle(&f.driver);
		assert_received(&f, 100 + n, n);
		put_frame(&f, n, NULL, 300);
		transmit(&f);
		cr_assert_eq(host_receives(&f, message, sizeof(message)), (ssize_t)sizeof(message));
		move(&f);
	}
	cr_assert(is_alive(&f));
	cr_assert_eq(ring_used_index(&f.tx), 40);
	tear_down(&f);
}

Test(virtio_net_state, new_tap_gets_the_offloads_of_the_driver)
{
	struct fixture f;
	int offloads;

	set_up(&f, USUAL);
	offloads = fake_tap.offloads;
	cr_assert_gt(offloads, 0);
	move(&f);
	cr_assert_eq(fake_tap.offloads, offloads);
	tear_down(&f);
}

Test(virtio_net_state, address_is_the_one_that_the_guest_knows)
{
	static const uint8_t mac[] = { 0x06, 0x00, 0xac, 0x10, 0x00, 0x02 };
	struct fixture f;

	set_up(&f, USUAL);
	move(&f);
	for (size_t i = 0; i < sizeof(mac); i++)
		cr_assert_eq(driver_read(&f.driver, VIRTIO_MMIO_CONFIG + i, 1), mac[i]);
	tear_down(&f);
}

Test(virtio_net_state, frame_that_waits_for_buffers_comes_along)
{
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 8, 1024);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 7 * 1024 - HEADER, 1));
	driver_settle(&f.driver);
	assert_received(&f, 7 * 1024 - HEADER, 1);
	cr_assert(host_sends(&f, NULL, 5000, 2));
	driver_settle(&f.driver);
	for (unsigned int round = 0; round < 3; round++) {
		move(&f);
		memset(at(&f, RX_BUFFER(0), 8 * 0x1000), 0x77, 8 * 0x1000);
	}
	cr_assert_eq(f.driver.ring.used_seen, ring_used_index(&f.driver.ring));
	post(&f, 8, 8, 1024);
	notify(&f, RX);
	driver_settle(&f.driver);
	assert_received(&f, 5000, 2);
	tear_down(&f);
}

Test(virtio_net_state, frame_that_the_tap_had_no_room_for_goes_to_the_new_one)
{
	struct fixture f;
	unsigned int sent, received = 0;
	uint8_t message[HEADER + 4000];

	set_up(&f, USUAL);
	for (unsigned int n = 0; n < RING_SIZE; n++)
		put_frame(&f, n, NULL, 4000);
	transmit(&f);
	sent = ring_used_index(&f.tx);
	cr_assert_lt(sent, RING_SIZE);
	move(&f);
	while (host_receives(&f, message, sizeof(message)) > 0) {
		cr_assert_eq(message[HEADER + 100], pattern(100, sent + received));
		received++;
		driver_settle(&f.driver);
	}
	cr_assert_eq(sent + received, RING_SIZE);
	tear_down(&f);
}

Test(virtio_net_state, link_that_was_down_comes_up_with_the_new_tap)
{
	struct fixture f;

	set_up(&f, USUAL);
	fake_tap.write_error = EIO;
	put_frame(&f, 0, NULL, 100);
	ring_publish(&f.tx);
	notify(&f, TX);
	driver_turn(&f.driver, 0);
	cr_assert_eq(atomic_load(&metrics(&f)->link_changes), 1);
	driver_set(&f.driver, VIRTIO_MMIO_INTERRUPT_ACK, 3);
	move(&f);
	cr_assert_eq(atomic_load(&metrics(&f)->link_changes), 1, "up");
	cr_assert(driver_get(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG);
	tear_down(&f);
}

Test(virtio_net_state, limits_go_on_with_what_was_left)
{
	struct rate_limiter_config two = { .has_ops = true, .ops = { 2, 3600000 } };
	struct fixture f;

	set_up(&f, USUAL);
	virtio_net_set_limits(f.net, &two, &two);
	post(&f, 0, 16, 2048);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 100, 1));
	put_frame(&f, 0, NULL, 100);
	transmit(&f);
	move(&f);
	for (unsigned int n = 1; n < 4; n++) {
		cr_assert(host_sends(&f, NULL, 100, n));
		put_frame(&f, n, NULL, 100);
	}
	transmit(&f);
	cr_assert_eq(ring_used_index(&f.tx), 2);
	cr_assert_eq(ring_used_index(&f.driver.ring), 2);
	tear_down(&f);
}

static void refuse(uint64_t features, uint16_t mtu, bool has_uso, const char *words)
{
	struct fixture f;
	struct saved_state saved;
	struct error err = { 0 };

	set_up(&f, features);
	save(&f, &saved);
	make_anew(&f, mtu, has_uso);
	cr_assert_eq(virtio_net_restore(f.net, &saved.file, &err), -EINVAL);
	cr_assert(strstr(err.message, words), "%s", err.message);
	virtio_net_resume(f.net);
	driver_settle(&f.driver);
	cr_assert_eq(fake_tap.offloads, -1);
	saved_state_destroy(&saved);
	tear_down(&f);
}

Test(virtio_net_state, tap_that_cannot_do_what_the_driver_uses_is_refused)
{
	refuse(USUAL | FEATURE(VIRTIO_NET_F_HOST_USO), 0, false, "driver features");
}

Test(virtio_net_state, another_mtu_than_the_guest_was_told_is_refused)
{
	refuse(USUAL, 1400, true, "MTU");
}

static int try_to_restore(void *context, struct state_file *file, struct error *err)
{
	struct fixture *f = context;
	int result;

	make_anew(f, 0, true);
	result = virtio_net_restore(f->net, file, err);
	virtio_net_resume(f->net);
	driver_settle(&f->driver);
	return result;
}

static void assert_each_refused(struct fixture *f, const struct wrong_value *wrong, size_t count)
{
	struct saved_state saved;

	save(f, &saved);
	saved_state_refuses(&saved, SECTION, "eth0", wrong, count, try_to_restore, f);
	saved_state_destroy(&saved);
}

Test(virtio_net_state, values_that_cannot_be_are_refused_by_name)
{
	static const struct wrong_value wrong[] = {
		{ DRIVER_FEATURES, 8, 1ULL << 62 | FEATURE(VIRTIO_F_VERSION_1), "driver features" },
		{ QUEUE_1_SIZE, 2, 1000, "queue 1 size" },
		{ MAC_LENGTH, 4, 5, "" },
		{ MAC, 1, 1, "MAC address" },
		{ MTU, 2, 1, "MTU" },
		{ LINK, 1, 2, "link status" },
		{ AT_MOST, 2, 257, "receive buffers" },
		{ FRAME_LENGTH, 4, 0xffffffff, "" },
		{ RX_BANDWIDTH_REFILL, 8, 1, "rx rate limiter bandwidth" },
		{ TX_OPS_FRACTION, 8, 1, "tx rate limiter ops" },
	};
	struct fixture f;

	set_up(&f, USUAL);
	assert_each_refused(&f, wrong, ARRAY_SIZE(wrong));
	tear_down(&f);
}

Test(virtio_net_state, frame_that_the_driver_would_not_take_is_refused)
{
	/* The header's flags and type of segmentation. */
	static const struct wrong_value wrong[] = {
		{ FRAME + offsetof(struct virtio_net_hdr_v1, gso_type), 1, 0x77, "frame" },
		{ FRAME + offsetof(struct virtio_net_hdr_v1, gso_type), 1,
		  VIRTIO_NET_HDR_GSO_UDP_L4, "frame" },
	};
	struct fixture f;

	set_up(&f, USUAL);
	post(&f, 0, 8, 1024);
	notify(&f, RX);
	cr_assert(host_sends(&f, NULL, 7 * 1024 - HEADER, 1));
	cr_assert(host_sends(&f, NULL, 5000, 2));
	driver_settle(&f.driver);
	assert_each_refused(&f, wrong, ARRAY_SIZE(wrong));
	tear_down(&f);
}

Test(virtio_net_state, section_that_ends_early_or_late_is_refused)
{
	struct saved_state saved;
	struct fixture f;

	set_up(&f, USUAL);
	save(&f, &saved);
	saved_state_refuses_cuts(&saved, SECTION, try_to_restore, &f);
	saved_state_destroy(&saved);
	tear_down(&f);
}
