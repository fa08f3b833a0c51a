/* The room on the host's disk: see room.h. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

#include "paths.h"
#include "room.h"

#define PID_FILE      "pid"
#define LOCK_ATTEMPTS 16

void room_init(struct room *room)
{
	*room = (struct room) { .exec_dir_fd = -1, .id_fd = -1, .root_fd = -1 };
}

/*
 * Whoever may rename things in these folders may lead us elsewhere between two jails. Sticky is
 * fine: there only the owner of a folder may.
 */
static int check_keeper(int fd, const char *what, struct error *err)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_errno(err, "cannot examine %s", what);
	if (status.st_uid != 0 && status.st_uid != geteuid())
		return error_set(err, EPERM,
				 "%s belongs to user %u: it must be root's, or of the user who "
				 "starts the jailer",
				 what, status.st_uid);
	if ((status.st_mode & (S_IWGRP | S_IWOTH)) && !(status.st_mode & S_ISVTX))
		return error_set(err, EPERM,
				 "others may write to %s (mode %04o): take that away with chmod "
				 "go-w",
				 what, status.st_mode & 07777);
	return 0;
}

static int enter_failed(const char *base, const char *name, struct error *err)
{
	if (errno == EACCES && geteuid() != 0)
		return error_errno(err,
				   "cannot make or enter %s below %s (an ordinary user names a "
				   "folder of their own with --chroot-base-dir)",
				   name, base);
	if (errno == ENOTDIR || errno == ELOOP)
		return error_errno(err, "%s below %s is no folder", name, base);
	return error_errno(err, "cannot make or enter %s below %s", name, base);
}

/* The base folder, each missing part of it made. Nothing of it is ever removed: others share it. */
static int open_base(const char *base, struct error *err)
{
	cleanup_fd int fd = path_open(*base == '/' ? "/" : ".", O_RDONLY | O_DIRECTORY);
	cleanup_free char *copy = strdup(base);
	char *next = NULL;
	bool made;

	if (!copy || fd < 0)
		return error_errno(err, "cannot open the folder %s", base);
	for (char *name = strtok_r(copy, "/", &next); name; name = strtok_r(NULL, "/", &next)) {
		int below;

		if (strcmp(name, ".") == 0)
			continue;
		/* Not for reading: on the way to a user's folder others may only pass through. */
		below = path_open_beneath(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
		if (below < 0 && errno == ENOENT)
			below = path_make_directory(fd, name, 0755, &made);
		if (below < 0)
			return enter_failed(base, name, err);
		close(fd);
		fd = below;
	}
	if (check_keeper(fd, base, err) < 0)
		return -err->code;
	return take_fd(&fd);
}

/* Whether the folder that `fd` is still has this name: another jailer may have removed it between
 * our open and our lock. */
static bool still_there(int dir, const char *name, int fd)
{
	struct stat named, opened;

	return fstatat(dir, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &opened) == 0 &&
	       named.st_ino == opened.st_ino && named.st_dev == opened.st_dev;
}

static int open_and_lock(struct room *room, const struct jail_options *options, struct error *err)
{
	for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
		cleanup_fd int fd = -1;
		bool made;

		fd = path_make_directory(room->exec_dir_fd, options->id, 0755, &made);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return enter_failed(options->base_dir, options->id, err);
		if (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK)
			return error_set(err, EBUSY,
					 "another jailer is making the jail %s at this moment",
					 options->id);
		if (!still_there(room->exec_dir_fd, options->id, fd))
			continue;
		room->made_id = made;
		room->id_fd = take_fd(&fd);
		return check_keeper(room->id_fd, "the jail's folder", err);
	}
	return error_set(err, EBUSY, "other jailers keep removing the folder of the jail %s",
			 options->id);
}

long room_parse_pid(const char *text)
{
	long pid = 0;
	const char *c = text;

	for (; *c >= '0' && *c <= '9'; c++) {
		pid = pid * 10 + (*c - '0');
		if (pid > INT_MAX)
			return -1;
	}
	if (c == text || pid == 0 || (*c && strcmp(c, "\n") != 0))
		return -1;
	return pid;
}

