"""Guest memory in 2 MiB pages of the host's pool: that it is so, and what is said when the pool is too small."""
import os
import pathlib
import re

import pytest

from harness import small, tiny
from harness.clock import wait_until
from test_clones import Snapshot, handler  # noqa: F401 (a fixture)

POOL = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
MIB = 1 << 20

# Alone, for the pool is one for the whole host. Made before the workshop, it is put back behind the last guest: a page that
# a guest has reserved would stay in it.
pytestmark = [pytest.mark.guest, pytest.mark.alone, pytest.mark.usefixtures("kvm", "pool")]


def pages(what):
    return int((POOL / what).read_text(encoding="ascii"))


def unreserved():
    """How many pages the next one who asks can have."""
    return pages("free_hugepages") - pages("resv_hugepages")


@pytest.fixture
def pool():
    """Sets how many pages of the host's pool nobody has asked for; it is put back as it was."""
    before = pages("nr_hugepages") if POOL.exists() else None

    def set_unreserved(count):
        if before is None:
            pytest.skip("the host's kernel has no pool of 2 MiB pages")
        if not os.access(POOL / "nr_hugepages", os.W_OK):
            pytest.skip("only root may change the host's pool of 2 MiB pages")
        (POOL / "nr_hugepages").write_text(str(pages("nr_hugepages") - unreserved() + count), encoding="ascii")
        if unreserved() != count:
            pytest.skip(f"the host has no memory in one piece for {count} pages of 2 MiB, only for {unreserved()}")

    yield set_unreserved
    if before is not None and pages("nr_hugepages") != before:
        (POOL / "nr_hugepages").write_text(str(before), encoding="ascii")


def huge_memory_of(pid):
    """Of the mappings that are made of 2 MiB pages: their bytes in all, and those that are there."""
    mapped = resident = 0
    text = pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8")
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.M)[1:]:
        sizes = {name: int(size) << 10 for name, size in re.findall(r"^(\w+): +([0-9]+) kB$", mapping, re.M)}
        if sizes["KernelPageSize"] == 2 * MIB:
            assert sizes["MMUPageSize"] == 2 * MIB
            mapped += sizes["Size"]
            resident += sizes["Private_Hugetlb"]
    return mapped, resident


def test_all_memory_of_a_linux_guest_is_huge_and_goes_back_at_the_end(workshop, kernel, pool):
    pool(96)
    total = pages("nr_hugepages")
    guest = workshop.boot(kernel, mem=192, machine={"huge_pages": "2M"})
    mapped, resident = huge_memory_of(guest.monitor.pid)
    assert mapped == 192 * MIB
    # Reserved at the start, whether the guest has touched them or not.
    assert pages("nr_hugepages") == total and unreserved() == 0
    used = pages("free_hugepages")
    assert 0 < resident < mapped
    # What the guest takes into use comes from the pool.
    guest.run("mount -t tmpfs tmpfs /mnt && dd if=/dev/zero of=/mnt/file bs=1M count=40 2>/dev/null")
    assert huge_memory_of(guest.monitor.pid)[1] >= resident + 20 * MIB
    assert pages("free_hugepages") <= used - 10
    assert guest.run("tr -d '\\0' </mnt/file | wc -c; wc -c </mnt/file").split() == ["0", str(40 * MIB)]
    assert guest.reboot() == 0
    wait_until(lambda: unreserved() == 96, 60, "the pages to go back to the pool")


def test_a_pool_too_small_is_an_error_that_says_what_to_set_and_the_monitor_goes_on(workshop, pool):
    pool(15)
    api = workshop.monitor(api=True).api
    api.put("/boot-source", {"kernel_image_path": str(workshop.tiny_kernel(tiny.SPIN))})
    api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 32, "huge_pages": "2M"})
    for _ in range(3):
        assert api.refusal("PUT", "/actions", {"action_type": "InstanceStart"}) == (
            "not enough free 2 MiB pages for 32 MiB of guest memory: set vm.nr_hugepages to at least 16, "
            "or huge_pages to None")
        assert api.state() == "Not started"
        assert unreserved() == 15
    pool(16)
    api.start()
    assert unreserved() == 0
    assert api.state() == "Running"


