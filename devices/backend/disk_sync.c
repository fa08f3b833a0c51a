/*
 * The Sync engine: plain system calls, one after the other, on the thread that submits. For hosts
 * without io_uring, and for those who would rather not give it to the monitor. The event loop
 * stands still while the host's disk works.
 */
#include "disk_private.h"

static int start(struct disk *disk, unsigned int queue_size, struct error *err)
{
	(void)disk;
	(void)queue_size;
	(void)err;
	return 0;
}

static void stop(struct disk *disk)
{
	(void)disk;
}

static void commit(struct disk *disk)
{
	(void)disk;
}

static void collect(struct disk *disk, bool wait)
{
	(void)disk;
	(void)wait;
}

const struct disk_engine disk_engine_sync = {
	.start = start,
	.stop = stop,
	.submit = disk_run_plainly,
	.commit = commit,
	.collect = collect,
};
