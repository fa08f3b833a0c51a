"""`mayfly run` on a terminal: raw while the guest has it, as it was at every end."""
import os
import signal

import pytest

from harness import images, tiny
from harness.clock import wait_until
from harness.guest import Guest

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]


@pytest.fixture
def on_terminal(workshop):
    """Runs `mayfly run` on a terminal of its own; waits until the terminal is the guest's."""
    def run(*arguments, wait=True):
        monitor = workshop.monitor("run", *arguments, terminal=workshop.terminal())
        if wait:
            wait_until(lambda: monitor.terminal.is_raw() or monitor.process.poll() is not None, 60,
                       "the terminal to become raw")
        return monitor
    return run


def assert_restored(monitor):
    assert monitor.terminal.settings() == monitor.terminal.before


class TestTerminal:
    def test_a_linux_console_and_its_shell(self, workshop, on_terminal, kernel):
        words = f"mayfly.shell quiet {kernel.arguments} {'' if kernel.with_acpi else 'acpi=off'}".split()
        monitor = on_terminal("--kernel", kernel.path, "--initrd", images.initrd(kernel), "--mem", "256M",
                              "--", *words)
        monitor.console.wait_for(rb"# ", 60)
        monitor.type(b"echo $((6*7)) answers\r")
        monitor.console.wait_for(rb"\r\n42 answers\r\n", 60)
        monitor.type(b"reboot -f\r")
        assert monitor.wait(60) == 0
        assert_restored(monitor)

    @pytest.mark.once
    def test_run_takes_drives_cpus_and_memory(self, workshop, on_terminal, kernel):
        disk = workshop.copy_of(images.root_disk(), "root.ext4")
        data = workshop.disk("data", 1 << 20)
        words = f"quiet {kernel.arguments} {'' if kernel.with_acpi else 'acpi=off'}".split()
        monitor = on_terminal("--kernel", kernel.path, "--drive", f"{disk},root", "--drive", f"{data},ro,async",
                              "--cpus", str(min(2, kernel.max_vcpus)), "--mem", "192M", "--", *words)
        guest = Guest(monitor, kernel).wait_ready()
        assert guest.run("nproc; cat /sys/block/vdb/ro").split() == [str(min(2, kernel.max_vcpus)), "1"]
        assert " / ext4 rw" in guest.run("cat /proc/mounts")
        assert guest.reboot() == 0
        assert_restored(monitor)

    @pytest.mark.once
    def test_ctrl_a_x_ends_it(self, workshop, on_terminal):
        monitor = on_terminal("--kernel", workshop.tiny_kernel(tiny.SPIN))
        monitor.console.wait_for(b"A", 60)
        monitor.type(b"\x01x")
        assert monitor.wait() == 0
        assert_restored(monitor)

    @pytest.mark.once
    def test_ctrl_c_is_the_guests(self, workshop, on_terminal):
        monitor = on_terminal("--kernel", workshop.tiny_kernel(tiny.SPIN))
        monitor.console.wait_for(b"A", 60)
        monitor.type(b"\x03\x1a\x1c")
        assert monitor.terminal.is_raw()
        assert monitor.process.poll() is None
        monitor.type(b"\x01x")
        assert monitor.wait() == 0

    @pytest.mark.once
    @pytest.mark.parametrize("number", [
        signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGSEGV, signal.SIGBUS,
        signal.SIGILL, signal.SIGABRT, signal.SIGSYS, signal.SIGXCPU, signal.SIGFPE])
    def test_a_signal_restores_the_terminal_and_removes_the_socket(self, workshop, on_terminal, number):
        socket_path = workshop.path("api.sock")
        monitor = on_terminal("--kernel", workshop.tiny_kernel(tiny.SPIN), "--api-sock", socket_path)
        monitor.console.wait_for(b"A", 60)
        assert monitor.terminal.is_raw() and socket_path.exists()
        monitor.signal(number)
        assert monitor.wait() != 0
        assert_restored(monitor)
        assert not socket_path.exists()

    @pytest.mark.once
    @pytest.mark.parametrize("code, status", [(tiny.TRIPLE_FAULT, 1), (tiny.RESET, 0)])
    def test_the_guests_end_restores_the_terminal(self, workshop, on_terminal, code, status):
        monitor = on_terminal("--kernel", workshop.tiny_kernel(code), wait=False)
        assert monitor.wait() == status
        assert_restored(monitor)

    @pytest.mark.once
    def test_a_start_that_fails_leaves_the_terminal_alone_and_speaks(self, workshop, on_terminal):
        monitor = on_terminal("--kernel", "/nonexistent/vmlinux", wait=False)
        assert monitor.wait() == 152
        assert_restored(monitor)
        monitor.console.wait_for(rb"mayfly: .*kernel.*No such file", 10)

    @pytest.mark.once
    def test_a_terminal_that_goes_away_ends_it(self, workshop, on_terminal):
        """The window is closed: the session's leader gets SIGHUP, the process must not linger."""
        monitor = on_terminal("--kernel", workshop.tiny_kernel(tiny.SPIN))
        monitor.console.wait_for(b"A", 60)
        os.kill(monitor.pid, signal.SIGHUP)
        assert monitor.wait() == 156
