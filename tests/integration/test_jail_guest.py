"""Real guests in jails: of root, and of an ordinary user. Boot, disk, network, pause, log, metrics, end."""
import json
import os
import pathlib
import subprocess

import pytest

from harness import images, tiny
from harness.api import Api
from harness.clock import FACTOR, wait_until
from harness.guest import Guest
from harness.jail import USER, as_user, cgroup_version, status

pytestmark = [pytest.mark.guest,
              pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")]

MIB = 1 << 20
DISK_MIB = 8 if FACTOR > 1 else 64
HOST, GUEST = "192.0.2.1", "192.0.2.2"


class Inside:
    """A configuration whose files are the jail's, and the options that put the host's there."""

    def __init__(self, jails, workshop, kernel, *, disk, interfaces=()):
        self.disk = disk
        written = workshop.configuration(kernel, drives=[{"path": disk, "drive_id": "disk"}], interfaces=interfaces,
                                         logger={"log_path": "/run/log", "level": "Debug"},
                                         metrics={"metrics_path": "/run/metrics"})
        source = written["boot-source"]
        files = [f"{source['kernel_image_path']}:kernel:ro", f"{source['initrd_path']}:images/initrd:ro", f"{disk}:disk"]
        source.update(kernel_image_path="/kernel", initrd_path="/images/initrd")
        written["drives"][0]["path_on_host"] = "/disk"
        config = jails.folder / "config.json"
        config.write_text(json.dumps(written))
        config.chmod(0o644)
        self.options = [word for file in [*files, f"{config}:config.json:ro"] for word in ("--file", file)]


def disk_of(jails, owner=0):
    """An empty disk that is this user's alone."""
    disk = jails.folder / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(DISK_MIB * MIB)
    disk.chmod(0o600)
    os.chown(disk, owner, owner)
    return disk


def limits(jails):
    """Real limits, that a guest of 256 MiB can live with."""
    if not cgroup_version():
        return []
    memory = "memory.max" if cgroup_version() == 2 else "memory.limit_in_bytes"
    return ["--parent-cgroup", jails.parent, "--cgroup", f"{memory}=500M", "--cgroup", "pids.max=16"]


def use_disk(guest, disk):
    """Bytes go to the host's file and come back."""
    guest.run(f"dd if=/dev/urandom of=/dev/vda bs=1M count={DISK_MIB} conv=fsync", 120)
    inside = guest.run("sha256sum /dev/vda", 120).split()[0]
    outside = subprocess.run(["sha256sum", disk], capture_output=True, text=True, check=True).stdout.split()[0]
    assert inside == outside


def pause_and_resume(guest):
    guest.api.pause()
    assert guest.api.state() == "Paused"
    guest.api.resume()
    assert guest.run("echo alive").strip() == "alive"


def wait_ready(monitor, kernel):
    return Guest(monitor, kernel).wait_ready()


class TestGuest:
    def test_root_with_every_wall_and_a_network(self, jails, workshop, kernel, new_network):
        network = new_network()
        # The TAP is the monitor's user's: nobody needs CAP_NET_ADMIN to open it.
        network.sh(f"ip tuntap add dev tap0 mode tap user {USER}; ip link set dev tap0 up; "
                   f"ip address add {HOST}/24 dev tap0")
        disk = disk_of(jails)
        inside = Inside(jails, workshop, kernel, disk=disk, interfaces=[{"host_dev_name": "tap0"}])
        monitor = jails.boot("--netns", f"/proc/{network.holder.pid}/ns/net", "--resource-limit",
                             f"fsize={2 * DISK_MIB * MIB}", *limits(jails), *inside.options, "--strict",
                             arguments=["--config-file", "/config.json"])
        guest = wait_ready(monitor, kernel)
        use_disk(guest, disk)
        guest.run(f"ip link set eth0 up; ip address add {GUEST}/24 dev eth0")
        guest.run(f"ping -c 3 {HOST}", 60)
        network.sh(f"ping -c 3 {GUEST}")
        pause_and_resume(guest)
        assert status(monitor.pid)["CapEff"] == "0" * 16
        assert disk.stat().st_uid == 0
        run = jails.root(monitor.jail_id, "mayfly") / "run"
        guest.api.put("/actions", {"action_type": "FlushMetrics"})
        assert "block_disk" in (run / "metrics").read_text()
        assert (run / "log").stat().st_uid == USER
        assert guest.reboot() == 0
        assert not (run / "mayfly.socket").exists()

    @pytest.mark.once
    def test_in_the_background_with_pids_of_its_own(self, jails, workshop, kernel):
        inside = Inside(jails, workshop, kernel, disk=disk_of(jails))
        done = jails.run("--config-file", "/config.json", jail_id="back", program=jails.monitor,
                         options=["--new-pid-ns", "--daemonize", *limits(jails), *inside.options])
        assert done.returncode == 0, done
        room = jails.room("back", "mayfly")
        pid = int((room / "pid").read_text())
        assert status(pid)["NSpid"].split()[1] == "1"
        api = Api(room / "root/run/mayfly.socket")
        wait_until(lambda: (room / "root/run/mayfly.socket").exists() and api.try_connect()
                   and api.state() == "Running", 60, "a running guest")
        os.kill(pid, 15)
        wait_until(lambda: not jails.inmates(), 30, "the end of the monitor")
        assert not (room / "root/run/mayfly.socket").exists()

    def test_ordinary_user(self, jails, workshop, kernel):
        if subprocess.run([*as_user("unshare", "--user", "true")], check=False).returncode != 0:
            pytest.skip("this host does not let ordinary users make user namespaces")
        os.chown(jails.base, USER, USER)
        disk = disk_of(jails, USER)
        inside = Inside(jails, workshop, kernel, disk=disk)
        options = readable_copies(jails, inside.options)
        monitor = jails.boot(*options, uid=None, wrapper=as_user(), arguments=["--config-file", "/config.json"])
        guest = wait_ready(monitor, kernel)
        assert status(monitor.inmate)["Uid"].split() == [str(USER)] * 4
        use_disk(guest, disk)
        pause_and_resume(guest)
        assert guest.reboot() == 0

    def test_ordinary_user_with_a_network_of_their_own(self, jails, workshop, kernel):
        if subprocess.run([*as_user("unshare", "--user", "true")], check=False).returncode != 0:
            pytest.skip("this host does not let ordinary users make user namespaces")
        os.chown(jails.base, USER, USER)
        disk = disk_of(jails, USER)
        inside = Inside(jails, workshop, kernel, disk=disk, interfaces=[{"host_dev_name": "tap0"}])
        options = readable_copies(jails, inside.options)
        make = (f"ip tuntap add dev tap0 mode tap; ip address add {HOST}/24 dev tap0; ip link set dev tap0 up; "
                "echo ready $$; exec cat")
        with subprocess.Popen(as_user("unshare", "--map-root-user", "--net", "sh", "-ec", make), stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True) as holder:
            pid = holder.stdout.readline().removeprefix("ready ").strip()
            monitor = jails.boot("--netns", f"/proc/{pid}/ns/net", *options, uid=None, wrapper=as_user(),
                                 arguments=["--config-file", "/config.json"])
            guest = wait_ready(monitor, kernel)
            seen = status(monitor.inmate)
            assert seen["Uid"].split() == [str(USER)] * 4 and seen["CapEff"] == "0" * 16
            assert os.readlink(f"/proc/{monitor.inmate}/ns/net") == os.readlink(f"/proc/{pid}/ns/net")
            assert os.readlink(f"/proc/{monitor.inmate}/ns/user") != os.readlink(f"/proc/{pid}/ns/user")
            use_disk(guest, disk)
            guest.run(f"ip link set eth0 up; ip address add {GUEST}/24 dev eth0")
            guest.run(f"ping -c 3 {HOST}", 60)
            subprocess.run(["nsenter", "--net", "--target", pid, "ping", "-c", "3", GUEST], check=True)
            pause_and_resume(guest)
            assert guest.reboot() == 0
            holder.stdin.close()

    @pytest.mark.once
    @pytest.mark.native
    def test_memory_that_another_process_brings(self, jails, workshop, program):
        """By the jail's own /dev/userfaultfd, whatever vm.unprivileged_userfaultfd says."""
        if not os.path.exists("/dev/userfaultfd"):
            pytest.skip("this host has no /dev/userfaultfd")
        first = workshop.boot_tiny(tiny.SPIN)
        first.console.wait_for(b"A", 60)
        first.api.pause()
        state, memory, path = (jails.folder / name for name in ("state", "memory", "uffd.socket"))
        first.api.put("/snapshot/create", {"snapshot_path": str(state), "mem_file_path": str(memory)})
        state.chmod(0o644)
        with subprocess.Popen([program.parent / "uffd" / "mayfly-uffd", "--socket", path, "--memory-file", memory]) as handler:
            try:
                wait_until(lambda: f" {path}" in pathlib.Path("/proc/net/unix").read_text(), 30, "the handler's socket")
                path.chmod(0o666)
                monitor = jails.boot("--file", f"{state}:state:ro", "--file", f"{path}:uffd.socket", "--strict")
                assert status(monitor.inmate)["CapEff"] == "0" * 16
                monitor.api.put("/snapshot/load", {"snapshot_path": "/state", "resume_vm": True, "mem_backend": {
                    "backend_type": "Uffd", "backend_path": "/uffd.socket"}})
                assert monitor.api.state() == "Running"
                # The guest touches pages, or nothing could have been paused and saved whole.
                monitor.api.pause()
                monitor.api.put("/snapshot/create", {"snapshot_path": "/run/state", "mem_file_path": "/run/memory"})
                again = jails.root(monitor.jail_id, "mayfly") / "run/memory"
                size = memory.stat().st_size - 8192
                with open(memory, "rb") as one, open(again, "rb") as other:
                    assert size > 0 and different_pages(one, other, size) <= 4    # the VM generation id's, what the guest writes
            finally:
                handler.kill()

    @pytest.mark.once
    def test_run_with_the_console_on_the_terminal(self, jails, kernel):
        """`mayfly run` behind the two hyphens."""
        arguments = ["run", "--kernel", "/kernel", "--initrd", "/initrd", "--mem", "256M", "--api-sock",
                     "/run/mayfly.socket", "--", *kernel.arguments.split(), *([] if kernel.with_acpi else ["acpi=off"]),
                     "quiet"]
        monitor = jails.boot("--file", f"{kernel.path}:kernel:ro", "--file", f"{images.initrd(kernel)}:initrd:ro",
                             arguments=arguments)
        assert wait_ready(monitor, kernel).reboot() == 0


def different_pages(one, other, size):
    return sum(one.read(4096) != other.read(4096) for _ in range(0, size, 4096))


def readable_copies(jails, options):
    """What lies in root's cache may be out of an ordinary user's reach."""
    copies = []
    for word in options:
        if ":" in word:
            path, rest = word.split(":", 1)
            if not path.startswith(str(jails.folder)):
                copy = jails.folder / f"copy-{rest.split(':')[0].replace('/', '-')}"
                subprocess.run(["cp", "--sparse=always", "--reflink=auto", path, copy], check=True)
                copy.chmod(0o644)
                path = copy
            word = f"{path}:{rest}"
        copies.append(word)
    return copies
