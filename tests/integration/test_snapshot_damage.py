"""State files with damage in any byte, through real loads: refused by name, or contained; never a crash.

What a checksum finds, and what it does not: bytes are flipped as they are, and again with all checksums made right, as by
somebody who means it. `./check` takes a sample; MAYFLY_EXHAUSTIVE=1 takes every byte and every length (tests/README.md).
"""
import collections
import contextlib
import dataclasses
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import time

import pytest

from harness import kernels, network
from harness.api import Connection, ConnectionClosed
from harness.clock import EXHAUSTIVE, FACTOR, deadline, scaled
from harness.snapshots import Snapshot, save
from test_daytime import boot as boot_daytime
from test_small_guests_disk import ready

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

HEAD_BYTES, SECTION_HEAD_BYTES = 16, 16  # docs/snapshot-format.md
LOAD_FAILED = 152
SAMPLE = 30

# What goes to KVM. Where a guest's processor is not the hardware's but played by the host's kernel, hostile registers would
# test that kernel, and its crash would be everybody's: there it is left to the emulated host, which has only this to do.
PROCESSOR_SECTIONS = ("vcpu", "vm")
PARTS = {"processor": lambda section: section.name in PROCESSOR_SECTIONS,
         "devices": lambda section: section.name not in (*PROCESSOR_SECTIONS, "end")}
if kernels.host_kind() == "pvm":
    del PARTS["processor"]
elif FACTOR > 1 and not EXHAUSTIVE:
    del PARTS["devices"]

# QEMU's interpreter ends with "invalid tss" when a guest takes an interrupt from ring 3 while its TR is not present: where it
# plays the host's processor, two bytes would end the host. Where they are: src/vcpu_state.c.
INTERPRETED = "QEMU TCG" in pathlib.Path("/proc/cpuinfo").read_text()
CPUID_ENTRY_BYTES, MP_STATE_BYTES, REGISTERS_BYTES, SEGMENT_BYTES = 28, 4, 18 * 8, 23
TR, PRESENT, UNUSABLE = 6, 15, 22  # of the segments; in a segment

# How much of its processor a damaged guest is given, in seconds of the processor: about what an answer takes.
WORK_SECONDS = 0.002

# Of all bytes of a part, so many are one test: it takes long, and may be run beside others or again.
CHUNK = 1000
CHUNKS = {"processor": 12, "devices": 2}


@dataclasses.dataclass
class Section:
    name: str
    instance: str
    start: int
    body: int
    end: int

    def __str__(self):
        return f"section {self.name}" + (f" {self.instance}" if self.instance else "")


def sections(state):
    found, place = [], HEAD_BYTES
    while place < len(state):
        length, _, _, name_bytes, instance_bytes, _ = struct.unpack_from("<IIHBBI", state, place)
        names = place + SECTION_HEAD_BYTES
        body = names + name_bytes + instance_bytes
        found.append(Section(state[names:names + name_bytes].decode(), state[names + name_bytes:body].decode(), place, body,
                             body + length))
        place = body + length
    return found


def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xff] ^ crc >> 8
    return crc ^ 0xffffffff


def crc32c_table():
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82f63b78 if value & 1 else 0)
        yield value


TABLE = list(crc32c_table())


def mended(state):
    """The same with right checksums, as far as the frame is whole."""
    state = bytearray(state)
    for section in sections(state):
        if section.name == "end":
            struct.pack_into("<I", state, section.end - 4, crc32c(state[:section.start]))
        struct.pack_into("<I", state, section.start + 4, 0)
        struct.pack_into("<I", state, section.start + 4, crc32c(state[section.start:section.end]))
    return bytes(state)


