"""Which host is this, and the emulated host for machines whose KVM cannot run stock guests."""
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from emulated_host import CommandFailed, EmulatedHost, HostError, tsc
from emulated_host.protocol import STDOUT

HOST = pathlib.Path(__file__).resolve().parents[1] / "host"
DETECT = HOST / "detect"
TOOL = HOST / "emulated-host"
PLENTY = 120  # seconds, for what takes less than one


def detect(*arguments):
    """The kind of host that detect prints, and its explanation."""
    result = subprocess.run([DETECT, "--explain", *arguments], stdout=subprocess.PIPE, text=True,
                            check=True)
    kind, explanation = result.stdout.splitlines()
    return kind, explanation


def cpuinfo(folder, flags):
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: svm and vmx in a name\nflags\t\t: {flags}\n\n")
    return path


class TestDetect:
    def test_a_missing_device_on_a_cpu_without_virtualization(self, tmp_path):
        kind, why = detect("--kvm", tmp_path / "kvm", "--cpuinfo", cpuinfo(tmp_path, "fpu nosvm"))
        assert kind == "none"
        assert f"{tmp_path}/kvm does not exist" in why
        assert "neither vmx nor svm" in why

    @pytest.mark.parametrize("flag, module", [("vmx", "kvm_intel"), ("svm", "kvm_amd")])
    def test_a_missing_device_names_the_module_to_load(self, tmp_path, flag, module):
        kind, why = detect("--kvm", tmp_path / "kvm", "--cpuinfo", cpuinfo(tmp_path, f"fpu {flag}"))
        assert (kind, f"modprobe {module}" in why) == ("none", True)

    def test_a_device_that_is_not_kvm(self, tmp_path):
        kind, why = detect("--kvm", "/dev/null", "--cpuinfo", cpuinfo(tmp_path, "svm"))
        assert (kind, "/dev/null is not KVM" in why) == ("none", True)

    def test_a_folder(self, tmp_path):
        kind, why = detect("--kvm", tmp_path, "--cpuinfo", cpuinfo(tmp_path, "svm"))
        assert (kind, "Is a directory" in why) == ("none", True)

    def test_another_architecture(self):
        kind, why = detect("--machine", "aarch64")
        assert (kind, "aarch64" in why) == ("none", True)

    @pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which only root can")
    @pytest.mark.parametrize("group, mode, words", [
        (1, 0o660, "add yourself to the group that owns it (usermod -aG daemon"),
        (0, 0o660, "no group but root's may use it: let yourself in (setfacl -m u:"),
        (1, 0o600, "no group but root's may use it: let yourself in (setfacl -m u:"),
    ])
    def test_permission_denied_says_how_to_get_it(self, tmp_path, group, mode, words):
        device = tmp_path / "kvm"
        device.touch()
        os.chown(device, 0, group)
        device.chmod(mode)
        description = cpuinfo(tmp_path, "svm")
        tmp_path.chmod(0o755)
        # The folders above are closed to others: so the descriptors come through /proc.
        with open(device, "rb") as kvm, open(description, "rb") as flags, open(DETECT, "rb") as program:
            result = subprocess.run(
                ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3",
                 "-c", "import sys; exec(compile(open(0).read(), 'detect', 'exec'))", "--explain",
                 "--kvm", f"/proc/self/fd/{kvm.fileno()}",
                 "--cpuinfo", f"/proc/self/fd/{flags.fileno()}"],
                stdin=program, pass_fds=(kvm.fileno(), flags.fileno()), stdout=subprocess.PIPE,
                text=True, check=True)
        assert result.stdout.startswith("none\n")
        assert f"permission denied: {words}" in result.stdout

    def test_an_unreadable_cpuinfo_is_an_error(self, tmp_path):
        result = subprocess.run([DETECT, "--cpuinfo", tmp_path / "nothing"], stderr=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True, check=False)
        assert (result.returncode, result.stdout) == (1, "")
        assert f"{tmp_path}/nothing: No such file" in result.stderr

    @pytest.mark.emulated_host
    def test_working_kvm_is_hardware_or_pvm_by_the_cpu(self, emulated_host, tmp_path):
        done = emulated_host.run([DETECT], timeout=PLENTY, check=True)
        assert done.output == "hardware\n"
        done = emulated_host.run([DETECT, "--cpuinfo", cpuinfo(tmp_path, "fpu")], timeout=PLENTY,
                                 check=True)
        assert done.output == "pvm\n"


