/* What the files of cgroup.h share. */
#ifndef MAYFLY_JAIL_CGROUP_PRIVATE_H
#define MAYFLY_JAIL_CGROUP_PRIVATE_H

#include "cgroup.h"

/*
 * The mount point of the v2 hierarchy (controller NULL) or of the v1 hierarchy with this
 * controller, as O_PATH; `path` (PATH_MAX bytes) gets its name. Looks where everybody mounts them
 * first, and reads the list of mounts only when they are not there.
 */
int cgroup_find_mount(const char *controller, char *path, struct error *err);

/* Whether v2 is what this host uses: it is mounted where the one hierarchy of a host is. */
bool cgroup_host_is_v2(void);

/*
 * One line of /proc/self/mountinfo: true when it is a cgroup mount (v2 when `controller` is NULL,
 * else v1 with this controller); `path` (PATH_MAX bytes) gets the mount point. proc(5).
 */
bool cgroup_parse_mount(const char *line, const char *controller, char *path);

/* The cgroup of /proc/self/cgroup's text in the hierarchy with this controller (NULL: v2), without
 * its first slash; false when it is not there or too long. cgroups(7). */
bool cgroup_parse_membership(const char *text, const char *controller, char *path);

/* Whether a word is in a list that `separators` part. */
bool cgroup_list_has(const char *list, const char *word, const char *separators);

/* v1: a cpuset without CPUs and memory nodes takes no process, and new ones have none. */
int cgroup_fill_cpuset(int parent_fd, int fd, const char *path, struct error *err);

/* v2: makes a controller available to the children of this cgroup. */
int cgroup_enable_controller(int fd, const char *controller, const char *path, struct error *err);

/* Opens a file of a cgroup, writes one value, and reads it back. */
int cgroup_set(int fd, const struct cgroup_setting *setting, const char *path, struct error *err);

/* Writes to a file of a cgroup; -errno with errno set. */
int cgroup_write(int fd, const char *name, const char *value);

#endif