def test_what_one_guest_has_no_other_gets(workshop, pool):
    pool(24)
    first = workshop.boot_tiny(tiny.SPIN, mem=32, machine={"huge_pages": "2M"})
    first.console.wait_for(b"A", 60)
    config = workshop.file("second.json", workshop.configuration(
        workshop.tiny_kernel(tiny.SPIN), mem=32, initrd=False, machine={"huge_pages": "2M"}))
    second = workshop.run("--no-api", "--config-file", config)
    assert second.returncode == 152
    assert "not enough free 2 MiB pages for 32 MiB of guest memory" in second.stderr
    assert first.api.state() == "Running"
    assert unreserved() == 8
    first.end()
    wait_until(lambda: unreserved() == 24, 60, "the pages to go back to the pool")


def test_half_a_page_is_refused_when_it_is_set(workshop):
    api = workshop.monitor(api=True).api
    text = api.refusal("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 33, "huge_pages": "2M"})
    assert "not a multiple of the configured page size" in text


@pytest.mark.once
class TestSnapshots:
    """A guest of 64 MiB in 32 huge pages; each load needs as many again."""

    @pytest.fixture
    def snapshot(self, workshop, pool):
        pool(64)
        guest = workshop.boot_small("memtouch", "bytes=20M mode=fill then=serve", mem=64,
                                    machine={"huge_pages": "2M"}).wait_ready()
        made = Snapshot(workshop, guest.monitor)
        guest.monitor.kill()
        # Holes, though a page of the guest's has both data and zeroes.
        assert 20 * MIB <= made.memory.stat().st_blocks * 512 < 22 * MIB
        return made

    @pytest.fixture
    def check(self, snapshot):
        def check(*how, **fields):
            clone = small.SmallGuest(snapshot.load(*how, **fields))
            assert huge_memory_of(clone.monitor.pid)[0] == 64 * MIB
            assert clone.ask("verify")["bad"] == 0
            assert clone.ask("seed 2").name == "seed"
            assert clone.ask("touch 3000")["pages"] == 3000
            assert clone.ask("verify")["bad"] == 0
            return clone

        return check

    def test_a_load_from_a_file_has_huge_pages_again(self, snapshot, check):
        check()
        check()
        monitor, answer = snapshot.try_load()
        assert "not enough free 2 MiB pages" in answer.fault
        assert monitor.wait() == 152

    @pytest.mark.parametrize("arguments", [(), ("--fill",), ("--around-kib", "8192")], ids=["faults", "fill", "around"])
    def test_a_handler_brings_huge_pages(self, snapshot, check, handler, arguments):  # noqa: F811
        process, path = handler(snapshot, *arguments)
        clone = check("Uffd", path)
        # Only what was touched is there, unless all was to be.
        if not arguments:
            assert 20 * MIB <= huge_memory_of(clone.monitor.pid)[1] < 40 * MIB
        assert process.poll() is None

    def test_a_working_set_of_huge_pages_is_recorded_and_brought(self, workshop, snapshot, check, handler):  # noqa: F811
        path = workshop.path("working-set")
        _, socket = handler(snapshot, "--working-set", path)
        for _ in range(2):
            check("Uffd", socket).monitor.kill()
            wait_until(path.exists, 60, "the working set's file")

    def test_a_guest_of_small_pages_is_loaded_into_huge_ones_and_back(self, workshop, pool, handler):  # noqa: F811
        pool(32)
        guest = workshop.boot_small("memtouch", "bytes=20M mode=fill then=serve", mem=64).wait_ready()
        snapshot = Snapshot(workshop, guest.monitor)
        guest.monitor.kill()
        _, path = handler(snapshot)
        clone = small.SmallGuest(snapshot.load("Uffd", path, huge_pages="2M"))
        assert clone.ask("verify")["bad"] == 0
        assert huge_memory_of(clone.monitor.pid)[0] == 64 * MIB
        again = Snapshot(workshop, clone.monitor, "again")
        clone.monitor.kill()
        small_again = small.SmallGuest(again.load(huge_pages="None"))
        assert huge_memory_of(small_again.monitor.pid)[0] == 0
        assert small_again.ask("verify")["bad"] == 0