@pytest.mark.emulated_host
class TestCommands:
    @pytest.mark.parametrize("status", [0, 3, 255])
    def test_the_exit_status_comes_back(self, emulated_host, status):
        assert emulated_host.run(["sh", "-c", f"exit {status}"], timeout=PLENTY).status == status

    def test_a_signal_comes_back_negative(self, emulated_host):
        done = emulated_host.run(["sh", "-c", "kill -SEGV $$"], timeout=PLENTY)
        assert done.status == -signal.SIGSEGV

    def test_output_and_errors_come_back_apart(self, emulated_host):
        done = emulated_host.run(["sh", "-c", "echo out; echo err >&2"], timeout=PLENTY)
        assert (done.stdout, done.stderr) == (b"out\n", b"err\n")

    def test_a_missing_program_is_status_127(self, emulated_host):
        done = emulated_host.run(["no-such-program"], timeout=PLENTY)
        assert done.status == 127
        assert b"no-such-program: No such file or directory" in done.stderr

    def test_a_missing_folder_is_named(self, emulated_host):
        done = emulated_host.run(["true"], cwd="/no/such", timeout=PLENTY)
        assert done.status == 126
        assert b"/no/such" in done.stderr

    def test_check_shows_the_output_of_what_failed(self, emulated_host):
        with pytest.raises(CommandFailed, match="the reason"):
            emulated_host.run(["sh", "-c", "echo the reason; false"], timeout=PLENTY, check=True)

    def test_binary_input_is_echoed_whole(self, emulated_host):
        data = os.urandom(1 << 20)
        done = emulated_host.run(["cat"], input=data, timeout=PLENTY, check=True)
        assert done.stdout == data

    def test_input_nobody_reads_blocks_nothing(self, emulated_host):
        done = emulated_host.run(["sleep", "0.5"], input=bytes(1 << 20), timeout=PLENTY)
        assert (done.status, done.timed_out) == (0, False)

    def test_environment_and_folder(self, emulated_host, tmp_path):
        done = emulated_host.run(["sh", "-c", 'echo "$COLOUR"; pwd'], env={"COLOUR": "two words"},
                                 cwd=tmp_path, timeout=PLENTY)
        assert done.output == f"two words\n{tmp_path}\n"

    def test_files_go_both_ways_through_a_share(self, emulated_host, tmp_path):
        (tmp_path / "in").write_text("from outside")
        script = "cat in; printf 'from inside' >out; mkdir folder; ln -s in link"
        done = emulated_host.run(["sh", "-c", script], cwd=tmp_path, timeout=PLENTY, check=True)
        assert done.output == "from outside"
        assert (tmp_path / "out").read_text() == "from inside"
        assert (tmp_path / "folder").is_dir()
        assert os.readlink(tmp_path / "link") == "in"

    def test_writes_to_the_root_stay_inside(self, emulated_host):
        path = f"/etc/written-in-the-emulated-host-{os.getpid()}"
        emulated_host.run(["sh", "-c", f"echo x >{path} && test -s {path}"], timeout=PLENTY,
                          check=True)
        assert not os.path.exists(path)

    def test_a_timeout_kills_everything_and_the_host_goes_on(self, emulated_host):
        script = "setsid sleep 4321 & echo started; sleep 4321"
        done = emulated_host.run(["sh", "-c", script], timeout=2)
        assert (done.timed_out, done.status, done.stdout) == (True, -signal.SIGKILL, b"started\n")
        left = emulated_host.run(["pgrep", "-f", "sleep 4321"], timeout=PLENTY)
        assert (left.status, left.stdout) == (1, b"")

    def test_what_a_command_leaves_running_ends_with_it(self, emulated_host):
        emulated_host.run(["sh", "-c", "setsid sleep 5432 &"], timeout=PLENTY, check=True)
        assert emulated_host.run(["pgrep", "-f", "sleep 5432"], timeout=PLENTY).status == 1

    def test_what_is_to_keep_running_does(self, emulated_host):
        emulated_host.run(["sh", "-c", "setsid sleep 6543 &"], keep_running=True, timeout=PLENTY,
                          check=True)
        done = emulated_host.run(["pkill", "-f", "sleep 6543"], timeout=PLENTY)
        assert done.status == 0

    def test_commands_run_at_the_same_time(self, emulated_host, tmp_path):
        # Each waits for the file that the other makes: one after the other, neither would end.
        script = 'touch "$0"; until [ -e "$1" ]; do sleep 0.1; done; echo "$0"'
        first = emulated_host.popen(["sh", "-c", script, "a", "b"], cwd=tmp_path)
        second = emulated_host.popen(["sh", "-c", script, "b", "a"], cwd=tmp_path)
        assert first.wait(PLENTY).stdout == b"a\n"
        assert second.wait(PLENTY).stdout == b"b\n"

    def test_a_command_whose_output_nobody_takes_delays_no_other(self, emulated_host):
        endless = emulated_host.popen(["yes"], sinks={STDOUT: lambda data: time.sleep(3)})
        done = emulated_host.run(["echo", "through"], timeout=PLENTY)
        endless.kill()
        assert done.stdout == b"through\n"
        assert endless.wait(PLENTY).status == -signal.SIGKILL

    def test_a_dialogue_on_a_terminal(self, emulated_host):
        script = "stty size; printf 'name? '; read name; echo hello $name; test -t 0 && test -t 2"
        shell = emulated_host.popen(["sh", "-c", script], terminal=(40, 100), stdin=True)
        shell.wait_for_output(rb"40 100\r\nname\? $", PLENTY)
        shell.write(b"Ephemera\n")
        done = shell.wait(PLENTY)
        assert (done.status, b"hello Ephemera\r\n" in done.stdout) == (0, True)

    def test_a_signal_reaches_the_command(self, emulated_host):
        command = emulated_host.popen(["sh", "-c", "trap 'echo got it; exit 7' TERM; echo ready; "
                                                   "while :; do sleep 0.1; done"])
        command.wait_for_output(b"ready", PLENTY)
        command.signal(signal.SIGTERM)
        done = command.wait(PLENTY)
        assert (done.status, done.stdout) == (7, b"ready\ngot it\n")

    def test_a_nul_byte_is_refused(self, emulated_host):
        with pytest.raises(ValueError, match="NUL"):
            emulated_host.run(["echo", "a\0b"], timeout=PLENTY)


