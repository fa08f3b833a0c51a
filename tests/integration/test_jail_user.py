"""Jails where not every wall can be built: of an ordinary user, and in containers that deny calls."""
import os
import pathlib
import re
import signal
import subprocess

import pytest

from harness.clock import wait_until
from harness.jail import USER, as_user, processes_rooted_in, status

pytestmark = [pytest.mark.guest,
              pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to become several ordinary users")]

USER_WALLS = {"a user of its own", "no groups", "limits of memory, CPU and processes"}


def missing(text):
    """The protections that the jailer says are missing."""
    return set(re.findall(r"^mayfly-jailer: missing in the jail [\w-]+: ([^:;]+)", text, re.MULTILINE))


@pytest.fixture
def user_jails(jails):
    """Jails of an ordinary user."""
    if subprocess.run([*as_user("unshare", "--user", "true")], check=False).returncode != 0:
        pytest.skip("this host does not let ordinary users make user namespaces")
    os.chown(jails.base, USER, USER)
    return jails


class Denied:
    """A wrapper under which some system calls are denied."""

    def __init__(self, jails, program):
        self.program = jails.program_copy(program.parent / "tests/jail/deny", "deny")

    def __call__(self, calls):
        return [self.program, calls]


@pytest.fixture
def denied(jails, program):
    return Denied(jails, program)


@pytest.fixture
def host_namespaces():
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in ("user", "mnt", "pid", "net", "ipc")}


