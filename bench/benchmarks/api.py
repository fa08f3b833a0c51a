"""How long the API takes to answer `GET /` while the guest keeps disk and network busy.

One guest for each engine, with fio on its disk and iperf3 both ways through its TAP. Meanwhile requests are sent one after
the other, on a new connection each time (as curl does) and on one that stays open (as clients' libraries do). The same
guest without work comes first: what this machine's scheduler takes is in both.

On a machine with few processors the monitor's main thread often waits for one: guest, iperf3 and fio want them, too. What
the kernel says of that wait (/proc/PID/schedstat) is taken off in a second number, which then is what the event loop is
answerable for.

The disk's file is written through the host's page cache. `cold` has dropped it from there, so that reads wait for the
host's storage, which the Sync engine does on the loop's thread.
"""
import contextlib
import os
import pathlib
import socket
import time

from benchmarks import net
from framework import linux, monitors, statistics
from framework.session import ContenderFailed

SUMMARY = "GET / while fio and iperf3 keep a Linux guest's disk and network busy"
HOSTS = ("native",)
GOAL_NS = 10_000_000
FILE_MIB = 512
MEMORY_MIB = 256
BOOT_SECONDS = 120
FIO = "/usr/bin/fio"
PAUSE_SECONDS = 0.002
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
# name: (what it is, fio's words, whether the page cache is dropped)
LOADS = {
    "idle": ("nothing", None, False),
    "network": ("iperf3 alone", "", False),
    "reads": ("iperf3, and random reads of 4 KiB, depth 32", "--rw=randread --bs=4k --iodepth=32", False),
    "cold": ("the same from a file that is not in the page cache", "--rw=randread --bs=4k --iodepth=32", True),
    "cold-large": ("iperf3, and reads of 1 MiB, depth 8, not from the page cache", "--rw=read --bs=1m --iodepth=8", True),
    "writes": ("iperf3, and writes of 128 KiB, depth 8, a flush after 64 MiB",
               "--rw=write --bs=128k --iodepth=8 --fsync=512", False),
    "flushes": ("iperf3, and random writes of 4 KiB, depth 32, a flush after each 32",
                "--rw=randwrite --bs=4k --iodepth=32 --fsync=32", False),
}
CONNECTIONS = ("new", "kept")


def prepare(say, emulated, build):
    linux.prepare_kernel(say, emulated)
    root(build)


def root(build):
    linux.must_have("fio", "fio")
    linux.must_have("iperf3", "iperf3")
    return linux.image(build, "api", "--program", FIO, "--program", net.IPERF, size="256M")


class Client:
    """Asks for `/` and times the answer."""

    def __init__(self, path):
        self.path = os.fspath(path)
        self.kept = self.connect()

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(30)
        connection.connect(self.path)
        return connection

    @staticmethod
    def ask(connection):
        connection.sendall(REQUEST)
        answer = b""
        while b"}" not in answer:
            piece = connection.recv(65536)
            if not piece:
                raise ContenderFailed(f"the API closed the connection after {answer!r}")
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise ContenderFailed(f"the API answered {answer[:100]!r}")

    def timed(self, how):
        begin = time.monotonic_ns()
        if how == "kept":
            self.ask(self.kept)
        else:
            with contextlib.closing(self.connect()) as connection:
                self.ask(connection)
        return time.monotonic_ns() - begin


@contextlib.contextmanager
def first_of_all(bench):
    """The one who asks never waits for a processor: such waits are not the monitor's."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        bench.report.note("the client's own waits for a processor are part of the numbers: no privilege for SCHED_FIFO")
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def waited_ns(pid):
    """How long the monitor's main thread was ready to run, and did not."""
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()[1])


