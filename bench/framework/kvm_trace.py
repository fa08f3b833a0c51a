"""What a guest's own instructions are, and what each exit costs, on the instruction clock.

KVM's tracepoints kvm_entry and kvm_exit are recorded with the time stamp counter, which in the emulated host counts
instructions. Between an entry and the next exit the guest runs; between an exit and the next entry the host's kernel and
the monitor do. Each such window also holds the same few hundred instructions of KVM and of the tracing itself; the
shortest window of the boot, one in which the guest executes a single instruction, is taken for them and subtracted
from every window. The windows of the guest are then its own instructions, and whatever else a run took is the monitor's
and the host kernel's.
"""
import contextlib
import pathlib
import subprocess

TRACING = pathlib.Path("/sys/kernel/tracing")
EVENTS = ("kvm_entry", "kvm_exit")
BUFFER_KB = 16384


class CannotTrace(Exception):
    """Why there is no trace."""


def write(name, text):
    try:
        (TRACING / name).write_text(text, encoding="ascii")
    except OSError as error:
        raise CannotTrace(f"{TRACING / name}: {error.strerror}") from error


@contextlib.contextmanager
def recorded():
    """Records while its block runs; what it found is in the object's fields then."""
    if not (TRACING / "trace_clock").exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=False, stderr=subprocess.DEVNULL)
    trace = Trace()
    write("tracing_on", "0")
    write("buffer_size_kb", str(BUFFER_KB))
    write("trace_clock", "x86-tsc")
    write("trace", "")
    for event in EVENTS:
        write(f"events/kvm/{event}/enable", "1")
    write("tracing_on", "1")
    try:
        yield trace
    finally:
        write("tracing_on", "0")
        for event in EVENTS:
            write(f"events/kvm/{event}/enable", "0")
    with open(TRACING / "trace", encoding="ascii", errors="replace") as lines:
        trace.read(lines)
    write("trace", "")


class Trace:
    """windows: instructions of each; exits: {reason: [count, instructions of host kernel and monitor]}."""

    def __init__(self):
        self.windows = []
        self.exits = {}

    def read(self, lines):
        entered = left = reason = None
        for line in lines:
            if line.startswith("#"):
                if "entries-in-buffer/entries-written:" in line:
                    kept, _, written = line.split()[2].partition("/")
                    if kept != written:
                        raise CannotTrace(f"{written} events did not fit: {kept} were kept")
                continue
            before, colon, rest = line.partition(": kvm_")
            if not colon:
                continue
            at = int(before.split()[-1])
            if rest.startswith("entry"):
                if reason is not None:
                    entry = self.exits.setdefault(reason, [0, 0])
                    entry[0] += 1
                    entry[1] += at - left
                entered, reason = at, None
            elif entered is not None:
                self.windows.append(at - entered)
                words = rest.split()
                reason, left, entered = words[words.index("reason") + 1], at, None

    @property
    def constant(self):
        return min(self.windows, default=0)

    @property
    def guest(self):
        return sum(self.windows) - self.constant * len(self.windows)
