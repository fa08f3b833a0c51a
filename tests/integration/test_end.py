"""How a microVM ends: by the guest's reset, its failure, Ctrl-Alt-Del, a signal."""
import json
import re
import signal
import time

import pytest

from harness import kernels, tiny
from harness.clock import scaled
from harness.workshop import log_of

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

REGISTERS = r"rip [0-9a-f]{16} rsp [0-9a-f]{16} rflags"


def assert_registers_in_log(monitor, rip):
    text = log_of(monitor)
    assert re.search(REGISTERS, text), text
    assert re.search(r"cr0 [0-9a-f]+ cr2 [0-9a-f]+ cr3 [0-9a-f]+ cr4 [0-9a-f]+ efer", text), text
    assert rip is None or f"rip {rip:016x}" in text, text


class TestGuestEnds:
    def test_reset_through_the_i8042_is_a_clean_end(self, workshop):
        monitor = workshop.boot_tiny(tiny.RESET)
        assert monitor.wait() == 0
        assert not monitor.socket_path.exists()

    def test_triple_fault_is_status_1_with_registers_in_the_log(self, workshop):
        monitor = workshop.boot_tiny(tiny.TRIPLE_FAULT)
        assert monitor.wait() == 1
        assert "triple fault" in log_of(monitor)
        assert_registers_in_log(monitor, None)
        assert not monitor.socket_path.exists()

    def test_kvm_internal_error_is_status_1_with_registers_in_the_log(self, workshop):
        if kernels.host_kind() == "pvm":
            monitor = workshop.boot_tiny(tiny.NOT_INTERPRETED)
            rip = tiny.ENTRY
        else:
            monitor = workshop.boot_tiny(tiny.RUN_NO_MEMORY, pvh=True)
            rip = 0xd0000000
        assert monitor.wait() == 1
        assert "KVM internal error, suberror" in log_of(monitor)
        if kernels.host_kind() == "pvm":
            assert "suberror 1: it cannot emulate an instruction of the guest (at rip, below)" in log_of(monitor)
        assert_registers_in_log(monitor, rip)
        assert not monitor.socket_path.exists()

    @pytest.mark.once
    def test_a_halted_guest_is_left_alone(self, workshop):
        """All interrupts off and hlt: only someone outside can end it, and still can."""
        monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER)
        time.sleep(scaled(1))
        assert monitor.process.poll() is None
        assert monitor.api.state() == "Running"
        monitor.api.pause()
        assert monitor.api.state() == "Paused"
        assert monitor.end() == 143

    def test_a_guest_that_spins_is_ended_all_the_same(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN)
        monitor.console.wait_for(b"A", 60)
        assert monitor.end() == 143

    def test_a_failed_guest_of_several_vcpus_ends_all_of_them(self, workshop):
        monitor = workshop.boot_tiny(tiny.TRIPLE_FAULT, vcpus=2)
        assert monitor.wait() == 1

    @pytest.mark.once
    def test_run_leaves_metrics_and_a_startup_trace(self, workshop):
        metrics, trace = workshop.path("metrics"), workshop.path("trace")
        done = workshop.run("run", "--kernel", workshop.tiny_kernel(tiny.RESET), "--metrics-path", metrics,
                            "--startup-trace", trace)
        assert done.returncode == 0, done.stderr
        assert "uart" in json.loads(metrics.read_text().splitlines()[-1])
        assert {"main", "run", "torn-down"} <= {line.split()[0] for line in trace.read_text().splitlines()}


