/*
 * Mounts of the jail: see mounts.h. mount_namespaces(7), pivot_root(2), open_tree(2).
 *
 *   chdir to the room     so that the kernel moves our working directory into the new namespace,
 *                         and no path is walked twice
 *   unshare               the kernel copies the host's mounts
 *   open_tree             the room and what the host mounted below it, as a tree of its own
 *   mount_setattr         slave: what the host mounts below the room later appears in the jail, and
 *                         nothing goes the other way; nosuid
 *   mount "/" private     our copies leave the host's peer groups: what happens to them stays here
 *   move_mount            the room's tree over the room; it is the working directory from here on
 *   ... files, devices ...
 *   pivot_root(".", ".")  the old root comes to lie on top of the new one
 *   umount2(MNT_DETACH)   and is gone, with all that is in it
 */
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "mounts.h"
#include "paths.h"

static bool is_denied(int code)
{
	return code == EPERM || code == EACCES || code == ENOSYS;
}

/* The room as a detached tree. */
static int clone_room(const struct jail *jail, struct error *err)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID, .propagation = MS_SLAVE };
	cleanup_fd int tree =
		open_tree(AT_FDCWD, ".", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (tree < 0)
		return error_errno(err, "cannot make a mount of the jail's root (open_tree)");
	if (mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) < 0)
		return error_errno(err, "cannot set up the mount of the jail's root "
					"(mount_setattr)");
	/* The base folder may be where programs and devices are not allowed. In this mount, which
	 * nobody else sees, they are; a user namespace does not let us. */
	attr = (struct mount_attr) { .attr_clr = MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC };
	if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 && errno != EPERM)
		return error_errno(err, "cannot allow devices in the jail's root (mount_setattr)");
	return take_fd(&tree);
}

static int check_flags(int tree, const struct jail *jail, struct error *err)
{
	struct statvfs status;

	if (fstatvfs(tree, &status) < 0)
		return error_errno(err, "cannot examine the jail's root");
	if (status.f_flag & ST_NOEXEC)
		return error_set(err, EACCES,
				 "programs cannot run below %s, which is mounted noexec: choose "
				 "another --chroot-base-dir",
				 jail->options.base_dir);
	return 0;
}

