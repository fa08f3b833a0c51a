"""Programs under measurement: started, timed and ended here and nowhere else.

A child is started by posix_spawn, which takes the same few microseconds whatever the size of this process, in a process
group of its own, so that a Ctrl-C on the terminal reaches the bench alone, which then ends the children. All times are
CLOCK_MONOTONIC in nanoseconds: the clock that the monitor's own trace uses.
"""
import dataclasses
import os
import re
import select
import shlex
import signal
import time

KILL_SECONDS = 5


def clock_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


class ContenderFailed(Exception):
    """A program did not do what is being measured; the message says what it did instead."""


@dataclasses.dataclass(frozen=True)
class Finished:
    command: str          # as a shell would take it
    status: int           # exit status, -N for signal N
    wall_ns: int          # from just before the spawn until the end was seen
    user_ns: int
    system_ns: int
    max_rss_bytes: int
    stdout: bytes
    stderr: bytes

    def must(self, status=0):
        """Itself, if it ended so; else ContenderFailed with the end of what it said."""
        if self.status != status:
            said = (self.stderr or self.stdout).decode(errors="replace").strip().splitlines()[-3:]
            how = f"status {self.status}" if self.status >= 0 else signal.Signals(-self.status).name
            raise ContenderFailed(f"{self.command}: ended with {how}" + (": " + " | ".join(said) if said else ""))
        return self


class Child:
    """A running program. Output goes to pipes that are read while somebody waits for something."""

    def __init__(self, argv, *, stdin=None, stdout="pipe", stderr="pipe", environment=None):
        """stdin, stdout, stderr: "pipe", None for /dev/null, a path, or a descriptor."""
        self.argv = [os.fspath(word) for word in argv]
        self.output = {1: bytearray(), 2: bytearray()}
        self.pipes = {}            # our end -> 1 or 2
        self.stdin_fd = None
        self.finished = None
        theirs, actions = [], []
        for number, wanted in enumerate((stdin, stdout, stderr)):
            if wanted == "pipe":
                ends = os.pipe2(os.O_CLOEXEC)
                ours, their = ends if number else reversed(ends)
                if number:
                    self.pipes[ours] = number
                else:
                    self.stdin_fd = ours
            elif isinstance(wanted, int):
                their = os.dup(wanted)
                os.set_inheritable(their, False)
            elif number == 0:
                their = os.open(wanted or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            else:
                their = os.open(wanted or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            theirs.append(their)
            actions.append((os.POSIX_SPAWN_DUP2, their, number))
        variables = {**os.environ, **(environment or {})}
        try:
            self.start_ns = clock_ns()
            self.pid = os.posix_spawnp(self.argv[0], self.argv, variables, file_actions=actions, setpgroup=0, setsigmask=[],
                                       setsigdef=[signal.SIGINT, signal.SIGPIPE])
        except OSError as error:
            for fd in [*self.pipes, self.stdin_fd]:
                if fd is not None:
                    os.close(fd)
            raise ContenderFailed(f"{self.command}: cannot be started: {error.strerror}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        self.pidfd = os.pidfd_open(self.pid)

    def let_be(self):
        """Keeps no descriptor for it until somebody waits or kills: every further child would inherit it, and close it
        again, which with a thousand of them takes longer than what is measured."""
        if self.finished is None and self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None

    @property
    def command(self):
        return shlex.join(self.argv)

    def read(self, fd):
        data = os.read(fd, 65536)
        if data:
            self.output[self.pipes[fd]] += data
        else:
            os.close(fd)
            del self.pipes[fd]

    def poll(self, seconds):
        """Waits for output or the end, reads what is there. True when the process has ended."""
        if self.pidfd is None:
            self.pidfd = os.pidfd_open(self.pid)  # nobody else reaps it: the number is still its
        poller = select.poll()
        for fd in [*self.pipes, self.pidfd]:
            poller.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(max(0, seconds * 1000))]
        for fd in ready:
            if fd != self.pidfd:
                self.read(fd)
        return self.pidfd in ready

    def wait_for(self, pattern, seconds=60, stream=1):
        """Waits until what it wrote matches; returns (match, CLOCK_MONOTONIC ns at which that was read)."""
        compiled = re.compile(pattern, re.DOTALL)
        deadline = time.monotonic() + seconds
        while True:
            match = compiled.search(self.output[stream])
            if match:
                return match, clock_ns()
            left = deadline - time.monotonic()
            ended = left > 0 and self.poll(left)
            if ended and stream not in self.pipes.values():
                match = compiled.search(self.output[stream])
                if match:
                    return match, clock_ns()
                self.finish().must()
                raise ContenderFailed(f"{self.command}: ended before {pattern!r} was seen")
            if left <= 0:
                tail = bytes(self.output[stream][-300:]).decode(errors="replace")
                raise ContenderFailed(f"{self.command}: {pattern!r} was not seen within {seconds} s; the last was: {tail}")

    def finish(self, seconds=60):
        """Waits for the end; ContenderFailed (and the child killed) when it does not come in time."""
        deadline = time.monotonic() + seconds
        while self.finished is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.kill()
                raise ContenderFailed(f"{self.command}: did not end within {seconds} s")
            if self.poll(left):
                self.reap(clock_ns())
        return self.finished

    def reap(self, end_ns):
        _, status, usage = os.wait4(self.pid, 0)
        # What it wrote last; a grandchild that holds the pipe open is not waited for.
        while self.pipes and self.poll_output():
            pass
        for fd in [*self.pipes, self.pidfd, self.stdin_fd]:
            if fd is not None:
                os.close(fd)
        self.pipes, self.stdin_fd = {}, None
        self.finished = Finished(
            self.command, os.waitstatus_to_exitcode(status), end_ns - self.start_ns, round(usage.ru_utime * 1e9),
            round(usage.ru_stime * 1e9), usage.ru_maxrss * 1024, bytes(self.output[1]), bytes(self.output[2]))

    def poll_output(self):
        poller = select.poll()
        for fd in self.pipes:
            poller.register(fd, select.POLLIN)
        ready = poller.poll(0)
        for fd, _ in ready:
            self.read(fd)
        return bool(ready)

    def signal(self, number):
        if self.finished is None:
            os.kill(self.pid, number)

    def kill(self, wait=True):
        """Ends it and what it started, at once."""
        if self.finished is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            if wait:
                self.reap(clock_ns())
