#!/usr/bin/python3 -IS
"""Process 1 of the emulated host: runs commands that the supervisor sends over a virtio port.

Each command gets a session and a cgroup of its own, so that everything it started can be killed.
One epoll loop serves the port and the pipes of all commands; nothing in it blocks. When the
supervisor goes away, or on SHUTDOWN, the host is switched off.

Runs on an emulated CPU, where imports are slow: so isolated, without site, and only what is needed.
"""
import errno
import fcntl
import os
import select
import signal
import sys
import termios
import time

sys.path.insert(0, os.path.dirname(__file__))

import protocol  # noqa: E402
from protocol import CHUNK, STDERR, STDIN, STDOUT, WINDOW  # noqa: E402

CGROUPS = "/sys/fs/cgroup"
PORT_NAME = "mayfly.agent"
DEFAULT_ENVIRONMENT = {
    b"PATH": b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    b"HOME": b"/root",
    b"USER": b"root",
    b"LANG": b"C.UTF-8",
}
# After a command is gone, a process outside its cgroup may still hold its output open.
DRAIN_SECONDS = 5.0


def find_port(name):
    """The path of the virtio port with this name; its device appears a little after the driver."""
    folder = "/sys/class/virtio-ports"
    while True:
        for port in os.listdir(folder) if os.path.isdir(folder) else []:
            try:
                with open(f"{folder}/{port}/name", encoding="ascii") as file:
                    if file.read().strip() == name and os.path.exists(f"/dev/{port}"):
                        return f"/dev/{port}"
            except OSError:
                pass
        time.sleep(0.01)


def power_off():
    with open("/proc/sysrq-trigger", "w", encoding="ascii") as file:
        file.write("o")
    while True:
        time.sleep(1)


class Output:
    """A pipe or terminal that a command writes to, read only as fast as the client consumes."""

    def __init__(self, command, kind, fd):
        self.command, self.kind, self.fd = command, kind, fd
        self.credit = WINDOW
        self.last_data = time.monotonic()
        command.agent.watch(fd, select.EPOLLIN, self.readable)

    def readable(self, _events=0):
        while self.fd is not None and self.credit:
            try:
                data = os.read(self.fd, min(CHUNK, self.credit))
            except BlockingIOError:
                if self.command.finished and self.command.keep_running:
                    self.close()
                return
            except OSError as error:
                if error.errno != errno.EIO:  # how a terminal says that nobody has it open
                    raise
                data = b""
            if not data:
                self.close()
                return
            self.credit -= len(data)
            self.last_data = time.monotonic()
            self.command.send(self.kind, data)
        if self.fd is not None:
            self.command.agent.unwatch(self.fd)

    def add_credit(self, size):
        self.credit += size
        if self.fd is not None:
            self.command.agent.watch(self.fd, select.EPOLLIN, self.readable)
            self.readable()

    def close(self):
        if self.fd is not None:
            self.command.agent.close(self.fd)
            self.fd = None
            self.command.try_to_finish()


class Input:
    """What a command reads: data waits here until its pipe or terminal takes it."""

    def __init__(self, command, fd, terminal):
        self.command, self.fd, self.terminal = command, fd, terminal
        self.pending = bytearray()
        self.ended = False

    def write(self, data):
        if not data:
            self.ended = True
            if self.terminal:
                self.pending += b"\x04"
        self.pending += data
        self.writable()

    def writable(self, _events=0):
        while self.pending and self.fd is not None:
            try:
                size = os.write(self.fd, self.pending[:CHUNK])
            except BlockingIOError:
                self.command.agent.watch(self.fd, select.EPOLLOUT, self.writable)
                return
            except OSError:  # nobody reads any more: what comes is consumed and dropped
                size = len(self.pending)
            del self.pending[:size]
            self.command.send(protocol.CREDITS, protocol.CREDIT.pack(STDIN, size))
        if self.fd is not None and not self.pending:
            self.command.agent.unwatch(self.fd)
            if self.ended:
                self.close()

    def close(self):
        if self.fd is not None:
            self.command.agent.close(self.fd)
            self.fd = None


