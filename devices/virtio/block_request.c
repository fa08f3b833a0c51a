/*
 * One request of the block device (virtio 1.2, 5.2.6).
 *
 * - device-readable: the header (type, priority, sector), then data or ranges
 * - device-writable: data, then one byte of status
 *
 * The standard leaves open how these are spread over descriptors (2.7.4), so nothing here counts
 * them. A chain without room for header and status is no request, and breaks the device; all else
 * that is wrong is answered with a status. The used length of a failed request counts the status
 * byte alone.
 */
#include <string.h>

#include "block_private.h"
#include "iov.h"

_Static_assert(sizeof(struct virtio_blk_outhdr) == 16, "5.2.6: struct virtio_blk_req");
_Static_assert(sizeof(struct virtio_blk_discard_write_zeroes) == 16, "5.2.6");

/* Writes the status and gives the chain back; `written` bytes of data precede the status. */
static void answer(struct virtio_block *block, struct block_slot *slot, uint8_t status,
		   uint64_t written)
{
	*slot->status = status;
	/* 2^32, the longest chain, is one more than the field can say; the data alone then fits. */
	if (written + 1 > UINT32_MAX)
		written = UINT32_MAX - 1;
	virtqueue_push(&block->mmio.queues[0].virtqueue, slot->chain.head, (uint32_t)written + 1);
}

static enum block_outcome refuse(struct virtio_block *block, struct block_slot *slot)
{
	counter_add(&block->metrics.invalid, 1);
	answer(block, slot, VIRTIO_BLK_S_IOERR, 0);
	return BLOCK_DONE;
}

static enum block_outcome refuse_unsupported(struct virtio_block *block, struct block_slot *slot)
{
	counter_add(&block->metrics.unsupported, 1);
	answer(block, slot, VIRTIO_BLK_S_UNSUPP, 0);
	return BLOCK_DONE;
}

static bool sectors_within(const struct virtio_block *block, uint64_t sector,
			   uint64_t count_of_sectors)
{
	return range_within(sector, count_of_sectors, block->config.capacity);
}

static enum block_outcome start_transfer(struct virtio_block *block, struct block_slot *slot,
					 enum disk_operation operation, struct iovec *iov,
					 unsigned int iov_count)
{
	if (slot->bytes == 0 || slot->bytes % DISK_SECTOR_BYTES ||
	    !sectors_within(block, slot->sector, slot->bytes / DISK_SECTOR_BYTES))
		return refuse(block, slot);
	slot->disk = (struct disk_request) {
		.operation = operation,
		.durable = block->write_through,
		.offset_bytes = slot->sector * DISK_SECTOR_BYTES,
		.length_bytes = slot->bytes,
		.iov = iov,
		.iov_count = iov_count,
	};
	disk_submit(block->disk, &slot->disk);
	return BLOCK_SUBMITTED;
}

static enum block_outcome start_flush(struct virtio_block *block, struct block_slot *slot)
{
	slot->disk = (struct disk_request) { .operation = DISK_FLUSH };
	disk_submit(block->disk, &slot->disk);
	return BLOCK_SUBMITTED;
}

static enum block_outcome answer_id(struct virtio_block *block, struct block_slot *slot,
				    const struct iovec *iov)
{
	if (slot->bytes < sizeof(block->id))
		return refuse(block, slot);
	iov_scatter(iov, 0, block->id, sizeof(block->id));
	counter_add(&block->metrics.get_ids, 1);
	answer(block, slot, VIRTIO_BLK_S_OK, sizeof(block->id));
	return BLOCK_DONE;
}

static void submit_range(struct virtio_block *block, struct block_slot *slot)
{
	const struct virtio_blk_discard_write_zeroes *range = &slot->ranges[slot->range_next++];

	slot->disk = (struct disk_request) {
		.operation = slot->type == VIRTIO_BLK_T_DISCARD ? DISK_DISCARD : DISK_WRITE_ZEROES,
		.may_unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
		.offset_bytes = range->sector * DISK_SECTOR_BYTES,
		.length_bytes = (uint64_t)range->num_sectors * DISK_SECTOR_BYTES,
	};
	disk_submit(block->disk, &slot->disk);
}

/*
 * All ranges are looked at before the first is touched (5.2.6.2): a request is refused as a whole.
 */
static enum block_outcome start_ranges(struct virtio_block *block, struct block_slot *slot,
				       const struct iovec *iov)
{
	bool discard = slot->type == VIRTIO_BLK_T_DISCARD;
	uint32_t known_flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	uint64_t limit = discard ? BLOCK_MAX_DISCARD_SECTORS : BLOCK_MAX_WRITE_ZEROES_SECTORS;

	if (slot->bytes == 0 || slot->bytes % sizeof(slot->ranges[0]) ||
	    slot->bytes > sizeof(slot->ranges))
		return refuse(block, slot);
	iov_gather(iov, slot->ranges, slot->bytes);
	slot->range_count = (unsigned int)(slot->bytes / sizeof(slot->ranges[0]));
	slot->range_next = 0;
	slot->bytes = 0;
	for (unsigned int i = 0; i < slot->range_count; i++) {
		const struct virtio_blk_discard_write_zeroes *range = &slot->ranges[i];

		if (range->flags & ~known_flags)
			return refuse_unsupported(block, slot);
		if (range->num_sectors == 0 || range->num_sectors > limit ||
		    !sectors_within(block, range->sector, range->num_sectors))
			return refuse(block, slot);
		slot->bytes += (uint64_t)range->num_sectors * DISK_SECTOR_BYTES;
	}
	slot->sector = slot->ranges[0].sector;
	slot->flush_behind = !discard && block->write_through;
	submit_range(block, slot);
	return BLOCK_SUBMITTED;
}