@pytest.mark.emulated_host
class TestInside:
    """What tests may rely on inside."""

    def test_kvm_speaks_version_12_and_creates_a_vm(self, emulated_host):
        program = ("import fcntl, os; kvm = os.open('/dev/kvm', os.O_RDWR); "
                   "print(fcntl.ioctl(kvm, 0xAE00, 0), fcntl.ioctl(kvm, 0xAE01, 0) > kvm)")
        done = emulated_host.run(["/usr/bin/python3", "-c", program], timeout=PLENTY, check=True)
        assert done.output == "12 True\n"

    def test_its_clock_has_this_machines_frequency(self, emulated_host):
        # Told to its kernel, which would measure it wrongly on a busy machine. Two measurements differ by a few ppm.
        done = emulated_host.run(["sh", "-c", "grep -o 'tsc_early_khz=[0-9]*' /proc/cmdline; "
                                              "dmesg | grep -o 'tsc: Detected [0-9.]* MHz'"], timeout=PLENTY, check=True)
        told, *detected = done.output.splitlines()
        for khz in (float(told.partition("=")[2]), 1000 * float(detected[-1].split()[2])):
            assert abs(khz / tsc.frequency_khz() - 1) < 0.001

    def test_nested_paging_is_on(self, emulated_host):
        done = emulated_host.run(["cat", "/sys/module/kvm_amd/parameters/npt"], timeout=PLENTY)
        assert done.output.strip() in ("Y", "1")

    def test_a_guest_runs(self, emulated_host, tmp_path):
        program = tmp_path / "kvm_guest"
        subprocess.run([*shlex.split(os.environ.get("CC", "gcc")), "-static", "-O1", "-Wall", "-Werror", "-o", program,
                        HOST / "kvm_guest.c"], check=True)
        done = emulated_host.run([program], timeout=PLENTY, check=True)
        assert done.output == "ok\n"

    def test_networking_devices_can_be_made(self, emulated_host):
        script = ("ip tuntap add dev tap9 mode tap && ip link add br9 type bridge && "
                  "ip link set tap9 master br9 && ip link add v9 type veth peer name w9 && "
                  "ip -o addr show lo | grep -q 127.0.0.1; status=$?; "
                  "ip link del br9; ip link del v9; ip link del tap9; exit $status")
        emulated_host.run(["sh", "-c", script], timeout=PLENTY, check=True)

    def test_scratch_and_tmp_give_space_back(self, emulated_host):
        for folder in ("/scratch", "/tmp"):
            script = (f"dd if=/dev/urandom of={folder}/hole bs=1M count=2 status=none && sync {folder}/hole"
                      f" && fallocate -p -o 0 -l 1M {folder}/hole && du -k {folder}/hole; rm {folder}/hole")
            done = emulated_host.run(["sh", "-c", script], timeout=PLENTY, check=True)
            assert done.output.split()[0] == "1024"

    def test_a_file_becomes_a_block_device(self, emulated_host):
        script = ("truncate -s 8M /scratch/loop && device=$(losetup -f --show /scratch/loop) && "
                  "blockdev --getsize64 $device; losetup -d $device; rm /scratch/loop")
        done = emulated_host.run(["sh", "-c", script], timeout=PLENTY, check=True)
        assert done.output == f"{8 << 20}\n"

    def test_cgroups_have_their_controllers(self, emulated_host):
        done = emulated_host.run(["cat", "/sys/fs/cgroup/cgroup.controllers"], timeout=PLENTY)
        assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(done.output.split())


