"""Which functions of the host's kernel a process and its children call, by the kernel's function tracer.

A tracing instance of our own records the functions of a process, its threads and what it forks (set_ftrace_pid,
function-fork); bench/function-set.c reads its buffers while it is filled and keeps each address once. Addresses become
names by /proc/kallsyms. What an interrupt calls that happens to come in the process's time is told apart: it is not on
the process's behalf.
"""
import bisect
import contextlib
import dataclasses
import os
import pathlib
import subprocess

from .kvm_trace import CannotTrace

TRACING = pathlib.Path("/sys/kernel/tracing")
BUFFER_KB = 262144
SECONDS = 3600          # to read what is left at the end of a phase


@dataclasses.dataclass(frozen=True)
class Phase:
    """functions: {name: calls} in the process's own context, with soft interrupts that its calls caused; interrupts:
    names that only interrupts called."""
    functions: dict
    interrupts: frozenset
    calls: int


class Symbols:
    def __init__(self):
        found = []
        with open("/proc/kallsyms", encoding="ascii") as lines:
            for line in lines:
                address, kind, name, *module = line.split()
                if kind in "tTwW":
                    found.append((int(address, 16), name + (f" {module[0]}" if module else "")))
        found.sort()
        if not found or found[-1][0] == 0:
            raise CannotTrace("/proc/kallsyms shows no addresses: this takes root")
        self.addresses = [address for address, _ in found]
        self.names = [name for _, name in found]

    def name(self, address):
        place = bisect.bisect_right(self.addresses, address) - 1
        return self.names[place] if place >= 0 else hex(address)


class Tracer:
    """One instance of the function tracer, and the program that reads it."""

    def __init__(self, reader, name="mayfly-bench"):
        self.folder = TRACING / "instances" / name
        if not (TRACING / "instances").is_dir():
            subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=False, stderr=subprocess.DEVNULL)
        try:
            self.folder.mkdir()
        except FileExistsError as error:
            raise CannotTrace(f"{self.folder} is there already: another run, or one that was killed (rmdir it)") from error
        except OSError as error:
            raise CannotTrace(f"{self.folder}: {error.strerror}") from error
        try:
            self.write("tracing_on", "0")
            self.write("buffer_size_kb", str(BUFFER_KB))
            self.write("options/function-fork", "1")
            self.write("options/overwrite", "0")
            self.write("set_ftrace_pid", str(os.getpid()))     # without one, everybody is traced
            self.write("current_tracer", "function")           # not possible any more once somebody reads
            self.symbols = Symbols()
            pipes = sorted((self.folder / "per_cpu").glob("cpu*/trace_pipe_raw"))
            self.reader = subprocess.Popen([reader, *pipes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except BaseException:
            self.remove()
            raise

    def write(self, name, text):
        try:
            (self.folder / name).write_text(text, encoding="ascii")
        except OSError as error:
            raise CannotTrace(f"{self.folder / name}: {error.strerror}") from error

    def wrap(self, command):
        """The command, of which everything is traced from just before its exec on."""
        return ["/bin/sh", "-c", f'echo $$ >{self.folder}/set_ftrace_pid && echo 1 >{self.folder}/tracing_on && exec "$@"',
                "sh", *command]

    def end_phase(self):
        """What was called since the phase before."""
        self.reader.stdin.write("phase\n")
        self.reader.stdin.flush()
        functions, interrupts = {}, set()
        for line in self.reader.stdout:
            words = line.split()
            if words[0] == "end":
                self.check_losses()
                return Phase(functions, frozenset(interrupts - set(functions)), int(words[1]))
            if words[0] == "missed":
                raise CannotTrace("the tracer's buffer was too small")
            name = self.symbols.name(int(words[0], 16))
            if words[2] == "i":
                interrupts.add(name)
            else:
                functions[name] = functions.get(name, 0) + int(words[1])
        raise CannotTrace("function-set ended")

    def check_losses(self):
        for stats in (self.folder / "per_cpu").glob("cpu*/stats"):
            for line in stats.read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(":")
                if name in ("overrun", "commit overrun", "dropped events") and int(value):
                    raise CannotTrace(f"{stats}: {line}")

    def close(self):
        with contextlib.suppress(CannotTrace):
            self.write("tracing_on", "0")
        self.reader.stdin.close()
        try:
            self.reader.wait(60)
        except subprocess.TimeoutExpired:
            self.reader.kill()
            self.reader.wait()
        self.reader.stdout.close()
        self.remove()

    def remove(self):
        with contextlib.suppress(CannotTrace):
            self.write("current_tracer", "nop")
        with contextlib.suppress(OSError):
            self.folder.rmdir()
