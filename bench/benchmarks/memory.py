"""What a guest costs beside its own memory.

Of the monitor: private, shared and page-table memory, from /proc/PID/smaps without the guest's memory, with 1, 10 and 100
guests at once, and with more vCPUs. Of the host's kernel: what /proc/meminfo has less, and its slab, page tables and
kernel stacks more, for each guest when 100 run. The guests print a line and halt.
"""
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
    if count < 100:
        report.note(f"of {count} guests the change of /proc/meminfo is hardly more than its noise")


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
    private = report.median("private", "1 guest")
    if private is not None:
        report.goal("private memory of the monitor at most 1 MiB with one vCPU and one disk",
                    format_value(private, "bytes"), private <= PRIVATE_GOAL)
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
    report.measure("shared", "shared memory of the monitor: the program's own pages, which all monitors share", "bytes")
    report.measure("page_tables", "page tables of the monitor, the guest's memory included (VmPTE)", "bytes")
    report.measure("guest", f"what is there of the guest's {guests.MEMORY_MIB} MiB", "bytes")
    report.measure("vcpus", "private memory of the monitor by number of vCPUs", "bytes")
    try:
        many_guests(bench)
        if bench.host == "native":
            more_vcpus(bench)
    finally:
        goals(report)
