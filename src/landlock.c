/*
 * Landlock: see include/mayfly/landlock.h. Every right that is handled here is one that nobody has
 * from then on, but for REFER, which a process loses by being restricted at all: a file whose first
 * name is given to it, as that of a snapshot, needs it.
 *
 * System calls: prctl (PR_SET_NO_NEW_PRIVS), landlock_create_ruleset, landlock_add_rule,
 * landlock_restrict_self, openat, close.
 */
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "mayfly/landlock.h"

/* The first version with REFER. */
#define ABI_LEAST  2
#define ABI_NET	   4
#define ABI_SCOPES 6

/* linux/landlock.h as of Linux 6.12; the kernel headers that Mayfly is built with may be older. */
#define ACCESS_FS_REFER		   (1ULL << 13)
#define ACCESS_NET_BIND_TCP	   (1ULL << 0)
#define ACCESS_NET_CONNECT_TCP	   (1ULL << 1)
#define SCOPE_ABSTRACT_UNIX_SOCKET (1ULL << 0)
#define SCOPE_SIGNAL		   (1ULL << 1)

#define NO_LONGER                                                      \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_REMOVE_DIR |  \
	 LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |  \
	 LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | \
	 LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM)

/* struct landlock_ruleset_attr; what an older kernel does not know is 0, which it takes. */
struct ruleset {
	uint64_t handled_access_fs, handled_access_net, scoped;
};

static int keep_refer(int ruleset_fd)
{
	cleanup_fd int root = open("/", O_PATH | O_CLOEXEC);
	struct landlock_path_beneath_attr beneath = { .allowed_access = ACCESS_FS_REFER,
						      .parent_fd = root };

	if (root < 0)
		return -1;
	return (int)syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &beneath,
			    0);
}

int landlock_enter(struct error *err)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	struct ruleset ruleset = { .handled_access_fs = NO_LONGER | ACCESS_FS_REFER };
	cleanup_fd int fd = -1;

	if (abi < ABI_LEAST)
		return 0;
	if (abi >= ABI_NET)
		ruleset.handled_access_net = ACCESS_NET_BIND_TCP | ACCESS_NET_CONNECT_TCP;
	if (abi >= ABI_SCOPES)
		ruleset.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
	fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, sizeof(ruleset), 0);
	if (fd < 0 || keep_refer(fd) < 0)
		return error_errno(err, "Landlock: its rules cannot be made");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		return error_errno(err, "Landlock: this process cannot be restricted");
	return (int)abi;
}
