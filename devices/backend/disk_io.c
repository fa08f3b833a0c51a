/*
 * What a request does to the file, step by step, whichever engine carries the steps out.
 *
 * - read, write: again until nothing is left, for both may be cut short
 * - flush: fdatasync(2); where the thread waits for it and much is dirty, sync_file_range(2)
 * before, in steps. That one promises nothing by itself, but leaves little to wait for
 * - discard: a hole is punched; on a block device that cannot do so, BLKDISCARD. Where neither is
 *   possible the space is kept: a discard is a hint (virtio 1.2, 5.2.6.2)
 * - write zeroes: a hole where the space may go, a zeroed range where it must stay; where the file
 *   system can do neither, zeros are written
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "disk_private.h"

/*
 * The attempts at giving back or zeroing a range, in this order; some requests begin later or end
 * earlier.
 */
enum {
	ATTEMPT_PUNCH_HOLE,
	ATTEMPT_ZERO_RANGE,
	ATTEMPT_PLAINLY
};

/* Those of a flush. */
enum {
	ATTEMPT_BEGIN_FLUSH,
	ATTEMPT_WRITE_BACK
};

static const uint8_t zero_page[PAGE_SIZE_BYTES];

static void *zeros_address(void)
{
	return (void *)(uintptr_t)zero_page; /* an iovec has no const */
}

/*
 * Entries may be waiting in several requests at once: they are never changed. An odd end is the
 * request's own.
 */
static void write_zeros_step(struct disk *disk, struct disk_request *request,
			     struct disk_step *step)
{
	uint64_t pages = request->length_bytes / PAGE_SIZE_BYTES;

	step->kind = STEP_WRITE;
	if (pages == 0) {
		request->tail = (struct iovec) { zeros_address(), request->length_bytes };
		step->iov = &request->tail;
		step->iov_count = 1;
		return;
	}
	for (unsigned int i = 0; i < DISK_ZERO_PAGES && !disk->zeros[i].iov_base; i++)
		disk->zeros[i] = (struct iovec) { zeros_address(), PAGE_SIZE_BYTES };
	step->iov = disk->zeros;
	step->iov_count = pages < DISK_ZERO_PAGES ? (unsigned int)pages : DISK_ZERO_PAGES;
}

static void discard_step(const struct disk_request *request, struct disk_step *step)
{
	step->kind = STEP_DISCARD;
	if (request->length_bytes > DISK_DISCARD_STEP_BYTES)
		step->length_bytes = DISK_DISCARD_STEP_BYTES;
}

static void range_step(struct disk *disk, struct disk_request *request, struct disk_step *step)
{
	if (request->operation == DISK_WRITE_ZEROES && !request->may_unmap &&
	    request->attempt == ATTEMPT_PUNCH_HOLE)
		request->attempt = ATTEMPT_ZERO_RANGE;
	step->kind = STEP_FALLOCATE;
	switch (request->attempt) {
	case ATTEMPT_PUNCH_HOLE:
		step->fallocate_mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
		break;
	case ATTEMPT_ZERO_RANGE:
		step->fallocate_mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
		break;
	default:
		if (request->operation == DISK_DISCARD)
			discard_step(request, step);
		else
			write_zeros_step(disk, request, step);
		break;
	}
}

/* How much one step of a flush takes on: begin_flush() has put it there. */
static uint64_t flush_step_bytes(const struct disk_request *request)
{
	return request->length_bytes < request->tail.iov_len ? request->length_bytes
							     : request->tail.iov_len;
}

/* Takes over what is dirty, as the request's range, where it is worth while. */
static void begin_flush(struct disk *disk, struct disk_request *request)
{
	uint64_t dirty_range = disk->dirty_end - disk->dirty_start;
	uint64_t share = align_up(dirty_range / DISK_FLUSH_STEPS, PAGE_SIZE_BYTES);
	bool in_steps = disk->engine->waits_for_steps && disk->dirty_bytes > DISK_FLUSH_STEP_BYTES;

	request->attempt = ATTEMPT_WRITE_BACK;
	request->offset_bytes = disk->dirty_start;
	request->length_bytes = in_steps ? dirty_range : 0;
	request->tail.iov_len = share > DISK_FLUSH_STEP_BYTES ? share : DISK_FLUSH_STEP_BYTES;
	disk->dirty_bytes = 0;
}

static void flush_step(struct disk *disk, struct disk_request *request, struct disk_step *step)
{
	if (request->attempt == ATTEMPT_BEGIN_FLUSH)
		begin_flush(disk, request);
	step->kind = request->length_bytes > 0 ? STEP_WRITE_BACK : STEP_DATASYNC;
	step->offset_bytes = request->offset_bytes;
	step->length_bytes = flush_step_bytes(request);
}