def set_not_blocking(fd):
    os.set_blocking(fd, False)
    return fd


class Command:
    def __init__(self, agent, channel, payload):
        flags, self.size, self.cwd, self.argv, environment = protocol.unpack_request(payload)
        self.agent, self.channel = agent, channel
        self.environment = {**DEFAULT_ENVIRONMENT, **environment}
        self.keep_running = bool(flags & protocol.KEEP_RUNNING)
        self.finished = False
        self.status = None
        self.cgroup = f"{CGROUPS}/command-{channel}"
        os.mkdir(self.cgroup)
        self.input = None
        self.outputs = {}
        if flags & protocol.WANT_TERMINAL:
            self.start_on_terminal()
        else:
            self.start_on_pipes(bool(flags & protocol.WANT_STDIN))

    def send(self, kind, payload):
        self.agent.send(protocol.frame(self.channel, kind, payload))

    def start_on_pipes(self, want_stdin):
        stdin, to_child = os.pipe() if want_stdin else (os.open("/dev/null", os.O_RDONLY), None)
        from_out, stdout = os.pipe()
        from_err, stderr = os.pipe()
        self.fork((stdin, stdout, stderr), terminal=False)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        if want_stdin:
            self.input = Input(self, set_not_blocking(to_child), terminal=False)
        self.outputs[STDOUT] = Output(self, STDOUT, set_not_blocking(from_out))
        self.outputs[STDERR] = Output(self, STDERR, set_not_blocking(from_err))

    def start_on_terminal(self):
        master, slave = os.openpty()
        self.set_size(master, *self.size)
        self.fork((slave, slave, slave), terminal=True)
        os.close(slave)
        self.input = Input(self, set_not_blocking(os.dup(master)), terminal=True)
        self.outputs[STDOUT] = Output(self, STDOUT, set_not_blocking(master))

    def fork(self, fds, terminal):
        procs = os.open(f"{self.cgroup}/cgroup.procs", os.O_WRONLY)
        self.pid = os.fork()
        if self.pid == 0:
            self.become(fds, procs, terminal)
        os.close(procs)

    def become(self, fds, procs, terminal):
        """In the child: turns into the command, or says why not and ends as a shell would."""
        status, what = 126, b"setup"
        try:
            os.setsid()
            os.write(procs, b"0")
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            if terminal:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            what = self.cwd
            os.chdir(self.cwd)
            what = self.argv[0]
            os.execvpe(self.argv[0], self.argv, self.environment)
        except OSError as error:
            if what == self.argv[0] and error.errno == errno.ENOENT:
                status = 127
            hint = b" in the emulated host"
            if what == self.cwd:
                hint += b": choose another folder with --cwd, or share it with --share"
            reason = os.strerror(error.errno).encode()
            os.write(2, b"emulated-host: " + what + b": " + reason + hint + b"\n")
        finally:
            os._exit(status)

    @staticmethod
    def set_size(fd, rows, columns):
        if rows and columns:
            packed = protocol.SIZE.pack(rows, columns) + bytes(4)
            fcntl.ioctl(fd, termios.TIOCSWINSZ, packed)

    def receive(self, kind, payload):
        if kind == STDIN and self.input:
            self.input.write(payload)
        elif kind == protocol.CREDITS:
            stream, size = protocol.CREDIT.unpack(payload)
            if stream in self.outputs:
                self.outputs[stream].add_credit(size)
        elif kind == protocol.SIGNAL and not self.finished:
            try:
                os.killpg(self.pid, protocol.NUMBER.unpack(payload)[0])
            except ProcessLookupError:
                pass
        elif kind == protocol.KILL:
            self.keep_running = False
            self.kill()
        elif kind == protocol.RESIZE and self.input and self.input.fd is not None:
            self.set_size(self.input.fd, *protocol.SIZE.unpack(payload))

    def kill(self):
        with open(f"{self.cgroup}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")

    def exited(self, status):
        self.status = os.waitstatus_to_exitcode(status)
        self.finished = True
        if self.input:
            self.input.close()
        if not self.keep_running:
            self.kill()
        now = time.monotonic()
        for output in list(self.outputs.values()):
            output.last_data = now
            output.readable()
        self.try_to_finish()

    def try_to_finish(self):
        """Reports the exit status once the process has ended and all of its output was sent."""
        if self.finished and all(output.fd is None for output in self.outputs.values()):
            self.agent.remove(self)

    def stop_draining(self, now):
        if not self.finished:
            return
        for output in list(self.outputs.values()):
            if output.credit and now - output.last_data > DRAIN_SECONDS:
                output.close()


