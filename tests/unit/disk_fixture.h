/* What the tests of the disk share: a file, a drive on it, requests run to their end. */
#ifndef TESTS_UNIT_DISK_FIXTURE_H
#define TESTS_UNIT_DISK_FIXTURE_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mayfly/disk.h"

#define QUEUE 8

static const enum io_engine engines[] = { IO_ENGINE_SYNC, IO_ENGINE_ASYNC };

#define FOR_EACH_ENGINE(config) \
	for (size_t each = 0;   \
	     each < ARRAY_SIZE(engines) && ((config)->io_engine = engines[each], true); each++)

struct file {
	char path[64];
	struct drive_config config;
};

static char drive_id[] = "data";

/* A file of `bytes` in the test's own directory, and a drive on it. */
static inline void make_file(struct file *file, uint64_t bytes)
{
	int fd;

	*file = (struct file) { .path = "/var/tmp/mayfly-disk-test.XXXXXX" };
	fd = mkstemp(file->path);
	cr_assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
	file->config = (struct drive_config) {
		.drive_id = drive_id,
		.path_on_host = file->path,
		.cache_type = CACHE_WRITEBACK,
	};
}

static inline void remove_file(struct file *file)
{
	unlink(file->path);
}

static inline struct disk *open_disk(const struct drive_config *config)
{
	struct disk *disk = NULL;
	struct error err = { 0 };

	cr_assert_eq(disk_open(&disk, config, QUEUE, NULL, &err), 0, "%s", err.message);
	return disk;
}

/* Submits, starts, waits as the loop would, and reaps exactly once. */
static inline int run(struct disk *disk, struct disk_request *request)
{
	struct disk_request *done;
	eventfd_t count;

	disk_submit(disk, request);
	disk_commit(disk);
	while (disk_poll(disk), !(done = disk_reap(disk))) {
		struct pollfd pollfd = { .fd = disk_completion_fd(disk), .events = POLLIN };

		cr_assert(pollfd.fd >= 0);
		cr_assert_eq(poll(&pollfd, 1, 60000), 1, "no completion");
		eventfd_read(pollfd.fd, &count);
	}
	cr_assert_eq(done, request);
	cr_assert_null(disk_reap(disk));
	return request->result;
}

static inline int transfer(struct disk *disk, enum disk_operation operation, uint64_t offset,
			   void *data, size_t length)
{
	struct iovec iov = { data, length };
	struct disk_request request = {
		.operation = operation,
		.offset_bytes = offset,
		.length_bytes = length,
		.iov = &iov,
		.iov_count = 1,
	};

	return run(disk, &request);
}

static inline int range(struct disk *disk, enum disk_operation operation, uint64_t offset,
			uint64_t length, bool may_unmap)
{
	struct disk_request request = {
		.operation = operation,
		.may_unmap = may_unmap,
		.offset_bytes = offset,
		.length_bytes = length,
	};

	return run(disk, &request);
}

static inline uint64_t allocated(const struct file *file)
{
	struct stat status;

	cr_assert_eq(stat(file->path, &status), 0);
	return (uint64_t)status.st_blocks * 512;
}

static inline void fill(uint8_t *data, size_t length, unsigned int seed)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)((i + seed) % 251 + 1);
}

static inline bool all_zero(const uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (data[i])
			return false;
	}
	return true;
}

#endif
