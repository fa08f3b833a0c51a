"""Monitors that are ended, asked and paused at any moment of a guest's life, by the hundred."""
import contextlib
import random
import signal
import time

import pytest

from harness import small
from harness.api import ConnectionClosed, request_bytes
from harness.clock import FACTOR, scaled

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

ROUNDS = 200 if FACTOR == 1 else 10
MIB = 1 << 20

# What the guests do while they are ended: sleep, work, talk, and use their disk.
LIVES = [("probe", "serve"), ("memtouch", "then=keep"), ("memtouch", "mode=fill then=spin"),
         ("exits", "count=100000")]


@pytest.fixture
def disk(workshop):
    return workshop.disk("disk", MIB)


def begin(workshop, chance, disk):
    """A monitor that has just been started with a guest; nothing is waited for."""
    name, args = chance.choice(LIVES)
    config = workshop.file("config.json", workshop.configuration(
        small.path(workshop.program, name), boot_arguments=args, initrd=False, mem=chance.choice((4, 16, 64)),
        vcpus=chance.choice((1, 2)), protocol=chance.choice(("Linux", "PVH")),
        drives=[{"path": disk, "io_engine": chance.choice(("Sync", "Async"))}]))
    socket = workshop.path("api.sock")
    socket.unlink(missing_ok=True)
    monitor = workshop.monitor("--config-file", config, "--api-sock", socket)
    time.sleep(chance.random() * scaled(0.05))
    return monitor, socket


def test_kill_9_at_any_moment(workshop, disk):
    """Nothing is left that would be in the next one's way: the same disk, the same folder."""
    chance = random.Random(11)
    for _ in range(ROUNDS):
        monitor, _ = begin(workshop, chance, disk)
        assert monitor.kill() == -signal.SIGKILL, monitor.stderr
        workshop.forget(monitor)
    guest = workshop.boot_small("exits", "count=10", drives=[{"path": disk}])
    guest.finish()


@pytest.mark.once
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_orderly_end_at_any_moment(workshop, disk, number, status):
    chance = random.Random(number)
    early = 0
    for _ in range(ROUNDS):
        monitor, socket = begin(workshop, chance, disk)
        monitor.signal(number)
        ended = monitor.wait()
        # Before the program has taken its signals into its hands, they end it as they end any.
        early += ended == -number
        assert ended in (status, -number), monitor.stderr
        assert ended == -number or not socket.exists()
        workshop.forget(monitor)
    assert early < ROUNDS


@pytest.mark.once
def test_requests_while_a_guest_boots_runs_and_ends(workshop):
    """hello lives for a moment: whatever is asked meanwhile, its word comes out and the status is 0."""
    chance = random.Random(12)
    requests = [request_bytes("GET", "/"), request_bytes("GET", "/vm/config"),
                request_bytes("PATCH", "/vm", {"state": "Paused"}) +
                request_bytes("PATCH", "/vm", {"state": "Resumed"})]
    kernel = small.path(workshop.program, "hello")
    for _ in range(ROUNDS):
        monitor = workshop.monitor(api=True)
        monitor.api.put("/boot-source", {"kernel_image_path": str(kernel)})
        monitor.api.put("/machine-config", {"vcpu_count": chance.choice((1, 2)), "mem_size_mib": 4})
        with monitor.api.connect() as connection, contextlib.suppress(ConnectionClosed, BrokenPipeError):
            connection.send(request_bytes("PUT", "/actions", {"action_type": "InstanceStart"}) +
                            b"".join(chance.choices(requests, k=chance.randint(0, 5))))
            assert connection.read_answer().status == 204
            connection.read_end()
        assert monitor.wait() == 0
        assert monitor.console.since() == b"hello\n"
        workshop.forget(monitor)


@pytest.mark.once
def test_ctrl_alt_del_and_metrics_do_not_disturb_a_guest(workshop, disk):
    """A guest without a keyboard driver takes no notice, and the client is told; its work goes on and is right."""
    guest = workshop.boot_small("probe", "serve", "--metrics-path", workshop.path("metrics"),
                                drives=[{"path": disk}]).wait_ready()
    guest.tell("interrupt")
    for number in range(ROUNDS // 4):
        answer = guest.api.request("PUT", "/actions", {
            "action_type": ("SendCtrlAltDel", "FlushMetrics")[number % 2]})
        # The first keys wait for a driver that never comes.
        assert answer.status == 204 if number < 2 or number % 2 else "does not take keys" in answer.fault
        done = guest.ask(f"write 0 128 {number}")
        assert done["status"] == 0
        assert guest.ask(f"check 0 128 {number}")["bad"] == 0
    guest.tell("reset")
    guest.finish()


@pytest.mark.once
def test_hundreds_of_boots_in_a_row(workshop, program):
    for number in range(ROUNDS * 2):
        protocol = ("Linux", "PVH")[number % 2]
        config = workshop.file("config.json", workshop.configuration(
            small.path(program, "hello"), boot_arguments="", initrd=False, mem=16, protocol=protocol))
        done = workshop.run("--no-api", "--config-file", config)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "hello\n"
