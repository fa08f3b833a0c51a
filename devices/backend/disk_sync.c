/*
 * The Sync engine: plain system calls, one after the other, on the thread that submits. For hosts
 * without io_uring, and for those who would rather not give it to the monitor. The event loop
 * stands still while the host's disk works; so that it never does for long, a request that needs
 * many calls is put aside after the first, and a turn of the loop, which the completion eventfd
 * brings about, makes one call for one of those, the oldest. A flush of much is made such a
 * request, by writing back what is dirty piece by piece before the fdatasync(2).
 */
#include <fcntl.h>
#include <sys/eventfd.h>

#include "disk_private.h"

static int start(struct disk *disk, unsigned int queue_size, const struct disk *replaced,
		 struct error *err)
{
	(void)queue_size;
	disk->completion_fd = replaced ? fcntl(replaced->completion_fd, F_DUPFD_CLOEXEC, 0)
				       : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return disk->completion_fd < 0 ? error_errno(err, "cannot make an eventfd") : 0;
}

static void stop(struct disk *disk)
{
	close_fd(&disk->completion_fd);
}

/* One step. A request that has more of them waits for turns of its own. */
static void submit(struct disk *disk, struct disk_request *request)
{
	struct disk_step step;

	disk_next_step(disk, request, &step);
	if (disk_finish_step(disk, request, disk_do_step(disk, &step)))
		disk_finish(disk, request);
	else
		disk_put_aside(disk, request);
}

static void commit(struct disk *disk)
{
	/* Refused only when its count is full, and then it is readable already. */
	if (disk->unfinished)
		(void)!eventfd_write(disk->completion_fd, 1);
}

static void collect(struct disk *disk, bool wait)
{
	struct disk_request *request = disk_take_aside(disk);

	(void)wait;
	if (request && disk->abandoning)
		disk_cancel(disk, request);
	else if (request)
		submit(disk, request);
	commit(disk);
}

const struct disk_engine disk_engine_sync = {
	.waits_for_steps = true,
	.start = start,
	.stop = stop,
	.submit = submit,
	.commit = commit,
	.collect = collect,
};
