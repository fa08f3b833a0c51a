/* Taking away what a process has: see privileges.h. */
#include <cap-ng.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/keyctl.h>
#include <linux/nsfs.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "paths.h"
#include "privileges.h"

/* The kernel has 64 bits for them. */
#define MAX_CAPABILITIES 64

/* Root stays without capabilities, none becomes ambient, and nobody can change that. */
#define LOCKED_SECUREBITS                                                       \
	(SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED | \
	 SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |                \
	 SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)

int privileges_close_descriptors(struct error *err)
{
	static const char *const names[] = { "input", "output", "error" };

	if (close_range(STDERR_FILENO + 1, ~0U, 0) < 0)
		return error_errno(err, "cannot close inherited descriptors (close_range)");
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		struct stat status;

		if (fstat(fd, &status) < 0) {
			if (open("/dev/null", O_RDWR) != fd)
				return error_errno(err, "cannot open /dev/null as standard %s",
						   names[fd]);
		} else if (S_ISDIR(status.st_mode)) {
			return error_set(err, EISDIR,
					 "standard %s is a folder, which would be a way out of the "
					 "jail",
					 names[fd]);
		}
	}
	return 0;
}

int privileges_choose_kind(struct jail *jail, struct error *err)
{
	struct jail_options *options = &jail->options;

	if (capng_get_caps_process() < 0)
		return error_set(err, EIO, "cannot read the capabilities of this process");
	if (capng_have_capability(CAPNG_EFFECTIVE, CAP_SYS_ADMIN))
		jail->kind = JAIL_PRIVILEGED;
	else
		jail->kind = geteuid() == 0 ? JAIL_CHROOT : JAIL_USER;
	if (jail->kind != JAIL_USER) {
		if (!options->has_uid || !options->has_gid)
			return error_set(err, EINVAL,
					 "--%s is missing: the number of the %s that the monitor "
					 "runs as, not 0.",
					 options->has_uid ? "gid" : "uid",
					 options->has_uid ? "group" : "user");
		return 0;
	}
	if ((options->has_uid && options->uid != geteuid()) ||
	    (options->has_gid && options->gid != getegid()))
		return error_set(err, EPERM,
				 "--uid %u --gid %u: only root can run the monitor as somebody "
				 "else. Leave them out, or start mayfly-jailer as root.",
				 options->has_uid ? options->uid : geteuid(),
				 options->has_gid ? options->gid : getegid());
	options->uid = geteuid();
	options->gid = getegid();
	jail->missing |= MISSING_OTHER_USER | MISSING_GROUPS;
	if (options->setting_count == 0)
		jail->missing |= MISSING_LIMITS;
	return 0;
}

static int set_limit(__rlimit_resource_t resource, const char *name, uint64_t value,
		     struct error *err)
{
	struct rlimit limit, before;

	limit.rlim_cur = limit.rlim_max = value;
	if (setrlimit(resource, &limit) == 0)
		return 0;
	/* An ordinary user cannot have more than the caller had. */
	if (errno == EPERM && getrlimit(resource, &before) == 0)
		return error_set(err, EPERM,
				 "cannot set the resource limit %s to %llu: %llu is the most that "
				 "this user may have",
				 name, (unsigned long long)value,
				 (unsigned long long)before.rlim_max);
	return error_errno(err, "cannot set the resource limit %s to %llu", name,
			   (unsigned long long)value);
}

int privileges_set_limits(const struct jail_options *options, struct error *err)
{
	uint64_t no_file = options->no_file;
	struct rlimit now;

	/* The default is no reason to fail. */
	if (no_file == JAIL_DEFAULT_NO_FILE && getrlimit(RLIMIT_NOFILE, &now) == 0 &&
	    now.rlim_max < no_file && geteuid() != 0)
		no_file = now.rlim_max;
	if (set_limit(RLIMIT_NOFILE, "no-file", no_file, err) < 0)
		return -err->code;
	return set_limit(RLIMIT_CORE, "core", 0, err);
}

int privileges_set_file_size(const struct jail_options *options, struct error *err)
{
	return options->has_fsize ? set_limit(RLIMIT_FSIZE, "fsize", options->fsize_bytes, err) : 0;
}

static int write_proc(const char *name, const char *text, struct error *err)
{
	cleanup_fd int fd = open(name, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || path_write_all(fd, text, strlen(text)) < 0)
		return error_errno(err, "cannot write to %s", name);
	return 0;
}

/*
 * A network namespace belongs to the user namespace that it was made in, and who made that one has
 * all capabilities there (user_namespaces(7)): so a user can join what is their own, by way of it.
 */
static int join_own_network(struct jail *jail, struct error *err)
{
	cleanup_fd int owner = ioctl(jail->netns_fd, NS_GET_USERNS);

	if (owner < 0 || setns(owner, CLONE_NEWUSER) < 0 || setns(jail->netns_fd, CLONE_NEWNET) < 0)
		return error_errno(
			err,
			"cannot join --netns %s: an ordinary user can join only a network "
			"namespace made in a user namespace of their own (such as by "
			"unshare --map-root-user --net)",
			jail->options.netns);
	close_fd(&jail->netns_fd);
	return 0;
}

