"""Monitors that wait with a prepared machine (--prepare), beside those that make it when they are asked.

A guest of the kit (memtouch) of 128 MiB or 1 GiB that has written 8 MiB is loaded from a folder in memory; and booted,
without a kernel's own work in the way. Timed is from the request to the first KVM_RUN (--startup-trace), and to the
guest's first answer on its serial port. bare-restore makes the KVM calls of such a load and nothing else, in a process
that has just begun and in one whose VM is there already: what a monitor takes beyond it is the monitor's. A prepared
monitor has been left alone for a while before it is asked, as in a pool. Then what each of a pool takes while it waits:
of its own, and of the host's kernel.
"""
import os
import time

from benchmarks import memory
from benchmarks.snapshot import Monitor, Snapshot
from benchmarks.startup import kvm_calls, read_trace
from framework import guests, processes
from framework.report import format_value
from framework.session import Sample

SUMMARY = "load and boot in a monitor that was prepared: request to the first KVM_RUN; the bare KVM calls; memory of a pool"
HOSTS = ("native", "emulated")
SIZES = {"128 MiB": 128, "1 GiB": 1024}
IDLE_SECONDS = 0.02
POOL = 50
GOAL_NS = 500_000
READY_SECONDS = {"native": 60, "emulated": 3600}


def declare(report):
    report.measure("load-run", "PUT /snapshot/load to the first KVM_RUN", "ns")
    report.measure("load-answer", "PUT /snapshot/load to the guest's first answer on its serial port", "ns")
    report.measure("boot-run", "InstanceStart to the first KVM_RUN of a small guest", "ns")
    report.measure("bare", "from where the request would come, until bare-restore is where KVM_RUN would be", "ns")
    report.measure("exec-bare", "exec of bare-restore to that place", "ns")
    report.measure("stage", "stages of a load of 128 MiB by a prepared monitor: each since the one before", "ns")
    report.measure("bare-call", "calls of a prepared bare-restore, 128 MiB; those of one name added up", "ns")


def shape(memory_mib):
    return "--prepare", f"vcpu_count=1,mem_size_mib={memory_mib}"


class Waiting(Monitor):
    """A monitor that has answered once, and been left alone: what it prepares is prepared."""

    def __init__(self, bench, *arguments):
        super().__init__(bench, *arguments)
        self.client.socket.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.client.socket.recv(65536)
        time.sleep(IDLE_SECONDS)


def finish(monitor):
    os.write(monitor.child.stdin_fd, b"reset\n")
    monitor.child.finish(READY_SECONDS[monitor.bench.host]).must()


def load(snapshot, row, *arguments, stages=False):
    monitor = Waiting(snapshot.bench, "--startup-trace", snapshot.trace, *arguments)
    try:
        sent, _ = monitor.client.put("/snapshot/load", snapshot.body())
        answered = monitor.ask("seed 1", rb"result: seed")
        finish(monitor)
        trace = read_trace(snapshot.trace)
        values = {("load-run", row): trace["run"] - sent, ("load-answer", row): answered - sent}
        before = sent
        for stage, at_ns in sorted(trace.items(), key=lambda item: item[1]):
            if stages and sent <= at_ns <= trace["run"]:
                values["stage", stage] = at_ns - before
                before = at_ns
        return Sample(values, "PUT /snapshot/load")
    finally:
        monitor.end()


def boot(bench, row, trace, *arguments):
    monitor = Waiting(bench, "--startup-trace", trace, *arguments)
    try:
        for what, body in (("boot-source", {"kernel_image_path": os.fspath(guests.kit(bench, "memtouch")),
                                            "boot_args": "bytes=4K mode=fill then=serve"}),
                           ("machine-config", {"vcpu_count": 1, "mem_size_mib": guests.MEMORY_MIB})):
            monitor.client.put(f"/{what}", body)
        sent, _ = monitor.client.put("/actions", {"action_type": "InstanceStart"})
        monitor.child.wait_for(rb"guest: ready", READY_SECONDS[bench.host])
        finish(monitor)
        return Sample({("boot-run", row): read_trace(trace)["run"] - sent}, "InstanceStart")
    finally:
        monitor.end()


