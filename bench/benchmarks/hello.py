"""Exec to exit of the guest `hello`, which prints a word and resets: creation through teardown, against the bare KVM calls.

Both programs make the same KVM calls for the same guest; bare-kvm does nothing else.
"""
from framework import guests
from framework.session import Sample

SUMMARY = "exec to exit of a guest that says hello and resets, against the bare KVM calls"
HOSTS = ("native", "emulated")
GOAL = 2.0


def measure(bench):
    report = bench.report
    report.measure("wall", "exec to exit", "ns", baseline="bare-kvm")
    report.measure("cpu", "CPU time of the process, user and system", "ns", baseline="bare-kvm")
    kernel = guests.kit(bench, "hello")
    config = guests.mayfly_config(bench, "hello", kernel, disks=[guests.disk(bench)])
    commands = {"mayfly": guests.mayfly_command(bench, config),
                **({"before": guests.mayfly_command(bench, config, program=bench.before)} if bench.before else {}),
                "bare-kvm": [bench.program("bare-kvm"), guests.MEMORY_MIB, kernel]}

    def contender(name):
        def once():
            done = bench.run(list(map(str, commands[name])), stdout=None).must()
            return Sample({"wall": done.wall_ns, "cpu": done.user_ns + done.system_ns}, done.command)
        return once

    with bench.undisturbed():
        bench.interleave({name: contender(name) for name in commands}, samples=2 * bench.samples)
    ratio = report.ratio("wall", "mayfly", "bare-kvm")
    if ratio:
        report.goal(f"exec to exit within {GOAL:g}x of the bare KVM calls", f"{ratio.median:.2f}x", ratio.median <= GOAL)
