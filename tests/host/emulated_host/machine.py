"""The emulated host's machine: which processes it consists of, and their life.

QEMU interprets an AMD CPU with SVM (TCG, `-cpu max`), so the kernel inside has a true kvm_amd. The
machine's root file system and each shared folder are served by one virtiofsd each; virtio-fs needs
the guest's memory in a shared memfd, which takes up only what is touched.
"""
import ctypes
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess

from . import initramfs, tsc

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
STOCK_KERNEL = REPOSITORY / "scripts" / "stock-kernel"
VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
QEMU = "qemu-system-x86_64"
PACKAGES = "scripts/install-packages emulated-host"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)
# The emulated CPU does not speculate: without mitigations the host is as safe and boots sooner.
# panic=-1 restarts at once, which -no-reboot turns into the end of QEMU. no_timer_check: the kernel
# counts ticks of the timer in a few milliseconds, and panics when this process got no processor meanwhile.
KERNEL_ARGUMENTS = ("console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable no_timer_check "
                    "random.trust_cpu=on cryptomgr.notests rcupdate.rcu_expedited=1")


class HostError(Exception):
    """The emulated host cannot be had, or is gone; says why and what to do."""


@dataclasses.dataclass
class Options:
    """What an emulated host is made of."""

    cpus: int = 1
    memory_mib: int = 6144
    scratch_mib: int = 16384
    shares: list = dataclasses.field(default_factory=list)
    icount: bool = False
    kernel: str = ""  # a folder as scripts/stock-kernel prints; empty: that one
    kernel_arguments: str = ""
    console: str = ""  # also keep the host's console log in this file
    boot_timeout: float = 0  # seconds; 0: what a slow machine may need
    silence: int = 120  # seconds without a sign of life after which the host counts as dead; not with icount

    def check(self):
        if self.icount:
            self.cpus = 1  # instructions are counted on one CPU only
        if not 1 <= self.cpus <= 64:
            raise HostError(f"--cpus {self.cpus}: choose 1 to 64")
        if not 512 <= self.memory_mib <= 1024 * 1024:
            raise HostError(f"--memory {self.memory_mib}: choose at least 512 MiB")
        if not 16 <= self.scratch_mib <= 1024 * 1024:
            raise HostError(f"--scratch {self.scratch_mib}: choose at least 16 MiB")
        if self.silence < 2:
            raise HostError(f"--silence {self.silence}: choose at least 2 seconds")
        self.shares = [os.path.abspath(share) for share in self.shares]
        for share in self.shares:
            if not os.path.isdir(share):
                raise HostError(f"--share {share}: not a folder")
            if share == "/" or not share.isprintable() or share != share.strip():
                raise HostError(f"--share {share!r}: cannot be shared under that name")
        if not self.boot_timeout:
            self.boot_timeout = 900 if self.icount else 180


def check_programs():
    """Says what is missing before anything has started."""
    if os.geteuid() != 0:
        raise HostError("the emulated host needs root: virtiofsd shares the root file system")
    for program in (QEMU, VIRTIOFSD, initramfs.BUSYBOX, "/usr/bin/python3", "mke2fs"):
        if not shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            raise HostError(f"{program} is missing: run {PACKAGES}")


