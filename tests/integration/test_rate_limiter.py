"""Rate limits: what a guest measures is what was set.

The limits are far below what any machine does. More than the limit is never let through, whatever the machine; less is,
where it stalls for longer than a bucket takes to refill, and then the measurement is made again.
"""
import json
import os
import time

import pytest

from harness import images, tiny
from harness.clock import wait_until

KIB, MIB = 1 << 10, 1 << 20
SECOND = 1000
SHARE = 0.05  # what a measurement may be off by

NO_LIMIT = {"size": 0, "refill_time": 0}


def bucket(size, refill_time=SECOND, burst=0):
    return {"size": size, "refill_time": refill_time, "one_time_burst": burst}


def metrics_of(monitor, path):
    monitor.api.put("/actions", {"action_type": "FlushMetrics"})
    return json.loads(path.read_text().splitlines()[-1])


def boot_with_fio(workshop, kernel, limits, **drive):
    """A guest with fio, whose second disk has these limits."""
    root = workshop.copy_of(images.root_disk_with_fio(), "root.ext4")
    disk = workshop.disk("disk", 64 * MIB)
    guest = workshop.boot(kernel, "--metrics-path", workshop.path("metrics"), initrd=None, drives=[
        {"path": root, "root": True},
        {"path": disk, "drive_id": "data", "rate_limiter": limits, **drive}])
    guest.metrics_path = workshop.path("metrics")
    return guest


def done(metrics):
    """Bytes and operations of the drive so far."""
    drive = metrics["block_data"]
    return (drive["read_bytes"] + drive["write_bytes"], drive["read_count"] + drive["write_count"])


def fio(guest, rw, block_size):
    """What fio and the monitor measured of the same seconds, after two in which buckets ran empty.

    Two pairs: bytes, and operations, in a second.
    """
    before = metrics_of(guest.monitor, guest.metrics_path)
    mark = guest.start(f"fio --name=job --filename=/dev/vdb --rw={rw} --bs={block_size} --direct=1 "
                       f"--ioengine=libaio --iodepth=4 --ramp_time=2 --runtime=7 --time_based "
                       f"--fallocate=none --output-format=json")
    wait_until(lambda: done(metrics_of(guest.monitor, guest.metrics_path))[1] > done(before)[1] + 20, 60,
               "fio to begin")
    time.sleep(2)
    start = metrics_of(guest.monitor, guest.metrics_path)
    time.sleep(6)
    end = metrics_of(guest.monitor, guest.metrics_path)
    status, output = guest.finish(mark, 120)
    assert status == 0
    report = json.loads(output[output.index(b"{"):])["jobs"][0]
    side = report["write" if "write" in rw else "read"]
    seconds = (end["utc_timestamp_ms"] - start["utc_timestamp_ms"]) / 1000
    of_monitor = [(then - now) / seconds for then, now in zip(done(end), done(start))]
    return list(zip((side["bw_bytes"], side["iops"]), of_monitor))


def assert_limit(measure, limit, attempts=3):
    """All that measure() returns is within 5 % of the limit, and the last, the monitor's own count, never above."""
    seen = []
    for _ in range(attempts):
        seen.append(measure())
        assert seen[-1][-1] <= (1 + SHARE) * limit, (seen, limit)
        if all(abs(measured - limit) <= SHARE * limit for measured in seen[-1]):
            return
    raise AssertionError(f"{seen} instead of {limit}")


