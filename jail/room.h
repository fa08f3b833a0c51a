/*
 * The room: <base>/<exec name>/<id>/root on the host's disk, the lock on it, the monitor's copy.
 *
 * While a jail is made, the root belongs to root and nobody else can enter it; room_hand_over()
 * gives it to the monitor's user. A lock on <id> keeps two jailers apart, <id>/pid and that
 * process's root tell whether a monitor lives here, so that nothing of a jail which was killed can
 * stand in the way of the next one with its id.
 */
#ifndef MAYFLY_JAIL_ROOM_H
#define MAYFLY_JAIL_ROOM_H

#include "jail.h"

void room_init(struct room *room);

/* Makes or takes over the folders, and locks them. */
int room_open(struct jail *jail, struct error *err);
void room_undo(struct jail *jail);

/* Copies the monitor into the root, and refuses what could not run there. */
int room_copy_monitor(struct jail *jail, struct error *err);
void room_undo_copy(struct jail *jail);

/* Writes the PID for people (<exec name>.pid) and for the next jailer (<id>/pid). */
int room_write_pids(struct jail *jail, pid_t pid, struct error *err);

/* Gives root and run to the monitor's user: the last step before the monitor. */
int room_hand_over(struct jail *jail, struct error *err);

/* The PID in a file that holds nothing else, or -1. */
long room_parse_pid(const char *text);

#endif
