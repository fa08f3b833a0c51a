"""Snapshots: how long a microVM is saved and loaded, and what its clones take.

A guest of the kit (memtouch) has 16, 128 or 1024 MiB of memory and has written 8 MiB of it, or all. It is saved to a
folder in memory (/dev/shm), so that the host's disk is not what is measured. A load is timed in a fresh process: from
exec, and from the request, to its answer, to the first KVM_RUN (--startup-trace), and to the guest's first answer to a
command on its serial port; what the monitor does until the first KVM_RUN is told by its stages. A Linux guest of 128 MiB
with a root disk is saved and loaded beside them.

Then clones of one snapshot run at once: what each has of its own, and what all share; and the fault tail: how long the
guest's first pass over the pages that it wrote before takes, by where its memory comes from.
"""
import os
import re
import time

from benchmarks.startup import Client, read_trace, stages
from framework import guests, linux, monitors, processes
from framework.report import format_value
from framework.session import CannotMeasure, ContenderFailed, Sample

SUMMARY = "save and load of 16, 128 and 1024 MiB, and of Linux; load to the first instruction and answer; memory of each clone"
HOSTS = ("native", "emulated")
WORKING_MIB = 8
SECONDS = {"native": 60, "emulated": 3600}
CLONES = 20
LOAD_GOAL_NS = 1_000_000
SAVE_GOAL_NS = 5_000_000
SIZES = {"16 MiB": (16, "8M"), "128 MiB": (128, "8M"), "1 GiB": (1024, "8M"), "1 GiB, all written": (1024, "1000M")}
STAGES_OF = "128 MiB"
# What the monitor has done when it reaches each of them: src/startup_trace.h.
STAGES = {"config": "the request", "memory": "state file, address space", "vm": "KVM: VM, interrupt controllers",
          "vcpus": "KVM: vCPUs", "threads": "serial port, threads", "kernel": "memory mapped", "disks": "drives and TAPs",
          "state": "KVM: the state", "devices": "devices, time", "filters": "the main thread's filter", "run": "to KVM_RUN"}
LINUX_MIB = 128


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    linux.image(build, "snapshot")


def declare(report):
    report.measure("save", "PUT /snapshot/create, from request to answer", "ns")
    report.measure("file", "what the memory file takes", "bytes")
    report.measure("load", "PUT /snapshot/load with resume_vm, from request to answer, in a fresh process", "ns")
    report.measure("first-run", "from that request to the first KVM_RUN", "ns")
    report.measure("exec-run", "from exec of the process to the first KVM_RUN", "ns")
    report.measure("answer", "from that request to the guest's first answer on its serial port", "ns")
    report.measure("stage", f"where the time from the request to the first KVM_RUN goes, {STAGES_OF}: each since the one before",
                   "ns")
    report.measure("tail", "after a load: the guest's first pass that writes a word of each of its 2048 pages, by its own "
                           "clock", "ns", baseline="File")
    report.measure("tail-load", "of the same loads, PUT /snapshot/load from request to answer", "ns", baseline="File")
    report.measure("verify", "then, until the guest has read again all that it wrote before the snapshot", "ns")


class Monitor:
    """A monitor with its API, and a guest that takes commands."""

    def __init__(self, bench, *arguments):
        self.bench = bench
        self.path = bench.memory_file("snapshot.socket")
        self.path.unlink(missing_ok=True)
        self.child = bench.start([bench.mayfly, "--api-sock", self.path, "--level", "Warn", *arguments], stdin="pipe")
        self.client = Client(self.path, self.child.start_ns)

    def ask(self, command, answer):
        os.write(self.child.stdin_fd, command.encode() + b"\n")
        return self.child.wait_for(answer, SECONDS[self.bench.host])[1]

    def end(self):
        self.client.socket.close()
        self.bench.forget(self.child)


