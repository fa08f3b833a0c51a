"""How much of the host's kernel a monitor reaches: the distinct kernel functions executed on its behalf.

The measure of a platform's attack surface that studies use: code that a guest makes the host execute is code in which a
fault may be found. Each monitor runs the same Linux guest, which boots, reads and writes a disk (buffered, O_DIRECT,
flushes), is pinged and serves TCP, and restarts the machine. The kernel's function tracer records what the monitor, its
threads and workers call from its exec on; what interrupts call that come in its time is told apart and not counted.

The same guest means the same requests, so that what differs is how a monitor asks its host. Functions that are not
traced (inlined, notrace) are missing for all alike. QEMU without vhost, as its process does the same work as Mayfly's.
"""
import os
import shlex

from framework import linux, monitors
from framework.functions import Tracer
from framework.kvm_trace import CannotTrace
from framework.session import CannotMeasure, ContenderFailed

from benchmarks.net import Networks

SUMMARY = "distinct host-kernel functions executed for a guest that boots, does disk and network I/O, beside QEMU"
HOSTS = ("native", "emulated")
MEMORY_MIB = 128
DISK_BYTES = 32 << 20
SECONDS = {"native": 300, "emulated": 36000}
DISK_WORK = ("dd if=/dev/vdb of=/dev/null bs=4k count=64 iflag=direct && dd if=/dev/zero of=/dev/vdb bs=4k count=64 oflag=direct "
             "&& dd if=/dev/vdb of=/dev/null bs=128k count=32 && dd if=/dev/zero of=/dev/vdb bs=128k count=16 conv=fsync && sync")
PHASES = ("start and boot", "disk", "network", "end")


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    root(build)


def root(build):
    return linux.image(build, "surface", size="32M")


class Contender:
    def __init__(self, bench, name, tracer, command, address):
        self.bench, self.name, self.tracer, self.address = bench, name, tracer, address
        self.seconds = SECONDS[bench.host]
        self.command = command

    def run(self):
        """{phase: functions.Phase}"""
        show = self.bench.progress.show
        phases = {}
        show(f"surface: {self.name}: booting")
        guest = linux.Guest(self.bench, self.tracer.wrap(self.command), self.seconds)
        try:
            phases["start and boot"] = self.tracer.end_phase()
            show(f"surface: {self.name}: disk")
            guest.run(DISK_WORK, self.seconds)
            phases["disk"] = self.tracer.end_phase()
            show(f"surface: {self.name}: network")
            guest.run(f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up", self.seconds)
            self.bench.run(["ping", "-q", "-c", "3", "-s", "1400", self.address], seconds=self.seconds).must(0)
            # Each way: a file over TCP from the guest, and the requests to it.
            guest.run("mkdir -p /tmp/www && dd if=/dev/zero of=/tmp/www/file bs=1k count=512 && httpd -p 80 -h /tmp/www", self.seconds)
            self.bench.run(["curl", "-sS", "-o", "/dev/null", f"http://{self.address}/file"], seconds=self.seconds).must(0)
            phases["network"] = self.tracer.end_phase()
            show(f"surface: {self.name}: the end")
            os.write(guest.child.stdin_fd, b"reboot -f\n")
            guest.child.finish(self.seconds).must(0)
            phases["end"] = self.tracer.end_phase()
        finally:
            guest.end()
        return phases


def measure_one(bench, networks, name, engine, command_of):
    folder = linux.data_folder(bench)
    data = folder / f"surface-{name.replace(', ', '-')}.data"
    data.write_bytes(b"\x5a" * DISK_BYTES)
    tap, address = networks.tap()
    guest = monitors.LinuxGuest(linux.kernel(bench), "quiet", memory_mib=MEMORY_MIB, nics=(monitors.Nic(tap, "02:00:5e:10:00:01"),),
                                disks=(monitors.Disk(bench.local(root(bench.build)), engine, read_only=True),
                                       monitors.Disk(data, engine)))
    tracer = Tracer(bench.program("function-set"))
    try:
        contender = Contender(bench, name, tracer, command_of(guest), address)
        return contender.run(), shlex.join(contender.command)
    finally:
        tracer.close()
        data.unlink(missing_ok=True)


def contenders(bench):
    found = {}
    for engine in ("Sync", "Async"):
        found[f"mayfly, {engine}"] = (engine, lambda guest, engine=engine: monitors.mayfly_command(bench, guest, f"surface-{engine}"))
    for peer in bench.peers:
        for engine, what in (("Sync", "threads"), ("Async", "io_uring")):
            name = f"{peer}, {what}" if peer == "qemu" else f"{peer}, {engine}"
            found[name] = (engine, lambda guest, peer=peer, name=name: monitors.peer_command(bench, peer, guest, name.replace(", ", "-")))
    return found


def union(phases):
    return set().union(*(phase.functions for phase in phases.values()))


def modules(names):
    return sum("[kvm" in name for name in names)


def tables(bench, results):
    report = bench.report
    command = "the commands below, their processes and what these fork under the kernel's function tracer"
    rows = []
    for name, phases in results.items():
        everything = union(phases)
        running = set(phases["disk"].functions) | set(phases["network"].functions)
        rows.append([name, len(everything), len(running), *(len(phases[phase].functions) for phase in PHASES), modules(everything),
                     f"{sum(phase.calls for phase in phases.values()) / 1e6:.1f}"])
    report.table("distinct functions of the host's kernel, executed on behalf of the monitor",
                 ["", "all", "disk and network", *PHASES, "of KVM's modules", "calls, million"], rows, command)
    everything = {name: union(phases) for name, phases in results.items()}
    report.table("functions that one reaches and the other does not",
                 ["reaches", *(f"not: {other}" for other in results)],
                 [[name, *(len(everything[name] - everything[other]) for other in results)] for name in results], command)
    for name in results:
        if name.startswith("mayfly"):
            peers = [other for other in results if other.startswith("qemu")]
            if peers:
                least = min(len(everything[other]) for other in peers)
                report.goal(f"fewer functions of the host's kernel than QEMU's microvm ({name})",
                            f"{len(everything[name])} to {least}", len(everything[name]) < least)


def measure(bench):
    report = bench.report
    linux.must_have("ping", "iputils-ping")
    linux.must_have("curl", "curl")
    networks, results, commands = Networks(), {}, {}
    report.measure("functions", "distinct functions of the host's kernel, from exec to exit", "functions")
    try:
        for name, (engine, command_of) in contenders(bench).items():
            try:
                phases, command = measure_one(bench, networks, name, engine, command_of)
            except CannotTrace as reason:
                raise CannotMeasure(str(reason)) from reason
            except ContenderFailed as reason:
                bench.say(f"surface: {name} is left out: {reason}")
                report.note(f"{name} was left out: {reason}")
                if name.startswith("mayfly"):
                    report.error = f"{name} failed: {reason}"
                continue
            results[name] = phases
            commands[name] = f"{command}   in the guest: {DISK_WORK}; on the host: ping, curl of 512 KiB from it"
            report.add("functions", name, len(union(phases)), command=commands[name])
    finally:
        networks.remove()
    if not results:
        raise CannotMeasure("no guest came up")
    tables(bench, results)
