/*
 * Opening a drive's file: what it may be, and who else may have it open. See include/mayfly/disk.h.
 *
 * Two machines that write one file destroy the file system in it, so a file is locked while it is
 * open: by an open file description lock (fcntl(2), F_OFD_SETLK) over all of it, exclusive for a
 * writer. Such locks also meet the byte-range locks of other monitors, and go with the last
 * descriptor, however the process ends. A block device can have several nodes, whose locks do not
 * meet; a writer of one claims the device itself with O_EXCL, which the kernel's own users (mounted
 * file systems, md, dm) do too.
 *
 * The lock has a descriptor of its own. The one for I/O is registered with io_uring, which lets go
 * of it some time after the ring is closed or the process is dead: too late for a successor that is
 * started at once.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "disk_private.h"

static int refuse_type(const struct drive_config *config, mode_t mode, struct error *err)
{
	const char *what = S_ISDIR(mode)    ? "a directory"
			   : S_ISCHR(mode)  ? "a character device"
			   : S_ISFIFO(mode) ? "a FIFO"
			   : S_ISSOCK(mode) ? "a socket"
					    : "of an unknown type";

	return error_set(err, EINVAL,
			 "drive %s: %s is %s; it must be a regular file or a block device",
			 config->drive_id, config->path_on_host, what);
}

static int refuse_busy(const struct drive_config *config, struct error *err)
{
	return error_set(err, EBUSY, "drive %s: %s is in use by another process or another drive%s",
			 config->drive_id, config->path_on_host,
			 config->is_read_only
				 ? ", which writes to it"
				 : ", or mounted; two writers would destroy what is in it");
}

static bool same_file(const struct stat *status, const struct disk *disk)
{
	if (S_ISBLK(status->st_mode) != disk->is_block_device)
		return false;
	if (S_ISBLK(status->st_mode))
		return status->st_rdev == disk->device_id;
	return status->st_dev == disk->device_id && status->st_ino == disk->inode;
}

/*
 * Opens the file, which is the one that `disk` says. O_NONBLOCK keeps the open from waiting should
 * it have been exchanged for a FIFO since; it must not stay, since io_uring would fail what it
 * cannot do at once.
 */