class Agent:
    def __init__(self, port, shares):
        self.port, self.shares = port, shares
        self.epoll = select.epoll()
        self.handlers = {}
        self.commands = {}
        self.old_cgroups = []
        self.reader = protocol.Reader()
        self.outgoing = bytearray()
        wake, woken = os.pipe()
        for fd in (wake, woken):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, stack: None)
        self.watch(wake, select.EPOLLIN, lambda events: os.read(wake, 4096))
        self.watch(port, select.EPOLLIN, self.port_ready)

    def watch(self, fd, events, handler):
        if fd in self.handlers:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self.handlers[fd] = handler

    def unwatch(self, fd):
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def close(self, fd):
        self.unwatch(fd)
        os.close(fd)

    def send(self, data):
        self.outgoing += data
        self.flush()

    def flush(self):
        while self.outgoing:
            try:
                size = os.write(self.port, self.outgoing[:CHUNK])
            except BlockingIOError:
                break
            del self.outgoing[:size]
        waiting = select.EPOLLOUT if self.outgoing else 0
        self.epoll.modify(self.port, select.EPOLLIN | waiting)

    def port_ready(self, events):
        if events & select.EPOLLHUP:
            power_off()
        if events & select.EPOLLOUT:
            self.flush()
        if events & select.EPOLLIN:
            try:
                data = os.read(self.port, CHUNK)
            except BlockingIOError:
                return
            for channel, kind, payload in self.reader.feed(data):
                self.receive(channel, kind, payload)

    def receive(self, channel, kind, payload):
        if kind == protocol.SHUTDOWN:
            self.shut_down()
        elif kind == protocol.START:
            self.commands[channel] = Command(self, channel, payload)
        elif kind == protocol.POKE:
            self.send(protocol.frame(0, protocol.POKED))
        elif channel in self.commands:
            self.commands[channel].receive(kind, payload)

    def remove(self, command):
        if self.commands.pop(command.channel, None):
            self.old_cgroups.append(command.cgroup)
            command.send(protocol.EXIT, protocol.NUMBER.pack(command.status))

    def reap(self):
        """Collects every ended process: commands, and the orphans that fall to process 1."""
        commands = {command.pid: command for command in self.commands.values()}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in commands:
                commands[pid].exited(status)

    def remove_cgroups(self):
        """Removes the cgroups of ended commands, deepest first; some are still busy, for later."""
        left = []
        for cgroup in self.old_cgroups:
            try:
                for folder, _, _ in os.walk(cgroup, topdown=False):
                    os.rmdir(folder)
            except OSError:
                left.append(cgroup)
        self.old_cgroups = left

    def shut_down(self):
        for command in self.commands.values():
            command.kill()
        if self.shares:
            os.spawnv(os.P_WAIT, "/bin/sync", ["sync", "-f", *self.shares])
        self.send(protocol.frame(0, protocol.BYE))

    def run(self):
        self.send(protocol.frame(0, protocol.HELLO))
        while True:
            busy = self.old_cgroups or any(command.finished for command in self.commands.values())
            for fd, events in self.epoll.poll(1 if busy else -1):
                if fd in self.handlers:
                    self.handlers[fd](events)
            self.reap()
            now = time.monotonic()
            for command in list(self.commands.values()):
                command.stop_draining(now)
            self.remove_cgroups()


def main():
    port = os.open(find_port(PORT_NAME), os.O_RDWR | os.O_NONBLOCK)
    connected = select.poll()
    connected.register(port, 0)
    while connected.poll(0):  # until the other side has opened the port, it reports POLLHUP
        time.sleep(0.01)
    Agent(port, sys.argv[1:]).run()


if __name__ == "__main__":
    main()
