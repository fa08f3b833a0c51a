"""What builds guests: initramfs and ext4 images (tests/guests), kernels (guest-kernel-configs).

No guest runs here and nothing is compiled or fetched; test_boot.py boots what these programs make.
"""
import gzip
import os
import shutil
import subprocess
import time

import pytest

from harness.kernels import REPOSITORY

pytestmark = pytest.mark.host

INITRD = REPOSITORY / "tests/guests/busybox-initrd"
EXT4 = REPOSITORY / "tests/guests/ext4-root"
KERNEL = REPOSITORY / "guest-kernel-configs/build"
FETCH = REPOSITORY / "scripts/fetch-package"
STOCK = REPOSITORY / "scripts/stock-kernel"


def run(*command, environment=None):
    return subprocess.run(
        [os.fspath(word) for word in command], capture_output=True, text=True, timeout=300,
        stdin=subprocess.DEVNULL, env=dict(os.environ, **(environment or {})), check=False)


def build(*command):
    done = run(*command)
    assert done.returncode == 0, done.stderr
    return done


def refused(*command, environment=None):
    """Standard error of a command that must fail, without a traceback."""
    done = run(*command, environment=environment)
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.stderr


def listing(image):
    with open(image, "rb") as file:
        done = subprocess.run(["cpio", "-t", "--quiet"], stdin=file, capture_output=True, text=True,
                              timeout=60, check=True)
    return done.stdout.split()


def contents(image, path):
    with open(image, "rb") as file:
        return subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", path], stdin=file,
                              capture_output=True, timeout=60, check=True).stdout


@pytest.fixture
def modules(tmp_path):
    """A folder of modules where c needs b, which needs a; d is built in."""
    folder = tmp_path / "kernel" / "lib/modules/1.2.3"
    folder.mkdir(parents=True)
    for name in ("a-1", "b", "c"):
        (folder / f"{name}.ko").write_bytes(name.encode())
    (folder / "modules.dep").write_text("c.ko: b.ko a-1.ko\nb.ko: a-1.ko\na-1.ko:\n")
    (folder / "modules.builtin").write_text("kernel/d.ko\n")
    return tmp_path / "kernel"


@pytest.mark.parametrize("program, options", [
    (INITRD, []), (INITRD, ["--gzip"]), (EXT4, ["--size", "16M"])], ids=["cpio", "gzip", "ext4"])
def test_same_inputs_make_the_same_bytes(tmp_path, program, options):
    added = tmp_path / "added"
    for name in ("first", "second"):
        shutil.rmtree(added, ignore_errors=True)
        added.mkdir()
        (added / "file").write_text("same")
        (added / "link").symlink_to("file")
        build(program, *options, "--add", f"{added}:/added", "--out", tmp_path / name)
        # The clock of an ext4 file system counts seconds.
        time.sleep(1.1)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_initramfs_has_the_init_busybox_and_what_was_added(tmp_path):
    (tmp_path / "note").write_text("hello\n")
    build(INITRD, "--add", f"{tmp_path}/note:/deep/down/note", "--out", tmp_path / "image")
    names = listing(tmp_path / "image")
    assert names == sorted(names)
    assert {"init", "bin/busybox", "bin/sh", "etc/inittab", "deep/down"} <= set(names)
    assert contents(tmp_path / "image", "deep/down/note") == b"hello\n"


def test_gzip_holds_the_same_archive(tmp_path):
    build(INITRD, "--out", tmp_path / "plain")
    build(INITRD, "--gzip", "--out", tmp_path / "packed")
    assert gzip.decompress((tmp_path / "packed").read_bytes()) == (tmp_path / "plain").read_bytes()


def test_init_of_the_callers_is_executable(tmp_path):
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o600)
    build(INITRD, "--init", tmp_path / "mine", "--out", tmp_path / "image")
    with open(tmp_path / "image", "rb") as file:
        table = subprocess.run(["cpio", "-tv", "--quiet"], stdin=file, capture_output=True,
                               text=True, timeout=60, check=True).stdout
    entry = next(line for line in table.splitlines() if line.endswith(" init"))
    assert entry.startswith("-rwx")
    assert contents(tmp_path / "image", "init") == b"#!/bin/sh\n"


def test_modules_come_after_what_they_need(tmp_path, modules):
    build(INITRD, "--modules", f"{modules}:c,d,a_1", "--out", tmp_path / "image")
    assert contents(tmp_path / "image", "modules/order").split() == [b"a-1.ko", b"b.ko", b"c.ko"]
    assert contents(tmp_path / "image", "modules/b.ko") == b"b"


def test_module_that_is_nowhere_is_named(tmp_path, modules):
    text = refused(INITRD, "--modules", f"{modules}:c,nosuch", "--out", tmp_path / "image")
    assert "nosuch" in text and "modules.dep" in text
    assert sorted(os.listdir(tmp_path)) == ["kernel"]


