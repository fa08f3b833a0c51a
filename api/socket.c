/*
 * The listening socket's life as a file: unix(7).
 *
 * Whoever may write to the socket's file may command this machine, so the file must never be open
 * to others, not even between bind and chmod. Linux gives the file the mode of the socket's own
 * inode less the umask (net/unix/af_unix.c, unix_bind_bsd), so it is set there first; the process's
 * umask is left alone.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "socket.h"

/* Pending connections; more than are served, so that one too many is told so. */
#define BACKLOG 64

#define ADVICE "Choose another path with --api-sock."

/* 0 when somebody listens there, ECONNREFUSED when nobody does, else why that stays unknown. */
static int look_for_listener(const struct sockaddr_un *address)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	/* A full backlog has its listener too. */
	return errno == EAGAIN ? 0 : errno;
}

static int refuse_existing(const struct sockaddr_un *address, struct error *err)
{
	const char *path = address->sun_path;
	struct stat status;

	if (lstat(path, &status) == 0 && !S_ISSOCK(status.st_mode))
		return error_set(err, EADDRINUSE,
				 "cannot make the API socket %s: a file that is no socket has this "
				 "name. " ADVICE,
				 path);
	errno = look_for_listener(address);
	if (errno == 0)
		return error_set(
			err, EADDRINUSE,
			"cannot make the API socket %s: another process listens there. " ADVICE,
			path);
	if (errno == ECONNREFUSED)
		return error_set(
			err, EADDRINUSE,
			"cannot make the API socket %s: it exists already, and nobody listens there. "
			"Remove it (rm %s), or choose another path with --api-sock.",
			path, path);
	/* Another user's socket (EACCES), or one of another type: it may well be in use. */
	return error_errno(err,
			   "cannot make the API socket %s: it exists already and may be in use "
			   "(choose another path with --api-sock)",
			   path);
}

static int bind_socket(struct api_socket *socket, const struct sockaddr_un *address,
		       struct error *err)
{
	const char *path = address->sun_path;

	if (fchmod(socket->fd, 0600) < 0)
		return error_errno(err, "cannot make the API socket %s private", path);
	if (bind(socket->fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
		return 0;
	if (errno == EADDRINUSE)
		return refuse_existing(address, err);
	if (errno == ENOENT)
		return error_errno(
			err, "cannot make the API socket %s: its directory does not exist", path);
	if (errno == EACCES)
		return error_errno(err,
				   "cannot make the API socket %s: this user may not write to its "
				   "directory (choose another path with --api-sock)",
				   path);
	return error_errno(err, "cannot make the API socket %s", path);
}

/* Remembers the file that bind made. */
static int adopt_file(struct api_socket *socket, const struct sockaddr_un *address,
		      struct error *err)
{
	struct stat status;

	if (lstat(address->sun_path, &status) < 0)
		return error_errno(err, "cannot examine the API socket %s", address->sun_path);
	socket->device = status.st_dev;
	socket->inode = status.st_ino;
	socket->path = strdup(address->sun_path);
	if (!socket->path)
		return error_set(err, ENOMEM, "out of memory for the API socket %s",
				 address->sun_path);
	return 0;
}

int api_socket_open(struct api_socket *listener, const char *path, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	size_t length = strlen(path);
	int result;

	*listener = (struct api_socket) { .fd = -1 };
	if (length == 0)
		return error_set(err, EINVAL, "cannot make the API socket: its path is empty");
	if (length >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG,
				 "cannot make the API socket %.256s: the path has %zu bytes, "
				 "and a socket's path can have %zu at most",
				 path, length, sizeof(address.sun_path) - 1);
	memcpy(address.sun_path, path, length);
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		return error_errno(err, "cannot make the API socket %s", path);
	result = bind_socket(listener, &address, err);
	if (result < 0) {
		close_fd(&listener->fd);
		return result;
	}
	result = adopt_file(listener, &address, err);
	if (result < 0)
		unlinkat(AT_FDCWD, path, 0);
	else if (listen(listener->fd, BACKLOG) < 0)
		result = error_errno(err, "cannot listen on the API socket %s", path);
	if (result < 0)
		api_socket_close(listener);
	return result;
}

void api_socket_close(struct api_socket *listener)
{
	struct stat status;

	if (listener->path && lstat(listener->path, &status) == 0 && S_ISSOCK(status.st_mode) &&
	    status.st_dev == listener->device && status.st_ino == listener->inode)
		unlinkat(AT_FDCWD, listener->path, 0);
	free(listener->path);
	listener->path = NULL;
	close_fd(&listener->fd);
}
