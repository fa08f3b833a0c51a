"""The filters of system calls: what they allow is what the documents say, and what breaks them ends as it should."""
import pathlib
import re
import subprocess

import pytest

from harness import small, tiny
from harness.clock import scaled
from harness.kernels import REPOSITORY
from harness.workshop import log_of

DEFINITION = REPOSITORY / "jail" / "filters" / "mayfly.filter"
DOCUMENT = REPOSITORY / "docs" / "seccomp.md"
NUMBERS = 600  # beyond the last call of any kernel so far
# For the kernel's own trampolines (uretprobe, uprobe): some kernels make them whatever a filter says; elsewhere they do nothing.
NOT_FILTERED = (335, 336)
ONES = -1


def tool(program, *arguments, check=True):
    return subprocess.run([pathlib.Path(program).parent / "jail" / "filters" / "mayfly-seccomp", *map(str, arguments)],
                          capture_output=True, text=True, timeout=scaled(60), check=check)


@pytest.fixture(name="filtered")
def _filtered(program):
    """The program, where its guests are filtered."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, timeout=scaled(60)).stdout
    if "has none to begin with" in text:
        pytest.skip("this build has no filters")
    return program


@pytest.fixture(name="compiled")
def _compiled(program, tmp_path):
    """Compiles a definition's text; returns the file's path."""
    def compile_text(text):
        (tmp_path / "my.filter").write_text(text, encoding="utf-8")
        tool(program, "compile", tmp_path / "my.filter", tmp_path / "my.bpf")
        return tmp_path / "my.bpf"
    return compile_text


def without(call):
    """The monitor's definition without the lines of this call."""
    text = DEFINITION.read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not re.match(rf"allow {call}\s", line)]
    assert len(kept) < len(text.splitlines()), call
    return "\n".join(kept) + "\n"


def tables():
    """{thread: {call: [conditions...]}} as docs/seccomp.md has them."""
    found, thread = {}, None
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if head := re.match(r"### `(\w+)`: \d+ calls", line):
            thread = found.setdefault(head[1], {})
        elif thread is not None and (row := re.match(r"\| `(\w+)` \| (.*) \| [^|]+ \|$", line)):
            thread.setdefault(row[1], []).append(row[2].strip().strip("`").replace("\\|", "|"))
    for call, conditions in found["vmm"].items():
        found["fork"].setdefault(call, conditions)  # the document has only what is more
    return found


def call_numbers():
    """{name: number} from the kernel's own header."""
    done = subprocess.run(["gcc", "-E", "-dM", "-include", "asm/unistd_64.h", "-xc", "/dev/null"],
                          capture_output=True, text=True, check=True)
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", done.stdout)}


