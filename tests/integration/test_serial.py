"""The serial port: a dialogue, much data both ways, readers that stall or go away, other outputs."""
import hashlib
import json
import os
import random
import re
import stat
import time

import pytest

from harness import tiny
from harness.clock import FACTOR, scaled, wait_until

# Linux drops what its 64 KiB of terminal buffers cannot take; an ordinary guest is quick enough, a slow one is not.
PASTE_BYTES = 1 << 20 if FACTOR == 1 else 1 << 14
FLOW_BYTES = 1 << 16 if FACTOR == 1 else 1 << 15
STALL_SECONDS = 10


def metrics_of(monitor, path):
    monitor.api.put("/actions", {"action_type": "FlushMetrics"})
    return json.loads(path.read_text().splitlines()[-1])


@pytest.mark.long
@pytest.mark.guest
class TestDialogue:
    def test_a_login_dialogue_with_echo_correction_and_hidden_password(self, workshop, kernel):
        """A canonical terminal in the guest: prompts, echo, a corrected typing error, no echo, a shell."""
        guest = workshop.boot(kernel)
        console = guest.console
        script = ("stty sane <$MAYFLY_CONSOLE; printf 'tester login: '; read name <$MAYFLY_CONSOLE; "
                  "stty -echo <$MAYFLY_CONSOLE; printf 'Password: '; read word <$MAYFLY_CONSOLE; echo; "
                  "stty echo <$MAYFLY_CONSOLE; [ \"$word\" = secret ] && echo \"Welcome, $name.\"; "
                  "printf '# '; read line <$MAYFLY_CONSOLE; eval \"$line\"")
        mark = guest.start(script)
        console.wait_for(rb"tester login: ", 30, mark)
        # Backspace is 0x7f there: the x must be gone.
        guest.monitor.type(b"mayx\x7ffly\r")
        console.wait_for(rb"mayx\x08 \x08fly\r\n", 30, mark)
        console.wait_for(rb"Password: ", 30, mark)
        typed = console.mark()
        guest.monitor.type(b"secret\r")
        console.wait_for(rb"Welcome, mayfly\.\r\n# ", 30, mark)
        assert b"secret" not in console.since(typed)
        guest.monitor.type(b"echo $((6 * 7))\r")
        console.wait_for(rb"\r\n42\r\n", 30, mark)
        assert guest.finish(mark)[0] == 0

    def test_control_c_interrupts_what_runs_on_the_console(self, workshop, kernel):
        guest = workshop.boot(kernel)
        mark = guest.start("stty sane <$MAYFLY_CONSOLE; setsid -c sh -c 'trap \"echo interrupted; exit 7\" INT; "
                           "echo waiting; while :; do sleep 1; done' <$MAYFLY_CONSOLE; echo status $?")
        guest.console.wait_for(rb"waiting", 30, mark)
        guest.monitor.type(b"\x03")
        guest.console.wait_for(rb"interrupted\r?\n", 30, mark)

    def test_a_mebibyte_pasted_in_comes_back_intact(self, workshop, kernel):
        """All at once, any byte: through the FIFO and its interrupts into the guest and out again."""
        guest = workshop.boot(kernel)
        data = random.Random(1).randbytes(PASTE_BYTES)
        mark = guest.start(f"stty raw -echo -icrnl <$MAYFLY_CONSOLE; echo GO; head -c {len(data)} "
                           f"<$MAYFLY_CONSOLE >/tmp/pasted; sha256sum </tmp/pasted")
        guest.console.wait_for(rb"GO\n", 30, mark)
        guest.monitor.type(data)
        status, output = guest.finish(mark, 600)
        assert status == 0
        assert output.split()[1].decode() == hashlib.sha256(data).hexdigest()
        # And back. What looks like the end of the answer may be in the data: count instead.
        mark = guest.start("cat /tmp/pasted; echo; echo END-OF-PASTE")
        guest.console.wait_for(rb"\nEND-OF-PASTE\n", 600, mark)
        assert guest.console.since(mark)[:len(data)] == data

    @pytest.mark.once
    def test_flow_control_holds_back_what_the_guest_does_not_read(self, workshop, kernel):
        """RTS goes down when the terminal is full, and nothing more comes in until somebody reads; then all does."""
        guest = workshop.boot(kernel)
        data = random.Random(2).randbytes(FLOW_BYTES)
        port = "/proc/tty/driver/serial"
        mark = guest.start(f"stty raw -echo -icrnl crtscts <$MAYFLY_CONSOLE; echo GO; "
                           f"while grep '^0:' {port} | grep -q RTS; do sleep 0.1; done; rx=$(grep '^0:' {port}); "
                           f"head -c {len(data)} <$MAYFLY_CONSOLE >/tmp/pasted; sha256sum </tmp/pasted; echo $rx; "
                           "stty -crtscts <$MAYFLY_CONSOLE")
        guest.console.wait_for(rb"GO\n", 30, mark)
        guest.monitor.type(data)
        status, output = guest.finish(mark, 300)
        assert status == 0
        assert output.split()[1].decode() == hashlib.sha256(data).hexdigest()
        # What the terminal keeps, and what was on its way when RTS went down.
        assert int(re.search(rb" rx:([0-9]+)", output)[1]) <= FLOW_BYTES // 2

    @pytest.mark.waits
    @pytest.mark.native
    def test_a_reader_that_stalls_does_not_stop_the_guest(self, workshop, kernel):
        """Nobody reads for ten seconds: the guest works on, what does not fit is counted, not kept."""
        metrics = workshop.path("metrics")
        disk = workshop.disk("disk", 1 << 20)
        guest = workshop.boot(kernel, "--metrics-path", metrics, drives=[{"path": disk}])
        console = guest.console
        resident = resident_kib(guest.monitor.pid)
        console.stall()
        # More than the pipe and the buffer hold; a counter on the disk shows that the guest lives.
        guest.monitor.type(b"(i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo $i | dd of=/dev/vda bs=512 conv=sync,"
                           b"notrunc,fsync 2>/dev/null; sleep 0.1; done) & "
                           b"dd if=/dev/zero bs=1k count=600 2>/dev/null | tr '\\0' x; echo; echo flood over\n")
        wait_until(lambda: metrics_of(guest.monitor, metrics)["uart"]["dropped_count"] > 0, 300,
                   "output to be dropped")
        first = counter_on(disk)
        time.sleep(scaled(STALL_SECONDS) if FACTOR == 1 else 2 * STALL_SECONDS)
        wait_until(lambda: counter_on(disk) > first, 60, "the guest to work on while nobody reads")
        assert guest.api.state() == "Running"
        assert resident_kib(guest.monitor.pid) - resident < 64 * 1024
        console.go_on()
        wait_until(lambda: metrics_of(guest.monitor, metrics)["uart"]["write_count"] > 600 * 1024, 300,
                   "the flood to end")
        dropped = metrics_of(guest.monitor, metrics)["uart"]["dropped_count"]
        assert dropped > 0
        # The console works again.
        mark = console.mark()
        guest.monitor.type(b"\necho alive again\n")
        console.wait_for(rb"alive again\n", 60, mark)


