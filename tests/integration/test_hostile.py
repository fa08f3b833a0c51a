"""A guest that does to its devices whatever a driver must not do (tests/guests/README.md, hostile).

It judges by itself what it can see. Here is what the host sees: the monitor and its API go on, no byte changes that
nobody may write, the log says what happened without drowning in it, and the metrics have counted it.
"""
import hashlib
import json
import re
import struct
import time

import pytest

from harness import network, small
from harness.clock import FACTOR, TookTooLong
from harness.workshop import log_of

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

ENGINES = ("Sync", "Async") if FACTOR == 1 else ("Async",)
SECTORS = 32768  # 16 MiB: a read of all of it is more than a monitor does at one go
SECTOR = 512
# What a case does many times, it does so many times.
ROUNDS = 60 if FACTOR == 1 else 6
SECONDS = 300
SUITES = ("chains", "indirect", "rings", "registers", "queues", "requests", "ranges", "nowhere", "legacy")
LINES_AT_ONCE = 5
BROKE = re.compile(r"\] (drive \w+): queue [0-9]+: the guest's driver broke the rules: (.*); the device stops")
SANITIZERS = re.compile(r"runtime error|Sanitizer")


def pattern_disk(workshop, name):
    """Each sector holds its own number, 64 times: the guest knows it."""
    return workshop.file(name, b"".join(struct.pack("<Q", sector) * 64 for sector in range(SECTORS)))


def digest(path, size=-1):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read(size)).hexdigest()


def boot(workshop, args, *, engine="Async", vcpus=1, sections=None, **options):
    victim, witness = pattern_disk(workshop, "victim"), pattern_disk(workshop, "witness")
    metrics = workshop.path("metrics")
    metrics.unlink(missing_ok=True)
    guest = workshop.boot_small(
        "hostile", args, "--metrics-path", metrics, mem=64, vcpus=vcpus, options=options, **(sections or {}),
        drives=[{"path": victim, "io_engine": engine, "cache_type": "Writeback"},
                {"path": witness, "read_only": True, "io_engine": "Sync"}])
    guest.metrics_path = metrics
    return guest


def metrics_of(guest):
    guest.api.put("/actions", {"action_type": "FlushMetrics"})
    return json.loads(guest.metrics_path.read_text().splitlines()[-1])


def wait_end_of_cases(guest):
    guest.console.wait_for(rb"result: end\n", SECONDS)
    return guest


def verdicts(guest):
    return {result["name"]: result.values for result in guest.results("case")}


def assert_all_good(guest):
    found = verdicts(guest)
    assert found and {name: values for name, values in found.items() if values.get("verdict") != "good"} == {}
    return found


def assert_monitor_is_well(guest):
    assert guest.api.state() == "Running"
    assert not SANITIZERS.search(guest.monitor.stderr), guest.monitor.stderr
    # No fault of the monitor's own: its log has nothing above a warning.
    assert ":Error]" not in log_of(guest.monitor)


def end(guest):
    assert guest.monitor.end() == 143
    assert not SANITIZERS.search(guest.monitor.stderr), guest.monitor.stderr


