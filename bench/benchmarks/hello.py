"""Exec to exit of the guest `hello`, which prints a word and resets: creation through teardown, against the bare KVM calls.

Both programs make the same KVM calls for the same guest; bare-kvm does nothing else. The peers run it too, until the word
is on the console: how their guest would end the machine is their own affair, and they are killed.
"""
from framework import guests, monitors, statistics
from framework.plots import Plot
from framework.session import ContenderFailed, Sample
from harness.kernels import Kernel

SUMMARY = "exec to exit of a guest that says hello and resets, against the bare KVM calls; exec to hello of the peers"
HOSTS = ("native", "emulated")
GOAL = 2.0
SECONDS = {"native": 60, "emulated": 3600}


def commands(bench):
    """({contender: command line} of those that end with the guest, and of the peers)."""
    kernel, disk = guests.kit(bench, "hello"), guests.disk(bench)
    config = guests.mayfly_config(bench, "hello", kernel, disks=[disk])
    ours = {"mayfly": guests.mayfly_command(bench, config),
            "bare-kvm": [bench.program("bare-kvm"), str(guests.MEMORY_MIB), kernel]}
    if bench.before:
        ours["before"] = guests.mayfly_command(bench, config, program=bench.before)
    guest = monitors.LinuxGuest(kernel=Kernel("hello", kernel, with_acpi=False), arguments="",
                                disks=(monitors.Disk(disk),), memory_mib=guests.MEMORY_MIB)
    theirs = {}
    for peer in bench.peers:
        try:
            theirs[peer] = monitors.peer_command(bench, peer, guest, f"hello-{peer}")
        except ContenderFailed as reason:
            bench.report.note(f"{peer} was left out: {reason}")
    return ours, theirs


def measure(bench):
    report = bench.report
    report.measure("word", "exec to the guest's word on the console", "ns", baseline="mayfly")
    report.measure("wall", "exec to exit", "ns", baseline="bare-kvm")
    report.measure("cpu", "CPU time of the process, user and system", "ns", baseline="bare-kvm")
    ours, theirs = commands(bench)

    def contender(command, ends):
        def once():
            child = bench.start(command)
            _, said_ns = child.wait_for(rb"hello", SECONDS[bench.host])
            values = {"word": said_ns - child.start_ns}
            if ends:
                done = child.finish(SECONDS[bench.host]).must()
                values.update(wall=done.wall_ns, cpu=done.user_ns + done.system_ns)
            bench.forget(child)
            return Sample(values, child.command)
        return once

    with bench.undisturbed():
        bench.interleave({**{name: contender(command, True) for name, command in ours.items()},
                          **{name: contender(command, False) for name, command in theirs.items()}})
    names = [name for name in [*ours, *theirs] if report.values("word", name)]
    if names:
        bars = [tuple(statistics.percentile(report.values("word", name), percent) / 1e6 for percent in (25, 50, 75))
                for name in names]
        report.plot(Plot("word", "From exec to the guest's first word: hello, 128 MiB, one vCPU, one disk", "", "ms (median, quartiles)",
                         [("exec to the word", bars)], kind="bars", categories=tuple(names)))
    ratio = report.ratio("wall", "mayfly", "bare-kvm")
    if ratio:
        report.goal(f"exec to exit within {GOAL:g}x of the bare KVM calls", f"{ratio.median:.2f}x", ratio.median <= GOAL)
