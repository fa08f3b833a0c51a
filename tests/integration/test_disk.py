"""Disks, seen by a Linux guest and, at the same time, as files of the host."""
import hashlib
import json
import os
import pathlib
import re

import pytest

from harness import images
from harness.clock import FACTOR, wait_until

pytestmark = pytest.mark.guest

MIB = 1 << 20
ENGINES = ("Sync", "Async")
# A guest in the emulated host moves a few MiB each second; what it reads back is right or wrong all the same.
BULK_MIB = 512 if FACTOR == 1 else 16


def occupied(path):
    """How many bytes of the disk a file takes up."""
    return os.stat(path).st_blocks * 512


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_in(guest, path):
    return guest.run(f"sha256sum {path}", 600).split()[0]


def drop_caches(guest):
    guest.run("sync; echo 3 >/proc/sys/vm/drop_caches")


def metrics_of(guest, path):
    """The newest line of the metrics."""
    guest.api.put("/actions", {"action_type": "FlushMetrics"})
    return json.loads(path.read_text().splitlines()[-1])


class TestRoot:
    def test_the_root_is_an_ext4_disk(self, workshop, each_kernel):
        disk = workshop.copy_of(images.root_disk(), "root.ext4")
        guest = workshop.boot(each_kernel, drives=[{"path": disk, "root": True}], **each_kernel.with_root_disk())
        mounts = guest.run("grep ' / ext4' /proc/mounts")
        assert " rw," in mounts
        guest.run("echo kept >/kept && sync")
        assert guest.reboot() == 0
        again = workshop.boot(each_kernel, drives=[{"path": disk, "root": True}], **each_kernel.with_root_disk())
        assert again.read("/kept") == "kept"
        assert again.reboot() == 0

    @pytest.mark.once
    def test_a_read_only_root(self, workshop, kernel):
        disk = workshop.copy_of(images.root_disk(), "root.ext4")
        before = sha256_of(disk)
        if kernel.modules:
            pytest.fail("the first kernel has its drivers built in")
        guest = workshop.boot(kernel, drives=[{"path": disk, "root": True, "read_only": True}], initrd=None)
        assert " ro," in guest.run("grep ' / ext4' /proc/mounts")
        assert guest.try_run("mount -o remount,rw /")[0] != 0
        assert guest.reboot() == 0
        assert sha256_of(disk) == before


