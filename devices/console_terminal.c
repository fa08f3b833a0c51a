/*
 * The terminal's modes: raw for the guest, and back on every way out.
 *
 * The way back may be a signal handler on any thread, which can be handed nothing: the saved state
 * is a static of this file. A terminal is the process's, as signal dispositions are, so there can
 * be no second one anyway. console_terminal_set_raw() writes it, on the main thread, before the
 * flag that makes it count.
 *
 * System calls: ioctl with TIOCGPGRP, TCGETS, TCSETS; getpgrp, once, before a guest runs.
 */
#include <stdatomic.h>
#include <termios.h>

#include "console_private.h"

static struct {
	struct termios found;
	int fd;
	pid_t group; /* ours; it does not change after exec (setpgid(2)); 0: not asked for yet */
	atomic_bool touched;
} terminal;

bool console_terminal_foreground(int fd)
{
	if (!terminal.group)
		terminal.group = getpgrp();
	return tcgetpgrp(fd) == terminal.group;
}

int console_terminal_set_raw(int fd)
{
	struct termios raw;

	if (!atomic_load(&terminal.touched)) {
		if (tcgetattr(fd, &terminal.found) < 0)
			return -errno;
		terminal.fd = fd;
		atomic_store(&terminal.touched, true);
	}
	raw = terminal.found;
	/* Output too: the guest's own terminal layer has put its carriage returns where they
	 * belong. */
	cfmakeraw(&raw);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	return tcsetattr(fd, TCSANOW, &raw) < 0 ? -errno : 0;
}

void console_restore(void)
{
	/*
	 * In the background the terminal belongs to somebody else, who has set it as he needs it;
	 * and a change from there would stop this process with SIGTTOU.
	 */
	if (atomic_load(&terminal.touched) && console_terminal_foreground(terminal.fd))
		tcsetattr(terminal.fd, TCSANOW, &terminal.found);
}

void console_terminal_release(void)
{
	console_restore();
	atomic_store(&terminal.touched, false);
}
