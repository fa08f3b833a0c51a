/*
 * The Async engine: io_uring(7), with the file registered and one eventfd for completions.
 *
 * A batch is queued by disk_submit() and started by one system call in disk_commit(). There is room
 * for every request that may be in flight, in the submission and (twice that) in the completion
 * queue, so neither runs over. What the kernel will not take, for want of memory say, is done by
 * plain system calls instead: a request is never lost.
 *
 * What the page cache serves is finished when that call returns, and needs no eventfd to say so: as
 * long as batches end like that, the eventfd is off during the call (a flag in the ring's memory),
 * and completions are looked for behind it. Should one come later after all, it may have missed the
 * moment at which the eventfd was on again: then the engine looks once more in a turn of its own,
 * and the next batch goes with the eventfd.
 *
 * The completion eventfd is the plain one. The other kind (io_uring_register_eventfd_async) is
 * silent for whatever completes in the context of the submitting thread, which includes reads that
 * waited for the page cache.
 */
#include <fcntl.h>
#include <liburing.h>
#include <string.h>
#include <sys/eventfd.h>

#include "disk_uring.h"

/*
 * What the ring may be asked for, for good. A filter of system calls does not see what io_uring
 * does, so a ring that could open files or make sockets would be a way around it. With filters no
 * ring can be made once a guest runs: the disk that takes another's place takes over its ring.
 */
static const uint8_t allowed_operations[] = { IORING_OP_NOP,	  IORING_OP_READ,   IORING_OP_READV,
					      IORING_OP_WRITE,	  IORING_OP_WRITEV, IORING_OP_FSYNC,
					      IORING_OP_FALLOCATE };

#define RESTRICTIONS (ARRAY_SIZE(allowed_operations) + 2)

/*
 * IORING_SETUP_COOP_TASKRUN (Linux 5.19): a completion that has work to do in this thread does not
 * interrupt it with an IPI; the loop enters the kernel soon enough. Not IORING_SETUP_SINGLE_ISSUER:
 * a device reset on a vCPU's thread drains the ring.
 */
static int make_ring(struct disk_uring *uring, unsigned int queue_size)
{
	struct io_uring_params params = { .flags = IORING_SETUP_COOP_TASKRUN |
						   IORING_SETUP_R_DISABLED };
	int result = io_uring_queue_init_params(queue_size, &uring->ring, &params);

	if (result != -EINVAL)
		return result;
	params = (struct io_uring_params) { .flags = IORING_SETUP_R_DISABLED };
	return io_uring_queue_init_params(queue_size, &uring->ring, &params);
}

/* After this nothing can be registered but another file, and nothing be done but what a disk does.
 */
static int restrict_ring(struct io_uring *ring)
{
	struct io_uring_restriction restrictions[RESTRICTIONS] = { 0 };
	unsigned int count = 0;
	int result;

	for (size_t i = 0; i < ARRAY_SIZE(allowed_operations); i++)
		restrictions[count++] = (struct io_uring_restriction) {
			.opcode = IORING_RESTRICTION_SQE_OP,
			.sqe_op = allowed_operations[i],
		};
	restrictions[count++] = (struct io_uring_restriction) {
		.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
		.sqe_flags = IOSQE_FIXED_FILE,
	};
	restrictions[count++] = (struct io_uring_restriction) {
		.opcode = IORING_RESTRICTION_REGISTER_OP,
		.register_op = IORING_REGISTER_FILES_UPDATE,
	};
	result = io_uring_register_restrictions(ring, restrictions, count);
	return result < 0 ? result : io_uring_enable_rings(ring);
}

static int set_up_ring(struct disk *disk)
{
	struct io_uring *ring = &disk->uring->ring;
	const int files[DISK_URING_FILES] = { disk->fd, -1 };
	int result = io_uring_register_files(ring, files, DISK_URING_FILES);

	if (result == 0)
		result = io_uring_register_eventfd(ring, disk->completion_fd);
	return result == 0 ? restrict_ring(ring) : result;
}

static int refuse(struct error *err, int result, const char *what)
{
	errno = -result;
	return error_errno(
		err, "io_engine Async needs io_uring, and %s on this host; set io_engine to Sync",
		what);
}

/*
 * The ring and the eventfd of the disk whose place this one takes: the file goes beside its file.
 * The other is used no more once its requests are finished, and before that this one is not used;
 * so there is never more than one user.
 */
static int take_over(struct disk *disk, const struct disk *replaced, struct error *err)
{
	struct disk_uring *uring = replaced->uring;
	unsigned int place = 1 - replaced->uring_file;
	int result;

	disk->completion_fd = fcntl(replaced->completion_fd, F_DUPFD_CLOEXEC, 0);
	if (disk->completion_fd < 0)
		return error_errno(err, "cannot share the eventfd");
	result = io_uring_register_files_update(&uring->ring, place, &disk->fd, 1);
	if (result < 0) {
		close_fd(&disk->completion_fd);
		return refuse(err, result, "it does not take the file");
	}
	disk->uring = uring;
	disk->uring_file = place;
	uring->users++;
	return 0;
}

static int start(struct disk *disk, unsigned int queue_size, const struct disk *replaced,
		 struct error *err)
{
	struct disk_uring *uring;
	int result;

