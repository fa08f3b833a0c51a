/*
 * Devices restored from a state file that an enemy wrote: the block device, the network device, the
 * serial port, the i8042. The input is a section's body, or changes to one that a device has saved;
 * behind it, what a driver does then. Whatever comes: nothing crashes, hangs or leaks, what a
 * device saves it takes back, however it came to that, and after a reset a virtio device answers a
 * driver that follows the standard.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "devices/serial_private.h"
#include "fuzz_driver.h"
#include "mayfly/i8042.h"
#include "mayfly/virtio_block.h"
#include "mayfly/virtio_net.h"

#define DISK_BYTES (64 * KIB)
#define BUFFERS	   0x10000ULL

enum kind {
	KIND_BLOCK,
	KIND_NET,
	KIND_SERIAL,
	KIND_I8042,
	KIND_COUNT
};

struct world {
	struct driver driver; /* of one of the virtio devices, else without a transport */
	int disk_fd, host;
	enum kind kind;
	struct virtio_block *block;
	struct virtio_net *net;
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
	driver_make(&world->driver);
	world->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	FUZZ_CHECK(world->disk_fd >= 0 && ftruncate(world->disk_fd, DISK_BYTES) == 0);
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
						.memory = &world->driver.memory,
						.loop = &world->driver.loop,
						.log = &world->driver.log,
						.interrupt_fd = world->driver.interrupt_fd };
	struct disk *disk;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", world->disk_fd);
	FUZZ_CHECK(disk_open(&disk, &config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, NULL) == 0);
	FUZZ_CHECK(virtio_block_create(&world->block, &options, disk, NULL) == 0);
	driver_take(&world->driver, virtio_block_transport(world->block), 1);
}

static void make_net(struct world *world)
{
	struct virtio_net_options options = { .iface_id = "fuzz",
					      .mac = { 6, 0, 0, 0, 0, 1 },
					      .memory = &world->driver.memory,
					      .loop = &world->driver.loop,
					      .log = &world->driver.log,
					      .interrupt_fd = world->driver.interrupt_fd };
	struct tap tap = { .ops = &tap_ops, .has_uso = true };
	int ends[2];

	FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) ==
		   0);
	tap.fd = ends[0];
	world->host = ends[1];
	FUZZ_CHECK(virtio_net_create(&world->net, &options, &tap, NULL) == 0);
	driver_take(&world->driver, virtio_net_transport(world->net), 2);
}

static void make_device(struct world *world)
{
	world->driver.mmio = NULL;
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
	fuzz_turn(&world->driver.loop);
	loop_run_timers(&world->driver.loop);
}

/* The driver, in the window that owns the device */

static struct driver *driver_of(struct world *world)
{
	world->driver.window = atomic_load(&world->driver.mmio->owner) == 1;
	return &world->driver;
}

/* One chain of one buffer as the only one of a queue; the used index afterwards. */
static uint16_t offer_one(struct world *world, unsigned int queue, uint32_t length, uint16_t flags)
{
	struct driver *driver = driver_of(world);

	driver->available_index[queue] = 0;
	put_descriptor(driver, queue, 0, BUFFERS, length, flags, 0);
	offer(driver, queue, 0);
	set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
	turn(world);
	return used_index(driver, queue);
}

/* After all that: a driver that follows the standard is answered. */
static void check_works(struct world *world)
{
	struct rate_limiter_config unlimited = { .has_bandwidth = true, .has_ops = true };
	uint8_t zeros[64] = { 0 };

	if (!world->driver.mmio)
		return;
	memory_write(&world->driver.memory, BUFFERS, zeros, sizeof(zeros));
	if (world->kind == KIND_BLOCK) {
		virtio_block_set_limits(world->block, &unlimited);
		start_driver(driver_of(world), 0);
		/* No status byte: the device breaks. */
		offer_one(world, 0, 16, 0);
		FUZZ_CHECK(world->driver.mmio->status & VIRTIO_CONFIG_S_NEEDS_RESET);
		start_driver(driver_of(world), 0);
	} else {
		virtio_net_set_limits(world->net, &unlimited, &unlimited);
		start_driver(driver_of(world), 0);
		FUZZ_CHECK(offer_one(world, 1, sizeof(zeros), 0) == 1);
	}
	FUZZ_CHECK(virtio_mmio_is_live(world->driver.mmio));
}

static void access_register(struct driver *driver, uint8_t how, struct fuzz_input *input)
{
	static const size_t widths[] = { 4, 1, 2, 8 };
	bool is_anywhere = (how & 7) == 2;
	uint64_t offset = is_anywhere ? input_offset(input) : input_u8(input) & 0xfcU;
	uint64_t value = is_anywhere || how & 0x80 ? input_u64(input) : input_u8(input);
	size_t length = is_anywhere ? widths[how >> 4 & 3] : 4;

	driver->window = how >> 3 & 1;
	if (how & (is_anywhere ? 0x80 : 1))
		write_register(driver, offset, value, length);
	else
		read_register(driver, offset, length);
}

static void step_virtio(struct world *world, struct fuzz_input *input)
{
	struct driver *driver = driver_of(world);
	uint8_t how = input_u8(input), bytes[32];
	uint64_t offset;

	switch (how & 7) {
	case 0:
	case 1:
	case 2:
		access_register(driver, how, input);
		return;
	case 3:
		offset = input_u32(input) % MEMORY_BYTES;
		input_bytes(input, bytes, sizeof(bytes));
		memory_write(&world->driver.memory, offset, bytes, 1 + (how >> 3));
		return;
	case 4:
		set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, how >> 3 & 1);
		return;
	case 5:
		if (how & 8)
			start_driver(driver_of(world), 0);
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
	if (world->driver.mmio && !(changes & 0x80))
		start_driver(driver_of(world), 0);
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

	if (!world.driver.memory.region_count)
		make_world(&world);
	memset(world.driver.memory.regions[0].hva, 0, MEMORY_BYTES);
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
		if (world.driver.mmio)
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
