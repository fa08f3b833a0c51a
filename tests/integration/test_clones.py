"""Clones of one snapshot: each has an id and random numbers of its own; time never goes back; memory comes on demand."""
import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket as sockets
import subprocess
import tempfile
import time

import pytest

from harness import kernels, small
from harness.api import ConnectionClosed
from harness.clock import wait_until
from harness.guest import Guest
from harness.workshop import log_of

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

MIB = 1 << 20
GENERATION_ID = 0xff000  # include/mayfly/layout.h


class Snapshot:
    """The two files, and how to load them."""

    def __init__(self, workshop, monitor, name="snapshot"):
        self.workshop = workshop
        self.state, self.memory = workshop.path(f"{name}.state"), workshop.path(f"{name}.memory")
        monitor.api.pause()
        monitor.api.put("/snapshot/create", {"snapshot_path": str(self.state), "mem_file_path": str(self.memory)})

    def request(self, backend="File", path=None, **fields):
        return {"snapshot_path": str(self.state), "resume_vm": True,
                "mem_backend": {"backend_type": backend, "backend_path": str(path or self.memory)}, **fields}

    def try_load(self, *args, **fields):
        """A new monitor, and what it answered."""
        log = self.workshop.path(f"log-of-clone-{len(self.workshop.monitors)}")
        monitor = self.workshop.monitor("--log-path", log, "--level", "Debug", "--show-level", api=True)
        monitor.log_path = log
        return monitor, monitor.api.request("PUT", "/snapshot/load", self.request(*args, **fields))

    def load(self, *args, **fields):
        monitor, answer = self.try_load(*args, **fields)
        assert answer.status == 204, answer
        return monitor

    def generation_id(self):
        data = self.memory.read_bytes()[GENERATION_ID:GENERATION_ID + 16]
        assert len(data) == 16
        return data


@pytest.fixture
def filled(workshop):
    """A guest of 64 MiB that has written 8 of them and can say whether they are still what they were."""
    return workshop.boot_small("memtouch", "bytes=8M mode=fill then=serve", mem=64).wait_ready()


def end(monitor):
    monitor.kill()


class TestGenerationId:
    @pytest.mark.once
    def test_every_load_of_a_snapshot_has_another_id(self, workshop, filled):
        first = Snapshot(workshop, filled.monitor)
        ids = {first.generation_id()}
        for number in range(3):
            clone = first.load(resume_vm=False)
            ids.add(Snapshot(workshop, clone, f"clone-{number}").generation_id())
            end(clone)
            assert len(ids) == number + 2
        assert bytes(16) not in ids

    @pytest.mark.parametrize("rounds", [3])
    def test_the_guests_kernel_reseeds_and_clones_draw_different_numbers(self, workshop, each_kernel, rounds):
        if not (each_kernel.with_acpi and each_kernel.generation_id):
            pytest.skip(f"the kernel {each_kernel} has no driver for the generation id, or no ACPI")
        guest = workshop.boot(each_kernel)
        assert "reseeded" not in guest.run("dmesg")
        snapshot = Snapshot(workshop, guest.monitor)
        guest.monitor.kill()
        drawn = set()
        for _ in range(rounds):
            clone = Guest(snapshot.load(), each_kernel)
            drawn.add(clone.run("head -c 32 /dev/urandom | sha256sum").strip())
            wait_until(lambda clone=clone: "crng reseeded due to virtual machine fork" in clone.run("dmesg"), 60,
                       "the kernel's word that it has reseeded")
            assert re.search(r"\b1\b.*ACPI:Ged", clone.run("cat /proc/interrupts"))
            end(clone.monitor)
        assert len(drawn) == rounds


class Moment:
    """What a guest's clocks show, and the host's before and behind."""

    def __init__(self, guest):
        self.low, self.wall_low = time.monotonic(), time.time()
        text = guest.run("cat /proc/uptime; adjtimex")
        self.high, self.wall_high = time.monotonic(), time.time()
        seconds, micros = (int(re.search(rf"time.tv_{unit}: +([0-9]+)", text)[1]) for unit in ("sec", "usec"))
        self.wall = seconds + micros / 1e6
        self.uptime = float(text.split()[0])

    def wall_off(self):
        """By how much the guest's wall clock is off for certain, in seconds."""
        return max(self.wall_low - self.wall, self.wall - self.wall_high, 0)


