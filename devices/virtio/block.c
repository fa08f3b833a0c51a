/*
 * The block device (virtio 1.2, 5.2): one queue, one disk. See include/mayfly/virtio_block.h.
 *
 * A notification on the main thread takes all chains that are there, hands them to the disk, starts
 * them with one call, and answers what is finished already; the disk's completion eventfd brings
 * the rest. Every turn ends with one look at whether the guest wants an interrupt. Nothing is
 * allocated on the way: there is a slot for each chain that can be out.
 *
 * Where a rate limit is reached, chains stay in the ring, and the limiter's timer is the next
 * notification. What the limit allowed already is not held back, and a reset, another disk or a
 * pause find nothing that waits but the ring. The limit outlives a reset.
 */
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#include "block_private.h"

#define DEVICE_ID_BLOCK 2 /* 5.2.1 */

/*
 * What one turn takes on, in bytes, before it lets the loop serve others: a guest that keeps its
 * ring full must not keep the API waiting. A request without data counts as a page.
 */
#define TURN_BYTES (2 * MIB)

/*
 * And where each request waits for the host's disk, this time: what is not in its page cache takes
 * from 0.1 ms on an SSD to 10 ms on a disk that turns, and there may be 256 of them.
 */
#define TURN_NS 1000000ULL

/*
 * A request that waits for the host's stable storage is a turn's work: with the Sync engine it
 * takes some milliseconds, however little there is to be written.
 */
#define DURABLE_BYTES TURN_BYTES

/* What a turn has taken on so far. */
struct block_turn {
	uint64_t bytes;
	uint64_t end_ns; /* of the loop's clock; 0: no request waits, so that bytes tell it all */
};

/*
 * And what may be out with the disk, beyond which chains stay in the ring: whoever has to wait for
 * all of it (a reset, another disk, the end of the machine) must not wait long.
 */
#define OUT_BYTES (64 * MIB)

static struct virtio_block *block_of(struct virtio_mmio *mmio)
{
	return container_of(mmio, struct virtio_block, mmio);
}

static struct block_slot *take_slot(struct virtio_block *block)
{
	struct block_slot *slot = &block->slots[block->free_slots[--block->free_count]];

	slot->chain.iov = slot->iov;
	slot->bytes_out = 0;
	return slot;
}

static void give_slot_back(struct virtio_block *block, const struct block_slot *slot)
{
	block->bytes_out -= slot->bytes_out;
	block->free_slots[block->free_count++] = (uint16_t)(slot - block->slots);
}

static bool has_room(const struct virtio_block *block)
{
	return block->free_count > 0 && block->bytes_out < OUT_BYTES;
}

static bool requests_are_out(const struct virtio_block *block)
{
	return block->free_count < VIRTIO_BLOCK_QUEUE_SIZE;
}

/* Answers what the disk has finished, and starts what follows from it. */
static void collect(struct virtio_block *block)
{
	struct disk_request *request;
	bool more;

	disk_poll(block->disk);
	do {
		more = false;
		while ((request = disk_reap(block->disk))) {
			struct block_slot *slot = container_of(request, struct block_slot, disk);

			if (block_request_continue(block, slot))
				give_slot_back(block, slot);
			else
				more = true;
		}
		if (more)
			disk_commit(block->disk);
	} while (more);
}

static void needs_reset(struct virtio_block *block, const char *reason, uint64_t value)
{
	counter_add(&block->metrics.malformed, 1);
	virtio_mmio_needs_reset(&block->mmio, 0, reason, value);
}

/* A discard moves no data; zeroes may have to be written. */
static uint64_t limited_bytes(const struct block_slot *slot, enum block_outcome outcome)
{
	return outcome == BLOCK_SUBMITTED && slot->type != VIRTIO_BLK_T_DISCARD ? slot->bytes : 0;
}

/* What a request that the disk has now counts for in this turn. */
static uint64_t turn_share(const struct virtio_block *block, const struct block_slot *slot)
{
	bool durable = slot->type == VIRTIO_BLK_T_FLUSH || slot->flush_behind ||
		       (slot->type == VIRTIO_BLK_T_OUT && block->write_through);

	return slot->bytes + (durable ? DURABLE_BYTES : 0);
}

