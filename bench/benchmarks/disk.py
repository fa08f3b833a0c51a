"""Disk reads and writes in a Linux guest, against the host doing the same without a guest, and against the peers.

fio in the guest, with O_DIRECT so that every request goes to the device; on the host fio on a file of the same size and
contents (writers lock theirs), read and written through the host's page cache, as the monitors do. The files are in that
cache, so the way there is measured and not the host's storage. All guests are booted once and stand still (SIGSTOP) but for the one whose turn it is.

Native: requests per second and their latency. In the emulated host: instructions per request, of everything together
(guest, monitor, host kernel; on the host: fio and the kernel), without idle time; the difference between a long and a
short run of fio, so that starting fio does not count. KVM's tracepoints then tell the guest's own (framework/kvm_trace.py).
"""
import contextlib

from framework import linux, machine, monitors
from framework.children import clock_ns
from framework.kvm_trace import CannotTrace, recorded
from framework.plots import Plot
from framework.session import CannotMeasure, ContenderFailed, Sample

SUMMARY = "fio in Linux guests, both engines, against the host without a guest and the peers"
HOSTS = ("native", "emulated")
GOAL = 1.25
FIO = "/usr/bin/fio"
FILE_BYTES = 64 << 20
MEMORY_MIB = 256
BOOT_SECONDS = {"native": 120, "emulated": 36000}
# name: what it is, fio's words
JOBS = {
    "randread-1": ("random read, 4 KiB, queue depth 1", "--rw=randread --bs=4k --iodepth=1"),
    "randread-32": ("random read, 4 KiB, queue depth 32", "--rw=randread --bs=4k --iodepth=32 "
                    "--iodepth_batch_submit=16 --iodepth_batch_complete_min=1 --iodepth_batch_complete_max=32"),
    "randwrite-32": ("random write, 4 KiB, queue depth 32", "--rw=randwrite --bs=4k --iodepth=32 "
                     "--iodepth_batch_submit=16 --iodepth_batch_complete_min=1 --iodepth_batch_complete_max=32"),
    "read-8": ("sequential read, 128 KiB, queue depth 8", "--rw=read --bs=128k --iodepth=8"),
}
SHORT, LONG = 500, 2500        # requests of a short and a long run, by which instructions per request are found
TRACED = (100, 600)            # under tracepoints, whose text takes long to read there
LARGE = {"read-8"}             # a sixteenth of them


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    root(build)


def root(build):
    linux.must_have("fio", "fio")
    return linux.image(build, "disk", "--program", FIO, size="256M")


def fio(job, filename, direct, how):
    return (f"{FIO} --name=bench --filename={filename} --direct={direct} --ioengine=io_uring --invalidate=0 --thread "
            f"--norandommap --minimal {JOBS[job][1]} {how}")


def fields(text):
    """Requests per second and mean latency in ns from fio's terse output, version 3."""
    line = next((line for line in text.splitlines() if line.startswith("3;fio")), "")
    values = line.split(";")
    if len(values) < 100 or values[4] != "0":
        raise ContenderFailed(f"fio said: {text.strip()[-300:]}")
    start = 5 if int(values[5]) else 46           # the reads' fields, or the writes'
    # KiB, KiB/s, IOPS, ms; the latencies of submission and completion (4 each), 20 percentiles; both: min, max, mean in µs
    return float(values[start + 2]), float(values[start + 34]) * 1e3


class Host:
    """fio without a guest."""

    def __init__(self, bench, path):
        self.bench, self.path = bench, path

    def run(self, job, how):
        command = fio(job, self.path, 0, how)
        return self.bench.run(command.split(), seconds=BOOT_SECONDS[self.bench.host]).must(0).stdout.decode(), command

    def hold(self):
        pass

    go_on = end = hold


class InGuest:
    """fio in a guest that stays."""

    def __init__(self, bench, command):
        self.bench = bench
        self.guest = linux.Guest(bench, command, BOOT_SECONDS[bench.host])
        self.hold, self.go_on, self.end = self.guest.hold, self.guest.go_on, self.guest.end

    def run(self, job, how):
        command = fio(job, "/dev/vdb", 1, how)
        return self.guest.run(command, BOOT_SECONDS[self.bench.host]), f"{self.guest.command}   in the guest: {command}"


def leave_out(bench, name, reason):
    bench.say(f"disk: {name} is left out: {reason}")
    bench.report.note(f"{name} was left out: {reason}")


