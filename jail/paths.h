/*
 * Paths that cannot be led astray: no symbolic links, no "..", everything relative to a descriptor.
 *
 * openat2(2) does the walking; strings are checked only to say early and clearly what is wrong.
 */
#ifndef MAYFLY_JAIL_PATHS_H
#define MAYFLY_JAIL_PATHS_H

#include <sys/stat.h>

#include "mayfly/error.h"

/* A path of the host as a user may give it: not empty, no ".." in it, not too long. `what` is the
 * option, for the message. */
int path_check(const char *what, const char *path, struct error *err);

/* Whether this is a clean relative path: names joined by single slashes, none of them "." or "..".
 */
bool path_check_name(const char *name);

/* What stands behind the last slash; empty when nothing does. */
const char *path_last_component(const char *path);

/* Opens a path of the host that contains no symbolic link; -errno, and errno set. */
int path_open(const char *path, int flags);

/* Opens a path that stays below `dir` and contains no symbolic link; -errno, and errno set. */
int path_open_beneath(int dir, const char *path, int flags, mode_t mode);

/* path_open(O_PATH) for options: the message says what to do about a symbolic link. */
int path_open_argument(const char *what, const char *path, struct error *err);

/*
 * Opens the directory `name` in `dir`, and makes it when it is not there (mode `mode`, whatever the
 * umask). What has this name and is no directory is an error (ENOTDIR or ELOOP). Returns a
 * descriptor, or -errno with errno set; *made says whether it was made.
 */
int path_make_directory(int dir, const char *name, mode_t mode, bool *made);

/* Writes all of it, or -errno with errno set. */
int path_write_all(int fd, const char *text, size_t length);

/* Reads a small file to its end into `text`, which is ended by a NUL. The length, or -errno. */
long path_read_small(int dir, const char *name, char *text, size_t size);

#endif