static int open_file(const struct disk *disk, const struct drive_config *config, int extra_flags,
		     int *fd, struct error *err)
{
	int flags = (config->is_read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	struct stat status;

	*fd = open(config->path_on_host, flags | extra_flags);
	if (*fd < 0 && errno == EBUSY)
		return refuse_busy(config, err);
	if (*fd < 0)
		return error_errno(err, "drive %s: cannot open %s", config->drive_id,
				   config->path_on_host);
	if (fstat(*fd, &status) < 0 || fcntl(*fd, F_SETFL, 0) < 0)
		return error_errno(err, "drive %s: cannot examine %s", config->drive_id,
				   config->path_on_host);
	if (!same_file(&status, disk))
		return error_set(err, EAGAIN,
				 "drive %s: %s was exchanged for another file just now",
				 config->drive_id, config->path_on_host);
	return 0;
}

/* Where it is only to be known whether the lock can be had, it is not taken. */
static int lock_file(struct disk *disk, const struct drive_config *config, bool only_ask,
		     struct error *err)
{
	struct flock lock = { .l_type = config->is_read_only ? F_RDLCK : F_WRLCK,
			      .l_whence = SEEK_SET };
	bool claim = disk->is_block_device && !config->is_read_only;
	int result = open_file(disk, config, claim ? O_EXCL : 0, &disk->lock_fd, err);

	if (result < 0)
		return result;
	result = fcntl(disk->lock_fd, only_ask ? F_OFD_GETLK : F_OFD_SETLK, &lock);
	if (result == 0 && only_ask && lock.l_type != F_UNLCK)
		return refuse_busy(config, err);
	if (result == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return refuse_busy(config, err);
	return error_errno(err, "drive %s: cannot lock %s", config->drive_id, config->path_on_host);
}

/* The lock that the replaced disk holds on the same file. */
static int share_lock(struct disk *disk, const struct drive_config *config,
		      const struct disk *replaced, struct error *err)
{
	disk->lock_fd = fcntl(replaced->lock_fd, F_DUPFD_CLOEXEC, 0);
	if (disk->lock_fd < 0)
		return error_errno(err, "drive %s: cannot share the lock of %s", config->drive_id,
				   config->path_on_host);
	return 0;
}

static int measure(struct disk *disk, const struct drive_config *config, struct error *err)
{
	struct stat status;

	if (fstat(disk->fd, &status) < 0)
		return error_errno(err, "drive %s: cannot examine %s", config->drive_id,
				   config->path_on_host);
	disk->size_bytes = (uint64_t)status.st_size;
	if (disk->is_block_device && ioctl(disk->fd, BLKGETSIZE64, &disk->size_bytes) < 0)
		return error_errno(err, "drive %s: cannot read the size of %s", config->drive_id,
				   config->path_on_host);
	if (disk->size_bytes == 0)
		return error_set(err, EINVAL, "drive %s: %s is empty", config->drive_id,
				 config->path_on_host);
	if (disk->size_bytes % DISK_SECTOR_BYTES)
		return error_set(err, EINVAL,
				 "drive %s: %s has %llu bytes, which is not a multiple of %llu",
				 config->drive_id, config->path_on_host,
				 (unsigned long long)disk->size_bytes, DISK_SECTOR_BYTES);
	return 0;
}

/*
 * Opens, locks (or asks whether it could) and measures. What it opened is the caller's to close,
 * also on failure.
 */
static int prepare(struct disk *disk, const struct drive_config *config,
		   const struct disk *replaced, bool only_ask, struct error *err)
{
	struct stat status;
	int result;

	if (stat(config->path_on_host, &status) < 0)
		return error_errno(err, "drive %s: cannot open %s", config->drive_id,
				   config->path_on_host);
	if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
		return refuse_type(config, status.st_mode, err);
	disk->is_block_device = S_ISBLK(status.st_mode);
	disk->read_only = config->is_read_only;
	disk->cache_type = config->cache_type;
	disk->device_id = disk->is_block_device ? status.st_rdev : status.st_dev;
	disk->inode = status.st_ino;
	if (replaced && replaced->read_only == disk->read_only && same_file(&status, replaced))
		result = share_lock(disk, config, replaced, err);
	else
		result = lock_file(disk, config, only_ask, err);
	if (result == 0)
		result = open_file(disk, config, 0, &disk->fd, err);
	return result < 0 ? result : measure(disk, config, err);
}

static void init(struct disk *disk)
{
	*disk = (struct disk) { .fd = -1, .lock_fd = -1, .completion_fd = -1 };
	disk->finished_end = &disk->finished;
}

static void close_files(struct disk *disk)
{
	close_fd(&disk->fd);
	close_fd(&disk->lock_fd);
}

int disk_check(const struct drive_config *config, struct error *err)
{
	struct disk disk;
	int result;

	init(&disk);
	result = prepare(&disk, config, NULL, true, err);
	close_files(&disk);
	return result;
}

int disk_open(struct disk **out, const struct drive_config *config, unsigned int queue_size,
	      const struct disk *replaced, struct error *err)
{
	struct disk *disk = malloc(sizeof(*disk));
	int result;

	if (!disk)
		return error_set(err, ENOMEM, "drive %s: no memory", config->drive_id);
	init(disk);
	result = prepare(disk, config, replaced, false, err);
	if (result == 0) {
		disk->engine = config->io_engine == IO_ENGINE_ASYNC ? &disk_engine_uring
								    : &disk_engine_sync;
		result = disk->engine->start(disk, queue_size, replaced, err);
		if (result < 0)
			error_prefix(err, "drive %s", config->drive_id);
	}
	if (result < 0) {
		close_files(disk);
		free(disk);
		return result;
	}
	*out = disk;
	return 0;
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	disk_drain(disk);
	disk->engine->stop(disk);
	close_files(disk);
	free(disk);
}

uint64_t disk_size_bytes(const struct disk *disk)
{
	return disk->size_bytes;
}

bool disk_is_read_only(const struct disk *disk)
{
	return disk->read_only;
}

enum cache_type disk_cache_type(const struct disk *disk)
{
	return disk->cache_type;
}

int disk_completion_fd(const struct disk *disk)
{
	return disk->completion_fd;
}
