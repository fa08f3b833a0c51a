/* The disk behind a drive, devices/backend/: what is opened, refused and locked. */
#include <pthread.h>

#include "disk_fixture.h"

/* The refusal names the drive and holds `words`; the check at configuration time says the same. */
static void refuses(const struct drive_config *config, int code, const char *words)
{
	struct disk *disk = NULL;
	struct error err = { 0 };

	cr_assert_eq(disk_open(&disk, config, QUEUE, NULL, &err), -code, "%s", err.message);
	cr_assert_null(disk);
	cr_assert_eq(strncmp(err.message, "drive data: ", 12), 0, "it says: %s", err.message);
	cr_assert(strstr(err.message, words) && strstr(err.message, config->path_on_host),
		  "it says: %s", err.message);
	memset(&err, 0, sizeof(err));
	cr_assert_eq(disk_check(config, &err), -code);
	cr_assert(strstr(err.message, words), "it says: %s", err.message);
}

static _Atomic bool checks_are_over;

static void *check_again_and_again(void *config)
{
	struct error err = { 0 };

	for (unsigned int i = 0; i < 3000; i++)
		(void)!disk_check(config, &err);
	checks_are_over = true;
	return NULL;
}

Test(disk, a_check_does_not_stand_in_the_way_of_an_open)
{
	struct error err = { 0 };
	struct file file;
	struct disk *disk;
	pthread_t thread;

	make_file(&file, 1 * MIB);
	cr_assert_eq(pthread_create(&thread, NULL, check_again_and_again, &file.config), 0);
	while (!checks_are_over) {
		cr_assert_eq(disk_open(&disk, &file.config, QUEUE, NULL, &err), 0, "%s",
			     err.message);
		disk_close(disk);
	}
	pthread_join(thread, NULL);
	remove_file(&file);
}

Test(disk, what_is_no_disk_is_refused)
{
	struct drive_config config = { .drive_id = drive_id };
	char fifo[] = "/var/tmp/mayfly-disk-fifo.XXXXXX";
	char missing[] = "/var/tmp/mayfly-no-such-file", directory[] = "/var/tmp",
	     character[] = "/dev/null";
	char below_file[] = "/etc/passwd/x";

	config.path_on_host = missing;
	refuses(&config, ENOENT, "No such file");
	config.path_on_host = below_file;
	refuses(&config, ENOTDIR, "cannot open");
	config.path_on_host = directory;
	refuses(&config, EINVAL, "a directory");
	config.path_on_host = character;
	refuses(&config, EINVAL, "a character device");
	close(mkstemp(fifo));
	unlink(fifo);
	cr_assert_eq(mkfifo(fifo, 0600), 0);
	config.path_on_host = fifo;
	refuses(&config, EINVAL, "a FIFO");
	unlink(fifo);
}

Test(disk, size_that_is_no_disk_is_refused)
{
	struct file file;

	make_file(&file, 0);
	refuses(&file.config, EINVAL, "is empty");
	cr_assert_eq(truncate(file.path, 1000), 0);
	refuses(&file.config, EINVAL, "1000 bytes");
	cr_assert_eq(truncate(file.path, 511), 0);
	refuses(&file.config, EINVAL, "511 bytes");
	cr_assert_eq(truncate(file.path, 512), 0);
	disk_close(open_disk(&file.config));
	remove_file(&file);
}

/* Root reads everything, so the question is asked as nobody. */
Test(disk, file_without_permission_is_refused)
{
	struct file file;
	int status;
	pid_t child;

	make_file(&file, 4096);
	cr_assert_eq(chmod(file.path, 0), 0);
	child = fork();
	if (child == 0) {
		struct disk *disk;
		struct error err = { 0 };

		if (geteuid() == 0 && setuid(65534) < 0)
			_exit(2);
		_exit(disk_open(&disk, &file.config, QUEUE, NULL, &err) == -EACCES &&
				      strstr(err.message, "Permission denied")
			      ? 0
			      : 1);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x",
		  (unsigned int)status);
	remove_file(&file);
}

Test(disk, two_writers_are_refused)
{
	struct file file;

	make_file(&file, 4096);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);

		refuses(&file.config, EBUSY, "in use by another process or another drive");
		disk_close(disk);
		disk_close(open_disk(&file.config));
	}
	remove_file(&file);
}