@pytest.mark.once
class TestOrdinaryUser:
    def start(self, jails, *arguments, wrapper=(), **how):
        return jails.start(*arguments, uid=None, wrapper=as_user(*wrapper), **how)

    def test_namespaces_ids_and_capabilities(self, user_jails, host_namespaces):
        jailer = self.start(user_jails, "pid")
        pid = jailer.inmate
        for name, outside in host_namespaces.items():
            assert os.readlink(f"/proc/{pid}/ns/{name}") != outside
        seen = status(pid)
        assert seen["Uid"].split() == [str(USER)] * 4 and seen["Gid"].split() == [str(USER)] * 4
        assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert seen["NoNewPrivs"] == "1"
        assert "pid 1\n" in jailer.lines
        assert pathlib.Path(f"/proc/{pid}/uid_map").read_text().split() == [str(USER), str(USER), "1"]
        assert pathlib.Path(f"/proc/{pid}/setgroups").read_text() == "deny\n"

    def test_the_room_is_empty_but_for_the_devices(self, user_jails):
        jailer = self.start(user_jails, "list", "open", "/etc/passwd", "escape", "open", "/proc/self/status")
        entries = {line.split()[1] for line in jailer.lines if line.startswith("entry")}
        devices = {path for path in ("/dev/kvm", "/dev/net/tun", "/dev/urandom", "/dev/userfaultfd")
                   if os.path.exists(path)}
        assert entries == {"/dev", "/dev/net", "/run", "/prisoner", "/prisoner.pid", *devices}
        assert {"open:/etc/passwd ENOENT\n", "escape ENOENT\n", "open:/proc/self/status ENOENT\n"} <= set(jailer.lines)
        mounts = pathlib.Path(f"/proc/{jailer.inmate}/mountinfo").read_text().splitlines()
        assert {line.split(" ")[4] for line in mounts} == {"/", *devices}

    def test_no_way_out(self, user_jails):
        jailer = self.start(user_jails, "mount", "umount", "/", "umount", "/dev/urandom", "chroot", "pivot_root",
                            "setuid", "setgroups", "mknod", "loopback", "kill", os.getpid(), "ptrace", os.getpid())
        seen = dict(line.strip().split(" ") for line in jailer.lines[:-1])
        assert seen.pop("loopback") == "ENETUNREACH"
        assert seen.pop(f"kill:{os.getpid()}") == seen.pop(f"ptrace:{os.getpid()}") == "ESRCH"
        assert seen.pop("setuid") == "EINVAL"  # there is no user 0 in there
        assert set(seen.values()) == {"EPERM"}

    def test_it_says_what_is_missing_and_strict_refuses(self, user_jails):
        done = user_jails.run("exit", 0, uid=None, wrapper=as_user())
        assert done.returncode == 0
        assert USER_WALLS <= missing(done.stderr) <= USER_WALLS | {"/dev/kvm"}
        done = user_jails.run("exit", 0, uid=None, wrapper=as_user(), options=["--strict"], jail_id="strict")
        assert done.returncode == 1 and "protections: --strict: missing in the jail strict: " in done.stderr
        assert not user_jails.room("strict").exists()

    def test_networks_of_others_cannot_be_joined(self, user_jails):
        done = user_jails.run("exit", 0, uid=None, wrapper=as_user(), options=["--netns", f"/proc/{os.getpid()}/ns/net"])
        assert done.returncode != 0 and "--netns" in done.stderr
        name = f"mayfly-{os.getpid()}-others"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            path = f"/run/netns/{name}"
            done = user_jails.run("exit", 0, uid=None, wrapper=as_user(), options=["--netns", path], jail_id="others")
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)
        assert done.returncode == 1
        assert f"user namespace: cannot join --netns {path}: an ordinary user can join only a network namespace" in done.stderr
        assert not user_jails.room("others").exists()

    def test_folders_on_the_way_may_only_be_passed_through(self, user_jails):
        """As /home often is: who knows the name of what is in it gets there, and nobody lists it."""
        user_jails.folder.chmod(0o711)
        assert user_jails.run("exit", 0, uid=None, wrapper=as_user()).returncode == 0

    def test_the_jailer_ends_as_the_monitor_does(self, user_jails):
        assert user_jails.run("exit", 152, uid=None, wrapper=as_user()).returncode == 152
        jailer = self.start(user_jails)
        os.kill(jailer.inmate, signal.SIGKILL)
        assert jailer.wait() == 128 + signal.SIGKILL

    def test_a_jailer_that_is_killed_takes_the_monitor_with_it(self, user_jails):
        jailer = self.start(user_jails)
        jailer.kill()
        jailer.wait()
        wait_until(lambda: not user_jails.inmates(), 30, "the inmate's end")
        assert user_jails.run("exit", 0, uid=None, wrapper=as_user(), jail_id=jailer.jail_id).returncode == 0

    def test_a_jail_in_use_is_refused(self, user_jails):
        jailer = self.start(user_jails)
        done = user_jails.run("exit", 0, uid=None, wrapper=as_user(), jail_id=jailer.jail_id)
        assert done.returncode == 1 and f"is in use: process {jailer.inmate} runs in it" in done.stderr

    def test_files(self, user_jails):
        own = user_jails.folder / "own"
        own.write_text("mine")
        own.chmod(0o600)
        foreign = user_jails.folder / "foreign"
        foreign.write_text("root's")
        foreign.chmod(0o600)
        os.chown(own, USER, USER)
        jailer = self.start(user_jails, "write", "/own", "open", "/ro", "write", "/ro",
                            options=["--file", own, "--file", f"{own}:ro:ro"])
        assert {"write:/own ok\n", "open:/ro ok\n", "write:/ro EROFS\n"} <= set(jailer.lines)
        done = user_jails.run(uid=None, wrapper=as_user(), options=["--file", foreign], jail_id="foreign")
        assert done.returncode == 1 and "the jailer must be root" in done.stderr
        assert not user_jails.room("foreign").exists()

    def test_somebody_else_cannot_be_named(self, user_jails):
        done = user_jails.run(uid=USER + 1, wrapper=as_user())
        assert done.returncode == 153 and "only root can run the monitor as somebody else" in done.stderr

    def test_a_base_that_is_not_theirs(self, user_jails):
        os.chown(user_jails.base, 0, 0)
        done = user_jails.run(uid=None, wrapper=as_user())
        assert done.returncode == 1 and "names a folder of their own with --chroot-base-dir" in done.stderr

    def test_in_the_background(self, user_jails):
        done = user_jails.run("wait", uid=None, wrapper=as_user(), options=["--daemonize"], jail_id="back")
        assert done.returncode == 0
        [pid] = processes_rooted_in(user_jails.root("back"))
        assert pid == int((user_jails.room("back") / "pid").read_text())


