"""What each way out of the guest costs, as the guest itself times it (tests/guests/README.md, exits).

The guest takes each way many times and prints the median; a sample here is the median of one run of the guest, less what
two readings of its clock cost in the same run.
"""
from framework import guests, monitors, statistics
from framework.plots import Plot
from framework.session import ContenderFailed, Sample
from harness.kernels import Kernel

SUMMARY = "port and memory accesses, ioeventfd and irqfd, as the guest times them"
HOSTS = ("native", "emulated")
BARE = "nothing"
WAYS = {
    "cpuid": "CPUID (to KVM and back)",
    "exception": "exception in ring 3, to ring 0 and back",
    "pio_read": "port read, to the monitor and back",
    "pio_write": "port write, to the monitor and back",
    "mmio_read": "memory-mapped register read, to the monitor and back",
    "mmio_write": "memory-mapped register write, to the monitor and back",
    "ioeventfd": "notification of a queue (ioeventfd)",
    "irqfd": "notification to the interrupt's handler, asleep meanwhile (irqfd)",
    "irqfd_poll": "notification to the end of the request, by polling",
}


def times(output):
    """{way: median ns, less the clock's own} of one run."""
    medians = {name: float(values["median_ns"]) for name, values in guests.results(output) if "median_ns" in values}
    if not medians.get(BARE):
        raise ContenderFailed("the guest does not know how fast its clock is (tsc_khz)")
    return {name: max(0.0, ns - medians[BARE]) for name, ns in medians.items() if name in WAYS}


def commands(bench, count):
    """{contender: command line}; the peers run the same guest with their own devices."""
    kernel, disk = guests.kit(bench, "exits"), guests.disk(bench)
    config = guests.mayfly_config(bench, "exits", kernel, arguments=f"count={count}", disks=[disk])
    found = {"mayfly": guests.mayfly_command(bench, config)}
    guest = monitors.LinuxGuest(kernel=Kernel("exits", kernel, with_acpi=False), arguments=f"count={count}",
                                disks=(monitors.Disk(disk),), memory_mib=guests.MEMORY_MIB)
    for peer in bench.peers:
        try:
            found[peer] = monitors.peer_command(bench, peer, guest, f"exits-{peer}")
        except ContenderFailed as reason:
            bench.report.note(f"{peer} was left out: {reason}")
    return found


def measure(bench):
    report = bench.report
    for way, title in WAYS.items():
        report.measure(way, title, "ns", baseline="mayfly")
    count = 100 if bench.host == "emulated" else 500 if bench.options.quick else 2000

    def contender(command):
        def once():
            done = bench.run(command, seconds=300).must()
            return Sample(times(done.stdout), f"{done.command}   (guest: exits count={count})")
        return once

    bench.interleave({name: contender(command) for name, command in commands(bench, count).items()},
                     samples=max(2, bench.samples // 10), warmup=0)
    shown = {way: title for way, title in WAYS.items() if report.values(way, "mayfly")}
    if shown:
        report.plot(Plot("ways", "A way out of the guest and back", "", "µs (median of the runs' medians; least, most)",
                         [(name, [bar(report.values(way, name)) for way in shown])
                          for name in report.contenders(next(iter(shown)))], kind="bars", categories=tuple(shown)))


def bar(values):
    return tuple(ns / 1e3 for ns in (min(values), statistics.median(values), max(values))) if values else (0, 0, 0)
