"""Pause and resume: the guest stands still, goes on where it was, as often as one likes."""
import threading
import time

import pytest

from harness import tiny
from harness.api import request_bytes
from harness.clock import FACTOR, scaled, wait_until
from harness.procfs import parked_runtimes_ns, vcpu_runtimes_ns

pytestmark = pytest.mark.guest

MANY = 10_000 if FACTOR == 1 else 100

PAUSE = request_bytes("PATCH", "/vm", {"state": "Paused"})
RESUME = request_bytes("PATCH", "/vm", {"state": "Resumed"})


def ask(connection, request):
    connection.send(request)
    answer = connection.read_answer()
    assert answer.status == 204, answer


def quiet(console):
    """Waits until no more output comes: what the guest wrote before the pause has gone through."""
    last = -1
    while last != console.mark():
        last = console.mark()
        time.sleep(scaled(0.05))
    return last


@pytest.mark.usefixtures("kvm")
class TestPause:
    def test_ten_thousand_pauses(self, workshop):
        """The guest counts on the serial port: paused, no vCPU runs; in the end, no number is missing."""
        monitor = workshop.boot_tiny(tiny.COUNT, mem=16)
        console = monitor.console
        console.wait_for(b"\x00\x01\x02", 60)
        with monitor.api.connect() as connection:
            for number in range(MANY):
                ask(connection, PAUSE)
                before = parked_runtimes_ns(monitor.pid)
                if number % (MANY // 10) == 0:
                    place = quiet(console)
                    time.sleep(scaled(0.1))
                    assert console.mark() == place
                assert vcpu_runtimes_ns(monitor.pid) == before, f"a vCPU ran in pause {number}"
                place = console.mark()
                ask(connection, RESUME)
                if number % (MANY // 10) == 0:
                    wait_until(lambda: console.mark() > place, 60, "the guest to go on")
        assert monitor.api.state() == "Running"
        assert monitor.end() == 143
        data = console.since()
        for place in range(0, len(data) - 256, 256):
            assert data[place:place + 256] == bytes(range(256)), f"after {place} bytes"

    @pytest.mark.once
    def test_states_and_repetition(self, workshop):
        """Pausing what is paused and resuming what runs is no error, as clients are used to."""
        api = workshop.boot_tiny(tiny.SPIN).api
        assert api.state() == "Running"
        for _ in range(3):
            api.pause()
            assert api.state() == "Paused"
        for _ in range(3):
            api.resume()
            assert api.state() == "Running"

    def test_pause_at_every_moment_of_a_start(self, workshop):
        """The first thing after the start: vCPUs that have not run yet are paused too."""
        kernel = workshop.tiny_kernel(tiny.COUNT)
        for _ in range(100 if FACTOR == 1 else 10):
            monitor = workshop.monitor(api=True)
            monitor.api.put("/boot-source", {"kernel_image_path": str(kernel)})
            monitor.api.put("/machine-config", {"vcpu_count": 4, "mem_size_mib": 16})
            start = request_bytes("PUT", "/actions", {"action_type": "InstanceStart"})
            with monitor.api.connect() as connection:
                connection.send(start + PAUSE)
                assert connection.read_answer().status == connection.read_answer().status == 204
            before = parked_runtimes_ns(monitor.pid)
            assert len(before) == 4
            time.sleep(scaled(0.01))
            assert vcpu_runtimes_ns(monitor.pid) == before
            monitor.api.resume()
            monitor.console.wait_for(b"\x00\x01\x02", 60)
            monitor.kill()
            monitor.clean_up()
            workshop.monitors.remove(monitor)

    @pytest.mark.once
    def test_the_api_answers_while_paused(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN)
        monitor.api.pause()
        assert monitor.api.get("/vm/config")["machine-config"]["vcpu_count"] == 1
        assert "after starting" in monitor.api.refusal("PUT", "/machine-config",
                                                       {"vcpu_count": 1, "mem_size_mib": 16})

    def test_a_guest_that_ends_while_it_is_being_paused(self, workshop):
        """The reset and the pause race: whoever wins, the monitor ends and never hangs."""
        kernel = workshop.tiny_kernel(tiny.RESET)
        for _ in range(100 if FACTOR == 1 else 10):
            monitor = workshop.monitor(api=True)
            monitor.api.put("/boot-source", {"kernel_image_path": str(kernel)})
            start = request_bytes("PUT", "/actions", {"action_type": "InstanceStart"})
            with monitor.api.connect() as connection:
                connection.send(start + PAUSE + RESUME)
                assert monitor.wait() == 0
            assert not monitor.socket_path.exists()
            workshop.monitors.remove(monitor)
            monitor.clean_up()


class TestLinux:
    @pytest.mark.once
    def test_linux_makes_no_progress_while_paused_and_goes_on(self, workshop, kernel):
        guest = workshop.boot(kernel, vcpus=min(2, kernel.max_vcpus))
        guest.start("i=0; while :; do i=$((i+1)); echo n$i; done")
        console = guest.console
        console.wait_for(rb"n10\n", 60)
        for _ in range(20 if FACTOR == 1 else 5):
            guest.api.pause()
            place = quiet(console)
            time.sleep(scaled(0.2))
            assert console.mark() == place
            guest.api.resume()
            wait_until(lambda: console.mark() > place, 60, "the guest to go on")
        guest.api.pause()
        quiet(console)
        text = console.since().decode(errors="replace")
        numbers = [int(word[1:]) for word in text[text.index("n1\n"):].split("\n")[:-1]]
        assert numbers == list(range(1, len(numbers) + 1))

    @pytest.mark.once
    def test_many_pauses_under_disk_load(self, workshop, kernel):
        """Requests are on their way at every pause; none may be lost, none done twice."""
        disk = workshop.disk("disk", 16 << 20)
        guest = workshop.boot(kernel, drives=[{"path": disk, "io_engine": "Async"}])
        mark = guest.start("for i in 1 2 3; do dd if=/dev/urandom of=/tmp/r bs=1M count=16 2>/dev/null; "
                           "dd if=/tmp/r of=/dev/vda bs=64k conv=fsync 2>/dev/null; "
                           "echo 3 >/proc/sys/vm/drop_caches; cmp /tmp/r /dev/vda || exit 1; done")
        stop = threading.Event()
        count = 0
        while not stop.is_set():
            guest.api.pause()
            guest.api.resume()
            count += 1
            time.sleep(scaled(0.005))
            if b"MAYFLY-EXIT" in console_tail(guest, mark):
                stop.set()
        assert guest.finish(mark, 600)[0] == 0
        assert count > 10

    def test_time_goes_on_without_complaints_after_a_pause(self, workshop, kernel):
        guest = workshop.boot(kernel)
        guest.api.pause()
        time.sleep(2)
        guest.api.resume()
        assert guest.run("sleep 1; echo slept").strip() == "slept"
        log = guest.run("dmesg")
        assert "lockup" not in log and "rcu_sched" not in log and "stall" not in log


def console_tail(guest, mark):
    return guest.console.since(mark)
