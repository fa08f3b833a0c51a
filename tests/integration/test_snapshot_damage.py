"""State files with damage in any byte, through real loads: refused by name, or contained; never a crash.

What a checksum finds, and what it does not: bytes are flipped as they are, and again with all checksums made right, as by
somebody who means it. `./check` takes a sample; MAYFLY_EXHAUSTIVE=1 takes every byte and every length (tests/README.md).
"""
import contextlib
import dataclasses
import random
import struct
import subprocess
import time

import pytest

from harness import network
from harness.api import Api, ConnectionClosed
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
KVM_SECTIONS = ("vcpu", "vm")


def left_out(section, host_kind):
    if section.name == "end" or host_kind == "pvm":
        return section.name in ("end", *KVM_SECTIONS)
    return FACTOR > 1 and not EXHAUSTIVE and section.name not in KVM_SECTIONS


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


class Outcome:
    """Of one load: the answer, and the status of a process that has ended."""

    def __init__(self, answer, status, log):
        self.answer, self.status, self.log = answer, status, log

    @property
    def refused(self):
        return self.answer is not None and self.answer.status == 400

    def __repr__(self):
        return f"{self.answer}, status {self.status}: {self.log[-2000:]}"


class Loads:
    """One snapshot, loaded by a process for each version of its state file."""

    def __init__(self, workshop, monitor, wire=None):
        self.workshop, self.wire = workshop, wire
        self.snapshot = save(monitor, Snapshot.at(workshop, "good"))
        monitor.kill()
        workshop.forget(monitor)
        self.good = self.snapshot.state.read_bytes()
        self.sections = sections(self.good)
        self.socket, self.errors = workshop.path("load.sock"), workshop.path("load.err")
        self.body = self.snapshot.load_body(resume_vm=True)

    def section_at(self, place):
        return next((section for section in self.sections if section.start <= place < section.end), None)

    def start(self):
        with contextlib.ExitStack() as stack:
            if self.wire:
                stack.enter_context(self.wire.inside())
            errors = stack.enter_context(open(self.errors, "wb"))
            return subprocess.Popen([self.workshop.program, "--api-sock", self.socket], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=errors, cwd=self.workshop.folder)

    def load(self, state):
        """What comes of it, a little later if the guest runs."""
        self.snapshot.state.write_bytes(state)
        self.socket.unlink(missing_ok=True)
        process, api, answer = self.start(), Api(self.socket), None
        try:
            end = deadline(30)
            while not (self.socket.exists() and api.try_connect()):
                assert process.poll() is None and time.monotonic() < end, self.errors.read_text()
                time.sleep(0.0005)
            with contextlib.suppress(ConnectionClosed, OSError):
                answer = api.request("PUT", "/snapshot/load", self.body)
                if answer.status == 204:
                    time.sleep(scaled(0.002))
                    api.request("GET", "/")
            if answer is not None and answer.status == 204 and process.poll() is None:
                process.kill()
                return Outcome(answer, process.wait() and None, self.errors.read_text())
            return Outcome(answer, process.wait(scaled(30)), self.errors.read_text())
        finally:
            process.kill()
            process.wait()

    def refuse(self, state):
        """A load that must be refused, by an orderly end: returns the reason."""
        outcome = self.load(state)
        assert outcome.refused and outcome.status == LOAD_FAILED, outcome
        assert str(self.snapshot.state) in outcome.answer.fault
        return outcome.answer.fault

    def check_good(self):
        """That what is refused is refused for what was done to it."""
        outcome = self.load(self.good)
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
        return Loads(workshop, guest.monitor)
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


def test_a_field_that_was_changed_on_purpose_is_refused_or_contained(loads, host_kind):
    """Whatever the guest then does, the process is there and answers, or has ended as a guest's end ends it."""
    loads.check_good()
    for section in loads.sections:
        if left_out(section, host_kind):
            continue
        for place in some(range(section.body, section.end), SAMPLE // 5 if FACTOR == 1 else 3):
            for flip in ((0xff, 1 << place % 8) if EXHAUSTIVE else (1 << random.randrange(8),)):
                bad = bytearray(loads.good)
                bad[place] ^= flip
                outcome = loads.load(mended(bad))
                what = (str(section), place - section.body, hex(flip), outcome)
                assert outcome.answer is not None, what
                if outcome.refused:
                    assert outcome.status == LOAD_FAILED, what
                    # What the configuration or the id of the memory file says is refused by what it is about.
                    assert str(section) in outcome.answer.fault or section.name in ("config", "memory"), what
                else:
                    assert outcome.answer.status == 204 and outcome.status in (None, 0, 1), what


@pytest.mark.once
def test_sections_of_another_snapshot_are_refused_or_contained(workshop, host_kind):
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
        if left_out(section, host_kind):
            continue
        outcome = ours.load(mended(bad))
        if section.name in ("config", "memory"):
            assert outcome.refused and ("section memory" in outcome.answer.fault or "vcpu" in outcome.answer.fault), outcome
        if outcome.refused:
            assert outcome.status == LOAD_FAILED, outcome
        else:
            assert outcome.answer and outcome.answer.status == 204 and outcome.status in (None, 0, 1), outcome
