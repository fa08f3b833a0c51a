/*
 * Discards on a block device that cannot punch holes: BLKDISCARD, a system call that waits, in
 * steps between which the loop serves others. devices/backend/disk_io.c and both engines.
 *
 * The device is played by a file whose file system cannot punch holes either, and by an ioctl(2) of
 * this test's own (the linker's --wrap), which notes what it is asked for.
 */
#include "disk_fixture.h"

#include <linux/fs.h>
#include <stdarg.h>

#include "devices/backend/disk_private.h"

#define DEVICE_BYTES (1024 * MIB)
#define CALLS_MAX    256

int __wrap_ioctl(int fd, unsigned long operation, ...);
int __real_ioctl(int fd, unsigned long operation, ...);

static uint64_t calls[CALLS_MAX][2];
static unsigned int call_count;
static unsigned int fails_at; /* this call; 0: none */
static int failure;

int __wrap_ioctl(int fd, unsigned long operation, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, operation);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (operation != BLKDISCARD)
		return __real_ioctl(fd, operation, argument);
	cr_assert_lt(call_count, CALLS_MAX);
	memcpy(calls[call_count++], argument, sizeof(calls[0]));
	if (call_count != fails_at)
		return 0;
	errno = failure;
	return -1;
}

/* A regular file on a file system that knows no fallocate(2). */
static struct disk *open_device(struct file *file)
{
	struct disk *disk = open_disk(&file->config);

	disk->is_block_device = true;
	close(disk->lock_fd);
	disk->lock_fd = open("/proc/self/comm", O_RDWR | O_CLOEXEC);
	cr_assert_geq(disk->lock_fd, 0);
	call_count = fails_at = 0;
	return disk;
}

/* What came between two looks of the caller was at most one call. */
static void assert_one_call_since(unsigned int before)
{
	cr_assert_leq(call_count, before + 1, "%u calls without a turn of the loop",
		      call_count - before);
}

static int discard(struct disk *disk, uint64_t offset, uint64_t length)
{
	struct disk_request request = { .operation = DISK_DISCARD,
					.offset_bytes = offset,
					.length_bytes = length };
	struct disk_request *done;
	eventfd_t count;

	disk_submit(disk, &request);
	disk_commit(disk);
	assert_one_call_since(0);
	for (;;) {
		struct pollfd pollfd = { .fd = disk_completion_fd(disk), .events = POLLIN };
		unsigned int before = call_count;

		disk_poll(disk);
		assert_one_call_since(before);
		done = disk_reap(disk);
		if (done)
			break;
		cr_assert_eq(poll(&pollfd, 1, 60000), 1, "no completion");
		eventfd_read(pollfd.fd, &count);
	}
	cr_assert_eq(done, &request);
	cr_assert_null(disk_reap(disk));
	return request.result;
}

Test(disk_discard, large_range_goes_in_steps_between_which_the_loop_turns)
{
	static const uint64_t lengths[] = {
		512, 4096, 16 * MIB, 16 * MIB + 512, 256 * MIB - 512, 256 * MIB
	};
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);

		for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
			uint64_t next = 4096;

			call_count = 0;
			cr_assert_eq(discard(disk, 4096, lengths[i]), 0);
			for (unsigned int n = 0; n < call_count; n++) {
				cr_assert_eq(calls[n][0], next, "without a gap");
				cr_assert_leq(calls[n][1], 16 * MIB);
				next += calls[n][1];
			}
			cr_assert_eq(next, 4096 + lengths[i], "all of it");
		}
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk_discard, error_ends_the_request)
{
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);

		fails_at = 3;
		failure = EIO;
		cr_assert_eq(discard(disk, 0, 256 * MIB), -EIO);
		cr_assert_eq(call_count, 3);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk_discard, device_that_cannot_discard_keeps_its_space)
{
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);

		fails_at = 1;
		failure = EOPNOTSUPP;
		cr_assert_eq(discard(disk, 0, 256 * MIB), 0);
		cr_assert_eq(call_count, 1);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk_discard, regular_file_that_cannot_punch_holes_keeps_its_space)
{
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);

		disk->is_block_device = false;
		cr_assert_eq(discard(disk, 0, 256 * MIB), 0);
		cr_assert_eq(call_count, 0);
		disk_close(disk);
	}
	remove_file(&file);
}

/* Begins two discards, both in the midst of their steps. */
static void begin_two(struct disk *disk, struct disk_request requests[2])
{
	for (unsigned int i = 0; i < 2; i++) {
		requests[i] = (struct disk_request) { .operation = DISK_DISCARD,
						      .offset_bytes = i * 256 * MIB,
						      .length_bytes = 256 * MIB };
		disk_submit(disk, &requests[i]);
	}
	disk_commit(disk);
	while (call_count < 4) {
		unsigned int before = call_count;
		eventfd_t count;
		struct pollfd pollfd = { .fd = disk_completion_fd(disk), .events = POLLIN };

		cr_assert_eq(poll(&pollfd, 1, 60000), 1);
		eventfd_read(pollfd.fd, &count);
		disk_poll(disk);
		assert_one_call_since(before);
		cr_assert_null(disk_reap(disk));
	}
}

Test(disk_discard, drain_finishes_what_is_in_the_midst)
{
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);
		struct disk_request requests[2];

		begin_two(disk, requests);
		disk_drain(disk);
		for (unsigned int i = 0; i < 2; i++)
			cr_assert_not_null(disk_reap(disk));
		cr_assert_null(disk_reap(disk));
		cr_assert_eq(requests[0].result, 0);
		cr_assert_eq(requests[1].result, 0);
		cr_assert_eq(call_count, 32);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk_discard, abandoned_it_ends_after_a_step)
{
	struct file file;

	make_file(&file, DEVICE_BYTES);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_device(&file);
		struct disk_request requests[2];
		unsigned int before;

		begin_two(disk, requests);
		before = call_count;
		disk_abandon(disk);
		cr_assert_leq(call_count, before + 2, "a step of each");
		for (unsigned int i = 0; i < 2; i++)
			cr_assert_not_null(disk_reap(disk));
		cr_assert_lt(requests[0].result, 0);
		cr_assert_lt(requests[1].result, 0);
		disk_close(disk);
	}
	remove_file(&file);
}