Test(disk, readers_share_and_keep_writers_out)
{
	struct file file;
	struct drive_config reader;
	struct disk *first, *second, *writer;

	make_file(&file, 4096);
	reader = file.config;
	reader.is_read_only = true;
	first = open_disk(&reader);
	second = open_disk(&reader);
	refuses(&file.config, EBUSY, "in use by another process");
	disk_close(first);
	refuses(&file.config, EBUSY, "in use by another process");
	disk_close(second);
	writer = open_disk(&file.config);
	refuses(&reader, EBUSY, "which writes to it");
	disk_close(writer);
	remove_file(&file);
}

Test(disk, lock_goes_with_a_process_that_was_killed)
{
	struct file file;
	int ready[2], status;
	char byte;
	pid_t child;

	make_file(&file, 4096);
	cr_assert_eq(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		open_disk(&file.config);
		(void)!write(ready[1], "x", 1);
		pause();
		_exit(0);
	}
	cr_assert_eq(read(ready[0], &byte, 1), 1);
	refuses(&file.config, EBUSY, "in use");
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	disk_close(open_disk(&file.config));
	close(ready[0]);
	close(ready[1]);
	remove_file(&file);
}

Test(disk, same_file_can_replace_itself_with_another_size)
{
	struct file file;

	make_file(&file, 4096);
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *old = open_disk(&file.config), *disk;
		struct error err = { 0 };

		cr_assert_eq(truncate(file.path, (off_t)(8192 * (each + 1))), 0);
		cr_assert_eq(disk_open(&disk, &file.config, QUEUE, old, &err), 0, "%s",
			     err.message);
		disk_close(old);
		cr_assert_eq(disk_size_bytes(disk), 8192 * (each + 1));
		refuses(&file.config, EBUSY, "in use"); /* still locked */
		disk_close(disk);
	}
	remove_file(&file);
}

Test(disk, read_only_disk_refuses_writes)
{
	static uint8_t data[512];
	struct file file;

	make_file(&file, 4096);
	cr_assert_eq(chmod(file.path, 0400), 0);
	file.config.is_read_only = true;
	FOR_EACH_ENGINE(&file.config)
	{
		struct disk *disk = open_disk(&file.config);

		cr_assert(disk_is_read_only(disk));
		cr_assert_eq(transfer(disk, DISK_READ, 0, data, 512), 0);
		cr_assert_eq(transfer(disk, DISK_WRITE, 0, data, 512), -EBADF);
		disk_close(disk);
	}
	remove_file(&file);
}

/*
 * Makes a system call fail in this test's process, as container runtimes and hardened kernels do.
 */
static void forbid_by(struct sock_filter *filter, unsigned short length)
{
	struct sock_fprog program = { length, filter };

	cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void forbid(unsigned int system_call, unsigned int code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	forbid_by(filter, ARRAY_SIZE(filter));
}

/* io_uring_enter(2), but only for this many requests at once. */
static void forbid_batches_of(unsigned int count, unsigned int code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, count, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};

	forbid_by(filter, ARRAY_SIZE(filter));
}

static void told_of_the_sync_engine(unsigned int code)
{
	struct file file;
	struct disk *disk;
	struct error err = { 0 };

	make_file(&file, 4096);
	file.config.io_engine = IO_ENGINE_ASYNC;
	forbid(SYS_io_uring_setup, code);
	cr_assert_eq(disk_open(&disk, &file.config, QUEUE, NULL, &err), -(int)code);
	cr_assert(strstr(err.message, "drive data: io_engine Async needs io_uring"), "it says: %s",
		  err.message);
	cr_assert(strstr(err.message, "set io_engine to Sync"), "it says: %s", err.message);
	file.config.io_engine = IO_ENGINE_SYNC;
	disk_close(open_disk(&file.config)); /* and nothing was left locked */
	remove_file(&file);
}

Test(disk, host_that_forbids_io_uring_is_told_of_the_sync_engine)
{
	told_of_the_sync_engine(EPERM);
}

Test(disk, host_without_io_uring_is_told_of_the_sync_engine)
{
	told_of_the_sync_engine(ENOSYS);
}

/*
 * When the kernel stops taking requests on a ring that works, they are done by plain system calls.
 */
Test(disk, requests_that_the_ring_does_not_take_are_done_plainly)
{
	static uint8_t out[3][4096], in[4096];
	struct file file;
	struct disk *disk;

	make_file(&file, 1 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	fill(out[0], sizeof(out), 7);
	cr_assert_eq(transfer(disk, DISK_WRITE, 0, out[0], 4096), 0);
	forbid(SYS_io_uring_enter, ENOMEM);
	/* More than the ring holds: what was not taken stays in its queue, as nothing. */
	for (unsigned int i = 0; i < 3 * QUEUE; i++) {
		cr_assert_eq(transfer(disk, DISK_WRITE, 4096, out[1 + i % 2], 4096), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 4096, in, 4096), 0);
		cr_assert_eq(memcmp(in, out[1 + i % 2], 4096), 0);
	}
	cr_assert_eq(range(disk, DISK_FLUSH, 0, 0, false), 0);
	disk_close(disk);
	remove_file(&file);
}

