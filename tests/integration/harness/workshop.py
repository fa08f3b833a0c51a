"""Where a test's monitors, files and guests are made, and cleaned up whatever happens."""
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from . import images, small, tiny
from .api import ConnectionClosed
from .clock import scaled
from .guest import BOOT_ARGUMENTS, Guest
from .monitor import Monitor, Terminal

LOG_TAIL_BYTES = 6000


class Workshop:
    """Makes monitors that run in a folder of its own; clean_up() ends them all."""

    def __init__(self, program):
        self.program = program
        # Not pytest's own folder: a socket's path must be short, and other users must get in.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-test-"))
        self.monitors = []
        self.count = 0

    def path(self, name):
        return self.folder / name

    def file(self, name, contents=b"", mode=0o644):
        """A file with these contents: bytes, text, or something that becomes JSON."""
        if not isinstance(contents, (bytes, str)):
            contents = json.dumps(contents)
        path = self.path(name)
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        path.chmod(mode)
        return path

    def disk(self, name, size):
        """An empty disk: a file that is one hole."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def tiny_kernel(self, code, **how):
        return self.file(f"tiny-{len(code)}-{abs(hash(code)) % 100000}", tiny.elf(code, **how))

    def copy_of(self, image, name=None):
        return images.copy(image, self.path(name or image.name))

    def run(self, *arguments, seconds=60, **options):
        """Runs mayfly to its end, without input; returns a CompletedProcess with text."""
        return subprocess.run([self.program, *map(os.fspath, arguments)], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=scaled(seconds), check=False,
                              cwd=self.folder, **options)

    def monitor(self, *arguments, api=False, may_end=False, **options):
        """Starts mayfly; with api=True on a socket of its own, which is there at return."""
        self.count += 1
        socket_path = None
        if api:
            socket_path = self.path(f"api-{self.count}.sock")
            arguments = ("--api-sock", socket_path, *arguments)
        monitor = Monitor(self.program, arguments, self.folder, api_socket=socket_path, **options)
        self.monitors.append(monitor)
        return monitor.wait_for_api(may_end=may_end) if api else monitor

    def terminal(self):
        return Terminal()

    def configuration(self, kernel, *, vcpus=1, mem=256, drives=(), interfaces=(), args="", protocol=None,
                      acpi=None, initrd=True, boot_arguments=BOOT_ARGUMENTS, **sections):
        """What a config file says for this kernel (a harness Kernel, or a path)."""
        if acpi is None:
            acpi = getattr(kernel, "with_acpi", True)
        words = [boot_arguments, getattr(kernel, "arguments", ""), "" if acpi else "acpi=off", args]
        source = {"kernel_image_path": str(getattr(kernel, "path", kernel)),
                  "boot_args": " ".join(word for word in words if word)}
        if initrd is True:
            initrd = images.initrd(kernel)
        if initrd:
            source["initrd_path"] = str(initrd)
        if protocol:
            source["boot_protocol"] = protocol
        machine = {"vcpu_count": vcpus, "mem_size_mib": mem, **sections.pop("machine", {})}
        return {"boot-source": source, "machine-config": machine,
                "drives": [self.drive(**drive) for drive in drives],
                "network-interfaces": [self.interface(**interface) for interface in interfaces], **sections}

    @staticmethod
    def interface(host_dev_name, iface_id="eth0", **others):
        """An interface for `interfaces=[...]`; guest_mac, mtu and the like as the API names them."""
        return {"iface_id": iface_id, "host_dev_name": host_dev_name, **others}

    @staticmethod
    def drive(path, drive_id=None, root=False, read_only=False, **others):
        path = pathlib.Path(path)
        identifier = drive_id or "".join(c if c.isalnum() else "_" for c in path.name)
        return {"drive_id": identifier, "path_on_host": str(path), "is_root_device": root,
                "is_read_only": read_only, **others}

    def start(self, configuration, *arguments, **options):
        """A monitor that starts what a configuration says, with its API and a log of everything."""
        self.count += 1
        config = self.file(f"config-{self.count}.json", configuration)
        log = self.path(f"log-{self.count}")
        monitor = self.monitor("--config-file", config, "--log-path", log, "--level", "Debug",
                               "--show-level", *arguments, api=True, may_end=True, **options)
        monitor.log_path = log
        # The socket is there before the start; an answer comes when that is over, unless the guest is too.
        with contextlib.suppress(ConnectionClosed, OSError):
            monitor.api.request("GET", "/version")
        return monitor

    def boot(self, kernel, *arguments, ready=True, options=None, **configuration):
        """A Linux guest, ready for commands unless ready=False."""
        monitor = self.start(self.configuration(kernel, **configuration), *arguments,
                             **(options or {}))
        guest = Guest(monitor, kernel)
        return guest.wait_ready() if ready else guest

    def boot_tiny(self, code, *arguments, mem=16, pvh=False, options=None, **configuration):
        """A tiny guest, running."""
        kernel = self.tiny_kernel(code, pvh=pvh)
        return self.start(self.configuration(kernel, mem=mem, initrd=False, **configuration),
                          *arguments, **(options or {}))

    def boot_small(self, name, args="", *arguments, mem=16, options=None, **configuration):
        """A small guest of tests/guests, started."""
        kernel = small.path(self.program, name)
        return small.SmallGuest(self.start(
            self.configuration(kernel, mem=mem, initrd=False, boot_arguments=args, **configuration),
            *arguments, **(options or {})))

    def forget(self, guest):
        """Cleans up what one monitor has left, in tests that start hundreds."""
        monitor = getattr(guest, "monitor", guest)
        monitor.clean_up()
        self.monitors.remove(monitor)

    def clean_up(self):
        for monitor in self.monitors:
            self.describe(monitor)
            monitor.clean_up()
        shutil.rmtree(self.folder, ignore_errors=True)

    @staticmethod
    def describe(monitor):
        """For the report of a test that failed; pytest shows it only then."""
        print(f"--- mayfly {' '.join(monitor.arguments)}: status {monitor.process.poll()}, "
              f"threads {monitor.threads()}")
        for name, text in (("log", log_of(monitor).encode()),
                           ("standard error", monitor.errors.since() if monitor.errors else b""),
                           ("console", monitor.console.since() if monitor.console else b"")):
            if text:
                tail = text[-LOG_TAIL_BYTES:]
                readable = all(byte >= 32 or byte in b"\r\n\t\x08\x1b" for byte in tail)
                print(f"--- {name}:\n{tail.decode(errors='replace') if readable else tail[-200:]}")


def log_of(monitor):
    """What a monitor's log file holds."""
    path = getattr(monitor, "log_path", None)
    return path.read_text(errors="replace") if path and path.exists() else ""