int privileges_enter_user_namespace(struct jail *jail, struct error *err)
{
	bool own_network = jail->netns_fd >= 0;
	uid_t outer_uid;
	gid_t outer_gid;
	char map[64];

	if (jail->kind != JAIL_USER)
		return 0;
	if (own_network && join_own_network(jail, err) < 0)
		return -err->code;
	outer_uid = geteuid();
	outer_gid = getegid();
	if (unshare(CLONE_NEWUSER) < 0)
		return error_errno(err,
				   "cannot make a user namespace, without which an ordinary user "
				   "can build no jail (is user.max_user_namespaces 0, or does a "
				   "container's filter deny it? As root it works without)");
	/* Only ourselves, under our own number, which the namespace around may know by another;
	 * without a way to drop groups (user_namespaces(7)). */
	snprintf(map, sizeof(map), "%u %u 1\n", jail->options.uid, outer_uid);
	if (write_proc("/proc/self/uid_map", map, err) < 0 ||
	    write_proc("/proc/self/setgroups", "deny", err) < 0)
		return -err->code;
	snprintf(map, sizeof(map), "%u %u 1\n", jail->options.gid, outer_gid);
	if (write_proc("/proc/self/gid_map", map, err) < 0)
		return -err->code;
	if (!own_network && unshare(CLONE_NEWNET) < 0)
		return error_errno(err, "cannot make a network namespace (unshare)");
	return 0;
}

int privileges_leave_keyring(struct jail *jail, struct error *err)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) >= 0 || errno == ENOSYS)
		return 0;
	/* Containers deny it, and users have a quota of keys. */
	if (errno != EPERM && errno != EDQUOT && errno != EACCES)
		return error_errno(err, "cannot make a session keyring (keyctl)");
	jail->missing |= MISSING_KEYRING;
	return 0;
}

static int drop_bounding_set(struct error *err)
{
	bool can_change = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);

	for (unsigned long capability = 0; capability < MAX_CAPABILITIES; capability++) {
		int there = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);

		if (there < 0)
			break; /* beyond the kernel's last */
		if (there > 0 && can_change && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
			return error_errno(err, "cannot drop capability %lu from the bounding set",
					   capability);
		if (there > 0 && !can_change)
			return error_set(err, EPERM,
					 "cannot empty the bounding set without CAP_SETPCAP");
	}
	if (can_change && prctl(PR_SET_SECUREBITS, LOCKED_SECUREBITS, 0, 0, 0) < 0)
		return error_errno(err, "cannot lock the securebits");
	return 0;
}

/* System calls, not the C library's functions, which would change every thread. */
static int set_ids(const struct jail *jail, struct error *err)
{
	const struct jail_options *options = &jail->options;
	uid_t uid[3];
	gid_t gid[3];

	if (jail->kind == JAIL_USER)
		return 0; /* it is this user already, and the namespace denies setgroups */
	if (syscall(SYS_setgroups, 0, NULL) < 0)
		return error_errno(err, "cannot drop the supplementary groups");
	if (syscall(SYS_setresgid, options->gid, options->gid, options->gid) < 0)
		return error_errno(err, "cannot become group %u", options->gid);
	if (syscall(SYS_setresuid, options->uid, options->uid, options->uid) < 0)
		return error_errno(err, "cannot become user %u", options->uid);
	if (getresuid(&uid[0], &uid[1], &uid[2]) < 0 || getresgid(&gid[0], &gid[1], &gid[2]) < 0)
		return error_errno(err, "cannot read the ids of this process");
	for (int i = 0; i < 3; i++) {
		if (uid[i] != options->uid || gid[i] != options->gid)
			return error_set(err, EPERM, "the kernel did not take user %u, group %u",
					 options->uid, options->gid);
	}
	return 0;
}

int privileges_drop(const struct jail *jail, struct error *err)
{
	/* The library keeps what it read per thread. */
	if (capng_get_caps_process() < 0)
		return error_set(err, EIO, "cannot read the capabilities of this process");
	if (drop_bounding_set(err) < 0 || set_ids(jail, err) < 0)
		return -err->code;
	capng_clear(CAPNG_SELECT_ALL);
	if (capng_apply(CAPNG_SELECT_CAPS) != 0 || capng_apply(CAPNG_SELECT_AMBIENT) != 0)
		return error_set(err, EPERM, "cannot drop the capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(err, "cannot set no_new_privs");
	if (capng_get_caps_process() < 0 || capng_have_capabilities(CAPNG_SELECT_ALL) != CAPNG_NONE)
		return error_set(err, EPERM, "the kernel left capabilities");
	return 0;
}
