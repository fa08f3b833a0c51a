"""The documents tell the truth: every API example is run and its answer compared, every option is told everywhere.

An example is a line "$ ..." of a code block; what follows up to the next is its output. In the README each block is
a session with a fresh monitor, in docs/api.md all blocks together are one.
"""
import re
import subprocess

import pytest

from harness import images, tiny
from harness.clock import scaled
from harness.guest import Guest
from harness.kernels import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
GUIDE = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
MANUAL = (REPOSITORY / "docs" / "mayfly.1").read_text(encoding="utf-8")
SOCKET = "/tmp/mayfly.socket"


def blocks(text):
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)


def examples(text, command):
    """The (line typed, output) pairs of each block that uses this command."""
    found = []
    for block in blocks(text):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.M)
        pairs = list(zip(parts[1::2], parts[2::2]))
        if any(line.split()[0] == command for line, _ in pairs):
            found.append(pairs)
    return found


class Shell:
    """Runs lines as if typed one after the other, against one monitor's socket."""

    def __init__(self, monitor, preparation=""):
        self.monitor = monitor
        self.preparation = ["shopt -s expand_aliases", *preparation.splitlines()]

    def type(self, line):
        if line.startswith("alias "):
            self.preparation.append(line)
            return ""
        script = "\n".join([*self.preparation, line]).replace(SOCKET, str(self.monitor.socket_path))
        done = subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=scaled(60), check=False, cwd=self.monitor.folder)
        assert done.stderr == "" and done.returncode == 0, (line, done)
        return done.stdout

    def play(self, pairs):
        for line, output in pairs:
            assert self.type(line).replace("\r\n", "\n").rstrip("\n") == output.rstrip("\n"), line


README_SESSIONS = examples(README, "api")
GUIDE_SESSION = [pair for session in examples(GUIDE, "mf") for pair in session]


def files(workshop, *names):
    for name in names:
        workshop.disk(name, 1 << 20)
    workshop.file("vmlinux", tiny.elf(tiny.SPIN))


@pytest.mark.host
class TestExamplesAreFound:
    """A change of form must not make the tests below run nothing."""

    def test_of_the_readme(self):
        assert len(README_SESSIONS) == 2
        first, second = ([line for line, _ in session] for session in README_SESSIONS)
        assert first[0] == f"alias api='curl -sS --unix-socket {SOCKET}'" and len(first) >= 11
        assert any("InstanceStart" in line for line in first) and any("SendCtrlAltDel" in line for line in first)
        assert len(second) == 2 and all(output.startswith('{"fault_message"') for _, output in README_SESSIONS[1])

    def test_of_the_guide(self):
        assert len(GUIDE_SESSION) >= 15
        assert sum(output.endswith("[400]\n") for _, output in GUIDE_SESSION) >= 5

    def test_no_example_lies_in_a_block_that_is_not_played(self):
        for text, command, sessions in ((README, "api", README_SESSIONS), (GUIDE, "mf", [GUIDE_SESSION])):
            assert len(re.findall(rf"^\$ {command} ", text, re.M)) == sum(
                line.startswith(f"{command} ") for session in sessions for line, _ in session)


