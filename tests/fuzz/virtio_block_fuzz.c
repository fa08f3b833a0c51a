/*
 * The block device with its transport and both disk engines, under a driver that does anything: it
 * reads and writes registers of both windows, changes memory, makes requests that are nearly right,
 * and notifies. The disk is a file in memory. Whatever comes: nothing crashes, hangs or leaks, the
 * file keeps its size, a read-only file its content, and after a reset the device works for a
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
#include <sys/stat.h>

#include "fuzz_device.h"
#include "mayfly/virtio_block.h"

#define MEMORY_BYTES (256 * KIB)
#define DISK_BYTES   (64 * KIB)
#define DESCRIPTORS  0x0000ULL
#define AVAILABLE    0x2000ULL
#define USED	     0x3000ULL
#define HEADERS	     0x5000ULL
#define RING_SIZE    32

enum operation {
	OP_WRITE_REGISTER,
	OP_READ_REGISTER,
	OP_BYTES,
	OP_DESCRIPTOR,
	OP_OFFER,
	OP_REQUEST,
	OP_NOTIFY,
	OP_TURN,
	OP_START,
	OP_COUNT
};

struct world {
	struct memory memory;
	struct loop loop;
	struct log log;
	int interrupt_fd, disk_fd;
	struct virtio_block *block;
	struct virtio_mmio *mmio;
	unsigned int window;
	uint16_t available_index;
};

static uint8_t disk_byte(size_t offset)
{
	return (uint8_t)(offset * 31 + offset / 512);
}

static void make_world(struct world *world)
{
	FUZZ_CHECK(memory_create(&world->memory, MEMORY_BYTES, HUGE_PAGES_NONE, NULL) == 0);
	FUZZ_CHECK(loop_init(&world->loop, NULL) == 0);
	log_init(&world->log);
	world->log.level = LOG_OFF;
	world->interrupt_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	world->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	FUZZ_CHECK(world->interrupt_fd >= 0 && world->disk_fd >= 0);
}

static void fill_disk(struct world *world)
{
	uint8_t content[DISK_BYTES];

	for (size_t i = 0; i < DISK_BYTES; i++)
		content[i] = disk_byte(i);
	FUZZ_CHECK(pwrite(world->disk_fd, content, DISK_BYTES, 0) == (ssize_t)DISK_BYTES);
}

static bool disk_is_as_filled(struct world *world)
{
	uint8_t content[DISK_BYTES];

	FUZZ_CHECK(pread(world->disk_fd, content, DISK_BYTES, 0) == (ssize_t)DISK_BYTES);
	for (size_t i = 0; i < DISK_BYTES; i++) {
		if (content[i] != disk_byte(i))
			return false;
	}
	return true;
}

static void make_device(struct world *world, const struct drive_config *config)
{
	struct disk *disk;
	struct virtio_block_options options = {
		.drive_id = config->drive_id,
		.memory = &world->memory,
		.loop = &world->loop,
		.log = &world->log,
		.interrupt_fd = world->interrupt_fd,
	};

	FUZZ_CHECK(disk_open(&disk, config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, NULL) == 0);
	FUZZ_CHECK(virtio_block_create(&world->block, &options, disk, NULL) == 0);
	world->mmio = virtio_block_transport(world->block);
	world->window = 0;
	world->available_index = 0;
}

static void write_register(struct world *world, uint64_t offset, uint64_t value, size_t length)
{
	struct bus_device *device = &world->mmio->windows[world->window].device;
	uint8_t data[8];

	bus_store(data, length, value);
	device->ops->write(device, offset, data, length);
}

static uint64_t read_register(struct world *world, uint64_t offset, size_t length)
{
	struct bus_device *device = &world->mmio->windows[world->window].device;
	uint8_t data[8];

	device->ops->read(device, offset, data, length);
	return bus_load(data, length);
}

static void set(struct world *world, uint64_t offset, uint32_t value)
{
	write_register(world, offset, value, sizeof(value));
}

/* As the standard says. */
static void start_driver(struct world *world, uint32_t features)
{
	uint8_t zeros[0x1000] = { 0 };
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	/* Until the reset is over, requests in flight may write here. */
	set(world, VIRTIO_MMIO_STATUS, 0);
	memory_write(&world->memory, AVAILABLE, zeros, sizeof(zeros));
	memory_write(&world->memory, USED, zeros, sizeof(zeros));
	world->available_index = 0;
	set(world, VIRTIO_MMIO_STATUS, status);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES, features & (uint32_t)world->mmio->device_features);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	set(world, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(world->mmio->device_features >> 32));
	set(world, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	set(world, VIRTIO_MMIO_QUEUE_SEL, 0);
	set(world, VIRTIO_MMIO_QUEUE_NUM, RING_SIZE);
	set(world, VIRTIO_MMIO_QUEUE_DESC_LOW, DESCRIPTORS);
	set(world, VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE);
	set(world, VIRTIO_MMIO_QUEUE_USED_LOW, USED);
	set(world, VIRTIO_MMIO_QUEUE_READY, 1);
	set(world, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void put_descriptor(struct world *world, unsigned int index, uint64_t address,
			   uint32_t length, uint16_t flags, uint16_t next)
{
	struct vring_desc descriptor = { address, length, flags, next };

	memory_write(&world->memory, DESCRIPTORS + 16ULL * index, &descriptor, sizeof(descriptor));
}

static void offer(struct world *world, uint16_t head)
{
	memory_write(&world->memory, AVAILABLE + 4 + 2ULL * (world->available_index % RING_SIZE),
		     &head, 2);
	world->available_index++;
	memory_write(&world->memory, AVAILABLE + 2, &world->available_index, 2);
}

/* A request in the usual three descriptors; its numbers are the input's. */
static void put_request(struct world *world, struct fuzz_input *input)
{
	uint8_t place = input_u8(input) % (RING_SIZE / 4), how = input_u8(input);
	uint16_t head = (uint16_t)(4 * place);
	struct virtio_blk_outhdr header = { .type = input_u8(input) & 0xf };
	uint64_t data = input_address(input);
	uint32_t length = how & 1 ? input_u32(input) : 512U * (input_u8(input) & 0x1f);
	uint16_t write = how & 2 ? VRING_DESC_F_WRITE : 0;

	header.sector = how & 4 ? input_u64(input) : input_u8(input) & 0x7f;
	memory_write(&world->memory, HEADERS + 16ULL * place, &header, sizeof(header));
	if (how & 8) { /* ranges */
		struct virtio_blk_discard_write_zeroes range = { input_u8(input), input_u8(input),
								 input_u8(input) & 1 };

		memory_write(&world->memory, data, &range, sizeof(range));
		length = 16;
	}
	put_descriptor(world, head, HEADERS + 16ULL * place, 16, VRING_DESC_F_NEXT,
		       (uint16_t)(head + 1));
	put_descriptor(world, head + 1U, data, length, write | VRING_DESC_F_NEXT,
		       (uint16_t)(head + 2));
	put_descriptor(world, head + 2U, HEADERS + 0x800 + place, 1, VRING_DESC_F_WRITE, 0);
	offer(world, head);
}

/* Anywhere in a window, aligned or not; the bus lets no access over its end. */
static uint64_t input_offset(struct fuzz_input *input)
{
	return input_u16(input) % (LAYOUT_VIRTIO_MMIO_BYTES - sizeof(uint64_t) + 1);
}

static void step(struct world *world, struct fuzz_input *input)
{
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
		put_descriptor(world, how % RING_SIZE, offset, input_u16(input),
			       input_u8(input) & 7, input_u8(input) % (RING_SIZE + 1));
		break;
	case OP_OFFER:
		offer(world, input_u8(input) % (RING_SIZE + 1));
		break;
	case OP_REQUEST:
		put_request(world, input);
		break;
	case OP_NOTIFY:
		set(world, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		break;
	case OP_TURN:
		fuzz_turn(&world->loop);
		break;
	case OP_START:
		start_driver(world, input_u32(input));
		break;
	default:
		break;
	}
}

/*
 * A read of the first sector by a driver that follows the standard, through the window that owns
 * the device.
 */
static void check_works(struct world *world)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	uint8_t status = 0xff;
	uint16_t used = 0;

	world->window = atomic_load(&world->mmio->owner) == 1;
	start_driver(world, 0);
	memory_write(&world->memory, HEADERS, &header, sizeof(header));
	memory_write(&world->memory, HEADERS + 0x800, &status, 1);
	put_descriptor(world, 0, HEADERS, 16, VRING_DESC_F_NEXT, 1);
	put_descriptor(world, 1, 0x8000, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	put_descriptor(world, 2, HEADERS + 0x800, 1, VRING_DESC_F_WRITE, 0);
	offer(world, 0);
	set(world, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (used == 0) {
		fuzz_turn(&world->loop);
		memory_read(&world->memory, USED + 2, &used, sizeof(used));
	}
	memory_read(&world->memory, HEADERS + 0x800, &status, 1);
	FUZZ_CHECK(used == 1 && status == VIRTIO_BLK_S_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
	static struct world world;
	struct fuzz_input input = { data, length };
	char id[] = "fuzz", path[32];
	struct drive_config config = { .drive_id = id, .path_on_host = path };
	struct stat status;
	uint8_t how;

	if (!world.memory.region_count) {
		make_world(&world);
		FUZZ_CHECK(ftruncate(world.disk_fd, DISK_BYTES) == 0);
		fill_disk(&world);
	}
	memset(world.memory.regions[0].hva, 0, MEMORY_BYTES);
	how = input_u8(&input);
	config.is_read_only = how & 1;
	config.cache_type = how & 2 ? CACHE_UNSAFE : CACHE_WRITEBACK;
	config.io_engine = (how & 0xc) == 0xc ? IO_ENGINE_ASYNC : IO_ENGINE_SYNC;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", world.disk_fd);
	make_device(&world, &config);
	if (how & 0x10)
		start_driver(&world, how & 0x20 ? ~0U : 0);
	while (input_left(&input))
		step(&world, &input);
	fuzz_turn(&world.loop);
	check_works(&world);
	virtio_block_destroy(world.block);
	FUZZ_CHECK(fstat(world.disk_fd, &status) == 0 && status.st_size == DISK_BYTES);
	if (!disk_is_as_filled(&world)) {
		FUZZ_CHECK(!config.is_read_only);
		fill_disk(&world);
	}
	return 0;
}