def test_program_comes_with_its_libraries_and_loader(tmp_path):
    build(INITRD, "--program", shutil.which("sort"), "--out", tmp_path / "image")
    root = tmp_path / "root"
    root.mkdir()
    with open(tmp_path / "image", "rb") as file:
        subprocess.run(["cpio", "-id", "--quiet"], stdin=file, cwd=root, timeout=60, check=True)
    names = set(listing(tmp_path / "image"))
    assert any(name.startswith("lib64/ld-linux") for name in names)
    assert any(name.endswith("/libc.so.6") for name in names)
    # Everything that the program's loader looks for is there.
    loader = next(root.glob("lib64/ld-linux*"))
    libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    done = run(loader, "--library-path", libraries, f"{root}{shutil.which('sort')}", "--version")
    assert done.returncode == 0, done.stderr


def test_ext4_image_is_sound_and_belongs_to_root(tmp_path):
    build(EXT4, "--size", "16M", "--out", tmp_path / "image")
    assert (tmp_path / "image").stat().st_size == 16 << 20
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    checked = run("e2fsck", "-fn", tmp_path / "image", environment={"PATH": path})
    assert checked.returncode == 0, checked.stdout
    shown = run("debugfs", "-R", "stat /bin/busybox", tmp_path / "image", environment={"PATH": path})
    assert "User:     0   Group:     0" in shown.stdout


@pytest.mark.parametrize("arguments, named", [
    (["--size", "1M"], "--size"),
    (["--size", "12Q"], "12Q"),
    (["--add", "/nosuch/file:/file"], "/nosuch/file"),
    (["--add", "/etc/passwd:relative"], "relative"),
    (["--program", "/nosuch/program"], "/nosuch/program"),
    (["--busybox", "/nosuch/busybox"], "/nosuch/busybox"),
    (["--busybox", "/bin/bash"], "busybox-static"),
    (["--modules", "/nosuch:a"], "/nosuch"),
    (["--modules", "nocolon"], "nocolon"),
    (["--add", "/etc/passwd:/bin"], "/bin"),
])
def test_image_is_refused_by_naming_what_is_wrong(tmp_path, arguments, named):
    (tmp_path / "image").write_text("as before")
    assert named in refused(EXT4, *arguments, "--out", tmp_path / "image")
    assert (tmp_path / "image").read_text() == "as before"
    assert os.listdir(tmp_path) == ["image"]


def test_image_in_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "/nosuch/image" in refused(INITRD, "--out", f"{tmp_path}/nosuch/image")


@pytest.mark.parametrize("arguments, named", [
    (["nosuch"], "no fragment 'nosuch'"),
    (["-j", "many"], "'many'"),
    (["-j"], "-j"),
    (["--frobnicate"], "--frobnicate"),
])
def test_kernel_is_refused_by_naming_what_is_wrong(tmp_path, arguments, named):
    assert named in refused(KERNEL, *arguments, environment={"MAYFLY_CACHE": f"{tmp_path}"})


@pytest.mark.parametrize("line", ["CONFIG_SMP", "SMP=y", "CONFIG_SMP=yes", "CONFIG_SMP = y"])
def test_line_of_a_fragment_that_kconfig_would_ignore_is_refused(tmp_path, line):
    (tmp_path / "mine.config").write_text(f"# why\n\nCONFIG_NET=n\n{line}\n")
    text = refused(KERNEL, "base", tmp_path / "mine.config",
                   environment={"MAYFLY_CACHE": f"{tmp_path}/cache"})
    assert text.rstrip().endswith(line)


@pytest.fixture
def no_network(tmp_path):
    """An environment whose apt-get fails as it does without a network, and an empty cache."""
    tool = tmp_path / "bin/apt-get"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'E: Temporary failure resolving the mirror' >&2\nexit 100\n")
    tool.chmod(0o755)
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "MAYFLY_CACHE": f"{tmp_path}/cache"}


def test_package_that_cannot_be_fetched_is_named_and_leaves_nothing(tmp_path, no_network):
    assert "cannot download some-package" in refused(FETCH, "some-package", environment=no_network)
    left = [name for name in os.listdir(tmp_path / "cache/packages") if not name.endswith(".lock")]
    assert left == []


def test_stock_kernel_without_network_says_so(no_network):
    text = refused(STOCK, environment=no_network)
    assert "Temporary failure resolving" in text
    assert "is the network reachable" in text


def test_package_in_the_cache_needs_no_network(tmp_path, no_network):
    packages = tmp_path / "cache/packages"
    (packages / "thing_1.0_all").mkdir(parents=True)
    (packages / "thing").symlink_to("thing_1.0_all")
    done = run(FETCH, "thing", environment=no_network)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{packages}/thing_1.0_all\n"
    assert "cache has" in refused(FETCH, "--update", "thing", environment=no_network)