@pytest.mark.host
class TestDocument:
    def test_tables_are_those_of_the_definition(self, program):
        document = DOCUMENT.read_text(encoding="utf-8")
        assert document.endswith(tool(program, "table", DEFINITION).stdout), \
            f"docs/seccomp.md must end with what this prints: mayfly-seccomp table {DEFINITION.relative_to(REPOSITORY)}"

    def test_counts_are_those_of_the_tables(self, program):
        counts = dict(re.findall(r"(\w+): (\d+) calls allowed", tool(program, "count", DEFINITION).stdout))
        listed = {thread: str(sum(not any(row.startswith("fails") for row in rows) for rows in calls.values()))
                  for thread, calls in tables().items()}
        assert counts == listed and set(counts) == {"vmm", "vcpu", "uffd", "fork"}

    @pytest.mark.parametrize("thread", ["vmm", "vcpu", "uffd", "fork"])
    def test_every_call_is_made_and_only_what_is_listed_is_allowed(self, program, compiled, thread):
        """Each number up to 600, with arguments of zeros and of ones; the kernel itself says what becomes of it."""
        every_call = pathlib.Path(program).parent / "tests" / "jail" / "every_call"
        if not every_call.exists():
            pytest.skip("this build has no every_call")
        rules, numbers = tables()[thread], call_numbers()
        names = {number: name for name, number in numbers.items()}
        tried = [(number, value) for number in range(NUMBERS) if number not in NOT_FILTERED
                 for value in (0, ONES)]
        lines = "".join(f"{number} {' '.join([str(value)] * 6)}\n" for number, value in tried)
        file = compiled(DEFINITION.read_text(encoding="utf-8"))
        done = subprocess.run([every_call, file, thread], input=lines, capture_output=True, text=True,
                              timeout=scaled(120), check=True)
        answers = done.stdout.splitlines()
        assert len(answers) == len(tried)
        killed = set(re.findall(r"^kill (\w+)", DEFINITION.read_text(encoding="utf-8"), re.M))
        for (number, value), answer in zip(tried, answers):
            name = names.get(number)
            if name in killed:
                wanted = "killed"
            elif name not in rules:
                wanted = f"trapped {number}"
            elif rules[name] == ["fails: ENOMEM"]:
                wanted = "refused 12"
            elif any(holds(condition, value) for condition in rules[name]):
                wanted = ("allowed", "refused 12")  # ENOMEM may be the call's own
            else:
                wanted = f"trapped {number}"
            assert answer in wanted if isinstance(wanted, tuple) else answer == wanted, (number, name, value, answer)
        assert answers.count("killed") == 2 * len(killed)


def holds(conditions, value):
    """Whether all conditions of a line hold when every argument has this value: only numbers 0 and -1 are asked."""
    symbols = {"PROT_EXEC": 4, "FUTEX_WAIT": 0, "FUTEX_WAKE": 1, "FUTEX_WAIT_BITSET": 9, "FUTEX_PRIVATE_FLAG": 128,
               "FUTEX_CLOCK_REALTIME": 256, "F_SETFL": 4, "F_OFD_SETLK": 37, "F_DUPFD_CLOEXEC": 1030, "MADV_DONTNEED": 4,
               "IORING_ENTER_GETEVENTS": 1, "IORING_REGISTER_FILES_UPDATE": 6}

    def number(text):
        complement, text = text.startswith("~"), text.lstrip("~").strip("()")
        total = 0
        for word in text.split("|"):
            # What is not here is neither 0 nor all ones.
            total |= int(word, 0) if word[0].isdigit() else symbols.get(word, 0x5a5a5a5a)
        return (~total if complement else total) & 0xffffffff

    for condition in conditions.split():
        mask, wanted = re.fullmatch(r"arg\d(?:&([^=]+))?=(.+)", condition).groups()
        if value & (number(mask) if mask else 0xffffffff) != number(wanted):
            return False
    return True


