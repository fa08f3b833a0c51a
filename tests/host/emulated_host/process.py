"""A command in the emulated host, seen from outside: one connection to the supervisor."""
import dataclasses
import os
import re
import socket
import threading
import time

from . import protocol
from .machine import HostError
from .protocol import STDERR, STDIN, STDOUT

KILL_SECONDS = 30


@dataclasses.dataclass
class Completed:
    """How a command ended. A negative status is the signal that ended it, as in subprocess."""

    argv: list
    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False

    @property
    def output(self):
        """Standard output as text."""
        return self.stdout.decode(errors="replace")

    def describe(self):
        end = "timed out" if self.timed_out else f"ended with status {self.status}"
        parts = [f"{' '.join(map(str, self.argv))}: {end}"]
        for name, data in (("stdout", self.stdout), ("stderr", self.stderr)):
            if data:
                parts.append(f"--- {name}:\n{data.decode(errors='replace').rstrip()}")
        return "\n".join(parts)


class CommandFailed(Exception):
    """A command that was to succeed did not."""

    def __init__(self, completed):
        super().__init__(completed.describe())
        self.completed = completed


class Process:
    """A running command. Its output is collected, and handed to the sinks if there are any."""

    def __init__(self, control, argv, *, cwd, environment, flags=0, size=(0, 0), sinks=None):
        """control: the supervisor's socket; sinks: {STDOUT: f, STDERR: g}, called with bytes."""
        self.argv = [os.fsencode(argument) for argument in argv]
        names = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
        if not self.argv:
            raise ValueError("no command")
        cwd = os.fsencode(cwd)
        if any(b"\0" in text for text in (cwd, *self.argv, *names, *names.values())):
            raise ValueError("a NUL byte cannot be passed to a command")
        self.sinks = sinks or {}
        self.collected = {STDOUT: bytearray(), STDERR: bytearray()}
        self.status = None
        self.failure = None
        self.stdin_credit = protocol.WINDOW
        self.changed = threading.Condition()
        self.sending = threading.Lock()
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(os.fspath(control))
        except OSError as error:
            self.socket.close()
            raise HostError(f"no emulated host at {control}: {error.strerror}") from error
        self.send(protocol.START, protocol.pack_request(flags, size, cwd, self.argv, names))
        self.thread = threading.Thread(target=self.receive_all, daemon=True)
        self.thread.start()

    def send(self, kind, payload=b""):
        with self.sending:
            try:
                self.socket.sendall(protocol.frame(0, kind, payload))
            except OSError:
                pass  # the receiving thread finds out why

    def receive_all(self):
        frames = protocol.Reader()
        try:
            while self.status is None and self.failure is None:
                data = self.socket.recv(1 << 16)
                if not data:
                    raise ConnectionError("the emulated host was stopped")
                for _, kind, payload in frames.feed(data):
                    self.receive(kind, payload)
        except Exception as error:  # whatever a sink raised must reach the one who waits
            self.failure = self.failure or error
        finally:
            self.socket.close()
            with self.changed:
                self.changed.notify_all()

    def receive(self, kind, payload):
        if kind in self.collected:
            if kind in self.sinks:
                self.sinks[kind](payload)
            with self.changed:
                if kind not in self.sinks:
                    self.collected[kind] += payload
                self.changed.notify_all()
            self.send(protocol.CREDITS, protocol.CREDIT.pack(kind, len(payload)))
        elif kind == protocol.CREDITS:
            with self.changed:
                self.stdin_credit += protocol.CREDIT.unpack(payload)[1]
                self.changed.notify_all()
        elif kind == protocol.EXIT:
            self.status = protocol.NUMBER.unpack(payload)[0]
        elif kind == protocol.FAILED:
            self.failure = HostError(payload.decode(errors="replace"))

    @property
    def ended(self):
        return not self.thread.is_alive()

    @property
    def stdout(self):
        """What the command has written so far."""
        with self.changed:
            return bytes(self.collected[STDOUT])

    @property
    def stderr(self):
        with self.changed:
            return bytes(self.collected[STDERR])

    def write(self, data):
        """Gives data to the command's standard input; blocks while it reads too slowly."""
        data = memoryview(data)
        while data:
            with self.changed:
                self.changed.wait_for(lambda: self.stdin_credit or self.ended)
                if self.ended:
                    return
                size = min(len(data), self.stdin_credit, protocol.CHUNK)
                self.stdin_credit -= size
            self.send(STDIN, bytes(data[:size]))
            data = data[size:]

    def close_stdin(self):
        self.send(STDIN)

    def signal(self, number):
        """Sends a signal to the command's process group."""
        self.send(protocol.SIGNAL, protocol.NUMBER.pack(number))

    def kill(self):
        """SIGKILL to everything the command started."""
        self.send(protocol.KILL)

    def resize(self, rows, columns):
        self.send(protocol.RESIZE, protocol.SIZE.pack(rows, columns))

    def wait_for_output(self, pattern, timeout, stream=STDOUT):
        """Waits until what the command has written matches the bytes pattern; returns the match."""
        found = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                match = found.search(self.collected[stream])
                if match:
                    return match
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    break
                self.changed.wait(min(left, 1))
        why = "ended" if self.ended else f"has run for {timeout:g} s"
        raise HostError(f"{self.completed().describe()}\n{pattern!r} was not seen and the command {why}")

    def wait(self, timeout=None):
        """Waits for the end and returns a Completed; after timeout seconds, kills the command."""
        self.thread.join(timeout)
        timed_out = self.thread.is_alive()
        if timed_out:
            self.kill()
            self.thread.join(KILL_SECONDS)
            if self.thread.is_alive():
                raise HostError("the emulated host does not answer: a command could not be killed")
        if self.failure:
            raise self.failure
        return self.completed(timed_out)

    def completed(self, timed_out=False):
        argv = [os.fsdecode(argument) for argument in self.argv]
        return Completed(argv, self.status, self.stdout, self.stderr, timed_out)