@pytest.fixture(scope="class")
def eight(new_workshop, each_kernel):
    """A guest with eight drives: one read-only, one small, engines and caches mixed."""
    with new_workshop() as workshop:
        drives = []
        for number in range(8):
            path = workshop.disk(f"drive{number}", (number + 1) * MIB + 512)
            with open(path, "r+b") as file:
                file.write(f"this is drive {number}\n".encode())
            drives.append({"path": path, "read_only": number == 7, "io_engine": ENGINES[number % 2],
                           "cache_type": ("Unsafe", "Writeback")[number // 2 % 2]})
        guest = workshop.boot(each_kernel, "--metrics-path", workshop.path("metrics"), drives=drives)
        guest.paths = [drive["path"] for drive in drives]
        guest.metrics_path = workshop.path("metrics")
        yield guest


class TestEightDrives:
    def test_all_are_there_in_order_with_their_sizes(self, eight):
        assert eight.disks() == [f"vd{letter}" for letter in "abcdefgh"]
        for number, name in enumerate(eight.disks()):
            assert int(eight.read(f"/sys/block/{name}/size")) == ((number + 1) * MIB + 512) // 512
            assert eight.run(f"head -n 1 /dev/{name}").strip() == f"this is drive {number}"

    def test_each_has_its_id_as_serial_number(self, eight):
        for number, name in enumerate(eight.disks()):
            assert eight.read(f"/sys/block/{name}/serial") == f"drive{number}"

    def test_all_work_at_once(self, eight):
        """Random data to seven drives at the same time, read back past the cache at the same time."""
        eight.run("; ".join(f"(dd if=/dev/urandom of=/tmp/r{n} bs=512 count={(n + 1) * 2048} 2>/dev/null; "
                            f"dd if=/tmp/r{n} of=/dev/vd{'abcdefg'[n]} bs=64k conv=notrunc,fsync 2>/dev/null) &"
                            for n in range(7)).replace("&;", "&") + " wait", 600)
        drop_caches(eight)
        sums = eight.run(" ".join(f"(head -c {(n + 1) * MIB} /dev/vd{'abcdefg'[n]} | sha256sum >/tmp/s{n}) &"
                                  for n in range(7)) + " wait; cat /tmp/s*", 600).split()[::2]
        expected = eight.run("sha256sum /tmp/r*", 600).split()[::2]
        assert sums == expected and len(set(sums)) == 7
        for number in range(7):
            with open(eight.paths[number], "rb") as file:
                data = file.read((number + 1) * MIB)
            assert hashlib.sha256(data).hexdigest() == expected[number]
        eight.run("rm /tmp/r*")

    def test_the_read_only_one_refuses_writes(self, eight):
        assert eight.read("/sys/block/vdh/ro") == "1"
        before = sha256_of(eight.paths[7])
        assert eight.try_run("dd if=/dev/urandom of=/dev/vdh bs=4k count=1 conv=fsync")[0] != 0
        assert eight.try_run("blkdiscard /dev/vdh")[0] != 0
        assert sha256_of(eight.paths[7]) == before

    def test_io_at_and_beyond_the_last_sector(self, eight):
        sectors = (MIB + 512) // 512
        eight.run(f"printf last | dd of=/dev/vda bs=512 seek={sectors - 1} conv=sync,fsync 2>/dev/null")
        drop_caches(eight)
        assert eight.run(f"dd if=/dev/vda bs=512 skip={sectors - 1} count=1 iflag=direct 2>/dev/null | "
                         f"head -c 4") == "last"
        status, _ = eight.try_run(f"dd if=/dev/zero of=/dev/vda bs=512 seek={sectors} count=1 conv=notrunc")
        assert status != 0
        assert os.path.getsize(eight.paths[0]) == MIB + 512

    def test_unbind_and_bind_again_with_data_intact(self, eight):
        """Ten times: the driver resets the device, gives its queues back and sets it up anew."""
        before = sha256_in(eight, "/dev/vdb")
        device = pathlib.Path(eight.run("readlink -f /sys/block/vdb/device").strip()).name
        driver = "/sys/bus/virtio/drivers/virtio_blk"
        for _ in range(10):
            eight.run(f"echo {device} >{driver}/unbind")
            assert "vdb" not in eight.disks()
            eight.run(f"echo {device} >{driver}/bind; while [ ! -b /dev/vdb ]; do sleep 0.1; done")
        drop_caches(eight)
        assert sha256_in(eight, "/dev/vdb") == before
        assert metrics_of(eight, eight.metrics_path)["block_drive1"]["reset_count"] >= 10

    def test_unbind_while_requests_are_on_their_way(self, eight):
        device = pathlib.Path(eight.run("readlink -f /sys/block/vdc/device").strip()).name
        driver = "/sys/bus/virtio/drivers/virtio_blk"
        for _ in range(3):
            eight.script(f"dd if=/dev/urandom of=/dev/vdc bs=64k 2>/dev/null &\n"
                         f"dd if=/dev/vdc of=/dev/null bs=4k iflag=direct 2>/dev/null &\n"
                         f"sleep 0.2; echo {device} >{driver}/unbind; wait\n"
                         f"rm -f /dev/vdc; echo {device} >{driver}/bind\n"
                         f"while [ ! -b /dev/vdc ]; do sleep 0.1; done", 300)
        eight.run("dd if=/dev/zero of=/dev/vdc bs=64k count=16 conv=fsync 2>/dev/null && "
                  "[ $(head -c 1048576 /dev/vdc | tr -d '\\0' | wc -c) = 0 ]")

    def test_metrics_count_what_was_done(self, eight):
        metrics = metrics_of(eight, eight.metrics_path)
        for number in range(7):
            drive = metrics[f"block_drive{number}"]
            assert drive["write_bytes"] >= (number + 1) * MIB
            assert drive["read_bytes"] > 0
            assert drive["malformed_count"] == drive["needs_reset_count"] == 0
        assert metrics["block_drive2"]["flush_count"] > 0
        assert metrics["block_drive7"]["write_bytes"] == 0

    def test_sigterm_ends_it_with_no_write_lost(self, eight):
        eight.run("printf 'written last' | dd of=/dev/vdd bs=512 conv=sync,notrunc,fsync 2>/dev/null")
        assert eight.monitor.end() == 143
        with open(eight.paths[3], "rb") as file:
            assert file.read(12) == b"written last"


@pytest.mark.parametrize("engine", [pytest.param("Sync", marks=pytest.mark.once), "Async"])
class TestEngines:
    def test_random_data_comes_back(self, workshop, kernel, engine):
        """Written, synced, dropped from the cache, read back, compared by SHA-256: in guest and file."""
        mib = BULK_MIB
        disk = workshop.disk("bulk", mib * MIB)
        source = workshop.path("source")
        with open(source, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        expected = sha256_of(source)
        guest = workshop.boot(kernel, mem=256, drives=[
            {"path": source, "read_only": True, "io_engine": engine},
            {"path": disk, "io_engine": engine, "cache_type": "Writeback"}])
        guest.run("dd if=/dev/vda of=/dev/vdb bs=1M conv=fsync 2>/dev/null", 900)
        drop_caches(guest)
        assert sha256_in(guest, "/dev/vdb") == expected
        assert guest.reboot() == 0
        assert sha256_of(disk) == expected

    def test_what_the_guest_synced_survives_kill_9(self, workshop, kernel, engine):
        disk = workshop.copy_of(images.root_disk(), "disk.ext4")
        guest = workshop.boot(kernel, drives=[{"path": disk, "io_engine": engine, "cache_type": "Writeback"}])
        guest.run("mount -t ext4 /dev/vda /mnt && head -c 3000000 /dev/urandom >/mnt/data && sync")
        expected = sha256_in(guest, "/mnt/data")
        guest.start("dd if=/dev/urandom of=/mnt/more bs=64k count=10000 2>/dev/null")
        wait_until(lambda: occupied(disk) > 0, 30, "the disk to be written to")
        guest.monitor.kill()
        assert guest.monitor.status == -9
        again = workshop.boot(kernel, drives=[{"path": disk, "io_engine": engine}])
        again.run("mount -t ext4 /dev/vda /mnt")
        assert sha256_in(again, "/mnt/data") == expected

    def test_discard_gives_space_back(self, workshop, kernel, engine):
        disk = workshop.disk("disk", 64 * MIB)
        guest = workshop.boot(kernel, drives=[{"path": disk, "io_engine": engine}])
        guest.run("dd if=/dev/urandom of=/dev/vda bs=1M count=24 conv=fsync 2>/dev/null", 300)
        assert occupied(disk) >= 24 * MIB
        guest.run("blkdiscard -o 4194304 -l 16777216 /dev/vda")
        assert occupied(disk) <= 9 * MIB
        zeros = guest.run("dd if=/dev/vda bs=1M skip=4 count=16 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c")
        assert zeros.strip() == "0"
        assert os.path.getsize(disk) == 64 * MIB

    def test_a_file_system_trims_its_disk(self, workshop, kernel, engine):
        disk = workshop.copy_of(images.root_disk(), "disk.ext4")
        guest = workshop.boot(kernel, drives=[{"path": disk, "io_engine": engine}])
        guest.run("mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/big bs=1M count=24 "
                  "conv=fsync 2>/dev/null", 300)
        before = occupied(disk)
        guest.run("rm /mnt/big && sync && fstrim /mnt && sync")
        assert occupied(disk) < before - 20 * MIB
        guest.run("umount /mnt")

    def test_fio_verifies_what_it_wrote(self, workshop, kernel, engine):
        root = workshop.copy_of(images.root_disk_with_fio(), "root.ext4")
        megabytes = 32 if FACTOR == 1 else 2
        disk = workshop.disk("disk", 4 * megabytes * MIB)
        guest = workshop.boot(kernel, mem=512, initrd=None, vcpus=min(2, kernel.max_vcpus), drives=[
            {"path": root, "root": True, "io_engine": engine},
            {"path": disk, "io_engine": engine}])
        guest.wait_ready()
        for jobs in (1, 4):
            report = guest.run(
                f"fio --name=verify --filename=/dev/vdb --numjobs={jobs} --size={megabytes}M "
                f"--offset_increment={megabytes}M --rw=randwrite --bsrange=512-64k --bs_unaligned=0 "
                f"--ioengine=libaio --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 "
                f"--randrepeat=0 --fallocate=none --group_reporting --output-format=json --thread=0", 900)
            result = json.loads(report[report.index("{"):])["jobs"][0]
            assert result["error"] == 0, jobs
            assert result["read"]["io_bytes"] >= jobs * megabytes * MIB * 0.9, jobs
        assert guest.reboot() == 0

    def test_a_file_grown_behind_the_guest_shows_its_new_size(self, workshop, kernel, engine):
        """PATCH of a drive: the guest sees the new size and the new contents without a restart."""
        disk, larger = workshop.disk("disk", 2 * MIB), workshop.disk("larger", 5 * MIB)
        larger.write_bytes(b"second" + larger.read_bytes()[6:])
        guest = workshop.boot(kernel, drives=[{"path": disk, "drive_id": "data", "io_engine": engine}])
        assert guest.read("/sys/block/vda/size") == str(2 * MIB // 512)
        guest.api.patch("/drives/data", {"drive_id": "data", "path_on_host": str(larger)})
        guest.run(f"while [ $(cat /sys/block/vda/size) != {5 * MIB // 512} ]; do sleep 0.1; done")
        drop_caches(guest)
        assert guest.run("dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | head -c 6") == "second"
        assert guest.api.get("/vm/config")["drives"][0]["path_on_host"] == str(larger)
        assert guest.api.refusal("PATCH", "/drives/data", {
            "drive_id": "data", "path_on_host": "/nonexistent/file"}).find("/nonexistent/file") >= 0
        assert guest.run("dd if=/dev/vda bs=512 count=1 iflag=direct 2>/dev/null | head -c 6") == "second"


@pytest.mark.once
class TestSharing:
    def test_a_drive_in_use_is_refused_to_a_second_writer(self, workshop, kernel):
        disk = workshop.disk("disk", MIB)
        workshop.boot(kernel, drives=[{"path": disk}])
        for read_only in (False, True):
            other = workshop.monitor(api=True)
            answer = other.api.request("PUT", "/drives/data", {
                "drive_id": "data", "path_on_host": str(disk), "is_root_device": False,
                "is_read_only": read_only})
            if answer.status == 204:
                other.api.put("/boot-source", {"kernel_image_path": str(kernel.path)})
                text = other.api.refusal("PUT", "/actions", {"action_type": "InstanceStart"})
            else:
                text = answer.fault
            assert "data" in text and re.search("another|in use|lock", text), text

    def test_two_guests_may_read_the_same_read_only_drive(self, workshop, kernel):
        disk = workshop.disk("disk", MIB)
        disk.write_bytes(b"shared" + bytes(MIB - 6))
        for _ in range(2):
            guest = workshop.boot(kernel, drives=[{"path": disk, "read_only": True}])
            assert guest.run("head -c 6 /dev/vda") == "shared"

    def test_a_drive_is_free_again_after_its_monitor_was_killed(self, workshop, kernel):
        disk = workshop.disk("disk", MIB)
        workshop.boot(kernel, drives=[{"path": disk}]).monitor.kill()
        assert workshop.boot(kernel, drives=[{"path": disk}]).disks() == ["vda"]

    def test_a_block_device_of_the_host_is_a_drive(self, workshop, kernel, needs):
        needs("losetup")
        disk = workshop.disk("disk", 4 * MIB)
        made = images.subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, text=True,
                                     check=False)
        if made.returncode != 0:
            pytest.skip(f"no loop device can be had here: {made.stderr.strip()}")
        device = made.stdout.strip()
        try:
            guest = workshop.boot(kernel, drives=[{"path": device, "drive_id": "loop",
                                                   "cache_type": "Writeback"}])
            assert guest.read("/sys/block/vda/size") == str(4 * MIB // 512)
            guest.run("printf through | dd of=/dev/vda bs=512 conv=sync,fsync 2>/dev/null")
            assert guest.reboot() == 0
            with open(disk, "rb") as file:
                assert file.read(7) == b"through"
        finally:
            images.subprocess.run(["losetup", "--detach", device], check=False)
