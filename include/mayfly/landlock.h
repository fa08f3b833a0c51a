/*
 * Landlock (landlock(7)): a second wall behind the filters of system calls, around what paths,
 * sockets and signals can do. It also holds for what the kernel does on this process's behalf,
 * io_uring's requests among it, which no filter sees.
 */
#ifndef MAYFLY_LANDLOCK_H
#define MAYFLY_LANDLOCK_H

#include "mayfly/error.h"

/*
 * From here on the calling thread, and those that it makes, cannot by any path execute a file, make
 * a folder, a device node, a socket, a FIFO or a symbolic link, or remove a folder; nor use TCP
 * (Linux 6.7), nor reach abstract sockets or send signals outside of the process (Linux 6.12).
 * Regular files can be read, written, made, renamed and removed as before.
 *
 * For the main thread, before it makes others. Returns the version of the kernel's interface, 0
 * when it has none that is of use (before Linux 5.19, or not switched on), or a negative errno when
 * it refuses.
 */
int landlock_enter(struct error *err);

#endif