class TestClock:
    """Whatever the machine's speed: what is compared is what the host's clock showed at the same moments."""

    APART = 4          # seconds between a snapshot and its load
    RESOLUTION = 0.02  # of /proc/uptime, twice

    @pytest.fixture
    def saved(self, workshop, kernel):
        guest = workshop.boot(kernel)
        self.source = guest.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
        self.before = Moment(guest)
        snapshot = Snapshot(workshop, guest.monitor)
        self.paused = time.monotonic()
        guest.monitor.kill()
        time.sleep(self.APART)
        return snapshot

    def test_no_time_passes_while_a_guest_is_a_snapshot(self, kernel, saved):
        loads = time.monotonic()
        now = Moment(Guest(saved.load(), kernel))
        assert now.uptime >= self.before.uptime
        if kernels.host_kind() == "pvm" and self.source == "tsc":
            return  # such a host shows guests its own TSC, which nothing stops
        ran = (self.paused - self.before.low) + (now.high - loads)
        assert now.uptime - self.before.uptime <= ran + self.RESOLUTION
        assert now.wall - self.before.wall <= ran + self.RESOLUTION
        assert now.wall < now.wall_low - self.APART / 2, "nobody has told the guest what time it is"

    def test_with_clock_realtime_all_of_it_has_passed_and_the_wall_clock_is_right(self, kernel, saved):
        now = Moment(Guest(saved.load(clock_realtime=True), kernel))
        assert now.uptime - self.before.uptime >= (now.low - self.before.high) - self.RESOLUTION
        assert now.uptime - self.before.uptime <= (now.high - self.before.low) + self.RESOLUTION
        assert now.wall_off() <= self.before.wall_off() + 0.01

    def test_time_never_goes_back_in_a_chain_of_snapshots(self, workshop, kernel):
        guest = workshop.boot(kernel)
        last = Moment(guest)
        for number in range(4):
            snapshot = Snapshot(workshop, guest.monitor, f"chain-{number}")
            guest.monitor.kill()
            guest = Guest(snapshot.load(clock_realtime=bool(number % 2)), kernel)
            now = Moment(guest)
            assert now.uptime >= last.uptime and now.wall >= last.wall
            last = now


@pytest.fixture
def handler(program, workshop):
    """mayfly-uffd for a snapshot; ended with the test."""
    running = []

    def start(snapshot, *arguments):
        path = workshop.path(f"uffd-{len(running)}.sock")
        process = subprocess.Popen([program.parent / "uffd" / "mayfly-uffd", "--socket", path, "--memory-file",
                                    snapshot.memory, *arguments], stderr=subprocess.PIPE, start_new_session=True)
        running.append(process)
        wait_until(lambda: listens(path), 30, "the handler's socket")
        return process, path

    yield start
    for process in running:
        kill_session(process)
        process.stderr.close()


def listens(path):
    """A socket has its name before it listens: /proc/net/unix, __SO_ACCEPTCON."""
    lines = pathlib.Path("/proc/net/unix").read_text().splitlines()
    return any(line.endswith(f" {path}") and line.split()[3] == "00010000" for line in lines)


