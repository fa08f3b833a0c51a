"""Guests without an operating system see the machine that they were given, by both boot protocols."""
import re
import time

import pytest

from harness import small
from harness.clock import FACTOR, wait_until
from harness.workshop import log_of

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

MIB = 1 << 20
GAP_START, GAP_END = 3 << 30, 4 << 30
LOW_MEMORY_END = 0x9fc00


@pytest.fixture(params=["Linux", pytest.param("PVH", marks=pytest.mark.once)])
def protocol(request):
    return request.param


@pytest.mark.host
@pytest.mark.parametrize("name", ["hello", "exits", "memtouch", "daytime", "probe", "clocks"])
def test_a_small_guest_is_small(program, name):
    assert small.path(program, name).stat().st_size <= 500_000


class TestHello:
    def test_hello_says_so_and_resets(self, workshop, protocol):
        guest = workshop.boot_small("hello", protocol=protocol)
        assert guest.monitor.wait() == 0
        assert guest.console.since() == b"hello\n"

    def test_hello_tells_the_boot_timer(self, workshop, protocol):
        guest = workshop.boot_small("hello", "boot_timer", "--boot-timer", protocol=protocol)
        assert guest.monitor.wait() == 0
        assert guest.console.since() == b"hello\n"
        assert len(re.findall(r"Guest-boot-time = +[0-9]+ us", log_of(guest.monitor))) == 1

    def test_run_needs_no_more_than_a_kernel(self, workshop, program):
        done = workshop.run("run", "--kernel", small.path(program, "hello"), "--mem", "4M")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "hello\n"


class TestMachine:
    def test_the_protocol_is_the_one_asked_for(self, workshop, protocol):
        guest = workshop.boot_small("probe", protocol=protocol)
        guest.finish()
        assert guest.result("boot")["protocol"] == protocol

    def test_without_a_protocol_a_unikernel_is_entered_by_pvh(self, workshop):
        guest = workshop.boot_small("probe")
        guest.finish()
        assert guest.result("boot")["protocol"] == "PVH"

    @pytest.mark.parametrize("length", [0, 1, 200, 2000])
    def test_the_command_line_arrives_whole(self, workshop, protocol, length):
        text = (("w" * 49 + " ") * 40)[:length].strip()
        guest = workshop.boot_small("probe", text, protocol=protocol)
        guest.finish()
        seen = re.search(rb"\ncmdline: ([^\n]*)\n", guest.console.since())[1].decode()
        assert seen == text

    def test_devices_are_named_on_the_command_line(self, workshop, protocol):
        disks = [{"path": workshop.disk(f"disk{number}", MIB)} for number in range(3)]
        guest = workshop.boot_small("probe", protocol=protocol, drives=disks)
        guest.finish()
        devices = guest.results("device")
        assert [device["id"] for device in devices] == [2, 2, 2]
        assert len({device["address"] for device in devices}) == 3
        assert len({device["irq"] for device in devices}) == 3

    @pytest.mark.parametrize("mem", [4, 5, 16, 127, 3071, 3072, 3073, 4096, 5000] if FACTOR == 1 else [4, 127, 3073])
    def test_memory_is_as_large_as_asked_for(self, workshop, protocol, mem):
        guest = workshop.boot_small("probe", protocol=protocol, mem=mem)
        guest.finish()
        ram = [(r["start"], r["start"] + r["bytes"]) for r in guest.results("range") if r["type"] == 1]
        assert ram[0] == (0, LOW_MEMORY_END)
        assert ram[1] == (MIB, min(mem * MIB, GAP_START))
        assert ram[2:] == ([(GAP_END, GAP_END + mem * MIB - GAP_START)] if mem * MIB > GAP_START else [])

    @pytest.mark.parametrize("vcpus", [1, 2, 4, 32] if FACTOR == 1 else [1, 4])
    def test_each_vcpu_starts_and_works(self, workshop, protocol, vcpus):
        guest = workshop.boot_small("probe", f"cpus={vcpus}", protocol=protocol, vcpus=vcpus, mem=64)
        guest.finish()
        assert not guest.results("cpu_missing")
        assert guest.result("cpus")["up"] == vcpus
        assert guest.result("cpus")["work"] == vcpus * 100_000

    def test_kvm_clock_says_what_time_it_is(self, workshop, protocol):
        before = int(time.time())
        guest = workshop.boot_small("probe", protocol=protocol)
        guest.finish()
        clock = guest.result("clock")
        assert clock["kvm"] == 1 and clock["tsc_khz"] > 0
        assert before - 1 <= clock["seconds"] <= time.time() + 1


@pytest.mark.once
class TestFailure:
    def test_a_parameter_that_makes_no_sense_is_named(self, workshop, protocol):
        guest = workshop.boot_small("memtouch", "mode=wrong", protocol=protocol)
        assert guest.fail() == "the parameter mode cannot be 'wrong'"

    def test_an_exception_is_reported_with_its_place(self, workshop, protocol):
        guest = workshop.boot_small("probe", "serve", protocol=protocol).wait_ready()
        guest.tell("panic")
        reason = guest.fail()
        assert reason.startswith("panic: page fault (vector 14, error 0x2) on CPU 0 in ring 0")
        assert "cr2 0x10000000000" in reason
        assert "triple fault" in log_of(guest.monitor)


