"""Snapshots of guests whose devices work: saved in the middle, killed, loaded; no byte is lost, none comes twice."""
import fcntl
import hashlib
import os
import random
import re
import shutil
import socket
import struct
import termios
import time

import pytest

from harness import network, small
from harness.clock import FACTOR, TookTooLong, deadline, scaled, wait_until
from harness.guest import Guest
from harness.snapshots import Snapshot, load, save
from test_daytime import ask_tcp, ask_udp, boot as boot_daytime, interface_metrics, seconds_of
from test_net import GUEST, HOST, listening, random_file, set_address, wired
from test_small_guests_disk import MIB, OK, ready, written

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

MOVES = 5 if FACTOR == 1 else 2


class Traveller:
    """A guest that goes on in another process, again and again; what it says is one text."""

    def __init__(self, workshop, guest, **options):
        self.workshop, self.guest, self.options = workshop, guest, options
        self.snapshot = Snapshot.at(workshop, "travel")
        self.said = b""
        self.mark = 0

    def move(self, *arguments, **fields):
        """`fields` are those of the load."""
        monitor = self.guest.monitor
        # What was typed is in the serial port, not in the pipe, which goes with the process.
        wait_until(lambda: unread(monitor.input_fd) == 0, 30, "the monitor to read what was typed")
        save(monitor, self.snapshot)
        monitor.kill()
        self.said += monitor.console.since(self.mark)
        self.workshop.forget(monitor)
        self.mark = 0
        monitor = load(self.workshop, self.snapshot, *arguments, options=self.options, **fields)
        self.guest = Guest(monitor, self.guest.kernel) if isinstance(self.guest, Guest) else small.SmallGuest(monitor)
        return self.guest

    def tell(self, line):
        """From here on what the guest says counts."""
        self.said, self.mark = b"", self.guest.console.mark()
        self.guest.monitor.type(line.encode() + b"\n")

    def heard(self):
        return self.said + self.guest.console.since(self.mark)

    def wait_for(self, pattern, seconds=small.SECONDS):
        end = deadline(seconds)
        while True:
            match = re.search(pattern, self.heard(), re.DOTALL)
            if match:
                return match
            if time.monotonic() > end:
                raise TookTooLong(f"{pattern!r} was not said in {self.heard()[-3000:]!r}")
            time.sleep(0.005)

    def result(self, seconds=small.SECONDS):
        """Of a small guest's command."""
        return small.results(self.wait_for(rb"result: [^\n]*\n|guest failed: [^\n]*\n", seconds)[0])[0]

    def succeed(self, seconds):
        """The end of a Linux guest's command; returns its output."""
        match = self.wait_for(rb"(.*)\nMAYFLY-EXIT ([0-9]+)\n", seconds)
        assert match[2] == b"0", match[1]
        return match[1].decode(errors="replace")


