/*
 * The block device with its transport and both disk engines, under a driver that does anything: it
 * reads and writes registers of both windows, changes memory, makes requests that are nearly right,
 * and notifies. The disk is a file in memory. Whatever comes: nothing crashes, hangs or leaks, the
 * file keeps its size, a read-only file its content, and after a reset the device works for a
 * driver that follows the standard.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fuzz_driver.h"
#include "mayfly/virtio_block.h"

#define DISK_BYTES (64 * KIB)
#define HEADERS	   0x5000ULL

enum operation {
	OP_REQUEST = OP_DEVICE,
	OP_NOTIFY,
	OP_TURN,
	OP_START,
	OP_COUNT
};

struct world {
	struct driver driver;
	int disk_fd;
	struct virtio_block *block;
};

static uint8_t disk_byte(size_t offset)
{
	return (uint8_t)(offset * 31 + offset / 512);
}

static void make_world(struct world *world)
{
	driver_make(&world->driver);
	world->disk_fd = memfd_create("disk", MFD_CLOEXEC);
	FUZZ_CHECK(world->disk_fd >= 0);
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
		.memory = &world->driver.memory,
		.loop = &world->driver.loop,
		.log = &world->driver.log,
		.interrupt_fd = world->driver.interrupt_fd,
	};

	FUZZ_CHECK(disk_open(&disk, config, VIRTIO_BLOCK_QUEUE_SIZE, NULL, NULL) == 0);
	FUZZ_CHECK(virtio_block_create(&world->block, &options, disk, NULL) == 0);
	driver_take(&world->driver, virtio_block_transport(world->block), 1);
}

/* A request in the usual three descriptors; its numbers are the input's. */
static void put_request(struct driver *driver, struct fuzz_input *input)
{
	uint8_t place = input_u8(input) % (RING_SIZE / 4), how = input_u8(input);
	uint16_t head = (uint16_t)(4 * place);
	struct virtio_blk_outhdr header = { .type = input_u8(input) & 0xf };
	uint64_t data = input_address(input);
	uint32_t length = how & 1 ? input_u32(input) : 512U * (input_u8(input) & 0x1f);
	uint16_t write = how & 2 ? VRING_DESC_F_WRITE : 0;

	header.sector = how & 4 ? input_u64(input) : input_u8(input) & 0x7f;
	memory_write(&driver->memory, HEADERS + 16ULL * place, &header, sizeof(header));
	if (how & 8) { /* ranges */
		struct virtio_blk_discard_write_zeroes range = { input_u8(input), input_u8(input),
								 input_u8(input) & 1 };

		memory_write(&driver->memory, data, &range, sizeof(range));
		length = 16;
	}
	put_descriptor(driver, 0, head, HEADERS + 16ULL * place, 16, VRING_DESC_F_NEXT,
		       (uint16_t)(head + 1));
	put_descriptor(driver, 0, head + 1U, data, length, write | VRING_DESC_F_NEXT,
		       (uint16_t)(head + 2));
	put_descriptor(driver, 0, head + 2U, HEADERS + 0x800 + place, 1, VRING_DESC_F_WRITE, 0);
	offer(driver, 0, head);
}

static void step(struct driver *driver, struct fuzz_input *input)
{
	unsigned int operation = input_u8(input) % OP_COUNT;

	switch (operation) {
	case OP_REQUEST:
		put_request(driver, input);
		break;
	case OP_NOTIFY:
		set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
		break;
	case OP_TURN:
		fuzz_turn(&driver->loop);
		break;
	case OP_START:
		start_driver(driver, input_u32(input) | ~0ULL << 32);
		break;
	default:
		driver_step(driver, operation, input);
		break;
	}
}

/*
 * A read of the first sector by a driver that follows the standard, through the window that owns
 * the device.
 */
static void check_works(struct driver *driver)
{
	struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
	uint8_t status = 0xff;

	driver->window = atomic_load(&driver->mmio->owner) == 1;
	start_driver(driver, ~0ULL << 32);
	memory_write(&driver->memory, HEADERS, &header, sizeof(header));
	memory_write(&driver->memory, HEADERS + 0x800, &status, 1);
	put_descriptor(driver, 0, 0, HEADERS, 16, VRING_DESC_F_NEXT, 1);
	put_descriptor(driver, 0, 1, 0x8000, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	put_descriptor(driver, 0, 2, HEADERS + 0x800, 1, VRING_DESC_F_WRITE, 0);
	offer(driver, 0, 0);
	set(driver, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
	while (used_index(driver, 0) == 0)
		fuzz_turn(&driver->loop);
	memory_read(&driver->memory, HEADERS + 0x800, &status, 1);
	FUZZ_CHECK(used_index(driver, 0) == 1 && status == VIRTIO_BLK_S_OK);
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

	if (!world.driver.memory.region_count) {
		make_world(&world);
		FUZZ_CHECK(ftruncate(world.disk_fd, DISK_BYTES) == 0);
		fill_disk(&world);
	}
	memset(world.driver.memory.regions[0].hva, 0, MEMORY_BYTES);
	how = input_u8(&input);
	config.is_read_only = how & 1;
	config.cache_type = how & 2 ? CACHE_UNSAFE : CACHE_WRITEBACK;
	config.io_engine = (how & 0xc) == 0xc ? IO_ENGINE_ASYNC : IO_ENGINE_SYNC;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", world.disk_fd);
	make_device(&world, &config);
	if (how & 0x10)
		start_driver(&world.driver, how & 0x20 ? ~0ULL : ~0ULL << 32);
	while (input_left(&input))
		step(&world.driver, &input);
	fuzz_turn(&world.driver.loop);
	check_works(&world.driver);
	virtio_block_destroy(world.block);
	FUZZ_CHECK(fstat(world.disk_fd, &status) == 0 && status.st_size == DISK_BYTES);
	if (!disk_is_as_filled(&world)) {
		FUZZ_CHECK(!config.is_read_only);
		fill_disk(&world);
	}
	return 0;
}
