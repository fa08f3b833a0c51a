"""Forks of a running Linux guest: each goes on with its own TAP, disk and serial port, and from the same memory.

A fork's serial port has no input. So the guests do what they are asked over the network: their address, a link-local one,
is the same, and the host tells them apart by the TAP.
"""
import base64
import dataclasses
import re
import subprocess

import pytest

from harness import images, network
from harness.clock import wait_until
from harness.kernels import Kernel
from test_many_clones import add_taps, get

# With two processors that run: in the emulated host, by hand (a minute).
pytestmark = [pytest.mark.guest, pytest.mark.native, pytest.mark.usefixtures("kvm")]

MIB = 1 << 20
DROP_CACHES = "sync; echo 3 >/proc/sys/vm/drop_caches"
SERVER = r"""
mkdir -p /tmp/www/cgi-bin
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\neval "$(echo $QUERY_STRING | base64 -d)" 2>&1\necho "exit $?"\n' \
	>/tmp/www/cgi-bin/run
chmod +x /tmp/www/cgi-bin/run
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip link set eth0 up
httpd -h /tmp/www
"""


@dataclasses.dataclass
class Member:
    """A guest of the family, asked over its TAP."""

    monitor: object
    wire: network.Network
    address: str
    tap: str

    @property
    def api(self):
        return self.monitor.api

    def run(self, command):
        answer = get(self.wire, self.address, self.tap, f"cgi-bin/run?{base64.b64encode(command.encode()).decode()}")
        output, _, status = answer.rpartition("exit ")
        assert status == "0", f"{command}: {answer}"
        return output.strip()


@dataclasses.dataclass
class Family:
    """The first guest, and forks of it and of its forks."""

    workshop: object
    wire: network.Network
    kernel: Kernel
    forks: object
    guest: object = None

    def first(self, drives):
        add_taps(self.wire, 3)
        # The kernel of some hosts is for one processor: there the other one waits for its start, in all of them.
        self.guest = self.workshop.boot(
            self.kernel, "--enable-fork", vcpus=2, mem=96, drives=drives, interfaces=[{"host_dev_name": "tap1"}],
            options={"wrapper": self.wire.wrapper})
        self.guest.script(SERVER)
        address = re.search(r"inet6 (fe80:[0-9a-f:]+)/", self.guest.run("ip -6 address show dev eth0"))[1]
        return Member(self.guest.monitor, self.wire, address, "tap1")

    def fork(self, parent, tap, **fields):
        made = self.forks(parent, network_overrides=[{"iface_id": "eth0", "host_dev_name": tap}], resume_vm=True,
                          serial_out_path=str(self.workshop.path(f"console-{tap}")), **fields)
        return Member(made, self.wire, parent.address, tap)

    def fork_with_disk(self, parent, disk, tap):
        """At rest while its disk is copied."""
        copy = self.workshop.path(f"disk-{tap}")
        parent.api.pause()
        images.copy(disk, copy)
        child = self.fork(parent, tap, drive_overrides=[{"drive_id": "data", "path_on_host": str(copy)}])
        parent.api.resume()
        return child, copy


@pytest.fixture
def family(workshop, forks, needs, kernel):
    wire = network.make(needs)
    yield Family(workshop, wire, kernel, forks)
    wire.clean_up()


def test_a_running_guest_and_its_fork_share_a_read_only_disk_and_nothing_else(family, workshop):
    disk = workshop.file("disk", bytes(range(256)) * (MIB // 256))
    first = family.first([{"path": disk, "drive_id": "data", "read_only": True}])
    first.run("head -c 1000000 /dev/urandom >/tmp/before")
    before = first.run("md5sum </tmp/before; cut -d. -f1 /proc/uptime")
    second = family.fork(first, "tap2")
    both = (first, second)
    for member in both:
        member.run(f"echo {member.tap} >/tmp/name; echo this is {member.tap} >/dev/ttyS0")
    for member in both:
        assert member.run("cat /tmp/name") == member.tap
        assert member.run("md5sum </tmp/before") == before.split("\n", maxsplit=1)[0]
        assert member.run(f"{DROP_CACHES}; od -An -tu1 -j 4096 -N 4 /dev/vda").split() == ["0", "1", "2", "3"]
        assert member.run("nproc") == str(min(2, family.kernel.max_vcpus))
        assert int(member.run("cut -d. -f1 /proc/uptime")) >= int(before.rpartition("\n")[2])
        assert family.wire.ping(f"{member.address}%{member.tap}", 1, seconds=30) == 1
    console = workshop.path("console-tap2")
    wait_until(lambda: b"this is tap2" in console.read_bytes(), 30, "what the fork wrote to its serial port")
    family.guest.console.wait_for(rb"this is tap1", 30)
    assert b"tap1" not in console.read_bytes() and b"tap2" not in family.guest.console.since()
    # The first one's serial port is still its own, both ways.
    assert family.guest.run("cat /tmp/name").strip() == "tap1"
    second.monitor.end()
    assert first.run("cat /tmp/name") == "tap1"


def test_a_fork_and_a_fork_of_it_go_on_with_copies_of_the_disk(family, workshop, needs):
    needs("mkfs.ext4", "e2fsck")
    disk = workshop.disk("disk-tap1", 16 * MIB)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", disk], check=True)
    first = family.first([{"path": disk, "drive_id": "data"}])
    first.run("mkdir /tmp/disk; mount -t ext4 /dev/vda /tmp/disk")
    # Part of it is still in memory only, and goes with it.
    written = first.run("head -c 3000000 /dev/urandom >/tmp/disk/before; md5sum </tmp/disk/before")
    second, second_disk = family.fork_with_disk(first, disk, "tap2")
    for member in (first, second):
        member.run(f"echo {member.tap} >/tmp/disk/of-{member.tap}")
    third, third_disk = family.fork_with_disk(second, second_disk, "tap3")
    third.run("echo tap3 >/tmp/disk/of-tap3; rm /tmp/disk/of-tap2")
    for member, files in ((first, "before of-tap1"), (second, "before of-tap2"), (third, "before of-tap3")):
        assert member.run(f"{DROP_CACHES}; ls /tmp/disk").split() == [*files.split()[:1], "lost+found", *files.split()[1:]]
        assert member.run("md5sum </tmp/disk/before") == written
        assert member.run(f"cat /tmp/disk/of-{member.tap}") == member.tap
        assert family.wire.ping(f"{member.address}%{member.tap}", 1, seconds=30) == 1
    # Each image by itself is a whole file system.
    for member, image in ((first, disk), (second, second_disk), (third, third_disk)):
        member.run("umount /tmp/disk")
        checked = subprocess.run(["/usr/sbin/e2fsck", "-fn", image], check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout
