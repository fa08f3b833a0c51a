/*
 * The network device with its transport, under a driver that does anything and a host that sends
 * anything: registers of both windows, memory, chains of both queues that are nearly right, frames
 * on the wire. The TAP is one end of a socket pair, and its calls fail when the input says so.
 * Whatever comes: nothing crashes, hangs or leaks, what reaches the wire is a frame with a header
 * that was negotiated, and after a reset the device works for a driver that follows the standard.
 */
#include <linux/virtio_net.h>
#include <sys/socket.h>

#include "fuzz_driver.h"
#include "mayfly/virtio_net.h"

#define RX	0U
#define TX	1U
#define BUFFERS 0x10000ULL

enum operation {
	OP_FRAME = OP_DEVICE,
	OP_HOST_FRAME,
	OP_HOST_READ,
	OP_FAIL,
	OP_NOTIFY,
	OP_TURN,
	OP_START,
	OP_COUNT
};

struct world {
	struct driver driver;
	int host;
	struct virtio_net *net;
};

/* What reads and writes of the TAP fail with; 0: they do not. */
static int read_error, write_error;

static ssize_t tap_read(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length;

	/* Once: what a TAP would do for ever is to be level-triggered. */
	if (read_error) {
		length = -read_error;
		read_error = 0;
		return length;
	}
	length = readv(tap->fd, iov, (int)count);
	return length < 0 ? -errno : length;
}

static ssize_t tap_write(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length;

	FUZZ_CHECK(count >= 2 && iov[0].iov_len == TAP_HEADER_BYTES);
	if (write_error) {
		length = -write_error;
		write_error = 0;
		return length;
	}
	length = writev(tap->fd, iov, (int)count);
	return length < 0 ? -errno : length;
}

static int tap_set_offloads(struct tap *tap, unsigned int offloads)
{
	FUZZ_CHECK(offloads == 0 || (offloads & TAP_OFFLOAD_CHECKSUM));
	return 0;
}

static const struct tap_ops tap_ops = { tap_read, tap_write, tap_set_offloads };

static void make_device(struct world *world, bool has_uso)
{
	struct virtio_net_options options = {
		.iface_id = "fuzz",
		.mac = { 6, 0, 0, 0, 0, 1 },
		.mtu = 1500,
		.memory = &world->driver.memory,
		.loop = &world->driver.loop,
		.log = &world->driver.log,
		.interrupt_fd = world->driver.interrupt_fd,
	};
	struct tap tap = { .ops = &tap_ops, .has_uso = has_uso };
	int ends[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
		   0);
	tap.fd = ends[0];
	world->host = ends[1];
	read_error = write_error = 0;
	FUZZ_CHECK(virtio_net_create(&world->net, &options, &tap, NULL) == 0);
	driver_take(&world->driver, virtio_net_transport(world->net), 2);
}

/* What the guest has sent so far; it must be what a TAP takes. */
static unsigned int drain_wire(struct world *world)
{
	static uint8_t message[70000];
	struct virtio_net_hdr_v1 header;
	unsigned int frames = 0;
	ssize_t length;

	while ((length = recv(world->host, message, sizeof(message), 0)) > 0) {
		FUZZ_CHECK(length >= TAP_HEADER_BYTES + 14);
		memcpy(&header, message, sizeof(header));
		FUZZ_CHECK(!(header.flags & ~VIRTIO_NET_HDR_F_NEEDS_CSUM));
		FUZZ_CHECK(header.gso_type == 0 || header.flags);
		frames++;
	}
	return frames;
}

/* One or two buffers in the direction of their queue, the first with a header of the input's. */
static void put_frame(struct driver *driver, struct fuzz_input *input)
{
	uint8_t how = input_u8(input);
	unsigned int queue = how & 1;
	uint16_t head = (uint16_t)(2 * (how >> 2 & 0xf));
	uint16_t write = queue == RX ? VRING_DESC_F_WRITE : 0;
	uint64_t address = BUFFERS + 0x800ULL * head;
	struct virtio_net_hdr_v1 header;
	uint32_t length = how & 0x40 ? input_u16(input) : 64U + input_u8(input);

	if (queue == TX) {
		input_bytes(input, &header, how & 0x80 ? sizeof(header) : 2);
		memory_write(&driver->memory, address, &header, how & 0x80 ? sizeof(header) : 2);
	}
	if (how & 2) {
		put_descriptor(driver, queue, head, address, 12, write | VRING_DESC_F_NEXT,
			       (uint16_t)(head + 1));
		put_descriptor(driver, queue, head + 1U, address + 12, length, write, 0);
	} else {
		put_descriptor(driver, queue, head, address, length, write, 0);
	}
	offer(driver, queue, head);
}

