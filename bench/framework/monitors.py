"""One Linux guest, and how each monitor is told to run it: same kernel, image, memory and devices.

What is different is what has to be: the word of the command line that says how the guest restarts (QEMU's microvm has no
i8042, so `reboot=t`), and the way in which the monitor is told. Each peer gets what its own documentation recommends
for the fastest start, and the cache and I/O modes that do what Mayfly's do:

  Mayfly             QEMU                                Firecracker   Cloud Hypervisor  kvmtool
  engine Sync        aio=threads, or pread where cached  Sync          (its choice)      (its choice)
  engine Async       aio=io_uring                        Async         (its choice)      (its choice)
  cache Writeback    cache=writeback: the host's cache, flushes honoured

QEMU is checked in every run. Of the others, the options come from their documentation; they are not in Debian, so
nobody has run these lines against them here.
"""
import dataclasses
import json
import os
import pathlib

from .session import ContenderFailed


@dataclasses.dataclass(frozen=True)
class Disk:
    path: pathlib.Path
    engine: str = "Sync"       # or Async
    read_only: bool = False


@dataclasses.dataclass(frozen=True)
class Nic:
    tap: str
    mac: str


@dataclasses.dataclass(frozen=True)
class LinuxGuest:
    """A guest by what is in it; the first disk is its root when there is no initrd."""

    kernel: object             # harness.kernels.Kernel
    arguments: str
    initrd: pathlib.Path = None
    disks: tuple = ()
    nics: tuple = ()
    memory_mib: int = 128
    vcpus: int = 1
    huge_pages: str = "None"   # Mayfly's; QEMU always advises the kernel to use them

    def command_line(self, reboot):
        root = "root=/dev/vda ro" if self.disks and not self.initrd else ""
        words = [self.kernel.arguments, "console=ttyS0", f"reboot={reboot}", "panic=1",
                 "" if self.kernel.with_acpi else "acpi=off", root, self.arguments]
        return " ".join(word for word in words if word)


def mayfly(bench, path, guest, name):
    """A configuration file; the root's parameter is ours, as for every other monitor."""
    config = {
        "boot-source": {"kernel_image_path": os.fspath(guest.kernel.path), "boot_args": guest.command_line("k")},
        "machine-config": {"vcpu_count": guest.vcpus, "mem_size_mib": guest.memory_mib,
                           "huge_pages": guest.huge_pages},
        "drives": [{"drive_id": f"disk{number}", "path_on_host": os.fspath(disk.path), "is_root_device": False,
                    "is_read_only": disk.read_only, "io_engine": disk.engine, "cache_type": "Writeback"}
                   for number, disk in enumerate(guest.disks)],
        "network-interfaces": [{"iface_id": f"eth{number}", "host_dev_name": nic.tap, "guest_mac": nic.mac}
                               for number, nic in enumerate(guest.nics)],
    }
    if guest.initrd:
        config["boot-source"]["initrd_path"] = os.fspath(guest.initrd)
    file = bench.file(f"{name}.json", json.dumps(config))
    return [path, "--no-api", "--config-file", file, "--level", "Warn"]


def firecracker(bench, path, guest, name):
    """Its configuration file is ours, but for what only Mayfly knows."""
    file = mayfly(bench, path, guest, name)[3]
    config = json.loads(file.read_text())
    config["machine-config"] = {"vcpu_count": guest.vcpus, "mem_size_mib": guest.memory_mib}
    file.write_text(json.dumps(config))
    return [path, "--no-api", "--config-file", file, "--level", "Warn"]


def qemu(bench, path, guest, name, vhost=False):
    """The microvm machine, with nothing that can be left out: no PIC, PIT, RTC, option ROMs or default devices."""
    machine = "microvm,rtc=off,pit=off,pic=off,x-option-roms=off" + ("" if guest.kernel.with_acpi else ",acpi=off")
    # PVM: a CPU model with this MSR stops QEMU, since KVM there refuses to set it.
    cpu = "host" if bench.kind == "hardware" else "host,arch-capabilities=off"
    argv = [path, "-M", machine, "-accel", "kvm", "-cpu", cpu, "-smp", guest.vcpus, "-m", guest.memory_mib,
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
            # Else its devices are of virtio's draft before 1.0.
            "-global", "virtio-mmio.force-legacy=false",
            "-kernel", guest.kernel.path, "-append", guest.command_line("t")]
    if guest.initrd:
        argv += ["-initrd", guest.initrd]
    for number, disk in enumerate(guest.disks):
        aio = {"Sync": "threads", "Async": "io_uring"}[disk.engine]
        argv += ["-drive", f"id=disk{number},file={os.fspath(disk.path).replace(',', ',,')},format=raw,if=none,"
                 # Readers share a file; QEMU's locks and those of others would not let them.
                 f"cache=writeback,aio={aio}" + (",read-only=on,file.locking=off" if disk.read_only else ""),
                 "-device", f"virtio-blk-device,drive=disk{number}"]
    for number, nic in enumerate(guest.nics):
        argv += ["-netdev", f"tap,id=net{number},ifname={nic.tap},script=no,downscript=no,vhost={'on' if vhost else 'off'}",
                 "-device", f"virtio-net-device,netdev=net{number},mac={nic.mac}"]
    return argv


def cloud_hypervisor(bench, path, guest, name):
    """Its disks and interfaces are on PCI."""
    if guest.disks or guest.nics:
        raise ContenderFailed("cloud-hypervisor has virtio on PCI only, for which this guest's kernel has no driver")
    return [path, "--kernel", guest.kernel.path, "--cmdline", guest.command_line("k"), "--cpus", f"boot={guest.vcpus}",
            "--memory", f"size={guest.memory_mib}M", "--serial", "tty", "--console", "off",
            *(["--initramfs", guest.initrd] if guest.initrd else [])]


def kvmtool(bench, path, guest, name):
    argv = [path, "run", "--kernel", guest.kernel.path, "--params", guest.command_line("k"), "--cpus", guest.vcpus,
            "--mem", guest.memory_mib, "--console", "serial", "--virtio-transport", "mmio"]
    if guest.initrd:
        argv += ["--initrd", guest.initrd]
    for disk in guest.disks:
        argv += ["--disk", f"{disk.path}{',ro' if disk.read_only else ''}"]
    for nic in guest.nics:
        argv += ["--network", f"mode=tap,tapif={nic.tap},guest_mac={nic.mac}"]
    return argv if guest.nics else [*argv, "--network", "mode=none"]


PEERS = {"qemu": qemu, "firecracker": firecracker, "cloud-hypervisor": cloud_hypervisor, "kvmtool": kvmtool}


def peer_command(bench, peer, guest, name, **more):
    """The command line by which a peer runs the guest, as strings; ContenderFailed when it cannot."""
    # QEMU finds its firmware by where it lies itself; the others are one file.
    path = bench.peers[peer] if peer == "qemu" else bench.local(bench.peers[peer])
    argv = PEERS[peer](bench, path, guest, name, **more)
    return [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in argv]


def mayfly_command(bench, guest, name):
    return [os.fspath(word) for word in mayfly(bench, bench.mayfly, guest, name)]
