/*
 * The disk behind a drive, devices/backend/: what requests do. Every behaviour holds for both
 * engines.
 */
#include "disk_fixture.h"

Test(disk, data_written_is_read_back)
{
	static uint8_t out[64 * 1024], in[sizeof(out)];
	struct file file;

	make_file(&file, 1 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);

		cr_assert_eq(disk_size_bytes(disk), 1 * MIB);
		fill(out, sizeof(out), (unsigned int)each);
		cr_assert_eq(transfer(disk, DISK_WRITE, 512 * 7, out, sizeof(out)), 0);
		cr_assert_eq(range(disk, DISK_FLUSH, 0, 0, false), 0);
		memset(in, 0, sizeof(in));
		cr_assert_eq(transfer(disk, DISK_READ, 512 * 7, in, sizeof(in)), 0);
		cr_assert_eq(memcmp(in, out, sizeof(in)), 0);
		cr_assert_eq(disk_sync(disk), 0);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk, scattered_memory_is_one_transfer)
{
	static uint8_t out[3][4096], in[3 * 4096];
	struct file file;

	make_file(&file, 1 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);
		struct iovec iov[3] = { { out[2], 4096 }, { out[0], 512 }, { out[1], 1536 } };
		struct disk_request request = {
			.operation = DISK_WRITE,
			.durable = true,
			.length_bytes = 6144,
			.iov = iov,
			.iov_count = 3,
		};

		fill(out[0], sizeof(out), 3);
		cr_assert_eq(run(disk, &request), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 0, in, 6144), 0);
		cr_assert_eq(memcmp(in, out[2], 4096), 0);
		cr_assert_eq(memcmp(in + 4096, out[0], 512), 0);
		cr_assert_eq(memcmp(in + 4608, out[1], 1536), 0);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk, as_many_requests_as_the_queue_holds_are_in_flight)
{
	static uint8_t data[QUEUE][4096], in[4096];
	struct file file;

	make_file(&file, 1 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);
		struct disk_request requests[QUEUE];
		struct iovec iov[QUEUE];
		unsigned int reaped;

		for (unsigned int round = 0; round < 100; round++) {
			for (unsigned int i = 0; i < QUEUE; i++) {
				fill(data[i], 4096, i + round);
				iov[i] = (struct iovec) { data[i], 4096 };
				requests[i] = (struct disk_request) {
					.operation = DISK_WRITE,
					.offset_bytes = 4096ULL * i,
					.length_bytes = 4096,
					.iov = &iov[i],
					.iov_count = 1,
				};
				disk_submit(disk, &requests[i]);
			}
			disk_commit(disk);
			disk_drain(disk);
			for (reaped = 0; disk_reap(disk); reaped++)
				;
			cr_assert_eq(reaped, QUEUE);
		}
		for (unsigned int i = 0; i < QUEUE; i++) {
			cr_assert_eq(requests[i].result, 0);
			cr_assert_eq(transfer(disk, DISK_READ, 4096ULL * i, in, 4096), 0);
			cr_assert_eq(memcmp(in, data[i], 4096), 0);
		}
		disk_close(disk);
	}
	remove_file(&file);
}