def stock_kernel():
    """The folder of the distribution's kernel, fetched on first use."""
    result = subprocess.run([STOCK_KERNEL], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, check=False)
    if result.returncode != 0:
        raise HostError(f"no kernel for the emulated host: {result.stderr.strip()}")
    return result.stdout.strip()


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Machine:
    """QEMU and its virtiofsd processes. All die with the process that made this object."""

    def __init__(self, options, folder):
        """Needs checked options and an empty folder, whose name must leave room for socket names."""
        self.options, self.folder = options, pathlib.Path(folder)
        self.console = self.folder / "console.log"
        self.daemons = []
        self.qemu = None
        self.port = None
        self.monitor = None

    def spawn(self, argv, log, fds=()):
        with open(self.folder / log, "wb") as output:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    pass_fds=fds, preexec_fn=die_with_parent)

    def share(self, tag, source, cache):
        """Starts the virtiofsd of a folder; returns QEMU's options for it.

        The socket listens before either process runs, so neither has to wait for the other.
        """
        path = self.folder / f"{tag}.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen(1)
            self.daemons.append(self.spawn(
                [VIRTIOFSD, "-f", f"--fd={listener.fileno()}", "-o", f"source={source}",
                 "-o", f"cache={cache}", "-o", "sandbox=chroot", "-o", "log_level=warn"],
                f"virtiofsd-{tag}.log", (listener.fileno(),)))
        return ["-chardev", f"socket,id={tag},path={escape(path)}",
                "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]

    def make_scratch(self):
        """A sparse ext4 file, for tests that need a real file system on a real block device."""
        path = self.folder / "scratch.img"
        with open(path, "wb") as file:
            file.truncate(self.options.scratch_mib << 20)
        path_of_tools = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
        result = subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", path],
            env={**os.environ, "PATH": path_of_tools}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if result.returncode != 0:
            raise HostError(f"cannot make the scratch disk {path}: {result.stdout.strip()}")
        return path

    def start(self):
        """Starts everything; self.port is then the stream to the agent."""
        options = self.options
        kernel = pathlib.Path(options.kernel or stock_kernel()).absolute()
        modules = kernel / "lib" / "modules"
        try:
            release = os.listdir(modules)[0]
            shares = [(f"share{number}", path) for number, path in enumerate(options.shares)]
            (self.folder / "initrd").write_bytes(
                initramfs.build(os.path.realpath(modules), release, shares))
        except (OSError, IndexError) as error:
            raise HostError(f"{kernel} is not a kernel with its modules: {error}") from error
        self.console.touch()
        argv = [QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-name", "emulated-host", "-cpu", "max", "-smp", str(options.cpus),
                "-m", str(options.memory_mib), "-machine", "q35,memory-backend=memory",
                "-object", f"memory-backend-memfd,id=memory,size={options.memory_mib}M,share=on",
                "-serial", f"file:{escape(self.console)}"]
        arguments = KERNEL_ARGUMENTS
        if options.icount:
            argv += ["-accel", "tcg", "-icount", "shift=0,sleep=off"]
            arguments += " nokaslr"  # so that two runs execute the same instructions
        else:
            argv += ["-accel", "tcg,thread=multi"]
            frequency = tsc.frequency_khz()
            arguments += f" tsc_early_khz={frequency}" if frequency else ""
        argv += ["-kernel", os.fspath(kernel / "vmlinuz"), "-initrd",
                 os.fspath(self.folder / "initrd"),
                 "-append", f"{arguments} {options.kernel_arguments}".strip()]
        # Nothing that changes on the machine after the boot is looked for in the root; what does
        # change belongs in a share.
        argv += self.share("root", "/", "always")
        for tag, path in shares:
            argv += self.share(tag, os.path.realpath(path), "auto")
        argv += ["-drive", f"if=none,id=scratch,file={escape(self.make_scratch())},format=raw,"
                 "cache=unsafe,discard=unmap", "-device", "virtio-blk-pci,drive=scratch"]
        self.port, far_end = socket.socketpair()
        self.monitor, far_monitor = socket.socketpair()
        # With event_idx, frames would bring no interrupt as long as the guest has not answered the one before, which may be
        # the one that got lost (see supervisor.py).
        argv += ["-device", "virtio-serial-pci,event_idx=off", "-chardev", f"socket,id=agent,fd={far_end.fileno()}",
                 "-device", "virtserialport,chardev=agent,name=mayfly.agent",
                 "-chardev", f"socket,id=monitor,fd={far_monitor.fileno()}", "-mon", "chardev=monitor,mode=control"]
        self.qemu = self.spawn(argv, "qemu.log", (far_end.fileno(), far_monitor.fileno()))
        far_end.close()
        far_monitor.close()

    def last_words(self):
        """What the machine said at the end, for an error message."""
        words = []
        for name, lines in (("qemu.log", 10), ("console.log", 50)):
            try:
                text = (self.folder / name).read_text(errors="replace").strip()
            except OSError:
                continue
            if text:
                words += [f"--- the end of its {name}:", *text.splitlines()[-lines:]]
        for path in sorted(self.folder.glob("virtiofsd-*.log")):
            # It says this at every end, however regular.
            lines = [line for line in path.read_text(errors="replace").splitlines()
                     if not line.startswith(("fv_remove_watch: TODO!", "virtio_loop: Unexpected"))]
            if lines:
                words += [f"--- the end of its {path.name}:", *lines[-5:]]
        return "\n".join(words)

    def stop(self):
        """Ends every process at once. Idempotent."""
        for process in [self.qemu, *self.daemons]:
            if process and process.poll() is None:
                process.kill()
        for process in [self.qemu, *self.daemons]:
            if process:
                process.wait()
        for end in (self.port, self.monitor):
            if end:
                end.close()
        if self.options.console and self.console.exists():
            shutil.copyfile(self.console, self.options.console)


def escape(path):
    """A path inside a QEMU option, where a comma would end it."""
    return os.fspath(path).replace(",", ",,")
