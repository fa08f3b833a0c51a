/*
 * The jail's cgroups: made, filled, read back, joined. Linux Documentation: admin-guide/cgroup-v1/,
 * admin-guide/cgroup-v2.rst.
 *
 * v1: one cgroup <parent>/<id> in each hierarchy of which a --cgroup names a controller. v2: one
 * cgroup, for which the controllers are enabled from the root down. Without any --cgroup there is
 * none, but for v2 with --parent-cgroup: then the process joins that one.
 *
 * Parents are shared between jails and are never removed here; the leaf is removed when a later
 * step fails. A leaf that an earlier jail of this id left is removed and made anew, so that no
 * limit of it lives on.
 */
#ifndef MAYFLY_JAIL_CGROUP_H
#define MAYFLY_JAIL_CGROUP_H

#include <limits.h>

#include "options.h"

#define CGROUP_MAX_HIERARCHIES 16

struct cgroup {
	int mount_fd; /* the hierarchy's root; tells hierarchies apart */
	dev_t mount_device;
	int parent_fd;
	int fd;	     /* of the leaf, or of the parent when that is joined */
	int back_fd; /* cgroup.procs of the cgroup that the jailer was started in */
	bool made;
	char path[PATH_MAX]; /* for messages */
};

struct cgroups {
	struct cgroup items[CGROUP_MAX_HIERARCHIES];
	unsigned int count;
	unsigned int joined;
};

/* Makes, fills, reads back and joins. */
int cgroups_enter(struct cgroups *cgroups, const struct jail_options *options, struct error *err);

/* Goes back to where the jailer came from, and removes what was made. Any state. */
void cgroups_undo(struct cgroups *cgroups, const struct jail_options *options);

/* Closes the descriptors. */
void cgroups_close(struct cgroups *cgroups);

/*
 * Whether a file that reads as `found` holds what was written as `written`: the kernel answers in
 * its own words (1G as bytes in whole pages, 0,1 as 0-1, 50000 as "50000 100000").
 */
bool cgroup_value_holds(const char *written, const char *found);

#endif
