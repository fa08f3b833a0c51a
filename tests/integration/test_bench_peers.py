"""Peers in the bench: how each is told to run a guest, and that one which fails does not stop the others.

The monitors here are scripts that write down how they were called and play a guest. Whether the true ones like these
command lines, only the bench itself can tell, with QEMU in every run.
"""
import json
import os
import pathlib
import sys

import pytest

from harness import kernels

sys.path.insert(0, os.fspath(kernels.REPOSITORY / "bench"))

from benchmarks import boot, disk  # noqa: E402
from framework import kvm_trace, linux, monitors  # noqa: E402
from framework.children import ContenderFailed  # noqa: E402
from framework.report import Report  # noqa: E402
from framework.session import Session  # noqa: E402

BOOTS = 'echo -n "!"; exit 0'


class Options:
    samples, quick, limit, before = 2, True, None, None


def script(folder, name, action):
    path = folder / name
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/{name}.called\n{action}\n')
    path.chmod(0o755)
    return path


def called(folder, name):
    return (folder / f"{name}.called").read_text().splitlines()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vmlinux").touch()
    (tmp_path / "root").touch()
    return tmp_path


@pytest.fixture
def guest(folder):
    kernel = kernels.Kernel("own", folder / "vmlinux")
    return monitors.LinuxGuest(kernel, "quiet", disks=(monitors.Disk(folder / "root", read_only=True),
                                                      monitors.Disk(folder / "data", "Async")),
                               nics=(monitors.Nic("tap7", "02:00:00:00:00:07"),), memory_mib=192, vcpus=2)


@pytest.fixture
def bench_with(folder):
    sessions = []

    def make(**actions):
        peers = {name.replace("_", "-"): script(folder, name, action) for name, action in actions.items()}
        mayfly = peers.pop("mayfly", None) or script(folder, "mayfly", BOOTS)
        bench = Session(Options(), host="native", kind="hardware", mayfly=mayfly, build=folder, peers=peers)
        bench.report = Report("boot", "a test", "native")
        sessions.append(bench)
        return bench
    yield make
    for bench in sessions:
        bench.__exit__()


class TestCommandLines:
    def test_everybody_gets_the_same_command_line_but_for_the_way_to_restart(self, bench_with, guest, folder):
        bench = bench_with(qemu="", firecracker="", kvmtool="")
        qemu = monitors.peer_command(bench, "qemu", guest, "q")
        kvmtool = monitors.peer_command(bench, "kvmtool", guest, "k")
        lines = {"qemu": qemu[qemu.index("-append") + 1], "kvmtool": kvmtool[kvmtool.index("--params") + 1]}
        for name, command in (("mayfly", monitors.mayfly_command(bench, guest, "m")),
                              ("firecracker", monitors.peer_command(bench, "firecracker", guest, "f"))):
            lines[name] = json.loads(pathlib.Path(command[3]).read_text())["boot-source"]["boot_args"]
        assert lines["qemu"].replace("reboot=t", "reboot=k") == lines["mayfly"] == lines["firecracker"] == lines["kvmtool"]
        assert "root=/dev/vda ro" in lines["mayfly"]

    def test_firecracker_is_told_nothing_that_only_mayfly_knows(self, bench_with, guest):
        command = monitors.peer_command(bench_with(firecracker=""), "firecracker", guest, "f")
        config = json.loads(pathlib.Path(command[3]).read_text())
        assert config["machine-config"] == {"vcpu_count": 2, "mem_size_mib": 192}
        assert [drive["io_engine"] for drive in config["drives"]] == ["Sync", "Async"]
        assert config["network-interfaces"] == [
            {"iface_id": "eth0", "host_dev_name": "tap7", "guest_mac": "02:00:00:00:00:07"}]

    def test_qemu_has_the_same_engine_and_cache_for_each_disk(self, bench_with, guest, folder):
        command = monitors.peer_command(bench_with(qemu=""), "qemu", guest, "q", vhost=True)
        drives = [word for word in command if word.startswith("id=disk")]
        assert f"file={folder}/root," in drives[0] and "aio=threads" in drives[0] and "read-only=on" in drives[0]
        assert f"file={folder}/data," in drives[1] and "aio=io_uring" in drives[1] and "read-only" not in drives[1]
        assert all("cache=writeback" in drive for drive in drives)
        assert "tap,id=net0,ifname=tap7,script=no,downscript=no,vhost=on" in command

    def test_a_kernel_without_acpi_is_given_none_by_anybody(self, bench_with, folder):
        kernel = kernels.Kernel("native", folder / "vmlinux", "nopcid", with_acpi=False)
        guest = monitors.LinuxGuest(kernel, "quiet")
        command = monitors.peer_command(bench_with(qemu=""), "qemu", guest, "q")
        assert command[command.index("-M") + 1].endswith(",acpi=off")
        assert guest.command_line("k").split()[:5] == ["nopcid", "console=ttyS0", "reboot=k", "panic=1", "acpi=off"]

    def test_kvmtool_has_its_devices_where_the_kernel_has_drivers(self, bench_with, guest, folder):
        command = monitors.peer_command(bench_with(kvmtool=""), "kvmtool", guest, "k")
        assert command[1] == "run" and command[command.index("--virtio-transport") + 1] == "mmio"
        assert [command[at + 1] for at, word in enumerate(command) if word == "--disk"] == [
            f"{folder}/root,ro", f"{folder}/data"]

    def test_cloud_hypervisor_runs_what_needs_no_device_and_says_why_not_else(self, bench_with, guest, folder):
        bench = bench_with(cloud_hypervisor="")
        with pytest.raises(ContenderFailed, match="PCI"):
            monitors.peer_command(bench, "cloud-hypervisor", guest, "c")
        plain = monitors.LinuxGuest(guest.kernel, "quiet", initrd=folder / "initrd")
        command = monitors.peer_command(bench, "cloud-hypervisor", plain, "c")
        assert command[command.index("--initramfs") + 1] == f"{folder}/initrd"


