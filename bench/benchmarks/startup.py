"""Where the time from exec to the first guest instruction goes.

From inside: `--startup-trace` says when the monitor reached each stage. From outside: exec, the API's socket, and what
each call of the API takes. Beside it bare-kvm makes the same KVM calls and times each of them; what Mayfly takes beyond
their sum is Mayfly's own. One vCPU, 128 MiB, one disk; by a configuration file, and by the API with a call for each thing.
"""
import json
import os
import socket
import time

from framework import guests, statistics
from framework.children import clock_ns
from framework.plots import Plot
from framework.report import format_value
from framework.session import ContenderFailed, Sample

SUMMARY = "exec to first KVM_RUN, by stage, against the sum of the KVM calls; exec to the API's socket"
HOSTS = ("native", "emulated")
GOAL_NS = 1_000_000
# What lies behind the first KVM_RUN is the guest's, and the way out.
BEFORE_RUN = ("main", "options", "api", "config", "memory", "vm", "vcpus", "threads", "kernel", "disks", "state", "devices", "filters",
               "run")
ANSWER_SECONDS = 30


def read_trace(path):
    """{stage: CLOCK_MONOTONIC ns}"""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return {stage: int(ns) for stage, ns in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise ContenderFailed(f"the startup trace {path} cannot be read: {error}") from error


def stages(trace, start_ns):
    """Time spent before each stage since the one before it. With --prepare their order is another than without."""
    spent, before = {}, start_ns
    for stage, at_ns in sorted(trace.items(), key=lambda item: item[1]):
        spent[stage] = at_ns - before
        before = at_ns
    return spent


def kvm_calls(stderr):
    """[(start ns, ns, name)] as bare-kvm --times prints them."""
    calls = []
    for line in stderr.decode().splitlines():
        start, took, name = line.split(" ", 2)
        calls.append((int(start), int(took), name))
    return calls


class Client:
    """Just enough HTTP to time a call: one connection, one request after the other."""

    def __init__(self, path, start_ns):
        deadline = start_ns + ANSWER_SECONDS * 10**9
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER_SECONDS)
        while True:
            try:
                self.socket.connect(os.fspath(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if clock_ns() > deadline:
                    raise ContenderFailed(f"no API at {path} within {ANSWER_SECONDS} s") from None
                time.sleep(0.00005)
        self.ready_ns = clock_ns()

    def put(self, path, body):
        """Returns (ns at which the request was sent, ns until its answer)."""
        return self.call("PUT", path, body)

    def call(self, method, path, body):
        text = json.dumps(body)
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        sent = clock_ns()
        self.socket.sendall(request)
        answer = self.socket.recv(65536)
        took = clock_ns() - sent
        if not answer.startswith(b"HTTP/1.1 204"):
            raise ContenderFailed(f"{method} {path} was answered: {answer.decode(errors='replace')}")
        return sent, took


def declare(report):
    report.measure("first-run", "exec to the first KVM_RUN", "ns", baseline="bare-kvm")
    report.measure("first-exit", "exec to the first exit of a guest whose second instruction exits", "ns",
                   baseline="bare-kvm")
    report.measure("kvm", "the KVM calls before the first KVM_RUN, added up, as bare-kvm times them", "ns")
    report.measure("over", "exec to the first KVM_RUN, less the KVM calls of the same round", "ns")
    report.measure("socket", "exec to the API's socket", "ns")
    report.measure("call", "an API call, from request to answer", "ns")
    report.measure("start-run", "the API's InstanceStart, from request to the first KVM_RUN", "ns")
    report.measure("stage", "stages of a start by configuration file, and of its end: each since the one before", "ns")
    report.measure("kvm-call", "the same KVM calls one by one, by bare-kvm; those of one name in a run added up", "ns")


class Startup:
    """The contenders: each function is one turn."""

    def __init__(self, bench):
        self.bench, self.report = bench, bench.report
        self.kernel, self.disk = guests.reset_at_once(bench), guests.disk(bench)
        self.trace = bench.memory_file("startup-trace")
        self.config = guests.mayfly_config(bench, "startup", self.kernel, disks=[self.disk])

    def by_file(self, program=None):
        command = guests.mayfly_command(self.bench, self.config, "--startup-trace", self.trace, program=program)
        child = self.bench.start(command, stdout=None)
        done = child.finish().must()
        self.bench.forget(child)
        trace = read_trace(self.trace)
        row = "before: {}" if program else "{}"
        spent = {("stage", row.format(stage)): ns for stage, ns in stages(trace, child.start_ns).items()}
        return Sample({"first-run": trace["run"] - child.start_ns, "first-exit": trace["exit"] - child.start_ns, **spent},
                      done.command)

    def by_api(self):
        path = self.bench.memory_file("api.socket")
        path.unlink(missing_ok=True)
        child = self.bench.start([self.bench.mayfly, "--api-sock", path, "--level", "Warn", "--startup-trace", self.trace],
                                 stdout=None)
        client = Client(path, child.start_ns)
        calls = {}
        for what, body in (("boot-source", {"kernel_image_path": os.fspath(self.kernel)}),
                           ("drives/disk0", {"drive_id": "disk0", "path_on_host": os.fspath(self.disk),
                                             "is_root_device": False}),
                           ("machine-config", {"vcpu_count": 1, "mem_size_mib": guests.MEMORY_MIB}),
                           ("actions", {"action_type": "InstanceStart"})):
            sent, calls["call", f"PUT /{what}"] = client.put(f"/{what}", body)
        done = child.finish().must()
        client.socket.close()
        self.bench.forget(child)
        trace = read_trace(self.trace)
        return Sample({"socket": client.ready_ns - child.start_ns, "start-run": trace["run"] - sent, **calls}, done.command)

    def bare(self):
        child = self.bench.start([self.bench.program("bare-kvm"), "--times", str(guests.MEMORY_MIB), self.kernel],
                                 stdout=None)
        done = child.finish().must()
        self.bench.forget(child)
        calls = kvm_calls(done.stderr)
        first = next(index for index, (_, _, name) in enumerate(calls) if name == "first KVM_RUN")
        by_name = {}
        for _, took, name in calls:
            by_name["kvm-call", name] = by_name.get(("kvm-call", name), 0) + took
        start, took, _ = calls[first]
        return Sample({"first-run": start - child.start_ns, "first-exit": start + took - child.start_ns,
                       "kvm": sum(took for _, took, _ in calls[:first]), **by_name}, done.command)


def compare(bench):
    """What follows from the rounds."""
    report = bench.report
    calls = report.by_round("kvm", "bare-kvm")
    for contender in report.contenders("first-run"):
        first = report.by_round("first-run", contender)
        commands = f"{report.command_of('first-run', contender)}   less   {report.command_of('kvm', 'bare-kvm')}"
        for number in first:
            if number in calls:
                report.add("over", contender, first[number] - calls[number], command=commands, round_number=number)
    over = report.median("over", "mayfly, file")
    if over is not None and bench.host == "native":
        report.goal("exec to the first KVM_RUN at most 1 ms over the KVM calls", format_value(over, "ns"), over <= GOAL_NS)
    rows = [stage for stage in BEFORE_RUN if report.values("stage", stage)]
    if rows:
        bars = [(statistics.percentile(report.values("stage", row), 25) / 1e3, report.median("stage", row) / 1e3,
                 statistics.percentile(report.values("stage", row), 75) / 1e3) for row in rows]
        report.plot(Plot("stages", "Mayfly from exec to the first KVM_RUN: one vCPU, 128 MiB, one disk",
                         "stage: since the one before", "µs (median, quartiles)", [("Mayfly", bars)], kind="bars",
                         categories=tuple(rows)))


def measure(bench):
    declare(bench.report)
    startup = Startup(bench)
    try:
        before = {"before, file": lambda: startup.by_file(bench.before)} if bench.before else {}
        with bench.undisturbed():
            bench.interleave({"mayfly, file": startup.by_file, **before, "mayfly, API": startup.by_api,
                              "bare-kvm": startup.bare})
    finally:
        compare(bench)
