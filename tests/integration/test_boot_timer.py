"""The boot timer: a guest says that it is up by writing 123 to 0xc0000000, and the log says how long that took."""
import re
import time

import pytest

from harness import tiny
from harness.clock import wait_until
from harness.workshop import log_of

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

LINE = re.compile(r"Guest-boot-time = +([0-9]+) us ([0-9]+) ms, +([0-9]+) CPU us ([0-9]+) CPU ms")

# 32-bit, no paging. 'A' to the serial port says that all is written.
WRITE_THREE_TIMES = bytes.fromhex(
    "c605000000c07a"  # mov byte [0xc0000000], 122
    "c605000000c07b"  # mov byte [0xc0000000], 123
    "c605000000c07b"  # mov byte [0xc0000000], 123
    "a0000000c0"      # mov al, [0xc0000000]
    "66baf803"        # mov dx, 0x3f8
    "b041"            # mov al, 'A'
    "ee"              # out dx, al
    "ebfe")           # jmp .


def times(monitor):
    return [tuple(map(int, match)) for match in LINE.findall(log_of(monitor))]


@pytest.mark.plain_kernel  # and has /dev/mem
def test_linux_tells_its_boot_time(workshop, kernel):
    begin = time.monotonic()
    guest = workshop.boot(kernel, "--boot-timer", args="mayfly.boot-timer")
    elapsed_us = (time.monotonic() - begin) * 1e6
    (wall, wall_ms, cpu, cpu_ms), = times(guest.monitor)
    assert 0 < wall < elapsed_us
    assert (wall_ms, cpu_ms) == (wall // 1000, cpu // 1000)
    assert 0 < cpu
    assert guest.reboot() == 0
    assert len(times(guest.monitor)) == 1


@pytest.mark.once
def test_linux_that_tells_it_unasked_goes_on(workshop, kernel):
    guest = workshop.boot(kernel, args="mayfly.boot-timer")
    assert guest.run("echo works").strip() == "works"
    assert times(guest.monitor) == []


@pytest.mark.once
def test_only_the_right_value_counts_and_only_once(workshop):
    monitor = workshop.boot_tiny(WRITE_THREE_TIMES, "--boot-timer", pvh=True)
    monitor.console.wait_for(b"A", 60)
    assert len(times(monitor)) == 1


@pytest.mark.once
def test_it_counts_from_the_moment_that_the_caller_names(workshop):
    now = time.monotonic_ns() // 1000
    start = now // 2  # long ago
    monitor = workshop.boot_tiny(WRITE_THREE_TIMES, "--boot-timer", "--start-time-us", str(start), pvh=True)
    wait_until(lambda: times(monitor), 60, "the boot time in the log")
    assert now - start <= times(monitor)[0][0] <= time.monotonic_ns() // 1000 - start