class Snapshot:
    """A guest of one size, and the files that it was saved to."""

    def __init__(self, bench, name, memory_mib, written):
        self.bench, self.name, self.memory_mib, self.written = bench, name, memory_mib, written
        self.kernel = guests.kit(bench, "memtouch")
        word = name.replace(" ", "-").replace(",", "")
        self.state, self.memory = bench.memory_file(f"{word}.state"), bench.memory_file(f"{word}.memory")
        self.trace = bench.memory_file("snapshot-trace")
        self.monitor = None

    def begin(self):
        self.monitor = Monitor(self.bench)
        for what, body in (("boot-source", {"kernel_image_path": os.fspath(self.kernel),
                                            "boot_args": f"bytes={self.written} mode=fill then=serve"}),
                           ("machine-config", {"vcpu_count": 1, "mem_size_mib": self.memory_mib}),
                           ("actions", {"action_type": "InstanceStart"})):
            self.monitor.client.put(f"/{what}", body)
        self.monitor.child.wait_for(rb"guest: ready", SECONDS[self.bench.host])
        self.monitor.client.call("PATCH", "/vm", {"state": "Paused"})

    def save(self):
        _, took = self.monitor.client.put("/snapshot/create", {"snapshot_path": os.fspath(self.state),
                                                               "mem_file_path": os.fspath(self.memory)})
        return Sample({("save", self.name): took, ("file", self.name): self.memory.stat().st_blocks * 512},
                      "PUT /snapshot/create")

    def body(self, **more):
        return {"snapshot_path": os.fspath(self.state), "resume_vm": True,
                "mem_backend": {"backend_type": "File", "backend_path": os.fspath(self.memory)}, **more}

    def load(self):
        monitor = Monitor(self.bench, "--startup-trace", self.trace)
        try:
            sent, took = monitor.client.put("/snapshot/load", self.body())
            answered = monitor.ask("seed 1", rb"result: seed")
            verified = monitor.ask("verify", rb"result: verify [^\n]*\n")
            if b" bad=0 " not in monitor.child.output[1]:
                raise ContenderFailed(f"{self.name}: the guest's memory is not what it was")
            os.write(monitor.child.stdin_fd, b"reset\n")
            monitor.child.finish(SECONDS[self.bench.host]).must()
            trace = read_trace(self.trace)
            spent = {} if self.name != STAGES_OF else {("stage", STAGES[stage]): ns for stage, ns in stages(
                {stage: at for stage, at in trace.items() if stage in STAGES}, sent).items()}
            return Sample({**spent, ("load", self.name): took, ("first-run", self.name): trace["run"] - sent,
                           ("exec-run", self.name): trace["run"] - monitor.child.start_ns,
                           ("answer", self.name): answered - sent, ("verify", self.name): verified - answered},
                          "PUT /snapshot/load")
        finally:
            monitor.end()

    def tail(self, **backend):
        monitor = Monitor(self.bench)
        try:
            _, took = monitor.client.put("/snapshot/load", {**self.body(), **backend})
            monitor.ask("write", rb"result: pass [^\n]*\n")
            found = re.search(rb"result: pass [^\n]* pages=2048 [^\n]*ns=([0-9]+)", monitor.child.output[1])
            if not found:
                raise ContenderFailed(f"{self.name}: the guest has not written its 2048 pages")
            return Sample({"tail": int(found[1]), "tail-load": took}, "PUT /snapshot/load")
        finally:
            monitor.end()

    def end(self):
        if self.monitor:
            self.monitor.end()
        for path in (self.state, self.memory):
            path.unlink(missing_ok=True)


class LinuxSnapshot(Snapshot):
    """A Linux guest with a root disk, at its command channel."""

    def __init__(self, bench):
        super().__init__(bench, f"Linux, {LINUX_MIB} MiB", LINUX_MIB, None)
        self.disk = linux.copy(bench.local(linux.image(bench.build, "snapshot")), linux.data_folder(bench), "snapshot-root.ext4")
        self.guest = monitors.LinuxGuest(linux.kernel(bench), "quiet loglevel=1", memory_mib=LINUX_MIB,
                                         disks=(monitors.Disk(self.disk, read_only=True),))

    def begin(self):
        self.monitor = Monitor(self.bench)
        for what, body in (("boot-source", {"kernel_image_path": os.fspath(self.guest.kernel.path),
                                            "boot_args": self.guest.command_line("k")}),
                           ("machine-config", {"vcpu_count": 1, "mem_size_mib": LINUX_MIB}),
                           ("drives/root", {"drive_id": "root", "path_on_host": os.fspath(self.disk), "is_root_device": False,
                                            "is_read_only": True}),
                           ("actions", {"action_type": "InstanceStart"})):
            self.monitor.client.put(f"/{what}", body)
        self.monitor.child.wait_for(rb"MAYFLY-READY", SECONDS[self.bench.host])
        self.monitor.ask("echo awake", rb"awake\n\nMAYFLY-EXIT 0")
        self.monitor.client.call("PATCH", "/vm", {"state": "Paused"})

    def load(self):
        monitor = Monitor(self.bench, "--startup-trace", self.trace)
        try:
            sent, took = monitor.client.put("/snapshot/load", self.body())
            answered = monitor.ask("echo awake", rb"awake\n\nMAYFLY-EXIT 0")
            os.write(monitor.child.stdin_fd, b"reboot -f\n")
            monitor.child.finish(SECONDS[self.bench.host]).must()
            trace = read_trace(self.trace)
            return Sample({("load", self.name): took, ("first-run", self.name): trace["run"] - sent,
                           ("exec-run", self.name): trace["run"] - monitor.child.start_ns,
                           ("answer", self.name): answered - sent}, "PUT /snapshot/load")
        finally:
            monitor.end()


def linux_snapshot(bench):
    """None where no Linux guest runs."""
    try:
        return LinuxSnapshot(bench)
    except CannotMeasure as reason:
        bench.report.note(f"without a Linux guest: {reason}")
        return None


def clone_count(bench):
    return 3 if bench.options.quick or bench.host == "emulated" else CLONES


