/*
 * The Async engine's ring: what it can be asked for, and how it goes from a disk to the one that
 * takes its place. A filter of system calls sees neither what a ring does nor which of two files a
 * request is for.
 */
#include <dirent.h>

#include "devices/backend/disk_uring.h"
#include "disk_fixture.h"

/* Descriptors of this process that are rings, or all of them. */
static unsigned int count_descriptors(const char *kind)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	unsigned int count = 0;

	cr_assert_not_null(folder);
	while ((entry = readdir(folder))) {
		char target[64] = "";

		if (readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1) > 0)
			count += strstr(target, kind) != NULL;
	}
	closedir(folder);
	return count;
}

static struct disk *replace(const struct disk *old, const struct drive_config *config)
{
	struct disk *disk = NULL;
	struct error err = { 0 };

	cr_assert_eq(disk_open(&disk, config, QUEUE, old, &err), 0, "%s", err.message);
	return disk;
}

/* The result of one entry, put into the ring past the engine. */
static int result_of(struct disk *disk, void (*prepare)(struct io_uring_sqe *sqe))
{
	struct io_uring *ring = &disk->uring->ring;
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int result;

	prepare(sqe);
	cr_assert_eq(io_uring_submit(ring), 1);
	cr_assert_eq(io_uring_wait_cqe(ring, &cqe), 0);
	result = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return result;
}

static void prepare_open(struct io_uring_sqe *sqe)
{
	io_uring_prep_openat(sqe, AT_FDCWD, "/dev/null", O_RDONLY, 0);
}

static void prepare_socket(struct io_uring_sqe *sqe)
{
	io_uring_prep_socket(sqe, 1, 1, 0, 0);
}

static void prepare_close(struct io_uring_sqe *sqe)
{
	io_uring_prep_close(sqe, 0);
}

static void prepare_linked_nop(struct io_uring_sqe *sqe)
{
	io_uring_prep_nop(sqe);
	sqe->flags |= IOSQE_IO_LINK;
}

Test(disk_ring, does_what_a_disk_does_and_nothing_else)
{
	struct file file;
	struct disk *disk;
	char data[512];
	int pair[2];

	make_file(&file, 1 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	cr_assert_eq(result_of(disk, io_uring_prep_nop), 0);
	cr_assert_eq(result_of(disk, prepare_open), -EACCES);
	cr_assert_eq(result_of(disk, prepare_socket), -EACCES);
	cr_assert_eq(result_of(disk, prepare_close), -EACCES);
	cr_assert_eq(result_of(disk, prepare_linked_nop), -EACCES);
	/* Nor be given more than a file. */
	cr_assert_eq(pipe(pair), 0);
	cr_assert_eq(io_uring_register_eventfd(&disk->uring->ring, pair[0]), -EACCES);
	cr_assert_eq(io_uring_unregister_files(&disk->uring->ring), -EACCES);
	cr_assert_eq(transfer(disk, DISK_READ, 0, data, sizeof(data)), 0);
	close(pair[0]);
	close(pair[1]);
	disk_close(disk);
	remove_file(&file);
}

static bool is_signalled(const struct disk *disk)
{
	struct pollfd pollfd = { .fd = disk_completion_fd(disk), .events = POLLIN };
	eventfd_t count;

	return poll(&pollfd, 1, 0) == 1 && eventfd_read(pollfd.fd, &count) == 0;
}

/* Not every file system answers within the call, even what is in the page cache. */
static void must_answer_at_once(struct disk *disk)
{
	char data[512];

	for (unsigned int i = 0; i < 100 && !disk->uring->at_once; i++)
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, sizeof(data)), 0);
	if (!disk->uring->at_once)
		cr_skip_test("the file system of /var/tmp answers no read at once");
}

