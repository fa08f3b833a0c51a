"""Jails: mayfly-jailer with a monitor, or with tests/jail/prisoner in its place; cleaned up whatever happens."""
import contextlib
import itertools
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import tempfile
import time

from .clock import scaled, wait_until
from .monitor import Monitor

USER = 61234
CGROUPS = pathlib.Path("/sys/fs/cgroup")

# A private mount namespace where this user may open /dev/kvm; then the command as this user.
AS_USER = """
folder=$(mktemp -d)
mount -t tmpfs -o mode=755 tmpfs "$folder"
if [ -e /dev/kvm ]; then
    mknod -m 600 "$folder/kvm" c $(stat -c '0x%t 0x%T' /dev/kvm)
    chown "$0" "$folder/kvm"
    mount --bind "$folder/kvm" /dev/kvm
fi
if [ -e /dev/net/tun ]; then # everybody's, as udev makes it
    mknod -m 666 "$folder/tun" c $(stat -c '0x%t 0x%T' /dev/net/tun)
    mount --bind "$folder/tun" /dev/net/tun
fi
umount -l "$folder"
rmdir "$folder"
exec setpriv --reuid "$0" --regid "$0" --clear-groups "$@"
"""


def as_user(*command, uid=USER):
    return ["unshare", "--mount", "sh", "-ec", AS_USER, str(uid), *map(os.fspath, command)]


def cgroup_version():
    """2 where the one hierarchy is v2, 1 where controllers are in v1, 0 without cgroups."""
    if (CGROUPS / "cgroup.controllers").exists():
        return 2
    return 1 if (CGROUPS / "memory/tasks").exists() else 0


def processes_rooted_in(folder):
    """PIDs of the processes whose root is this folder: of a jail that lives."""
    found = []
    root = os.stat(folder)
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(process / "root"), root):
                found.append(int(process.name))
    return found


class Jails:
    """Jails below a base folder of their own, and below a parent cgroup of their own."""

    def __init__(self, program):
        self.jailer = program.with_name("mayfly-jailer")
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-jail-"))
        self.folder.chmod(0o755)
        self.base = self.folder / "base"
        self.base.mkdir(mode=0o755)
        self.parent = f"mayfly-test-{secrets.token_hex(4)}"
        self.numbers = itertools.count(1)
        self.started = []
        # Where an ordinary user finds them, whatever the mode of the build folder.
        self.monitor = self.program_copy(program, "mayfly")
        self.prisoner = self.program_copy(program.parent / "tests/jail/prisoner", "prisoner")
        self.jailer = self.program_copy(self.jailer, "mayfly-jailer")

    def program_copy(self, path, name):
        copy = self.folder / name
        if path.exists():
            shutil.copyfile(path, copy)
            copy.chmod(0o755)
        return copy

    def new_id(self):
        return f"jail-{next(self.numbers)}"

    def room(self, jail_id, program="prisoner"):
        return self.base / program / jail_id

    def root(self, jail_id, program="prisoner"):
        return self.room(jail_id, program) / "root"

    def command(self, jail_id, *arguments, program=None, options=(), uid=USER, gid=USER):
        ids = ("--uid", str(uid), "--gid", str(gid)) if uid else ()
        return [self.jailer, "--id", jail_id, "--exec-file", program or self.prisoner, *ids,
                "--chroot-base-dir", self.base, *map(str, options), "--", *map(str, arguments)]

    def run(self, *arguments, jail_id=None, wrapper=(), seconds=60, **how):
        """A jail to its end; returns a CompletedProcess with text."""
        command = [*wrapper, *self.command(jail_id or self.new_id(), *arguments, **how)]
        return subprocess.run(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=scaled(seconds), check=False, cwd=self.folder)

    def attempts(self, *arguments, **how):
        """What the prisoner's attempts came to, by name; it must have got as far as the last."""
        done = self.run(*arguments, **how)
        assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines() if not line.startswith("entry "))

    def attempts_in_pid_namespace(self, *arguments):
        """The same as attempts(), where the jailer does not wait for the prisoner."""
        jailer = self.start(*arguments, options=["--new-pid-ns"])
        return dict(line.strip().split(" ", 1) for line in jailer.lines[:-1])

    def start(self, *arguments, jail_id=None, wrapper=(), **how):
        """A prisoner that waits, in a jail that is complete; with the PID that it has on the host."""
        jail_id = jail_id or self.new_id()
        command = [*wrapper, *self.command(jail_id, *arguments, "wait", **how)]
        process = subprocess.Popen(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, cwd=self.folder)
        self.started.append(process)
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "waiting\n":
                break
        else:
            raise AssertionError(f"no prisoner: {process.wait()} {lines} {process.stderr.read()}")
        process.lines = lines
        process.jail_id = jail_id
        process.inmate = int((self.room(jail_id) / "pid").read_text())
        return process

    def boot(self, *options, jail_id=None, wrapper=(), uid=USER, arguments=()):
        """A jailed monitor with its API."""
        jail_id = jail_id or self.new_id()
        command = self.command(jail_id, *arguments, program=self.monitor, options=options, uid=uid)
        socket = self.root(jail_id, "mayfly") / "run/mayfly.socket"
        monitor = Monitor(command[0], command[1:], self.folder, wrapper=wrapper, api_socket=socket)
        self.started.append(monitor.process)
        monitor.jail_id = jail_id
        monitor.wait_for_api()
        monitor.inmate = int((self.room(jail_id, "mayfly") / "pid").read_text())
        return monitor

    def cgroup_folders(self, jail_id=None):
        """Every cgroup below our parent, or of one jail."""
        places = [CGROUPS] if cgroup_version() == 2 else [path for path in CGROUPS.glob("*") if path.is_dir()]
        folders = {}
        for place in places:
            top = place / self.parent
            for path in [top, *top.rglob("*")] if top.is_dir() else []:
                if path.is_dir() and (jail_id is None or path.name == jail_id):
                    folders[path.resolve()] = None
        return sorted(folders, key=lambda path: -len(path.parts))

    def inmates(self):
        """Processes whose root is one of our jails'."""
        prefix = f"/{self.folder.name}/base/"
        found = []
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                mounts = (process / "mountinfo").read_text().split("\n", maxsplit=1)[0].split(" ")
                if len(mounts) > 4 and prefix in mounts[3] and mounts[4] == "/":
                    found.append(int(process.name))
        return found

    def leftovers(self):
        """What a jail may leave behind and must not: processes, and mounts that the host sees."""
        mounts = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
                  if str(self.folder) in line]
        return {"processes": self.inmates(), "mounts": mounts}

    def clean_up(self):
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for pid in self.inmates():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.wait()
        wait_until(lambda: not self.inmates(), 30, "the end of all inmates")
        for folder in self.cgroup_folders():
            for _ in range(500):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(0.01)
        for mount in reversed(self.leftovers()["mounts"]):
            subprocess.run(["umount", "-l", mount.split(" ")[4]], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def status(pid):
    """Fields of /proc/PID/status."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
