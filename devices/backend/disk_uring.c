/*
 * The Async engine: io_uring(7), with the file registered and one eventfd for completions.
 *
 * A batch is queued by disk_submit() and started by one system call in disk_commit(). There is room
 * for every request that may be in flight, in the submission and (twice that) in the completion
 * queue, so neither runs over. What the kernel will not take, for want of memory say, is done by
 * plain system calls instead: a request is never lost.
 *
 * The completion eventfd is the plain one. The other kind (io_uring_register_eventfd_async) is
 * silent for whatever completes in the context of the submitting thread, which includes reads that
 * waited for the page cache.
 */
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>

#include "disk_private.h"

struct disk_uring {
	struct io_uring ring;
	unsigned int size;
	unsigned int stale; /* entries of the submission queue that became nothing, see
			       run_queued_plainly() */
	unsigned int queued_count;
	struct io_uring_sqe *queued[]; /* not yet taken by the kernel, in order */
};

/* The registered file's index. */
#define FILE_INDEX 0

/*
 * IORING_SETUP_COOP_TASKRUN (Linux 5.19): a completion that has work to do in this thread does not
 * interrupt it with an IPI; the loop enters the kernel soon enough. Not IORING_SETUP_SINGLE_ISSUER:
 * a device reset on a vCPU's thread drains the ring.
 */
static int make_ring(struct disk_uring *uring, unsigned int queue_size)
{
	struct io_uring_params params = { .flags = IORING_SETUP_COOP_TASKRUN };
	int result = io_uring_queue_init_params(queue_size, &uring->ring, &params);

	if (result != -EINVAL)
		return result;
	params = (struct io_uring_params) { 0 };
	return io_uring_queue_init_params(queue_size, &uring->ring, &params);
}

static int refuse(struct error *err, int result, const char *what)
{
	errno = -result;
	return error_errno(
		err, "io_engine Async needs io_uring, and %s on this host; set io_engine to Sync",
		what);
}

static int start(struct disk *disk, unsigned int queue_size, struct error *err)
{
	/* Room for pointers, as meant: NOLINTNEXTLINE(bugprone-sizeof-expression) */
	struct disk_uring *uring = calloc(1, sizeof(*uring) + sizeof(void *) * queue_size);
	const char *what = "it is not available";
	int result;

	if (!uring)
		return error_set(err, ENOMEM, "no memory for io_uring");
	uring->size = queue_size;
	result = make_ring(uring, queue_size);
	if (result < 0) {
		free(uring);
		return refuse(err, result, what);
	}
	disk->uring = uring;
	disk->completion_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (disk->completion_fd < 0) {
		result = error_errno(err, "cannot make an eventfd");
	} else {
		result = io_uring_register_files(&uring->ring, &disk->fd, 1);
		if (result == 0)
			result = io_uring_register_eventfd(&uring->ring, disk->completion_fd);
		if (result < 0)
			result = refuse(err, result, "it cannot be set up");
	}
	if (result < 0)
		disk->engine->stop(disk);
	return result;
}

static void stop(struct disk *disk)
{
	io_uring_queue_exit(&disk->uring->ring);
	close_fd(&disk->completion_fd);
	free(disk->uring);
	disk->uring = NULL;
}

/*
 * One buffer spares the kernel the copy of a list. Lengths beyond its limit are cut there, and
 * continued here.
 */
static void prepare_transfer(struct io_uring_sqe *sqe, const struct disk_step *step)
{
	const struct iovec *first = step->iov;
	bool one = step->iov_count == 1;

	if (step->kind == STEP_READ && one)
		io_uring_prep_read(sqe, FILE_INDEX, first->iov_base, (unsigned int)first->iov_len,
				   step->offset_bytes);
	else if (step->kind == STEP_READ)
		io_uring_prep_readv(sqe, FILE_INDEX, step->iov, step->iov_count,
				    step->offset_bytes);
	else if (one)
		io_uring_prep_write(sqe, FILE_INDEX, first->iov_base, (unsigned int)first->iov_len,
				    step->offset_bytes);
	else
		io_uring_prep_writev(sqe, FILE_INDEX, step->iov, step->iov_count,
				     step->offset_bytes);
	sqe->rw_flags = step->write_flags;
}