class Busy:
    """A guest with its load."""

    def __init__(self, bench, networks, engine):
        self.bench, self.engine = bench, engine
        self.data = linux.data_folder(bench) / f"api-{engine}.data"
        with open(self.data, "wb") as file:
            for _ in range(FILE_MIB):
                file.write(b"\x5a" * (1 << 20))
            os.fsync(file.fileno())
        tap, self.address = networks.tap()
        guest = monitors.LinuxGuest(linux.kernel(bench), "quiet", memory_mib=MEMORY_MIB, disks=(
            monitors.Disk(root(bench.build), engine, read_only=True), monitors.Disk(self.data, engine)),
            nics=(monitors.Nic(tap, f"02:00:5e:10:00:{networks.count:02x}"),))
        self.socket = bench.folder / f"api-{engine}.socket"
        words = monitors.mayfly_command(bench, guest, f"mayfly-api-{engine}")
        words[words.index("--no-api"):words.index("--no-api") + 1] = ["--api-sock", os.fspath(self.socket)]
        self.guest = linux.Guest(bench, words, BOOT_SECONDS)
        self.guest.run(f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up && {net.IPERF} -s -D >/dev/null")
        self.client = Client(self.socket)

    def run(self, line):
        """As Guest.run(). On a PVM host the guest's kernel now and then loses a program's TLS register when others use the
        processor as much as fio and iperf3 do (with QEMU, too), so that a command may end with SIGSEGV: then again."""
        for attempt in range(3):
            try:
                return self.guest.run(line)
            except ContenderFailed:
                if attempt == 2 or self.bench.kind != "pvm":
                    raise
        return ""

    def drop_from_cache(self):
        fd = os.open(self.data, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def sectors(self):
        """That the disk has moved so far."""
        fields = self.run("cat /sys/block/vdb/stat").split()
        return int(fields[2]) + int(fields[6])

    @contextlib.contextmanager
    def load(self, name, seconds):
        _, fio, cold = LOADS[name]
        iperf = None
        if cold:
            self.drop_from_cache()
        before = self.sectors()
        if fio:
            self.guest.run(f"({FIO} --name=bench --filename=/dev/vdb --direct=1 --ioengine=io_uring --invalidate=0 --thread "
                           f"--norandommap --size={FILE_MIB}M --time_based --runtime={seconds + 20} {fio} >/tmp/fio 2>&1 &)")
            end = time.monotonic() + BOOT_SECONDS
            while self.sectors() - before < 256:
                if time.monotonic() > end:
                    raise ContenderFailed(f"fio moves nothing: {self.guest.run('cat /tmp/fio').strip()[-300:]}")
                time.sleep(0.1)
        if fio is not None:
            iperf = self.bench.start([net.IPERF, "-c", self.address, "--bidir", "-t", str(seconds + 20)], stdout=None)
            time.sleep(1)
        try:
            yield
            if iperf and iperf.poll(0):
                raise ContenderFailed("iperf3 ended too early")
        finally:
            if iperf:
                self.bench.forget(iperf)
            if fio:
                self.run("killall fio; while pidof fio >/dev/null; do sleep 0.1; done; true")
            if fio is not None:
                self.run("killall iperf3; while pidof iperf3 >/dev/null; do sleep 0.1; done; "
                         f"{net.IPERF} -s -D >/dev/null; sleep 0.5")

    def end(self):
        self.guest.end()
        self.data.unlink(missing_ok=True)


def measure_one(bench, busy, load, seconds):
    report, name = bench.report, f"{busy.engine}, {load}"
    command = f"{busy.guest.command}   and GET / on {busy.socket} beside: {LOADS[load][0]}"
    bench.progress.show(f"api: {name}")
    pid = busy.guest.child.pid
    times = {how: [] for how in CONNECTIONS}
    with busy.load(load, seconds), first_of_all(bench):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for how in CONNECTIONS:
                before = waited_ns(pid)
                whole = busy.client.timed(how)
                times[how].append((whole, max(0, whole - (waited_ns(pid) - before))))
                time.sleep(PAUSE_SECONDS)
    for how in CONNECTIONS:
        for whole, without in times[how]:
            report.add(how, name, whole, command=command)
            report.add(f"{how}-loop", name, without, command=command)


def measure(bench):
    report = bench.report
    seconds = 3 if bench.options.quick else 15
    for how, title in zip(CONNECTIONS, ("each on a new connection", "all on one connection")):
        report.measure(how, f"GET /, {title}", "ns")
        report.measure(f"{how}-loop", f"GET /, {title}: without the main thread's wait for a processor", "ns")
    networks, guests = net.Networks(), []
    try:
        for engine in ("Sync", "Async"):
            bench.progress.show(f"api: booting with {engine}")
            guests.append(Busy(bench, networks, engine))
            guests[-1].guest.hold()
        for load in LOADS:
            for busy in guests:
                busy.guest.go_on()
                measure_one(bench, busy, load, seconds)
                busy.guest.hold()
        for busy in guests:
            for load in list(LOADS)[1:]:
                for how in CONNECTIONS:
                    whole, loop = (statistics.percentile(report.values(name, f"{busy.engine}, {load}"), 99)
                                   for name in (how, f"{how}-loop"))
                    report.goal(f"GET / within 10 ms at the 99th percentile: {busy.engine}, {load}, {how} connection",
                                f"{whole / 1e6:.2f} ms, of which the loop's {loop / 1e6:.2f} ms", whole <= GOAL_NS)
    finally:
        for busy in guests:
            busy.end()
        networks.remove()