/* More than one step takes, in parts that fit no step. */
Test(disk, large_transfer_is_done_whole)
{
	static uint8_t out[9 * MIB + 512], in[sizeof(out)];
	struct file file;

	make_file(&file, 16 * MIB);
	fill(out, sizeof(out), 1);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);
		struct iovec iov[4] = {
			{ out, 5 * MIB },
			{ out + 5 * MIB, 512 },
			{ out + 5 * MIB + 512, 2 * MIB - 512 },
			{ out + 7 * MIB, 2 * MIB + 512 },
		};
		struct disk_request request = {
			.operation = DISK_WRITE,
			.offset_bytes = 512,
			.length_bytes = sizeof(out),
			.iov = iov,
			.iov_count = 4,
		};

		cr_assert_eq(run(disk, &request), 0);
		memset(in, 0, sizeof(in));
		cr_assert_eq(transfer(disk, DISK_READ, 512, in, sizeof(in)), 0);
		cr_assert_eq(memcmp(in, out, sizeof(in)), 0);
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk, abandoned_request_ends_early_and_leaves_its_memory_alone)
{
	static uint8_t data[8 * MIB];
	struct file file;

	make_file(&file, 16 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);
		struct iovec iov = { data, sizeof(data) };
		struct disk_request request = {
			.operation = DISK_READ,
			.length_bytes = sizeof(data),
			.iov = &iov,
			.iov_count = 1,
		};

		disk_submit(disk, &request);
		disk_abandon(disk);
		memset(data, 0x77, sizeof(data));
		cr_assert_eq(disk_reap(disk), &request);
		cr_assert_eq(request.result, -ECANCELED);
		cr_assert_null(disk_reap(disk));
		for (size_t i = 0; i < sizeof(data); i++)
			cr_assert_eq(data[i], 0x77);
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, 4096), 0,
			     "the next is whole again");
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk, drain_starts_what_was_not_committed)
{
	static uint8_t data[512];
	struct file file;

	make_file(&file, 4096);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);
		struct iovec iov = { data, sizeof(data) };
		struct disk_request request = {
			.operation = DISK_READ, .length_bytes = 512, .iov = &iov, .iov_count = 1
		};

		disk_submit(disk, &request);
		disk_drain(disk);
		cr_assert_eq(disk_reap(disk), &request);
		disk_submit(disk, &request);
		disk_close(disk); /* waits too */
	}
	remove_file(&file);
}

Test(disk, file_that_became_shorter_gives_an_error_and_no_hang)
{
	static uint8_t data[8192];
	struct file file;

	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk;

		make_file(&file, 64 * KIB);
		file.config.io_engine = engines[each];
		disk = open_disk(&file.config);
		cr_assert_eq(truncate(file.path, 4096), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, 4096), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, 8192), -EIO, "half of it is there");
		cr_assert_eq(transfer(disk, DISK_READ, 8192, data, 4096), -EIO);
		disk_close(disk);
		remove_file(&file);
	}
}

Test(disk, bad_memory_gives_an_error_and_the_next_request_goes_on)
{
	static uint8_t data[4096];
	struct file file;

	make_file(&file, 1 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);

		cr_assert_eq(transfer(disk, DISK_WRITE, 0, NULL, 4096), -EFAULT);
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, 4096), 0);
		disk_close(disk);
	}
	remove_file(&file);
}

/* A file system of 64 KiB, in a mount namespace of this test's process. */
static bool mount_small(const char *directory)
{
	int flags = geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER;

	return unshare(flags) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("none", directory, "tmpfs", 0, "size=64k") == 0;
}

Test(disk, full_disk_gives_an_error_and_the_next_request_goes_on)
{
	static uint8_t data[128 * 1024];
	char directory[] = "/var/tmp/mayfly-disk-full.XXXXXX", path[64];
	struct drive_config config = { .drive_id = drive_id, .path_on_host = path };
	int fd;

	cr_assert(mkdtemp(directory));
	if (!mount_small(directory)) {
		rmdir(directory);
		cr_skip_test("no mount namespace here");
	}
	snprintf(path, sizeof(path), "%s/disk", directory);
	fill(data, sizeof(data), 1);
	FOR_EACH_ENGINE(&config)
	{
		struct disk *disk;

		fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
		cr_assert(fd >= 0 && ftruncate(fd, 1 * MIB) == 0);
		close(fd);
		disk = open_disk(&config);
		cr_assert_eq(transfer(disk, DISK_WRITE, 0, data, sizeof(data)), -ENOSPC,
			     "half of it fits");
		cr_assert_eq(range(disk, DISK_DISCARD, 0, 64 * KIB, false), 0);
		cr_assert_eq(transfer(disk, DISK_WRITE, 512 * KIB, data, 4096), 0);
		disk_close(disk);
	}
	umount2(directory, MNT_DETACH);
	rmdir(directory);
}