static void note_written(struct disk *disk, uint64_t offset_bytes, uint64_t length_bytes)
{
	uint64_t end = offset_bytes + length_bytes;

	if (disk->dirty_bytes == 0) {
		disk->dirty_start = offset_bytes;
		disk->dirty_end = end;
	}
	if (offset_bytes < disk->dirty_start)
		disk->dirty_start = offset_bytes;
	if (end > disk->dirty_end)
		disk->dirty_end = end;
	disk->dirty_bytes += length_bytes;
}

/* As much as one step may do: whole parts of the list, or a piece of the first. */
static void limit_transfer(struct disk_request *request, struct disk_step *step)
{
	uint64_t bytes = 0;

	if (request->length_bytes <= DISK_STEP_BYTES)
		return;
	step->iov_count = 0;
	while (step->iov_count < request->iov_count) {
		bytes += request->iov[step->iov_count].iov_len;
		if (bytes > DISK_STEP_BYTES)
			break;
		step->iov_count++;
	}
	if (step->iov_count == 0) {
		request->tail = (struct iovec) { request->iov->iov_base, DISK_STEP_BYTES };
		step->iov = &request->tail;
		step->iov_count = 1;
	}
}

void disk_next_step(struct disk *disk, struct disk_request *request, struct disk_step *step)
{
	*step = (struct disk_step) { .iov = request->iov,
				     .iov_count = request->iov_count,
				     .offset_bytes = request->offset_bytes,
				     .length_bytes = request->length_bytes };
	switch (request->operation) {
	case DISK_READ:
		step->kind = STEP_READ;
		limit_transfer(request, step);
		break;
	case DISK_WRITE:
		step->kind = STEP_WRITE;
		step->write_flags = request->durable ? RWF_DSYNC : 0;
		limit_transfer(request, step);
		break;
	case DISK_FLUSH:
		flush_step(disk, request, step);
		break;
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		range_step(disk, request, step);
		break;
	}
}

/* Takes `bytes` off the front of what is left to transfer. */
static void advance(struct disk_request *request, uint64_t bytes)
{
	request->offset_bytes += bytes;
	request->length_bytes -= bytes;
	while (bytes > 0 && request->iov_count > 0) {
		struct iovec *first = request->iov;

		if (bytes < first->iov_len) {
			first->iov_base = (uint8_t *)first->iov_base + bytes;
			first->iov_len -= bytes;
			return;
		}
		bytes -= first->iov_len;
		request->iov++;
		request->iov_count--;
	}
}

static bool finish(struct disk_request *request, int result)
{
	request->result = result;
	return true;
}

static bool finish_transfer(struct disk_request *request, int64_t result)
{
	if (result < 0)
		return finish(request, (int)result);
	/*
	 * Nothing more to read: the file has become shorter. More than was asked for does not
	 * happen.
	 */
	if (result == 0 || (uint64_t)result > request->length_bytes)
		return finish(request, -EIO);
	advance(request, (uint64_t)result);
	return request->length_bytes == 0 ? finish(request, 0) : false;
}

/*
 * What the file system, the device or the kernel says when it does not know the way, or not for
 * this range.
 */
static bool not_possible(int64_t result)
{
	return result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL ||
	       result == -ENOTTY || result == -ENODEV;
}

/* The step was no longer than what is left. */
static bool finish_discard(struct disk_request *request, int64_t result)
{
	struct disk_step done = { .length_bytes = request->length_bytes };

	if (result < 0)
		return finish(request, not_possible(result) ? 0 : (int)result);
	discard_step(request, &done);
	advance(request, done.length_bytes);
	return request->length_bytes == 0 ? finish(request, 0) : false;
}

static bool finish_range(struct disk *disk, struct disk_request *request, int64_t result)
{
	if (request->attempt == ATTEMPT_PLAINLY)
		return request->operation == DISK_DISCARD ? finish_discard(request, result)
							  : finish_transfer(request, result);
	if (!not_possible(result))
		return finish(request, (int)result);
	if (request->operation == DISK_WRITE_ZEROES) {
		request->attempt++;
		return false;
	}
	if (!disk->is_block_device)
		return finish(request, 0);
	request->attempt = ATTEMPT_PLAINLY;
	return false;
}

