"""A Linux guest from exec to its init, and to the monitor's exit, beside the peers' same guest.

The guest's process 1 (bench/marker-init.c) writes one byte to the console and restarts the machine; nothing else has
been on the console (`loglevel=1`), so what is timed is until somebody who reads the console sees that byte, and until
the monitor has ended. The root is a disk of 64 MiB with ext4, read-only; 128 MiB of memory, one vCPU.

In the emulated host the same boots are counted in instructions, and once more under KVM's tracepoints (see
framework/kvm_trace.py), which tells the guest's own instructions from those of the monitor and of the host's kernel.
"""
from framework import linux, machine, monitors
from framework.children import clock_ns
from framework.kvm_trace import CannotTrace, recorded
from framework.plots import Plot
from framework.report import format_value
from framework.session import CannotMeasure, ContenderFailed, Sample
from framework.statistics import percentile

SUMMARY = "exec to a Linux guest's init, and to exit, beside the peers; the guest's own share"
HOSTS = ("native", "emulated")
GOAL_SHARE = 0.10
MARK = rb"!"
# Of the clock in use: the emulated host's leaps while a peer's files are read for the first time.
BOOT_SECONDS = {"native": 60, "emulated": 3600}
SAMPLES = 20               # native; a boot takes some 0.2 s


def root(build):
    init = build / "bench/marker-init"
    if not init.exists():
        raise CannotMeasure(f"{init} is missing: the build has not made it")
    return linux.image(build, "boot", "--add", f"{init}:/sbin/bench-init", inputs=[init])


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    root(build)


class Boots:
    """The contenders, by name: the command of each, and one boot of it."""

    def __init__(self, bench):
        self.bench = bench
        kernel = linux.kernel(bench)
        disk = monitors.Disk(bench.local(root(bench.build)), read_only=True)
        common = {"kernel": kernel, "arguments": "loglevel=1 init=/sbin/bench-init", "disks": (disk,)}
        self.commands = {}
        for name, huge_pages in (("mayfly", "None"), ("mayfly, huge pages", "Transparent")):
            guest = monitors.LinuxGuest(**common, huge_pages=huge_pages)
            self.commands[name] = monitors.mayfly_command(bench, guest, name.replace(", ", "-").replace(" ", "-"))
        for peer in bench.peers:
            try:
                self.commands[peer] = monitors.peer_command(bench, peer, monitors.LinuxGuest(**common), peer)
            except ContenderFailed as reason:
                bench.say(f"boot: {peer} is left out: {reason}")
                bench.report.note(f"{peer} was left out: {reason}")

    def boot(self, name):
        seconds = BOOT_SECONDS[self.bench.host]
        idle = Idle(self.bench)
        child = self.bench.start(self.commands[name])
        _, seen = child.wait_for(MARK, seconds)
        to_init = idle.since()
        done = child.finish(seconds).must(0)
        values = {"init": seen - child.start_ns - to_init, "exit": done.wall_ns - idle.asking_ns - idle.since()}
        self.bench.forget(child)
        return Sample(values, done.command)


class Idle:
    """Idle time since this object was made, on the emulated host; 0 elsewhere, where a clock does not leap."""

    def __init__(self, bench):
        self.leaps = bench.host == "emulated"
        self.start = machine.idle_ns() if self.leaps else 0
        self.asking_ns = 0         # what asking took, between the measurement's ends

    def since(self):
        if not self.leaps:
            return 0
        before = clock_ns()
        idle = machine.idle_ns() - self.start
        self.asking_ns += clock_ns() - before
        return idle


def share_of_guest(bench, boots):
    """One traced boot of each: the guest's instructions, and the exits by their reason."""
    report = bench.report
    rows, exits = [], {}
    for name in boots.commands:
        work = report.median("exit", name)
        if work is None:
            continue
        with recorded() as trace:
            boots.boot(name)
        others = work - trace.guest
        rows.append([name, format_value(work, "ns"), format_value(trace.guest, "ns"), format_value(others, "ns"),
                     f"{100 * others / trace.guest:.0f} %", len(trace.windows)])
        for reason, (count, spent) in trace.exits.items():
            exits.setdefault(reason, {})[name] = f"{count}: {format_value(spent, 'ns')}"
        if name.startswith("mayfly"):
            report.goal(f"monitor and host kernel add at most {GOAL_SHARE:.0%} to the guest's instructions ({name})",
                        f"{others / trace.guest:.0%}", others <= GOAL_SHARE * trace.guest)
    command = "the commands above, with KVM's tracepoints kvm_entry and kvm_exit recorded"
    report.table("Whose instructions: exec to exit, without idle time",
                 ["", "all", "the guest's own", "monitor and host kernel", "added to the guest's", "exits"], rows, command)
    names = [row[0] for row in rows]
    report.table("Exits: how many, and what the host's kernel and the monitor did until the next entry (with the tracing)",
                 ["", *names], [[reason, *(by.get(name, "-") for name in names)] for reason, by in
                                sorted(exits.items(), key=lambda item: -len(item[1]))], command)


def measure(bench):
    report = bench.report
    clock = ", without idle time" if bench.host == "emulated" else ""
    report.measure("init", f"exec to the guest's init, as the console's reader sees it{clock}", "ns", baseline="mayfly")
    report.measure("exit", f"exec to exit{clock}", "ns", baseline="mayfly")
    boots = Boots(bench)
    samples = None if bench.options.samples or bench.options.quick or bench.host == "emulated" else SAMPLES
    bench.interleave({name: lambda name=name: boots.boot(name) for name in boots.commands}, samples=samples)
    for measure_name in ("init", "exit"):
        ratio = report.ratio(measure_name, "mayfly", "qemu")
        if ratio:
            report.goal(f"exec to {measure_name} lower than QEMU microvm's", f"{ratio.median:.2f}x", ratio.median < 1)
    if bench.host == "emulated":
        try:
            share_of_guest(bench, boots)
        except CannotTrace as reason:
            report.note(f"the guest's own share was not measured: {reason}")
    names = report.contenders("init")
    bars = [(percentile(report.values("init", name), 25) / 1e6, report.median("init", name) / 1e6,
             percentile(report.values("init", name), 75) / 1e6) for name in names]
    if bars:
        report.plot(Plot("init", "Exec to a Linux guest's init", "", "ms (median, quartiles)", [("exec to init", bars)],
                         kind="bars", categories=tuple(names)))
