"""Which host this is, and the guest kernels that run on it.

  hardware  Debian's stock cloud kernel, and the project's own
  pvm       only a kernel prepared for such hosts, which MAYFLY_NATIVE_KERNEL names
  none      none
"""
import dataclasses
import functools
import hashlib
import lzma
import os
import pathlib
import subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]

# nogbpages: memory beyond the first GiB would otherwise be mapped without the bit that such hosts need.
NATIVE_KERNEL_ARGUMENTS = ("pti=on nopcid nogbpages noxsave no-kvmapf no-steal-acc tsc=reliable "
                           "clearcpuid=smap,smep,umip,pku,ibt,invpcid,rdtscp,rdpid")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A guest kernel, and what it can do."""

    name: str
    path: pathlib.Path
    arguments: str = ""
    modules: str = ""          # for --modules of the guest image programs; empty: all built in
    max_vcpus: int = 32
    protocols: tuple = ("Linux",)
    with_acpi: bool = True
    without_acpi: bool = True  # whether it has virtio_mmio.device=
    generation_id: bool = True  # whether it has a driver for the VM generation id
    keyboard: bool = True      # whether its keyboard driver knows Ctrl-Alt-Del (CONFIG_VT)

    def __str__(self):
        return self.name

    def with_root_disk(self):
        """What a configuration says so that the root is the first disk: drivers that are modules come before it."""
        return {"initrd": True, "args": "mayfly.root=/dev/vda rw"} if self.modules else {"initrd": None}


def program_output(*command):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout.strip()


@functools.lru_cache(None)
def host_kind():
    """hardware, pvm or none; MAYFLY_TEST_HOST overrides what the machine says."""
    return os.environ.get("MAYFLY_TEST_HOST") or program_output(
        REPOSITORY / "tests/host/detect").split("\n", maxsplit=1)[0]


def images_folder():
    """Where images are kept from one run to the next."""
    cache = os.environ.get("MAYFLY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "mayfly")
    folder = pathlib.Path(cache) / "test-images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_once(path, write):
    """Makes a file by write(temporary path) unless it is there; never leaves half of one."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        write(temporary)
        temporary.replace(path)
    return path


def stock_kernel():
    folder = os.environ.get("MAYFLY_STOCK_KERNEL") or program_output(
        REPOSITORY / "scripts/stock-kernel")
    return Kernel("stock", pathlib.Path(folder) / "vmlinuz", without_acpi=False, generation_id=False,
                  modules=f"{folder}:virtio_mmio,virtio_blk,virtio_net")


def own_kernel():
    path = os.environ.get("MAYFLY_GUEST_KERNEL") or program_output(
        REPOSITORY / "guest-kernel-configs/build")
    return Kernel("own", pathlib.Path(path), protocols=("Linux", "PVH"))


def native_kernel():
    """The kernel that MAYFLY_NATIVE_KERNEL names, or None."""
    named = os.environ.get("MAYFLY_NATIVE_KERNEL")
    if not named:
        return None
    path = pathlib.Path(named).absolute()
    if path.suffix == ".xz":
        packed = path.read_bytes()
        path = write_once(images_folder() / f"native-{hashlib.sha256(packed).hexdigest()[:16]}",
                          lambda out: out.write_bytes(lzma.decompress(packed)))
    arguments = os.environ.get("MAYFLY_NATIVE_KERNEL_ARGS", NATIVE_KERNEL_ARGUMENTS)
    # Its ACPI fails for want of PCI support and leaves the devices without interrupts.
    return Kernel("native", path, arguments, max_vcpus=1, protocols=("Linux", "PVH"),
                  with_acpi=False, keyboard=False)


@functools.lru_cache(None)
def guest_kernels():
    """The Linux kernels that this host can run, the one for most tests first."""
    if host_kind() == "hardware":
        return own_kernel(), stock_kernel()
    native = native_kernel() if host_kind() == "pvm" else None
    return (native,) if native else ()


def why_no_guests():
    if host_kind() == "pvm":
        return "this is a PVM host: MAYFLY_NATIVE_KERNEL must name a kernel that runs on it"
    return "this host has no KVM that works: see tests/host/detect --explain"
