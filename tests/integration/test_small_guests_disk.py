"""Disks, seen by a driver that does one request at a time, and at the same time as files of the host."""
import struct
import threading

import pytest

from harness.clock import FACTOR

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

SECTOR = 512
MIB = 1 << 20
OK, IO_ERROR, UNSUPPORTED = 0, 1, 2  # virtio 1.2, 5.2.6


def written(seed, sector, count):
    """What the guest's command "write" leaves in these sectors."""
    first = seed + sector * SECTOR // 8
    return struct.pack(f"<{count * SECTOR // 8}Q", *range(first, first + count * SECTOR // 8))


@pytest.fixture(params=["Linux", pytest.param("PVH", marks=pytest.mark.once)])
def protocol(request):
    return request.param


@pytest.fixture(params=[pytest.param("Sync", marks=pytest.mark.once), "Async"])
def engine(request):
    return request.param


@pytest.fixture(params=[pytest.param("poll", marks=pytest.mark.once), "interrupt"])
def waiting(request):
    return request.param


def ready(workshop, protocol, waiting, args="", **drive):
    disk = drive.pop("path", None) or workshop.disk("disk", MIB)
    guest = workshop.boot_small("probe", f"serve {args}", protocol=protocol, drives=[{"path": disk, **drive}])
    guest.wait_ready()
    guest.tell(waiting)
    return guest, disk


class TestRequests:
    def test_what_is_written_is_in_the_file_and_comes_back(self, workshop, protocol, engine, waiting):
        guest, disk = ready(workshop, protocol, waiting, io_engine=engine)
        done = guest.ask("write 5 300 12345")
        assert done["status"] == OK
        # 300 sectors in requests of at most 64; each interrupts once, or never.
        assert done["interrupts"] == (5 if waiting == "interrupt" else 0)
        assert disk.read_bytes() == bytes(5 * SECTOR) + written(12345, 5, 300) + bytes(MIB - 305 * SECTOR)
        done = guest.ask("check 5 300 12345")
        assert (done["status"], done["bad"]) == (OK, 0)
        assert guest.ask("check 4 302 12345")["bad"] == 2

    def test_what_the_host_wrote_is_read(self, workshop, protocol, engine, waiting):
        disk = workshop.file("disk", written(77, 0, 2048))
        guest, _ = ready(workshop, protocol, waiting, path=disk, io_engine=engine)
        done = guest.ask("check 0 2048 77")
        assert (done["status"], done["bad"]) == (OK, 0)

    @pytest.mark.once
    def test_the_disk_says_its_size_and_name(self, workshop, protocol):
        guest, _ = ready(workshop, protocol, "poll", path=workshop.disk("odd", 3 * SECTOR), drive_id="my_disk")
        disk = guest.ask("disk")
        assert (disk["sectors"], disk["name"], disk["status"]) == (3, "my_disk", OK)

    def test_requests_beyond_the_end_fail_and_harm_nothing(self, workshop, protocol, engine, waiting):
        guest, disk = ready(workshop, protocol, waiting, io_engine=engine)
        last = MIB // SECTOR - 1
        for command in (f"write {last} 2 1", f"write {last + 1} 1 1", f"check {1 << 54} 1 1",
                        f"write {(1 << 64) - 2} 1 1"):
            assert guest.ask(command)["status"] == IO_ERROR
        assert disk.read_bytes() == bytes(MIB)
        assert guest.ask(f"write {last} 1 9")["status"] == OK
        assert disk.read_bytes()[-SECTOR:] == written(9, last, 1)

    @pytest.mark.once
    def test_a_read_only_disk_refuses_writes(self, workshop, protocol, waiting):
        disk = workshop.file("disk", written(3, 0, 8))
        guest, _ = ready(workshop, protocol, waiting, path=disk, read_only=True)
        assert guest.ask("write 0 1 4")["status"] == IO_ERROR
        assert guest.ask("check 0 8 3")["bad"] == 0

    @pytest.mark.once
    @pytest.mark.parametrize("cache, status", [("Unsafe", UNSUPPORTED), ("Writeback", OK)])
    def test_flush_is_there_where_it_means_something(self, workshop, protocol, engine, cache, status):
        guest, _ = ready(workshop, protocol, "interrupt", io_engine=engine, cache_type=cache)
        assert guest.ask("write 0 8 1")["status"] == OK
        assert guest.ask("flush")["status"] == status

    @pytest.mark.once
    def test_each_of_several_disks_is_its_own(self, workshop, protocol):
        disks = [workshop.disk(f"disk{number}", MIB) for number in range(3)]
        for number in range(3):
            guest = workshop.boot_small("probe", f"serve disk={number}", protocol=protocol,
                                        drives=[{"path": disk} for disk in disks]).wait_ready()
            guest.tell("interrupt")
            assert guest.ask("disk")["name"] == f"disk{number}"
            assert guest.ask(f"write {number} 1 {number}")["status"] == OK
            guest.tell("reset")
            guest.finish()
        for number, disk in enumerate(disks):
            assert disk.read_bytes()[number * SECTOR:][:SECTOR] == written(number, number, 1)


class TestPause:
    def test_pauses_in_the_middle_of_requests(self, workshop, protocol, engine, waiting):
        """Interrupts and completions that come while it is paused are there when it goes on."""
        guest, disk = ready(workshop, protocol, waiting, io_engine=engine)
        sectors = 2048
        stop = threading.Event()
        pauses = 0

        def pause_and_resume():
            nonlocal pauses
            while not stop.is_set():
                guest.api.pause()
                guest.api.resume()
                pauses += 1

        thread = threading.Thread(target=pause_and_resume)
        thread.start()
        try:
            for seed in range(10 if FACTOR == 1 else 2):
                assert guest.ask(f"write 0 {sectors} {seed}", 300)["status"] == OK
                assert disk.read_bytes() == written(seed, 0, sectors)
                done = guest.ask(f"check 0 {sectors} {seed}", 300)
                assert (done["status"], done["bad"]) == (OK, 0)
        finally:
            stop.set()
            thread.join()
        assert pauses > 1
        guest.tell("reset")
        guest.finish()
