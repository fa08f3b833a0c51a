/*
 * Devices restored from a state file that an enemy wrote: the block device, the network device, the
 * serial port, the i8042. The input is a section's body, or changes to one that a device has saved;
 * behind it, what a driver does then. Whatever comes: nothing crashes, hangs or leaks, what a
 * device saves it takes back, however it came to that, and after a reset a virtio device answers a
 * driver that follows the standard.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "devices/serial_private.h"
#include "fuzz_device.h"
#include "mayfly/i8042.h"
#include "mayfly/virtio_block.h"
#include "mayfly/virtio_net.h"

#define MEMORY_BYTES (256 * KIB)
#define DISK_BYTES   (64 * KIB)
#define RING_SIZE    8

/* Of queue q: its three parts at + q * QUEUE_BYTES. */
#define QUEUE_BYTES 0x4000ULL
#define DESCRIPTORS 0x0000ULL
#define AVAILABLE   0x2000ULL
#define USED	    0x3000ULL
#define BUFFERS	    0x10000ULL

enum kind {
	KIND_BLOCK,
	KIND_NET,
	KIND_SERIAL,
	KIND_I8042,
	KIND_COUNT
};

struct world {
	struct memory memory;
	struct loop loop;
	struct log log;
	int interrupt_fd, disk_fd, host;
	enum kind kind;
	struct virtio_block *block;
	struct virtio_net *net;
	struct virtio_mmio *mmio; /* of one of these two */
	struct serial serial;
	struct i8042 i8042;
};

static const char *const sections[] = { "block", "net", "serial", "i8042" };
static const char *const instances[] = { "fuzz", "fuzz", "", "" };

static ssize_t tap_read(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length = readv(tap->fd, iov, (int)count);

	return length < 0 ? -errno : length;
}

static ssize_t tap_write(struct tap *tap, const struct iovec *iov, unsigned int count)
{
	ssize_t length = writev(tap->fd, iov, (int)count);

	return length < 0 ? -errno : length;
}

static int tap_set_offloads(struct tap *tap, unsigned int offloads)
{
	FUZZ_CHECK(offloads == 0 || (offloads & TAP_OFFLOAD_CHECKSUM));
	return 0;
}

static const struct tap_ops tap_ops = { tap_read, tap_write, tap_set_offloads };

static void on_reset(void *context)
{
	(void)context;
}

static void make_world(struct world *world)
{
	FUZZ_CHECK(memory_create(&world->memory, MEMORY_BYTES, HUGE_PAGES_NONE, NULL) == 0);
	FUZZ_CHECK(loop_init(&world->loop, NULL) == 0);
	log_init(&world->log);
	world->log.level = LOG_OFF;
	world->interrupt_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	world->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	FUZZ_CHECK(world->interrupt_fd >= 0 && ftruncate(world->disk_fd, DISK_BYTES) == 0);
}

static void make_block(struct world *world)
{
	static char drive_id[] = "fuzz";
	char path[64];
	struct drive_config config = { .drive_id = drive_id,
				       .path_on_host = path,
				       .cache_type = CACHE_WRITEBACK,
				       .io_engine = IO_ENGINE_SYNC };
	struct virtio_block_options options = { .drive_id = drive_id,
						.memory = &world->memory,
						.loop = &world->loop,
						.log = &world->log,
						.interrupt_fd = world->interrupt_fd };
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", world->disk_fd);
	FUZZ_CHECK(disk_open(&disk, &config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, NULL) == 0);
	FUZZ_CHECK(virtio_block_create(&world->block, &options, disk, NULL) == 0);
	world->mmio = virtio_block_transport(world->block);
}