def unread(pipe):
    """How many bytes nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]


@pytest.mark.once
class TestDisk:
    @pytest.mark.parametrize("engine, waiting", [("Sync", "poll"), ("Async", "interrupt")])
    def test_requests_go_on_where_they_were(self, workshop, engine, waiting):
        guest, disk = ready(workshop, None, waiting, io_engine=engine)
        traveller = Traveller(workshop, guest)
        for seed in range(MOVES):
            traveller.tell(f"write 0 2048 {seed}")
            time.sleep(random.random() / 200)
            traveller.move()
            done = traveller.result()
            assert (done["sectors"], done["status"]) == (2048, OK)
            assert disk.read_bytes() == written(seed, 0, 2048)
            traveller.tell(f"check 0 2048 {seed}")
            time.sleep(random.random() / 200)
            traveller.move()
            done = traveller.result()
            assert (done["status"], done["bad"]) == (OK, 0)
        traveller.guest.tell("reset")
        assert traveller.guest.monitor.wait() == 0

    def test_another_file_takes_the_place_of_the_first(self, workshop):
        guest, disk = ready(workshop, None, "interrupt", drive_id="data")
        assert guest.ask("write 0 64 5")["status"] == OK
        traveller = Traveller(workshop, guest)
        copy = workshop.path("copy")
        shutil.copy(disk, copy)
        guest = traveller.move(drive_overrides=[{"drive_id": "data", "path_on_host": str(copy)}])
        assert guest.ask("check 0 64 5")["bad"] == 0
        assert guest.ask("write 0 64 6")["status"] == OK
        assert disk.read_bytes()[:64 * 512] == written(5, 0, 64)
        assert copy.read_bytes()[:64 * 512] == written(6, 0, 64)
        assert guest.api.get("/vm/config")["drives"][0]["path_on_host"] == str(copy)

    def test_a_request_that_waits_for_its_limit_is_done_in_the_end(self, workshop):
        """32 KiB at once, and 32 KiB in 0.2 s: 256 KiB take more than a second, moves or not."""
        limit = {"bandwidth": {"size": 32 << 10, "refill_time": 200}}
        guest, disk = ready(workshop, None, "interrupt", rate_limiter=limit)
        traveller = Traveller(workshop, guest)
        start = time.monotonic()
        traveller.tell("write 0 512 3")
        for _ in range(3):
            time.sleep(0.1)
            traveller.move()
        assert traveller.result()["status"] == OK
        assert time.monotonic() - start >= 1.1
        assert disk.read_bytes()[:512 * 512] == written(3, 0, 512)

    def test_a_file_that_is_missing_or_of_another_kind_is_named(self, workshop):
        guest, disk = ready(workshop, None, "interrupt", drive_id="data", read_only=True)
        snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
        guest.monitor.kill()
        api = workshop.monitor(api=True).api
        text = api.refusal("PUT", "/snapshot/load", snapshot.load_body(
            drive_overrides=[{"drive_id": "data", "path_on_host": "/nonexistent"}]))
        assert "drive data" in text and "/nonexistent" in text
        assert disk.exists()


@pytest.fixture
def wire(needs):
    made = network.make(needs)
    yield made
    made.clean_up()


@pytest.mark.once
class TestNetwork:
    def test_questions_are_answered_after_every_move(self, workshop, wire):
        traveller = Traveller(workshop, boot_daytime(workshop, wire), wrapper=wire.wrapper)
        for _ in range(MOVES):
            seconds_of(ask_udp(wire))
            # Some are on their way when it stops.
            with wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for _ in range(random.randrange(20)):
                    client.sendto(b"", (network.GUEST_ADDRESS, 13))
                traveller.move()
            seconds_of(ask_udp(wire))
            seconds_of(ask_tcp(wire))
        assert wire.ping(network.GUEST_ADDRESS, 2) == 2

    def test_another_tap_takes_the_place_of_the_first(self, workshop, wire):
        traveller = Traveller(workshop, boot_daytime(workshop, wire), wrapper=wire.wrapper)
        seconds_of(ask_udp(wire))
        network.ip("-n", wire.name, "tuntap", "add", "dev", "tap7", "mode", "tap")
        network.ip("-n", wire.name, "addr", "flush", "dev", network.TAP)
        network.ip("-n", wire.name, "addr", "add", f"{network.HOST_ADDRESS}/{network.PREFIX}", "dev", "tap7")
        network.ip("-n", wire.name, "link", "set", "tap7", "up")
        guest = traveller.move("--metrics-path", workshop.path("metrics"),
                               network_overrides=[{"iface_id": "eth0", "host_dev_name": "tap7"}])
        seconds_of(ask_udp(wire))
        seconds_of(ask_tcp(wire))
        assert interface_metrics(guest, workshop)["rx_packets_count"] > 0

    def test_a_tap_that_is_not_there_is_named(self, workshop, wire):
        guest = boot_daytime(workshop, wire)
        snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
        guest.monitor.kill()
        api = workshop.monitor(api=True, wrapper=wire.wrapper).api
        text = api.refusal("PUT", "/snapshot/load", snapshot.load_body(
            network_overrides=[{"iface_id": "eth0", "host_dev_name": "tap9"}]))
        assert "network interface eth0" in text and "tap9" in text


@pytest.mark.once
class TestSerial:
    def test_input_that_the_guest_had_not_taken_is_not_lost(self, workshop):
        """Commands typed ahead: most of them wait in the port when the guest is saved."""
        guest = workshop.boot_small("probe", "serve").wait_ready()
        traveller = Traveller(workshop, guest)
        for number in range(MOVES):
            lines = [f"echo {number}-{i}-{'x' * i}" for i in range(25)]
            traveller.tell("\n".join(lines))
            traveller.move()
            expected = [line.replace("echo ", "echo: ", 1) for line in lines]
            traveller.wait_for(re.escape(expected[-1].encode()) + rb"\n")
            assert [line for line in traveller.heard().decode().split("\n") if line.startswith("echo: ")] == expected


class TestLinux:
    @pytest.mark.parametrize("direction", ["to the guest", pytest.param("from the guest", marks=pytest.mark.once)])
    def test_tcp_goes_on_through_moves(self, workshop, new_network, kernel, needs, direction):
        needs("socat")
        net = new_network()
        path, expected = random_file(workshop, 32 if FACTOR == 1 else 2)
        disk = workshop.disk("disk", os.path.getsize(path))
        shutil.copy(path, disk)
        guest = wired(workshop, net, kernel, drives=[{"path": disk}])
        traveller = Traveller(workshop, guest, wrapper=net.wrapper)
        received = workshop.path("received")
        if direction == "to the guest":
            peer = net.start("socat", "-u", f"FILE:{path}", listening(5001, HOST))
            wait_until(lambda: ":5001" in net.sh("ss -Hltn"), 30, "the sender to listen")
            traveller.tell(f"socat -u TCP:{HOST}:5001 - | sha256sum")
        else:
            peer = net.start("socat", "-u", listening(5002, HOST), f"CREATE:{received}")
            wait_until(lambda: ":5002" in net.sh("ss -Hltn"), 30, "the receiver to listen")
            traveller.tell(f"socat -u FILE:/dev/vda TCP:{HOST}:5002")
        for _ in range(3 if FACTOR == 1 else 1):
            time.sleep(scaled(0.05))
            traveller.move()
        output = traveller.succeed(600)
        assert peer.wait(scaled(60)) == 0
        if direction == "to the guest":
            assert output.split()[-2] == expected
        else:
            assert hashlib.sha256(received.read_bytes()).hexdigest() == expected
        # The link never went, as far as the guest knows.
        assert traveller.guest.read("/sys/class/net/eth0/carrier") == "1"

    @pytest.mark.once
    def test_a_dialogue_goes_on_through_moves(self, workshop, kernel):
        """The command is on its way to the guest's shell, or its answer on the way back."""
        traveller = Traveller(workshop, workshop.boot(kernel))
        for number in range(2 * MOVES):
            text = f"{number} " + 100 * "heard "
            traveller.tell(f"echo {text}")
            time.sleep(random.random() / 100)
            traveller.move()
            assert traveller.succeed(60).strip() == text.strip()

    @pytest.mark.once
    def test_a_larger_disk_is_seen_after_the_load(self, workshop, kernel):
        disk, larger = workshop.disk("disk", 2 * MIB), workshop.disk("larger", 5 * MIB)
        traveller = Traveller(workshop, workshop.boot(kernel, drives=[{"path": disk, "drive_id": "data"}]))
        guest = traveller.move(drive_overrides=[{"drive_id": "data", "path_on_host": str(larger)}])
        guest.run(f"while [ $(cat /sys/block/vda/size) != {5 * MIB // 512} ]; do sleep 0.1; done")
        guest.run("dd if=/dev/zero of=/dev/vda bs=1M count=5 conv=fsync 2>/dev/null")
