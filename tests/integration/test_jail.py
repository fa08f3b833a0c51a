"""The jail of a jailer that is root: what is inside, seen from outside and by one who tries to get out."""
import ctypes
import os
import pathlib
import re
import socket
import stat
import subprocess
import time

import pytest

from harness import jail as jails_module
from harness.clock import wait_until
from harness.jail import USER, status

pytestmark = [pytest.mark.guest,
              pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")]

DEVICES = ["/dev/kvm", "/dev/net/tun", "/dev/urandom", "/dev/userfaultfd"]
ALL_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def host_devices():
    return [path for path in DEVICES if os.path.exists(path)]


def limits(pid):
    text = pathlib.Path(f"/proc/{pid}/limits").read_text()
    return {line[:26].strip(): line[26:].split()[0] for line in text.splitlines()[1:]}


def namespace(pid, name):
    return os.readlink(f"/proc/{pid}/ns/{name}")


def is_gone(pid):
    """Or waits for a parent that does not ask."""
    try:
        return status(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


class TestFromOutside:
    def test_ids_groups_and_capabilities(self, jails):
        pid = jails.start(uid=4321, gid=8765).inmate
        seen = status(pid)
        assert seen["Uid"].split() == ["4321"] * 4
        assert seen["Gid"].split() == ["8765"] * 4
        assert seen["Groups"] == ""
        assert {seen[name] for name in ALL_CAPABILITIES} == {"0" * 16}
        assert seen["NoNewPrivs"] == "1"

    def test_the_jailer_becomes_the_monitor(self, jails):
        process = jails.start()
        assert process.inmate == process.pid
        assert status(process.pid)["Name"] == "prisoner"
        assert int((jails.root(process.jail_id) / "prisoner.pid").read_text()) == process.pid

    def test_its_only_mount_is_its_root(self, jails):
        process = jails.start()
        lines = pathlib.Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()
        assert len(lines) == 1, lines
        fields = lines[0].split(" ")
        assert fields[4] == "/" and "nosuid" in fields[5].split(",")
        assert os.path.samestat(os.stat(f"/proc/{process.pid}/root"), os.stat(jails.root(process.jail_id)))
        assert namespace(process.pid, "mnt") != namespace("self", "mnt")
        assert namespace(process.pid, "ipc") != namespace("self", "ipc")

    def test_no_descriptor_of_the_caller_gets_in(self, jails):
        with open("/etc/passwd", encoding="ascii") as secret, socket.socket() as connection:
            for fd in (secret.fileno(), connection.fileno()):
                os.set_inheritable(fd, True)
            command = jails.command("fds", "descriptors", "environment", "wait")
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, close_fds=False, text=True)
            jails.started.append(process)
            assert process.stdout.readline() == "descriptors EBADF\n"
            assert process.stdout.readline() == "environment 0\n"
            assert process.stdout.readline() == "waiting\n"
        assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]

    def test_limits(self, jails):
        pid = jails.start(options=["--resource-limit", "fsize=1000000", "--resource-limit", "no-file=77"]).pid
        seen = limits(pid)
        assert seen["Max file size"] == "1000000"
        assert seen["Max open files"] == "77"
        assert seen["Max core file size"] == "0"
        assert limits(jails.start().pid)["Max open files"] == "2048"

    def test_nodes_of_the_devices_and_nothing_else(self, jails):
        process = jails.start("list")
        entries = {line.split()[1] for line in process.lines if line.startswith("entry")}
        assert entries == {"/dev", "/dev/net", "/run", "/prisoner", "/prisoner.pid", *host_devices()}
        for path in host_devices():
            node, own = os.stat(path), os.stat(f"/proc/{process.pid}/root{path}")
            assert (own.st_rdev, own.st_uid, own.st_gid) == (node.st_rdev, USER, USER)
            assert stat.S_IMODE(own.st_mode) == 0o600
        root = os.stat(jails.root(process.jail_id))
        assert (root.st_uid, root.st_gid, stat.S_IMODE(root.st_mode)) == (USER, USER, 0o700)

    def test_the_copy_is_a_file_of_its_own(self, jails):
        process = jails.start()
        copy = os.stat(jails.root(process.jail_id) / "prisoner", follow_symlinks=False)
        assert stat.S_ISREG(copy.st_mode) and copy.st_nlink == 1 and copy.st_uid == 0
        assert stat.S_IMODE(copy.st_mode) == 0o111
        assert not os.path.samestat(copy, os.stat(jails.prisoner))

    def test_a_pid_namespace(self, jails):
        jailer = jails.start("pid", options=["--new-pid-ns"])
        assert jailer.wait() == 0
        assert "pid 1\n" in jailer.lines
        assert int((jails.root(jailer.jail_id) / "prisoner.pid").read_text()) == jailer.inmate
        seen = status(jailer.inmate)
        assert seen["NSpid"].split() == [str(jailer.inmate), "1"]
        assert seen["Uid"].split() == [str(USER)] * 4
        assert {seen[name] for name in ALL_CAPABILITIES} == {"0" * 16}

    def test_daemonize(self, jails):
        done = jails.run("wait", options=["--daemonize"], jail_id="daemon")
        assert done.returncode == 0, done
        inmate = int((jails.room("daemon") / "pid").read_text())
        assert os.getsid(inmate) == inmate and os.getsid(0) != inmate
        assert [os.readlink(f"/proc/{inmate}/fd/{fd}") for fd in "012"] == ["/dev/null"] * 3
        assert sorted(os.listdir(f"/proc/{inmate}/fd")) == ["0", "1", "2"]

    def test_daemonize_says_that_the_monitor_was_executed_and_no_more(self, jails):
        """One that fails at once is seen by what clients look at: no socket comes, and its PID is nobody's."""
        done = jails.run("exit", 3, options=["--daemonize"], jail_id="fails")
        assert done.returncode == 0, done
        pid = int((jails.room("fails") / "pid").read_text())
        wait_until(lambda: is_gone(pid), 60, "the monitor is gone")
        assert jails.run("exit", 3, jail_id="fails").returncode == 3     # as docs/jail.md says how to find out why

    def test_a_network_namespace_is_joined(self, jails, needs):
        needs("ip")
        name = f"mayfly-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            process = jails.start("loopback", options=["--netns", f"/run/netns/{name}"])
            assert namespace(process.pid, "net") != namespace("self", "net")
            assert os.stat(f"/run/netns/{name}").st_ino == int(re.search(r"\d+", namespace(process.pid, "net"))[0])
            assert "loopback ENETUNREACH\n" in process.lines
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)

    def test_arguments_of_the_monitor(self, jails):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        done = jails.run("--config-file=x y", "arguments", jail_id="words")
        match = re.fullmatch(r"arguments prisoner --id=words --start-time-us=(\d+) --start-time-cpu-us=\d+ "
                             r"--parent-cpu-time-us=\d+ --config-file=x y arguments\n", done.stdout)
        assert match, done
        assert before <= int(match[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class TestFromInside:
    """Each wall, by one who runs against it, without the filters that would be in the way of most attempts."""

    def test_nothing_of_the_host_is_there(self, jails):
        seen = jails.attempts("open", "/etc/passwd", "open", "/proc/self/status", "open", "/sys/kernel", "escape",
                              "open", "/dev/null", "open", "/dev/mem", "open", "../../../../../../etc/passwd")
        assert set(seen.values()) == {"ENOENT"}

    def test_the_file_system_cannot_be_changed(self, jails):
        seen = jails.attempts("mount", "remount", "umount", "/", "chroot", "pivot_root", "unshare", "mknod",
                              "chown", "/dev", "chmod", "/dev")
        assert set(seen.values()) == {"EPERM"}
        seen = jails.attempts("create", "/dev/mine", "unlink", "/dev/kvm", "create", "/dev/net/mine", "write", "/prisoner")
        assert set(seen.values()) <= {"EACCES", "ETXTBSY"}
        assert jails.attempts("create", "/run/mine", "create", "/mine") == {"create:/run/mine": "ok",
                                                                             "create:/mine": "ok"}

    def test_nobody_else_can_be_become(self, jails):
        assert set(jails.attempts("setuid", "setgid", "setgroups").values()) == {"EPERM"}

    def test_other_processes_are_out_of_reach(self, jails):
        """Of root's, this one; of the same user's, one in another jail."""
        neighbour = jails.start()
        seen = jails.attempts("kill", os.getpid(), "ptrace", os.getpid(), "ptrace", neighbour.pid)
        assert set(seen.values()) == {"EPERM"}
        for pid in (os.getpid(), neighbour.pid):
            seen = jails.attempts_in_pid_namespace("kill", pid, "ptrace", pid)
            assert set(seen.values()) == {"ESRCH"}
        assert neighbour.poll() is None

    def test_the_kernel_gives_nothing_that_is_roots(self, jails):
        """None of these would change anything if it were allowed."""
        seen = jails.attempts("bpf", "perf", "module", "kexec", "restart", "swapon", "clock", "hostname", "ports", "log",
                              "handle", "fanotify", "limits")
        # Where the kernel was built without one of them, it is not there for anybody.
        assert set(seen.values()) <= {"EPERM", "EACCES", "ENOSYS"}
        assert seen["clock"] == seen["hostname"] == seen["limits"] == "EPERM"

    def test_no_program_but_its_own_is_there_to_execute(self, jails):
        seen = jails.attempts("execute", "/bin/sh", "execute", "/usr/bin/env", "execute", "/proc/self/exe",
                              "execute", "/prisoner.pid")
        assert seen.pop("execute:/prisoner.pid") == "EACCES"
        assert set(seen.values()) == {"ENOENT"}

    def test_io_uring_opens_no_more_than_open(self, jails):
        seen = jails.attempts("uring-open", "/run", "uring-open", "/etc/passwd", "uring-open", "/proc/self/status",
                              "uring-open", "../../../etc/passwd", "uring-open", "/prisoner")
        if seen.pop("uring-open:/run") != "ok":
            pytest.skip("this kernel has no io_uring for users")
        assert seen.pop("uring-open:/prisoner") == "EACCES"
        assert set(seen.values()) == {"ENOENT"}

    def test_behind_the_filters_nothing_is_even_tried(self, jails, program):
        """As a monitor that has been taken over: of what gets to the kernel at all, the jail has nothing."""
        filters = jails.folder / "filters"
        subprocess.run([program.parent / "jail" / "filters" / "mayfly-seccomp", "compile",
                        pathlib.Path(__file__).parents[2] / "jail" / "filters" / "mayfly.filter", filters], check=True)
        filters.chmod(0o644)
        tried = ["loopback", "abstract", "nobody", "connect", "/run/x", "uring-open", "/run", "bpf", "perf", "module", "kexec",
                 "ptrace", 1, "kill", 1, "mount", "pivot_root", "chroot", "unshare", "setuid", "setgid", "setgroups", "mknod",
                 "execute", "/prisoner", "chown", "/dev", "chmod", "/dev", "shm", "/x", "handle", "fanotify", "limits",
                 "clock", "hostname", "ports", "log", "swapon", "restart"]
        seen = jails.attempts("filtered", "/filters", *tried, "open", "/etc/passwd", "open", "/run",
                              options=["--file", f"{filters}:filters:ro"])
        assert (seen.pop("open:/etc/passwd"), seen.pop("open:/run")) == ("ENOENT", "ok")
        assert len(seen) > 25 and set(seen.values()) == {"SIGSYS"}, seen

    def test_in_a_network_namespace_nobody_can_be_called(self, jails, needs):
        needs("ip")
        name = f"mayfly-jail-{os.getpid()}-empty"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"\0{name}")
                listener.listen()
                with socket.socket(socket.AF_UNIX) as caller:       # it can be called from here
                    caller.connect(f"\0{name}")
                seen = jails.attempts("loopback", "abstract", name, options=["--netns", f"/run/netns/{name}"])
        finally:
            subprocess.run(["ip", "netns", "del", name], check=True)
        assert seen == {"loopback": "ENETUNREACH", f"abstract:{name}": "ECONNREFUSED"}

    def test_no_system_v_memory_of_the_host(self, jails):
        libc = ctypes.CDLL(None, use_errno=True)
        key = 0x6d617966
        segment = libc.shmget(key, 4096, 0o1666)
        assert segment >= 0
        try:
            assert jails.attempts("shm", key) == {f"shm:{key}": "ENOENT"}
        finally:
            libc.shmctl(segment, 0, None)

    def test_too_many_descriptors_and_too_large_a_file(self, jails):
        seen = jails.attempts("most-descriptors", "largest-file",
                              options=["--resource-limit", "no-file=40", "--resource-limit", "fsize=1000000"])
        assert seen == {"most-descriptors": "40", "largest-file": "1000000"}

    def test_the_devices_can_be_opened(self, jails):
        """But nothing else can be done to them."""
        devices = [path for path in host_devices() if path != "/dev/net/tun"]
        words = [word for path in devices for word in ("write", path)]
        assert set(jails.attempts(*words).values()) == {"ok"}


class TestCgroups:
    @pytest.fixture(autouse=True)
    def needs_cgroups(self, jails):
        if not jails_module.cgroup_version():
            pytest.skip("this host has no cgroups mounted at /sys/fs/cgroup")

    @pytest.fixture
    def settings(self):
        """The same limits in the words of either version."""
        if jails_module.cgroup_version() == 2:
            return {"memory.max": "64M", "pids.max": "12", "cpu.max": "50000", "cpu.weight": "50"}
        return {"memory.limit_in_bytes": "64M", "pids.max": "12", "cpu.cfs_quota_us": "50000", "cpu.shares": "50",
                "cpuset.cpus": "0"}

    def options(self, jails, settings):
        words = ["--parent-cgroup", f"{jails.parent}/inner"]
        for file, value in settings.items():
            words += ["--cgroup", f"{file}={value}"]
        return words

    def test_limits_are_set_and_the_process_is_in(self, jails, settings):
        process = jails.start(options=self.options(jails, settings))
        folders = jails.cgroup_folders(process.jail_id)
        found = {}
        for folder in folders:
            assert folder.parent.name == "inner" and folder.parent.parent.name == jails.parent
            assert (folder / "cgroup.procs").read_text().split() == [str(process.pid)]
            found.update({path.name: path.read_text().strip() for path in folder.iterdir() if path.name in settings})
        assert set(found) == set(settings)
        assert found["pids.max"] == "12"
        assert found.get("memory.max", found.get("memory.limit_in_bytes")) == str(64 << 20)
        if "cpuset.cpus" in settings:
            assert found["cpuset.cpus"] == "0"

    def test_processes_and_memory_are_bounded(self, jails, settings):
        seen = jails.attempts("most-processes", "memory", "200", options=self.options(jails, settings))
        assert seen == {"most-processes": "12", "memory:200": "ENOMEM"}

    def test_a_value_that_the_kernel_refuses(self, jails):
        done = jails.run(options=self.options(jails, {"pids.max": "twelve"}), jail_id="bad")
        assert done.returncode == 1
        assert "cgroup: --cgroup pids.max=twelve: cannot write to /sys/fs/cgroup" in done.stderr
        assert jails.cgroup_folders("bad") == [] and not jails.room("bad").exists()

    def test_a_file_that_there_is_not(self, jails):
        done = jails.run(options=self.options(jails, {"pids.maximum": "12"}), jail_id="bad")
        assert done.returncode == 1 and "there is no file pids.maximum in" in done.stderr
        assert jails.cgroup_folders("bad") == [] and not jails.room("bad").exists()

    def test_a_controller_that_there_is_not(self, jails):
        done = jails.run(options=self.options(jails, {"teapot.max": "1"}), jail_id="bad")
        assert done.returncode == 1 and "teapot" in done.stderr
        assert not jails.room("bad").exists()

    def test_limits_of_an_earlier_jail_are_gone(self, jails, settings):
        first = jails.start(jail_id="same", options=self.options(jails, settings))
        first.kill()
        first.wait()
        jails.start(jail_id="same", options=self.options(jails, {"pids.max": "7"}))
        memory = [folder for folder in jails.cgroup_folders("same") if (folder / "memory.max").exists()]
        for folder in memory:
            assert (folder / "memory.max").read_text() == "max\n"
        pids = [folder for folder in jails.cgroup_folders("same") if (folder / "pids.max").exists()
                and "pids" in str(folder) or jails_module.cgroup_version() == 2]
        assert [(folder / "pids.max").read_text() for folder in pids] == ["7\n"]

    def test_a_cgroup_with_somebody_in_it_is_not_taken(self, jails, settings):
        stranger = jails.start(jail_id="taken", options=self.options(jails, settings))
        (jails.room("taken") / "pid").unlink()  # as if somebody had put this process there
        done = jails.run(jail_id="taken", options=self.options(jails, settings), seconds=120)
        assert done.returncode == 1 and "has processes" in done.stderr, done
        assert stranger.poll() is None

    def test_the_other_version_is_refused_where_it_is_not_mounted(self, jails):
        if jails_module.cgroup_version() == 1:
            pytest.skip("this host mounts both")
        done = jails.run(options=["--cgroup-version", "1", "--cgroup", "pids.max=3"])
        assert done.returncode == 1 and "no cgroup v1 hierarchy with the controller pids" in done.stderr

    def test_without_limits_the_parent_is_joined_in_v2(self, jails):
        if jails_module.cgroup_version() != 2:
            pytest.skip("this host's cgroups are v1")
        (jails_module.CGROUPS / jails.parent).mkdir()
        process = jails.start(options=["--cgroup-version", "2", "--parent-cgroup", jails.parent])
        assert pathlib.Path(f"/proc/{process.pid}/cgroup").read_text() == f"0::/{jails.parent}\n"
