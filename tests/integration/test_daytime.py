"""A unikernel of 4 MiB that answers ARP, ping and daytime (RFC 867), by UDP and TCP."""
import calendar
import concurrent.futures
import json
import os
import random
import socket
import time

import pytest

from harness import network
from harness.clock import FACTOR, scaled
from harness.network import GUEST_ADDRESS, PREFIX, TAP

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

PORT = 13
SERVER = (GUEST_ADDRESS, PORT)
TEXT_BYTES = 26


@pytest.fixture
def net(needs):
    made = network.make(needs)
    yield made
    made.clean_up()


@pytest.fixture(params=["Linux", "PVH"])
def protocol(request):
    return request.param


def boot(workshop, net, args="", protocol=None, arguments=(), **configuration):
    return workshop.boot_small(
        "daytime", f"ip={GUEST_ADDRESS}/{PREFIX} {args}", *arguments, mem=4, protocol=protocol,
        options={"wrapper": net.wrapper},
        **{"network-interfaces": [{"iface_id": "eth0", "host_dev_name": TAP}], **configuration}).wait_ready()


def interface_metrics(guest, workshop):
    guest.api.put("/actions", {"action_type": "FlushMetrics"})
    return json.loads(workshop.path("metrics").read_text().splitlines()[-1])["net_eth0"]


def seconds_of(text):
    assert len(text) == TEXT_BYTES and text.endswith(b"\r\n"), text
    return calendar.timegm(time.strptime(text.decode().strip(), "%a %b %d %H:%M:%S %Y"))


def ask_udp(net, data=b"", times=10):
    """Asks again when no answer comes: a datagram may be lost, behind a full queue of the TAP."""
    with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(scaled(2))
        while True:
            client.sendto(data, SERVER)
            try:
                text, sender = client.recvfrom(2048)
            except TimeoutError:
                times -= 1
                if times == 0:
                    raise
                continue
            assert sender == SERVER
            return text


def ask_tcp(net):
    with net.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(SERVER)
        text = b""
        while piece := client.recv(2048):
            text += piece
        return text


class TestAnswers:
    @pytest.mark.parametrize("ask", [ask_udp, ask_tcp])
    def test_the_time_is_right(self, workshop, net, protocol, ask):
        guest = boot(workshop, net, protocol=protocol)
        for _ in range(3):
            before = int(time.time())
            assert before - 1 <= seconds_of(ask(net)) <= time.time() + 1
        assert guest.monitor.end() == 143

    @pytest.mark.parametrize("payload_bytes", [0, 1, 56, 1472])
    def test_pings_come_back(self, workshop, net, payload_bytes):
        boot(workshop, net)
        assert net.ping(GUEST_ADDRESS, 5, payload_bytes) == 5

    @pytest.mark.once
    def test_it_answers_for_its_own_address_only(self, workshop, net):
        boot(workshop, net)
        assert net.ping("10.0.0.3", 1, seconds=1) == 0
        assert net.ping(GUEST_ADDRESS, 1) == 1

    @pytest.mark.once
    def test_other_tcp_ports_are_closed(self, workshop, net):
        boot(workshop, net)
        with net.socket(socket.AF_INET, socket.SOCK_STREAM) as client, pytest.raises(ConnectionRefusedError):
            client.connect((GUEST_ADDRESS, 80))

    @pytest.mark.once
    def test_servers_that_answer_each_other_are_not_answered(self, workshop, net):
        boot(workshop, net)
        with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((network.HOST_ADDRESS, PORT))
            client.settimeout(scaled(0.5))
            client.sendto(b"", SERVER)
            with pytest.raises(TimeoutError):
                client.recv(100)
        assert ask_udp(net)

    def test_many_clients_at_once(self, workshop, net):
        boot(workshop, net)
        count = 200 if FACTOR == 1 else 20
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            for text in pool.map(lambda number: (ask_udp, ask_tcp)[number % 2](net), range(count)):
                seconds_of(text)


@pytest.mark.once
class TestLife:
    def test_it_ends_after_as_many_answers_as_asked_for(self, workshop, net, protocol):
        guest = boot(workshop, net, "requests=2 time=4102444800", protocol)
        for ask in (ask_udp, ask_tcp):
            assert seconds_of(ask(net)) - 4102444800 in range(600)
        guest.finish()
        assert guest.result("frames")["times"] == 2

    def test_questions_asked_while_it_is_paused_are_answered_afterwards(self, workshop, net):
        guest = boot(workshop, net)
        ask_udp(net)
        with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            guest.api.pause()
            client.sendto(b"", SERVER)
            client.settimeout(scaled(0.3))
            with pytest.raises(TimeoutError):
                client.recv(100)
            guest.api.resume()
            client.settimeout(scaled(10))
            seconds_of(client.recv(100))

    def test_no_frame_is_taken_from_the_tap_while_it_is_paused(self, workshop, net):
        """Not even into the buffers that the guest had given before; none of them is lost."""
        guest = boot(workshop, net, arguments=["--metrics-path", workshop.path("metrics")])
        ask_udp(net)
        with net.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            guest.api.pause()
            before = interface_metrics(guest, workshop)
            for _ in range(20):
                client.sendto(b"", SERVER)
            time.sleep(scaled(0.1))
            assert interface_metrics(guest, workshop) == before
            guest.api.resume()
            for _ in range(20):
                seconds_of(client.recv(100))
        assert interface_metrics(guest, workshop)["rx_packets_count"] >= before["rx_packets_count"] + 20

    def test_frames_of_all_kinds_do_not_disturb_it(self, workshop, net):
        """Noise with a good destination, and real questions with a byte changed."""
        guest = boot(workshop, net)
        chance = random.Random(5)
        mac = bytes.fromhex(guest.result("net")["mac"].replace(":", ""))
        ask_udp(net)
        with net.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((TAP, 0))
            for _ in range(2000 if FACTOR == 1 else 100):
                kind = chance.choice((b"\x08\x06", b"\x08\x00", b"\x86\xdd"))
                body = bytearray(b"\x45\x00" + os.urandom(chance.randint(0, 1400)))
                wire.send(mac + b"\x02\0\0\0\0\1" + kind + body)
        seconds_of(ask_udp(net))
        seconds_of(ask_tcp(net))
        assert net.ping(GUEST_ADDRESS, 2) == 2

    @pytest.mark.parametrize("args, interfaces, reason", [
        ("", True, "the parameter ip=ADDRESS is missing"),
        ("ip=10.0.0.256", True, "the parameter ip cannot be '10.0.0.256'"),
        ("ip=10.0.0.2/33", True, "the parameter ip cannot be '10.0.0.2/33'"),
        ("ip=10.0.0.2", False, "there is no network device")])
    def test_what_it_needs_is_named(self, workshop, net, args, interfaces, reason):
        guest = workshop.boot_small("daytime", args, mem=4, options={"wrapper": net.wrapper}, **{
            "network-interfaces": [{"iface_id": "eth0", "host_dev_name": TAP}] if interfaces else []})
        assert guest.fail() == reason
