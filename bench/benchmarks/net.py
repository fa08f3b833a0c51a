"""Network throughput and round trips of a Linux guest over TAP, against the host across a veth pair, and the peers.

iperf3's server and the kernel that answers ping are in the guest, or for the host's own numbers in a network namespace
behind a veth pair; client and ping run on the host, with the same words for all. All guests are booted once and stand
still (SIGSTOP) but for the one whose turn it is. QEMU is there twice: with its own virtio-net, as Mayfly has it, and
with the host kernel's (vhost=on), which moves the work out of the process and is what most of its users take.

Native: bytes per second and the time of a round trip. In the emulated host: instructions of everything together (guest,
monitor, host kernel, iperf3) per KiB and per round trip, without idle time; the difference between a long and a short
run, so that starting programs does not count.
"""
import contextlib
import json
import os
import pathlib
import re
import subprocess

from framework import linux, machine, monitors
from framework.children import clock_ns
from framework.plots import Plot
from framework.session import CannotMeasure, ContenderFailed, Sample

SUMMARY = "iperf3 and ping of Linux guests over TAP, against a veth pair and the peers"
HOSTS = ("native", "emulated")
IPERF = "/usr/bin/iperf3"
MEMORY_MIB = 256
SECONDS = {"native": 120, "emulated": 36000}
# name: what it is, iperf3's words
JOBS = {
    "tcp-in": ("TCP, host to guest", []),
    "tcp-out": ("TCP, guest to host", ["-R"]),
    "udp-in": ("UDP of 1400 bytes, host to guest, what arrives", ["-u", "-b", "0", "-l", "1400"]),
    "udp-out": ("UDP of 1400 bytes, guest to host, what arrives", ["-u", "-b", "0", "-l", "1400", "-R"]),
}
# In the emulated host's one processor, sender and receiver of UDP take turns and most of it is lost.
COUNTED_JOBS = ("tcp-in", "tcp-out")
SHORT_BYTES, LONG_BYTES = 8 << 20, 40 << 20
SHORT_PINGS, LONG_PINGS = 50, 550


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    root(build)


def root(build):
    linux.must_have("iperf3", "iperf3")
    return linux.image(build, "net", "--program", IPERF, size="128M")