class TestLinuxEnds:
    def test_reboot_is_status_0(self, workshop, each_kernel):
        guest = workshop.boot(each_kernel)
        assert guest.reboot() == 0
        assert not guest.monitor.socket_path.exists()

    @pytest.mark.once
    def test_orderly_reboot_through_init_is_status_0(self, workshop, kernel):
        guest = workshop.boot(kernel)
        guest.start("reboot")
        assert guest.monitor.wait(60) == 0

    @pytest.mark.once
    def test_panic_restarts_and_so_ends_with_status_0(self, workshop, kernel):
        """No init: the kernel panics, and after panic=1 second pulses the reset line."""
        guest = workshop.boot(kernel, ready=False, args="panic=1 rdinit=/nonexistent")
        assert guest.monitor.wait(60) == 0
        assert b"Kernel panic - not syncing" in guest.console.since()

    @pytest.mark.once
    def test_panic_without_restart_leaves_the_microvm_running(self, workshop, kernel):
        """With panic=0 the kernel stands still, which is not ours to judge."""
        guest = workshop.boot(kernel, ready=False, args="panic=0 rdinit=/nonexistent", initrd=True)
        guest.console.wait_for(rb"Kernel panic - not syncing", 60)
        time.sleep(scaled(1))
        assert guest.api.state() == "Running"
        assert guest.monitor.end() == 143

    @pytest.mark.once
    def test_halt_leaves_the_microvm_running(self, workshop, kernel):
        guest = workshop.boot(kernel)
        guest.start("echo 7 >/proc/sys/kernel/printk; halt -f")
        guest.console.wait_for(rb"reboot: (System halted|Power down)", 60)
        assert guest.api.state() == "Running"
        assert guest.monitor.end() == 143

    @pytest.mark.keyboard
    def test_ctrl_alt_del_reaches_init(self, workshop, each_kernel):
        guest = workshop.boot(each_kernel)
        guest.api.put("/actions", {"action_type": "SendCtrlAltDel"})
        guest.console.wait_for(rb"MAYFLY-CTRL-ALT-DEL", 60)
        assert guest.monitor.wait(60) == 0

    @pytest.mark.keyboard
    def test_ctrl_alt_del_with_the_default_i8042_parameters_absent(self, workshop, kernel):
        """The driver's own way of probing, all of it: the controller answers, no time-out."""
        guest = workshop.boot(kernel, boot_arguments="console=ttyS0 reboot=k panic=1 quiet")
        assert not re.search("i8042.*(fail|timeout|No controller)", guest.run("dmesg"))
        guest.api.put("/actions", {"action_type": "SendCtrlAltDel"})
        guest.console.wait_for(rb"MAYFLY-CTRL-ALT-DEL", 60)
        assert guest.monitor.wait(60) == 0

    @pytest.mark.once
    @pytest.mark.parametrize("number, status", [
        (signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGQUIT, 131), (signal.SIGHUP, 156),
        (signal.SIGSEGV, 150), (signal.SIGBUS, 149), (signal.SIGILL, 157), (signal.SIGXCPU, 154),
        (signal.SIGXFSZ, 151), (signal.SIGSYS, 148), (signal.SIGABRT, -signal.SIGABRT)])
    def test_signals_end_it_with_the_status_that_clients_know(self, workshop, number, status):
        monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER, vcpus=2)
        monitor.signal(number)
        assert monitor.wait() == status
        assert not monitor.socket_path.exists()

    @pytest.mark.once
    def test_kill_9_leaves_no_process(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN)
        monitor.console.wait_for(b"A", 60)
        assert monitor.kill() == -signal.SIGKILL
        # The file stays, and the next one says what to do about it.
        assert monitor.socket_path.exists()
        again = workshop.run("--api-sock", monitor.socket_path)
        assert again.returncode == 1
        assert str(monitor.socket_path) in again.stderr and "Remove it" in again.stderr
        assert monitor.socket_path.exists()

    @pytest.mark.once
    def test_a_signal_in_the_middle_of_a_boot(self, workshop, kernel):
        for delay in range(10):
            guest = workshop.boot(kernel, ready=False)
            time.sleep(scaled(delay * 0.02))
            assert guest.monitor.end() == 143
            assert not guest.monitor.socket_path.exists()

    def test_a_signal_while_paused(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN)
        monitor.api.pause()
        assert monitor.end() == 143

    @pytest.mark.once
    def test_a_second_sigterm_does_no_harm(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN)
        monitor.signal(signal.SIGTERM)
        monitor.signal(signal.SIGTERM)
        assert monitor.wait() == 143
        assert not monitor.socket_path.exists()

