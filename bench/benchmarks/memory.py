"""What a guest costs beside its own memory.

Of the monitor: private, shared and page-table memory, from /proc/PID/smaps without the guest's memory (see
framework/processes.py), with 1, 10 and 100 guests at once, with an interface, and with more vCPUs. Of the host's kernel: what /proc/meminfo has less, and its slab, page tables and
kernel stacks more, for each guest when 100 run. The guests print a line and halt.
"""
import os
import subprocess
import time

from framework import guests, machine, processes
from framework.plots import Plot
from framework.report import format_value

SUMMARY = "private, shared and page-table memory of the monitor; the host kernel's memory for each guest"
HOSTS = ("native", "emulated")
COUNTS = (1, 10, 100)
VCPUS = (1, 2, 4, 8, 16, 32)
PRIVATE_GOAL = 1 << 20
VCPU_GOAL = 100 << 10
MEMORY_BYTES = guests.MEMORY_MIB << 20
KERNEL = ("MemAvailable", "Slab", "PageTables", "SecPageTables", "KernelStack", "Percpu", "VmallocUsed")
READY_SECONDS = 120
INTERFACE = "1 guest with an interface"


class CannotTap(Exception):
    """Why there is no TAP."""


class Fleet:
    """Guests that stand still."""

    def __init__(self, bench, name, **machine_options):
        self.bench, self.children = bench, []
        kernel, disk = guests.kit(bench, "memtouch"), guests.disk(bench)
        config = guests.mayfly_config(bench, name, kernel, arguments="mode=none then=halt", disks=[disk],
                                      read_only=True, **machine_options)
        self.command = guests.mayfly_command(bench, config)

    def grow(self, count):
        while len(self.children) < count:
            child = self.bench.start(self.command)
            self.children.append(child)
            child.wait_for(rb"guest: ready", READY_SECONDS)
            self.bench.progress.show(f"memory: {len(self.children)} of {count} guests")

    def memories(self):
        return [processes.memory(child.pid, MEMORY_BYTES) for child in self.children]

    def end(self):
        for child in self.children:
            child.kill(wait=False)
        for child in self.children:
            self.bench.forget(child)
        self.children = []


def record(report, contender, memories, command):
    for memory in memories:
        for name in ("private", "shared", "guest", "page_tables"):
            report.add(name, contender, getattr(memory, name), command=command)


def settled_meminfo():
    """The kernel frees in the background: when two looks agree within a page for each CPU, or after three seconds."""
    before = machine.meminfo()
    for _ in range(6):
        time.sleep(0.5)
        now = machine.meminfo()
        if abs(now["MemAvailable"] - before["MemAvailable"]) < (1 << 20):
            break
        before = now
    return now


def many_guests(bench):
    report = bench.report
    counts = [count for count in COUNTS if count <= (10 if bench.options.quick or bench.host == "emulated" else 100)]
    fleet = Fleet(bench, "memory")
    command = " ".join(map(str, fleet.command))
    try:
        fleet.grow(1)  # what the first guest makes the kernel load and allocate for good is no guest's
        fleet.end()
        before = settled_meminfo()
        for count in counts:
            fleet.grow(count)
            record(report, f"{count} guest{'s' if count > 1 else ''}", fleet.memories(), command)
        after = settled_meminfo()
    finally:
        fleet.end()
    rows = []
    for name in KERNEL:
        if name in before:
            change = before[name] - after[name] if name == "MemAvailable" else after[name] - before[name]
            rows.append(["MemAvailable, less" if name == "MemAvailable" else name, format_value(change / count, "bytes")])
    report.table(f"/proc/meminfo for each guest, of {count}: all that a guest of {guests.MEMORY_MIB} MiB which stands "
                 "still takes from the host, and what of it is the kernel's", ["", "for each guest"], rows,
                 f"{count} times: {command}")
    report.note("MemAvailable also has what other programs of this machine took or gave back meanwhile")
    if count < 100:
        report.note(f"of {count} guests the change of /proc/meminfo is hardly more than its noise")


def tap():
    """Makes a TAP; returns its name. CannotTap says why not."""
    name = f"mfbm{os.getpid() % 10**9}"
    try:
        done = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotTap(f"ip: {error.strerror}") from error
    if done.returncode != 0:
        raise CannotTap(done.stderr.strip() or "ip tuntap failed")
    return name


def with_an_interface(bench):
    """The same guest with a virtio-net on a TAP beside its disk."""
    report = bench.report
    try:
        name = tap()
    except CannotTap as reason:
        report.note(f"without a network interface: no TAP can be made here: {reason}")
        return
    fleet = Fleet(bench, "memory-interface", **{"network-interfaces": [
        {"iface_id": "eth0", "host_dev_name": name, "guest_mac": "02:00:5e:10:00:01"}]})
    try:
        for _ in range(3):
            fleet.grow(1)
            record(report, INTERFACE, fleet.memories(), " ".join(map(str, fleet.command)))
            fleet.end()
    finally:
        fleet.end()
        subprocess.run(["ip", "link", "del", name], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def more_vcpus(bench):
    report = bench.report
    for vcpus in VCPUS:
        fleet = Fleet(bench, f"memory-{vcpus}-vcpus", vcpus=vcpus)
        command = " ".join(map(str, fleet.command))
        try:
            for _ in range(3):
                fleet.grow(1)
                report.add("vcpus", f"{vcpus} vCPU{'s' if vcpus > 1 else ''}", fleet.memories()[0].private,
                           command=command)
                fleet.end()
        finally:
            fleet.end()


def goals(report):
    for contender, what in ((INTERFACE, "one vCPU, one disk and one interface"), ("1 guest", "one vCPU and one disk")):
        private = report.median("private", contender)
        if private is not None:
            report.goal(f"private memory of the monitor at most 1 MiB with {what}", format_value(private, "bytes"),
                        private <= PRIVATE_GOAL)
            break
    medians = {count: report.median("vcpus", f"{count} vCPU{'s' if count > 1 else ''}") for count in VCPUS}
    known = [count for count in VCPUS if medians[count] is not None]
    if len(known) < 2:
        return
    each = max((medians[more] - medians[fewer]) / (more - fewer) for fewer, more in zip(known, known[1:]))
    report.goal("at most 100 KiB more for each further vCPU", format_value(each, "bytes"), each <= VCPU_GOAL)
    report.plot(Plot("vcpus", "Private memory of the monitor, without the guest's", "vCPUs", "KiB",
                     [("Mayfly", [(count, medians[count] / 1024) for count in known])], kind="lines"))


def measure(bench):
    report = bench.report
    report.measure("private", "private memory of the monitor, without the guest's", "bytes")
    report.measure("shared", "shared memory of the monitor: unchanged pages of the program's file, which all monitors share", "bytes")
    report.measure("page_tables", "page tables of the monitor, the guest's memory included (VmPTE)", "bytes")
    report.measure("guest", f"what is there of the guest's {guests.MEMORY_MIB} MiB", "bytes")
    report.measure("vcpus", "private memory of the monitor by number of vCPUs", "bytes")
    try:
        many_guests(bench)
        with_an_interface(bench)
        if bench.host == "native":
            more_vcpus(bench)
    finally:
        goals(report)