def tool(*arguments, **options):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, **options)


class TestRefusals:
    """What is wrong is said before anything starts."""

    @pytest.mark.parametrize("options, words", [
        ({"cpus": 0}, "--cpus 0"),
        ({"memory_mib": 16}, "--memory 16"),
        ({"scratch_mib": 1}, "--scratch 1"),
        ({"silence": 1}, "--silence 1"),
        ({"shares": ["/no/such/folder"]}, "--share /no/such/folder: not a folder"),
        ({"shares": ["/"]}, "--share '/'"),
    ])
    def test_an_impossible_machine(self, options, words):
        with pytest.raises(HostError, match=words):
            EmulatedHost(**options).start()

    def test_a_kernel_folder_without_a_kernel(self, tmp_path):
        with pytest.raises(HostError, match=f"{tmp_path} is not a kernel"):
            EmulatedHost(kernel=os.fspath(tmp_path)).start()

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a b"])
    def test_a_name_that_is_none(self, name):
        done = tool("stop", "--name", name)
        assert (done.returncode, "--name" in done.stderr) == (125, True)

    def test_a_host_that_does_not_run(self):
        done = tool("exec", "--name", "nobody-started-this", "--", "true")
        assert (done.returncode, "no emulated host named" in done.stderr) == (125, True)


@pytest.fixture
def short_path():
    """A folder whose name leaves room for a socket's, whatever TMPDIR is."""
    with tempfile.TemporaryDirectory(prefix="mf-", dir="/tmp") as folder:
        yield pathlib.Path(folder)


# For a shell: keeps the one CPU busy at the highest priority, so that not even the agent has its turn.
STANDS_STILL = "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; while :; do :; done"


