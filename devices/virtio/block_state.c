/*
 * The block device in a state file: see virtio_block_save() in include/mayfly/virtio_block.h.
 *
 * A device at rest has no request in flight: all that it knows is what its driver was told.
 */
#include <string.h>

#include "block_private.h"

#define SECTION "block"
#define VERSION 1

/* The transport has it in its name. */
static const char *drive_id(const struct virtio_block *block)
{
	return block->mmio.name + strlen("drive ");
}

void virtio_block_save(struct virtio_block *block, struct state_writer *writer)
{
	virtio_mmio_lock(&block->mmio);
	state_begin(writer, SECTION, drive_id(block), VERSION);
	virtio_mmio_save(&block->mmio, writer);
	state_put_bytes(writer, block->id, sizeof(block->id));
	state_put_u64(writer, block->config.capacity);
	state_put_u8(writer, disk_is_read_only(block->disk));
	state_put_u8(writer, disk_cache_type(block->disk) == CACHE_WRITEBACK);
	rate_limiter_save(&block->limiter, writer);
	state_end(writer);
	virtio_mmio_unlock(&block->mmio);
}

static void check_disk(const struct virtio_block *block, bool read_only, bool writeback,
		       struct state_section *section)
{
	if (read_only != disk_is_read_only(block->disk))
		state_refuse(section, "read-only", "the guest's drive is %s, the file's is not",
			     read_only ? "read-only" : "writable");
	if (writeback != (disk_cache_type(block->disk) == CACHE_WRITEBACK))
		state_refuse(section, "cache type", "the guest's drive has the cache type %s",
			     writeback ? "Writeback" : "Unsafe");
}

/* Lock held. */
static void restore(struct virtio_block *block, struct state_section *section)
{
	char id[VIRTIO_BLK_ID_BYTES];
	bool read_only, writeback;
	uint64_t capacity;

	virtio_mmio_restore(&block->mmio, section);
	state_get_bytes(section, id, sizeof(id));
	capacity = state_get_u64(section);
	read_only = state_get_bool(section, "read-only");
	writeback = state_get_bool(section, "cache type");
	check_disk(block, read_only, writeback, section);
	rate_limiter_restore(&block->limiter, "rate limiter", section);
	if (state_failed(section))
		return;
	memcpy(block->id, id, sizeof(id));
	if (block->mmio.status & VIRTIO_CONFIG_S_DRIVER_OK)
		block_activate(&block->mmio);
	if (capacity != block->config.capacity)
		virtio_mmio_config_changed(&block->mmio);
}

int virtio_block_restore(struct virtio_block *block, struct state_file *file, struct error *err)
{
	struct state_section section;
	int result = state_find(file, SECTION, drive_id(block), VERSION, &section, err);

	if (result < 0)
		return result;
	virtio_mmio_lock(&block->mmio);
	restore(block, &section);
	virtio_mmio_unlock(&block->mmio);
	return state_done(&section, err);
}