static struct block_turn begin_turn(const struct virtio_block *block)
{
	bool waits = disk_submit_waits(block->disk);

	return (struct block_turn) { .end_ns =
					     waits ? loop_now_ns(block->mmio.loop) + TURN_NS : 0 };
}

static bool is_over(const struct virtio_block *block, const struct block_turn *turn)
{
	return turn->bytes >= TURN_BYTES ||
	       (turn->end_ns && loop_now_ns(block->mmio.loop) >= turn->end_ns);
}

/*
 * Takes chains and begins their requests, until there are none, the turn's work is enough, a limit
 * is reached, or the driver broke the rules. The queue never has more chains out than there are
 * slots.
 */
static void take_requests(struct virtio_block *block, struct virtqueue *queue,
			  struct block_turn *turn)
{
	while (!is_over(block, turn) && has_room(block) && rate_limiter_admits(&block->limiter)) {
		struct block_slot *slot = take_slot(block);
		int popped = virtqueue_pop(queue, &slot->chain);
		enum block_outcome outcome = BLOCK_DONE;
		const char *reason = NULL;

		if (popped == 1)
			outcome = block_request_start(block, slot, &reason);
		turn->bytes += PAGE_SIZE_BYTES;
		if (popped == 1)
			rate_limiter_take(&block->limiter, 1, limited_bytes(slot, outcome));
		if (outcome == BLOCK_SUBMITTED) {
			turn->bytes += turn_share(block, slot);
			slot->bytes_out = slot->type == VIRTIO_BLK_T_DISCARD ? 0 : slot->bytes;
			block->bytes_out += slot->bytes_out;
			continue;
		}
		give_slot_back(block, slot);
		if (popped < 0)
			needs_reset(block, queue->fault, queue->fault_value);
		if (outcome == BLOCK_MALFORMED)
			needs_reset(block, reason, slot->chain.head);
		if (popped != 1 || outcome == BLOCK_MALFORMED)
			return;
	}
}

static void notify(struct virtio_mmio *mmio, unsigned int queue_index)
{
	struct virtio_block *block = block_of(mmio);
	struct virtqueue *queue = &mmio->queues[queue_index].virtqueue;
	struct block_turn turn = begin_turn(block);

	do {
		virtqueue_disable_notify(queue);
		take_requests(block, queue, &turn);
		disk_commit(block->disk);
		collect(block);
		virtio_mmio_publish(mmio, queue_index);
		if (!virtio_mmio_is_live(mmio))
			return;
		if (is_over(block, &turn)) {
			virtio_mmio_notify_later(mmio, queue_index);
			return;
		}
		/* The completions to come are the notification then. */
		block->full = !has_room(block);
		if (block->full)
			return;
		if (!virtqueue_enable_notify(queue))
			return;
	} while (rate_limiter_admits(&block->limiter));
	virtqueue_disable_notify(queue);
	rate_limiter_wait(&block->limiter);
}

/* Takes what waits in the ring, if the device is live by now. */
static void handle_limit_over(struct rate_limiter *limiter)
{
	struct virtio_block *block = container_of(limiter, struct virtio_block, limiter);

	virtio_mmio_notify_later(&block->mmio, 0);
}

/* Chains that found no room are taken by a turn of their own. */
static void look_again_when_room(struct virtio_block *block)
{
	if (!block->full || !has_room(block))
		return;
	block->full = false;
	virtio_mmio_notify_later(&block->mmio, 0);
}

static void handle_completion(struct loop_source *source, uint32_t events)
{
	struct block_completion *completion = container_of(source, struct block_completion, source);
	struct virtio_block *block = completion->block;

	(void)events;
	virtio_mmio_lock(&block->mmio);
	collect(block);
	virtio_mmio_publish(&block->mmio, 0);
	look_again_when_room(block);
	virtio_mmio_unlock(&block->mmio);
}

/*
 * 5.2.6.2: a driver that was offered flushes and does not take them expects writes to be durable.
 */
