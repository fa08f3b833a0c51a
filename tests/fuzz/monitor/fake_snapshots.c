/*
 * The files that a monitor makes of its guest, for a fuzzer: see fake.h. They lie in one folder, by
 * a few names, and come into it as src/snapshot/atomic_file.c does it: a file without a name is
 * linked under a temporary one, which is renamed.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake.h"

#define LINKED_AT_MOST 4

static struct snapshot_file {
	const char *name;
	int fd; /* -1: it is not there */
} files[] = { { "state", -1 }, { "memory", -1 }, { "diff", -1 }, { "pages", -1 } };
#define FILES (sizeof(files) / sizeof(*files))

/* Under a temporary name. */
static struct {
	char name[64];
	int fd;
} linked[LINKED_AT_MOST];
static unsigned int linked_count;

int __real_openat64(int folder, const char *path, int flags, ...);
int __wrap_openat64(int folder, const char *path, int flags, ...);
int __real_fstatat64(int folder, const char *path, struct stat *status, int flags);
int __wrap_fstatat64(int folder, const char *path, struct stat *status, int flags);
int __wrap_linkat(int from_folder, const char *from, int to_folder, const char *to, int flags);
int __wrap_renameat(int from_folder, const char *from, int to_folder, const char *to);
int __wrap_unlinkat(int folder, const char *path, int flags);

static struct snapshot_file *find(const char *name)
{
	for (size_t i = 0; i < FILES; i++) {
		if (strcmp(files[i].name, name) == 0)
			return &files[i];
	}
	return NULL;
}

static void forget(unsigned int index, bool keep)
{
	if (!keep)
		close(linked[index].fd);
	linked[index] = linked[--linked_count];
}

void fake_snapshots_clear(void)
{
	while (linked_count)
		forget(0, false);
	for (size_t i = 0; i < FILES; i++) {
		if (files[i].fd >= 0)
			close(files[i].fd);
		files[i].fd = -1;
	}
}

int fake_snapshot_fd(const char *name)
{
	const struct snapshot_file *file = find(name);

	if (file && file->fd >= 0)
		return file->fd;
	errno = ENOENT;
	return -1;
}

int __wrap_openat64(int folder, const char *path, int flags, ...)
{
	unsigned int mode;
	va_list list;

	va_start(list, flags);
	mode = va_arg(list, unsigned int);
	va_end(list);
	if (!fake_host_is_entered())
		return __real_openat64(folder, path, flags, mode);
	if ((flags & O_TMPFILE) == O_TMPFILE)
		return memfd_create("part", MFD_CLOEXEC);
	errno = EACCES;
	return -1;
}

int __wrap_fstatat64(int folder, const char *path, struct stat *status, int flags)
{
	int fd;

	if (!fake_host_is_entered())
		return __real_fstatat64(folder, path, status, flags);
	fd = fake_snapshot_fd(path);
	return fd < 0 ? -1 : fstat(fd, status);
}

/* Without a name it is found by its descriptor. */
int __wrap_linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
	int fd = -1;

	(void)from_folder;
	(void)to_folder;
	(void)flags;
	FUZZ_CHECK(sscanf(from, "/proc/self/fd/%d", &fd) == 1 && fd >= 0);
	FUZZ_CHECK(linked_count < LINKED_AT_MOST && strlen(to) < sizeof(linked->name));
	strcpy(linked[linked_count].name, to);
	linked[linked_count].fd = fcntl(fd, F_DUPFD_CLOEXEC, FAKE_FDS_FROM);
	FUZZ_CHECK(linked[linked_count++].fd >= 0);
	return 0;
}

int __wrap_renameat(int from_folder, const char *from, int to_folder, const char *to)
{
	struct snapshot_file *file = find(to);

	(void)from_folder;
	(void)to_folder;
	for (unsigned int i = 0; i < linked_count; i++) {
		if (strcmp(linked[i].name, from) != 0)
			continue;
		if (!file) {
			errno = EACCES;
			return -1;
		}
		if (file->fd >= 0)
			close(file->fd);
		file->fd = linked[i].fd;
		forget(i, true);
		return 0;
	}
	errno = ENOENT;
	return -1;
}

int __wrap_unlinkat(int folder, const char *path, int flags)
{
	(void)folder;
	(void)flags;
	for (unsigned int i = 0; i < linked_count; i++) {
		if (strcmp(linked[i].name, path) == 0) {
			forget(i, false);
			return 0;
		}
	}
	errno = ENOENT;
	return -1;
}