@pytest.mark.once
class TestDenied:
    """What a container's filter denies is done without, and said."""

    @pytest.mark.parametrize("calls, words", [
        ("pivot_root", {"pivot_root"}),
        ("keyctl", {"a session keyring of its own"}),
        ("open_tree", {"a mount namespace"}),
        ("mount,move_mount", {"a mount namespace"})])
    def test_root(self, jails, denied, calls, words):
        done = jails.run("open", "/etc/passwd", "escape", "open", "/dev/urandom", "setuid", "list",
                         wrapper=denied(calls))
        assert done.returncode == 0, done
        assert words <= missing(done.stderr) <= words | {"/dev/kvm"}
        lines = done.stdout.splitlines()
        assert lines[:4] == ["open:/etc/passwd ENOENT", "escape ENOENT", "open:/dev/urandom ok", "setuid EPERM"]
        assert "entry /prisoner" in lines and "entry /etc" not in lines
        assert jails.leftovers() == {"processes": [], "mounts": []}

    @pytest.mark.parametrize("calls", ["pivot_root", "mount,move_mount"])
    def test_root_that_is_strict(self, jails, denied, calls):
        done = jails.run(wrapper=denied(calls), options=["--strict"], jail_id="strict")
        assert done.returncode == 1 and "--strict" in done.stderr
        assert not jails.room("strict").exists()

    def test_nodes_that_cannot_be_made_are_shown(self, jails, denied):
        process = jails.start("write", "/dev/urandom", wrapper=denied("mknodat"))
        mounts = pathlib.Path(f"/proc/{process.inmate}/mountinfo").read_text()
        assert " /dev/urandom " in mounts

    def test_files_need_mounts(self, jails, denied):
        done = jails.run(wrapper=denied("open_tree"), options=["--file", "/etc/hostname:x:ro"], jail_id="none")
        assert done.returncode == 1 and "/x" not in os.listdir(jails.base)
        assert "files: " in done.stderr and not jails.room("none").exists()

    def test_chroot_is_the_least(self, jails, denied):
        done = jails.run(wrapper=denied("pivot_root,chroot"), jail_id="none")
        assert done.returncode == 1 and "cannot make the jail the root (chroot)" in done.stderr
        assert not jails.room("none").exists()

    def test_root_without_cap_sys_admin(self, jails):
        """As in an ordinary container."""
        wrapper = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
        process = jails.start("open", "/etc/passwd", "escape", wrapper=wrapper)
        assert process.lines[:2] == ["open:/etc/passwd ENOENT\n", "escape ENOENT\n"]
        seen = status(process.inmate)
        assert seen["Uid"].split() == [str(USER)] * 4
        assert {seen[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        done = jails.run("exit", 0, wrapper=wrapper)
        assert "a mount namespace" in missing(done.stderr)

    def test_in_somebodys_chroot(self, jails):
        """Where the root is no mount, nothing can be mounted without the host seeing it: nothing is."""
        tree = jails.folder / "tree"
        root = tree / "root"
        tree.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree], check=True)
        subprocess.run(["mount", "--make-shared", tree], check=True)
        for name in ("proc", "dev", "base"):
            (root / name).mkdir(parents=True)
        for name in ("proc", "dev"):
            subprocess.run(["mount", "--rbind", f"/{name}", root / name], check=True)
            subprocess.run(["mount", "--make-rslave", root / name], check=True)
        for program in (jails.jailer, jails.prisoner):
            subprocess.run(["cp", program, root], check=True)
        before = jails.leftovers()["mounts"]
        done = subprocess.run(["chroot", root, "/mayfly-jailer", "--id", "inner", "--exec-file", "/prisoner", "--uid", "5",
                               "--gid", "5", "--chroot-base-dir", "/base", "--", "escape", "open", "/proc/self/status"],
                              capture_output=True, text=True, check=False)
        assert done.returncode == 0, done
        assert done.stdout == "escape ENOENT\nopen:/proc/self/status ENOENT\n"
        assert "a mount namespace" in missing(done.stderr)
        assert jails.leftovers()["mounts"] == before

    def test_a_user_where_pivot_root_is_denied(self, user_jails, denied):
        done = user_jails.run("open", "/etc/passwd", "escape", "mount", "chroot", uid=None,
                              wrapper=as_user(*denied("pivot_root")))
        assert done.returncode == 0, done
        assert USER_WALLS | {"pivot_root"} <= missing(done.stderr)
        assert done.stdout.split()[1::2] == ["ENOENT", "ENOENT", "EPERM", "EPERM"]

    def test_a_user_without_user_namespaces(self, user_jails, denied):
        done = user_jails.run(uid=None, wrapper=as_user(*denied("unshare")), jail_id="none")
        assert done.returncode == 1 and "user namespace: cannot make a user namespace" in done.stderr
        assert not user_jails.room("none").exists()