def clones(bench, snapshot):
    """Clones that have answered once."""
    count = clone_count(bench)
    children = []
    try:
        for number in range(count):
            monitor = Monitor(bench)
            monitor.path.rename(monitor.path.with_suffix(f".{number}"))  # the next one makes it anew
            children.append(monitor)
            monitor.client.put("/snapshot/load", snapshot.body())
            monitor.ask("seed 1", rb"result: seed")
        rows = clone_rows([monitor.child.pid for monitor in children], snapshot.memory_mib)
    finally:
        for monitor in children:
            monitor.end()
    rows.append(["the memory file, which all share", format_value(snapshot.memory.stat().st_blocks * 512, "bytes")])
    bench.report.table(f"{count} clones at once of a snapshot of {snapshot.name}, of which {WORKING_MIB} MiB were written",
                       ["", "each (median)"], rows, "PUT /snapshot/load")


def clone_rows(pids, memory_mib):
    """Of monitors whose guests share memory: medians, for a table."""
    rollups = [rollup(pid) for pid in pids]
    guests_own = [processes.memory(pid, memory_mib << 20).guest for pid in pids]

    def middle(values):
        return format_value(sorted(values)[len(pids) // 2], "bytes")

    # Pages that nobody else has: anonymous ones, copies of what is shared among them.
    return [["its own memory, monitor and guest", middle(each["Anonymous"] for each in rollups)],
            ["pages that it shares with others: of the guest's memory, and of programs",
             middle(each["Shared_Clean"] + each["Shared_Dirty"] for each in rollups)],
            ["of the guest's memory what is mapped", middle(guests_own)],
            ["what each adds to the host (proportional set size)", middle(each["Pss"] for each in rollups)]]


def fault_tail(bench, snapshot):
    """By mapping the file, by a handler, each without and with a working set that one load before has recorded."""
    program = bench.build / "uffd" / "mayfly-uffd"
    recorded, recorded_by_handler = bench.memory_file("working-set"), bench.memory_file("working-set-uffd")
    handlers = []
    try:
        contenders = {"File": {}, "File, working set": {"working_set_path": os.fspath(recorded)}}
        for name, more in (("Uffd", ()), ("Uffd, working set", ("--working-set", recorded_by_handler)), ("Uffd, fill", ("--fill",))):
            path = bench.memory_file(f"uffd-{len(handlers)}.socket")
            handlers.append(bench.start([program, "--socket", path, "--memory-file", snapshot.memory, *more]))
            while not path.exists():
                time.sleep(0.001)
            contenders[name] = {"mem_backend": {"backend_type": "Uffd", "backend_path": os.fspath(path)}}
        for name in ("File, working set", "Uffd, working set"):
            record(snapshot, contenders[name], recorded if name.startswith("File") else recorded_by_handler)
        bench.interleave({name: lambda backend=backend: snapshot.tail(**backend) for name, backend in contenders.items()})
    finally:
        for handler in handlers:
            bench.forget(handler)


def record(snapshot, backend, path):
    """One load whose guest does what will be measured, until the file with its pages is there."""
    monitor = Monitor(snapshot.bench)
    try:
        monitor.client.put("/snapshot/load", {**snapshot.body(), **backend})
        monitor.ask("write", rb"result: pass [^\n]*\n")
        deadline = time.monotonic() + SECONDS[snapshot.bench.host]
        if backend.get("mem_backend"):
            monitor.end()  # the handler writes it when its monitor leaves
        while not path.exists():
            if time.monotonic() > deadline:
                raise ContenderFailed(f"{path} was not recorded")
            time.sleep(0.01)
    finally:
        monitor.end()


def rollup(pid):
    """{field: bytes} of /proc/PID/smaps_rollup."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        fields = (line.split() for line in file if line.endswith(" kB\n"))
        return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields}


def measure(bench):
    report = bench.report
    declare(report)
    # There, a second of writing memory is half an hour of this machine's.
    sizes = {name: size for name, size in SIZES.items() if bench.host == "native" or size[1] == "8M"}
    snapshots = []
    try:
        for name, (memory_mib, written) in sizes.items():
            snapshot = Snapshot(bench, name, memory_mib, written)
            snapshots.append(snapshot)
            snapshot.begin()
            snapshot.save()
        with_linux = linux_snapshot(bench)
        if with_linux:
            snapshots.append(with_linux)
            with_linux.begin()
            with_linux.save()
        with bench.undisturbed():
            bench.interleave({f"mayfly, save {snapshot.name}": snapshot.save for snapshot in snapshots})
            bench.interleave({f"mayfly, load {snapshot.name}": snapshot.load for snapshot in snapshots})
        clones(bench, snapshots[1])
        with bench.undisturbed():
            fault_tail(bench, snapshots[1])
    finally:
        for snapshot in snapshots:
            snapshot.end()
    if bench.host == "native":
        for text, measure_name, row, goal in (
                ("load to the first instruction of a guest of 128 MiB at most 1 ms from exec", "exec-run", "128 MiB",
                 LOAD_GOAL_NS),
                ("save of a guest of 16 MiB at most 5 ms", "save", "16 MiB", SAVE_GOAL_NS)):
            value = report.median(measure_name, row)
            if value is not None:
                report.goal(text, format_value(value, "ns"), value <= goal)