class Mender:
    """mended() of a state in which one byte was changed, without going through all others: a CRC is linear, so what a
    changed bit does to it depends on nothing but the number of bytes behind."""

    def __init__(self, state):
        self.state, self.last = state, sections(state)[-1]
        self.effects = []
        for bit in range(8):
            self.effects.append([TABLE[1 << bit]])
            while len(self.effects[bit]) < len(state):
                crc = self.effects[bit][-1]
                self.effects[bit].append(TABLE[crc & 0xff] ^ crc >> 8)

    def change_crc(self, changes, end, crc_place):
        """Makes a CRC right that counts the bytes up to `end`; `changes` are (place, bits), and get its own."""
        crc = 0
        for place, bits in changes:
            for bit in range(8):
                if bits >> bit & 1:
                    crc ^= self.effects[bit][end - 1 - place]
        return changes + [(crc_place + i, byte) for i, byte in enumerate(struct.pack("<I", crc))]

    def flipped(self, section, place, bits):
        changes = self.change_crc([(place, bits)], section.end, section.start + 4)
        changes = self.change_crc(changes, self.last.start, self.last.end - 4)
        changes += self.change_crc(changes[-4:], self.last.end, self.last.start + 4)[-4:]
        state = bytearray(self.state)
        for changed, difference in changes:
            state[changed] ^= difference
        return bytes(state)


class Outcome:
    """Of one load: the answer, what the guest then did, the status of a process that has ended by itself."""

    def __init__(self, answer, guest, status, log):
        self.answer, self.guest, self.status, self.log = answer, guest, status, log

    @property
    def refused(self):
        return self.answer is not None and self.answer.status == 400

    def __repr__(self):
        return f"{self.answer}, the guest {self.guest}, status {self.status}: {self.log[-2000:]}"