Test(disk, ring_goes_on_after_a_batch_that_it_did_not_take)
{
	static uint8_t data[3][4096], in[4096];
	struct file file;
	struct disk *disk;

	make_file(&file, 1 * MIB);
	file.config.io_engine = IO_ENGINE_ASYNC;
	disk = open_disk(&file.config);
	forbid_batches_of(3, EBUSY);
	for (unsigned int round = 0; round < 20; round++) {
		struct disk_request requests[3];
		struct iovec iov[3];
		unsigned int reaped = 0;

		for (unsigned int i = 0; i < 3; i++) {
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
		while (disk_reap(disk))
			reaped++;
		cr_assert_eq(reaped, 3);
		/* The next goes through the ring, behind the three that became nothing. */
		for (unsigned int i = 0; i < 3; i++) {
			cr_assert_eq(transfer(disk, DISK_READ, 4096ULL * i, in, 4096), 0);
			cr_assert_eq(memcmp(in, data[i], 4096), 0);
		}
	}
	disk_close(disk);
	remove_file(&file);
}

/*
 * A loop device on `file`; -1 where there is none to be had. The path is of a node made for the
 * test.
 */
static int attach_loop(const struct file *file, char *path, size_t path_bytes)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	int backing = open(file->path, O_RDWR | O_CLOEXEC), loop = -1;
	struct loop_config setup = { .info.lo_flags =
					     LO_FLAGS_AUTOCLEAR }; /* goes with its last user */

	close(control);
	if (number >= 0) {
		snprintf(path, path_bytes, "/dev/loop%d", number);
		loop = open(path, O_RDWR | O_CLOEXEC);
	}
	setup.fd = (uint32_t)backing;
	if (loop >= 0 && ioctl(loop, LOOP_CONFIGURE, &setup) < 0) {
		close(loop);
		loop = -1;
	}
	close(backing);
	return loop;
}

Test(disk, block_device_is_a_disk)
{
	static uint8_t out[64 * 1024], in[sizeof(out)];
	struct file file;
	struct stat status;
	char path[64], twin[] = "/var/tmp/mayfly-disk-node.XXXXXX";
	struct drive_config config;
	int loop;

	make_file(&file, 1 * MIB);
	loop = attach_loop(&file, path, sizeof(path));
	if (loop < 0) {
		remove_file(&file);
		cr_skip_test("no loop devices here");
	}
	close(mkstemp(twin));
	unlink(twin);
	cr_assert_eq(fstat(loop, &status), 0);
	cr_assert_eq(mknod(twin, S_IFBLK | 0600, status.st_rdev), 0);
	config = file.config;
	FOR_EACH_ENGINE(&config)
	{
		struct disk *disk, *again;
		struct error err = { 0 };

		config.path_on_host = path;
		disk = open_disk(&config);
		cr_assert_eq(disk_size_bytes(disk), 1 * MIB);
		fill(out, sizeof(out), (unsigned int)each);
		cr_assert_eq(transfer(disk, DISK_WRITE, 4096, out, sizeof(out)), 0);
		cr_assert_eq(range(disk, DISK_FLUSH, 0, 0, false), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 4096, in, sizeof(in)), 0);
		cr_assert_eq(memcmp(in, out, sizeof(in)), 0);
		cr_assert_eq(range(disk, DISK_DISCARD, 0, 512 * KIB, false), 0);
		cr_assert_eq(transfer(disk, DISK_WRITE, 4096, out, sizeof(out)), 0);
		cr_assert_eq(range(disk, DISK_WRITE_ZEROES, 4096, sizeof(out), each), 0);
		cr_assert_eq(transfer(disk, DISK_READ, 4096, in, sizeof(in)), 0);
		cr_assert(all_zero(in, sizeof(in)));

		/* Another node of the same device is the same device. */
		config.path_on_host = twin;
		refuses(&config, EBUSY, "in use by another process");
		cr_assert_eq(disk_open(&again, &config, QUEUE, disk, &err), 0, "%s", err.message);
		disk_close(disk);
		disk_close(again);
	}
	close(loop);
	unlink(twin);
	remove_file(&file);
}