class TestAllCases:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_every_case_ends_well_for_everybody_else(self, workshop, engine):
        kernel = small.path(workshop.program, "hostile")
        kernel_before = digest(kernel)
        guest = boot(workshop, f"rounds={ROUNDS} then=halt " + " ".join(f"suite={name}" for name in SUITES), engine=engine)
        untouched = digest(workshop.path("victim"), SECTORS * SECTOR // 2), digest(workshop.path("witness"))
        wait_end_of_cases(guest)
        assert len(assert_all_good(guest)) > 150
        assert_monitor_is_well(guest)
        # What was refused was not half done; what is mapped from a file is not written to it.
        assert (digest(workshop.path("victim"), SECTORS * SECTOR // 2), digest(workshop.path("witness"))) == untouched
        assert digest(kernel) == kernel_before

        metrics = metrics_of(guest)
        victim, witness = metrics["block_victim"], metrics["block_witness"]
        # A case that writes registers at random may have reset a device that it had not seen broken.
        assert victim["needs_reset_count"] >= guest.result("broken")["count"] > 100
        assert victim["malformed_count"] > 50
        assert victim["invalid_reqs_count"] > 100
        assert victim["unsupported_reqs_count"] > 100
        assert victim["reset_count"] > 300
        # The other drive was never in trouble; it has only refused to be written to.
        assert witness["needs_reset_count"] == witness["malformed_count"] == witness["io_errors"] == 0
        assert victim["io_errors"] == 0
        assert metrics["uart"]["write_count"] > ROUNDS * 64
        assert metrics["i8042"]["dropped_count"] > 0
        assert metrics["logger"]["error_log_count"] == 0
        end(guest)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_what_a_second_cpu_rewrites_meanwhile(self, workshop, engine):
        guest = boot(workshop, f"suite=race rounds={ROUNDS * 5} then=halt", engine=engine, vcpus=2)
        witness = digest(workshop.path("witness"))
        wait_end_of_cases(guest)
        assert len(assert_all_good(guest)) >= 5
        assert_monitor_is_well(guest)
        assert digest(workshop.path("witness")) == witness
        metrics = metrics_of(guest)
        assert metrics["block_victim"]["needs_reset_count"] > 0
        assert metrics["block_witness"]["needs_reset_count"] == 0
        end(guest)


@pytest.fixture
def net(needs):
    made = network.make(needs)
    yield made
    made.clean_up()


class TestNetwork:
    @pytest.mark.parametrize("suite, vcpus", [("net", 1), ("race-net", 2)])
    def test_every_case_leaves_a_network_that_works(self, workshop, net, suite, vcpus):
        guest = boot(workshop, f"suite={suite} rounds={ROUNDS * vcpus} then=halt", vcpus=vcpus, wrapper=net.wrapper,
                     sections={"network-interfaces": [{"iface_id": "eth0", "host_dev_name": network.TAP}]})
        wait_end_of_cases(guest)
        assert len(assert_all_good(guest)) >= (3 if suite == "race-net" else 25)
        assert_monitor_is_well(guest)
        metrics = metrics_of(guest)
        assert metrics["net_eth0"]["needs_reset_count"] >= guest.result("broken")["count"]
        assert metrics["net_eth0"]["needs_reset_count"] > (0 if suite == "race-net" else 9)
        # Whether a race is ever won in the middle of a frame is up to two processors.
        if suite != "race-net":
            assert metrics["net_eth0"]["tx_malformed_frames"] > ROUNDS
        assert metrics["block_victim"]["needs_reset_count"] == metrics["block_witness"]["needs_reset_count"] == 0
        end(guest)


@pytest.mark.once
class TestLog:
    @pytest.mark.parametrize("case, reason", [
        ("loop-of-two", "a chain that loops (0x0)"),
        ("next-past-the-queue", "a descriptor index out of range (0x100)"),
        ("data-that-wraps", "a buffer outside memory (0xffffffffffffff00)"),
        ("indirect-not-negotiated", "an indirect descriptor, which was not negotiated (0x4)"),
        ("index-jumps-far", "the available index jumped (0x8000)"),
        ("no-status", "a block request without a status byte (0x0)")])
    def test_what_broke_a_device_is_said_once(self, workshop, case, reason):
        guest = boot(workshop, f"case={case}")
        guest.finish()
        assert_all_good(guest)
        assert BROKE.findall(log_of(guest.monitor)) == [("drive victim", reason)]

    def test_a_guest_cannot_flood_it(self, workshop):
        times = 15
        guest = boot(workshop, f"case=loop-of-one case=features-that-were-not-offered repeat={times} then=halt")
        begin = time.monotonic()
        wait_end_of_cases(guest)
        periods = (time.monotonic() - begin) // 5 + 2
        assert_all_good(guest)
        lines = [line for line in log_of(guest.monitor).splitlines() if "the guest's driver" in line]
        assert 0 < len(lines) <= LINES_AT_ONCE * periods
        # Each time there was one reason of the first case, and dozens of the second.
        assert len(lines) < 10 * times
        assert metrics_of(guest)["block_victim"]["needs_reset_count"] == times
        end(guest)


class TestMeanwhile:
    """The host's side at work while the guest does its worst, again and again."""

    @pytest.mark.parametrize("engine", ENGINES)
    def test_the_api_the_pause_and_the_swap_of_a_drive(self, workshop, engine):
        cases = ("refusals-all-the-time", "reset-in-the-middle", "notify-all-the-time", "requests-at-random",
                 "loop-of-all", "index-jumps-far", "queue-reset-in-the-middle", "serial-flood", "i8042-overrun")
        words = " ".join(f"case={case}" for case in cases)
        guest = boot(workshop, f"{words} rounds={ROUNDS} repeat=0", engine=engine)
        other = pattern_disk(workshop, "other")
        api = guest.api
        mark = guest.console.mark()
        turns = 0
        while turns < 10 or len(guest.results("case", mark)) < 2 * len(cases):
            turns += 1
            assert api.state() == "Running"
            api.pause()
            assert api.state() == "Paused"
            api.resume()
            api.patch("/drives/victim", {"drive_id": "victim", "path_on_host": str(
                other if turns % 2 else workshop.path("victim"))})
            assert metrics_of(guest)["block_victim"]["update_count"] == turns
            api.request("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
            assert turns < 10000, "the guest does not get on"
        assert_all_good(guest)
        assert_monitor_is_well(guest)
        end(guest)

    @pytest.mark.once
    def test_keys_that_nobody_reads(self, workshop):
        guest = boot(workshop, "case=loop-of-one then=halt").wait_ready()
        refused = [answer for answer in (guest.api.request("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
                                         for _ in range(20)) if answer.status != 204]
        assert refused and "does not take keys" in refused[-1].fault
        assert_monitor_is_well(guest)
        end(guest)


@pytest.mark.parametrize("case", ["run-a-device", "run-nothing", "page-tables-in-a-device", "page-tables-nowhere",
                                  "no-descriptors-at-all"])
def test_a_guest_that_kills_itself_leaves_its_monitor_in_order(workshop, case):
    """It ends with it, and says why; or, where KVM tries the same instruction for ever, can be asked and ended."""
    guest = workshop.boot_small("hostile", f"case=end-{case}")
    try:
        assert guest.monitor.wait(3) == 1
    except TookTooLong:
        assert guest.api.state() == "Running"
        end(guest)
        return
    assert re.search(r"triple fault|KVM internal error|refuses to enter the guest", log_of(guest.monitor))
    assert "rip " in log_of(guest.monitor)
    assert not SANITIZERS.search(guest.monitor.stderr), guest.monitor.stderr
    assert not guest.monitor.socket_path.exists()
