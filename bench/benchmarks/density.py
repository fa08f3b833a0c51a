"""Many guests at once: the time of each creation against the number that already runs, and what they take when idle.

Each guest is `memtouch` with 16 MiB, all of which it touches before it halts (with --quick a quarter). One after the other
is created; the next begins when the last one stands still. A creation is the time from exec until the monitor says that
its microVM runs: everything but the guest's own work is in it.
"""
import os
import pathlib
import select
import signal
import time

from benchmarks import startup
from framework import guests, machine, processes, statistics
from framework.children import clock_ns
from framework.plots import Plot
from framework.report import format_value
from framework.session import CannotMeasure, ContenderFailed

SUMMARY = "guests of 16 MiB in a row: time of each creation, memory, idle CPU; to --limit guests (default 200)"
HOSTS = ("native", "emulated")
LIMIT = 200
GUEST_MIB = 16
# What a guest takes beside its memory, with room: monitor, page tables of both kinds, the host kernel's structures.
OVERHEAD_BYTES = 1 << 20
# What the rest of the machine goes on needing.
SPARE_BYTES = 1 << 30
WORDS_SECONDS = 120
END_SECONDS = 120
SYSTEM_DESCRIPTORS_EACH = 32
IDLE_SECONDS = 5
GOAL = 1.2
BARE_EACH = 5              # creations for each time that bare-kvm makes the KVM calls alone
WINDOW = 9                 # creations on either side of the tenth, and as many at the end


def number_in(path):
    """The first number in a file of /proc or /sys; None where there is none, or "max"."""
    try:
        word = pathlib.Path(path).read_text(encoding="ascii").split()[0]
        return int(word) if word != "max" else None
    except (OSError, IndexError, ValueError):
        return None


def own_cgroup():
    """The folder of this process's cgroup (v2), and those above it."""
    try:
        lines = pathlib.Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    if path is None:
        return []
    folder = pathlib.Path("/sys/fs/cgroup") / path.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent.is_relative_to("/sys/fs/cgroup"))]


