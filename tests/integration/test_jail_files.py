"""Files of the host in a jail (--file), and what is in the jail's folder already."""
import os
import pathlib
import socket
import stat
import subprocess

import pytest

from harness.jail import USER

pytestmark = [pytest.mark.guest,
              pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")]


@pytest.fixture
def host_file(jails):
    """A file of the host with this owner and mode, on a disk: tmpfs has mapped mounts since Linux 6.3 only."""
    def make(name="image", mode=0o600, uid=0, gid=0, contents="what the host has"):
        path = jails.folder / name
        path.write_text(contents)
        os.chown(path, uid, gid)
        path.chmod(mode)
        return path

    return make


def before_and_after(path):
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.mark.once
class TestFiles:
    @pytest.mark.parametrize("uid, gid, mode", [(0, 0, 0o600), (0, 0, 0o644), (1000, 1000, 0o640), (USER, 0, 0o600),
                                                (0, USER, 0o660), (USER, USER, 0o600)])
    def test_whoever_owns_it_the_monitor_can_use_it_and_it_stays_as_it_is(self, jails, host_file, uid, gid, mode):
        path = host_file(uid=uid, gid=gid, mode=mode)
        before = before_and_after(path)
        seen = jails.attempts("write", "/image", "open", "/kernel",
                              options=["--file", path, "--file", f"{path}:kernel:ro"])
        assert set(seen.values()) == {"ok"}
        assert before_and_after(path) == before

    def test_for_reading_only(self, jails, host_file):
        options = ["--file", f"{host_file(mode=0o666)}:ro"]
        assert jails.attempts("open", "/image", "write", "/image", options=options) == {
            "open:/image": "ok", "write:/image": "EROFS"}

    def test_names_with_folders(self, jails, host_file):
        options = ["--file", f"{host_file()}:/disks/root/image"]
        seen = jails.attempts("write", "/disks/root/image", "create", "/disks/root/mine", "create", "/disks/mine",
                              options=options)
        assert list(seen.values()) == ["ok", "EACCES", "EACCES"]

    def test_it_cannot_be_removed_or_replaced_or_uncovered(self, jails, host_file):
        seen = jails.attempts("unlink", "/image", "rename", "/image", "umount", "/image",
                              options=["--file", host_file()])
        assert list(seen.values()) == ["EBUSY", "EBUSY", "EPERM"]

    def test_a_path_relative_to_where_the_jailer_was_started(self, jails, host_file):
        host_file("relative")
        assert jails.attempts("open", "/relative", options=["--file", "relative"]) == {"open:/relative": "ok"}

    def test_a_socket(self, jails):
        path = jails.folder / "uffd.socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen()
            options = ["--file", path]
            assert jails.attempts("connect", "/uffd.socket", options=options) == {"connect:/uffd.socket": "ok"}

    def test_a_block_device(self, jails):
        node = jails.folder / "disk"
        os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
        for option, uid, mode in ((node, USER, 0o600), (f"{node}:ro", 0, 0o440)):
            process = jails.start(options=["--file", option])
            inside = os.stat(jails.root(process.jail_id) / "disk")
            assert (inside.st_rdev, inside.st_uid, inside.st_gid) == (os.makedev(7, 0), uid, USER)
            assert stat.S_IMODE(inside.st_mode) == mode

    def test_two_jails_share_a_file(self, jails, host_file):
        path = host_file()
        first = jails.start("write", "/image", options=["--file", path])
        second = jails.start("write", "/image", options=["--file", path], uid=USER + 1, gid=USER + 1)
        assert "write:/image ok\n" in first.lines and "write:/image ok\n" in second.lines

    def test_again_with_the_same_id(self, jails, host_file):
        for _ in range(2):
            jails.attempts("open", "/a/b", jail_id="again", options=["--file", f"{host_file()}:a/b"])

    @pytest.mark.native
    @pytest.mark.parametrize("option, words", [
        ("missing", "--file {folder}/missing: No such file or directory"),
        (".", "--file .: '.' cannot be a name in the jail"),
        ("/dev/zero", "--file /dev/zero is neither a file nor a socket, FIFO or block device"),
        ("link", "there is a symbolic link in this path. Give the real one: realpath {folder}/link"),
        ("image:../image", "'../image' cannot be a name in the jail"),
        ("image:dev/kvm", "the name 'dev/kvm' is the jailer's own"),
        ("image:prisoner.pid", "the name 'prisoner.pid' is the jailer's own"),
        ("image:a:b", "--file takes HOST[:NAME][:ro]"),
        ("base", "is a folder: name the files in it one by one")])
    def test_what_is_refused_and_how(self, jails, host_file, option, words):
        host_file()
        (jails.folder / "link").symlink_to("image")
        done = jails.run(options=["--file", option], jail_id="refused")
        assert done.returncode == 153 and words.format(folder=jails.folder) in done.stderr, done
        assert not jails.room("refused").exists()

    def test_a_mode_that_denies_its_owner(self, jails, host_file):
        done = jails.run(options=["--file", host_file(mode=0o400)], jail_id="refused")
        assert done.returncode == 1
        assert "not even its owner may read and write it (mode 0400); for reading only, add :ro" in done.stderr
        assert not jails.room("refused").exists()

    def test_a_file_system_without_mapped_mounts(self, jails):
        """proc has none, on any kernel."""
        done = jails.run(options=["--file", "/proc/sys/kernel/cad_pid"], jail_id="refused")
        assert done.returncode == 1
        assert "files: --file /proc/sys/kernel/cad_pid: " in done.stderr and "chown or chmod" in done.stderr
        assert not jails.room("refused").exists()


@pytest.mark.once
class TestFolder:
    def test_what_the_administrator_put_there_stays(self, jails):
        root = jails.root("mine")
        root.mkdir(parents=True, mode=0o750)
        (root / "kernel").write_text("a kernel")
        os.chown(root / "kernel", USER, USER)
        jails.attempts("open", "/kernel", jail_id="mine")
        assert (root / "kernel").read_text() == "a kernel"
        assert stat.S_IMODE(root.stat().st_mode) == 0o750

    def test_mounts_of_the_administrator_are_seen_before_and_after_the_start(self, jails):
        root = jails.root("mine")
        for name in ("early", "late"):
            (root / name).mkdir(parents=True)
        subprocess.run(["mount", "--bind", "/usr", root / "early"], check=True)
        subprocess.run(["mount", "--make-shared", root / "early"], check=True)
        process = jails.start("open", "/early/bin", jail_id="mine")
        assert "open:/early/bin ok\n" in process.lines
        subprocess.run(["mount", "--bind", "/usr", root / "early/share"], check=True)
        inside = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text()
        assert "/early/share" in inside
        subprocess.run(["umount", root / "early/share"], check=True)

    def test_a_file_in_the_way_of_a_file(self, jails):
        root = jails.root("mine")
        root.mkdir(parents=True)
        (root / "image").write_text("precious")
        done = jails.run(options=["--file", "/etc/hostname:image:ro"], jail_id="mine")
        assert done.returncode == 1 and "the jail has a /image already, which is no empty file" in done.stderr
        assert (root / "image").read_text() == "precious"
        assert os.listdir(root) == ["image"]

    def test_what_a_hostile_inmate_left_leads_nowhere(self, jails):
        """Links where the jailer makes folders and files: the host's are not touched."""
        root = jails.root("hostile")
        root.mkdir(parents=True)
        outside = jails.folder / "outside"
        outside.mkdir()
        target = jails.folder / "target"
        target.write_text("untouched")
        for name in ("dev", "run"):
            (root / name).symlink_to(outside)
        for name in ("prisoner", "prisoner.pid"):
            (root / name).symlink_to(target)
        for path in root.iterdir():
            os.chown(path, USER, USER, follow_symlinks=False)
        process = jails.start(jail_id="hostile")
        assert os.listdir(outside) == [] and target.read_text() == "untouched"
        assert outside.stat().st_uid == 0 and target.stat().st_uid == 0
        assert not any((root / name).is_symlink() for name in ("dev", "run", "prisoner", "prisoner.pid"))
        assert os.path.exists(f"/proc/{process.pid}/root/dev/urandom")

    @pytest.mark.parametrize("place", ["base", "base/prisoner", "base/prisoner/id", "base/prisoner/id/root"])
    def test_a_link_instead_of_a_folder(self, jails, place):
        outside = jails.folder / "outside"
        outside.mkdir()
        path = jails.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rmdir()
        path.symlink_to(outside)
        done = jails.run(jail_id="id")
        assert done.returncode == 1 and "jail's folder: " in done.stderr, done
        assert os.listdir(outside) == []

    @pytest.mark.parametrize("place", ["base", "base/prisoner", "base/prisoner/id"])
    def test_a_folder_that_others_may_change(self, jails, place):
        path = jails.folder / place
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        done = jails.run(jail_id="id")
        assert done.returncode == 1 and "others may write to" in done.stderr, done
        path.chmod(0o755)
        os.chown(path, USER, USER)
        done = jails.run(jail_id="id")
        assert done.returncode == 1 and f"belongs to user {USER}" in done.stderr, done

    def test_a_base_where_programs_and_devices_are_not_allowed(self, jails):
        """The jail's own mount allows them; the host's does not."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", "noexec,nodev,nosuid", "tmpfs", jails.base], check=True)
        assert jails.attempts("open", "/dev/urandom") == {"open:/dev/urandom": "ok"}
        assert "noexec" in pathlib.Path("/proc/self/mountinfo").read_text().split(str(jails.base))[1].split("\n")[0]
