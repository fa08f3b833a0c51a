/*
 * The network device with its transport, under a driver that does anything and a host that sends
 * anything: registers of both windows, memory, chains of both queues that are nearly right, frames
 * on the wire. The TAP is one end of a socket pair, and its calls fail when the input says so.
 * Whatever comes: nothing crashes, hangs or leaks, what reaches the wire is a frame with a header
 * that was negotiated, and after a reset the device works for a driver that follows the standard.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "fuzz_device.h"
#include "mayfly/virtio_net.h"

#define MEMORY_BYTES (256 * KIB)
#define RING_SIZE    32
#define RX	     0U
#define TX	     1U

/* Of queue q: its three parts at + q * QUEUE_BYTES. */
#define QUEUE_BYTES 0x4000ULL
#define DESCRIPTORS 0x0000ULL
#define AVAILABLE   0x2000ULL
#define USED	    0x3000ULL
#define BUFFERS	    0x10000ULL

enum operation {
	OP_WRITE_REGISTER,
	OP_READ_REGISTER,
	OP_BYTES,
	OP_DESCRIPTOR,
	OP_OFFER,
	OP_FRAME,
	OP_HOST_FRAME,
	OP_HOST_READ,
	OP_FAIL,
	OP_NOTIFY,
	OP_TURN,
	OP_START,
	OP_COUNT
};