static int enter_namespace(struct jail *jail, struct error *err)
{
	cleanup_fd int tree = -1;

	if (unshare(CLONE_NEWNS) < 0)
		return error_errno(err, "cannot make a mount namespace (unshare)");
	tree = clone_room(jail, err);
	if (tree < 0 || check_flags(tree, jail, err) < 0)
		return -err->code;
	/*
	 * Where the root is no mount, in somebody's chroot, this is not possible, and a mount of
	 * ours could appear on the host: then there is none.
	 */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return error_set(err, errno == EINVAL ? EPERM : errno,
				 "cannot make the new namespace's mounts private");
	if (move_mount(tree, "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return error_errno(err, "cannot mount the jail's root (move_mount)");
	if (fchdir(tree) < 0)
		return error_errno(err, "cannot enter the jail's root");
	jail->has_namespace = true;
	return 0;
}

int mounts_enter(struct jail *jail, struct error *err)
{
	int result;

	if (fchdir(jail->room.root_fd) < 0)
		return error_errno(err, "cannot enter the jail's root");
	if (jail->kind == JAIL_CHROOT) {
		jail->missing |= MISSING_MOUNT_NAMESPACE;
		return 0;
	}
	if (unshare(CLONE_NEWIPC) < 0) {
		if (!is_denied(errno) && errno != EINVAL && errno != ENOSPC)
			return error_errno(err, "cannot make an IPC namespace (unshare)");
		jail->missing |= MISSING_IPC_NAMESPACE;
	}
	result = enter_namespace(jail, err);
	/* Containers may allow namespaces, and mounts in them not. noexec is EACCES, too. */
	if (result < 0 && (err->code == EPERM || err->code == ENOSYS)) {
		jail->missing |= MISSING_MOUNT_NAMESPACE;
		*err = (struct error) { 0 };
		result = 0;
	}
	return result;
}

void mounts_undo(struct jail *jail)
{
	/* After pivot_root nothing of the room is a mount point any more. */
	if (jail->has_namespace && !jail->pivoted)
		umount2(".", MNT_DETACH);
	jail->has_namespace = false;
}

int mounts_clone_file(int file_fd, uint64_t attributes)
{
	struct mount_attr attr = { .attr_set = attributes, .propagation = MS_PRIVATE };
	cleanup_fd int tree =
		open_tree(file_fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);

	if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
		return -errno;
	return take_fd(&tree);
}

/* The folders of a/b/c, made where they are missing. Returns that of c, and where its name begins.
 */
static int open_folder(const char *name, const char **last, unsigned int *made, struct error *err)
{
	cleanup_fd int folder = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_free char *copy = strdup(name);
	char *rest = copy, *slash;

	*made = 0;
	if (!copy || folder < 0)
		return error_errno(err, "cannot make a place for /%s in the jail", name);
	while ((slash = strchr(rest, '/'))) {
		bool folder_made;
		int below;

		*slash = '\0';
		below = path_make_directory(folder, rest, 0755, &folder_made);
		*made += folder_made;
		if (below < 0)
			return error_errno(err, "cannot make the folder %s of /%s in the jail",
					   rest, name);
		close(folder);
		folder = below;
		rest = slash + 1;
	}
	*last = path_last_component(name);
	return take_fd(&folder);
}

/* Returns an empty file for a mount, as O_PATH. */
static int open_place(const char *name, unsigned int *made, struct error *err)
{
	const char *last = "";
	cleanup_fd int folder = open_folder(name, &last, made, err);
	cleanup_fd int place = -1;
	struct stat status;

	if (folder < 0)
		return folder;
	place = openat(folder, last, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0);
	*made += place >= 0;
	if (place < 0 && errno != EEXIST)
		return error_errno(err, "cannot make a place for /%s in the jail", name);
	close_fd(&place);
	place = path_open_beneath(folder, last, O_PATH | O_NOFOLLOW, 0);
	if (place < 0 || fstat(place, &status) < 0)
		return error_errno(err, "cannot open the place for /%s in the jail", name);
	if (!S_ISREG(status.st_mode) || status.st_size != 0)
		return error_set(
			err, EEXIST,
			"the jail has a /%s already, which is no empty file: remove it, or "
			"show the file by another name",
			name);
	return take_fd(&place);
}

int mounts_show(struct jail *jail, int tree_fd, const char *name, unsigned int *made,
		struct error *err)
{
	cleanup_fd int place = -1;

	*made = 0;
	if (!jail->has_namespace)
		return error_set(
			err, EPERM,
			"/%s cannot be shown in a jail where mounts are not allowed: copy it "
			"below the jail's root",
			name);
	place = open_place(name, made, err);
	if (place < 0)
		return place;
	if (move_mount(tree_fd, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) <
	    0)
		return error_errno(err, "cannot mount /%s in the jail (move_mount)", name);
	return 0;
}

int mounts_make_node(struct jail *jail, const char *name, const struct node *node,
		     unsigned int *made, struct error *err)
{
	const char *last = "";
	cleanup_fd int folder = open_folder(name, &last, made, err);
	struct stat status;

	if (folder < 0)
		return folder;
	/* A node of the last run; nothing else may be in the way. */
	if (fstatat(folder, last, &status, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!S_ISCHR(status.st_mode) && !S_ISBLK(status.st_mode) && status.st_size != 0)
			return error_set(err, EEXIST, "the jail has a /%s already: remove it",
					 name);
		if (unlinkat(folder, last, 0) < 0)
			return error_errno(err, "cannot replace /%s in the jail", name);
	}
	if (mknodat(folder, last, node->mode, node->device) < 0)
		return error_errno(err, "cannot make the device node /%s in the jail", name);
	++*made;
	if (fchownat(folder, last, node->uid, node->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fchmodat(folder, last, node->mode & 07777, 0) < 0)
		return error_errno(err, "cannot give the device node /%s to the monitor's user",
				   name);
	return 0;
}

void mounts_hide(struct jail *jail, const char *name, unsigned int made)
{
	char path[PATH_MAX];

	if (jail->has_namespace)
		umount2(name, MNT_DETACH | UMOUNT_NOFOLLOW);
	snprintf(path, sizeof(path), "%s", name);
	for (; made > 0; made--) {
		char *slash = strrchr(path, '/');

		/* The file or node first, then folders as far as they were made for it. */
		if (unlinkat(jail->room.root_fd, path, 0) < 0 && errno == EISDIR)
			unlinkat(jail->room.root_fd, path, AT_REMOVEDIR);
		if (!slash)
			break;
		*slash = '\0';
	}
}

/*
 * Where pivot_root is not allowed, or the root is an initramfs, which it cannot move: the room is
 * moved over the root, which then lies under it, and chroot(2) follows. Without capabilities there
 * is no way down.
 */
static int cover_root(struct jail *jail, struct error *err)
{
	jail->missing |= MISSING_PIVOT_ROOT;
	if (jail->has_namespace && mount(".", "/", NULL, MS_MOVE, NULL) < 0 && !is_denied(errno) &&
	    errno != EINVAL)
		return error_errno(err, "cannot move the jail's root over the root");
	if (chroot(".") < 0)
		return error_errno(err, "cannot make the jail the root (chroot)");
	return 0;
}

static int pivot(struct jail *jail, struct error *err)
{
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return is_denied(errno) || errno == EINVAL ? cover_root(jail, err)
							   : error_errno(err, "pivot_root");
	jail->pivoted = true;
	if (umount2(".", MNT_DETACH) < 0)
		return error_errno(err, "cannot let go of the old root");
	return 0;
}

int mounts_pivot(struct jail *jail, struct error *err)
{
	int result;

	if (jail->has_namespace) {
		result = pivot(jail, err);
	} else if (chroot(".") < 0) {
		result = error_errno(err, "cannot make the jail the root (chroot)");
	} else {
		result = 0;
	}
	if (result == 0 && chdir("/") < 0)
		result = error_errno(err, "cannot enter the new root");
	return result;
}