/* A file that knows no write-back of ranges gets all of it from fdatasync(2). */
static bool finish_flush(struct disk_request *request, int64_t result)
{
	if (request->length_bytes == 0)
		return finish(request, (int)result);
	if (result < 0 && !not_possible(result))
		return finish(request, (int)result);
	advance(request, result < 0 ? request->length_bytes : flush_step_bytes(request));
	return false;
}

bool disk_finish_step(struct disk *disk, struct disk_request *request, int64_t result)
{
	if (disk->abandoning)
		return finish(request, result < 0 ? (int)result : -ECANCELED);
	switch (request->operation) {
	case DISK_WRITE:
		if (result > 0)
			note_written(disk, request->offset_bytes, (uint64_t)result);
		return finish_transfer(request, result);
	case DISK_READ:
		return finish_transfer(request, result);
	case DISK_DISCARD:
	case DISK_WRITE_ZEROES:
		return finish_range(disk, request, result);
	case DISK_FLUSH:
		return finish_flush(request, result);
	}
	return finish(request, -EINVAL);
}

/*
 * A range of a block device is changed through the descriptor that has claimed it: the kernel would
 * otherwise not drop what its page cache holds of the range, and fail with EBUSY.
 */
static int64_t call(const struct disk *disk, const struct disk_step *step)
{
	uint64_t range[2] = { step->offset_bytes, step->length_bytes };
	off_t offset = (off_t)step->offset_bytes;

	switch (step->kind) {
	case STEP_READ:
		return preadv2(disk->fd, step->iov, (int)step->iov_count, offset, 0);
	case STEP_WRITE:
		return pwritev2(disk->fd, step->iov, (int)step->iov_count, offset,
				step->write_flags);
	case STEP_WRITE_BACK:
		return sync_file_range(disk->fd, offset, (off_t)step->length_bytes,
				       SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
					       SYNC_FILE_RANGE_WAIT_AFTER);
	case STEP_DATASYNC:
		return fdatasync(disk->fd);
	case STEP_FALLOCATE:
		return fallocate(disk->lock_fd, step->fallocate_mode, offset,
				 (off_t)step->length_bytes);
	case STEP_DISCARD:
		return ioctl(disk->lock_fd, BLKDISCARD, range);
	}
	errno = EINVAL;
	return -1;
}

int64_t disk_do_step(struct disk *disk, const struct disk_step *step)
{
	int64_t result;

	do {
		result = call(disk, step);
	} while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : result;
}

void disk_cancel(struct disk *disk, struct disk_request *request)
{
	request->result = -ECANCELED;
	disk_finish(disk, request);
}

void disk_run_plainly(struct disk *disk, struct disk_request *request)
{
	struct disk_step step;

	if (disk->abandoning) {
		disk_cancel(disk, request);
		return;
	}
	do {
		disk_next_step(disk, request, &step);
	} while (!disk_finish_step(disk, request, disk_do_step(disk, &step)));
	disk_finish(disk, request);
}

void disk_finish(struct disk *disk, struct disk_request *request)
{
	request->next = NULL;
	*disk->finished_end = request;
	disk->finished_end = &request->next;
	disk->in_flight--;
}

void disk_put_aside(struct disk *disk, struct disk_request *request)
{
	struct disk_request **end = &disk->unfinished;

	while (*end)
		end = &(*end)->next;
	request->next = NULL;
	*end = request;
}

struct disk_request *disk_take_aside(struct disk *disk)
{
	struct disk_request *request = disk->unfinished;

	if (request)
		disk->unfinished = request->next;
	return request;
}

void disk_submit(struct disk *disk, struct disk_request *request)
{
	request->attempt = 0;
	request->result = 0;
	disk->in_flight++;
	disk->engine->submit(disk, request);
}

bool disk_submit_waits(const struct disk *disk)
{
	return disk->engine->waits_for_steps;
}

void disk_commit(struct disk *disk)
{
	disk->engine->commit(disk);
}

void disk_poll(struct disk *disk)
{
	if (disk->in_flight)
		disk->engine->collect(disk, false);
}

struct disk_request *disk_reap(struct disk *disk)
{
	struct disk_request *request = disk->finished;

	if (!request)
		return NULL;
	disk->finished = request->next;
	if (!disk->finished)
		disk->finished_end = &disk->finished;
	return request;
}

void disk_drain(struct disk *disk)
{
	disk->engine->commit(disk);
	while (disk->in_flight)
		disk->engine->collect(disk, true);
}

void disk_abandon(struct disk *disk)
{
	disk->abandoning = true;
	disk_drain(disk);
	disk->abandoning = false;
}

int disk_sync(struct disk *disk)
{
	return (int)disk_do_step(disk, &(struct disk_step) { .kind = STEP_DATASYNC });
}