def counter_on(disk):
    with open(disk, "rb") as file:
        text = file.read(512).rstrip(b"\0").strip()
    return int(text or 0)


def resident_kib(pid):
    """Memory of its own: what the guest touches of its memory counts too."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["Rss"].split()[0])


@pytest.mark.once
@pytest.mark.guest
@pytest.mark.usefixtures("kvm")
class TestOutput:
    """Where the guest's words go; a guest of a few instructions that never stops talking is enough."""

    def test_no_byte_is_lost_or_doubled_while_the_reader_keeps_up(self, workshop):
        monitor = workshop.boot_tiny(tiny.COUNT)
        wait_until(lambda: monitor.console.mark() > 200_000, 120, "200,000 bytes")
        monitor.end()
        data = monitor.console.since()
        for place in range(0, len(data) - 256, 256):
            assert data[place:place + 256] == bytes(range(256)), f"after {place} bytes"

    def test_output_to_a_file_of_its_own(self, workshop):
        path = workshop.path("serial.out")
        monitor = workshop.boot_tiny(tiny.COUNT, serial={"serial_out_path": str(path)})
        wait_until(lambda: path.exists() and path.stat().st_size > 10_000, 60, "output in the file")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        monitor.end()
        assert path.read_bytes()[:256] == bytes(range(256))
        assert monitor.console.since() == b""

    def test_output_to_a_fifo_whose_reader_comes_late_and_goes(self, workshop):
        path = workshop.path("serial.fifo")
        os.mkfifo(path)
        metrics = workshop.path("metrics")
        monitor = workshop.boot_tiny(tiny.COUNT, "--metrics-path", metrics,
                                     serial={"serial_out_path": str(path)})
        with open(path, "rb", buffering=0) as reader:
            assert len(reader.read(1000)) > 0
        wait_until(lambda: metrics_of(monitor, metrics)["uart"]["dropped_count"] > 0, 60, "drops")
        assert monitor.api.state() == "Running"
        with open(path, "rb", buffering=0) as reader:
            assert len(reader.read(1000)) > 0
        assert monitor.end() == 143

    def test_a_reader_that_closes_its_pipe_ends_nothing(self, workshop):
        metrics = workshop.path("metrics")
        reading, writing = os.pipe()
        monitor = workshop.boot_tiny(tiny.COUNT, "--metrics-path", metrics, options={"stdout": writing})
        os.close(writing)
        with os.fdopen(reading, "rb") as reader:
            assert reader.read(4) == bytes(range(4))
        wait_until(lambda: metrics_of(monitor, metrics)["uart"]["dropped_count"] > 0, 60, "drops")
        assert monitor.api.state() == "Running"
        assert monitor.end() == 143

    def test_an_output_that_cannot_be_opened_is_named(self, workshop):
        monitor = workshop.monitor(api=True)
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        monitor.api.put("/boot-source", {"kernel_image_path": str(kernel)})
        for path in "/nonexistent/folder/out", str(workshop.folder):
            answer = monitor.api.request("PUT", "/serial", {"serial_out_path": path})
            assert answer.status == 400 and path in answer.fault

    def test_input_from_dev_null_and_from_a_file_ends_nothing(self, workshop):
        for source in ("/dev/null", workshop.file("input", b"x" * 5000)):
            with open(source, "rb") as file:
                monitor = workshop.boot_tiny(tiny.HALT_FOR_EVER, options={"stdin": file})
                time.sleep(scaled(0.2))
                assert monitor.api.state() == "Running"
                assert monitor.end() == 143
