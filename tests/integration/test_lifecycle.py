"""Lives that overlap: starts and ends by the hundred, clients that vanish, in every order."""
import random
import threading
import time

import pytest

from harness import tiny
from harness.api import ConnectionClosed, request_bytes
from harness.clock import FACTOR, scaled, wait_until
from harness.procfs import open_descriptors

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

ROUNDS = 200 if FACTOR == 1 else 10
START = request_bytes("PUT", "/actions", {"action_type": "InstanceStart"})


def prepared(workshop, code, vcpus=1):
    monitor = workshop.monitor(api=True)
    monitor.api.put("/boot-source", {"kernel_image_path": str(workshop.tiny_kernel(code))})
    monitor.api.put("/machine-config", {"vcpu_count": vcpus, "mem_size_mib": 16})
    return monitor


def forget(workshop, monitor):
    monitor.clean_up()
    workshop.monitors.remove(monitor)


@pytest.mark.once
def test_start_and_kill_at_any_moment(workshop):
    chance = random.Random(2)
    for _ in range(ROUNDS):
        monitor = prepared(workshop, tiny.SPIN, vcpus=chance.choice((1, 2, 4)))
        with monitor.api.connect() as connection:
            connection.send(START)
            time.sleep(chance.random() * scaled(0.01))
            monitor.kill()
        forget(workshop, monitor)


@pytest.mark.once
def test_start_and_sigterm_at_any_moment(workshop):
    chance = random.Random(3)
    for _ in range(ROUNDS):
        monitor = prepared(workshop, tiny.SPIN, vcpus=chance.choice((1, 2, 4)))
        with monitor.api.connect() as connection:
            connection.send(START)
            time.sleep(chance.random() * scaled(0.01))
            assert monitor.end() == 143
        assert not monitor.socket_path.exists()
        forget(workshop, monitor)


@pytest.mark.once
def test_reset_by_the_hundred(workshop):
    for _ in range(ROUNDS):
        monitor = prepared(workshop, tiny.RESET)
        with monitor.api.connect() as connection:
            connection.send(START)
            assert monitor.wait() == 0
        assert not monitor.socket_path.exists()
        forget(workshop, monitor)


@pytest.mark.once
def test_the_answer_to_the_start_arrives_even_if_the_guest_ends_at_once(workshop):
    for _ in range(ROUNDS // 4):
        monitor = prepared(workshop, tiny.RESET)
        with monitor.api.connect() as connection:
            connection.send(START)
            try:
                assert connection.read_answer().status == 204
            except ConnectionClosed as closed:
                pytest.fail(f"the connection was closed before the answer: {closed.rest!r}")
        assert monitor.wait() == 0
        forget(workshop, monitor)


@pytest.mark.once
def test_clients_that_vanish_before_their_answer(workshop):
    """Requests are sent and the connection closed at once; the last client still gets its answers."""
    monitor = workshop.boot_tiny(tiny.SPIN)
    monitor.api.state()  # answered once the start is over
    before = open_descriptors(monitor.pid)
    chance = random.Random(4)
    requests = [request_bytes("GET", "/vm/config"), request_bytes("PATCH", "/vm", {"state": "Paused"}),
                request_bytes("PATCH", "/vm", {"state": "Resumed"}), request_bytes("GET", "/")]
    for _ in range(ROUNDS * 5):
        with monitor.api.connect() as connection:
            request = b"".join(chance.choices(requests, k=chance.randint(1, 4)))
            connection.send(request[:chance.randint(1, len(request))])
    assert monitor.api.state() in ("Running", "Paused")
    wait_until(lambda: open_descriptors(monitor.pid) <= before, 30, "all connections to be closed")
    assert monitor.end() == 143


@pytest.mark.once
def test_clients_at_the_same_time(workshop):
    """Eight threads pause, resume and ask; each answer is one that its request can have."""
    monitor = workshop.boot_tiny(tiny.SPIN, vcpus=2)
    failures = []

    def work(seed):
        chance = random.Random(seed)
        try:
            with monitor.api.connect() as connection:
                for _ in range(ROUNDS):
                    kind = chance.randrange(3)
                    if kind == 2:
                        answer = connection.request("GET", "/")
                        assert answer.json["state"] in ("Running", "Paused")
                    else:
                        state = ("Paused", "Resumed")[kind]
                        assert connection.request("PATCH", "/vm", {"state": state}).status == 204
        except Exception as error:  # a thread's failure must reach the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(scaled(300))
        assert not thread.is_alive()
    assert not failures
    assert monitor.end() == 143


@pytest.mark.once
def test_a_failed_start_can_be_mended_and_tried_again(workshop):
    """What the first attempt opened is closed again: by the hundred, no descriptor is left."""
    monitor = workshop.monitor(api=True)
    bad = workshop.file("bad", b"this is no kernel at all")
    monitor.api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 16})
    monitor.api.put("/drives/data", workshop.drive(workshop.disk("disk", 1 << 20), "data"))
    monitor.api.put("/boot-source", {"kernel_image_path": str(bad)})
    before = None
    for _ in range(ROUNDS // 2):
        text = monitor.api.refusal("PUT", "/actions", {"action_type": "InstanceStart"})
        assert str(bad) in text and "neither an ELF file nor a bzImage" in text
        assert monitor.api.state() == "Not started"
        if before is None:
            before = open_descriptors(monitor.pid)
    # The count may have held a connection that was about to be closed.
    wait_until(lambda: open_descriptors(monitor.pid) <= before, 30, "descriptors to be closed")
    monitor.api.put("/boot-source", {"kernel_image_path": str(workshop.tiny_kernel(tiny.SPIN))})
    monitor.api.start()
    monitor.console.wait_for(b"A", 60)


@pytest.mark.once
def test_many_monitors_at_once(workshop):
    monitors = [workshop.boot_tiny(tiny.SPIN) for _ in range(10 if FACTOR == 1 else 4)]
    for monitor in monitors:
        monitor.console.wait_for(b"A", 60)
        assert monitor.api.state() == "Running"
    for monitor in monitors:
        assert monitor.end() == 143