Test(disk_ring, what_the_page_cache_serves_wakes_nobody)
{
	char data[512];
	struct iovec iov = { data, sizeof(data) };
	struct file file;
	struct disk *disk;

	make_file(&file, 1 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	remove_file(&file);
	must_answer_at_once(disk);
	(void)is_signalled(disk);
	for (unsigned int i = 0; i < 10; i++) {
		struct disk_request request = { .operation = DISK_READ,
						.iov = &iov,
						.iov_count = 1,
						.length_bytes = sizeof(data) };

		disk_submit(disk, &request);
		disk_commit(disk);
		cr_assert_eq(disk_reap(disk), &request, "read %u", i);
		cr_assert_eq(request.result, 0);
		cr_assert(!is_signalled(disk), "read %u", i);
	}
	disk_close(disk);
}

/*
 * A FIFO in the file's place answers when it likes: behind the call that starts the read, in a
 * batch that was expected to end at once.
 */
Test(disk_ring, what_comes_later_after_all_is_told)
{
	char data[512] = "here";
	struct iovec iov = { data, sizeof(data) };
	struct file file;
	struct disk *disk;
	int pair[2];

	make_file(&file, 1 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	remove_file(&file);
	cr_assert_eq(pipe(pair), 0);
	for (unsigned int i = 0; i < 10; i++) {
		struct disk_request request = { .operation = DISK_READ,
						.iov = &iov,
						.iov_count = 1,
						.length_bytes = sizeof(data) };

		must_answer_at_once(disk);
		(void)is_signalled(disk);
		cr_assert_eq(io_uring_register_files_update(&disk->uring->ring, 0, &pair[0], 1), 1);
		disk_submit(disk, &request);
		disk_commit(disk);
		cr_assert_null(disk_reap(disk));
		cr_assert(is_signalled(disk), "the engine is to look once more");
		disk_poll(disk);
		cr_assert_null(disk_reap(disk));
		cr_assert_eq(write(pair[1], data, sizeof(data)), (ssize_t)sizeof(data));
		while (disk_poll(disk), !disk_reap(disk)) {
			struct pollfd pollfd = { disk_completion_fd(disk), POLLIN, 0 };

			cr_assert_eq(poll(&pollfd, 1, 60000), 1, "no completion");
			(void)is_signalled(disk);
		}
		cr_assert_eq(io_uring_register_files_update(&disk->uring->ring, 0, &disk->fd, 1),
			     1);
	}
	close(pair[0]);
	close(pair[1]);
	disk_close(disk);
}

Test(disk_ring, goes_to_the_disk_that_takes_the_place)
{
	uint8_t first[4096], second[4096], in[4096];
	struct file files[2];
	struct disk *old, *new;
	unsigned int all;

	make_file(&files[0], 1 * MIB);
	make_file(&files[1], 2 * MIB);
	memset(first, 1, sizeof(first));
	memset(second, 2, sizeof(second));
	FOR_EACH_ENGINE(&files[0].config)
	{
		files[1].config.io_engine = files[0].config.io_engine;
		old = open_disk(&files[0].config);
		cr_assert_eq(transfer(old, DISK_WRITE, 0, first, sizeof(first)), 0);
		all = count_descriptors("");
		for (unsigned int i = 1; i < 20; i++) {
			new = replace(old, &files[i % 2].config);
			cr_assert_eq(count_descriptors("io_uring"), each);
			/* The old one is still in use. */
			cr_assert_eq(transfer(old, DISK_READ, 0, in, sizeof(in)), 0);
			disk_close(old);
			cr_assert_eq(disk_size_bytes(new), (1 + i % 2) * MIB);
			if (i == 1)
				cr_assert_eq(transfer(new, DISK_WRITE, 0, second, sizeof(second)),
					     0);
			cr_assert_eq(range(new, DISK_FLUSH, 0, 0, false), 0);
			cr_assert_eq(transfer(new, DISK_READ, 0, in, sizeof(in)), 0);
			cr_assert_eq(memcmp(in, i % 2 ? second : first, sizeof(in)), 0, "swap %u",
				     i);
			cr_assert_eq(count_descriptors(""), all, "swap %u", i);
			old = new;
		}
		disk_close(old);
		cr_assert_eq(count_descriptors("io_uring"), 0);
	}
	remove_file(&files[0]);
	remove_file(&files[1]);
}

Test(disk_ring, stays_where_it_is_when_the_swap_is_given_up)
{
	struct file files[2];
	struct disk *old, *new;
	uint8_t data[512];

	make_file(&files[0], 1 * MIB);
	make_file(&files[1], 2 * MIB);
	FOR_EACH_ENGINE(&files[0].config)
	{
		files[1].config.io_engine = files[0].config.io_engine;
		old = open_disk(&files[0].config);
		for (unsigned int i = 0; i < 3; i++) {
			new = replace(old, &files[1].config);
			disk_close(new);
			cr_assert_eq(transfer(old, DISK_READ, 0, data, sizeof(data)), 0);
		}
		disk_close(old);
	}
	remove_file(&files[0]);
	remove_file(&files[1]);
}
