/* The jail's cgroups: see cgroup.h. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cgroup_private.h"
#include "paths.h"

/* How long a monitor that was killed may take to leave its cgroup. */
#define LEAVE_ATTEMPTS 200
#define LEAVE_PAUSE_NS 10000000

/* /proc/self/cgroup: a line for each hierarchy. */
#define MEMBERSHIP_BYTES ((size_t)8 * PATH_MAX)

static const char *parent_of(const struct jail_options *options)
{
	return options->parent_cgroup ? options->parent_cgroup : options->exec_name;
}

static void append_path(struct cgroup *cgroup, const char *name)
{
	size_t used = strlen(cgroup->path);

	snprintf(cgroup->path + used, sizeof(cgroup->path) - used, "/%s", name);
}

/* Controllers that a cgroup at this level passes on to its children. */
static int enable_all(int fd, const struct jail_options *options, const char *path,
		      struct error *err)
{
	for (unsigned int i = 0; i < options->setting_count; i++) {
		const char *controller = options->settings[i].controller;

		/* The files of the core (cgroup.freeze, cgroup.max.depth) are everywhere. */
		if (strcmp(controller, "cgroup") != 0 &&
		    cgroup_enable_controller(fd, controller, path, err) < 0)
			return error_prefix(err, "--cgroup %s", options->settings[i].file);
	}
	return 0;
}

/* From the hierarchy's root to the parent: folders are made, and what children need is passed on.
 */
static int descend(struct cgroup *cgroup, const struct jail_options *options, bool v2,
		   struct error *err)
{
	cleanup_free char *copy = strdup(parent_of(options));
	char *next = NULL;

	if (!copy)
		return error_set(err, ENOMEM, "out of memory");
	cgroup->parent_fd = openat(cgroup->mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (cgroup->parent_fd < 0)
		return error_errno(err, "cannot open %s", cgroup->path);
	if (v2 && enable_all(cgroup->parent_fd, options, cgroup->path, err) < 0)
		return -err->code;
	for (char *name = strtok_r(copy, "/", &next); name; name = strtok_r(NULL, "/", &next)) {
		bool made;
		int below = path_make_directory(cgroup->parent_fd, name, 0755, &made);
		int result = 0;

		append_path(cgroup, name);
		if (below < 0)
			return error_errno(err, "cannot make the cgroup %s", cgroup->path);
		if (v2)
			result = enable_all(below, options, cgroup->path, err);
		else
			result = cgroup_fill_cpuset(cgroup->parent_fd, below, cgroup->path, err);
		close(cgroup->parent_fd);
		cgroup->parent_fd = below;
		if (result < 0)
			return result;
	}
	return 0;
}

/*
 * A process or thread that has ended for those who waited for it may still be on its way out: the
 * kernel counts it as a member until it is. Returns -1 with errno like rmdir(2).
 */
static int remove_leaf(const struct cgroup *cgroup, const char *id)
{
	const struct timespec pause = { .tv_nsec = LEAVE_PAUSE_NS };

	for (int attempt = 0; attempt < LEAVE_ATTEMPTS; attempt++) {
		if (unlinkat(cgroup->parent_fd, id, AT_REMOVEDIR) == 0 || errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return -1;
		nanosleep(&pause, NULL);
	}
	errno = EBUSY;
	return -1;
}

static int remove_old_leaf(const struct cgroup *cgroup, const char *id, struct error *err)
{
	if (remove_leaf(cgroup, id) == 0)
		return 0;
	if (errno == EBUSY)
		return error_set(err, EBUSY, "the cgroup %s is there already and has processes",
				 cgroup->path);
	return error_errno(err, "cannot remove the cgroup %s of an earlier jail", cgroup->path);
}

static int make_leaf(struct cgroup *cgroup, const char *id, bool v2, struct error *err)
{
	append_path(cgroup, id);
	if (remove_old_leaf(cgroup, id, err) < 0)
		return -err->code;
	if (mkdirat(cgroup->parent_fd, id, 0755) < 0)
		return error_errno(err, "cannot make the cgroup %s", cgroup->path);
	cgroup->made = true;
	cgroup->fd = path_open_beneath(cgroup->parent_fd, id, O_RDONLY | O_DIRECTORY, 0);
	if (cgroup->fd < 0)
		return error_errno(err, "cannot open the cgroup %s", cgroup->path);
	return v2 ? 0 : cgroup_fill_cpuset(cgroup->parent_fd, cgroup->fd, cgroup->path, err);
}

/* The way back, for when a later step fails. */
static void remember_origin(struct cgroup *cgroup, const char *controller)
{
	cleanup_free char *text = malloc(MEMBERSHIP_BYTES);
	cleanup_fd int proc = open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC);
	cleanup_fd int origin = -1;
	char path[PATH_MAX];

	if (text && proc >= 0 && path_read_small(proc, "cgroup", text, MEMBERSHIP_BYTES) > 0 &&
	    cgroup_parse_membership(text, controller, path))
		origin = path_open_beneath(cgroup->mount_fd, *path ? path : ".", O_PATH, 0);
	cgroup->back_fd = path_open_beneath(origin >= 0 ? origin : cgroup->mount_fd, "cgroup.procs",
					    O_WRONLY, 0);
}

static struct cgroup *add_hierarchy(struct cgroups *cgroups, const char *controller,
				    struct error *err)
{
	struct cgroup *cgroup = &cgroups->items[cgroups->count];
	struct stat status;

