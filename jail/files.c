/*
 * --file: kernels, images, sockets and block devices of the host in the jail, without copies.
 *
 * The host's file keeps its owner and mode, whatever the monitor's user is: somebody else relies on
 * them. Where they do not let this user in, the mount shows the file as belonging to this user
 * (mount_setattr(2), MOUNT_ATTR_IDMAP: the owner's ids on disk become the user's in this mount, and
 * nowhere else). A file system that has no such mounts is an error that says what to do.
 *
 * A block device becomes a node of the jail's own.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "mounts.h"
#include "paths.h"

static int open_host_file(const struct jail_file *file, struct stat *status, struct error *err)
{
	cleanup_fd int fd = path_open_argument("--file", file->host, err);

	if (fd < 0)
		return fd;
	if (fstat(fd, status) < 0)
		return error_errno(err, "--file %s", file->host);
	switch (status->st_mode & S_IFMT) {
	case S_IFREG:
	case S_IFSOCK:
	case S_IFIFO:
	case S_IFBLK:
		return take_fd(&fd);
	case S_IFDIR:
		return error_set(err, EISDIR,
				 "--file %s is a folder: name the files in it one by one",
				 file->host);
	default:
		return error_set(err, EINVAL,
				 "--file %s is neither a file nor a socket, FIFO or block device",
				 file->host);
	}
}

int files_check(const struct jail_file *file, struct error *err)
{
	struct stat status;
	cleanup_fd int fd = open_host_file(file, &status, err);

	return fd < 0 ? fd : 0;
}

/* The bits that decide for this user: 4 (read, R_OK) and 2 (write, W_OK). Access lists are not
 * looked at: at worst a mount is mapped which need not be. */
static unsigned int bits_for(const struct stat *status, uid_t uid, gid_t gid)
{
	if (status->st_uid == uid)
		return (status->st_mode >> 6) & 7;
	if (status->st_gid == gid)
		return (status->st_mode >> 3) & 7;
	return status->st_mode & 7;
}

static int write_map(pid_t child, const char *name, unsigned int on_disk, unsigned int shown)
{
	char path[64], line[64];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/%s", child, name);
	snprintf(line, sizeof(line), "%u %u 1\n", on_disk, shown);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : path_write_all(fd, line, strlen(line));
}

/*
 * A user namespace that stands for "these ids on disk are those". The kernel takes the mapping from
 * a namespace, and a namespace is made by a process, which lives just as long as this takes.
 */
static int make_mapping(const struct stat *status, uid_t uid, gid_t gid)
{
	cleanup_fd int read_end = -1;
	cleanup_fd int write_end = -1;
	int ends[2], fd = -1, code;
	char path[64], byte;
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	read_end = ends[0];
	write_end = ends[1];
	child = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (child < 0)
		return -errno;
	if (child == 0) {
		/* Nobody writes: this returns when the jailer has gone, however it went. */
		close(write_end);
		while (read(read_end, &byte, 1) < 0 && errno == EINTR)
			;
		_exit(0);
	}
	code = write_map(child, "uid_map", status->st_uid, uid);
	if (code == 0)
		code = write_map(child, "gid_map", status->st_gid, gid);
	if (code == 0) {
		snprintf(path, sizeof(path), "/proc/%d/ns/user", child);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		code = fd < 0 ? -errno : 0;
	}
	kill(child, SIGKILL);
	while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
		;
	errno = -code;
	return code < 0 ? code : fd;
}

static int map_owner(int tree, const struct jail *jail, const struct jail_file *file,
		     const struct stat *status, struct error *err)
{
	const struct jail_options *options = &jail->options;
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP };
	cleanup_fd int mapping = -1;

	if (jail->kind == JAIL_PRIVILEGED)
		mapping = make_mapping(status, options->uid, options->gid);
	else
		errno = EPERM;
	if (mapping >= 0) {
		attr.userns_fd = (unsigned int)mapping;
		if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0)
			return 0;
	}
	return error_errno(
		err,
		"--file %s: its owner and mode (user %u, group %u, %04o) do not let user %u, group %u "
		"%s it, and it cannot be shown as theirs (the file system must have idmapped mounts, "
		"and the jailer must be root). Change one of them with chown or chmod",
		file->host, status->st_uid, status->st_gid, status->st_mode & 07777, options->uid,
		options->gid, file->read_only ? "read" : "write");
}

static int show_mount(struct jail *jail, const struct jail_file *file, int host_fd,
		      const struct stat *status, unsigned int *made, struct error *err)
{
	uint64_t attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
	unsigned int wanted = file->read_only ? 4 : 6;
	cleanup_fd int tree = -1;

	if (!S_ISBLK(status->st_mode))
		attributes |= MOUNT_ATTR_NODEV;
	if (file->read_only)
		attributes |= MOUNT_ATTR_RDONLY;
	/* Who connects to a socket writes to it. */
	if (S_ISSOCK(status->st_mode))
		wanted = 2;
	tree = mounts_clone_file(host_fd, attributes);
	if (tree < 0)
		return error_errno(err, "--file %s: cannot make a mount of it", file->host);
	if ((bits_for(status, jail->options.uid, jail->options.gid) & wanted) != wanted) {
		/* In a user namespace the kernel knows best: groups count there that we cannot
		 * name. */
		if (jail->kind == JAIL_USER &&
		    faccessat(host_fd, "", (int)wanted, AT_EMPTY_PATH | AT_EACCESS) == 0)
			return mounts_show(jail, tree, file->name, made, err);
		if ((((unsigned int)status->st_mode >> 6) & wanted) != wanted)
			return error_set(err, EACCES,
					 "--file %s: not even its owner may %s it (mode %04o)%s",
					 file->host, file->read_only ? "read" : "read and write",
					 status->st_mode & 07777,
					 file->read_only ? "" : "; for reading only, add :ro");
		if (map_owner(tree, jail, file, status, err) < 0)
			return -err->code;
	}
	return mounts_show(jail, tree, file->name, made, err);
}

/* For reading only it belongs to root, so that the monitor cannot change its mode. */
static int show_block_device(struct jail *jail, const struct jail_file *file,
			     const struct stat *status, unsigned int *made, struct error *err)
{
	const struct node node = {
		.mode = (mode_t)(S_IFBLK | (file->read_only ? 0440 : 0600)),
		.device = status->st_rdev,
		.uid = file->read_only ? 0 : jail->options.uid,
		.gid = jail->options.gid,
	};

	return mounts_make_node(jail, file->name, &node, made, err);
}

int files_show(struct jail *jail, struct error *err)
{
	const struct jail_options *options = &jail->options;

	while (jail->files_shown < options->file_count) {
		unsigned int index = jail->files_shown++;
		const struct jail_file *file = &options->files[index];
		struct stat status;
		cleanup_fd int fd = open_host_file(file, &status, err);
		int result;

		if (fd < 0)
			return fd;
		if (S_ISBLK(status.st_mode) && jail->kind != JAIL_USER)
			result = show_block_device(jail, file, &status, &jail->file_made[index],
						   err);
		else
			result = show_mount(jail, file, fd, &status, &jail->file_made[index], err);
		if (result < 0)
			return result;
	}
	return 0;
}

void files_hide(struct jail *jail)
{
	for (; jail->files_shown > 0; jail->files_shown--) {
		unsigned int index = jail->files_shown - 1;

		mounts_hide(jail, jail->options.files[index].name, jail->file_made[index]);
	}
}
