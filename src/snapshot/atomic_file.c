/* Files that appear complete or not at all: see include/mayfly/atomic_file.h. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mayfly/atomic_file.h"

#define FILE_MODE   0600
#define NAME_TRIES  16
#define EXTRA_BYTES 32 /* for what is put behind a file's name */

static int open_folder(struct atomic_file *file, const char *path, struct error *err)
{
	const char *slash = strrchr(path, '/');
	cleanup_free char *folder = NULL;

	file->name = strdup(slash ? slash + 1 : path);
	if (!slash)
		folder = strdup(".");
	else
		folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	if (!file->name || !folder)
		return error_set(err, ENOMEM, "no memory for its name");
	if (!*file->name)
		return error_set(err, EINVAL, "the path names no file");
	file->folder_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (file->folder_fd < 0)
		return error_errno(err, "the folder %s cannot be opened", folder);
	return 0;
}

static int check_existing(const struct atomic_file *file, struct error *err)
{
	struct stat status;

	if (fstatat(file->folder_fd, file->name, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : error_errno(err, "it cannot be examined");
	if (!S_ISREG(status.st_mode))
		return error_set(err, EEXIST, "something is there that is no regular file");
	return 0;
}

/*
 * A name for the temporary file that nothing has yet, by `take`, which fails with EEXIST. The time
 * makes it likely that the first one is free; nothing hangs on nobody's knowing it.
 */
static int take_name(struct atomic_file *file, int (*take)(struct atomic_file *, const char *),
		     struct error *err)
{
	size_t size = strlen(file->name) + EXTRA_BYTES;

	file->temporary = malloc(size);
	if (!file->temporary)
		return error_set(err, ENOMEM, "no memory for its name");
	for (unsigned int i = 0; i < NAME_TRIES; i++) {
		snprintf(file->temporary, size, "%s.part-%016llx", file->name,
			 (unsigned long long)clock_ns(CLOCK_REALTIME));
		if (take(file, file->temporary) == 0)
			return 0;
		if (errno != EEXIST)
			break;
	}
	free(file->temporary);
	file->temporary = NULL;
	return error_errno(err, "no file can be made beside it");
}

static int take_by_open(struct atomic_file *file, const char *name)
{
	file->fd = openat(file->folder_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
			  FILE_MODE);
	return file->fd < 0 ? -1 : 0;
}

/* Without /proc (as in a jail) a file without a name can get none. */
static int take_by_link(struct atomic_file *file, const char *name)
{
	char self[32];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", file->fd);
	return linkat(AT_FDCWD, self, file->folder_fd, name, AT_SYMLINK_FOLLOW);
}

/* And usable: it is root's where the program's file cannot be read by its user. */
static bool proc_is_there(void)
{
	struct stat status;

	return lstat("/proc/self/fd/.", &status) == 0;
}

static int open_file(struct atomic_file *file, const char *path, struct error *err)
{
	int result = open_folder(file, path, err);

	if (result == 0)
		result = check_existing(file, err);
	if (result < 0)
		return result;
	if (proc_is_there())
		file->fd = openat(file->folder_fd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, FILE_MODE);
	if (file->fd < 0)
		result = take_name(file, take_by_open, err);
	return result;
}

int atomic_file_open(struct atomic_file *file, const char *path, struct error *err)
{
	*file = (struct atomic_file) { .fd = -1, .folder_fd = -1 };
	if (open_file(file, path, err) < 0) {
		atomic_file_close(file);
		return error_prefix(err, "%s cannot be written", path);
	}
	return 0;
}

int atomic_file_write(struct atomic_file *file, const void *bytes, size_t length_bytes,
		      uint64_t offset, struct error *err)
{
	if (!write_all_at(file->fd, bytes, length_bytes, offset))
		return error_errno(err, "%s cannot be written", file->name);
	return 0;
}

bool atomic_file_is_same(const struct atomic_file *file, const struct atomic_file *other)
{
	struct stat one, two;

	return strcmp(file->name, other->name) == 0 && fstat(file->folder_fd, &one) == 0 &&
	       fstat(other->folder_fd, &two) == 0 && one.st_dev == two.st_dev &&
	       one.st_ino == two.st_ino;
}

int atomic_file_flush(struct atomic_file *file, struct error *err)
{
	if (fsync(file->fd) < 0)
		return error_errno(err, "%s cannot be written to its disk", file->name);
	return 0;
}

static void flush_folder(const struct atomic_file *file)
{
	cleanup_fd int fd = openat(file->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	/* A folder that can be written but not read cannot be flushed: its disk does it later. */
	if (fd >= 0)
		(void)fsync(fd);
}

int atomic_file_commit(struct atomic_file *file, struct error *err)
{
	int result = 0;

	if (!file->temporary)
		result = take_name(file, take_by_link, err);
	if (result < 0)
		return error_prefix(err, "%s cannot be written", file->name);
	if (renameat(file->folder_fd, file->temporary, file->folder_fd, file->name) < 0)
		return error_errno(err, "%s cannot be put in its place", file->name);
	free(file->temporary);
	file->temporary = NULL;
	flush_folder(file);
	return 0;
}

void atomic_file_close(struct atomic_file *file)
{
	if (file->temporary)
		(void)unlinkat(file->folder_fd, file->temporary, 0);
	close_fd(&file->fd);
	close_fd(&file->folder_fd);
	free(file->temporary);
	free(file->name);
	file->temporary = file->name = NULL;
}