void block_activate(struct virtio_mmio *mmio)
{
	struct virtio_block *block = block_of(mmio);

	block->write_through = (mmio->device_features & (1ULL << VIRTIO_BLK_F_FLUSH)) &&
			       !virtio_mmio_has_feature(mmio, VIRTIO_BLK_F_FLUSH);
}

/* What is in flight is cut short and dropped: the driver gave its buffers up. */
static void stop_queue(struct virtio_mmio *mmio, unsigned int queue_index)
{
	struct virtio_block *block = block_of(mmio);
	struct disk_request *request;

	(void)queue_index;
	disk_abandon(block->disk);
	while ((request = disk_reap(block->disk)))
		give_slot_back(block, container_of(request, struct block_slot, disk));
	block->full = false;
}

static const struct virtio_mmio_ops block_ops = {
	.device_id = DEVICE_ID_BLOCK,
	.queue_count = 1,
	.queue_size_max = VIRTIO_BLOCK_QUEUE_SIZE,
	.notify = notify,
	.activate = block_activate,
	.stop_queue = stop_queue,
};

static uint64_t features_of(const struct disk *disk)
{
	uint64_t features = 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE;

	if (disk_cache_type(disk) == CACHE_WRITEBACK)
		features |= 1ULL << VIRTIO_BLK_F_FLUSH;
	if (disk_is_read_only(disk))
		features |= 1ULL << VIRTIO_BLK_F_RO;
	else
		features |= 1ULL << VIRTIO_BLK_F_DISCARD | 1ULL << VIRTIO_BLK_F_WRITE_ZEROES;
	return features;
}

static void fill_config(struct virtio_blk_config *config, const struct disk *disk)
{
	*config = (struct virtio_blk_config) {
		.capacity = disk_size_bytes(disk) / DISK_SECTOR_BYTES,
		.seg_max = BLOCK_SEG_MAX,
		.blk_size = DISK_SECTOR_BYTES,
		.num_queues = 1,
	};
	if (disk_is_read_only(disk))
		return;
	config->max_discard_sectors = BLOCK_MAX_DISCARD_SECTORS;
	config->max_discard_seg = BLOCK_MAX_RANGES;
	config->discard_sector_alignment = PAGE_SIZE_BYTES / DISK_SECTOR_BYTES;
	config->max_write_zeroes_sectors = BLOCK_MAX_WRITE_ZEROES_SECTORS;
	config->max_write_zeroes_seg = BLOCK_MAX_RANGES;
	config->write_zeroes_may_unmap = 1;
}

static int watch_completions(struct virtio_block *block, unsigned int index,
			     const struct disk *disk, struct error *err)
{
	struct block_completion *completion = &block->completions[index];

	completion->block = block;
	/* Edges, so that the eventfd need not be read: what is finished is found by looking. */
	if (loop_add(block->mmio.loop, &completion->source, disk_completion_fd(disk),
		     EPOLLIN | EPOLLET, handle_completion, err) < 0)
		return error_prefix(err, "%s", block->mmio.name);
	return 0;
}

int virtio_block_create(struct virtio_block **out, const struct virtio_block_options *options,
			struct disk *disk, struct error *err)
{
	struct virtio_block *block = calloc(1, sizeof(*block));
	char name[VIRTIO_MMIO_NAME_BYTES];
	int result;

	if (block)
		block->slots = calloc(VIRTIO_BLOCK_QUEUE_SIZE, sizeof(block->slots[0]));
	if (!block || !block->slots) {
		free(block);
		return error_set(err, ENOMEM, "drive %s: no memory", options->drive_id);
	}
	for (unsigned int i = 0; i < VIRTIO_BLOCK_QUEUE_SIZE; i++)
		block->free_slots[block->free_count++] = (uint16_t)i;
	block->disk = disk;
	fill_config(&block->config, disk);
	memcpy(block->id, options->drive_id, strnlen(options->drive_id, sizeof(block->id)));
	snprintf(name, sizeof(name), "drive %s", options->drive_id);
	result = virtio_mmio_init(
		&block->mmio, &block_ops,
		&(struct virtio_mmio_options) { .name = name,
						.slot = options->slot,
						.memory = options->memory,
						.loop = options->loop,
						.log = options->log,
						.interrupt_fd = options->interrupt_fd,
						.features = features_of(disk),
						.config = &block->config,
						.config_bytes = sizeof(block->config) },
		err);
	if (result == 0) {
		result = watch_completions(block, 0, disk, err);
		if (result < 0)
			virtio_mmio_destroy(&block->mmio);
	}
	if (result < 0) {
		free(block->slots);
		free(block);
		return result;
	}
	rate_limiter_init(&block->limiter, options->loop, handle_limit_over, options->rate_limiter);
	*out = block;
	return 0;
}

