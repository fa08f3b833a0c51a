"""Linux guests boot, by every protocol and platform description, and find the machine they were given."""
import dataclasses
import functools
import pathlib
import re

import pytest

from harness import images, kernels
from harness.clock import FACTOR
from harness.kernels import Kernel

GAP_MIB = 3072  # memory beyond this lies above the 32-bit MMIO gap

pytestmark = pytest.mark.guest


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to boot a kernel."""

    kernel: Kernel
    protocol: str
    acpi: bool
    vcpus: int
    mem: int

    def __str__(self):
        return (f"{self.kernel}-{self.protocol}-{'acpi' if self.acpi else 'noacpi'}-"
                f"{self.vcpus}cpu-{self.mem}M")


def variants(kernel):
    """Every protocol, with and without ACPI, each with every vCPU count and both memory layouts."""
    counts = [count for count in (1, 2, 4) if count <= kernel.max_vcpus]
    for protocol in kernel.protocols:
        for acpi in [True] * kernel.with_acpi + [False] * kernel.without_acpi:
            for number, count in enumerate(counts):
                above = number == (1 if len(counts) > 1 else 0)
                # Where guests are slow, the one with memory above the gap stands for both.
                if not above or FACTOR == 1:
                    yield Variant(kernel, protocol, acpi, count, 256 + 64 * number)
                if above:
                    yield Variant(kernel, protocol, acpi, count, GAP_MIB + 512)


@functools.lru_cache(None)
def all_variants():
    """Always the same objects: pytest tells by that which tests can share a guest."""
    return [variant for kernel in kernels.guest_kernels() for variant in variants(kernel)]


def pytest_generate_tests(metafunc):
    if "variant" not in metafunc.fixturenames:
        return
    chosen = all_variants() or [
        pytest.param(None, marks=pytest.mark.skip(reason=kernels.why_no_guests()))]
    metafunc.parametrize("variant", chosen, ids=str, scope="class")


# Everything that the tests below look at, in one go: a round trip costs more than the answer.
FACTS = {
    "nproc": "nproc",
    "online": "cat /sys/devices/system/cpu/online",
    "meminfo": "grep MemTotal /proc/meminfo",
    "iomem": "grep 'System RAM' /proc/iomem",
    "disk read": "dd if=/dev/vda of=/dev/null bs=4k count=8 iflag=direct 2>/dev/null; "
                 "dd if=/dev/vdb of=/dev/null bs=4k count=8 iflag=direct 2>/dev/null",
    "interrupts": "cat /proc/interrupts",
    # One busy loop on each vCPU.
    "work": "for c in $(seq 0 $(($(nproc) - 1))); do taskset $(printf %x $((1 << c))) "
            "sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo done' & done; wait",
    "interrupts afterwards": "grep LOC /proc/interrupts",
    "loader": "cat /proc/sys/kernel/bootloader_type",
    "virtio": "ls /sys/bus/virtio/devices",
    "bound": "ls -d /sys/bus/virtio/drivers/virtio_blk/virtio*",
    "blocks": "ls /sys/class/block | grep '^vd'",
    "place": "readlink -f /sys/bus/virtio/devices/virtio0",
    "log": "dmesg -r | grep -E '^<[0-3]>|WARNING: CPU|Call Trace|BUG:|lockup|nobody cared|i8042' || true",
    "generation id": "cd /sys/bus && ls -d acpi/drivers/vmgenid/MFLY* platform/drivers/acpi-ged/ACPI0013* 2>/dev/null",
    "clock": "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
}


class Boot:
    """A booted variant and what it says of itself."""

    def __init__(self, guest):
        self.guest = guest
        script = "\n".join(f"echo '[[{name}]]'; {command}" for name, command in FACTS.items())
        parts = re.split(r"^\[\[(.+?)\]\]\r?\n", guest.script(script, 300), flags=re.M)
        self.facts = dict(zip(parts[1::2], parts[2::2]))

    def __getitem__(self, name):
        return self.facts[name].strip()


@pytest.fixture(scope="class")
def boot(new_workshop, variant):
    """One guest for each variant, with two disks."""
    with new_workshop() as workshop:
        disks = [{"path": workshop.disk(name, 1 << 20)} for name in ("one", "two")]
        # A bzImage is booted without saying how: the field is for ELF files, which have a choice.
        protocol = variant.protocol if len(variant.kernel.protocols) > 1 else None
        yield Boot(workshop.boot(variant.kernel, vcpus=variant.vcpus, mem=variant.mem,
                                 protocol=protocol, acpi=variant.acpi, drives=disks))


def host_is_interpreted():
    """Whether this machine's CPU is QEMU's interpreter, as in the emulated host."""
    return "QEMU TCG CPU" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")


class TestMachine:
    def test_the_guest_has_the_vcpus_it_was_given(self, boot, variant):
        assert boot["nproc"] == str(variant.vcpus)
        assert boot["online"] == ("0" if variant.vcpus == 1 else f"0-{variant.vcpus - 1}")

    def test_the_guest_has_the_memory_it_was_given(self, boot, variant):
        total = int(re.search(r"MemTotal: +([0-9]+) kB", boot["meminfo"])[1])
        # The kernel counts without itself, its table of pages, and what ACPI and the BIOS area take.
        assert variant.mem * 1024 * 0.93 - 40 * 1024 < total < variant.mem * 1024

    def test_memory_lies_below_and_above_the_gap(self, boot, variant):
        ranges = re.findall(r"^\s*([0-9a-f]+)-([0-9a-f]+) : System RAM", boot["iomem"], re.M)
        ends = [int(end, 16) + 1 for _, end in ranges]
        total = sum(int(end, 16) + 1 - int(start, 16) for start, end in ranges)
        if variant.mem > GAP_MIB:
            assert GAP_MIB << 20 in ends
            assert max(ends) == (4096 + variant.mem - GAP_MIB) << 20
        else:
            assert max(ends) == variant.mem << 20
        # All but the first page, the EBDA and the 384 KiB below 1 MiB.
        assert (variant.mem << 20) - (512 << 10) < total < variant.mem << 20

    def test_interrupts_of_serial_port_and_disks_arrive_on_their_lines(self, boot, variant):
        header, *lines = boot["interrupts"].splitlines()
        assert header.split() == [f"CPU{number}" for number in range(variant.vcpus)]
        counts, devices = {}, {}
        for line in lines:
            match = re.match(rf"\s*(\w+):((?:\s+[0-9]+){{1,{variant.vcpus}}})\s*(.*)", line)
            counts[match[1]] = sum(map(int, match[2].split()))
            # The number in front is the kernel's own; what counts is the pin.
            pin = re.match(r"IO-APIC\s+([0-9]+)-(?:edge|fasteoi)\s+(.*)", match[3])
            if pin:
                devices[int(pin[1])] = (pin[2], counts[match[1]])
        for pin, name in ((4, "ttyS0"), (5, "virtio0"), (6, "virtio1")):
            assert name in devices[pin][0] and devices[pin][1] > 0
        assert counts["LOC"] > 0
        assert counts.get("ERR", 0) == 0
        # An interrupt that nobody takes would be a device that nobody wanted.
        assert counts.get("MIS", 0) == 0

    def test_the_kernel_was_entered_by_the_protocol_asked_for(self, boot, variant):
        """Linux' own PVH entry gives itself a boot loader number; 255 is what we say of ourselves."""
        assert boot["loader"] == ("176" if variant.protocol == "PVH" else "255")

    def test_each_device_is_found_exactly_once(self, boot):
        assert boot["virtio"].split() == ["virtio0", "virtio1"]
        assert boot["blocks"].split() == ["vda", "vdb"]
        assert len(boot["bound"].split()) == 2

    def test_devices_are_found_where_the_variant_says(self, boot, variant):
        if variant.acpi:
            assert "LNRO0005" in boot["place"]
        else:
            assert "LNRO0005" not in boot["place"] and "virtio-mmio" in boot["place"]

    def test_the_generation_id_and_its_event_device_are_found_by_acpi(self, boot, variant):
        """Debian's cloud kernel has no driver for the id (CONFIG_VIRT_DRIVERS); the event device all kernels have."""
        found = boot["generation id"].split()
        if not variant.acpi:
            assert found == []
            return
        assert "platform/drivers/acpi-ged/ACPI0013:00" in found
        assert ("acpi/drivers/vmgenid/MFLY0001:00" in found) == variant.kernel.generation_id
        assert re.search(r"IO-APIC +3-edge +ACPI:Ged", boot["interrupts"])

    def test_the_kernel_log_has_no_errors(self, boot):
        """Nothing at level error or worse, no warning with a trace, but for what every such machine shows."""
        known = ["TSC doesn't count with P0 frequency", "fail to initialize ptp_kvm", "microcode",
                 "Spectre|Speculative|RETBleed|SRSO|MDS|TAA|TSX",
                 # There is none; only pci=off would make such a kernel not look for it.
                 "PCI: Fatal: No config space access function found"]
        if kernels.host_kind() == "pvm":
            known.append("APIC ID mismatch")  # such a host cannot intercept the guest's CPUID
        if host_is_interpreted():
            # XSETBV is not intercepted there, so KVM does not know which states the guest has enabled.
            known += ["XSAVE consistency problem", "fpu__init_system_xstate", "WARNING: CPU: 0 PID: 0", "Call Trace"]
        known = re.compile("|".join(known))
        lines = [line for line in boot["log"].splitlines() if not re.match(r"<[4-7]>.*i8042", line)]
        assert not [line for line in lines if not known.search(line)], boot["log"]

    def test_i8042_is_probed_without_a_time_out(self, boot):
        assert re.search(r"i8042 KBD port at 0x60,0x64 irq [0-9]+", boot["log"])
        assert not re.search(r"i8042.*(fail|timeout|time-out|No controller|Can't|unable)", boot["log"])

    def test_the_clock_is_kvm_clock_or_the_tsc(self, boot):
        assert boot["clock"] in ("kvm-clock", "tsc")

    def test_all_vcpus_do_work_and_get_clock_interrupts(self, boot, variant):
        assert boot["work"].split() == ["done"] * variant.vcpus
        before, after = (re.search(r"LOC:((?:\s+[0-9]+)+)", boot[name])[1].split()
                         for name in ("interrupts", "interrupts afterwards"))
        assert len(after) == variant.vcpus
        assert all(int(new) > int(old) for old, new in zip(before, after))

    def test_memory_holds_what_is_written(self, boot):
        """The kernel takes the highest memory first: what lies above the gap, if anything does."""
        count = 64 if FACTOR == 1 else 8
        lines = boot.guest.run(
            "mount -t tmpfs -o size=70m tmpfs /mnt && cp /dev/vda /mnt/zero && "
            f"for i in $(seq {count}); do echo $i; cat /mnt/zero; done >/mnt/f && tr -d '\\0' </mnt/f", 300)
        assert lines.split() == [str(number) for number in range(1, count + 1)]

    def test_reboot_ends_the_monitor_with_status_0(self, boot):
        """The last of this class: nothing of the guest is left then."""
        assert boot.guest.reboot() == 0
        assert not boot.guest.monitor.socket_path.exists()


