"""Files that a user may name by mistake: kernels, initrds and disks. Each refusal names the file."""
import os
import random
import struct
import subprocess

import pytest

from harness import kernels, tiny
from harness.clock import FACTOR

MIB = 1 << 20
START = ("PUT", "/actions", {"action_type": "InstanceStart"})


@pytest.fixture
def api(workshop):
    """A monitor whose machine is small; kernels are refused before anything of KVM is touched."""
    api = workshop.monitor(api=True).api
    api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 32})
    return api


def refusal_of_kernel(api, kernel, initrd=None):
    """What is said of a kernel or initrd, when it is named or at the start; the monitor goes on."""
    source = {"kernel_image_path": str(kernel)}
    if initrd:
        source["initrd_path"] = str(initrd)
    answer = api.request("PUT", "/boot-source", source)
    text = answer.fault if answer.status != 204 else api.refusal(*START)
    assert api.state() == "Not started"
    return text


def good_elf():
    return bytearray(tiny.elf(tiny.HALT_FOR_EVER, pvh=True))


def changed(offset, form, *values):
    data = good_elf()
    struct.pack_into("<" + form, data, offset, *values)
    return bytes(data)


# Of the ELF header and of the first program header, which begins at 64.
E_PHOFF, E_PHENTSIZE, E_PHNUM = 32, 54, 56
P_OFFSET, P_VADDR, P_PADDR, P_FILESZ, P_MEMSZ = 64 + 8, 64 + 16, 64 + 24, 64 + 32, 64 + 40


def two_segments(first, second):
    """An ELF file with two loadable segments, each (address, size in memory)."""
    data = bytearray(tiny.elf(tiny.HALT_FOR_EVER, pvh=True))
    for number, (address, size) in enumerate((first, second)):
        struct.pack_into("<IIQQQQQQ", data, 64 + 56 * number, 1, 7, 0x1000, address, address, 4, size, 0x1000)
    return bytes(data)