class TestBoot:
    @pytest.fixture(autouse=True)
    def no_kernel_needed(self, folder, monkeypatch):
        monkeypatch.setattr(linux, "kernel", lambda bench: kernels.Kernel("own", folder / "vmlinux"))
        monkeypatch.setattr(boot, "root", lambda build: folder / "root")

    def test_peers_are_measured_side_by_side(self, bench_with, folder):
        bench = bench_with(qemu=BOOTS, firecracker=BOOTS, kvmtool=BOOTS)
        boot.measure(bench)
        assert sorted(bench.report.contenders("init")) == ["firecracker", "kvmtool", "mayfly", "mayfly, huge pages", "qemu"]
        assert all(len(bench.report.values("exit", name)) == 2 for name in bench.report.contenders("exit"))
        assert "microvm" in called(folder, "qemu")[1]
        assert "--config-file" in called(folder, "firecracker")
        assert any("exec to init lower than QEMU microvm's" in goal.text for goal in bench.report.goals)

    @pytest.mark.parametrize("action, words", [
        ("echo no such option >&2; exit 3", "ended with status 3: no such option"),
        ("exit 0", "ended before"),
        ("kill -SEGV $$", "SIGSEGV"),
    ])
    def test_a_peer_that_fails_is_left_out_and_named(self, bench_with, action, words):
        bench = bench_with(qemu=BOOTS, firecracker=action)
        boot.measure(bench)
        assert any(note.startswith("firecracker was left out") and words in note for note in bench.report.notes)
        assert len(bench.report.values("init", "qemu")) == len(bench.report.values("init", "mayfly")) == 2

    def test_a_peer_that_cannot_have_these_devices_is_left_out_and_named(self, bench_with):
        bench = bench_with(cloud_hypervisor=BOOTS)
        boot.measure(bench)
        assert any(note.startswith("cloud-hypervisor was left out: ") and "PCI" in note for note in bench.report.notes)


class TestTrace:
    HEAD = "# tracer: nop\n#\n# entries-in-buffer/entries-written: {}/{}   #P:1\n"
    EVENTS = """
           vcpu0-90 [000] d.... 1000: kvm_entry: vcpu 0, rip 0x200000
           vcpu0-90 [000] ..... 1900: kvm_exit: vcpu 0 reason npf rip 0x200000 info1 0x0
           vcpu0-90 [000] d.... 5900: kvm_entry: vcpu 0, rip 0x200000
           vcpu0-90 [000] ..... 6400: kvm_exit: vcpu 0 reason io rip 0x200000 info1 0x0
           vcpu0-90 [000] d.... 7000: kvm_entry: vcpu 0, rip 0x200000
           vcpu0-90 [000] ..... 9000: kvm_exit: vcpu 0 reason io rip 0x200000 info1 0x0
"""

    def test_the_shortest_window_is_taken_from_each(self):
        trace = kvm_trace.Trace()
        trace.read((self.HEAD.format(6, 6) + self.EVENTS).splitlines(keepends=True))
        assert trace.windows == [900, 500, 2000]
        assert trace.constant == 500 and trace.guest == 400 + 0 + 1500
        assert trace.exits == {"npf": [1, 4000], "io": [1, 600]}

    def test_events_that_were_lost_are_not_passed_over(self):
        with pytest.raises(kvm_trace.CannotTrace, match="900 events did not fit"):
            kvm_trace.Trace().read((self.HEAD.format(6, 900) + self.EVENTS).splitlines(keepends=True))


class TestFio:
    @staticmethod
    def terse(read, write, error="0"):
        values = ["3", "fio-3.33", "bench", "0", error] + ["0"] * 120
        for start, kib in ((5, read), (46, write)):
            values[start], values[start + 2], values[start + 34] = str(kib), "1234", "56.5"
        return "note: something else\n" + ";".join(values) + "\n"

    def test_the_fields_of_reads_and_of_writes(self):
        assert disk.fields(self.terse(4096, 0)) == (1234, 56500)
        assert disk.fields(self.terse(0, 4096)) == (1234, 56500)

    @pytest.mark.parametrize("text", ["", "fio: io_uring: Operation not permitted\n", "3;fio-3.33;bench;0;0\n"])
    def test_what_is_no_result_fails_with_what_it_says(self, text):
        with pytest.raises(ContenderFailed, match="fio said"):
            disk.fields(text)

    def test_an_error_of_fio_is_no_result(self):
        with pytest.raises(ContenderFailed):
            disk.fields(self.terse(4096, 0, error="5"))
