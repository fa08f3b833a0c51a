/*
 * The monitor's process: the last step of the jailer.
 *
 * Without --daemonize, --new-pid-ns and a user namespace, the jailer becomes the monitor and keeps
 * its PID. Otherwise a child does, and the jailer leaves once the monitor is running; in the jail
 * of an ordinary user it stays in the foreground, passes signals on, and ends as the monitor ends.
 *
 * The privileges go in a thread of their own, or in the child: the thread that made the jail keeps
 * them until execve(2) ends it, so that it can still undo everything when the very last call fails.
 */
#ifndef MAYFLY_JAIL_PROCESS_H
#define MAYFLY_JAIL_PROCESS_H

#include "jail.h"

/* Returns when the monitor could not be started (-errno), or when the jailer is done: *exit_code is
 * what to end with. */
int process_start(struct jail *jail, int *exit_code, struct error *err);

#endif
