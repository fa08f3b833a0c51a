/*
 * Mounts of the jail: a namespace of its own, the room as its root, files and devices of the host
 * shown in it, the old root gone.
 *
 * No step reads /proc/self/mountinfo or walks the host's mounts; what grows with their number is
 * the kernel's copy of the namespace and its removal, one of each (docs/jail.md has the numbers).
 */
#ifndef MAYFLY_JAIL_MOUNTS_H
#define MAYFLY_JAIL_MOUNTS_H

#include "jail.h"

/* A mount namespace whose room is a mount of its own, which is the working directory at return. */
int mounts_enter(struct jail *jail, struct error *err);
void mounts_undo(struct jail *jail);

/*
 * Shows a detached mount at `name` in the room. The place for it (an empty file) and the folders on
 * the way are made where they are missing; *made says how many of the name's components were,
 * counted from its end. `tree_fd` stays the caller's.
 */
int mounts_show(struct jail *jail, int tree_fd, const char *name, unsigned int *made,
		struct error *err);

struct node {
	mode_t mode; /* with its type */
	dev_t device;
	uid_t uid;
	gid_t gid;
};

/* A device node at `name` in the room, in place of one that was there. */
int mounts_make_node(struct jail *jail, const char *name, const struct node *node,
		     unsigned int *made, struct error *err);

/* Undoes one of the two. */
void mounts_hide(struct jail *jail, const char *name, unsigned int made);

/* A detached mount of one file, which is opened already (O_PATH), with these MOUNT_ATTR_ bits.
 * Returns its descriptor or -errno with errno set. */
int mounts_clone_file(int file_fd, uint64_t attributes);

/* Makes the room the root of everything, and lets go of the old one. */
int mounts_pivot(struct jail *jail, struct error *err);

/* --file: all of them. */
int files_show(struct jail *jail, struct error *err);
void files_hide(struct jail *jail);

/* Whether the file that `fd` is can be shown at all: for an early answer. */
int files_check(const struct jail_file *file, struct error *err);

/* /dev with its nodes. */
int devices_make(struct jail *jail, struct error *err);
void devices_undo(struct jail *jail);
int devices_find(struct jail *jail, struct error *err);

#endif