/*
 * Finds the status byte: the last that is writable. Takes it off the list, which may become empty.
 */
static void split_status(struct block_slot *slot)
{
	struct virtqueue_chain *chain = &slot->chain;
	struct iovec *last = &chain->iov[chain->readable_count + chain->writable_count - 1];

	last->iov_len--;
	slot->status = (uint8_t *)last->iov_base + last->iov_len;
	if (last->iov_len == 0)
		chain->writable_count--;
	chain->writable_bytes--;
}

enum block_outcome block_request_start(struct virtio_block *block, struct block_slot *slot,
				       const char **reason)
{
	struct virtqueue_chain *chain = &slot->chain;
	struct virtio_blk_outhdr header;
	struct iovec *readable = chain->iov, *writable = chain->iov + chain->readable_count;
	unsigned int readable_count = chain->readable_count;
	bool read_only = disk_is_read_only(block->disk);

	if (chain->readable_bytes < sizeof(header)) {
		*reason = "a block request shorter than its header";
		return BLOCK_MALFORMED;
	}
	if (chain->writable_bytes == 0) {
		*reason = "a block request without a status byte";
		return BLOCK_MALFORMED;
	}
	iov_gather(readable, &header, sizeof(header));
	iov_skip(&readable, &readable_count, sizeof(header));
	chain->readable_bytes -= sizeof(header);
	split_status(slot);
	slot->type = header.type;
	slot->sector = header.sector;
	slot->flush_behind = false;
	slot->range_count = slot->range_next = 0;

	/*
	 * Data in a direction that the type has none in is refused; the standard has no such
	 * request.
	 */
	switch (header.type) {
	case VIRTIO_BLK_T_IN:
	case VIRTIO_BLK_T_GET_ID:
		slot->bytes = chain->writable_bytes;
		if (chain->readable_bytes)
			return refuse(block, slot);
		if (header.type == VIRTIO_BLK_T_GET_ID)
			return answer_id(block, slot, writable);
		return start_transfer(block, slot, DISK_READ, writable, chain->writable_count);
	case VIRTIO_BLK_T_OUT:
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		slot->bytes = chain->readable_bytes;
		if (chain->writable_bytes || read_only)
			return refuse(block, slot);
		if (header.type == VIRTIO_BLK_T_OUT)
			return start_transfer(block, slot, DISK_WRITE, readable, readable_count);
		return start_ranges(block, slot, readable);
	case VIRTIO_BLK_T_FLUSH:
		slot->bytes = 0;
		if (!(block->mmio.device_features & (1ULL << VIRTIO_BLK_F_FLUSH)))
			return refuse_unsupported(block, slot);
		return start_flush(block, slot);
	default:
		return refuse_unsupported(block, slot);
	}
}

static void count_success(struct virtio_block_metrics *metrics, const struct block_slot *slot)
{
	switch (slot->type) {
	case VIRTIO_BLK_T_IN:
		counter_add(&metrics->reads, 1);
		counter_add(&metrics->read_bytes, slot->bytes);
		break;
	case VIRTIO_BLK_T_OUT:
		counter_add(&metrics->writes, 1);
		counter_add(&metrics->written_bytes, slot->bytes);
		break;
	case VIRTIO_BLK_T_DISCARD:
		counter_add(&metrics->discards, 1);
		counter_add(&metrics->discarded_bytes, slot->bytes);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		counter_add(&metrics->write_zeroes, 1);
		counter_add(&metrics->write_zeroes_bytes, slot->bytes);
		break;
	default:
		counter_add(&metrics->flushes, 1);
		break;
	}
}

static const char *operation_name(uint32_t type)
{
	switch (type) {
	case VIRTIO_BLK_T_IN:
		return "read";
	case VIRTIO_BLK_T_OUT:
		return "write";
	case VIRTIO_BLK_T_DISCARD:
		return "discard";
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return "write of zeroes";
	default:
		return "flush";
	}
}

bool block_request_continue(struct virtio_block *block, struct block_slot *slot)
{
	int result = slot->disk.result;

	if (result < 0) {
		counter_add(&block->metrics.io_errors, 1);
		log_warn_limited(&block->log_limit, block->mmio.log,
				 "%s: %s at sector %llu, %llu bytes: %s (os error %d)",
				 block->mmio.name, operation_name(slot->type),
				 (unsigned long long)slot->sector, (unsigned long long)slot->bytes,
				 strerror(-result), -result);
		answer(block, slot, VIRTIO_BLK_S_IOERR, 0);
		return true;
	}
	if (slot->range_next < slot->range_count) {
		submit_range(block, slot);
		return false;
	}
	if (slot->flush_behind) {
		slot->flush_behind = false;
		start_flush(block, slot);
		return false;
	}
	count_success(&block->metrics, slot);
	answer(block, slot, VIRTIO_BLK_S_OK, slot->type == VIRTIO_BLK_T_IN ? slot->bytes : 0);
	return true;
}
