/* mayfly-uffd: listens, and gives each monitor a process of its own. See handler.h. */
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "handler.h"
#include "mayfly/filters.h"
#include "mayfly/vmm.h"

#define PAUSE_MS 500 /* before a monitor that could not be accepted is tried again */

/* A socket that nobody listens on was left behind by a handler that was killed. */
static void remove_leftover(const struct sockaddr_un *address)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stat status;

	if (fd >= 0 && lstat(address->sun_path, &status) == 0 && S_ISSOCK(status.st_mode) &&
	    connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
	    errno == ECONNREFUSED)
		unlink(address->sun_path);
}

static int open_socket(const char *path, struct error *err)
{
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (fd < 0)
		return error_errno(err, "cannot make a socket");
	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(err, ENAMETOOLONG,
				 "--socket %s: a socket's path has at most %zu bytes", path,
				 sizeof(address.sun_path) - 1);
	strcpy(address.sun_path, path);
	remove_leftover(&address);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, SOMAXCONN) < 0)
		return error_errno(err, "--socket %s", path);
	return take_fd(&fd);
}

static void complain(const struct error *err)
{
	error_print(HANDLER_PROGRAM, err);
}

/* The whole life of a process that serves one monitor; returns its exit status. */
static int serve_monitor(int fd, const struct memory_image *image,
			 const struct handler_options *options)
{
	struct connection connection;
	struct error err = { 0 };
	int result = 0;

	/* It would open a file for that when it is first needed. */
	json_object_seed(0);
	if (filters_are_default())
		result = handler_enter_filter(options, &err);
	if (result == 0)
		result = connection_open(&connection, fd, image, &err);
	if (result == 0) {
		result = serve(&connection, image, options, &err);
		connection_close(&connection);
	}
	if (result < 0)
		complain(&err);
	return result < 0 ? VMM_EXIT_ERROR : VMM_EXIT_OK;
}

/* The host is short of something for a while; guests that run need those who serve them. */
static bool may_pass(int code)
{
	return code == EMFILE || code == ENFILE || code == ENOBUFS || code == ENOMEM;
}

static int listen_for_monitors(const struct handler_options *options, struct error *err)
{
	cleanup_fd int listener = -1;
	struct memory_image image;
	int result = memory_image_open(&image, options->memory_file, err);

	if (result < 0)
		return result;
	/* The kernel takes care of those that end. */
	signal(SIGCHLD, SIG_IGN);
	listener = open_socket(options->socket, err);
	while (listener >= 0) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pid_t child;

		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			result = error_errno(err, "cannot accept a monitor");
			if (!may_pass(-result))
				break;
			complain(err);
			(void)poll(NULL, 0, PAUSE_MS);
			continue;
		}
		child = fork();
		if (child == 0) {
			close_fd(&listener);
			_exit(serve_monitor(fd, &image, options));
		}
		/* The monitor sees the end of its connection, and says so. */
		if (child < 0)
			fprintf(stderr, "mayfly-uffd: cannot serve a monitor: %s\n",
				strerror(errno));
		close_fd(&fd);
	}
	if (listener < 0)
		result = -err->code;
	memory_image_close(&image);
	return result;
}

int main(int argc, char **argv)
{
	struct handler_options options;
	struct error err = { 0 };

	if (handler_options_parse(&options, argc, argv, &err) < 0) {
		complain(&err);
		return VMM_EXIT_ARGUMENTS;
	}
	switch (options.command) {
	case HANDLER_HELP:
		handler_options_print_help();
		return VMM_EXIT_OK;
	case HANDLER_VERSION:
		puts("mayfly-uffd " MAYFLY_VERSION);
		return VMM_EXIT_OK;
	case HANDLER_RUN:
		break;
	}
	listen_for_monitors(&options, &err);
	complain(&err);
	return VMM_EXIT_ERROR;
}
