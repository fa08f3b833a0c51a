/*
 * Process 1 of the boot benchmark's guest: says that it runs, by one byte on the console, and
 * restarts the machine. Nothing of a userland is between the kernel and the measurement.
 */
#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
	/* The kernel has opened /dev/console for us; where it could not, the bench sees no mark. */
	if (write(STDOUT_FILENO, "!", 1) < 0)
		return 1;
	reboot(RB_AUTOBOOT);
	return 1; /* the kernel panics, and restarts by panic=1 */
}