Test(disk, discard_gives_space_back)
{
	static uint8_t data[1 * MIB], in[512];
	struct file file;
	uint64_t full;

	make_file(&file, 4 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);

		fill(data, sizeof(data), 1);
		for (unsigned int i = 0; i < 4; i++)
			cr_assert_eq(transfer(disk, DISK_WRITE, i * 1 * MIB, data, sizeof(data)),
				     0);
		cr_assert_eq(disk_sync(disk), 0);
		full = allocated(&file);
		cr_assert_geq(full, 4 * MIB);
		cr_assert_eq(range(disk, DISK_DISCARD, 1 * MIB, 2 * MIB, false), 0);
		cr_assert_leq(allocated(&file), full - 2 * MIB);
		cr_assert_eq(transfer(disk, DISK_READ, 1 * MIB - 512, in, 512), 0);
		cr_assert_eq(memcmp(in, data + sizeof(data) - 512, 512), 0,
			     "what is in front stays");
		cr_assert_eq(disk_size_bytes(disk), 4 * MIB);
		disk_close(disk);
	}
	remove_file(&file);
}

static void write_zeroes(struct file *file, bool may_unmap)
{
	static uint8_t data[2 * MIB], in[2 * MIB];
	struct disk *disk = open_disk(&file->config);
	uint64_t full;

	fill(data, sizeof(data), 5);
	cr_assert_eq(transfer(disk, DISK_WRITE, 0, data, sizeof(data)), 0);
	cr_assert_eq(disk_sync(disk), 0);
	full = allocated(file);
	cr_assert_eq(range(disk, DISK_WRITE_ZEROES, 512, 1 * MIB + 512 * 3, may_unmap), 0);
	cr_assert_eq(transfer(disk, DISK_READ, 0, in, sizeof(in)), 0);
	cr_assert_eq(memcmp(in, data, 512), 0);
	cr_assert(all_zero(in + 512, 1 * MIB + 512 * 3));
	cr_assert_eq(memcmp(in + 1 * MIB + 512 * 4, data + 1 * MIB + 512 * 4,
			    sizeof(in) - 1 * MIB - 512 * 4),
		     0);
	if (may_unmap)
		cr_assert_leq(allocated(file), full - 512 * KIB);
	else
		cr_assert_geq(allocated(file) + 64 * KIB, full, "the space stays");
	disk_close(disk);
}

Test(disk, write_zeroes_reads_back_as_zeros)
{
	struct file file;

	make_file(&file, 2 * MIB);
	FOR_EACH_ENGINE(&file.config)
	{
		write_zeroes(&file, false);
		write_zeroes(&file, true);
	}
	remove_file(&file);
}

/* memfd: tmpfs knows holes but no zeroed ranges, so the zeros are written. */
Test(disk, write_zeroes_works_where_the_file_system_cannot_zero)
{
	static uint8_t data[1 * MIB + 512], in[sizeof(data)];
	int fd = memfd_create("disk", MFD_CLOEXEC);
	char path[64];
	struct drive_config config = { .drive_id = drive_id, .path_on_host = path };

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	cr_assert_eq(ftruncate(fd, 2 * MIB), 0);
	FOR_EACH_ENGINE(&config)
	{
		struct disk *disk = open_disk(&config);

		fill(data, sizeof(data), 9);
		cr_assert_eq(transfer(disk, DISK_WRITE, 0, data, sizeof(data)), 0);
		/* Whole pages, in several steps, and a rest. */
		cr_assert_eq(range(disk, DISK_WRITE_ZEROES, 512, 1 * MIB - 512, false), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 0, in, sizeof(in)), 0);
		cr_assert_eq(memcmp(in, data, 512), 0);
		cr_assert(all_zero(in + 512, 1 * MIB - 512));
		cr_assert_eq(memcmp(in + 1 * MIB, data + 1 * MIB, 512), 0);
		disk_close(disk);
	}
	close(fd);
}
