"""Many clones of one snapshot at once, each with its own TAP and its own disk, all of one identity until they are given others.

Their address is the same, too: a link-local one, which the host tells apart by the TAP. 100 of them with MAYFLY_EXHAUSTIVE=1
(tests/README.md); the table of their memory is printed (pytest -s).
"""
import pathlib
import re
import socket
import uuid

import pytest

from harness import images, network
from harness.clock import EXHAUSTIVE, FACTOR, scaled
from harness.guest import Guest
from harness.snapshots import Snapshot, load, save
from test_net import set_address

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

COUNT = 100 if EXHAUSTIVE else 6 if FACTOR == 1 else 3
MIB = 1 << 20
DISK_BYTES = 4 * MIB
FOLDER = "/tmp/www"
MEMORY = ("Rss", "Pss", "Shared_Clean", "Private_Clean", "Private_Dirty")


@pytest.fixture
def wire(needs):
    made = network.make(needs)
    yield made
    made.clean_up()


def add_taps(wire, count):
    """tap1 and on, each with a link-local address of its own, usable at once."""
    network.ip("netns", "exec", wire.name, "sh", "-c", "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad")
    for number in range(1, count + 1):
        network.ip("-n", wire.name, "tuntap", "add", "dev", f"tap{number}", "mode", "tap")
        network.ip("-n", wire.name, "link", "set", f"tap{number}", "up")


def get(wire, address, tap, path):
    """The body of a file that the guest behind this TAP serves."""
    with wire.inside():
        scope = socket.if_nametoindex(tap)
        client = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    with client:
        client.settimeout(scaled(30))
        client.connect((address, 80, 0, scope))
        client.sendall(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        while piece := client.recv(4096):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], answer
    return body.decode().strip()


def memory_of(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+): +([0-9]+) kB$", text, re.M) if name in MEMORY}


def memory_table(rows, snapshot):
    lines = [f"{len(rows)} clones of a snapshot with {snapshot.memory.stat().st_blocks * 512 / MIB:.1f} MiB of memory; MiB:",
             f"{'':14} {'least':>8} {'median':>8} {'most':>8} {'all':>9}"]
    for name in MEMORY:
        values = sorted(row[name] for row in rows)
        lines.append(f"{name:14} {values[0] / MIB:8.2f} {values[len(values) // 2] / MIB:8.2f} {values[-1] / MIB:8.2f} "
                     f"{sum(values) / MIB:9.1f}")
    return "\n".join(lines)


@pytest.mark.parametrize("memory_mib", [96])
def test_all_answer_and_each_is_another(workshop, wire, kernel, memory_mib):
    base = workshop.file("base", b"base".ljust(DISK_BYTES, b"\0"))
    guest = workshop.boot(kernel, mem=memory_mib, initrd=images.initrd(kernel), drives=[{"path": base, "drive_id": "data"}],
                          interfaces=[{"host_dev_name": network.TAP}], options={"wrapper": wire.wrapper})
    set_address(guest)
    address = re.search(r"inet6 (fe80:[0-9a-f:]+)/", guest.run("ip -6 address show dev eth0"))[1]
    guest.run(f"mkdir {FOLDER}; echo the snapshot >{FOLDER}/machine-id; httpd -h {FOLDER}")
    snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
    guest.monitor.kill()
    workshop.forget(guest)

    add_taps(wire, COUNT)
    clones = {}
    for number in range(1, COUNT + 1):
        disk = images.copy(base, workshop.path(f"disk-{number}"))
        clones[f"tap{number}"] = Guest(load(
            workshop, snapshot, options={"wrapper": wire.wrapper},
            network_overrides=[{"iface_id": "eth0", "host_dev_name": f"tap{number}"}],
            drive_overrides=[{"drive_id": "data", "path_on_host": str(disk)}]), kernel)
    # All are there at once, and all are the same.
    assert {get(wire, address, tap, "machine-id") for tap in clones} == {"the snapshot"}
    assert [wire.ping(f"{address}%{tap}", 1, seconds=30) for tap in clones] == [1] * COUNT

    own = kernel.generation_id and kernel.with_acpi
    for tap, clone in clones.items():
        # Where the kernel has heard that it is a clone, its random numbers are its own. Elsewhere somebody has to bring some.
        make = "cat /proc/sys/kernel/random/uuid" if own else f"echo {uuid.uuid4()}"
        clone.run(f"{make} >{FOLDER}/machine-id; echo {tap} | dd of=/dev/vda conv=fsync 2>/dev/null; "
                  f"dd if=/dev/vda bs=1M 2>/dev/null | md5sum >{FOLDER}/disk")
    assert len({get(wire, address, tap, "machine-id") for tap in clones}) == COUNT
    assert len({get(wire, address, tap, "disk") for tap in clones}) == COUNT
    for number, tap in enumerate(clones, 1):
        assert workshop.path(f"disk-{number}").read_bytes() == f"{tap}\n".encode().ljust(DISK_BYTES, b"\0")
    assert base.read_bytes() == b"base".ljust(DISK_BYTES, b"\0")

    rows = [memory_of(clone.monitor.pid) for clone in clones.values()]
    print("\n" + memory_table(rows, snapshot))
    kept = snapshot.memory.stat().st_blocks * 512
    for row in rows:
        assert row["Private_Dirty"] + row["Private_Clean"] < kept / 2
    # What they have in common is there once.
    assert sum(row["Pss"] for row in rows) < kept + sum(row["Private_Dirty"] + row["Private_Clean"] for row in rows)