@pytest.mark.guest
@pytest.mark.usefixtures("kvm")
class TestExamples:
    """With a guest of a few instructions: what the API answers does not depend on the kernel."""

    @pytest.mark.once
    def test_the_session_of_the_readme(self, workshop, needs):
        needs("curl")
        files(workshop, "root.ext4")
        Shell(workshop.monitor(api=True)).play(README_SESSIONS[0])

    @pytest.mark.once
    def test_the_errors_of_the_readme(self, workshop, needs):
        needs("curl")
        shell = Shell(workshop.monitor(api=True))
        shell.type(README_SESSIONS[0][0][0])
        shell.play(README_SESSIONS[1])

    @pytest.mark.once
    def test_the_session_of_the_guide(self, workshop, needs):
        needs("curl")
        files(workshop, "rootfs.ext4", "bigger.ext4")
        function = next(line for line in GUIDE.splitlines() if line.startswith("mf() {"))
        Shell(workshop.monitor(api=True), function).play(GUIDE_SESSION)

    @pytest.mark.plain_kernel
    @pytest.mark.keyboard
    def test_the_readme_with_linux(self, workshop, kernel, needs):
        """The same session with the kernel and the root disk that the README names; what the console shows."""
        needs("curl")
        images.copy(images.root_disk(), workshop.path("root.ext4"))
        workshop.path("vmlinux").symlink_to(kernel.path)
        monitor = workshop.monitor(api=True)
        shell = Shell(monitor)
        pairs = README_SESSIONS[0]
        last = next(number for number, (line, _) in enumerate(pairs) if "SendCtrlAltDel" in line)
        shell.play(pairs[:last])
        Guest(monitor, kernel).wait_ready()
        shell.play(pairs[last:])
        monitor.console.wait_for(rb"MAYFLY-CTRL-ALT-DEL\r?\n.*reboot: Restarting system", 120)
        assert monitor.wait() == 0
        shown = next(block for block in blocks(README) if "Command line: " in block)
        console = monitor.console.since().decode(errors="replace").replace("\r", "")
        for text in (re.search(r"Command line: .*", shown)[0], "Run /sbin/init as init process",
                     "MAYFLY-READY\n", "MAYFLY-CTRL-ALT-DEL\n", "reboot: Restarting system"):
            assert text in shown and text in console, text


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


@pytest.mark.host
class TestOptions:
    @pytest.fixture
    def manual(self):
        """The manual's sections, as a reader sees their options."""
        parts = re.split(r"^\.SH (.*)$", MANUAL.replace("\\-", "-"), flags=re.M)
        return dict(zip(parts[1::2], parts[2::2]))

    def test_the_manual_has_the_options_of_help(self, workshop, manual):
        text = workshop.run("--help").stdout.replace("mayfly run --kernel", "").replace("mayfly run --help", "")
        assert options_in(manual["OPTIONS"]) == options_in(text)

    def test_the_handlers_manual_has_the_options_of_its_help(self, program):
        text = subprocess.run([program.parent / "uffd" / "mayfly-uffd", "--help"], capture_output=True, text=True, check=True).stdout
        manual = (REPOSITORY / "docs" / "mayfly-uffd.1").read_text(encoding="utf-8").replace("\\-", "-")
        section = manual.partition("\n.SH OPTIONS\n")[2].partition("\n.SH ")[0]
        assert len(options_in(text)) > 6 and options_in(section) == options_in(text)

    def test_the_manual_has_the_options_of_help_for_run(self, workshop, manual):
        text = workshop.run("run", "--help").stdout
        # Those that `mayfly --help` explains are in the manual's other section.
        common = options_in(re.search(r"^  (--id, .*)\n +as in mayfly --help", text, re.M | re.S)[1])
        assert common and common <= options_in(manual["OPTIONS"])
        assert options_in(manual["MAYFLY RUN"]) == options_in(text) - common - {"--help"}

    def test_every_option_of_help_is_taken(self, workshop):
        for words in ([], ["run"]):
            for option in options_in(workshop.run(*words, "--help").stdout) - {"--help", "--version"}:
                if not words and option == "--kernel":
                    continue  # of `mayfly run`
                # With a value behind it or without: it is another word that is wrong.
                done = workshop.run(*words, option, "1", "--no-such-option")
                assert done.returncode == 153
                assert f"no option {option}" not in done.stderr

    def test_the_documents_use_options_that_are_there(self, workshop):
        known = {words: options_in(workshop.run(*words.split(), "--help").stdout) for words in ("", "run")}
        lines = [line for text in (README, GUIDE) for line in re.findall(r"^ *(?:build/)?mayfly .*", text, re.M)
                 if "--" in line]
        lines += re.findall(r"^mayfly .*", MANUAL.replace("\\-", "-"), re.M)
        assert len(lines) >= 4
        for line in lines:
            words = "run" if " run " in line else ""
            assert options_in(line) <= known[words], line