@pytest.mark.once
class TestSerial:
    def test_lines_go_in_and_come_out(self, workshop, protocol):
        """The guest sleeps between them: each line's first byte must wake it."""
        guest = workshop.boot_small("probe", "serve", protocol=protocol).wait_ready()
        for number in range(200 if FACTOR == 1 else 20):
            text = f"line {number} " + "x" * (number * 7 % 300)
            mark = guest.tell(f"echo {text}")
            guest.console.wait_for(rb"echo: " + text.encode() + rb"\n", 60, mark)
        guest.tell("reset")
        guest.finish()

    def test_many_lines_at_once(self, workshop, protocol):
        guest = workshop.boot_small("probe", "serve", protocol=protocol).wait_ready()
        count = 500 if FACTOR == 1 else 50
        guest.monitor.type(b"".join(b"echo %d\n" % number for number in range(count)) + b"reset\n")
        guest.finish()
        assert re.findall(rb"echo: ([0-9]+)\n", guest.console.since()) == [b"%d" % n for n in range(count)]


class TestMemory:
    @pytest.mark.parametrize("pattern", ["sequential", "random"])
    def test_what_is_written_to_all_of_memory_stays_there(self, workshop, protocol, pattern):
        guest = workshop.boot_small("memtouch", f"mode=fill pattern={pattern} then=serve", protocol=protocol,
                                    mem=32).wait_ready()
        assert guest.result("pass")["pages"] == guest.result("memory")["touched_pages"] > 29 * 256
        assert guest.ask("verify")["bad"] == 0
        guest.api.pause()
        guest.api.resume()
        assert guest.ask("verify")["bad"] == 0
        guest.ask("seed 2")  # what would have been written with another seed is not there
        assert guest.ask("verify")["bad"] == guest.result("memory")["touched_pages"]
        guest.tell("reset")
        guest.finish()

    def test_memory_above_the_gap_can_be_used(self, workshop, protocol):
        guest = workshop.boot_small("memtouch", "pattern=stride stride=2M then=serve", protocol=protocol,
                                    mem=4096).wait_ready()
        assert guest.result("memory")["ranges"] == 2
        assert guest.result("memory")["free_bytes"] > 4094 * MIB
        assert guest.ask("verify")["bad"] == 0

    def test_a_guest_of_four_mib(self, workshop, protocol):
        guest = workshop.boot_small("memtouch", "mode=fill then=serve", protocol=protocol, mem=4).wait_ready()
        assert guest.result("memory")["free_bytes"] > 2.5 * MIB
        assert guest.ask("verify")["bad"] == 0

    @pytest.mark.once
    def test_a_part_of_memory_is_what_the_monitor_comes_to_own(self, workshop, protocol):
        """Memory that a guest does not touch costs the host nothing."""
        def private_kib(guest):
            with open(f"/proc/{guest.monitor.pid}/smaps_rollup", encoding="ascii") as file:
                return int(re.search(r"Private_Dirty: +([0-9]+) kB", file.read())[1])

        little, much = (workshop.boot_small("memtouch", f"bytes={size}M then=halt", protocol=protocol,
                                            mem=256).wait_ready() for size in (1, 129))
        difference = private_kib(much) - private_kib(little)
        assert 127 * 1024 < difference < 131 * 1024


class TestExits:
    def test_every_way_out_is_timed(self, workshop, protocol):
        guest = workshop.boot_small("exits", "count=100", protocol=protocol,
                                    drives=[{"path": workshop.disk("disk", MIB)}])
        guest.finish()
        for name in ("nothing", "cpuid", "exception", "pio_read", "pio_write", "mmio_read", "mmio_write",
                     "ioeventfd", "irqfd", "irqfd_poll"):
            result = guest.result(name)
            assert result["n"] == 100
            for unit in ("ticks", "ns"):
                times = [result[f"{which}_{unit}"] for which in ("min", "median", "p99", "max")]
                assert times == sorted(times)
        # Whatever the machine: a way out to the monitor takes longer than none.
        assert guest.result("pio_read")["median_ticks"] > guest.result("nothing")["median_ticks"]

    def test_without_a_disk_what_needs_one_is_left_out(self, workshop, protocol):
        guest = workshop.boot_small("exits", "count=10 ring=3", protocol=protocol)
        guest.finish()
        assert guest.result("irqfd").values == {"skipped": "no-disk"}
        assert guest.result("mmio_read")["ring"] == 3
        assert guest.result("pio_read")["ring"] == 0


class TestPause:
    def test_a_busy_guest_stands_still_while_paused_and_goes_on(self, workshop, protocol):
        guest = workshop.boot_small("memtouch", "bytes=64K then=keep", protocol=protocol).wait_ready()
        console = guest.console
        for _ in range(50 if FACTOR == 1 else 5):
            guest.api.pause()
            last = None
            while last != console.mark():  # what it wrote before the pause comes through
                last = console.mark()
                time.sleep(0.05)
            time.sleep(0.05)
            assert console.mark() == last
            guest.api.resume()
            wait_until(lambda: console.mark() > last, 60, "the guest to go on")
        assert guest.monitor.end() == 143

    @pytest.mark.once
    def test_a_sleeping_guest_wakes_to_what_was_typed_while_it_was_paused(self, workshop, protocol):
        guest = workshop.boot_small("probe", "serve", protocol=protocol).wait_ready()
        for number in range(50 if FACTOR == 1 else 5):
            guest.api.pause()
            mark = guest.tell(f"echo {number}")
            guest.api.resume()
            guest.console.wait_for(b"echo: %d\n" % number, 60, mark)

    def test_all_of_several_vcpus_start_whenever_it_is_paused(self, workshop, protocol):
        for _ in range(20 if FACTOR == 1 else 3):
            guest = workshop.boot_small("probe", "cpus=4", protocol=protocol, vcpus=4)
            with guest.api.connect() as connection:
                try:
                    while True:
                        for state in ("Paused", "Resumed"):
                            assert connection.request("PATCH", "/vm", {"state": state}).status == 204
                except Exception:  # the guest's end closes the connection, in the middle of anything
                    pass
            guest.finish()
            assert guest.result("cpus")["work"] == 400_000
            workshop.forget(guest)