def ip(*words, check=True):
    done = subprocess.run(["ip", *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    if check and done.returncode != 0:
        raise CannotMeasure(f"ip {' '.join(map(str, words))}: {done.stderr.strip() or done.returncode}")


class Networks:
    """A small network for each contender: 198.18.N.1 is the host, 198.18.N.2 the guest. Gone at the end."""

    def __init__(self):
        self.prefix = f"mfb{os.getpid()}"
        self.count = 0
        self.links, self.namespaces = [], []

    def tap(self):
        """Makes a TAP; returns (its name, the guest's address)."""
        number, name = self.next()
        ip("tuntap", "add", "dev", name, "mode", "tap")
        self.links.append(name)
        self.up(name, number)
        return name, f"198.18.{number}.2"

    def veth(self):
        """Makes a namespace behind a veth pair; returns (its name, its address)."""
        number, name = self.next()
        namespace, far = name, f"{name}f"
        ip("netns", "add", namespace)
        self.namespaces.append(namespace)
        ip("link", "add", name, "type", "veth", "peer", "name", far, "netns", namespace)
        self.links.append(name)
        self.up(name, number)
        ip("-n", namespace, "addr", "add", f"198.18.{number}.2/24", "dev", far)
        ip("-n", namespace, "link", "set", far, "up")
        ip("-n", namespace, "link", "set", "lo", "up")
        return namespace, f"198.18.{number}.2"

    def next(self):
        self.count += 1
        return self.count, f"{self.prefix}n{self.count}"

    @staticmethod
    def up(name, number):
        ip("addr", "add", f"198.18.{number}.1/24", "dev", name)
        ip("link", "set", name, "up")

    def remove(self):
        for name in self.links:
            ip("link", "del", name, check=False)
        for name in self.namespaces:
            ip("netns", "del", name, check=False)


class Host:
    """The server in a namespace."""

    def __init__(self, bench, networks):
        namespace, self.address = networks.veth()
        self.child = bench.start(["ip", "netns", "exec", namespace, IPERF, "-s"], stdout=None)
        self.command = self.child.command

    def go_on(self):
        pass

    hold = serve = go_on

    def end(self):
        self.child.kill()


class InGuest:
    """The server in a guest."""

    def __init__(self, bench, networks, command_of):
        tap, self.address = networks.tap()
        seconds = SECONDS[bench.host]
        self.guest = linux.Guest(bench, command_of(monitors.Nic(tap, f"02:00:5e:10:00:{networks.count:02x}")), seconds)
        self.hold, self.go_on, self.end = self.guest.hold, self.guest.go_on, self.guest.end
        self.command, self.seconds = self.guest.command, seconds
        self.guest.run(f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up", seconds)
        self.serve()

    def serve(self):
        """A server that knows nothing of the run before: one whose client was cut off refuses the next."""
        self.guest.run(f"killall iperf3 2>/dev/null; {IPERF} -s -D >/dev/null", self.seconds)


def iperf(bench, contender, job, *how):
    """Runs iperf3's client; returns (MiB per second that arrived, the command)."""
    command = [IPERF, "-c", contender.address, "-J", *JOBS[job][1], *how]
    done = bench.run(command, seconds=SECONDS[bench.host])
    try:
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise ContenderFailed(f"{done.command}: {answer['error']}")
        end = answer["end"]
        if "-u" in JOBS[job][1]:
            rate = end["sum"]["bits_per_second"] * (1 - end["sum"]["lost_percent"] / 100)
        else:
            rate = end["sum_received"]["bits_per_second"]
    except (ValueError, KeyError) as error:
        raise ContenderFailed(f"{done.command}: no result: {(done.stderr or done.stdout)[-200:]!r}") from error
    return rate / 8 / (1 << 20), f"{contender.command}   and: {done.command}"


def ping(bench, contender, count):
    """`count` round trips, each as soon as the one before is over; returns (mean ns, the command)."""
    done = bench.run(["ping", "-q", "-f", "-c", str(count), contender.address], seconds=SECONDS[bench.host]).must(0)
    match = re.search(rb"= [0-9.]+/([0-9.]+)/", done.stdout)
    if not match:
        raise ContenderFailed(f"{done.command}: {done.stdout[-200:]!r}")
    return float(match[1]) * 1e6, f"{contender.command}   and: {done.command}"


def contenders(bench, networks):
    kernel, image = linux.kernel(bench), root(bench.build)
    found = {"host": Host(bench, networks)}

    def add(name, command_of):
        def command(nic):
            return command_of(monitors.LinuxGuest(kernel, "quiet", memory_mib=MEMORY_MIB, nics=(nic,),
                                                  disks=(monitors.Disk(image, read_only=True),)))
        try:
            bench.progress.show(f"net: booting {name}")
            found[name] = InGuest(bench, networks, command)
            found[name].hold()
        except ContenderFailed as reason:
            bench.say(f"net: {name} is left out: {reason}")
            bench.report.note(f"{name} was left out: {reason}")

    add("mayfly", lambda guest: monitors.mayfly_command(bench, guest, "mayfly-net"))
    for peer in bench.peers:
        add(peer, lambda guest, peer=peer: monitors.peer_command(bench, peer, guest, f"{peer}-net"))
        if peer == "qemu":
            subprocess.run(["modprobe", "vhost_net"], check=False, stderr=subprocess.DEVNULL)
            if pathlib.Path("/dev/vhost-net").exists():
                add("qemu, vhost", lambda guest: monitors.peer_command(bench, "qemu", guest, "qemu-vhost", vhost=True))
            else:
                bench.report.note("qemu, vhost was left out: this host has no /dev/vhost-net")
    return found


@contextlib.contextmanager
def turn(contender):
    contender.go_on()
    try:
        yield contender
    finally:
        contender.hold()


def measure_native(bench, found):
    report = bench.report
    rounds = bench.options.samples or (2 if bench.options.quick else 4)
    seconds = "1" if bench.options.quick else "2"
    for job, (title, _) in JOBS.items():
        report.measure(job, title, "MiB/s", better="more", baseline="host")

        def once(name, job=job):
            with turn(found[name]) as contender:
                contender.serve()
                rate, command = iperf(bench, contender, job, "-t", seconds)
            return Sample({job: rate}, command)

        bench.interleave({name: lambda name=name, once=once: once(name) for name in found}, samples=rounds, warmup=0)
    report.measure("ping", "round trip, one after the other", "ns", baseline="host")

    def round_trip(name):
        with turn(found[name]) as contender:
            mean, command = ping(bench, contender, 1000)
        return Sample({"ping": mean}, command)

    bench.interleave({name: lambda name=name: round_trip(name) for name in found}, samples=rounds, warmup=0)


def measure_instructions(bench, found):
    report = bench.report
    rounds = bench.options.samples or (1 if bench.options.quick else 2)

    def work(action):
        before = clock_ns() - machine.idle_ns()
        _, command = action()
        return clock_ns() - machine.idle_ns() - before, command

    def slope(name, action, short, long):
        with turn(found[name]) as contender:
            action(contender, short)              # finds the neighbour, opens the window
            least, _ = work(lambda: action(contender, short))
            most, command = work(lambda: action(contender, long))
        return (most - least) / (long - short), command

    for job in COUNTED_JOBS:
        report.measure(job, f"{JOBS[job][0]}: instructions per KiB", "instructions", baseline="host")

        def once(name, job=job):
            each, command = slope(name, lambda contender, size: iperf(bench, contender, job, "-n", str(size)),
                                  SHORT_BYTES, LONG_BYTES)
            return Sample({job: 1024 * each}, command)

        bench.interleave({name: lambda name=name, once=once: once(name) for name in found}, samples=rounds, warmup=0)
    report.measure("ping", "instructions per round trip", "instructions", baseline="host")

    def round_trip(name):
        each, command = slope(name, lambda contender, count: ping(bench, contender, count), SHORT_PINGS, LONG_PINGS)
        return Sample({"ping": each}, command)

    bench.interleave({name: lambda name=name: round_trip(name) for name in found}, samples=rounds, warmup=0)
    for job in (*COUNTED_JOBS, "ping"):
        ratio = report.ratio(job, "mayfly", "qemu")
        if ratio:
            what = JOBS[job][0] if job in JOBS else "round trip"
            report.goal(f"fewer instructions than QEMU without vhost: {what}", f"{ratio.median:.2f}x", ratio.median < 1)


def plot(bench, found):
    report = bench.report
    jobs = [job for job in (*JOBS, "ping") if report.contenders(job)]
    series = []
    for name in found:
        ratios = [report.ratio(job, name, "host") for job in jobs]
        if name != "host" and all(ratios):
            series.append((name, [(ratio.p25, ratio.median, ratio.p75) for ratio in ratios]))
    if series:
        what = "bytes per second, and the time of a round trip," if bench.host == "native" else "instructions"
        report.plot(Plot("host", f"A Linux guest's network: {what} relative to a veth pair", "",
                         "host = 1 (median, quartiles)", series, kind="bars", categories=tuple(jobs)))


def measure(bench):
    linux.must_have("ip", "iproute2")
    linux.must_have("ping", "iputils-ping")
    networks, found = Networks(), {}
    try:
        found = contenders(bench, networks)
        if len(found) == 1:
            raise CannotMeasure("no guest came up")
        (measure_native if bench.host == "native" else measure_instructions)(bench, found)
        plot(bench, found)
    finally:
        for contender in found.values():
            contender.end()
        networks.remove()
