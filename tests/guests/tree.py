"""A guest's file tree, put together in memory and written as an initramfs or laid out in a folder.

Nothing here depends on who builds it or when: entries are sorted, belong to root and carry the
time 0, so the same inputs make the same bytes. Formats: newc (Linux
Documentation/driver-api/early-userspace/buffer-format.rst) and modules.dep(5).
"""

import gzip
import lzma
import os
import pathlib
import stat
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent


class GuestError(Exception):
    """Something the caller named is missing or unfit; the text says what."""


class Tree:
    """Entries by absolute guest path: (mode, contents), contents being bytes for files and links."""

    def __init__(self):
        self.entries = {}

    def _put(self, path, mode, contents):
        path = _guest_path(path)
        if path == "/":
            return
        self.add_dir(os.path.dirname(path))
        before = self.entries.get(path)
        if before and stat.S_ISDIR(before[0]) != stat.S_ISDIR(mode):
            raise GuestError(f"{path}: both a folder and a file in the guest's tree")
        self.entries[path] = (mode, contents)

    def add_dir(self, path, mode=0o755):
        path = _guest_path(path)
        if path != "/" and path not in self.entries:
            self._put(path, stat.S_IFDIR | mode, b"")

    def add_file(self, path, contents, mode=0o644):
        self._put(path, stat.S_IFREG | mode, contents)

    def add_link(self, path, target):
        self._put(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def add_host(self, host, guest):
        """Copies a file, a symbolic link or a whole folder of the host's."""
        try:
            mode = os.lstat(host).st_mode
            if stat.S_ISLNK(mode):
                self.add_link(guest, os.readlink(host))
            elif stat.S_ISDIR(mode):
                self.add_dir(guest)
                for name in sorted(os.listdir(host)):
                    self.add_host(os.path.join(host, name), os.path.join(guest, name))
            elif stat.S_ISREG(mode):
                executable = 0o755 if mode & 0o111 else 0o644
                self.add_file(guest, pathlib.Path(host).read_bytes(), executable)
            else:
                raise GuestError(f"{host}: neither a file, a folder nor a symbolic link")
        except OSError as error:
            raise GuestError(f"{host}: {error.strerror}") from error

    def add_busybox(self, busybox):
        """The static busybox as /bin/busybox, and a link for every applet it has."""
        if not os.access(busybox, os.X_OK):
            raise GuestError(f"{busybox}: no such program: install the package busybox-static")
        if libraries(busybox):
            raise GuestError(f"{busybox}: needs shared libraries: install the package busybox-static")
        self.add_host(busybox, "/bin/busybox")
        command = [busybox, "--list-full"]
        listing = subprocess.run(command, capture_output=True, check=True, text=True)
        for applet in listing.stdout.split():
            if applet != "bin/busybox":
                self.add_link(applet, "/bin/busybox")

    def add_program(self, program):
        """A program of the host's with its shared libraries and loader, all at the same paths."""
        path = os.path.realpath(program)
        if not os.path.isfile(path):
            raise GuestError(f"{program}: no such program")
        self.add_host(path, os.path.abspath(program))
        for library in libraries(path):
            self.add_host(os.path.realpath(library), library)

    def add_modules(self, folder, names):
        """Modules and what they depend on, as /modules/*.ko; /modules/order says how to load them."""
        order = self.entries.get("/modules/order", (0, b""))[1].decode().split()
        for path in modules_in_load_order(folder, names):
            contents = path.read_bytes()
            name = path.name
            if name.endswith(".xz"):
                contents = lzma.decompress(contents)
                name = name[: -len(".xz")]
            if name not in order:
                order.append(name)
                self.add_file(f"/modules/{name}", contents)
        self.add_file("/modules/order", "".join(name + "\n" for name in order).encode())

    def add_userland(self, busybox="/bin/busybox", init=HERE / "init"):
        """What every guest has: busybox, the init, and the few files that they read."""
        for path in ("/dev", "/proc", "/sys", "/mnt", "/root", "/tests", "/var"):
            self.add_dir(path)
        # Mount points too, for a root that is read-only.
        self.add_dir("/run")
        self.add_dir("/tmp", 0o1777)
        self.add_busybox(busybox)
        self.add_host(init, "/init")
        mode, contents = self.entries["/init"]
        self.entries["/init"] = (mode | 0o111, contents)
        # A kernel looks for /init in an initramfs and for /sbin/init on a disk.
        self.add_link("/sbin/init", "/init")
        self.add_host(HERE / "inittab", "/etc/inittab")
        self.add_file("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        self.add_file("/etc/group", b"root:x:0:\n")

    def write_cpio(self, out):
        """Writes the tree as a newc archive to a binary file."""
        position = 0

        def put(chunk):
            nonlocal position
            out.write(chunk)
            position += len(chunk)

        def put_entry(inode, path, mode, contents):
            name = os.fsencode(path.lstrip("/")) + b"\0"
            links = 2 if stat.S_ISDIR(mode) else 1
            fields = (inode, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(name), 0)
            put(b"070701" + b"".join(b"%08x" % field for field in fields) + name)
            put(b"\0" * (-position % 4))
            put(contents)
            put(b"\0" * (-position % 4))

        for inode, path in enumerate(sorted(self.entries), start=1):
            put_entry(inode, path, *self.entries[path])
        put_entry(0, "TRAILER!!!", 0, b"")
        put(b"\0" * (-position % 512))

    def write_folder(self, folder):
        """Lays the tree out in an empty folder of the host's."""
        for path in sorted(self.entries):
            mode, contents = self.entries[path]
            host = os.fspath(folder) + path
            if stat.S_ISDIR(mode):
                os.mkdir(host)
            elif stat.S_ISLNK(mode):
                os.symlink(contents, host)
            else:
                pathlib.Path(host).write_bytes(contents)
            if not stat.S_ISLNK(mode):
                os.chmod(host, stat.S_IMODE(mode))
        for path in sorted(self.entries, reverse=True):
            os.utime(os.fspath(folder) + path, (0, 0), follow_symlinks=False)


def libraries(program):
    """The shared libraries and the loader that a program needs, by ldd; none for a static one."""
    environment = dict(os.environ, LC_ALL="C")
    listing = subprocess.run(
        ["ldd", program], capture_output=True, check=False, text=True, env=environment
    )
    if listing.returncode != 0:
        if "not a dynamic executable" in listing.stdout + listing.stderr:
            return []
        raise GuestError(f"{program}: ldd: {listing.stderr.strip()}")
    found = []
    for line in listing.stdout.splitlines():
        if "not found" in line:
            raise GuestError(f"{program}: a shared library is missing: {line.strip()}")
        words = [word for word in line.split() if word.startswith("/")]
        found += words[-1:]
    return found


def modules_in_load_order(folder, names):
    """Files of the named modules and of all that they depend on, each after its dependencies.

    `folder` is lib/modules/RELEASE, or the folder that has exactly one of these below it.
    """
    folder = pathlib.Path(folder)
    if not (folder / "modules.dep").is_file():
        releases = sorted(folder.glob("lib/modules/*/modules.dep"))
        if len(releases) != 1:
            raise GuestError(f"{folder}: has neither modules.dep nor one lib/modules/*/modules.dep")
        folder = releases[0].parent
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        module, _, dependencies = line.partition(":")
        needs[_module_name(module)] = [module] + dependencies.split()
    built_in = (folder / "modules.builtin").read_text().split()
    built_in = {_module_name(module) for module in built_in}

    order = []
    for name in names:
        name = name.replace("-", "_")
        if name not in needs:
            if name in built_in:
                continue
            raise GuestError(f"module {name}: neither in {folder}/modules.dep nor built in")
        # modules.dep names what must be loaded first last.
        for module in reversed(needs[name]):
            if folder / module not in order:
                order.append(folder / module)
    return order


def _guest_path(path):
    # Two leading slashes are special to POSIX, and so to normpath; not to a guest.
    return os.path.normpath("/" + path.lstrip("/"))


def _module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def write_whole(path, write):
    """Calls write(file) on a temporary file beside `path`, which then takes that name in one step."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.", delete=False)
    except OSError as error:
        raise GuestError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            write(file)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
        os.rename(file.name, path)
    except BaseException:
        os.unlink(file.name)
        raise


def write_initramfs(tree, path, compress):
    """Writes the tree as an initramfs, with gzip or without."""

    def write(file):
        if compress:
            with gzip.GzipFile("", "wb", fileobj=file, compresslevel=6, mtime=0) as packed:
                tree.write_cpio(packed)
        else:
            tree.write_cpio(file)

    write_whole(path, write)


def add_arguments(parser):
    """The options that say what is in the tree: the same for every kind of image."""
    parser.add_argument("--out", required=True, metavar="FILE", help="the image to write")
    parser.add_argument(
        "--init",
        metavar="FILE",
        default=HERE / "init",
        help="the program that becomes /init (default: the one beside this program)",
    )
    parser.add_argument(
        "--busybox", metavar="FILE", default="/bin/busybox", help="a static busybox (%(default)s)"
    )
    parser.add_argument(
        "--modules",
        action="append",
        default=[],
        metavar="DIR:NAME,NAME",
        help="kernel modules, loaded by the init in this order, each after its dependencies; DIR is "
        "what stock-kernel printed, or a lib/modules/RELEASE; built-in ones are skipped",
    )
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="HOST:GUEST",
        help="copy a file or a folder to this path in the guest",
    )
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="PATH",
        help="copy a program of this machine's with its shared libraries to the same paths",
    )


def from_arguments(arguments):
    """The tree that the options of add_arguments() describe."""
    tree = Tree()
    tree.add_userland(arguments.busybox, arguments.init)
    for program in arguments.program:
        tree.add_program(program)
    for modules in arguments.modules:
        folder, colon, names = modules.rpartition(":")
        if not colon or not names:
            raise GuestError(f"--modules {modules}: want DIR:NAME,NAME")
        tree.add_modules(folder, names.split(","))
    for pair in arguments.add:
        host, colon, guest = pair.rpartition(":")
        if not colon or not guest.startswith("/"):
            raise GuestError(f"--add {pair}: want HOST:GUEST with an absolute path in the guest")
        tree.add_host(host, guest)
    return tree