static void make_net(struct world *world)
{
	struct virtio_net_options options = { .iface_id = "fuzz",
					      .mac = { 6, 0, 0, 0, 0, 1 },
					      .memory = &world->memory,
					      .loop = &world->loop,
					      .log = &world->log,
					      .interrupt_fd = world->interrupt_fd };
	struct tap tap = { .ops = &tap_ops, .has_uso = true };
	int ends[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
		   0);
	tap.fd = ends[0];
	world->host = ends[1];
	FUZZ_CHECK(virtio_net_create(&world->net, &options, &tap, NULL) == 0);
	world->mmio = virtio_net_transport(world->net);
}

static void make_device(struct world *world)
{
	world->mmio = NULL;
	if (world->kind == KIND_BLOCK)
		make_block(world);
	else if (world->kind == KIND_NET)
		make_net(world);
	else if (world->kind == KIND_SERIAL)
		FUZZ_CHECK(serial_init(&world->serial, NULL) == 0);
	else
		FUZZ_CHECK(i8042_init(&world->i8042, on_reset, NULL, NULL) == 0);
}

static void destroy_device(struct world *world)
{
	if (world->kind == KIND_BLOCK) {
		virtio_block_destroy(world->block);
	} else if (world->kind == KIND_NET) {
		virtio_net_destroy(world->net);
		close(world->host);
	} else if (world->kind == KIND_SERIAL) {
		serial_destroy(&world->serial);
	} else {
		i8042_destroy(&world->i8042);
	}
}

static void save(struct world *world, struct state_writer *writer)
{
	state_writer_init(writer);
	if (world->kind == KIND_BLOCK) {
		virtio_block_pause(world->block);
		virtio_block_save(world->block, writer);
	} else if (world->kind == KIND_NET) {
		virtio_net_pause(world->net);
		virtio_net_save(world->net, writer);
	} else if (world->kind == KIND_SERIAL) {
		serial_save(&world->serial, writer);
	} else {
		i8042_save(&world->i8042, writer);
	}
	FUZZ_CHECK(state_writer_finish(writer, NULL) == 0);
}

static int restore(struct world *world, struct state_file *file, struct error *err)
{
	int result;

	if (world->kind == KIND_BLOCK)
		result = virtio_block_restore(world->block, file, err);
	else if (world->kind == KIND_NET)
		result = virtio_net_restore(world->net, file, err);
	else if (world->kind == KIND_SERIAL)
		result = serial_restore(&world->serial, file, err);
	else
		result = i8042_restore(&world->i8042, file, err);
	/* A refusal says which section it is about. */
	FUZZ_CHECK(result == 0 || strstr(err->message, sections[world->kind]));
	return result;
}

static void resume(struct world *world)
{
	if (world->kind == KIND_BLOCK)
		virtio_block_resume(world->block);
	else if (world->kind == KIND_NET)
		virtio_net_resume(world->net);
	else if (world->kind == KIND_SERIAL)
		serial_resume(&world->serial);
	else
		i8042_resume(&world->i8042);
}

/* The loop, until nothing waits. */
static void turn(struct world *world)
{
	fuzz_turn(&world->loop);
	loop_run_timers(&world->loop);
}

/* The driver */

static void access_window(struct world *world, unsigned int window, uint64_t offset, uint64_t value,
			  size_t length, bool write)
{
	struct bus_device *device = &world->mmio->windows[window].device;
	uint8_t data[8];

	bus_store(data, length, value);
	if (write)
		device->ops->write(device, offset, data, length);
	else
		device->ops->read(device, offset, data, length);
}

static void set(struct world *world, uint64_t offset, uint64_t value)
{
	unsigned int window = atomic_load(&world->mmio->owner) == 1;

	access_window(world, window, offset, (uint32_t)value, sizeof(uint32_t), true);
}