def room_for(fraction):
    """[(how many guests fit, what is in the way)] of everything that has an end."""
    each = GUEST_MIB * (1 << 20) * fraction // 100 + OVERHEAD_BYTES
    rooms = [((machine.meminfo()["MemAvailable"] - SPARE_BYTES) // each,
              f"memory: {format_value(machine.meminfo()['MemAvailable'], 'bytes')} available, "
              f"{format_value(each, 'bytes')} for each guest and {format_value(SPARE_BYTES, 'bytes')} for the rest")]
    for path, each_takes, what in (("/proc/sys/kernel/pid_max", 2, "process numbers"),
                                   ("/proc/sys/kernel/threads-max", 2, "threads"),
                                   ("/proc/sys/fs/file-max", SYSTEM_DESCRIPTORS_EACH, "open files of the system")):
        most = number_in(path)
        if most is not None:
            rooms.append(((most - 2000) // each_takes, f"{what}: {path} is {most}"))
    for folder in own_cgroup():
        most, used = number_in(folder / "pids.max"), number_in(folder / "pids.current")
        if most is not None and used is not None:
            rooms.append(((most - used) // 2, f"tasks of the cgroup: {folder}/pids.max is {most}"))
        most, used = number_in(folder / "memory.max"), number_in(folder / "memory.current")
        if most is not None and used is not None:
            rooms.append(((most - used) // each, f"memory of the cgroup: {folder}/memory.max is {most}"))
    return rooms


def check_room(bench, limit, fraction):
    """How many guests to make: the limit, or fewer where the machine ends before it, which is said."""
    fits, what = min(room_for(fraction))
    if fits < 10:
        raise CannotMeasure(f"room for {max(0, fits)} guests: {what}")
    if fits < limit:
        bench.say(f"density: {fits} guests instead of {limit}: {what}")
        bench.report.note(f"{fits} guests instead of {limit}: {what}")
    return min(limit, fits)


class Crowd:
    def __init__(self, bench, fraction):
        self.bench, self.report, self.children = bench, bench.report, []
        # One pipe for all: descriptors of our own for each guest would slow down the start of every further one.
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        self.reset = guests.reset_at_once(bench)
        kernel, disk = guests.kit(bench, "memtouch"), guests.disk(bench)
        config = guests.mayfly_config(bench, "density", kernel, arguments=f"fraction={fraction} then=halt",
                                      memory_mib=GUEST_MIB, disks=[disk], read_only=True)
        # The line that says that the microVM runs is of level Info.
        self.command = [*guests.mayfly_command(bench, config)[:-1], "Info"]

    def create_one(self):
        number = len(self.children) + 1
        child = self.bench.start([*self.command, "--startup-trace", self.trace(number)], stdout=self.writer,
                                 stderr=self.writer)
        self.children.append(child)
        heard = bytearray()
        runs_ns = self.hear(child, heard, b"the microVM runs")
        ready_ns = self.hear(child, heard, b"guest: ready")
        child.let_be()
        command = " ".join(map(str, [*self.command, "--startup-trace", self.trace("N")]))
        self.report.add("creation", "mayfly", runs_ns - child.start_ns, command=command, round_number=number)
        self.report.add("ready", "mayfly", ready_ns - child.start_ns, command=command, round_number=number)

    def trace(self, number):
        return self.bench.memory_file(f"startup-trace-{number}")

    def hear(self, child, heard, words):
        """Waits until the guest made last says that; returns when it was read. The others are silent."""
        deadline = time.monotonic() + WORDS_SECONDS
        while words not in heard:
            readable, _, _ = select.select([self.reader, child.pidfd], [], [], max(0, deadline - time.monotonic()))
            if self.reader in readable:
                heard += os.read(self.reader, 65536)
            elif child.pidfd in readable:
                child.finish()
                raise ContenderFailed(f"{child.command}: ended: {heard.decode(errors='replace').strip()[-300:]}")
            else:
                raise ContenderFailed(f"{child.command}: {words!r} was not seen within {WORDS_SECONDS} s")
        return clock_ns()

    def bare(self):
        """The same KVM calls by bare-kvm, with as many guests running: what of a creation is KVM's."""
        done = self.bench.run([self.bench.program("bare-kvm"), "--times", str(GUEST_MIB), self.reset], stdout=None).must()
        calls = [int(line.split()[1]) for line in done.stderr.decode().splitlines()]
        # The last two are the first KVM_RUN and the closing.
        self.report.add("kvm", "bare-kvm", sum(calls[:-2]), command=done.command, round_number=len(self.children))

    def fill(self, count):
        for number in range(count):
            self.bench.progress.show(f"density: guest {number + 1} of {count}")
            try:
                self.create_one()
                if number % BARE_EACH == 0:
                    self.bare()
            except ContenderFailed as failed:
                raise ContenderFailed(f"guest {number + 1}, with {number} running: {failed}") from failed
        self.bench.progress.done()

    def idle(self):
        """CPU time that all of them take while they stand still, for each second."""
        self.bench.progress.show(f"density: {len(self.children)} idle guests for {IDLE_SECONDS} s")
        before, start = sum(processes.cpu_ns(child.pid) for child in self.children), time.monotonic()
        time.sleep(IDLE_SECONDS)
        seconds = time.monotonic() - start
        return (sum(processes.cpu_ns(child.pid) for child in self.children) - before) / seconds

    def stages(self):
        """Ends all in order, so that they write their traces; returns [{stage: ns}], in the order of creation."""
        self.bench.progress.show(f"density: ending {len(self.children)} guests")
        for child in self.children:
            child.signal(signal.SIGTERM)
        found = []
        for number, child in enumerate(self.children, 1):
            child.finish(END_SECONDS)
            found.append(startup.stages(startup.read_trace(self.trace(number)), child.start_ns))
        return found

    def end(self):
        for child in self.children:
            child.kill(wait=False)
        for child in self.children:
            self.bench.forget(child)
        os.close(self.reader)
        os.close(self.writer)


def around(values, number):
    """The median of those around one: a single one says nothing on a machine that does other things."""
    return statistics.median([values[key] for key in range(number - WINDOW, number + WINDOW + 1) if key in values])


def stage_table(report, stages, command):
    """Which stage of a creation grows with the number of guests."""
    last = len(stages) - WINDOW
    rows = []
    for stage in startup.BEFORE_RUN:
        by_number = {number: spent[stage] for number, spent in enumerate(stages, 1) if stage in spent}
        if by_number:
            rows.append([stage, format_value(around(by_number, 10), "ns"), format_value(around(by_number, last), "ns")])
    report.table("stages of a creation (as in startup): medians around the 10th and the last",
                 ["stage", "10th", f"{len(stages)}th"], rows, command)


def conclude(report):
    creations = report.by_round("creation", "mayfly")
    if not creations:
        return
    report.plot(Plot("creation", f"Creation of guest N, N - 1 guests of {GUEST_MIB} MiB running", "N", "ms",
                     [("exec until the microVM runs", [(key, ns / 1e6) for key, ns in creations.items()]),
                      ("of that the KVM calls (bare-kvm)",
                       [(key, ns / 1e6) for key, ns in report.by_round("kvm", "bare-kvm").items()])]))
    last = max(creations)
    if last < 50:
        return
    tenth, end = around(creations, 10), around(creations, last - WINDOW)
    calls = report.by_round("kvm", "bare-kvm")
    report.note(f"of these the KVM calls, as bare-kvm makes them at the same time: {format_value(around(calls, last - WINDOW), 'ns')}"
                f" against {format_value(around(calls, 10), 'ns')}")
    report.goal(f"creation around the {last}th guest no more than {GOAL}x slower than around the 10th",
                f"{format_value(end, 'ns')} against {format_value(tenth, 'ns')}: {end / tenth:.2f}x", end / tenth <= GOAL)


def measure(bench):
    report = bench.report
    report.measure("creation", "creation: exec until the microVM runs", "ns")
    report.measure("kvm", "the same KVM calls by bare-kvm, with as many guests running", "ns")
    report.measure("ready", "exec until the guest has touched its memory and halts", "ns")
    report.measure("idle", "CPU time of all guests for a second in which they stand still", "ns")
    if bench.host == "emulated":
        report.note("on the emulated host's one CPU the guest runs before anybody reads that its microVM does: its own work "
                    "is in every creation, and the stages say what a creation takes")
    fraction = 25 if bench.options.quick or bench.host == "emulated" else 100
    limit = bench.options.limit or (30 if bench.options.quick or bench.host == "emulated" else LIMIT)
    limit = check_room(bench, limit, fraction)
    crowd = Crowd(bench, fraction)
    command = " ".join(map(str, crowd.command))
    before = machine.meminfo()["MemAvailable"]
    try:
        with bench.undisturbed():
            crowd.fill(limit)
        taken = before - machine.meminfo()["MemAvailable"]
        report.table(f"the host's memory with {limit} guests of {GUEST_MIB} MiB, {fraction} % touched", ["", "all", "each"],
                     [["MemAvailable, less", format_value(taken, "bytes"), format_value(taken / limit, "bytes")]],
                     f"{limit} times: {command}")
        if bench.host == "native":
            report.add("idle", f"{limit} guests", crowd.idle(), command=f"{limit} times: {command}")
        if limit >= 50:
            stage_table(report, crowd.stages(), f"{limit} times: {command}")
    finally:
        crowd.end()
        conclude(report)