struct world {
	struct memory memory;
	struct loop loop;
	struct log log;
	int interrupt_fd, host;
	struct virtio_net *net;
	struct virtio_mmio *mmio;
	unsigned int window;
	uint16_t available_index[2];
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

static void make_world(struct world *world)
{
	FUZZ_CHECK(memory_create(&world->memory, MEMORY_BYTES, HUGE_PAGES_NONE, NULL) == 0);
	FUZZ_CHECK(loop_init(&world->loop, NULL) == 0);
	log_init(&world->log);
	world->log.level = LOG_OFF;
	world->interrupt_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	FUZZ_CHECK(world->interrupt_fd >= 0);
}

static void make_device(struct world *world, bool has_uso)
{
	struct virtio_net_options options = {
		.iface_id = "fuzz",
		.mac = { 6, 0, 0, 0, 0, 1 },
		.mtu = 1500,
		.memory = &world->memory,
		.loop = &world->loop,
		.log = &world->log,
		.interrupt_fd = world->interrupt_fd,
	};
	struct tap tap = { .ops = &tap_ops, .has_uso = has_uso };
	int ends[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
		   0);
	tap.fd = ends[0];
	world->host = ends[1];
	read_error = write_error = 0;
	FUZZ_CHECK(virtio_net_create(&world->net, &options, &tap, NULL) == 0);
	world->mmio = virtio_net_transport(world->net);
	world->window = 0;
}

static void write_register(struct world *world, uint64_t offset, uint64_t value, size_t length)
{
	struct bus_device *device = &world->mmio->windows[world->window].device;
	uint8_t data[8];

	bus_store(data, length, value);
	device->ops->write(device, offset, data, length);
}

static void read_register(struct world *world, uint64_t offset, size_t length)
{
	struct bus_device *device = &world->mmio->windows[world->window].device;
	uint8_t data[8];

	device->ops->read(device, offset, data, length);
}

static void set(struct world *world, uint64_t offset, uint32_t value)
{
	write_register(world, offset, value, sizeof(value));
}

/* As the standard says. */
static void start_driver(struct world *world, uint64_t features)
{
	uint8_t zeros[0x1000] = { 0 };
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	features = (features | 1ULL << VIRTIO_F_VERSION_1) & world->mmio->device_features;
	set(world, VIRTIO_MMIO_STATUS, 0);
	set(world, VIRTIO_MMIO_STATUS, status);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)features);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32));
	set(world, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (uint32_t queue = RX; queue <= TX; queue++) {
		uint32_t base = (uint32_t)(queue * QUEUE_BYTES);

		memory_write(&world->memory, base + AVAILABLE, zeros, sizeof(zeros));
		memory_write(&world->memory, base + USED, zeros, sizeof(zeros));
		world->available_index[queue] = 0;
		set(world, VIRTIO_MMIO_QUEUE_SEL, queue);
		set(world, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
		set(world, VIRTIO_MMIO_QUEUE_DESC_LOW, base + (uint32_t)DESCRIPTORS);
		set(world, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + (uint32_t)AVAILABLE);
		set(world, VIRTIO_MMIO_QUEUE_USED_LOW, base + (uint32_t)USED);
		set(world, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set(world, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
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

static void put_descriptor(struct world *world, unsigned int queue, unsigned int index,
			   uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = { address, length, flags, next };

	memory_write(&world->memory, queue * QUEUE_BYTES + DESCRIPTORS + 16ULL * index, &descriptor,
		     sizeof(descriptor));
}

static void offer(struct world *world, unsigned int queue, uint16_t head)
{
	uint64_t ring = queue * QUEUE_BYTES + AVAILABLE;
	uint16_t *index = &world->available_index[queue];

	memory_write(&world->memory, ring + 4 + 2ULL * (*index % RING_SIZE), &head, 2);
	++*index;
	memory_write(&world->memory, ring + 2, index, 2);
}

/* One or two buffers in the direction of their queue, the first with a header of the input's. */
static void put_frame(struct world *world, struct fuzz_input *input)
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
		memory_write(&world->memory, address, &header, how & 0x80 ? sizeof(header) : 2);
	}
	if (how & 2) {
		put_descriptor(world, queue, head, address, 12, write | VRING_DESC_F_NEXT,
			       (uint16_t)(head + 1));
		put_descriptor(world, queue, head + 1U, address + 12, length, write, 0);
	} else {
		put_descriptor(world, queue, head, address, length, write, 0);
	}
	offer(world, queue, head);
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

/* Anywhere in a window, aligned or not; the bus lets no access over its end. */
static uint64_t input_offset(struct fuzz_input *input)
{
	return input_u16(input) % (LAYOUT_VIRTIO_MMIO_BYTES - sizeof(uint64_t) + 1);
}

static void step(struct world *world, struct fuzz_input *input)
{
	static const int errors[] = { EAGAIN, EIO, EBADFD, EINVAL, ENOMEM, EFAULT, EINTR, EPERM };
	static const size_t widths[] = { 4, 1, 2, 8 };
	uint64_t offset;
	uint8_t how;

	switch (input_u8(input) % OP_COUNT) {
	case OP_WRITE_REGISTER:
		how = input_u8(input);
		offset = how & 0x80 ? input_offset(input) : input_u8(input) & 0xfcU;
		world->window = how >> 6 & 1;
		write_register(world, offset, how & 0x20 ? input_u64(input) : input_u8(input),
			       widths[how & 3]);
		world->window = 0;
		break;
	case OP_READ_REGISTER:
		how = input_u8(input);
		world->window = how >> 6 & 1;
		read_register(world, input_offset(input), widths[how & 3]);
		world->window = 0;
		break;
	case OP_BYTES: {
		uint8_t bytes[32];
		size_t length;

		offset = input_address(input);
		length = 1 + (input_u8(input) & 31);
		input_bytes(input, bytes, length);
		memory_write(&world->memory, offset, bytes, length);
		break;
	}
	case OP_DESCRIPTOR:
		how = input_u8(input);
		offset = input_address(input);
		put_descriptor(world, how >> 7, how % RING_SIZE, offset, input_u16(input),
			       input_u8(input) & 7, input_u8(input) % (RING_SIZE + 1));
		break;
	case OP_OFFER:
		how = input_u8(input);
		offer(world, how >> 7, how % (RING_SIZE + 1));
		break;
	case OP_FRAME:
		put_frame(world, input);
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
		set(world, VIRTIO_MMIO_QUEUE_NOTIFY, input_u8(input) & 1);
		break;
	case OP_TURN:
		fuzz_turn(&world->loop);
		break;
	case OP_START:
		start_driver(world, input_u64(input));
		break;
	default:
		break;
	}
}

static uint16_t used_index(struct world *world, unsigned int queue)
{
	uint16_t index = 0;

	memory_read(&world->memory, queue * QUEUE_BYTES + USED + 2, &index, sizeof(index));
	return index;
}

/*
 * A frame each way by a driver that follows the standard, through the window that owns the device.
 * When the TAP was lost on the way, the frame from the guest is answered all the same.
 */
static void check_works(struct world *world)
{
	const struct virtio_net_metrics *metrics = virtio_net_metrics(world->net);
	uint8_t zeros[100] = { 0 };
	uint64_t failed;

	world->window = atomic_load(&world->mmio->owner) == 1;
	read_error = write_error = 0;
	/* Old frames out of the way, both ends of it. */
	start_driver(world, 0);
	fuzz_turn(&world->loop);
	drain_wire(world);
	failed = atomic_load(&metrics->tap_write_fails);
	memory_write(&world->memory, BUFFERS, zeros, sizeof(zeros));
	put_descriptor(world, TX, 0, BUFFERS, sizeof(zeros), 0, 0);
	offer(world, TX, 0);
	set(world, VIRTIO_MMIO_QUEUE_NOTIFY, TX);
	fuzz_turn(&world->loop);
	FUZZ_CHECK(used_index(world, TX) == 1);
	FUZZ_CHECK(drain_wire(world) + atomic_load(&metrics->tap_write_fails) - failed == 1);
	if (atomic_load(&metrics->tap_write_fails) != failed)
		return;

	for (unsigned int n = 0; n < RING_SIZE; n++) {
		put_descriptor(world, RX, n, BUFFERS + 0x800ULL * n, 2048, VRING_DESC_F_WRITE, 0);
		offer(world, RX, (uint16_t)n);
	}
	set(world, VIRTIO_MMIO_QUEUE_NOTIFY, RX);
	/* What waited on the wire; it may have left no room there before. */
	fuzz_turn(&world->loop);
	FUZZ_CHECK(used_index(world, RX) >= 1 ||
		   send(world->host, zeros, sizeof(zeros), 0) == sizeof(zeros));
	fuzz_turn(&world->loop);
	FUZZ_CHECK(used_index(world, RX) >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length };
	uint8_t how;

	if (!world.memory.region_count)
		make_world(&world);
	memset(world.memory.regions[0].hva, 0, MEMORY_BYTES);
	how = input_u8(&input);
	make_device(&world, how & 1);
	if (how & 2)
		start_driver(&world, how & 4 ? ~0ULL : 0);
	while (input_left(&input))
		step(&world, &input);
	fuzz_turn(&world.loop);
	check_works(&world);
	virtio_net_destroy(world.net);
	close(world.host);
	return 0;
}
