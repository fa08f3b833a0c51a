"""A Linux guest and its command channel over the serial console: see tests/guests/init."""
import base64
import re

BOOT_SECONDS = 30
COMMAND_SECONDS = 30

BOOT_ARGUMENTS = ("console=ttyS0 reboot=k panic=1 quiet i8042.noaux i8042.nomux i8042.dumbkbd")


class CommandFailed(AssertionError):
    """A command in the guest ended with a status that is not 0."""


class Guest:
    """The guest in a monitor whose serial port is this process's."""

    def __init__(self, monitor, kernel):
        self.monitor = monitor
        self.kernel = kernel
        self.console = monitor.console

    @property
    def api(self):
        return self.monitor.api

    def wait_ready(self, seconds=BOOT_SECONDS, start=0):
        self.console.wait_for(rb"MAYFLY-READY\r?\n", seconds, start)
        return self

    def start(self, command):
        """Starts a command and returns the place in the console's output behind which its own is."""
        mark = self.console.mark()
        self.monitor.type(command.encode() + b"\n")
        return mark

    def finish(self, mark, seconds=COMMAND_SECONDS):
        """Waits for a started command's end: returns its status and its output."""
        match = self.console.wait_for(rb"\nMAYFLY-EXIT ([0-9]+)\n", seconds, mark)
        return int(match[1]), self.console.since(mark)[:match.start() - mark]

    def try_run(self, command, seconds=COMMAND_SECONDS):
        """Runs one line of shell; returns its status and its output as text."""
        status, output = self.finish(self.start(command), seconds)
        return status, output.decode(errors="replace")

    def run(self, command, seconds=COMMAND_SECONDS):
        """Runs one line of shell, which must succeed; returns its output as text."""
        status, output = self.try_run(command, seconds)
        if status != 0:
            raise CommandFailed(f"in the guest, {command!r} ended with status {status}:\n{output}")
        return output

    def script(self, text, seconds=COMMAND_SECONDS):
        """Runs a script of several lines."""
        packed = base64.b64encode(text.encode()).decode()
        return self.run(f'eval "$(echo {packed} | base64 -d)"', seconds)

    def read(self, path):
        return self.run(f"cat {path}").strip()

    def reboot(self):
        """Restarts the machine, which ends the monitor; returns its exit status."""
        self.start("reboot -f")
        return self.monitor.wait(60)

    def disks(self):
        """The guest's virtio disks by name, vda first."""
        names = self.run("ls /sys/class/block").split()
        return sorted(name for name in names if re.fullmatch(r"vd[a-z]", name))


__all__ = ["BOOT_ARGUMENTS", "BOOT_SECONDS", "CommandFailed", "Guest"]