class Processor:
    """The thread of a guest's only vCPU, as the host's kernel sees it."""

    KVM_RUN = "16 0x[0-9a-f]+ 0xae80 "  # ioctl(2)

    def __init__(self, process):
        self.tasks, self.folder = pathlib.Path("/proc", str(process.pid), "task"), None

    def read(self, name):
        """Nothing, of a thread that has no name yet or has ended."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self.folder = self.folder or next(
                (task for task in self.tasks.iterdir() if (task / "comm").read_text() == "vcpu0\n"), None)
            return (self.folder / name).read_text() if self.folder else ""
        return ""

    def seconds(self):
        return int((self.read("schedstat") or "0").split()[0]) / 1e9

    def halted(self):
        return re.match(self.KVM_RUN, self.read("syscall")) is not None


class Loads:
    """One snapshot, loaded by a process for each version of its state file."""

    def __init__(self, workshop, monitor, wire=None, line="", answer=b""):
        """`line` is typed to each loaded guest; a whole one answers so."""
        self.workshop, self.wire, self.line, self.answer = workshop, wire, line, answer
        self.snapshot = save(monitor, Snapshot.at(workshop, "good"))
        monitor.kill()
        workshop.forget(monitor)
        self.good = self.snapshot.state.read_bytes()
        self.sections = sections(self.good)
        self.socket, self.errors, self.output = (workshop.path(f"load.{name}") for name in ("sock", "err", "out"))
        self.body = self.snapshot.load_body(resume_vm=True)
        # Started thousands of times: not through the share of an emulated host.
        self.program = shutil.copy(workshop.program, workshop.path("mayfly"))

    def section_at(self, place):
        return next((section for section in self.sections if section.start <= place < section.end), None)

    @contextlib.contextmanager
    def monitor(self):
        """A process that waits for a load, and a connection to its API."""
        self.socket.unlink(missing_ok=True)
        with contextlib.ExitStack() as stack:
            errors, output = (stack.enter_context(open(path, "wb")) for path in (self.errors, self.output))
            typed, keyboard = (stack.enter_context(open(fd, mode, buffering=0)) for fd, mode in zip(os.pipe(), ("rb", "wb")))
            keyboard.write(self.line.encode())
            with self.wire.inside() if self.wire else contextlib.nullcontext():
                process = subprocess.Popen([self.program, "--api-sock", self.socket], stdin=typed, stdout=output, stderr=errors,
                                           cwd=self.workshop.folder)
            try:
                end, connection = deadline(30), None
                while not connection:
                    assert process.poll() is None and time.monotonic() < end, self.errors.read_text()
                    time.sleep(scaled(0.0005))
                    with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                        connection = stack.enter_context(Connection(self.socket))
                yield process, connection
            finally:
                process.kill()
                process.wait()

    def watch(self, process, connection, patient):
        """Until the guest has answered, has had its time, or stands still. With `patient` only an answer will do."""
        processor, halted, end = Processor(process), 0, deadline(60)
        while not (self.line and self.answer in self.output.read_bytes()):
            if process.poll() is not None:
                return "ends"
            halted = halted + 1 if processor.halted() else 0
            if not patient and halted > 4:
                return "stands still"
            if not patient and processor.seconds() > scaled(WORK_SECONDS):
                return "is busy"
            assert time.monotonic() < end, f"{processor.seconds()} s, {processor.read('syscall')}"
            time.sleep(scaled(0.001))
        return "answers"

    def load(self, state, patient=False):
        """What comes of it."""
        self.snapshot.state.write_bytes(state)
        answer = guest = None
        with self.monitor() as (process, connection):
            try:
                answer = connection.request("PUT", "/snapshot/load", self.body)
                if answer.status == 204:
                    # The monitor must answer before and afterwards.
                    assert connection.request("GET", "/").status == 200
                    guest = self.watch(process, connection, patient)
                    assert connection.request("GET", "/").status == 200
                    return Outcome(answer, guest, None, "")
            except (ConnectionClosed, OSError):
                guest = "ends"
            return Outcome(answer, guest, process.wait(scaled(30)), self.errors.read_text())

    def refuse(self, state):
        """A load that must be refused, by an orderly end: returns the reason."""
        outcome = self.load(state)
        assert outcome.refused and outcome.status == LOAD_FAILED, outcome
        assert str(self.snapshot.state) in outcome.answer.fault
        return outcome.answer.fault

    def check_good(self):
        """That what is refused is refused for what was done to it."""
        outcome = self.load(self.good, patient=self.line)
        assert outcome.answer.status == 204 and outcome.status is None, outcome


@pytest.fixture
def wire(needs):
    made = network.make(needs)
    yield made
    made.clean_up()


@pytest.fixture(params=["disk", pytest.param("net", marks=pytest.mark.once)])
def loads(request, workshop):
    """Of a guest whose device is at work."""
    if request.param == "disk":
        guest, _ = ready(workshop, None, "interrupt", io_engine="Async", drive_id="data")
        guest.ask("write 0 64 1")
        return Loads(workshop, guest.monitor, line="check 0 64 1\n", answer=b" status=0 bad=0 ")
    wire = request.getfixturevalue("wire")
    return Loads(workshop, boot_daytime(workshop, wire).monitor, wire)


def some(places, count=SAMPLE):
    """Of all places those that are tried: always the same ones of a file of the same length."""
    places = list(places)
    return places if EXHAUSTIVE or len(places) <= count else sorted(random.Random(len(places)).sample(places, count))


@pytest.mark.once
def test_a_flipped_byte_anywhere_is_refused_with_its_section(loads):
    loads.check_good()
    heads = [place for section in loads.sections for place in range(section.start, section.body)]
    for place in sorted({*some(range(len(loads.good))), *some(heads, SAMPLE // 3)}):
        section = loads.section_at(place)
        bad = bytearray(loads.good)
        bad[place] ^= 0xff
        text = loads.refuse(bad)
        if section is None:
            assert any(words in text for words in ("not the state file", "its format has version", "its head is damaged"))
        elif place >= section.body:
            assert f"{section}: " in text, (place, text)
        else:
            # Its name may be what is damaged, or how long it is.
            assert "section " in text, (place, text)


@pytest.mark.once
def test_a_file_that_is_cut_anywhere_is_refused(loads):
    for length in some(range(len(loads.good))):
        text = loads.refuse(loads.good[:length])
        section = loads.section_at(length)
        if length < HEAD_BYTES:
            assert "not the state file" in text, (length, text)
        elif length >= section.body:
            assert f"{section}: it is cut" in text, (length, text)
        else:
            assert "cut" in text, (length, text)
    assert "behind its end" in loads.refuse(loads.good + b"\0")


def contained(outcome, section):
    """What came of it: refused by name, or a guest in a process that answers or has ended as a guest's end ends it."""
    assert outcome.answer is not None
    if not outcome.refused:
        assert outcome.answer.status == 204 and outcome.status in (None, 0, 1)
        return outcome.guest
    assert outcome.status == LOAD_FAILED
    # What the configuration or the id of the memory file says is refused by what it is about.
    assert str(section) in outcome.answer.fault or section.name in ("config", "memory")
    return "is refused"


