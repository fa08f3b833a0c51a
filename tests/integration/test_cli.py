"""The command line, the configuration file, and the exit status of every wrong use."""
import os
import pathlib
import re
import subprocess

import pytest

from harness import tiny
from harness.workshop import log_of

pytestmark = pytest.mark.host

BAD_ARGUMENTS, BAD_CONFIGURATION, ERROR = 153, 152, 1


def one_sentence(result):
    """What a refusal printed: one line, ours, nothing on standard output."""
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("mayfly: "), result.stderr
    return lines[0]


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
    def test_help_names_every_option_of_the_contract_that_is_there(self, workshop, arguments):
        result = workshop.run(*arguments)
        assert result.returncode == 0 and result.stderr == ""
        for option in ("--api-sock", "--id", "--config-file", "--prepare", "--no-api", "--log-path", "--level", "--module",
                       "--show-level", "--show-log-origin", "--metrics-path", "--boot-timer",
                       "--http-api-max-payload-size", "--seccomp-filter", "--no-seccomp", "--start-time-us",
                       "--start-time-cpu-us", "--parent-cpu-time-us", "--version", "mayfly run --kernel"):
            assert option in result.stdout

    def test_help_of_run(self, workshop):
        result = workshop.run("run", "--help")
        assert result.returncode == 0 and result.stderr == ""
        for option in ("--kernel", "--initrd", "--drive", "--cpus", "--mem", "Ctrl-A x"):
            assert option in result.stdout

    @pytest.mark.parametrize("arguments", [["merge-memory", "--help"], ["merge-memory", "-h"], ["help", "merge-memory"]])
    def test_help_of_merge_memory_is_its_own(self, workshop, arguments):
        result = workshop.run(*arguments)
        assert result.returncode == 0 and result.stderr == ""
        assert "mayfly merge-memory BASE DIFF" in result.stdout and "--api-sock" not in result.stdout

    def test_help_may_name_run(self, workshop):
        assert workshop.run("help", "run").stdout == workshop.run("run", "--help").stdout

    @pytest.mark.parametrize("arguments", ["--help", "--version", "run --help", "merge-memory --help", "--snapshot-version"])
    def test_what_a_full_disk_has_no_room_for_is_an_error(self, program, arguments):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([program, *arguments.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert done.returncode == ERROR
        assert done.stderr == "mayfly: standard output cannot be written: No space left on device (os error 28)\n"

    @pytest.mark.parametrize("arguments", [["--version"], ["-V"], ["run", "--version"], ["merge-memory", "--version"]])
    def test_version(self, workshop, arguments):
        result = workshop.run(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(r"Mayfly v[0-9]+\.[0-9]+\.[0-9]+\n", result.stdout)

    def test_the_program_is_one_static_position_independent_file(self, program):
        text = subprocess.run(["readelf", "-hld", program], capture_output=True, text=True, check=True).stdout
        assert "DYN (" in text, "not position-independent"
        assert "INTERP" not in text and "(NEEDED)" not in text, "needs a loader or libraries"
        assert "GNU_RELRO" in text and "BIND_NOW" in text.replace("NOW", "BIND_NOW")
        stack = re.search(r"GNU_STACK.*\n.*?(R\S*)\s", text)
        assert stack and "E" not in stack[1], "its stack is executable"


class TestWrongUse:
    @pytest.mark.parametrize("arguments, words", [
        (["--nonsense"], ["There is no option --nonsense", "--help"]),
        (["-x"], ["-x", "--help"]),
        (["vmlinux"], ["'vmlinux' is not an option", "mayfly run --kernel vmlinux"]),
        (["--api-sock"], ["--api-sock needs a value"]),
        (["audit-host"], ["'audit-host' is not a command", "scripts/audit-host"]),
        (["describe-snapshot", "x"], ["mayfly --describe-snapshot"]),
        (["--kernel", "x"], ["--kernel is an option of mayfly run", "mayfly run --kernel FILE"]),
        (["run", "--prepare", "vcpu_count=1"], ["--prepare is no option of mayfly run", "mayfly --prepare"]),
        (["merge-memory", "--force", "a", "b"], ["There is no option --force", "mayfly merge-memory --help"]),
        (["merge-memory", "a"], ["Two files are needed", "mayfly merge-memory BASE DIFF"]),
        (["help", "me"], ["mayfly help run", "not for 'me'"]),
        (["--no-api"], ["--no-api needs a microVM to start", "--config-file"]),
        (["--no-api=yes", "--config-file", "x"], ["--no-api takes no value"]),
        (["--http-api-max-payload-size", "0"], ["--http-api-max-payload-size", "whole number", "'0'"]),
        (["--http-api-max-payload-size", "-1"], ["--http-api-max-payload-size", "'-1'"]),
        (["--http-api-max-payload-size", "many"], ["'many'"]),
        (["--http-api-max-payload-size", "99999999999999999999999"], ["--http-api-max-payload-size"]),
        (["--prepare", "vcpu_count=33"], ["--prepare vcpu_count=33", "vCPU number is invalid"]),
        (["--prepare", "mem_size_mb=128"], ["--prepare mem_size_mb=128", "unknown field `mem_size_mb`"]),
        (["--prepare", "vcpu_count=1", "--config-file", "x"], ["--prepare is for a monitor that waits", "leave one out"]),
        (["--start-time-us", "soon"], ["--start-time-us", "'soon'"]),
        (["--metadata", "x"], ["--metadata is not supported"]),
        (["--seccomp-filter", "x", "--no-seccomp"], ["--no-seccomp and --seccomp-filter contradict each other"]),
        (["run"], ["A guest needs a kernel", "--kernel"]),
        (["run", "--kernel"], ["--kernel needs a value"]),
        (["run", "--kernel", ""], ["--kernel needs a file"]),
        (["run", "--kernel", "a", "--kernel", "b"], ["--kernel can be given once"]),
        (["run", "--kernel", "a", "quiet"], ["'quiet'", "mayfly run ... -- quiet"]),
        (["run", "--kernel", "a", "--cpus", "0"], ["--cpus", "1 to 32", "'0'"]),
        (["run", "--kernel", "a", "--drive", "/dev/null,rw"], ["--drive", "ro, root and async", "'rw'"]),
        (["run", "--kernel", "a", "--cpus", "33"], ["--cpus", "1 to 32", "'33'"]),
        (["run", "--kernel", "a", "--mem", "lots"], ["--mem takes a size such as 256M", "'lots'"]),
        (["run", "--kernel", "a", "--mem", "-1"], ["--mem", "'-1'"]),
        (["run", "--kernel", "a", "--drive", ""], ["--drive needs a file"]),
        (["run", "--kernel", "a", "--drive", ",ro"], ["--drive needs a file"]),
        (["run", "--kernel", "a", "--nothing"], ["There is no option --nothing", "mayfly run --help"]),
    ], ids=lambda value: " ".join(value) if isinstance(value, list) else None)
    def test_a_sentence_says_what_to_type_and_the_status_is_153(self, workshop, arguments, words):
        result = workshop.run(*arguments)
        assert result.returncode == BAD_ARGUMENTS
        text = one_sentence(result)
        for word in words:
            assert word in text

    def test_a_message_has_no_characters_that_a_terminal_obeys(self, workshop):
        result = workshop.run("--describe-snapshot", "/missing\x1b[2J\nmayfly: all is well")
        assert result.returncode == ERROR
        assert "/missing?[2J?mayfly: all is well: " in one_sentence(result)

    def test_twenty_drives_are_too_many(self, workshop):
        disk = workshop.disk("disk", 512)
        result = workshop.run("run", "--kernel", "k", *["--drive", disk] * 20)
        assert result.returncode == BAD_ARGUMENTS and "at most 19 drives" in one_sentence(result)

    @pytest.mark.parametrize("name", ["", "a b", "x" * 65, "sla/sh", "under_score"])
    def test_a_bad_id_is_refused_by_name(self, workshop, name):
        result = workshop.run("--id", name, "--api-sock", workshop.path("s"))
        assert result.returncode != 0
        assert f"'{name}'" in one_sentence(result)
        assert not workshop.path("s").exists()

    def test_a_bad_level_is_refused_by_name(self, workshop):
        result = workshop.run("--level", "Loud", "--api-sock", workshop.path("s"))
        assert result.returncode != 0 and "Loud" in one_sentence(result)

    @pytest.mark.parametrize("option", ["--log-path", "--metrics-path"])
    def test_a_file_that_cannot_be_opened_is_named(self, workshop, option):
        result = workshop.run(option, "/nonexistent/folder/file", "--api-sock", workshop.path("s"))
        assert result.returncode != 0
        assert "/nonexistent/folder/file" in one_sentence(result)
        assert not workshop.path("s").exists()


class TestSocket:
    def test_the_file_is_private_and_removed_at_the_end(self, workshop):
        old = os.umask(0)
        try:
            monitor = workshop.monitor(api=True)
        finally:
            os.umask(old)
        assert monitor.socket_path.stat().st_mode & 0o777 == 0o600
        assert monitor.end() == 143
        assert not monitor.socket_path.exists()

    def test_a_socket_that_exists_is_refused_and_kept(self, workshop):
        first = workshop.monitor(api=True)
        result = workshop.run("--api-sock", first.socket_path)
        assert result.returncode == ERROR
        assert "another process listens there" in one_sentence(result)
        assert first.api.state() == "Not started"

    def test_a_file_that_exists_is_refused_and_kept(self, workshop):
        path = workshop.file("precious", "data")
        result = workshop.run("--api-sock", path)
        assert result.returncode == ERROR and str(path) in one_sentence(result)
        assert path.read_text() == "data"

    @pytest.mark.parametrize("path", ["/nonexistent/api.sock", "", "x" * 108])
    def test_a_path_that_cannot_be_is_refused(self, workshop, path):
        result = workshop.run("--api-sock", path)
        assert result.returncode == ERROR
        assert path in one_sentence(result)

    def test_a_socket_that_somebody_replaced_is_not_removed(self, workshop):
        monitor = workshop.monitor(api=True)
        monitor.socket_path.unlink()
        monitor.socket_path.write_text("somebody else's")
        assert monitor.end() == 143
        assert monitor.socket_path.read_text() == "somebody else's"


class TestConfigFile:
    def refuse(self, workshop, contents, *arguments):
        path = workshop.file("config.json", contents)
        result = workshop.run("--no-api", "--config-file", path, *arguments)
        assert result.returncode == BAD_CONFIGURATION, result
        text = result.stderr.splitlines()[-1]
        assert text.startswith("mayfly: ") and str(path) in text, text
        return text

    @pytest.mark.parametrize("contents, words", [
        ("", ["EOF while parsing"]),
        ("{", ["line 1"]),
        ("not json", ["line 1"]),
        ("[]", ["sequence", "JSON object"]),
        ('"text"', ["string"]),
        ('{"boot-source": 7}', ["boot-source", "integer `7`"]),
        ('{"boot-source": {}}', ["boot-source", "missing field `kernel_image_path`"]),
        ('{"boot-source": {"kernel_image_path": 1}}', ["kernel_image_path", "integer `1`"]),
        ('{"machine-config": {"vcpu_count": 1}}', ["machine-config", "missing field `mem_size_mib`"]),
        ('{"machine-config": {"vcpu_count": 0, "mem_size_mib": 16}}', ["machine-config"]),
        ('{"machine-config": {"vcpu_count": 33, "mem_size_mib": 16}}', ["machine-config"]),
        ('{"machine-config": {"vcpu_count": 1, "mem_size_mib": 3}}', ["machine-config", "mem_size_mib"]),
        ('{"drives": {}}', ["drives", "sequence"]),
        ('{"drives": [{}]}', ["drives", "entry 0", "missing field"]),
        ('{"vsock": {"guest_cid": 3}}', ["vsock", "virtio-net, virtio-blk, serial and i8042, on purpose"]),
        ('{"balloon": {"amount_mib": 3}}', ["balloon", "on purpose"]),
        ('{"nonsense": {}}', ["unknown section `nonsense`"]),
        ('{"machine-config": {"vcpu_count": 1, "vcpu_count": 2, "mem_size_mib": 16}}',
         ["duplicate field `vcpu_count`"]),
        ('{"boot-source": {"kernel_image_path": "/x"}} trailing', ["trailing characters"]),
        (b'{"boot-source": {"kernel_image_path": "\xff"}}', ["UTF-8"]),
        ("[" * 5000, ["recursion limit"]),
        ("{}", ["without kernel"]),
        ('{"boot-source": {"kernel_image_path": "/nonexistent/kernel"}}',
         ["The kernel file cannot be opened: No such file or directory (os error 2)"]),
    ], ids=lambda value: None if isinstance(value, list) else ascii(value)[:40])
    def test_a_bad_file_is_status_152_and_the_text_names_it(self, workshop, contents, words):
        text = self.refuse(workshop, contents)
        for word in words:
            assert word in text

    def test_the_same_drive_twice(self, workshop):
        disk = workshop.disk("disk", 512)
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        text = self.refuse(workshop, workshop.configuration(kernel, initrd=False, drives=[
            {"path": disk, "drive_id": "same"}, {"path": disk, "drive_id": "same"}]))
        assert "same" in text and "twice" in text

    def test_two_roots(self, workshop):
        disk = workshop.disk("disk", 512)
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        text = self.refuse(workshop, workshop.configuration(kernel, initrd=False, drives=[
            {"path": disk, "drive_id": "one", "root": True}, {"path": disk, "drive_id": "two", "root": True}]))
        assert "A root block device already exists" in text

    @pytest.mark.parametrize("path", ["/nonexistent/config.json", "/", "/dev/null"])
    def test_a_file_that_is_none(self, workshop, path):
        result = workshop.run("--no-api", "--config-file", path)
        assert result.returncode == BAD_CONFIGURATION and path in result.stderr

    def test_a_fifo_without_writer_does_not_hang(self, workshop):
        os.mkfifo(workshop.path("fifo"))
        result = workshop.run("--no-api", "--config-file", workshop.path("fifo"))
        assert result.returncode == BAD_CONFIGURATION

    def test_a_file_too_large_is_refused(self, workshop):
        text = self.refuse(workshop, " " * (2 << 20))
        assert "longer than" in text

    def test_with_an_api_the_socket_is_gone_after_a_bad_file(self, workshop):
        path = workshop.file("config.json", "{}")
        result = workshop.run("--api-sock", workshop.path("s"), "--config-file", path)
        assert result.returncode == BAD_CONFIGURATION
        assert not workshop.path("s").exists()

    @pytest.mark.guest
    @pytest.mark.usefixtures("kvm")
    def test_what_get_vm_config_answers_starts_the_same_microvm(self, workshop):
        disk = workshop.disk("disk", 512)
        kernel = workshop.tiny_kernel(tiny.HALT_FOR_EVER)
        first = workshop.start(workshop.configuration(
            kernel, initrd=False, vcpus=2, mem=32, drives=[{"path": disk, "read_only": True}],
            machine={"track_dirty_pages": True}))
        configuration = first.api.get("/vm/config")
        first.kill()
        second = workshop.start(configuration)
        assert second.api.get("/vm/config") == {**configuration, "logger": second.api.get("/vm/config")["logger"]}
        assert second.api.state() == "Running"

    @pytest.mark.guest
    @pytest.mark.usefixtures("kvm")
    @pytest.mark.parametrize("section, shape", [
        (None, r"Info:src/vmm\.c:[0-9]+"),
        ({}, r"Info:src/vmm\.c:[0-9]+"),
        ({"level": "Info"}, r"Info:src/vmm\.c:[0-9]+"),
        ({"show_level": False}, r"src/vmm\.c:[0-9]+"),
        ({"show_log_origin": False}, r"Info"),
        ({"show_level": False, "show_log_origin": False}, None)])
    def test_a_logger_section_leaves_to_the_command_line_what_it_does_not_name(self, workshop, section, shape):
        others = {} if section is None else {"logger": section}
        monitor = workshop.boot_tiny(tiny.SPIN, "--show-log-origin", **others)  # and --log-path, --show-level
        line = next(line for line in log_of(monitor).splitlines() if "the microVM runs" in line)
        marks = line[line.index("[") + 1:line.index("]")].split(":", 2)
        assert marks[0] == "anonymous-instance"
        assert re.fullmatch(shape, marks[2]) if shape else len(marks) == 2, line
        assert monitor.api.get("/vm/config")["logger"]["log_path"] == str(monitor.log_path)

    @pytest.mark.guest
    @pytest.mark.usefixtures("kvm")
    def test_no_api_has_no_socket(self, workshop):
        path = workshop.file("config.json", workshop.configuration(
            workshop.tiny_kernel(tiny.RESET), initrd=False, mem=16))
        result = workshop.run("--no-api", "--config-file", path)
        assert result.returncode == 0
        assert [name for name in os.listdir(workshop.folder) if name.endswith(".sock")] == []


class TestNoKvm:
    """/dev/kvm that is missing, or not for this user: the text says how to get it."""

    def start_refused(self, workshop, program, *wrapper):
        path = workshop.file("config.json", workshop.configuration(
            workshop.tiny_kernel(tiny.RESET), initrd=False, mem=16))
        workshop.folder.chmod(0o777)
        copy = workshop.path("mayfly")
        copy.write_bytes(pathlib.Path(program).read_bytes())
        copy.chmod(0o755)
        result = subprocess.run([*wrapper, copy, "--no-api", "--config-file", path], capture_output=True,
                                text=True, timeout=120, check=False, cwd=workshop.folder)
        assert result.returncode == BAD_CONFIGURATION, result
        text = result.stderr.splitlines()[-1]
        assert "/dev/kvm" in text
        return text

    @pytest.mark.skipif(os.getuid() != 0, reason="hides /dev/kvm in a mount namespace, which needs root")
    def test_missing(self, workshop, program):
        text = self.start_refused(workshop, program, "unshare", "--mount", "sh", "-c",
                                  'mount -t tmpfs tmpfs /dev && exec "$0" "$@"')
        assert "modprobe kvm_intel or kvm_amd" in text and "firmware" in text

    @pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, which needs root")
    def test_not_permitted(self, workshop, program):
        text = self.start_refused(
            workshop, program, "unshare", "--mount", "sh", "-c",
            'mount -t tmpfs tmpfs /dev && touch /dev/kvm && chmod 600 /dev/kvm && '
            'exec setpriv --reuid 65534 --regid 65534 --clear-groups "$0" "$@"')
        assert "usermod -aG kvm" in text and "setfacl -m u:USER:rw /dev/kvm" in text

    @pytest.mark.skipif(os.getuid() != 0, reason="puts another file in its place, which needs root")
    def test_something_else_in_its_place(self, workshop, program):
        text = self.start_refused(workshop, program, "unshare", "--mount", "sh", "-c",
                                  'mount --bind /dev/null /dev/kvm 2>/dev/null || { mount -t tmpfs tmpfs /dev; '
                                  'touch /dev/kvm; }; exec "$0" "$@"')
        assert "does not answer as KVM" in text

    @pytest.mark.skipif(os.getuid() != 0, reason="hides /dev/kvm in a mount namespace, which needs root")
    def test_through_the_api_it_is_a_fault_message_and_the_monitor_lives(self, workshop):
        monitor = workshop.monitor(api=True, wrapper=(
            "unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /dev && exec "$0" "$@"'))
        monitor.api.put("/boot-source", {"kernel_image_path": str(workshop.tiny_kernel(tiny.RESET))})
        assert "/dev/kvm" in monitor.api.refusal("PUT", "/actions", {"action_type": "InstanceStart"})
        assert monitor.api.state() == "Not started"
