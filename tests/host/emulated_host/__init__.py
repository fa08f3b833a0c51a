"""The emulated host: a Linux machine with a true /dev/kvm, on any machine.

    with EmulatedHost(shares=["/path/of/results"]) as host:
        done = host.run(["ls", "-l", "/dev/kvm"], timeout=60)

Inside, the machine's own root file system is the root (what is written there stays in memory), and
the shared folders are the machine's own, at the same paths. README.md beside this folder tells more.
"""
import atexit
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile

from . import protocol
from .machine import HostError, Options
from .process import CommandFailed, Completed, Process

__all__ = ["CommandFailed", "Completed", "EmulatedHost", "HostError", "Options", "Process"]

PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "emulated-host"
LONGEST_FOLDER = 90  # a Unix socket's address has 107 bytes, file names inside up to 16


def folder_of(name):
    """Where the named host has its sockets: a folder that only this user can enter."""
    if not name or name in (".", "..") or not all(c.isalnum() or c in "._-" for c in name):
        raise HostError(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = pathlib.Path(runtime, "emulated-host") if runtime else pathlib.Path(
        f"/tmp/emulated-host-{os.getuid()}")
    base.mkdir(mode=0o700, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or base.is_symlink():
        raise HostError(f"{base} must be a folder of yours that nobody else can enter")
    return base / name


def is_alive(folder):
    """Whether a supervisor holds the folder."""
    try:
        with open(folder / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class EmulatedHost:
    """One emulated host. As a context manager, it boots on entry and is gone on exit.

    Without a name, it also ends with this process, however that ends. With a name, start() leaves it
    running for others to attach() to, until one of them calls stop().
    """

    def __init__(self, name=None, **options):
        """The options are the fields of Options; cpus, memory_mib, shares, icount, ..."""
        self.name = name
        self.options = Options(**options)
        self.folder = None
        self.supervisor = None
        self.boot_seconds = None

    @classmethod
    def attach(cls, name):
        """A host that start() left running under this name."""
        host = cls(name)
        host.folder = folder_of(name)
        if not is_alive(host.folder):
            raise HostError(f"no emulated host named {name} is running: start it first")
        return host

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Boots; returns when the host is ready for commands."""
        self.options.check()
        self.make_folder()
        request = {"folder": os.fspath(self.folder), "detached": self.name is not None,
                   "options": dataclasses.asdict(self.options)}
        with open(self.folder / "supervisor.log", "w+b") as log:
            try:
                self.supervisor = subprocess.Popen(
                    [sys.executable, PROGRAM, "supervise"], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=log, start_new_session=True)
                atexit.register(self.stop_supervisor)
                self.supervisor.stdin.write(json.dumps(request).encode() + b"\n")
                self.supervisor.stdin.flush()
                answer = self.supervisor.stdout.readline()
            except BaseException:
                self.stop_supervisor()
                raise
            if not answer:
                log.seek(0)
                words = log.read().decode(errors="replace").strip()
                raise HostError(f"the emulated host's supervisor ended: {words}")
        answer = json.loads(answer)
        if "error" in answer:
            self.stop_supervisor()
            raise HostError(answer["error"])
        self.boot_seconds = answer["ready"]
        if self.name is not None:
            self.let_go()

    def make_folder(self):
        if self.name is None:
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="emulated-host-"))
        else:
            self.folder = folder_of(self.name)
            if is_alive(self.folder):
                raise HostError(f"an emulated host named {self.name} is already running")
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(mode=0o700)
        if len(os.fsencode(self.folder)) > LONGEST_FOLDER:
            shutil.rmtree(self.folder)
            raise HostError(f"{self.folder}: too long for a socket's address: set TMPDIR to a shorter path")

    def stop_supervisor(self):
        """Ends what this object started. Closing the pipe asks; the supervisor then cleans up."""
        supervisor, self.supervisor = self.supervisor, None
        if supervisor is None:
            return
        atexit.unregister(self.stop_supervisor)
        with contextlib.suppress(BrokenPipeError):
            supervisor.stdin.close()
        supervisor.wait()
        supervisor.stdout.close()

    def let_go(self):
        """Leaves a named host to itself."""
        atexit.unregister(self.stop_supervisor)
        self.supervisor.stdin.close()
        self.supervisor.stdout.close()
        self.supervisor.returncode = 0  # not waited for: it goes on after this process
        self.supervisor = None

    def stop(self):
        """Ends all commands and the host; returns when its processes are gone."""
        if self.name is None:
            self.stop_supervisor()
            return
        with contextlib.suppress(OSError):  # it is already gone
            with open(self.folder / "lock", "rb") as lock, socket.socket(socket.AF_UNIX) as control:
                control.connect(os.fspath(self.folder / "control"))
                control.sendall(protocol.frame(0, protocol.SHUTDOWN))
                fcntl.flock(lock, fcntl.LOCK_EX)

    def popen(self, argv, *, cwd="/", env=None, stdin=False, terminal=None, keep_running=False,
              sinks=None):
        """Starts a command and returns its Process.

        env adds to a small default environment. With stdin, Process.write() feeds the command, else
        it reads nothing. With terminal=(rows, columns) it runs on a terminal of that size. What the
        command leaves running is killed when it ends, unless keep_running.
        """
        flags = protocol.WANT_STDIN if stdin else 0
        flags |= protocol.WANT_TERMINAL if terminal else 0
        flags |= protocol.KEEP_RUNNING if keep_running else 0
        return Process(self.folder / "control", argv, cwd=cwd, environment=env or {}, flags=flags,
                       size=terminal or (0, 0), sinks=sinks)

    def run(self, argv, *, input=None, timeout=None, check=False, **others):
        """Runs a command to its end and returns a Completed; others are as for popen().

        After timeout seconds the command is killed, and the Completed says so. With check, a command
        that fails raises CommandFailed, which shows its output.
        """
        process = self.popen(argv, stdin=input is not None, **others)
        if input is not None:
            process.write(input)
            process.close_stdin()
        completed = process.wait(timeout)
        if check and (completed.timed_out or completed.status != 0):
            raise CommandFailed(completed)
        return completed