static void send_from_host(struct world *world, struct fuzz_input *input)
{
	static uint8_t message[70000];
	uint8_t how = input_u8(input);
	size_t length = how & 1 ? input_u16(input) + 4000U * (how & 1) : 26U + input_u8(input);

	memset(message, 0, TAP_HEADER_BYTES);
	input_bytes(input, message, how & 2 ? TAP_HEADER_BYTES : 2);
	(void)!send(world->host, message, length, 0);
}

static void step(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { EAGAIN, EIO, EBADFD, EINVAL, ENOMEM, EFAULT, EINTR, EPERM };
	unsigned int operation = input_u8(input) % OP_COUNT;
	struct driver *driver = &world->driver;
	uint8_t how;

	switch (operation) {
	case OP_FRAME:
		put_frame(driver, input);
		break;
	case OP_HOST_FRAME:
		send_from_host(world, input);
		break;
	case OP_HOST_READ:
		drain_wire(world);
		break;
	case OP_FAIL:
		how = input_u8(input);
		*(how & 0x80 ? &read_error : &write_error) = errors[how % ARRAY_SIZE(errors)];
		break;
	case OP_NOTIFY:
		set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, input_u8(input) & 1);
		break;
	case OP_TURN:
		fuzz_turn(&driver->loop);
		break;
	case OP_START:
		start_driver(driver, input_u64(input));
		break;
	default:
		driver_step(driver, operation, input);
		break;
	}
}

/*
 * A frame each way by a driver that follows the standard, through the window that owns the device.
 * When the TAP was lost on the way, the frame from the guest is answered all the same.
 */
static void check_works(struct world *world)
{
	struct driver *driver = &world->driver;
	const struct virtio_net_metrics *metrics = virtio_net_metrics(world->net);
	uint8_t zeros[100] = { 0 };
	uint64_t failed;

	driver->window = atomic_load(&driver->mmio->owner) == 1;
	read_error = write_error = 0;
	/* Old frames out of the way, both ends of it. */
	start_driver(driver, 0);
	fuzz_turn(&driver->loop);
	drain_wire(world);
	failed = atomic_load(&metrics->tap_write_fails);
	memory_write(&driver->memory, BUFFERS, zeros, sizeof(zeros));
	put_descriptor(driver, TX, 0, BUFFERS, sizeof(zeros), 0, 0);
	offer(driver, TX, 0);
	set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, TX);
	fuzz_turn(&driver->loop);
	FUZZ_CHECK(used_index(driver, TX) == 1);
	FUZZ_CHECK(drain_wire(world) + atomic_load(&metrics->tap_write_fails) - failed == 1);
	if (atomic_load(&metrics->tap_write_fails) != failed)
		return;

	for (unsigned int n = 0; n < RING_SIZE; n++) {
		put_descriptor(driver, RX, n, BUFFERS + 0x800ULL * n, 2048, VRING_DESC_F_WRITE, 0);
		offer(driver, RX, (uint16_t)n);
	}
	set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, RX);
	/* What waited on the wire; it may have left no room there before. */
	fuzz_turn(&driver->loop);
	FUZZ_CHECK(used_index(driver, RX) >= 1 ||
		   send(world->host, zeros, sizeof(zeros), 0) == sizeof(zeros));
	fuzz_turn(&driver->loop);
	FUZZ_CHECK(used_index(driver, RX) >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length };
	uint8_t how;

	if (!world.driver.memory.region_count)
		driver_make(&world.driver);
	memset(world.driver.memory.regions[0].hva, 0, MEMORY_BYTES);
	how = input_u8(&input);
	make_device(&world, how & 1);
	if (how & 2)
		start_driver(&world.driver, how & 4 ? ~0ULL : 0);
	while (input_left(&input))
		step(&world, &input);
	fuzz_turn(&world.driver.loop);
	check_works(&world);
	virtio_net_destroy(world.net);
	close(world.host);
	return 0;
}
