/* The files of a cgroup: writing, reading back, and what a new cgroup needs. See cgroup_private.h.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "cgroup_private.h"
#include "paths.h"

#define FILE_BYTES 16384

int cgroup_write(int fd, const char *name, const char *value)
{
	cleanup_fd int file = path_open_beneath(fd, name, O_WRONLY, 0);
	ssize_t written;

	if (file < 0)
		return file;
	/* One write: the kernel takes a value whole. */
	written = write(file, value, strlen(value));
	return written < 0 ? -errno : 0;
}

static int explain_write(const struct cgroup_setting *setting, const char *path, struct error *err)
{
	if (errno == ENOENT)
		return error_set(err, ENOENT,
				 "--cgroup %s=%s: there is no file %s in %s: the name is wrong, or "
				 "of the other cgroup version, or the kernel lacks it",
				 setting->file, setting->value, setting->file, path);
	return error_errno(err, "--cgroup %s=%s: cannot write to %s/%s", setting->file,
			   setting->value, path, setting->file);
}

int cgroup_set(int fd, const struct cgroup_setting *setting, const char *path, struct error *err)
{
	cleanup_free char *found = malloc(FILE_BYTES);
	struct stat status;

	if (!found)
		return error_set(err, ENOMEM, "out of memory");
	if (cgroup_write(fd, setting->file, setting->value) < 0)
		return explain_write(setting, path, err);
	if (fstatat(fd, setting->file, &status, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, "cannot examine %s/%s", path, setting->file);
	/* What the kernel offers for writing only (devices.deny, memory.reclaim) has no state. */
	if (!(status.st_mode & 0444))
		return 0;
	if (path_read_small(fd, setting->file, found, FILE_BYTES) < 0)
		return error_errno(err, "--cgroup %s: cannot read %s/%s back", setting->file, path,
				   setting->file);
	if (cgroup_value_holds(setting->value, found))
		return 0;
	found[strcspn(found, "\n")] = '\0';
	return error_set(err, EIO, "--cgroup %s=%s: %s/%s now reads '%.200s'", setting->file,
			 setting->value, path, setting->file, found);
}

int cgroup_fill_cpuset(int parent_fd, int fd, const char *path, struct error *err)
{
	static const char *const files[] = { "cpuset.cpus", "cpuset.mems" };
	char value[FILE_BYTES / 4];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		long length = path_read_small(fd, files[i], value, sizeof(value));

		if (length == -ENOENT)
			return 0; /* a hierarchy without cpuset */
		if (length >= 0 && value[strspn(value, " \n")])
			continue;
		if (length < 0 || path_read_small(parent_fd, files[i], value, sizeof(value)) < 0 ||
		    cgroup_write(fd, files[i], value) < 0)
			return error_errno(err, "cannot give %s of its parent to %s", files[i],
					   path);
	}
	return 0;
}

int cgroup_enable_controller(int fd, const char *controller, const char *path, struct error *err)
{
	char list[FILE_BYTES / 4], word[JAIL_CONTROLLER_BYTES + 1];

	if (path_read_small(fd, "cgroup.subtree_control", list, sizeof(list)) < 0)
		return error_errno(err, "cannot read %s/cgroup.subtree_control", path);
	if (cgroup_list_has(list, controller, " \n"))
		return 0;
	if (path_read_small(fd, "cgroup.controllers", list, sizeof(list)) < 0)
		return error_errno(err, "cannot read %s/cgroup.controllers", path);
	if (!cgroup_list_has(list, controller, " \n")) {
		list[strcspn(list, "\n")] = '\0';
		return error_set(err, ENOENT,
				 "%s does not have the controller %s (cgroup.controllers: %.200s)",
				 path, controller, list);
	}
	snprintf(word, sizeof(word), "+%s", controller);
	if (cgroup_write(fd, "cgroup.subtree_control", word) == 0)
		return 0;
	if (errno == EBUSY)
		return error_set(
			err, EBUSY,
			"cannot enable the controller %s for the children of %s: it has "
			"processes of its own, which v2 does not allow; move them to a child",
			controller, path);
	return error_errno(err, "cannot enable the controller %s in %s/cgroup.subtree_control",
			   controller, path);
}
