"""Linux guests of the bench: their kernel on this host, their images, and the command channel over their console."""
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess

from . import prepare
from .guests import MEMORY_MIB
from .machine import REPOSITORY
from .session import CannotMeasure, ContenderFailed

# On its path by framework.guests.
from harness import kernels  # noqa: E402

GUESTS = REPOSITORY / "tests/guests"
PURPOSES = ("guest-kernel", "bench")


def kernel(bench):
    """The kernel of this host's Linux guests; inside the emulated host, a copy in its memory."""
    found = kernels.guest_kernels()
    if not found:
        raise CannotMeasure(f"no Linux guest runs here: {kernels.why_no_guests()}")
    chosen = found[0]
    return kernels.dataclasses.replace(chosen, path=bench.local(chosen.path))


def prepare_kernel(say, emulated):
    """Before the emulated host boots: what would take long inside is made here."""
    if not emulated or os.environ.get("MAYFLY_GUEST_KERNEL"):
        return
    prepare.install(say, ["guest-kernel"])
    say("the guest kernel: built once, which takes some minutes, then cached")
    path = prepare.must([REPOSITORY / "guest-kernel-configs/build"], "the guest kernel's build").strip()
    os.environ["MAYFLY_GUEST_KERNEL"] = path


def image(build, name, *arguments, inputs=(), size="64M"):
    """A root disk (see tests/guests/ext4-root), made again when what goes into it has changed; its path."""
    digest = hashlib.sha256(repr((arguments, size)).encode())
    for path in (*sorted(GUESTS.glob("*")), *inputs):
        if path.is_file():
            digest.update(path.read_bytes())
    path = pathlib.Path(build) / "images" / f"{name}-{digest.hexdigest()[:16]}.ext4"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        prepare.must([GUESTS / "ext4-root", "--out", temporary, "--size", size, *arguments], f"the guest image {name}")
        temporary.replace(path)
    return path


def data_folder(bench):
    """Where a disk's file lies: a real file system, also inside the emulated host, whose /tmp is none."""
    scratch = pathlib.Path("/scratch")
    if bench.host == "emulated" and scratch.is_dir():
        return scratch
    return bench.folder


def copy(path, folder, name):
    target = pathlib.Path(folder) / name
    subprocess.run(["cp", "--sparse=always", path, target], check=True)
    return target


class Guest:
    """A running guest whose console takes commands: see serve_commands in tests/guests/init."""

    def __init__(self, bench, command, boot_seconds):
        self.bench = bench
        self.child = bench.start(command, stdin="pipe")
        self.child.wait_for(rb"MAYFLY-READY\r?\n", boot_seconds)
        self.command = self.child.command

    def run(self, line, seconds=120):
        """One line of shell; returns what it wrote. ContenderFailed when its status is not 0."""
        self.child.output[1].clear()
        os.write(self.child.stdin_fd, line.encode() + b"\n")
        match, _ = self.child.wait_for(rb"^(.*)\nMAYFLY-EXIT ([0-9]+)\n", seconds)
        text = match[1].decode(errors="replace")
        if match[2] != b"0":
            raise ContenderFailed(f"in the guest, '{line}' ended with status {int(match[2])}: {text.strip()[-300:]}")
        return text

    def hold(self):
        """No instruction of it or of its monitor runs until go_on()."""
        os.killpg(self.child.pid, signal.SIGSTOP)

    def go_on(self):
        os.killpg(self.child.pid, signal.SIGCONT)

    def end(self):
        self.bench.forget(self.child)


def must_have(program, package):
    found = shutil.which(program)
    if not found:
        raise CannotMeasure(f"{program} is missing: install the package {package} (scripts/install-packages bench)")
    return pathlib.Path(found)


__all__ = ["Guest", "MEMORY_MIB", "copy", "data_folder", "image", "kernel", "must_have", "prepare_kernel"]