@pytest.mark.host
class TestFiles:
    def refusal(self, workshop, path):
        done = workshop.run("--api-sock", "s", "--seccomp-filter", path)
        assert done.returncode == 1
        return done.stderr

    def test_what_is_no_file_of_filters_is_refused_by_name(self, workshop, tmp_path):
        assert "cannot open the system-call filters /nonexistent: No such file" in self.refusal(workshop, "/nonexistent")
        (tmp_path / "text").write_text("hello, this is a text")
        assert f"system-call filters {tmp_path}/text: offset 0: " in self.refusal(workshop, tmp_path / "text")

    def test_wrong_instruction_is_refused_by_its_offset(self, workshop, compiled):
        file = compiled(DEFINITION.read_text(encoding="utf-8"))
        data = bytearray(file.read_bytes())
        data[24 + 16 + 8:24 + 16 + 10] = b"\xff\xff"
        file.write_bytes(data)
        assert f"{file}: offset 48: an instruction that filters do not use" in self.refusal(workshop, file)

    @pytest.mark.parametrize("line, message", [
        ("allow nonsense : x", "'nonsense' is no system call of x86-64"),
        ("allow read", "each rule says why it is there"),
        ("allow read arg6=0 : x", "'arg6=0' is no condition"),
        ("allow read arg1=NOPE : x", "'NOPE' is neither a number of 32 bits nor a name that is known"),
        ("allow read arg1&1=2 : x", "can never hold"),
        ("refuse read : x", "refuse needs the error"),
        ("allow write : again", "line 1 has said already|with and without|already what becomes"),
        ("kill write : x", "line 2 has said already what becomes of write"),
        ("deny read : x", "'deny' is none of: thread, allow, refuse, kill"),
        ("thread api", "'api' is no thread: vmm, vcpu, uffd or fork"),
    ])
    def test_mistakes_in_a_definition_are_refused_by_line(self, program, tmp_path, line, message):
        (tmp_path / "my.filter").write_text(f"thread vmm\nallow write : x\n{line}\n", encoding="utf-8")
        done = tool(program, "compile", tmp_path / "my.filter", tmp_path / "out", check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{tmp_path}/my.filter:3: ") and re.search(message, done.stderr), done.stderr
        assert not (tmp_path / "out").exists()


def seccomp_of(pid):
    """{thread's name: (mode, number of filters, no_new_privs)}"""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        status = (task / "status").read_text(encoding="utf-8")
        name = (task / "comm").read_text(encoding="utf-8").strip()
        if name.startswith("kvm-"):
            continue  # KVM's own, in the kernel
        found[name] = tuple(
            int(re.search(rf"^{field}:\s+(\d+)$", status, re.M)[1])
            for field in ("Seccomp", "Seccomp_filters", "NoNewPrivs"))
    return found


@pytest.mark.guest
@pytest.mark.usefixtures("kvm")
class TestGuests:
    def test_every_thread_of_a_running_guest_is_filtered(self, workshop, filtered):
        monitor = workshop.boot_tiny(tiny.SPIN, vcpus=2)
        monitor.console.wait_for(b"A", 60)
        assert seccomp_of(monitor.pid) == {pathlib.Path(filtered).name: (2, 1, 1), "vcpu0": (2, 1, 1), "vcpu1": (2, 1, 1)}
        assert monitor.end() == 143

    @pytest.mark.usefixtures("filtered")
    def test_nobody_is_filtered_before_the_start(self, workshop):
        monitor = workshop.monitor(api=True)
        assert list(seccomp_of(monitor.pid).values()) == [(0, 0, 0)]
        assert monitor.end() == 143

    def test_no_seccomp_starts_without(self, workshop):
        monitor = workshop.boot_tiny(tiny.SPIN, "--no-seccomp")
        monitor.console.wait_for(b"A", 60)
        assert {of_thread[:2] for of_thread in seccomp_of(monitor.pid).values()} == {(0, 0)}
        assert monitor.end() == 143

    @pytest.mark.parametrize("call, thread", [("ioctl", "vcpu0"), ("ioctl arg1=KVM_RUN", "vcpu0"), ("epoll_ctl", "main"), ("close", "main")])
    def test_a_call_taken_away_ends_it_with_148_and_is_named(self, workshop, program, compiled, call, thread):
        """Each is made in the life of a guest that does nothing but reset; ioctl by the vCPU only."""
        monitor = workshop.boot_tiny(tiny.RESET, "--seccomp-filter", compiled(without(call)))
        assert monitor.wait() == 148
        name = pathlib.Path(program).name if thread == "main" else thread
        call = call.split()[0]
        number = call_numbers()[call]
        assert f"ended by SIGSYS: a system call that is not allowed, number {number} ({call}), thread {name}\n" in log_of(monitor)
        assert not monitor.socket_path.exists()

    def test_a_kill_is_a_kill(self, workshop, compiled):
        text = without("epoll_ctl") + "thread vmm\nkill epoll_ctl : a test\n"
        monitor = workshop.boot_tiny(tiny.RESET, "--seccomp-filter", compiled(text))
        assert monitor.wait() == -31
