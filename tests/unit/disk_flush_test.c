/* Flushes of the disk: devices/backend/disk_io.c. */
#include "devices/backend/disk_private.h"
#include "disk_fixture.h"

#define CHUNK (1 * MIB)

static uint8_t chunk[CHUNK];

/* Writes [start, end), as a guest that streams does. */
static void write_range(struct disk *disk, uint64_t start, uint64_t end)
{
	for (uint64_t offset = start; offset < end; offset += CHUNK)
		cr_assert_eq(transfer(disk, DISK_WRITE, offset, chunk, CHUNK), 0);
}

/* How many turns of the loop a flush takes: 0 when it is over at once. */
static unsigned int turns_of_flush(struct disk *disk)
{
	struct disk_request request = { .operation = DISK_FLUSH }, *done;
	struct pollfd pollfd = { .fd = disk_completion_fd(disk), .events = POLLIN };
	unsigned int turns = 0;
	eventfd_t count;

	disk_submit(disk, &request);
	disk_commit(disk);
	while (!(done = disk_reap(disk))) {
		cr_assert_eq(poll(&pollfd, 1, 60000), 1, "no completion");
		eventfd_read(pollfd.fd, &count);
		disk_poll(disk);
		turns++;
	}
	cr_assert_eq(done, &request);
	cr_assert_eq(request.result, 0);
	cr_assert_null(disk_reap(disk));
	return turns;
}

static unsigned int turns_after_writing(uint64_t start, uint64_t end)
{
	struct disk *disk;
	struct file file;
	unsigned int turns;

	make_file(&file, 4 * GIB);
	file.config.io_engine = IO_ENGINE_SYNC;
	disk = open_disk(&file.config);
	write_range(disk, start, end);
	turns = turns_of_flush(disk);
	cr_assert_eq(turns_of_flush(disk), 0, "nothing was written since");
	disk_close(disk);
	remove_file(&file);
	return turns;
}

Test(disk_flush, flush_of_little_is_over_at_once)
{
	cr_assert_eq(turns_after_writing(0, 0), 0);
	cr_assert_eq(turns_after_writing(0, 1 * MIB), 0);
	cr_assert_eq(turns_after_writing(GIB, GIB + 4 * MIB), 0);
}

Test(disk_flush, flush_of_much_goes_in_steps_between_which_the_loop_turns)
{
	/* 2 and 15 steps, and the fdatasync: the submission has done one. */
	cr_assert_eq(turns_after_writing(0, 8 * MIB), 2);
	cr_assert_eq(turns_after_writing(GIB, GIB + 60 * MIB), 15);
}

Test(disk_flush, steps_are_bounded_however_far_the_writes_lie_apart)
{
	struct disk *disk;
	struct file file;
	unsigned int turns;

	make_file(&file, 64 * GIB);
	file.config.io_engine = IO_ENGINE_SYNC;
	disk = open_disk(&file.config);
	write_range(disk, 63 * GIB, 63 * GIB + 8 * MIB);
	write_range(disk, 5 * MIB, 13 * MIB);
	turns = turns_of_flush(disk);
	cr_assert(turns >= 60 && turns <= 65, "%u", turns);
	disk_close(disk);
	remove_file(&file);
}

Test(disk_flush, io_uring_flushes_at_a_blow)
{
	struct disk_request request = { .operation = DISK_FLUSH };
	struct disk *disk;
	struct file file;

	make_file(&file, 64 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	write_range(disk, 0, 32 * MIB);
	cr_assert_eq(run(disk, &request), 0);
	disk_close(disk);
	remove_file(&file);
}

Test(disk_flush, drain_finishes_and_abandon_cuts_short)
{
	struct disk_request request = { .operation = DISK_FLUSH };
	struct disk *disk;
	struct file file;

	make_file(&file, 64 * MIB);
	file.config.io_engine = IO_ENGINE_SYNC;
	disk = open_disk(&file.config);
	write_range(disk, 0, 32 * MIB);
	disk_submit(disk, &request);
	disk_commit(disk);
	disk_poll(disk);
	cr_assert_null(disk_reap(disk));
	disk_drain(disk);
	cr_assert_eq(disk_reap(disk), &request);
	cr_assert_eq(request.result, 0);

	write_range(disk, 0, 32 * MIB);
	disk_submit(disk, &request);
	disk_commit(disk);
	disk_abandon(disk);
	cr_assert_eq(disk_reap(disk), &request);
	cr_assert_eq(request.result, -ECANCELED);
	cr_assert_eq(turns_of_flush(disk), 0, "and the next one flushes all, at once");
	disk_close(disk);
	remove_file(&file);
}