def statuses_of_session(session):
    """/proc/PID/status of its processes; others come and go meanwhile."""
    found = []
    for task in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((task / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append((task / "status").read_text())
    return found


def crc32c(data):
    """RFC 3720, 12.1."""
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def kill_session(process):
    """A handler with all the processes that serve monitors."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.once
class TestUffd:
    def test_a_guest_whose_memory_another_process_brings_has_all_of_it(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        _, path = handler(snapshot)
        clone = small.SmallGuest(snapshot.load("Uffd", path))
        assert clone.ask("verify")["bad"] == 0
        assert clone.ask("write")["pages"] > 0
        clone.tell("reset")
        assert clone.monitor.wait() == 0

    def test_the_thread_that_watches_the_handler_is_filtered_like_the_others(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        _, path = handler(snapshot)
        clone = small.SmallGuest(snapshot.load("Uffd", path))
        assert clone.ask("seed 1").name == "seed"
        modes = {(task / "comm").read_text().strip(): re.search(r"^Seccomp:\s+(\d)", (task / "status").read_text(), re.M)[1]
                 for task in pathlib.Path(f"/proc/{clone.monitor.pid}/task").iterdir()}
        assert modes.pop("uffd") == modes["mayfly"] == modes["vcpu0"]
        assert modes["mayfly"] in ("0", "2")  # builds with sanitizers have no filters

    @pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
    def test_a_handler_of_another_user_needs_no_rights_over_the_monitor(self, workshop, filled, program):
        snapshot = Snapshot(workshop, filled.monitor)
        with tempfile.TemporaryDirectory() as folder:
            os.chown(folder, 65534, 65534)
            binary = shutil.copy(program.parent / "uffd" / "mayfly-uffd", folder)
            memory = shutil.copy(snapshot.memory, folder)
            os.chmod(memory, 0o644)
            path = pathlib.Path(folder) / "socket"
            with subprocess.Popen([binary, "--socket", path, "--memory-file", memory], user=65534, group=65534,
                                  extra_groups=[], start_new_session=True) as process:
                try:
                    wait_until(lambda: listens(path), 30, "the handler's socket")
                    clone = small.SmallGuest(snapshot.load("Uffd", path))
                    assert clone.ask("verify")["bad"] == 0
                    seen = statuses_of_session(process.pid)
                    assert len(seen) == 2 and all("Uid:\t65534\t" in text for text in seen)
                    # The one that serves is filtered; the one that listens has to start others.
                    modes = sorted(re.search(r"^Seccomp:\s+(\d)", text, re.M)[1] for text in seen)
                    assert modes in (["0", "2"], ["0", "0"])  # builds with sanitizers have no filters
                finally:
                    kill_session(process)

    def test_a_guest_of_another_size_is_refused_by_the_handler(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        whole, other = snapshot.memory, workshop.path("other")
        # Such a file of a guest with twice the memory: src/snapshot/memory_tail.h.
        with open(whole, "rb") as file:
            file.seek(-8192, os.SEEK_END)
            tail = bytearray(file.read())
        twice = 2 * (whole.stat().st_size - 8192)
        tail[24:32] = twice.to_bytes(8, "little")
        tail[20:24] = bytes(4)
        tail[20:24] = crc32c(bytes(tail[:64])).to_bytes(4, "little")
        with open(other, "wb") as file:
            file.seek(twice)
            file.write(tail)
        snapshot.memory = other
        process, path = handler(snapshot)
        snapshot.memory = whole
        with contextlib.suppress(ConnectionClosed, OSError):  # its end may come before the answer
            snapshot.try_load("Uffd", path)
        assert workshop.monitors[-1].wait() == 1
        kill_session(process)
        assert b"and the memory file is of one with" in process.stderr.read()

    def test_several_monitors_are_served_at_once(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        _, path = handler(snapshot)
        clones = [small.SmallGuest(snapshot.load("Uffd", path)) for _ in range(3)]
        for clone in clones:
            assert clone.ask("verify")["bad"] == 0

    def test_a_handler_that_has_brought_everything_may_go(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        process, path = handler(snapshot, "--fill")
        clone = small.SmallGuest(snapshot.load("Uffd", path))
        wait_until(lambda: "has brought all of the guest's memory" in log_of(clone.monitor), 60, "the handler's last word")
        process.kill()
        assert clone.ask("verify")["bad"] == 0

    def test_a_handler_that_is_killed_ends_the_guest_with_an_error(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        process, path = handler(snapshot)
        clone = small.SmallGuest(snapshot.load("Uffd", path))
        assert clone.ask("seed 1").name == "seed"
        kill_session(process)
        assert clone.monitor.wait() == 1
        assert f"the handler on {path} is gone" in log_of(clone.monitor)

    def test_a_missing_handler_is_named(self, workshop, filled):
        snapshot = Snapshot(workshop, filled.monitor)
        monitor, answer = snapshot.try_load("Uffd", workshop.path("nobody.sock"))
        assert "nobody.sock" in answer.fault
        assert monitor.wait() != 0

    def test_a_handler_that_refuses_its_message_is_no_hang(self, workshop, filled, handler):
        """A memory file that is too short for what the monitor asks."""
        snapshot = Snapshot(workshop, filled.monitor)
        whole = snapshot.memory
        snapshot.memory = workshop.file("short", bytes(MIB))
        process, path = handler(snapshot)
        snapshot.memory = whole
        with contextlib.suppress(ConnectionClosed, OSError):  # its end may come before the answer
            snapshot.try_load("Uffd", path)
        monitor = workshop.monitors[-1]
        assert monitor.wait() == 1
        assert f"the handler on {path} is gone" in log_of(monitor)
        kill_session(process)
        assert b"memory file has no" in process.stderr.read()

    def test_a_handler_without_descriptors_waits_until_it_has_some(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        process, path = handler(snapshot)
        os.set_blocking(process.stderr.fileno(), False)
        highest = max(int(name) for name in os.listdir(f"/proc/{process.pid}/fd"))
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        # The first is accepted with the number that was found for it already.
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(sockets.socket(sockets.AF_UNIX)).connect(str(path))
            wait_until(lambda: b"Too many open files" in (process.stderr.read() or b""), 30, "the handler's complaint")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        assert small.SmallGuest(snapshot.load("Uffd", path)).ask("verify")["bad"] == 0

    def test_a_memory_file_that_is_cut_under_a_handler_ends_the_guest_with_words(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        process, path = handler(snapshot)
        clone = small.SmallGuest(snapshot.load("Uffd", path))
        assert clone.ask("seed 1").name == "seed"
        os.truncate(snapshot.memory, MIB)
        clone.tell("verify")
        assert clone.monitor.wait() == 1
        assert f"the handler on {path} is gone" in log_of(clone.monitor)
        assert process.poll() is None
        kill_session(process)
        assert b"the memory file was cut under a guest" in process.stderr.read()


@pytest.mark.once
class TestWorkingSet:
    def test_the_first_load_records_what_later_loads_bring_in_bulk(self, workshop, filled):
        snapshot = Snapshot(workshop, filled.monitor)
        path = workshop.path("working-set")
        first = small.SmallGuest(snapshot.load(working_set_path=str(path)))
        assert first.ask("verify")["bad"] == 0
        wait_until(lambda: re.search(r"working set .*: recorded", log_of(first.monitor)), 60, "the working set's record")
        end(first.monitor)
        later = small.SmallGuest(snapshot.load(working_set_path=str(path)))
        pages = int(re.search(r"working set .*: ([0-9]+) pages brought", log_of(later.monitor))[1])
        assert 8 * MIB // 4096 <= pages < 64 * MIB // 4096
        assert later.ask("verify")["bad"] == 0

    def test_a_guest_that_ends_early_leaves_its_working_set_too(self, workshop, filled):
        snapshot = Snapshot(workshop, filled.monitor)
        path = workshop.path("working-set")
        first = small.SmallGuest(snapshot.load(working_set_path=str(path)))
        first.tell("reset")
        assert first.monitor.wait() == 0
        assert path.exists()

    def test_a_damaged_file_is_refused_by_its_name(self, workshop, filled):
        snapshot = Snapshot(workshop, filled.monitor)
        path = workshop.file("working-set", b"no working set")
        _, answer = snapshot.try_load(working_set_path=str(path))
        assert "working set" in answer.fault and str(path) in answer.fault

    def test_a_handler_records_and_brings_a_working_set(self, workshop, filled, handler):
        snapshot = Snapshot(workshop, filled.monitor)
        path = workshop.path("working-set")
        _, socket = handler(snapshot, "--working-set", path)
        for _ in range(2):
            clone = small.SmallGuest(snapshot.load("Uffd", socket))
            assert clone.ask("verify")["bad"] == 0
            end(clone.monitor)
            wait_until(path.exists, 60, "the working set's file")
