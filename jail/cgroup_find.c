/*
 * Where cgroup hierarchies are mounted, and where in them this process is: cgroups(7), proc(5).
 *
 * Nearly every host has them below /sys/fs/cgroup. The list of mounts, whose reading costs time
 * with each mount of the host, is the last resort.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include "cgroup_private.h"

#define USUAL_PLACE "/sys/fs/cgroup"

static int open_hierarchy(const char *path, bool v2)
{
	cleanup_fd int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct statfs status;

	if (fd < 0 || fstatfs(fd, &status) < 0)
		return -errno;
	if (status.f_type != (v2 ? CGROUP2_SUPER_MAGIC : CGROUP_SUPER_MAGIC))
		return -ENOENT;
	return take_fd(&fd);
}

/* Space, tab, line feed and backslash stand there as octal numbers. */
static bool unescape(const char *text, size_t length, char *path)
{
	size_t used = 0;

	for (size_t i = 0; i < length; i++) {
		char c = text[i];

		if (c == '\\' && length - i >= 4 && text[i + 1] >= '0' && text[i + 1] <= '3' &&
		    text[i + 2] >= '0' && text[i + 2] <= '7' && text[i + 3] >= '0' &&
		    text[i + 3] <= '7') {
			c = (char)((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
				   (text[i + 3] - '0'));
			i += 3;
		}
		if (c == '\0' || used + 1 >= PATH_MAX)
			return false;
		path[used++] = c;
	}
	path[used] = '\0';
	return used > 0;
}

/* 36 35 98:0 /root /mount/point options [optional ...] - type source superoptions */
bool cgroup_parse_mount(const char *line, const char *controller, char *path)
{
	const char *fields = strstr(line, " - ");
	const char *place = line;
	size_t type_length;

	if (!fields)
		return false;
	fields += 3;
	type_length = strcspn(fields, " ");
	if (controller ? type_length != 6 || strncmp(fields, "cgroup", 6) != 0
		       : type_length != 7 || strncmp(fields, "cgroup2", 7) != 0)
		return false;
	for (int field = 0; field < 4; field++) {
		place = strchr(place, ' ');
		if (!place)
			return false;
		place++;
	}
	if (place >= fields)
		return false;
	if (controller) {
		/* type source options */
		const char *source = strchr(fields, ' ');
		const char *options = source ? strchr(source + 1, ' ') : NULL;

		if (!options || !cgroup_list_has(options, controller, " ,\n"))
			return false;
	}
	return unescape(place, strcspn(place, " "), path);
}

static int search_mounts(const char *controller, char *path)
{
	FILE *mounts = fopen("/proc/self/mountinfo", "re");
	cleanup_free char *line = NULL;
	size_t size = 0;
	int fd = -ENOENT;

	if (!mounts)
		return -errno;
	while (fd < 0 && getline(&line, &size, mounts) > 0) {
		if (cgroup_parse_mount(line, controller, path))
			fd = open_hierarchy(path, !controller);
	}
	(void)fclose(mounts);
	return fd;
}

/* With both, the controllers are in v1 as a rule: v2 beside it tracks processes only. */
bool cgroup_host_is_v2(void)
{
	cleanup_fd int fd = open_hierarchy(USUAL_PLACE, true);

	return fd >= 0;
}

int cgroup_find_mount(const char *controller, char *path, struct error *err)
{
	static const char *const v2_places[] = { USUAL_PLACE, USUAL_PLACE "/unified" };
	int fd = -ENOENT;

	if (controller) {
		snprintf(path, PATH_MAX, USUAL_PLACE "/%s", controller);
		fd = open_hierarchy(path, false);
	}
	for (size_t i = 0; !controller && fd < 0 && i < ARRAY_SIZE(v2_places); i++) {
		snprintf(path, PATH_MAX, "%s", v2_places[i]);
		fd = open_hierarchy(path, true);
	}
	if (fd < 0)
		fd = search_mounts(controller, path);
	if (fd >= 0)
		return fd;
	if (controller)
		return error_set(err, ENOENT,
				 "no cgroup v1 hierarchy with the controller %s is mounted; does "
				 "this host have v2? (--cgroup-version 2)",
				 controller);
	return error_set(err, ENOENT, "no cgroup v2 hierarchy is mounted");
}

/* 4:memory:/user.slice, or 0::/user.slice */
bool cgroup_parse_membership(const char *text, const char *controller, char *path)
{
	for (; *text; text += strcspn(text, "\n"), text += *text == '\n') {
		size_t length = strcspn(text, "\n");
		const char *list = memchr(text, ':', length);
		const char *place =
			list ? memchr(list + 1, ':', length - (size_t)(list + 1 - text)) : NULL;
		char controllers[512];
		size_t list_length, place_length;

		if (!place)
			continue;
		list_length = (size_t)(place - list - 1);
		place_length = length - (size_t)(place + 1 - text);
		if (list_length >= sizeof(controllers) || place_length >= PATH_MAX)
			continue;
		memcpy(controllers, list + 1, list_length);
		controllers[list_length] = '\0';
		if (controller ? !cgroup_list_has(controllers, controller, ",") : list_length != 0)
			continue;
		if (place_length == 0 || place[1] != '/')
			continue;
		memcpy(path, place + 2, place_length - 1);
		path[place_length - 1] = '\0';
		return true;
	}
	return false;
}
