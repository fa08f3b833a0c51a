/*
 * A pseudo-terminal and a child process that leads a session on it, for tests of what a program
 * does with its terminal. The parent holds the master side.
 */
#ifndef TESTS_PTY_HELPER_H
#define TESTS_PTY_HELPER_H

#include <fcntl.h>
#include <pty.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* What the child says when it fails: told from the exit codes under test. */
#define PTY_CHILD_FAILED 99

#define pty_child_check(condition)                                                       \
	do {                                                                             \
		if (!(condition)) {                                                      \
			dprintf(STDERR_FILENO, "%s:%d: child: %s\n", __FILE__, __LINE__, \
				#condition);                                             \
			_exit(PTY_CHILD_FAILED);                                         \
		}                                                                        \
	} while (0)

struct pty {
	int master, slave; /* the slave is kept open, so that the master never sees a hang-up */
	struct termios cooked;
	pid_t child;
};

/* `child` runs with standard input and output on the terminal, which it controls, in its
 * foreground. */
static inline bool pty_start(struct pty *pty, void (*child)(void *context), void *context)
{
	if (openpty(&pty->master, &pty->slave, NULL, NULL, NULL) < 0)
		return false;
	tcgetattr(pty->slave, &pty->cooked);
	pty->child = fork();
	if (pty->child == 0) {
		close(pty->master);
		setsid();
		ioctl(pty->slave, TIOCSCTTY, 0);
		dup2(pty->slave, STDIN_FILENO);
		dup2(pty->slave, STDOUT_FILENO);
		close(pty->slave);
		child(context);
		_exit(0);
	}
	return pty->child > 0;
}

/* The child's wait status. */
static inline int pty_wait(struct pty *pty)
{
	int status = -1;

	while (waitpid(pty->child, &status, 0) < 0 && errno == EINTR)
		continue;
	return status;
}

static inline bool pty_is_raw(int fd)
{
	struct termios now;

	return tcgetattr(fd, &now) == 0 && !(now.c_lflag & (ICANON | ECHO | ISIG)) &&
	       !(now.c_oflag & OPOST);
}

static inline bool pty_is_as_found(const struct pty *pty)
{
	struct termios now;

	return tcgetattr(pty->slave, &now) == 0 && now.c_lflag == pty->cooked.c_lflag &&
	       now.c_iflag == pty->cooked.c_iflag && now.c_oflag == pty->cooked.c_oflag &&
	       now.c_cflag == pty->cooked.c_cflag;
}

static inline void pty_close(struct pty *pty)
{
	close(pty->master);
	close(pty->slave);
}

#endif
