"""Guest images, built by the programs in tests/guests and kept until one of their inputs changes."""
import hashlib
import pathlib
import subprocess

from .kernels import REPOSITORY, guest_kernels, images_folder, write_once

GUESTS = REPOSITORY / "tests/guests"
BUILDERS = [GUESTS / name for name in ("busybox-initrd", "ext4-root", "init", "inittab", "tree.py")]


def key_of(*parts):
    digest = hashlib.sha256()
    for part in (*parts, *BUILDERS):
        if isinstance(part, pathlib.Path):
            if part.is_file():
                digest.update(part.read_bytes())
        else:
            digest.update(str(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def build(program, suffix, *arguments):
    path = images_folder() / f"{program}-{key_of(program, *arguments)}.{suffix}"
    return write_once(path, lambda out: subprocess.run(
        [GUESTS / program, "--out", out, *arguments], check=True))


def initrd(kernel):
    """An initramfs with busybox and the drivers that the kernel has as modules."""
    modules = ["--modules", kernel.modules] if kernel.modules else []
    return build("busybox-initrd", "cpio", *modules)


def initrd_with_tools(kernel):
    """The same, with the programs that tests of the network use in the guest."""
    modules = ["--modules", kernel.modules] if kernel.modules else []
    return build("busybox-initrd", "cpio", *modules, "--program", "/usr/sbin/ethtool", "--program", "/usr/bin/iperf3",
                 "--program", "/usr/bin/socat")


def root_disk(*arguments, size="64M"):
    """An ext4 image with busybox; copy it before a guest writes to it."""
    return build("ext4-root", "ext4", "--size", size, *arguments)


def root_disk_with_fio():
    return root_disk("--program", "/usr/bin/fio", "--program", "/usr/bin/socat", size="512M")


def copy(image, path):
    """A copy of an image, with holes where it has holes."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, path], check=True)
    path.chmod(0o600)
    return path


def build_all():
    """Every image that the tests use with this host's kernels, or with those that MAYFLY_TEST_HOST says."""
    for kernel in guest_kernels():
        initrd(kernel)
        initrd_with_tools(kernel)
    root_disk()
    root_disk_with_fio()


if __name__ == "__main__":
    build_all()
