/* Paths that cannot be led astray: see paths.h. openat2(2). */
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>

#include "paths.h"

const char *path_last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

bool path_check_name(const char *name)
{
	if (!*name)
		return false;
	while (*name) {
		size_t length = strcspn(name, "/");

		if (length == 0 || length > NAME_MAX || strncmp(name, ".", length) == 0 ||
		    (length == 2 && strncmp(name, "..", 2) == 0))
			return false;
		name += length;
		/* A slash at the end leaves an empty name behind it. */
		if (*name == '/' && !*++name)
			return false;
	}
	return true;
}

int path_check(const char *what, const char *path, struct error *err)
{
	if (!*path)
		return error_set(err, EINVAL, "%s needs a path behind it.", what);
	if (strlen(path) >= PATH_MAX)
		return error_set(err, ENAMETOOLONG, "%s: the path is longer than %d bytes.", what,
				 PATH_MAX - 1);
	for (const char *name = path; *name; name += strspn(name, "/")) {
		size_t length = strcspn(name, "/");

		if (length == 2 && strncmp(name, "..", 2) == 0)
			return error_set(err, EINVAL,
					 "%s %s: a path with '..' is not taken; write it without.",
					 what, path);
		name += length;
	}
	return 0;
}

static int open_how(int dir, const char *path, const struct open_how *how)
{
	long fd = syscall(SYS_openat2, dir, path, how, sizeof(*how));

	return fd < 0 ? -errno : (int)fd;
}

int path_open(const char *path, int flags)
{
	struct open_how how = { .flags = (unsigned int)flags | O_CLOEXEC,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };

	return open_how(AT_FDCWD, path, &how);
}

int path_open_beneath(int dir, const char *path, int flags, mode_t mode)
{
	struct open_how how = { .flags = (unsigned int)flags | O_CLOEXEC,
				.mode = flags & O_CREAT ? mode : 0,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS |
					   RESOLVE_NO_MAGICLINKS };

	return open_how(dir, path, &how);
}

int path_open_argument(const char *what, const char *path, struct error *err)
{
	int fd = path_open(path, O_PATH);

	if (fd >= 0)
		return fd;
	if (errno == ELOOP)
		return error_set(err, ELOOP,
				 "%s %s: there is a symbolic link in this path. Give the real one: "
				 "realpath %s",
				 what, path, path);
	if (errno == ENOSYS)
		return error_set(err, ENOSYS,
				 "%s %s: this kernel has no openat2: it takes 5.12 or "
				 "later",
				 what, path);
	return error_errno(err, "%s %s", what, path);
}

int path_make_directory(int dir, const char *name, mode_t mode, bool *made)
{
	int fd;

	*made = mkdirat(dir, name, mode) == 0;
	if (!*made && errno != EEXIST)
		return -errno;
	fd = path_open_beneath(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
	if (fd >= 0 && *made && fchmod(fd, mode) < 0) {
		int saved = errno;

		close(fd);
		errno = saved;
		return -errno;
	}
	return fd;
}

int path_write_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t written = write(fd, text, length);

		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		text += written;
		length -= (size_t)written;
	}
	return 0;
}

long path_read_small(int dir, const char *name, char *text, size_t size)
{
	/* O_NONBLOCK: somebody may have put a FIFO there. */
	cleanup_fd int fd = path_open_beneath(dir, name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
	size_t length = 0;

	if (fd < 0)
		return fd;
	while (length < size - 1) {
		ssize_t got = read(fd, text + length, size - 1 - length);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		length += (size_t)got;
	}
	text[length] = '\0';
	return (long)length;
}