@pytest.mark.emulated_host
class TestLife:
    def test_a_lost_timer_interrupt_does_not_stop_it_for_good(self, emulated_host):
        # Nothing moves inside but what the interrupts of the agent's port bring.
        done = emulated_host.run(["sh", "-c", """
            count() { awk '/virtio[0-9]*-virtqueues/ { print $2 }' /proc/interrupts; }
            first=$(count)
            while [ $(count) -lt $((first + 3)) ]; do sleep 0.2; done
            echo "$first"
        """], timeout=PLENTY)
        assert (done.status, done.output.strip().isdigit()) == (0, True)

    def test_a_host_that_stands_still_gets_an_nmi_and_is_given_up_when_that_does_not_help(self):
        with EmulatedHost(silence=6) as host:
            process = host.popen(["chrt", "-f", "99", "sh", "-c", STANDS_STILL])
            with pytest.raises(HostError, match=r"has not answered for 6 s(.|\n)*RIP=(.|\n)*RIP=(.|\n)*NMI received"):
                process.wait(PLENTY)

    def test_a_qemu_that_stands_still_is_given_up(self):
        with EmulatedHost(silence=4) as host:
            process = host.popen(["sleep", "4000"])
            # Its children are QEMU and the virtiofsd processes.
            subprocess.run(["pkill", "-STOP", "-P", str(host.supervisor.pid), "qemu-system"], check=True)
            with pytest.raises(HostError, match="QEMU does not answer"):
                process.wait(PLENTY)

    def test_one_boot_serves_separate_callers(self, tmp_path, short_path):
        # Where named hosts are looked for must not be the user's own.
        environment = {**os.environ, "XDG_RUNTIME_DIR": os.fspath(short_path)}
        done = tool("start", "--name", "one", "--share", tmp_path, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        try:
            assert tool("start", "--name", "one", env=environment).returncode == 125
            done = tool("exec", "--name", "one", "--cwd", tmp_path, "--", "sh", "-c",
                        "cat >file; echo out; echo err >&2; exit 3", input="in", env=environment)
            assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
            assert (tmp_path / "file").read_text() == "in"
            done = tool("exec", "--name", "one", "--cwd", "/", "--timeout", "1", "--", "sleep", "4000",
                        env=environment)
            assert (done.returncode, "killed after 1 s" in done.stderr) == (124, True)
        finally:
            assert tool("stop", "--name", "one", env=environment).returncode == 0
        assert not (tmp_path / "r" / "emulated-host" / "one").exists()

    def test_a_panic_is_reported_with_the_console(self, tmp_path):
        console = tmp_path / "console"
        with EmulatedHost(console=os.fspath(console)) as host:
            with pytest.raises(HostError, match="sysrq triggered crash"):
                host.run(["sh", "-c", "echo c >/proc/sysrq-trigger"], timeout=PLENTY)
        assert "sysrq triggered crash" in console.read_text()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_nothing_is_left_when_the_caller_is_killed(self, tmp_path, number):
        environment = {**os.environ, "TMPDIR": tempfile_folder(tmp_path)}
        caller = subprocess.Popen([sys.executable, TOOL, "run", "--cwd", "/", "--", "sh", "-c",
                                   "echo running; sleep 4000"], stdout=subprocess.PIPE, env=environment)
        assert caller.stdout.readline() == b"running\n"
        folder = environment["TMPDIR"]
        assert processes_naming(folder)
        caller.send_signal(number)
        caller.wait()
        deadline = time.monotonic() + PLENTY
        while (processes_naming(folder) or os.listdir(folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes_naming(folder) == []
        assert os.listdir(folder) == []
        shutil.rmtree(folder)

    def test_icount_makes_time_of_instructions(self):
        # The emulated CPU executes one instruction each nanosecond of its own time.
        program = ("import time\ndef work():\n for _ in range(100000): pass\n"
                   "work()\nfor _ in range(3):\n t = time.perf_counter_ns(); work(); "
                   "print(time.perf_counter_ns() - t)")
        with EmulatedHost(icount=True) as host:
            done = host.run(["/usr/bin/python3", "-c", program], timeout=PLENTY * 5, check=True)
        times = sorted(map(int, done.output.split()))
        assert times[1] < times[0] * 1.1


def tempfile_folder(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    return os.fspath(folder)


def processes_naming(folder):
    """The processes, zombies aside, that have this folder in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.fsencode(folder) in pathlib.Path("/proc", pid, "cmdline").read_bytes():
                found.append(int(pid))
        except OSError:
            pass
    return found
