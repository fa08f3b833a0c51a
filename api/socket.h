/* The API's listening socket as a file. */
#ifndef MAYFLY_API_SOCKET_H
#define MAYFLY_API_SOCKET_H

#include <sys/stat.h>
#include "mayfly/error.h"

struct api_socket {
	int fd;
	char *path;
	dev_t device; /* of the file that was made, to know it again */
	ino_t inode;
};

/* Binds and listens; see api_server_create() for mode and errors. */
int api_socket_open(struct api_socket *socket, const char *path, struct error *err);

/* Closes it and removes the file, unless the path names another file by now. Twice does no harm. */
void api_socket_close(struct api_socket *socket);

#endif