def bare(snapshot, state, how):
    child = snapshot.bench.start([snapshot.bench.program("bare-restore"), how, state, snapshot.memory,
                                  str(snapshot.memory_mib)], stdout=None)
    done = child.finish().must()
    snapshot.bench.forget(child)
    calls = kvm_calls(done.stderr)
    at = {name: start for start, _, name in calls}
    row = f"{snapshot.name}, {'prepared' if how == 'prepared' else 'fresh'}"
    values = {("bare", row): at["restored"] - at["load asked for"], ("exec-bare", row): at["restored"] - child.start_ns}
    if how == "prepared" and snapshot.memory_mib == 128:
        for start, took, name in calls:
            if start >= at["load asked for"] and took:
                values["bare-call", name] = values.get(("bare-call", name), 0) + took
    return Sample(values, done.command)


def pool(bench):
    """What waiting costs."""
    count = 3 if bench.options.quick or bench.host == "emulated" else POOL
    monitors = []
    before = memory.settled_meminfo()
    try:
        for number in range(count):
            monitors.append(Waiting(bench, *shape(guests.MEMORY_MIB)))
            monitors[-1].path.rename(monitors[-1].path.with_suffix(f".pool-{number}"))  # the next one makes it anew
        after = memory.settled_meminfo()
        each = [processes.memory(monitor.child.pid, guests.MEMORY_MIB << 20) for monitor in monitors]
    finally:
        for monitor in monitors:
            monitor.end()

    def middle(name):
        return format_value(sorted(getattr(one, name) for one in each)[count // 2], "bytes")

    kernel = [[f"of the host's kernel, {name}", format_value((after[name] - before[name]) // count, "bytes")]
              for name in memory.KERNEL[1:] if name in before]
    bench.report.table(f"{count} monitors that wait with a machine of {guests.MEMORY_MIB} MiB", ["", "each"],
                       [["private (median)", middle("private")], ["shared", middle("shared")],
                        ["of the guest's memory", middle("guest")], ["page tables", middle("page_tables")], *kernel],
                       "mayfly --prepare")


def measure(bench):
    report = bench.report
    declare(report)
    sizes = {"128 MiB": 128} if bench.host == "emulated" else SIZES
    state, trace = bench.memory_file("bare-restore-state"), bench.memory_file("prepare-trace")
    bench.run([bench.program("bare-restore"), "save", state]).must()
    snapshots = []
    contenders = {}
    try:
        for name, memory_mib in sizes.items():
            snapshot = Snapshot(bench, name, memory_mib, "8M")
            snapshots.append(snapshot)
            snapshot.begin()
            snapshot.save()
            snapshot.monitor.end()
            snapshot.monitor = None
            contenders[f"mayfly, load {name}"] = lambda s=snapshot: load(s, s.name)
            contenders[f"mayfly, prepared, load {name}"] = lambda s=snapshot: load(
                s, f"{s.name}, prepared", *shape(s.memory_mib), stages=s.memory_mib == 128)
            contenders[f"bare-restore {name}"] = lambda s=snapshot: bare(s, state, "load")
            contenders[f"bare-restore, prepared, {name}"] = lambda s=snapshot: bare(s, state, "prepared")
        contenders["mayfly, boot"] = lambda: boot(bench, "fresh", trace)
        contenders["mayfly, prepared, boot"] = lambda: boot(bench, "prepared", trace, *shape(guests.MEMORY_MIB))
        with bench.undisturbed():
            bench.interleave(contenders)
        pool(bench)
    finally:
        for snapshot in snapshots:
            snapshot.end()
    value = report.median("load-run", "128 MiB, prepared")
    if value is not None and bench.host == "native":
        report.goal("load to the first instruction in a prepared monitor, 128 MiB, at most 0.5 ms", format_value(value, "ns"),
                    value <= GOAL_NS)