def ends_the_interpreter(state, section, place):
    if section.name != "vcpu" or not INTERPRETED:
        return False
    registers = section.body + 4 + CPUID_ENTRY_BYTES * struct.unpack_from("<I", state, section.body)[0] + MP_STATE_BYTES
    return place - registers - REGISTERS_BYTES - TR * SEGMENT_BYTES in (PRESENT, UNUSABLE)


def places(loads, part):
    """Which bytes of which sections are tried."""
    return [(section, place) for section in filter(PARTS[part], loads.sections)
            for place in some(range(section.body, section.end), SAMPLE // 5 if FACTOR == 1 else 3)
            if not ends_the_interpreter(loads.good, section, place)]


@pytest.mark.parametrize("part, flip, first", [
    (part, flip, chunk * CHUNK) for part in PARTS for flip in ("byte", "bit") for chunk in range(CHUNKS[part])
] if EXHAUSTIVE else [(part, "bit", 0) for part in PARTS])
def test_a_field_that_was_changed_on_purpose_is_refused_or_contained(loads, part, flip, first):
    """What a changed guest does is counted and shown; one that goes wrong does not hide the next."""
    tried = places(loads, part)
    assert len(tried) <= CHUNK * CHUNKS[part]
    if first >= len(tried):
        pytest.skip(f"there are {len(tried)} bytes")
    loads.check_good()
    counts, wrong, mender = collections.Counter(), [], Mender(loads.good)
    for section, place in tried[first:first + CHUNK]:
        bits = 0xff if flip == "byte" else 1 << (place % 8 if EXHAUSTIVE else random.randrange(8))
        bad, outcome = mender.flipped(section, place, bits), None
        assert EXHAUSTIVE or bad == mended(bad)
        try:
            outcome = loads.load(bad)
            counts[f"{section} {contained(outcome, section)}"] += 1
        except (AssertionError, subprocess.TimeoutExpired) as reason:
            wrong.append(f"{section}, byte {place - section.body} ^ {bits:#x}: {outcome}: {reason}")
            print(wrong[-1], flush=True)
        if EXHAUSTIVE and counts.total() % 100 == 0:
            print(dict(counts), flush=True)
    print(dict(counts))
    assert not wrong, f"{len(wrong)} went wrong, the first of them: {wrong[:10]}"


@pytest.mark.once
def test_sections_of_another_snapshot_are_refused_or_contained(workshop):
    """Each section in turn is that of another guest: with another disk, more memory and two processors."""
    guest, _ = ready(workshop, None, "interrupt", drive_id="data")
    ours = Loads(workshop, guest.monitor)
    other = workshop.boot_small("probe", "serve", mem=32, vcpus=2,
                                drives=[{"path": workshop.disk("other", 4 << 20), "drive_id": "data"}]).wait_ready()
    foreign = save(other.monitor, Snapshot.at(workshop, "other")).state.read_bytes()
    other.monitor.kill()
    theirs = {str(section): foreign[section.start:section.end] for section in sections(foreign)}
    for section in ours.sections:
        if section.name == "end" or theirs[str(section)] == ours.good[section.start:section.end]:
            continue
        bad = ours.good[:section.start] + theirs[str(section)] + ours.good[section.end:]
        assert "section end" in ours.refuse(bad)
        if not any(chosen(section) for chosen in PARTS.values()):
            continue
        outcome = ours.load(mended(bad))
        if section.name in ("config", "memory"):
            assert outcome.refused and ("section memory" in outcome.answer.fault or "vcpu" in outcome.answer.fault), outcome
        if outcome.refused:
            assert outcome.status == LOAD_FAILED, outcome
        else:
            assert outcome.answer and outcome.answer.status == 204 and outcome.status in (None, 0, 1), outcome