class TestKinds:
    @pytest.mark.vcpus(4)
    def test_smt_shows_in_the_topology(self, workshop, kernel):
        guest = workshop.boot(kernel, vcpus=4, machine={"smt": True})
        siblings = [guest.read(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list")
                    for n in range(4)]
        info = guest.read("/proc/cpuinfo")
        # Of AMD's CPUs Linux believes it only with a leaf that the interpreted one does not have.
        if "AuthenticAMD" not in info or "topoext" in info:
            assert siblings == ["0-1", "0-1", "2-3", "2-3"]
        assert info.count("processor\t:") == 4
        assert not re.search(r"\b(vmx|svm)\b", info)
        assert "hypervisor" in info

    @pytest.mark.once
    @pytest.mark.parametrize("pages", ["None", "Transparent"])
    def test_huge_pages_setting(self, workshop, kernel, pages):
        guest = workshop.boot(kernel, machine={"huge_pages": pages})
        assert guest.run("echo works").strip() == "works"
        assert guest.reboot() == 0

    @pytest.mark.vcpus(32)
    def test_32_vcpus(self, workshop, kernel):
        guest = workshop.boot(kernel, vcpus=32, mem=512, ready=False)
        guest.wait_ready(600)
        assert guest.run("nproc", 300).strip() == "32"

    @pytest.mark.plain_kernel
    def test_default_boot_arguments_boot_a_root_disk(self, workshop, kernel):
        """Without boot_args there is no console; the root disk's init writes what it sees to the disk."""
        init = workshop.file("init", "#!/bin/sh\nmount -t proc proc /proc\ncat /proc/cmdline >/seen\n"
                             "sync\nreboot -f\n", mode=0o755)
        disk = workshop.path("root.ext4")
        images.subprocess.run([images.GUESTS / "ext4-root", "--out", disk, "--init", init,
                               "--size", "32M"], check=True)
        config = workshop.configuration(kernel, initrd=False, drives=[{"path": disk, "root": True}])
        del config["boot-source"]["boot_args"]
        monitor = workshop.start(config)
        assert monitor.wait(120) == 0
        seen = images.subprocess.run(["debugfs", "-R", "cat /seen", disk], capture_output=True,
                                     text=True, check=True).stdout
        assert seen.startswith("reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux "
                               "i8042.dumbkbd swiotlb=noforce")
        assert "root=/dev/vda rw" in seen