	if (cgroups->count == CGROUP_MAX_HIERARCHIES) {
		error_set(err, ENOSPC, "too many cgroup hierarchies");
		return NULL;
	}
	*cgroup = (struct cgroup) { .parent_fd = -1, .fd = -1, .back_fd = -1 };
	cgroup->mount_fd = cgroup_find_mount(controller, cgroup->path, err);
	if (cgroup->mount_fd < 0)
		return NULL;
	if (fstat(cgroup->mount_fd, &status) < 0) {
		error_errno(err, "cannot examine %s", cgroup->path);
		close_fd(&cgroup->mount_fd);
		return NULL;
	}
	/* Controllers may share a hierarchy. */
	for (unsigned int i = 0; i < cgroups->count; i++) {
		if (cgroups->items[i].mount_device == status.st_dev) {
			close_fd(&cgroup->mount_fd);
			return &cgroups->items[i];
		}
	}
	cgroup->mount_device = status.st_dev;
	remember_origin(cgroup, controller);
	cgroups->count++;
	return cgroup;
}

static int fill(struct cgroups *cgroups, const struct jail_options *options, bool v2,
		struct error *err)
{
	for (unsigned int i = 0; i < options->setting_count; i++) {
		const struct cgroup_setting *setting = &options->settings[i];
		struct cgroup *cgroup =
			add_hierarchy(cgroups, v2 ? NULL : setting->controller, err);

		if (!cgroup)
			return error_prefix(err, "--cgroup %s", setting->file);
		if (!cgroup->made && (descend(cgroup, options, v2, err) < 0 ||
				      make_leaf(cgroup, options->id, v2, err) < 0))
			return -err->code;
		if (cgroup_set(cgroup->fd, setting, cgroup->path, err) < 0)
			return -err->code;
	}
	return 0;
}

/* Without any setting there is nothing to make: the parent, which somebody else made, is joined. */
static int open_parent(struct cgroups *cgroups, const struct jail_options *options,
		       struct error *err)
{
	struct cgroup *cgroup = add_hierarchy(cgroups, NULL, err);

	if (!cgroup)
		return -err->code;
	append_path(cgroup, options->parent_cgroup);
	cgroup->fd = path_open_beneath(cgroup->mount_fd, options->parent_cgroup,
				       O_RDONLY | O_DIRECTORY, 0);
	if (cgroup->fd < 0)
		return error_errno(err, "--parent-cgroup %s: cannot open %s",
				   options->parent_cgroup, cgroup->path);
	return 0;
}

static int join(struct cgroups *cgroups, struct error *err)
{
	for (; cgroups->joined < cgroups->count; cgroups->joined++) {
		const struct cgroup *cgroup = &cgroups->items[cgroups->joined];

		if (cgroup_write(cgroup->fd, "cgroup.procs", "0") < 0)
			return error_errno(err, "cannot join the cgroup %s", cgroup->path);
	}
	return 0;
}

int cgroups_enter(struct cgroups *cgroups, const struct jail_options *options, struct error *err)
{
	bool v2 = options->cgroup_version == 2;
	int result = 0;

	if (options->setting_count == 0 && !(options->parent_cgroup && v2))
		return 0;
	if (options->cgroup_version == 0)
		v2 = cgroup_host_is_v2();
	if (options->setting_count)
		result = fill(cgroups, options, v2, err);
	else
		result = open_parent(cgroups, options, err);
	return result < 0 ? result : join(cgroups, err);
}

void cgroups_undo(struct cgroups *cgroups, const struct jail_options *options)
{
	for (unsigned int i = cgroups->count; i-- > 0;) {
		struct cgroup *cgroup = &cgroups->items[i];

		if (i < cgroups->joined && cgroup->back_fd >= 0 &&
		    write(cgroup->back_fd, "0", 1) < 0)
			continue; /* we are in it: it cannot be removed */
		if (cgroup->made)
			remove_leaf(cgroup, options->id);
	}
	cgroups->joined = 0;
	cgroups_close(cgroups);
}

void cgroups_close(struct cgroups *cgroups)
{
	for (unsigned int i = 0; i < cgroups->count; i++) {
		close_fd(&cgroups->items[i].mount_fd);
		close_fd(&cgroups->items[i].parent_fd);
		close_fd(&cgroups->items[i].fd);
		close_fd(&cgroups->items[i].back_fd);
	}
	cgroups->count = 0;
}