/* As the standard says, with rings at their places. */
static void start_driver(struct world *world)
{
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	uint8_t zeros[0x1000] = { 0 };

	set(world, VIRTIO_MMIO_STATUS, 0);
	set(world, VIRTIO_MMIO_STATUS, status);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES, 1U << (VIRTIO_F_VERSION_1 - 32));
	set(world, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (uint32_t queue = 0; queue < world->mmio->ops->queue_count; queue++) {
		uint64_t base = queue * QUEUE_BYTES;

		memory_write(&world->memory, base + AVAILABLE, zeros, sizeof(zeros));
		memory_write(&world->memory, base + USED, zeros, sizeof(zeros));
		set(world, VIRTIO_MMIO_QUEUE_SEL, queue);
		set(world, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
		set(world, VIRTIO_MMIO_QUEUE_DESC_LOW, base + DESCRIPTORS);
		set(world, VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + AVAILABLE);
		set(world, VIRTIO_MMIO_QUEUE_USED_LOW, base + USED);
		set(world, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	set(world, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* One chain of one buffer as the only one of a queue; the used index afterwards. */
static uint16_t offer_one(struct world *world, unsigned int queue, uint32_t length, uint16_t flags)
{
	uint64_t base = queue * QUEUE_BYTES;
	struct vring_desc descriptor = { .addr = BUFFERS, .len = length, .flags = flags };
	uint16_t ring[3] = { 0, 1, 0 }, used = 0;

	memory_write(&world->memory, base + DESCRIPTORS, &descriptor, sizeof(descriptor));
	memory_write(&world->memory, base + AVAILABLE, ring, sizeof(ring));
	set(world, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
	turn(world);
	memory_read(&world->memory, base + USED + 2, &used, sizeof(used));
	return used;
}

/* After all that: a driver that follows the standard is answered. */
static void check_works(struct world *world)
{
	struct rate_limiter_config unlimited = { .has_bandwidth = true, .has_ops = true };
	uint8_t zeros[64] = { 0 };

	if (!world->mmio)
		return;
	memory_write(&world->memory, BUFFERS, zeros, sizeof(zeros));
	if (world->kind == KIND_BLOCK) {
		virtio_block_set_limits(world->block, &unlimited);
		start_driver(world);
		/* No status byte: the device breaks. */
		offer_one(world, 0, 16, 0);
		FUZZ_CHECK(world->mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET);
		start_driver(world);
	} else {
		virtio_net_set_limits(world->net, &unlimited, &unlimited);
		start_driver(world);
		FUZZ_CHECK(offer_one(world, 1, sizeof(zeros), 0) == 1);
	}
	FUZZ_CHECK(virtio_mmio_is_live(world->mmio));
}

static void step_virtio(struct world *world, struct fuzz_input *input)
{
	static const size_t widths[] = { 4, 1, 2, 8 };
	uint8_t how = input_u8(input), bytes[32];
	uint64_t offset;

	switch (how & 7) {
	case 0:
	case 1:
		access_window(world, how >> 3 & 1, input_u8(input) & 0xfc,
			      how & 0x80 ? input_u64(input) : input_u8(input), 4, how & 1);
		return;
	case 2:
		offset = input_u16(input) % (LAYOUT_VIRTIO_MMIO_BYTES - sizeof(uint64_t) + 1);
		access_window(world, how >> 3 & 1, offset, input_u64(input), widths[how >> 4 & 3],
			      how & 0x80);
		return;
	case 3:
		offset = input_u32(input) % MEMORY_BYTES;
		input_bytes(input, bytes, sizeof(bytes));
		memory_write(&world->memory, offset, bytes, 1 + (how >> 3));
		return;
	case 4:
		set(world, VIRTIO_MMIO_QUEUE_NOTIFY, how >> 3 & 1);
		return;
	case 5:
		if (how & 8)
			start_driver(world);
		else
			offer_one(world, how >> 4 & 1, input_u16(input), how >> 5 & 3);
		return;
	case 6:
		input_bytes(input, bytes, sizeof(bytes));
		if (world->kind == KIND_NET)
			(void)!send(world->host, bytes, sizeof(bytes), 0);
		return;
	default:
		turn(world);
		return;
	}
}

static void access_port(struct bus_device *device, uint64_t offset, uint8_t value, bool write)
{
	if (write)
		device->ops->write(device, offset, &value, 1);
	else
		device->ops->read(device, offset, &value, 1);
}

static void step_ports(struct world *world, struct fuzz_input *input)
{
	uint8_t how = input_u8(input), value = input_u8(input);
	const uint8_t *data;

	if (world->kind == KIND_I8042) {
		access_port(how & 1 ? &world->i8042.command : &world->i8042.data, 0, value,
			    how & 2);
		if (how & 4)
			i8042_send_ctrl_alt_del(&world->i8042, NULL);
	} else if (how & 0x80) {
		serial_put_input(&world->serial, &value, 1);
	} else if (how & 0x40) {
		serial_consume_output(&world->serial, serial_peek_output(&world->serial, &data));
	} else {
		access_port(&world->serial.device, how & 7, value, how & 8);
	}
}

/* What a device saves it takes back. */
static void move(struct world *world)
{
	struct state_writer writer;
	struct state_file file;
	struct error err = { 0 };

	save(world, &writer);
	destroy_device(world);
	make_device(world);
	FUZZ_CHECK(state_file_parse(&file, writer.bytes, writer.used_bytes, NULL) == 0);
	if (restore(world, &file, &err) < 0) {
		fprintf(stderr, "%s\n", err.message);
		__builtin_trap();
	}
	state_file_close(&file);
	state_writer_destroy(&writer);
	resume(world);
}

/* A body that a device has written, with some bytes changed. */
static void change_saved(struct world *world, struct fuzz_input *input, struct state_file *file,
			 struct state_writer *writer)
{
	uint8_t changes = input_u8(input);

	make_device(world);
	if (world->mmio && !(changes & 0x80))
		start_driver(world);
	save(world, writer);
	destroy_device(world);
	FUZZ_CHECK(state_file_parse(file, writer->bytes, writer->used_bytes, NULL) == 0);
	for (unsigned int i = 0; i < (changes & 7); i++) {
		struct state_entry *entry = &file->entries[0];
		size_t offset = input_u16(input) % entry->body_bytes;

		writer->bytes[entry->body - writer->bytes + (ptrdiff_t)offset] = input_u8(input);
	}
}

static void use_input(struct fuzz_input *input, const struct world *world, struct state_file *file,
		      struct state_writer *writer)
{
	uint16_t length = input_u16(input);

	state_writer_init(writer);
	state_begin(writer, sections[world->kind], instances[world->kind], 1);
	for (uint16_t i = 0; i < length && input_left(input); i++)
		state_put_u8(writer, input_u8(input));
	state_end(writer);
	FUZZ_CHECK(state_writer_finish(writer, NULL) == 0);
	FUZZ_CHECK(state_file_parse(file, writer->bytes, writer->used_bytes, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length };
	struct state_writer writer;
	struct state_file file;
	struct error err = { 0 };
	uint8_t how;

	if (!world.memory.region_count)
		make_world(&world);
	memset(world.memory.regions[0].hva, 0, MEMORY_BYTES);
	how = input_u8(&input);
	world.kind = how % KIND_COUNT;
	if (how & 0x80)
		use_input(&input, &world, &file, &writer);
	else
		change_saved(&world, &input, &file, &writer);
	make_device(&world);
	if (restore(&world, &file, &err) < 0) {
		/* As the machine does; but first it may be looked at. */
		resume(&world);
		turn(&world);
		destroy_device(&world);
		make_device(&world);
	}
	state_file_close(&file);
	state_writer_destroy(&writer);
	resume(&world);
	for (unsigned int i = 0; input_left(&input) && i < 1000; i++) {
		if (world.mmio)
			step_virtio(&world, &input);
		else
			step_ports(&world, &input);
	}
	turn(&world);
	move(&world);
	turn(&world);
	check_works(&world);
	destroy_device(&world);
	return 0;
}