def contenders(bench):
    """{name: Host or InGuest}, all held; the file of each lies in the page cache."""
    folder = linux.data_folder(bench)
    found, paths = {}, []
    kernel, image = linux.kernel(bench), root(bench.build)

    def data():
        path = folder / f"bench-{len(paths)}.data"
        paths.append(path)
        with open(path, "wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(b"\x5a" * (1 << 20))
        return path

    def add(name, command_of, engine):
        path = data()
        try:
            guest = monitors.LinuxGuest(kernel, "quiet", memory_mib=MEMORY_MIB, disks=(
                monitors.Disk(image, engine, read_only=True), monitors.Disk(path, engine)))
            bench.progress.show(f"disk: booting {name}")
            found[name] = InGuest(bench, command_of(guest))
            found[name].hold()
        except ContenderFailed as reason:
            leave_out(bench, name, reason)

    found["host"] = Host(bench, data())
    for engine in ("Sync", "Async"):
        add(f"mayfly, {engine}", lambda guest: monitors.mayfly_command(bench, guest, f"mayfly-{engine}"), engine)
    for peer in bench.peers:
        for engine in ("Sync", "Async") if peer in ("qemu", "firecracker") else ("Sync",):
            name = {("qemu", "Sync"): "qemu, threads", ("qemu", "Async"): "qemu, io_uring"}.get((peer, engine), f"{peer}, {engine}")
            add(name, lambda guest: monitors.peer_command(bench, peer, guest, f"{peer}-{engine}"), engine)
    bench.run(["sync"], seconds=BOOT_SECONDS[bench.host])
    return found, paths


@contextlib.contextmanager
def turn(contender):
    contender.go_on()
    try:
        yield contender
    finally:
        contender.hold()


def measure_native(bench, found):
    report = bench.report
    for job, (title, _) in JOBS.items():
        report.measure(job, title, "requests/s", better="more", baseline="host")
        report.measure(f"{job}-latency", f"{title}: mean latency", "ns", baseline="host")

        def once(name, job=job):
            with turn(found[name]) as contender:
                text, command = contender.run(job, f"--runtime=1 --time_based --size={FILE_BYTES}")
            rate, latency = fields(text)
            return Sample({job: rate, f"{job}-latency": latency}, command)

        bench.interleave({name: lambda name=name, once=once: once(name) for name in found},
                         samples=bench.options.samples or (2 if bench.options.quick else 5), warmup=0)


def whose(bench, found, job):
    """Of each guest's requests: what the guest itself executes, and how often it exits for what."""
    report = bench.report
    rows = []
    for name, contender in found.items():
        everything = report.median(job, name)
        if name == "host" or everything is None:
            continue
        traces = []
        with turn(contender):
            for count in TRACED:
                bench.progress.show(f"disk: tracing {name}, {count} requests")
                with recorded() as trace:
                    contender.run(job, f"--io_size={4 * count}k --size={FILE_BYTES}")
                traces.append(trace)
        short, long = traces
        more = TRACED[1] - TRACED[0]
        own = (long.guest - short.guest) / more
        exits = {reason: (count - short.exits.get(reason, (0, 0))[0]) / more
                 for reason, (count, _) in long.exits.items()}
        often = [f"{reason} {each:.2f}" for reason, each in sorted(exits.items(), key=lambda item: -item[1]) if each >= 0.01]
        rows.append([name, f"{everything:.0f}", f"{own:.0f}", f"{everything - own:.0f}", f"{sum(exits.values()):.2f}",
                     ", ".join(often)])
    report.table(f"{JOBS[job][0]}: whose instructions, and exits, per request",
                 ["", "all", "the guest's own", "monitor and host kernel", "exits", "of these"], rows,
                 "the commands below, with KVM's tracepoints kvm_entry and kvm_exit recorded")


def measure_instructions(bench, found):
    report = bench.report
    for name, contender in list(found.items()):
        bench.progress.show(f"disk: warming up: {name}")
        try:
            with turn(contender):
                contender.run("randread-1", f"--io_size={4 * SHORT}k --size={FILE_BYTES}")
        except ContenderFailed as reason:
            leave_out(bench, name, reason)
            found.pop(name).end()
    for job, (title, _) in JOBS.items():
        report.measure(job, f"{title}: instructions per request", "instructions", baseline="host")
        fewer = 16 if job in LARGE else 1

        def work(contender, count, job=job):
            size = (128 if job in LARGE else 4) * count
            before = clock_ns() - machine.idle_ns()
            text, command = contender.run(job, f"--io_size={size}k --size={FILE_BYTES}")
            fields(text)
            return clock_ns() - machine.idle_ns() - before, command

        def once(name, job=job, fewer=fewer, work=work):
            with turn(found[name]) as contender:
                short, _ = work(contender, SHORT // fewer)
                long, command = work(contender, LONG // fewer)
            return Sample({job: (long - short) / (LONG // fewer - SHORT // fewer)}, command)

        bench.interleave({name: lambda name=name, once=once: once(name) for name in found},
                         samples=bench.options.samples or (1 if bench.options.quick else 2), warmup=0)
    try:
        whose(bench, found, "randread-32")
    except CannotTrace as reason:
        report.note(f"whose instructions they are was not measured: {reason}")
    goals(bench, found)


def goals(bench, found):
    report = bench.report
    for name in found:
        if not name.startswith("mayfly"):
            continue
        ratio = report.ratio("randread-32", name, "host")
        if ratio:
            report.goal(f"instructions per 4 KiB random read at depth 32 at most {GOAL:g}x the host's own ({name})",
                        f"{ratio.median:.2f}x", ratio.median <= GOAL)
        for job in JOBS:
            peers = [report.ratio(job, name, peer) for peer in found if peer.startswith("qemu")]
            if peers and all(peers):
                best = max(peer.median for peer in peers)
                report.goal(f"fewer instructions than QEMU: {JOBS[job][0]} ({name})",
                            f"{best:.2f}x of QEMU's better mode", best < 1)


def plot(bench, found):
    report = bench.report
    jobs = [job for job in JOBS if report.contenders(job)]
    what = "requests per second" if bench.host == "native" else "instructions per request"
    series = []
    for name in found:
        relative = []
        for job in jobs:
            ratio = report.ratio(job, name, "host")
            relative.append((ratio.p25, ratio.median, ratio.p75) if ratio and name != "host" else (1, 1, 1))
        if name != "host":
            series.append((name, relative))
    if jobs and series:
        report.plot(Plot("host", f"Disk in a Linux guest: {what}, relative to the host without a guest", "",
                         "host = 1 (median, quartiles)", series, kind="bars", categories=tuple(jobs)))


def measure(bench):
    found, paths = contenders(bench)
    try:
        if len(found) == 1:
            raise CannotMeasure("no guest came up")
        if bench.host == "native":
            measure_native(bench, found)
        else:
            measure_instructions(bench, found)
        plot(bench, found)
    finally:
        for contender in found.values():
            contender.end()
        for path in paths:
            path.unlink(missing_ok=True)