@pytest.mark.host
class TestKernels:
    @pytest.mark.parametrize("contents, words", [
        (b"", "empty"),
        (b"#!/bin/sh\n", "neither an ELF file nor a bzImage"),
        (b"\x7fELF", "ELF"),
        (b"\x1f\x8b" + bytes(100), "gzip"),
        (b"\xfd7zXZ\0" + bytes(100), "xz"),
        (bytes(4096), "neither an ELF file nor a bzImage"),
        (changed(4, "B", 1), "32-bit"),
        (changed(5, "B", 2), "big-endian"),
        (changed(18, "H", 183), "another machine"),
        (changed(16, "H", 1), "relocatable"),
        (changed(E_PHNUM, "H", 0), "no ELF program headers"),
        (changed(E_PHNUM, "H", 65535), "program headers"),
        (changed(E_PHENTSIZE, "H", 55), "55"),
        (changed(E_PHOFF, "Q", 1 << 40), "program headers"),
        (changed(E_PHOFF, "Q", (1 << 64) - 8), "program headers"),
        (changed(P_OFFSET, "Q", 1 << 40), "segment"),
        (changed(P_OFFSET, "Q", (1 << 64) - 1), "segment"),
        (changed(P_FILESZ, "Q", 1 << 30), "segment"),
        (changed(P_MEMSZ, "Q", 1), "segment"),
        (changed(P_MEMSZ, "Q", 1 << 40), "segment"),
        (changed(P_MEMSZ, "Q", (1 << 64) - 1), "segment"),
        (changed(P_PADDR, "Q", 64 * MIB), "segment"),
        (changed(P_PADDR, "Q", 0), "segment"),
        (changed(P_PADDR, "Q", (1 << 64) - 4096), "segment"),
        (two_segments((0x200000, 0x2000), (0x201000, 0x1000)), "overlap"),
        (two_segments((0x200000, 0x1000), (0x200000, 0x1000)), "overlap"),
    ], ids=lambda value: value if isinstance(value, str) else "")
    def test_a_bad_kernel_is_refused_by_name(self, workshop, api, contents, words):
        path = workshop.file("kernel", contents)
        text = refusal_of_kernel(api, path)
        assert str(path) in text and words in text

    def test_missing(self, api):
        assert "The kernel file cannot be opened: No such file" in refusal_of_kernel(api, "/nonexistent/k")

    def test_a_directory(self, workshop, api):
        assert "directory" in refusal_of_kernel(api, workshop.folder).lower()

    @pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
    def test_a_device(self, api, path):
        assert path in refusal_of_kernel(api, path)

    def test_a_fifo_does_not_hang(self, workshop, api):
        os.mkfifo(workshop.path("fifo"))
        assert "fifo" in refusal_of_kernel(api, workshop.path("fifo"))

    def test_an_elf_file_cut_at_every_place(self, workshop, api):
        whole = tiny.elf(tiny.HALT_FOR_EVER, pvh=True)
        places = [*range(0, 240, 1 if FACTOR == 1 else 16), 0xfff, 0x1000, len(whole) - 1]
        for place in places:
            path = workshop.file("cut", whole[:place])
            assert str(path) in refusal_of_kernel(api, path), place

    def test_a_bzimage_cut_at_every_structure(self, workshop, api, program):
        folder = subprocess.run([kernels.REPOSITORY / "scripts/stock-kernel"], capture_output=True, text=True,
                                check=False)
        if folder.returncode != 0:
            pytest.skip(f"no stock kernel can be had: {folder.stderr.strip()}")
        with open(f"{folder.stdout.strip()}/vmlinuz", "rb") as file:
            whole = file.read()
        setup_bytes = (whole[0x1f1] + 1) * 512
        for place in (0x1f1, 0x1fe, 0x201, 0x202, 0x206, 0x210, 0x236, 0x250, 0x26c, 1024, setup_bytes - 1,
                      setup_bytes, setup_bytes + 1, setup_bytes + 4096, len(whole) // 2):
            path = workshop.file("cut", whole[:place])
            assert str(path) in refusal_of_kernel(api, path), hex(place)

    def test_damaged_kernels_never_end_the_monitor(self, workshop, api):
        """Random bytes of the headers changed: refused with the file's name, or the machine would start."""
        chance = random.Random(5)
        api.put("/drives/none", workshop.drive(workshop.disk("disk", 512), "none"))
        for _ in range(300 if FACTOR == 1 else 20):
            data = good_elf()
            for _ in range(chance.randint(1, 8)):
                data[chance.randrange(200)] = chance.randrange(256)
            path = workshop.file("damaged", bytes(data[:0x800]))
            # Cut before its contents: nothing can be loaded whatever the headers say.
            assert str(path) in refusal_of_kernel(api, path)

    def test_an_initrd_that_does_not_fit(self, workshop, api):
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        initrd = workshop.disk("initrd", 31 * MIB)
        text = refusal_of_kernel(api, kernel, initrd)
        assert str(initrd) in text and "does not fit" in text and "32 MiB" in text

    @pytest.mark.parametrize("name", ["missing", "folder", "empty"])
    def test_an_initrd_that_is_none(self, workshop, api, name):
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        path = workshop.path(name)
        if name == "folder":
            path.mkdir()
        elif name == "empty":
            path.touch()
        assert "initrd" in refusal_of_kernel(api, kernel, path)

    def test_a_command_line_too_long_says_how_long_it_may_be(self, workshop, api):
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        answer = api.request("PUT", "/boot-source", {"kernel_image_path": str(kernel), "boot_args": "x" * 50000})
        if answer.status == 204:
            answer = api.request(*START)
        assert "command line" in answer.fault


@pytest.mark.host
class TestDrives:
    def refusal(self, workshop, api, path, **fields):
        """What is said of a drive, when it is named or at the start."""
        body = {**workshop.drive(path, "data"), **fields}
        answer = api.request("PUT", "/drives/data", body)
        if answer.status == 204:
            api.put("/boot-source", {"kernel_image_path": str(workshop.tiny_kernel(tiny.HALT_FOR_EVER))})
            answer = api.request(*START)
        text = answer.fault
        assert "data" in text
        assert api.state() == "Not started"
        return text

    def test_missing(self, workshop, api):
        assert "No such file" in self.refusal(workshop, api, "/nonexistent/disk")

    def test_a_directory(self, workshop, api):
        assert str(workshop.folder) in self.refusal(workshop, api, workshop.folder)

    @pytest.mark.parametrize("path", ["/dev/null", "/dev/tty"])
    def test_a_character_device(self, workshop, api, path):
        assert path in self.refusal(workshop, api, path)

    def test_a_fifo_does_not_hang(self, workshop, api):
        os.mkfifo(workshop.path("fifo"))
        assert "fifo" in self.refusal(workshop, api, workshop.path("fifo"))

    @pytest.mark.parametrize("size", [1, 511, 513, 1023, MIB + 1])
    def test_a_size_that_is_no_multiple_of_512(self, workshop, api, size):
        path = workshop.disk("odd", size)
        text = self.refusal(workshop, api, path)
        assert str(path) in text and "512" in text and str(size) in text

    @pytest.mark.parametrize("partuuid", ["", "x", "6c3b2ad1", "6c3b2ad1-0", "6c3b2ad1-012",
                                          "0eaa91a0-0bfb-42f9-9a3a-7ba8e5d7e2c", "../../etc/passwd",
                                          "6c3b2ad1-01 init=/bin/sh"])
    def test_a_bad_partuuid(self, workshop, api, partuuid):
        text = self.refusal(workshop, api, workshop.disk("disk", 512), partuuid=partuuid)
        assert "partuuid" in text

    @pytest.mark.parametrize("partuuid", ["6c3b2ad1-01", "0eaa91a0-0bfb-42f9-9a3a-7ba8e5d7e2c1"])
    def test_a_good_partuuid(self, workshop, api, partuuid):
        api.put("/drives/data", {**workshop.drive(workshop.disk("disk", 512), "data", root=True),
                                 "partuuid": partuuid})
        assert api.get("/vm/config")["drives"][0]["partuuid"] == partuuid

    @pytest.mark.parametrize("field, value, words", [
        ("cache_type", "Fast", "unknown variant `Fast`, expected `Unsafe` or `Writeback`"),
        ("io_engine", "Psync", "unknown variant `Psync`, expected `Sync` or `Async`"),
        ("is_root_device", "yes", 'string "yes"'),
        ("path_on_host", 7, "integer `7`"),
        ("rate_limiter", {"ops": {"size": 1}}, "rate_limiter.ops: missing field `refill_time`"),
        ("rate_limiter", {"iops": None}, "rate_limiter: unknown field `iops`"),
        ("color", "red", "unknown field `color`")])
    def test_bad_fields(self, workshop, api, field, value, words):
        body = {**workshop.drive(workshop.disk("disk", 512), "data"), field: value}
        assert words in api.refusal("PUT", "/drives/data", body)
        assert api.get("/vm/config")["drives"] == []

    def test_two_roots(self, workshop, api):
        disk = workshop.disk("disk", 512)
        api.put("/drives/one", workshop.drive(disk, "one", root=True))
        text = api.refusal("PUT", "/drives/two", workshop.drive(disk, "two", root=True))
        assert text == "A root block device already exists"

    def test_a_second_put_of_an_id_replaces_the_first(self, workshop, api):
        api.put("/drives/one", workshop.drive(workshop.disk("a", 512), "one", root=True))
        api.put("/drives/one", workshop.drive(workshop.disk("b", 512), "one", root=True))
        drives = api.get("/vm/config")["drives"]
        assert [drive["path_on_host"] for drive in drives] == [str(workshop.path("b"))]

    def test_one_too_many(self, workshop, api):
        disk = workshop.disk("disk", 512)
        for number in range(19):
            api.put(f"/drives/d{number}", workshop.drive(disk, f"d{number}", read_only=True))
        text = api.refusal("PUT", "/drives/d19", workshop.drive(disk, "d19", read_only=True))
        assert "d19" in text and "at most 19" in text

    @pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which needs root")
    @pytest.mark.parametrize("mode, read_only", [(0o000, False), (0o444, False), (0o000, True)])
    def test_no_permission(self, workshop, program, mode, read_only):
        path = workshop.disk("disk", 512)
        path.chmod(mode)
        workshop.folder.chmod(0o777)
        copy = workshop.path("mayfly")
        copy.write_bytes(program.read_bytes())
        copy.chmod(0o755)
        config = workshop.file("config.json", workshop.configuration(
            workshop.tiny_kernel(tiny.HALT_FOR_EVER), initrd=False, mem=16,
            drives=[{"path": path, "read_only": read_only}]))
        result = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", copy,
                                 "--no-api", "--config-file", config], capture_output=True, text=True,
                                timeout=120, check=False, cwd=workshop.folder)
        assert result.returncode == 152
        assert "Permission denied" in result.stderr and str(path) in result.stderr
