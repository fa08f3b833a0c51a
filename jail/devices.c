/*
 * /dev of the jail: kvm, net/tun, urandom and userfaultfd, as far as the host has them, and nothing
 * else.
 *
 * Nodes with the host's own numbers, which belong to the monitor's user. Where nodes cannot be made
 * (a user namespace: mknod(2), EPERM) the host's are shown by a mount.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#include "mounts.h"
#include "paths.h"

static const char *const names[JAIL_DEVICES] = {
	[JAIL_DEVICE_KVM] = "dev/kvm",
	[JAIL_DEVICE_TUN] = "dev/net/tun",
	[JAIL_DEVICE_URANDOM] = "dev/urandom",
	[JAIL_DEVICE_USERFAULTFD] = "dev/userfaultfd",
};

static int open_device(unsigned int index, struct stat *status)
{
	char path[32];
	cleanup_fd int fd = -1;

	snprintf(path, sizeof(path), "/%s", names[index]);
	fd = path_open(path, O_PATH | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, status) < 0)
		return -errno;
	return S_ISCHR(status->st_mode) ? take_fd(&fd) : -ENODEV;
}

int devices_find(struct jail *jail, struct error *err)
{
	(void)err;
	for (unsigned int i = 0; i < JAIL_DEVICES; i++) {
		struct stat status = { 0 };
		cleanup_fd int fd = open_device(i, &status);

		jail->devices[i] = fd >= 0 ? status.st_rdev : 0;
	}
	if (!jail->devices[JAIL_DEVICE_KVM])
		jail->missing |= MISSING_NO_DEVICE_KVM;
	return 0;
}

static int show_device(struct jail *jail, unsigned int index, struct error *err)
{
	struct stat status = { 0 };
	cleanup_fd int fd = open_device(index, &status);
	cleanup_fd int tree = -1;

	if (fd < 0 || status.st_rdev != jail->devices[index])
		return error_set(err, ENODEV, "the device /%s has changed", names[index]);
	tree = mounts_clone_file(fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
	if (tree < 0)
		return error_errno(err, "cannot make a mount of /%s", names[index]);
	return mounts_show(jail, tree, names[index], &jail->device_made[index], err);
}

static int make_device(struct jail *jail, unsigned int index, struct error *err)
{
	const struct node node = {
		.mode = S_IFCHR | 0600,
		.device = jail->devices[index],
		.uid = jail->options.uid,
		.gid = jail->options.gid,
	};
	int result = -EPERM;

	if (jail->kind != JAIL_USER)
		result =
			mounts_make_node(jail, names[index], &node, &jail->device_made[index], err);
	if (result == -EPERM && jail->has_namespace)
		result = show_device(jail, index, err);
	return result;
}

/*
 * /dev and /dev/net are root's, so that a monitor which was taken over cannot change them; it may
 * have moved them aside and put something else in their place, which is not kept.
 */
static int open_folder(int dir, const char *name, struct error *err)
{
	bool made;
	int fd = path_make_directory(dir, name, 0755, &made);

	if (fd < 0 && (errno == ENOTDIR || errno == ELOOP) && unlinkat(dir, name, 0) == 0)
		fd = path_make_directory(dir, name, 0755, &made);
	if (fd < 0)
		return error_errno(err, "cannot make the folder %s in the jail", name);
	if (fchmod(fd, 0755) < 0 || (geteuid() == 0 && fchown(fd, 0, 0) < 0)) {
		close(fd);
		return error_errno(err, "cannot take over the folder %s in the jail", name);
	}
	return fd;
}

/* What an earlier jail of this name had here: a node where a mount comes now, or the other way. */
static int remove_stale(int dev_fd, int net_fd, struct error *err)
{
	for (unsigned int i = 0; i < JAIL_DEVICES; i++) {
		int dir = i == JAIL_DEVICE_TUN ? net_fd : dev_fd;

		if (unlinkat(dir, path_last_component(names[i]), 0) < 0 && errno != ENOENT)
			return error_errno(err, "cannot replace /%s in the jail", names[i]);
	}
	return 0;
}

int devices_make(struct jail *jail, struct error *err)
{
	cleanup_fd int dev_fd = open_folder(jail->room.root_fd, "dev", err);
	cleanup_fd int net_fd = dev_fd < 0 ? -1 : open_folder(dev_fd, "net", err);

	if (dev_fd < 0 || net_fd < 0 || remove_stale(dev_fd, net_fd, err) < 0)
		return -err->code;
	while (jail->devices_shown < JAIL_DEVICES) {
		unsigned int index = jail->devices_shown++;

		if (jail->devices[index] && make_device(jail, index, err) < 0)
			return -err->code;
	}
	return 0;
}

void devices_undo(struct jail *jail)
{
	for (; jail->devices_shown > 0; jail->devices_shown--) {
		unsigned int index = jail->devices_shown - 1;

		mounts_hide(jail, names[index], jail->device_made[index]);
	}
	/* Empty now, unless somebody keeps something of their own there. */
	unlinkat(jail->room.root_fd, "dev/net", AT_REMOVEDIR);
	unlinkat(jail->room.root_fd, "dev", AT_REMOVEDIR);
}