@pytest.mark.waits
@pytest.mark.guest
class TestDrives:
    def test_fio_measures_the_bandwidth_before_and_after_a_patch(self, workshop, kernel):
        guest = boot_with_fio(workshop, kernel, {"bandwidth": bucket(100 * KIB, 200)}, io_engine="Sync")
        assert_limit(lambda: fio(guest, "randread", "4k")[0], 500 * KIB)
        # Of two limits the tighter one counts.
        guest.api.patch("/drives/data", {"drive_id": "data", "rate_limiter": {
            "bandwidth": bucket(60 * KIB, 200), "ops": bucket(1000)}})
        assert_limit(lambda: fio(guest, "randwrite", "4k")[0], 300 * KIB)
        drive = metrics_of(guest.monitor, guest.metrics_path)["block_data"]
        assert drive["rate_limiter_throttled_events"] > 0
        assert drive["rate_limiter_event_count"] > 0
        assert guest.reboot() == 0

    @pytest.mark.once
    def test_fio_measures_the_operations_before_and_after_a_patch(self, workshop, kernel):
        guest = boot_with_fio(workshop, kernel, {"ops": bucket(10, 200), "bandwidth": bucket(10 * MIB)},
                              io_engine="Async")
        assert_limit(lambda: fio(guest, "randwrite", "4k")[1], 50)
        guest.api.patch("/drives/data", {"drive_id": "data", "rate_limiter": {
            "ops": bucket(20, 200), "bandwidth": NO_LIMIT}})
        assert_limit(lambda: fio(guest, "randread", "16k")[1], 100)
        assert guest.api.get("/vm/config")["drives"][1]["rate_limiter"] == {"ops": bucket(20, 200)}

        def throttled():
            return metrics_of(guest.monitor, guest.metrics_path)["block_data"]["rate_limiter_throttled_events"]

        guest.api.patch("/drives/data", {"rate_limiter": {"ops": NO_LIMIT}})
        before = throttled()
        guest.run("dd if=/dev/vdb of=/dev/null bs=4k count=500 iflag=direct 2>/dev/null", 120)
        assert throttled() == before
        assert "rate_limiter" not in guest.api.get("/vm/config")["drives"][1]
        assert guest.reboot() == 0

    @pytest.mark.once
    def test_a_burst_is_spent_once(self, workshop, kernel):
        limits = {"bandwidth": bucket(64 * KIB, SECOND, 4 * MIB)}
        guest = workshop.boot(kernel, "--metrics-path", workshop.path("metrics"), drives=[
            {"path": workshop.disk("disk", 16 * MIB), "drive_id": "data", "rate_limiter": limits}])

        def throttled():
            return metrics_of(guest.monitor, workshop.path("metrics"))["block_data"]["rate_limiter_throttled_events"]

        # What the guest's kernel read to look for partitions came out of the burst too.
        guest.run("dd if=/dev/vda of=/dev/null bs=64k count=56 iflag=direct 2>/dev/null", 120)
        assert throttled() == 0
        guest.run("dd if=/dev/vda of=/dev/null bs=64k count=10 iflag=direct 2>/dev/null", 120)
        guest.api.patch("/drives/data", {"rate_limiter": limits})  # which gives no second burst
        start = time.monotonic()
        guest.run("dd if=/dev/vda of=/dev/null bs=64k count=6 iflag=direct 2>/dev/null", 120)
        assert time.monotonic() - start >= 3.8
        assert throttled() > 0

    @pytest.mark.once
    def test_a_drive_that_waits_holds_up_nothing_else(self, workshop, kernel):
        """One operation a day: reads of that drive hang. All else goes on, and so does it, without the limit."""
        guest = workshop.boot(kernel, "--metrics-path", workshop.path("metrics"), drives=[
            {"path": workshop.disk("slow", 4 * MIB), "drive_id": "slow"},
            {"path": workshop.disk("quick", 4 * MIB), "drive_id": "quick"}])
        guest.api.patch("/drives/slow", {"rate_limiter": {"ops": bucket(1, 86400 * SECOND)}})
        guest.run("(dd if=/dev/vda of=/tmp/slow bs=4k iflag=direct 2>/dev/null; echo over >/tmp/over) "
                  ">/dev/null 2>&1 &")
        wait_until(lambda: metrics_of(guest.monitor, workshop.path("metrics"))["block_slow"]
                   ["rate_limiter_throttled_events"] > 0, 60, "the drive to wait")
        guest.run("dd if=/dev/urandom of=/dev/vdb bs=64k count=64 conv=fsync 2>/dev/null", 120)
        for _ in range(3):
            guest.api.patch("/vm", {"state": "Paused"})
            guest.api.patch("/vm", {"state": "Resumed"})
        larger = workshop.disk("larger", 8 * MIB)
        larger.write_bytes(b"larger" + larger.read_bytes()[6:])
        guest.api.patch("/drives/slow", {"path_on_host": str(larger)})
        assert guest.try_run("test -e /tmp/over")[0] != 0
        guest.api.patch("/drives/slow", {"rate_limiter": {"ops": NO_LIMIT}})
        guest.run("while [ ! -e /tmp/over ]; do sleep 0.1; done", 120)
        assert guest.read("/sys/block/vda/size") == str(8 * MIB // 512)

    @pytest.mark.once
    def test_the_end_does_not_wait_for_a_limit(self, workshop, kernel):
        guest = workshop.boot(kernel, "--metrics-path", workshop.path("metrics"), drives=[
            {"path": workshop.disk("slow", 4 * MIB), "drive_id": "slow", "cache_type": "Writeback"}])
        guest.api.patch("/drives/slow", {"rate_limiter": {"ops": bucket(1, 86400 * SECOND)}})
        guest.run("dd if=/dev/urandom of=/dev/vda bs=4k count=64 oflag=direct >/dev/null 2>&1 &")
        wait_until(lambda: metrics_of(guest.monitor, workshop.path("metrics"))["block_slow"]
                   ["rate_limiter_throttled_events"] > 0, 60, "the drive to wait")
        assert guest.monitor.end() == 143


@pytest.mark.once
@pytest.mark.guest
@pytest.mark.usefixtures("kvm")
class TestSerial:
    """A guest of a few instructions that writes as fast as it can."""

    @staticmethod
    def measure(path, seconds):
        start, before = time.monotonic(), os.path.getsize(path)
        time.sleep(seconds)
        return (os.path.getsize(path) - before) / (time.monotonic() - start)

    @pytest.mark.waits
    @pytest.mark.parametrize("limiter", [bucket(100, 200), {"bandwidth": bucket(50, 100)}],
                             ids=["bucket", "limiter"])
    def test_output_keeps_its_limit(self, workshop, limiter):
        out = workshop.path("out")
        monitor = workshop.boot_tiny(tiny.COUNT, "--metrics-path", workshop.path("metrics"),
                                     serial={"serial_out_path": str(out), "rate_limiter": limiter})
        wait_until(lambda: out.exists() and os.path.getsize(out) >= 600, 60, "output")
        assert_limit(lambda: [self.measure(out, 6)], 500)
        assert monitor.api.get("/vm/config")["serial"]["rate_limiter"] == limiter
        wait_until(lambda: metrics_of(monitor, workshop.path("metrics"))["uart"]["dropped_count"] > 0, 60,
                   "output that found no room")
        uart = metrics_of(monitor, workshop.path("metrics"))["uart"]
        assert uart["rate_limiter_throttled_events"] > 0
        data = out.read_bytes()
        counted = bytes(range(256)) * (len(data) // 256 + 1)
        # Nothing is lost before the buffer is full, however slowly it is written out.
        assert data[:60000] == counted[:len(data)][:60000]

    def test_without_a_limit_nothing_is_held_back(self, workshop):
        out = workshop.path("out")
        monitor = workshop.boot_tiny(tiny.COUNT, "--metrics-path", workshop.path("metrics"), serial={
            "serial_out_path": str(out), "rate_limiter": {"ops": NO_LIMIT, "bandwidth": NO_LIMIT}})
        wait_until(lambda: out.exists() and os.path.getsize(out) > 300000, 60, "output")
        assert metrics_of(monitor, workshop.path("metrics"))["uart"]["rate_limiter_throttled_events"] == 0