static void prepare(const struct disk *disk, struct io_uring_sqe *sqe, const struct disk_step *step)
{
	switch (step->kind) {
	case STEP_WRITE_BACK: /* only where a thread waits for it */
	case STEP_DATASYNC:
		io_uring_prep_fsync(sqe, FILE_INDEX, IORING_FSYNC_DATASYNC);
		break;
	case STEP_FALLOCATE:
		/* The lock's descriptor (disk_io.c), which is not registered: see disk.c. */
		io_uring_prep_fallocate(sqe, disk->lock_fd, step->fallocate_mode,
					(off_t)step->offset_bytes, (off_t)step->length_bytes);
		return;
	default:
		prepare_transfer(sqe, step);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
}

/* Of what the ring has no operation for; the next one is for the next turn of the loop. */
static void do_one_step(struct disk *disk, struct disk_request *request)
{
	struct disk_step step;

	disk_next_step(disk, request, &step);
	if (disk_finish_step(disk, request, disk_do_step(disk, &step)))
		disk_finish(disk, request);
	else
		disk_put_aside(disk, request);
}

static void submit(struct disk *disk, struct disk_request *request)
{
	struct disk_uring *uring = disk->uring;
	struct io_uring_sqe *sqe;
	struct disk_step step;

	disk_next_step(disk, request, &step);
	if (step.kind == STEP_DISCARD) {
		disk_put_aside(disk, request);
		return;
	}
	sqe = uring->queued_count == uring->size ? NULL : io_uring_get_sqe(&uring->ring);
	if (!sqe) {
		disk_run_plainly(disk, request);
		return;
	}
	prepare(disk, sqe, &step);
	io_uring_sqe_set_data(sqe, request);
	uring->queued[uring->queued_count++] = sqe;
}

/*
 * What the kernel did not take still stands in the submission queue: it becomes nothing there, and
 * is done here.
 */
static void run_queued_plainly(struct disk *disk, unsigned int from)
{
	struct disk_uring *uring = disk->uring;

	for (unsigned int i = from; i < uring->queued_count; i++) {
		struct io_uring_sqe *sqe = uring->queued[i];
		struct disk_request *request = (struct disk_request *)(uintptr_t)sqe->user_data;

		io_uring_prep_nop(sqe);
		io_uring_sqe_set_data(sqe, NULL);
		uring->stale++;
		disk_run_plainly(disk, request);
	}
}

static void commit(struct disk *disk)
{
	struct disk_uring *uring = disk->uring;
	unsigned int taken = 0;

	while (taken < uring->queued_count) {
		int result = io_uring_submit(&uring->ring);
		unsigned int stale;

		if (result == -EINTR)
			continue;
		if (result <= 0) {
			run_queued_plainly(disk, taken);
			break;
		}
		stale = (unsigned int)result < uring->stale ? (unsigned int)result : uring->stale;
		uring->stale -= stale; /* they stood in front */
		taken += (unsigned int)result - stale;
	}
	uring->queued_count = 0;
	/* Refused only when its count is full, and then it is readable already. */
	if (disk->unfinished)
		(void)!eventfd_write(disk->completion_fd, 1);
}

static void complete(struct disk *disk, struct disk_request *request, int result)
{
	if (!request)
		return;
	/* EAGAIN: the kernel could not hand the request to a thread that may wait. This one may. */
	if (result == -EINTR || result == -EAGAIN)
		disk_run_plainly(disk, request);
	else if (disk_finish_step(disk, request, result))
		disk_finish(disk, request);
	else
		submit(disk, request);
}

static void collect(struct disk *disk, bool wait)
{
	struct io_uring *ring = &disk->uring->ring;
	struct disk_request *aside = disk_take_aside(disk);
	struct io_uring_cqe *cqe;

	if (wait && !aside && io_uring_wait_cqe(ring, &cqe) < 0)
		return;
	if (aside && disk->abandoning)
		disk_cancel(disk, aside);
	else if (aside)
		do_one_step(disk, aside);
	while (io_uring_peek_cqe(ring, &cqe) == 0) {
		struct disk_request *request = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(ring, cqe);
		complete(disk, request, result);
	}
	commit(disk);
}

const struct disk_engine disk_engine_uring = {
	.start = start,
	.stop = stop,
	.submit = submit,
	.commit = commit,
	.collect = collect,
};
