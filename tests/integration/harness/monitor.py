"""A running mayfly: its process, what it writes, its terminal if it has one, its end."""
import contextlib
import errno
import fcntl
import os
import pathlib
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time

from .api import Api
from .clock import TookTooLong, deadline, scaled, wait_until

END_SECONDS = 30


class Stream:
    """Collects what comes out of a descriptor, in a thread of its own; can be told to stop reading."""

    def __init__(self, fd):
        self.fd = fd
        self.data = bytearray()
        self.ended = False
        self.changed = threading.Condition()
        self.flowing = threading.Event()
        self.flowing.set()
        self.thread = threading.Thread(target=self.read_all, daemon=True)
        self.thread.start()

    def read_all(self):
        while True:
            self.flowing.wait()
            try:
                chunk = os.read(self.fd, 65536)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    continue
                chunk = b""  # EIO: nobody has the other side of the terminal open any more
            with self.changed:
                self.data += chunk
                self.ended = not chunk
                self.changed.notify_all()
            if not chunk:
                return

    def stall(self):
        """Stops reading; at most one more chunk that the thread already waits for is taken."""
        self.flowing.clear()

    def go_on(self):
        self.flowing.set()

    def mark(self):
        """Where the next byte will be."""
        with self.changed:
            return len(self.data)

    def since(self, start=0):
        with self.changed:
            return bytes(self.data[start:])

    def wait_for(self, pattern, seconds, start=0):
        """Waits until the bytes from `start` on match the pattern; returns the match."""
        compiled = re.compile(pattern, re.DOTALL)
        end = deadline(seconds)
        with self.changed:
            while True:
                match = compiled.search(self.data, start)
                if match:
                    return match
                left = end - time.monotonic()
                if left <= 0 or self.ended:
                    break
                self.changed.wait(min(left, 1))
            tail = bytes(self.data[start:][-3000:]).decode(errors="replace")
        why = "the stream ended" if self.ended else f"waited {scaled(seconds):g} s"
        raise TookTooLong(f"{pattern!r} was not seen ({why}); seen were the last of:\n{tail}")


class Terminal:
    """A pseudo terminal; `slave` stays open here, so that its settings can be looked at any time."""

    def __init__(self, rows=24, columns=80):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = self.settings()

    def settings(self):
        return termios.tcgetattr(self.slave)

    def is_raw(self):
        return not self.settings()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def close(self):
        for fd in (self.master, self.slave):
            with contextlib.suppress(OSError):
                os.close(fd)


class Monitor:
    """Starts mayfly; stdin may be "pipe", "null", or a descriptor, or all three be a terminal."""

    def __init__(self, program, arguments, folder, *, stdin="pipe", stdout="pipe", terminal=None,
                 wrapper=(), api_socket=None):
        self.folder = pathlib.Path(folder)
        self.arguments = [os.fspath(argument) for argument in arguments]
        self.terminal = terminal
        self.socket_path = pathlib.Path(api_socket) if api_socket else None
        self.api = Api(self.socket_path) if api_socket else None
        self.console = self.errors = None
        self.status = None
        command = [*map(os.fspath, wrapper), os.fspath(program), *self.arguments]
        if terminal:
            self.process = self.start_on_terminal(command)
            self.console = Stream(terminal.master)
            self.input_fd = terminal.master
        else:
            streams = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL}
            self.process = subprocess.Popen(
                command, stdin=streams.get(stdin, stdin), stdout=streams.get(stdout, stdout),
                stderr=subprocess.PIPE, bufsize=0, start_new_session=True, cwd=folder)
            if stdout == "pipe":
                self.console = Stream(self.process.stdout.fileno())
            self.errors = Stream(self.process.stderr.fileno())
            self.input_fd = self.process.stdin.fileno() if stdin == "pipe" else None

    def start_on_terminal(self, command):
        slave = self.terminal.slave

        def take_terminal():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        return subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                                preexec_fn=take_terminal, cwd=self.folder)

    @property
    def pid(self):
        return self.process.pid

    @property
    def stderr(self):
        """All of standard error so far, as text."""
        return self.errors.since().decode(errors="replace")

    def type(self, data):
        """Writes to the guest's serial input, all of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.input_fd, view):]

    def wait_for_api(self, seconds=30, may_end=False):
        """may_end: a guest of a few instructions may be over before anybody has seen the socket."""
        def answers():
            if self.process.poll() is not None:
                self.wait()
                if may_end:
                    return True
                raise AssertionError(f"mayfly ended with {self.process.returncode} before its API "
                                     f"was there: {self.errors and self.stderr}")
            return self.socket_path.exists() and self.api.try_connect()

        wait_until(answers, seconds, f"an API at {self.socket_path}")
        return self

    def wait(self, seconds=END_SECONDS):
        """Waits for the process's end; returns its exit status, negative for a signal."""
        try:
            self.status = self.process.wait(scaled(seconds))
        except subprocess.TimeoutExpired as late:
            raise TookTooLong(f"mayfly has not ended within {scaled(seconds):g} s; threads: "
                              f"{self.threads()}") from late
        for stream in (self.console, self.errors):
            # The slave of a terminal is open here too: its end never comes.
            if stream and not (self.terminal and stream is self.console):
                stream.go_on()
                stream.thread.join(scaled(END_SECONDS))
        return self.status

    def threads(self):
        """Name, state and kernel function of each thread: what a hang is made of."""
        lines = []
        for task in sorted(pathlib.Path(f"/proc/{self.pid}/task").glob("*")):
            with contextlib.suppress(OSError):
                name = (task / "comm").read_text().strip()
                state = re.search(r"State:\s+(\S)", (task / "status").read_text())[1]
                lines.append(f"{name}:{state}:{(task / 'wchan').read_text().strip()}")
        return " ".join(lines)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """SIGTERM and the orderly end that follows."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()

    def clean_up(self):
        """Whatever the state: no process, no descriptor stays."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        for stream in (self.console, self.errors):
            if stream:
                stream.go_on()
        if self.terminal:
            # A reader blocked in read(2) would keep the master; the slave's last close wakes it.
            os.close(self.terminal.slave)
            self.console.thread.join(scaled(END_SECONDS))
            os.close(self.terminal.master)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