void virtio_block_destroy(struct virtio_block *block)
{
	if (!block)
		return;
	rate_limiter_destroy(&block->limiter);
	virtio_mmio_lock(&block->mmio);
	stop_queue(&block->mmio, 0);
	virtio_mmio_unlock(&block->mmio);
	loop_remove(block->mmio.loop, &block->completions[block->completion_index].source);
	virtio_mmio_destroy(&block->mmio);
	disk_close(block->disk);
	free(block->slots);
	free(block);
}

struct virtio_mmio *virtio_block_transport(struct virtio_block *block)
{
	return &block->mmio;
}

const struct virtio_block_metrics *virtio_block_metrics(const struct virtio_block *block)
{
	return &block->metrics;
}

const struct rate_limiter_metrics *virtio_block_limiter_metrics(const struct virtio_block *block)
{
	return &block->limiter.metrics;
}

void virtio_block_set_limits(struct virtio_block *block, const struct rate_limiter_config *update)
{
	rate_limiter_change(&block->limiter, update);
}

const struct disk *virtio_block_disk(const struct virtio_block *block)
{
	return block->disk;
}

/* Until every request is answered, those of several steps too. Lock held. */
static void finish_requests(struct virtio_block *block)
{
	while (requests_are_out(block)) {
		disk_drain(block->disk);
		collect(block);
	}
	virtio_mmio_publish(&block->mmio, 0);
	look_again_when_room(block);
}

void virtio_block_pause(struct virtio_block *block)
{
	virtio_mmio_lock(&block->mmio);
	/* What waits for a limit waits in the ring, and is found there by the look at the end. */
	rate_limiter_stop(&block->limiter);
	finish_requests(block);
	virtio_mmio_pause(&block->mmio);
	virtio_mmio_unlock(&block->mmio);
}

void virtio_block_resume(struct virtio_block *block)
{
	virtio_mmio_lock(&block->mmio);
	virtio_mmio_resume(&block->mmio);
	virtio_mmio_unlock(&block->mmio);
}

int virtio_block_set_disk(struct virtio_block *block, struct disk *disk, struct error *err)
{
	unsigned int index = 1 - block->completion_index;
	struct disk *old = block->disk;
	int result;

	if (features_of(disk) != features_of(old))
		return error_set(err, EINVAL,
				 "%s: the new file must be opened for what the old one was: a "
				 "guest cannot learn anew "
				 "whether the drive is read-only or has a cache",
				 block->mmio.name);
	result = watch_completions(block, index, disk, err);
	if (result < 0)
		return result;
	virtio_mmio_lock(&block->mmio);
	finish_requests(block);
	block->disk = disk;
	fill_config(&block->config, disk);
	virtio_mmio_config_changed(&block->mmio);
	virtio_mmio_unlock(&block->mmio);

	loop_remove(block->mmio.loop, &block->completions[block->completion_index].source);
	block->completion_index = index;
	counter_add(&block->metrics.disk_updates, 1);
	disk_close(old);
	return 0;
}

int virtio_block_flush(struct virtio_block *block, struct error *err)
{
	int result = 0;

	virtio_mmio_lock(&block->mmio);
	finish_requests(block);
	if (disk_cache_type(block->disk) == CACHE_WRITEBACK && !disk_is_read_only(block->disk))
		result = disk_sync(block->disk);
	virtio_mmio_unlock(&block->mmio);
	if (result < 0) {
		errno = -result;
		return error_errno(err, "%s: cannot write to stable storage", block->mmio.name);
	}
	return 0;
}