/* Whether the process that ran here last still does: no other process has this root. */
static int refuse_occupied(struct room *room, const struct jail_options *options, struct error *err)
{
	struct stat root, own;
	char text[64], path[64];
	long pid;

	if (path_read_small(room->id_fd, PID_FILE, text, sizeof(text)) < 0)
		return 0;
	pid = room_parse_pid(text);
	if (pid < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%ld/root", pid);
	if (stat(path, &root) < 0 || fstat(room->root_fd, &own) < 0)
		return 0;
	if (root.st_dev != own.st_dev || root.st_ino != own.st_ino)
		return 0;
	return error_set(err, EBUSY, "the jail %s is in use: process %ld runs in it", options->id,
			 pid);
}

static int open_root(struct room *room, struct error *err)
{
	room->root_fd = path_make_directory(room->id_fd, "root", 0700, &room->made_root);
	if (room->root_fd < 0)
		return error_errno(err, "cannot make or enter the jail's root");
	if (fstat(room->root_fd, &room->before) < 0)
		return error_errno(err, "cannot examine the jail's root");
	return 0;
}

/* Until it is handed over, nobody else may change what is in the root. */
static int close_root_to_others(struct room *room, struct error *err)
{
	if (geteuid() == 0 && fchown(room->root_fd, 0, 0) < 0)
		return error_errno(err, "cannot take the jail's root over");
	if (fchmod(room->root_fd, 0700) < 0)
		return error_errno(err, "cannot close the jail's root to others");
	return 0;
}

/* What a monitor that was killed left behind: its socket would stop the next one. */
static int remove_stale_socket(const struct jail *jail, struct error *err)
{
	const char *path = jail->options.api_socket;
	cleanup_fd int fd = -1;
	cleanup_free char *folder = NULL;
	cleanup_fd int folder_fd = -1;
	const char *name;
	struct stat status;

	if (!path)
		return 0;
	fd = path_open_beneath(jail->room.root_fd, path, O_PATH, 0);
	if (fd < 0 || fstat(fd, &status) < 0 || !S_ISSOCK(status.st_mode))
		return 0;
	name = path_last_component(path);
	folder = strndup(path, (size_t)(name - path));
	if (!folder)
		return error_set(err, ENOMEM, "out of memory");
	folder_fd = path_open_beneath(jail->room.root_fd, *folder ? folder : ".",
				      O_RDONLY | O_DIRECTORY, 0);
	if (folder_fd < 0 || unlinkat(folder_fd, name, 0) < 0)
		return error_errno(err, "cannot remove the API socket %s of the jail's last run",
				   path);
	return 0;
}

int room_open(struct jail *jail, struct error *err)
{
	const struct jail_options *options = &jail->options;
	struct room *room = &jail->room;
	cleanup_fd int base_fd = open_base(options->base_dir, err);
	bool made;

	if (base_fd < 0)
		return base_fd;
	room->exec_dir_fd = path_make_directory(base_fd, options->exec_name, 0755, &made);
	if (room->exec_dir_fd < 0)
		return enter_failed(options->base_dir, options->exec_name, err);
	if (check_keeper(room->exec_dir_fd, "the folder of this program's jails", err) < 0 ||
	    open_and_lock(room, options, err) < 0 || open_root(room, err) < 0 ||
	    refuse_occupied(room, options, err) < 0 || close_root_to_others(room, err) < 0)
		return -err->code;
	return remove_stale_socket(jail, err);
}

static void remove_pids(struct jail *jail)
{
	char name[NAME_MAX + 1];

	if (!jail->room.made_pids)
		return;
	snprintf(name, sizeof(name), "%s.pid", jail->options.exec_name);
	unlinkat(jail->room.root_fd, name, 0);
	unlinkat(jail->room.id_fd, PID_FILE, 0);
}

void room_undo(struct jail *jail)
{
	struct room *room = &jail->room;

	remove_pids(jail);
	if (room->made_run)
		unlinkat(room->root_fd, "run", AT_REMOVEDIR);
	/* Folders that hold something of somebody else stay: rmdir refuses. */
	if (room->made_root) {
		unlinkat(room->id_fd, "root", AT_REMOVEDIR);
	} else if (room->root_fd >= 0 && room->before.st_ino) {
		/* The mode last: chown may take bits of it away. Nothing can be done if they fail.
		 */
		if (fchown(room->root_fd, room->before.st_uid, room->before.st_gid) == 0)
			(void)fchmod(room->root_fd, room->before.st_mode & 07777);
	}
	if (room->made_id)
		unlinkat(room->exec_dir_fd, jail->options.id, AT_REMOVEDIR);
	close_fd(&room->root_fd);
	close_fd(&room->id_fd);
	close_fd(&room->exec_dir_fd);
}

int room_write_pids(struct jail *jail, pid_t pid, struct error *err)
{
	struct room *room = &jail->room;
	const struct {
		int dir;
		const char *suffix;
	} files[] = { { room->id_fd, NULL }, { room->root_fd, ".pid" } };
	char name[NAME_MAX + 1], text[32];

	snprintf(text, sizeof(text), "%d\n", pid);
	room->made_pids = true;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		cleanup_fd int fd = -1;

		snprintf(name, sizeof(name), "%s%s",
			 files[i].suffix ? jail->options.exec_name : PID_FILE,
			 files[i].suffix ? files[i].suffix : "");
		/* Not written over: what has this name may be a link, or a FIFO. */
		if (unlinkat(files[i].dir, name, 0) < 0 && errno != ENOENT)
			return error_errno(err, "cannot replace the file %s", name);
		fd = openat(files[i].dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0 || fchmod(fd, 0644) < 0 || path_write_all(fd, text, strlen(text)) < 0)
			return error_errno(err, "cannot write the PID to %s", name);
	}
	return 0;
}

/* The folder of the API socket, which the monitor makes itself. */
static int open_run(struct room *room, struct error *err)
{
	int fd = path_make_directory(room->root_fd, "run", 0700, &room->made_run);

	/* A monitor that was taken over may have put anything here. */
	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) &&
	    unlinkat(room->root_fd, "run", 0) == 0)
		fd = path_make_directory(room->root_fd, "run", 0700, &room->made_run);
	return fd < 0 ? error_errno(err, "cannot make /run in the jail") : fd;
}

int room_hand_over(struct jail *jail, struct error *err)
{
	const struct jail_options *options = &jail->options;
	struct room *room = &jail->room;
	cleanup_fd int run_fd = open_run(room, err);

	if (run_fd < 0)
		return run_fd;
	if (geteuid() == 0 && (fchown(run_fd, options->uid, options->gid) < 0 ||
			       fchown(room->root_fd, options->uid, options->gid) < 0))
		return error_errno(err, "cannot give the jail's root to user %u, group %u",
				   options->uid, options->gid);
	/* A mode that the host's administrator chose stays. */
	if (fchmod(room->root_fd, room->made_root ? 0700 : room->before.st_mode & 07777) < 0)
		return error_errno(err, "cannot open the jail's root to user %u", options->uid);
	return 0;
}