	if (replaced && replaced->uring)
		return take_over(disk, replaced, err);
	/* Room for pointers, as meant: NOLINTNEXTLINE(bugprone-sizeof-expression) */
	uring = calloc(1, sizeof(*uring) + sizeof(void *) * queue_size);
	if (!uring)
		return error_set(err, ENOMEM, "no memory for io_uring");
	uring->size = queue_size;
	uring->users = 1;
	result = make_ring(uring, queue_size);
	if (result < 0) {
		free(uring);
		return refuse(err, result, "it is not available");
	}
	disk->uring = uring;
	disk->completion_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (disk->completion_fd < 0)
		result = error_errno(err, "cannot make an eventfd");
	else
		result = set_up_ring(disk);
	if (result < 0 && disk->completion_fd >= 0)
		result = refuse(err, result, "it cannot be set up");
	if (result < 0)
		disk->engine->stop(disk);
	return result;
}

static void stop(struct disk *disk)
{
	struct disk_uring *uring = disk->uring;
	int none = -1;

	close_fd(&disk->completion_fd);
	disk->uring = NULL;
	if (--uring->users > 0) {
		/* The ring goes on with another file, and lets go of this one. */
		(void)io_uring_register_files_update(&uring->ring, disk->uring_file, &none, 1);
		return;
	}
	io_uring_queue_exit(&uring->ring);
	free(uring);
}

/*
 * One buffer spares the kernel the copy of a list. Lengths beyond its limit are cut there, and
 * continued here.
 */
static void prepare_transfer(struct io_uring_sqe *sqe, int file, const struct disk_step *step)
{
	const struct iovec *first = step->iov;
	bool one = step->iov_count == 1;

	if (step->kind == STEP_READ && one)
		io_uring_prep_read(sqe, file, first->iov_base, (unsigned int)first->iov_len,
				   step->offset_bytes);
	else if (step->kind == STEP_READ)
		io_uring_prep_readv(sqe, file, step->iov, step->iov_count, step->offset_bytes);
	else if (one)
		io_uring_prep_write(sqe, file, first->iov_base, (unsigned int)first->iov_len,
				    step->offset_bytes);
	else
		io_uring_prep_writev(sqe, file, step->iov, step->iov_count, step->offset_bytes);
	sqe->rw_flags = step->write_flags;
}

static void prepare(const struct disk *disk, struct io_uring_sqe *sqe, const struct disk_step *step)
{
	int file = (int)disk->uring_file;

	switch (step->kind) {
	case STEP_WRITE_BACK: /* only where a thread waits for it */
	case STEP_DATASYNC:
		io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
		break;
	case STEP_FALLOCATE:
		/* The lock's descriptor (disk_io.c), which is not registered: see disk.c. */
		io_uring_prep_fallocate(sqe, disk->lock_fd, step->fallocate_mode,
					(off_t)step->offset_bytes, (off_t)step->length_bytes);
		return;
	default:
		prepare_transfer(sqe, file, step);
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

/* Refused only when its count is full, and then it is readable already. */
static void wake_loop(const struct disk *disk)
{
	(void)!eventfd_write(disk->completion_fd, 1);
}

/* Gives the kernel all that is queued. */
static void start_batch(struct disk *disk)
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
	uring->out += taken;
	uring->queued_count = 0;
}

static void complete(struct disk *disk, struct disk_request *request, int result)
{
	/* EAGAIN: the kernel could not hand the request to a thread that may wait. This one may. */
	if (result == -EINTR || result == -EAGAIN)
		disk_run_plainly(disk, request);
	else if (disk_finish_step(disk, request, result))
		disk_finish(disk, request);
	else
		submit(disk, request);
}

/* Takes what the kernel is done with. What has more steps is queued for the next. */
static void reap(struct disk *disk)
{
	struct disk_uring *uring = disk->uring;
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
		struct disk_request *request = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&uring->ring, cqe);
		if (!request)
			continue;
		uring->out--;
		complete(disk, request, result);
	}
}

/*
 * The barrier: the eventfd is on before the last look for completions. The kernel shows a
 * completion before it looks whether the eventfd is on.
 */
static void run_batch(struct disk *disk)
{
	struct disk_uring *uring = disk->uring;
	bool silent = uring->at_once && io_uring_cq_eventfd_toggle(&uring->ring, false) == 0;

	start_batch(disk);
	if (silent) {
		(void)io_uring_cq_eventfd_toggle(&uring->ring, true);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
	}
	reap(disk);
	uring->at_once = uring->out == 0;
	if (silent && !uring->at_once)
		wake_loop(disk);
}

/* One step of each request; the next ones are for collect(), which the loop gets to in its turn. */
static void commit(struct disk *disk)
{
	/* Nothing is looked at that is another's. */
	if (disk->uring->queued_count)
		run_batch(disk);
	if (disk->uring->queued_count || disk->unfinished)
		wake_loop(disk);
}

static void collect(struct disk *disk, bool wait)
{
	struct disk_uring *uring = disk->uring;
	struct disk_request *aside = disk_take_aside(disk);
	struct io_uring_cqe *cqe;

	if (wait && !aside && !uring->queued_count && io_uring_wait_cqe(&uring->ring, &cqe) < 0)
		return;
	if (aside && disk->abandoning)
		disk_cancel(disk, aside);
	else if (aside)
		do_one_step(disk, aside);
	reap(disk);
	if (uring->queued_count)
		start_batch(disk);
	if (disk->unfinished)
		wake_loop(disk);
}

const struct disk_engine disk_engine_uring = {
	.start = start,
	.stop = stop,
	.submit = submit,
	.commit = commit,
	.collect = collect,
};
