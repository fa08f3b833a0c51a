/*
 * A jail while it is being made: what the steps of main.c pass on to each other.
 *
 * Every step fills its part; its undo empties it again, and may be called in any state.
 */
#ifndef MAYFLY_JAIL_JAIL_H
#define MAYFLY_JAIL_JAIL_H

#include <sys/stat.h>

#include "cgroup.h"
#include "options.h"

/* Which walls this caller can build. */
enum jail_kind {
	JAIL_PRIVILEGED, /* CAP_SYS_ADMIN: all of them */
	JAIL_USER,	 /* an ordinary user: a user namespace gives what is needed */
	JAIL_CHROOT,	 /* root that may not mount, as in many containers: chroot alone */
};

/* Protections that could not be had, as bits of jail.missing; their words are in missing.c. */
enum jail_missing {
	MISSING_OTHER_USER = 1 << 0,
	MISSING_GROUPS = 1 << 1,
	MISSING_LIMITS = 1 << 2,
	MISSING_PIVOT_ROOT = 1 << 3,
	MISSING_MOUNT_NAMESPACE = 1 << 4,
	MISSING_KEYRING = 1 << 5,
	MISSING_NO_DEVICE_KVM = 1 << 6,
	MISSING_IPC_NAMESPACE = 1 << 7,
};

/* The device nodes of a jail, and nothing else. */
enum {
	JAIL_DEVICE_KVM,
	JAIL_DEVICE_TUN,
	JAIL_DEVICE_URANDOM,
	JAIL_DEVICE_USERFAULTFD,
	JAIL_DEVICES
};

/* The folder <base>/<exec name>/<id> and what is in it. Descriptors are -1 when closed. */
struct room {
	int exec_dir_fd;    /* <base>/<exec name> */
	int id_fd;	    /* .../<id>, locked while the jail is made */
	int root_fd;	    /* .../<id>/root */
	struct stat before; /* of root, when it was there before */
	bool made_id, made_root, made_run, made_copy, made_pids;
};

struct jail {
	struct jail_options options;
	enum jail_kind kind;
	unsigned int missing;
	uint64_t start_time_us;	    /* CLOCK_MONOTONIC */
	uint64_t start_time_cpu_us; /* of this process */

	void (*on_sigpipe)(int); /* what the caller wants of it; the jailer ignores it */

	int exec_fd;		     /* the monitor on the host */
	int netns_fd;		     /* -1: none to join */
	int null_fd;		     /* /dev/null, for --daemonize */
	dev_t devices[JAIL_DEVICES]; /* 0: the host has none */

	struct room room;
	struct cgroups cgroups;

	bool has_namespace; /* mount namespace of its own: the working directory is the jail's root
			     */
	bool pivoted;
	/* How many components of each name were made for it: what is removed when a step fails. */
	unsigned int files_shown, devices_shown;
	unsigned int file_made[JAIL_MAX_FILES];
	unsigned int device_made[JAIL_DEVICES];
};

#endif
