/*
 * What a process has beside its memory, and how the jailer takes it away: descriptors, environment,
 * limits, namespaces of a user, ids, capabilities.
 *
 * capabilities(7), user_namespaces(7), close_range(2).
 */
#ifndef MAYFLY_JAIL_PRIVILEGES_H
#define MAYFLY_JAIL_PRIVILEGES_H

#include "jail.h"

/* Closes every descriptor but the standard ones, opens /dev/null where one of these is closed, and
 * refuses folders among them: through one, a jail has a door. */
int privileges_close_descriptors(struct error *err);

/* Whether this process may do what only root can: decides jail->kind, and the ids. */
int privileges_choose_kind(struct jail *jail, struct error *err);

/* --resource-limit no-file, and no core dumps: they hold the guest's memory. */
int privileges_set_limits(const struct jail_options *options, struct error *err);

/* --resource-limit fsize: the last of all, since the jailer writes files, too. */
int privileges_set_file_size(const struct jail_options *options, struct error *err);

/* JAIL_USER: a user namespace in which this user is alone, and a network that is empty. */
int privileges_enter_user_namespace(struct jail *jail, struct error *err);

/* A session keyring of its own: the caller's may hold keys. */
int privileges_leave_keyring(struct jail *jail, struct error *err);

/*
 * The end of all privileges of the calling thread: bounding set, ambient and inheritable sets,
 * groups, ids, capabilities, and no way to new ones. Looks at the result. Other threads of the
 * process keep theirs (setuid(2) alone would change them, too).
 */
int privileges_drop(const struct jail *jail, struct error *err);

#endif
