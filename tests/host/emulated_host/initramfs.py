"""Writes the initramfs of the emulated host: an uncompressed cpio archive, made anew for each boot.

Format: Linux Documentation/driver-api/early-userspace/buffer-format.rst, "newc". Uncompressed
because the emulated CPU would unpack it far more slowly than QEMU reads it.
"""
import os
import pathlib
import stat

HERE = pathlib.Path(__file__).resolve().parent
BUSYBOX = pathlib.Path("/bin/busybox")
AGENT_FILES = ("agent.py", "protocol.py")
COMMANDS = ("cat", "chmod", "cp", "hostname", "insmod", "ip", "ln", "mkdir", "mknod", "mount", "sh",
            "sleep", "switch_root")
# In the order of their dependencies: what the root file system needs, then what commands expect.
MODULES = (
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/char/virtio_console",
    "fs/fuse/fuse",
    "fs/fuse/virtiofs",
    "fs/overlayfs/overlay",
    "drivers/net/tun",
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "arch/x86/kvm/kvm-amd",
)


class Archive:
    def __init__(self):
        self.data = bytearray()
        self.entries = 0

    def add(self, name, mode, content=b"", device=(0, 0)):
        self.entries += 1
        encoded = name.encode() + b"\0"
        inode, user, group, links, time, checksum = self.entries, 0, 0, 1, 0, 0
        fields = (inode, mode, user, group, links, time, len(content), 0, 0, *device, len(encoded),
                  checksum)
        self.data += b"070701" + b"".join(b"%08X" % field for field in fields)
        self.data += encoded
        self.pad()
        self.data += content
        self.pad()

    def pad(self):
        self.data += bytes(-len(self.data) % 4)

    def folder(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, content, mode=0o644):
        self.add(name, stat.S_IFREG | mode, content)

    def finish(self):
        self.add("TRAILER!!!", 0)
        return bytes(self.data)


def build(modules_folder, release, shares):
    """The archive's bytes. modules_folder is what becomes /lib/modules; shares: (tag, path)."""
    archive = Archive()
    for name in ("bin", "dev", "modules", "agent"):
        archive.folder(name)
    # The kernel opens it for the first program, before anything can be mounted.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    for name in COMMANDS:
        archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
    archive.file("init", (HERE / "init").read_bytes(), 0o755)
    for number, module in enumerate(MODULES):
        path = os.path.join(modules_folder, release, "kernel", module + ".ko")
        with open(path, "rb") as file:
            archive.file(f"modules/{number:02}-{os.path.basename(path)}", file.read())
    archive.file("modules.path", os.fsencode(modules_folder) + b"\n")
    archive.file("shares", b"".join(os.fsencode(f"{tag} {path}\n") for tag, path in shares))
    for name in AGENT_FILES:
        archive.file(f"agent/{name}", (HERE / name).read_bytes())
    return archive.finish()
