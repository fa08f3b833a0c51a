"""One run of the bench: what benchmarks get to work with.

A Session owns everything that must not outlive the run: the children and a scratch folder. It is a context manager, and
whichever way the run ends, the children end before the folder goes.
"""
import contextlib
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

from . import machine
from .children import Child, ContenderFailed
from .guardian import Guardian
from .report import Report, Sample


INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class CannotMeasure(Exception):
    """Why a benchmark cannot run here at all; it is left out and the next one runs."""


class Progress:
    """One line on a terminal that is written over; on anything else a line every ten seconds."""

    def __init__(self, stream=sys.stderr):
        self.stream = stream
        self.terminal = stream.isatty()
        self.last = 0.0
        self.open = False

    def show(self, text):
        now = time.monotonic()
        if now - self.last < (0.2 if self.terminal else 10):
            return
        self.last = now
        if self.terminal:
            columns = shutil.get_terminal_size().columns
            self.stream.write(f"\r\x1b[K{text[:columns - 1]}")
            self.open = True
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def done(self):
        """Before other output: the line is wiped."""
        if self.open:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.open = False


class Session:
    """What a benchmark's measure(bench) gets.

    options    what the command line said: samples, quick, limit
    host       "native" or "emulated" (this process is inside the emulated host then)
    kind       "hardware" or "pvm": which guests run here
    mayfly     the monitor to measure; before: another revision of it, or None; build: the folder of the release build (bare-kvm, guests)
    peers      {name: path} of the other monitors that are here
    folder     scratch, removed at the end; report: the running benchmark's Report
    """

    def __init__(self, options, *, host, kind, mayfly, build, peers):
        self.options, self.host, self.kind = options, host, kind
        self.peers, self.build = peers, pathlib.Path(build)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-bench-"))
        self.memory_folder = None
        self.children = []
        self.guardian = None       # with the first child
        self.report = None
        self.progress = Progress()
        self.mayfly = self.local(mayfly)
        self.before = self.local(options.before) if options.before else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with no_interrupt():
            self.clean_up()

    def clean_up(self):
        self.end_children()
        for folder in filter(None, (self.folder, self.memory_folder)):
            shutil.rmtree(folder, ignore_errors=True)
        if self.guardian:
            self.guardian.close()
            self.guardian = None

    # Words

    def say(self, text):
        self.progress.done()
        print(text, flush=True)

    # Files and programs

    def local(self, path):
        """The file itself, or inside the emulated host a copy in its memory: there, reading a file of this
        machine for the first time is time in which the instruction clock jumps."""
        path = pathlib.Path(path)
        if self.host != "emulated":
            return path
        copy = self.folder / "local" / path.relative_to("/")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        return copy

    def program(self, name):
        """A program that the release build made for the bench, such as bare-kvm."""
        path = self.build / "bench" / name
        if not path.exists():
            raise CannotMeasure(f"{path} is missing: the build has not made it")
        return self.local(path)

    def file(self, name, contents=b""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
        return path

    def memory_file(self, name):
        """The path of a file in memory (a tmpfs), for what is opened while something is timed: on a disk's file
        system that alone may take milliseconds."""
        shared = pathlib.Path("/dev/shm")
        if not os.access(shared, os.W_OK):
            return self.folder / name
        if not self.memory_folder:
            self.memory_folder = pathlib.Path(tempfile.mkdtemp(prefix="mayfly-bench-", dir=shared))
            if self.guardian:
                self.guardian.tell(self.memory_folder)
        return self.memory_folder / name

    def start(self, argv, **streams):
        """Starts a program (see children.Child), which is ended with the session at the latest."""
        # A Ctrl-C between the child's start and its name in the list would leave it behind.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)
        try:
            if not self.guardian:
                self.guardian = Guardian()
                for folder in filter(None, (self.folder, self.memory_folder)):
                    self.guardian.tell(folder)
            child = Child(argv, **streams)
            self.children.append(child)
            self.guardian.tell(f"+{child.pid}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return child

    def run(self, argv, *, seconds=60, **streams):
        """Runs a program to its end; returns children.Finished."""
        child = self.start(argv, **streams)
        try:
            return child.finish(seconds)
        finally:
            self.forget(child)

    def forget(self, child):
        """Ends the child if it still runs."""
        child.kill()
        if child in self.children:
            self.children.remove(child)
            self.guardian.tell(f"-{child.pid}")

    def end_children(self):
        """All at once: a VM that is taken down waits for milliseconds, and there may be a thousand."""
        for child in self.children:
            child.kill(wait=False)
        while self.children:
            self.forget(self.children[-1])

    # Measuring

    @property
    def samples(self):
        """How many rounds a benchmark takes unless it has a reason: --samples, or by host and --quick."""
        if self.options.samples:
            return self.options.samples
        if self.host == "emulated":
            return 2 if self.options.quick else 3
        return 10 if self.options.quick else 50

    def interleave(self, contenders, *, samples=None, warmup=1, shuffle=True):
        """Measures A/B/A/B.

        contenders: {name: function()}, each of which does its work once and returns a Sample (values by measure, and
        the command that made them). In each round every contender has its turn, in an order drawn anew for each
        round (the same in every run), so that none always follows the same one. `warmup` rounds are thrown away.
        A contender that raises ContenderFailed is left out from there on; what it has stays, and the report says why.
        """
        samples = samples or self.samples
        left = dict(contenders)
        order = random.Random(0)
        for number in range(-warmup, samples):
            names = list(left)
            if shuffle:
                order.shuffle(names)
            for name in names:
                what = f"round {number + 1} of {samples}" if number >= 0 else "warming up"
                self.progress.show(f"{self.report.name}: {what}: {name}")
                try:
                    sample = left[name]()
                except ContenderFailed as failed:
                    self.say(f"{self.report.name}: {name} is left out: {failed}")
                    self.report.note(f"{name} was left out in round {number + 1}: {failed}")
                    # A peer that fails is the peer's affair; without the program itself the benchmark is not one.
                    if name.partition(",")[0] not in self.peers:
                        self.report.error = f"{name} failed: {failed}"
                    del left[name]
                    continue
                if number >= 0:
                    self.report.add_sample(name, sample, number)
        self.progress.done()

    @contextlib.contextmanager
    def undisturbed(self):
        """For what takes milliseconds: this process and the children that it starts go before everything else on the
        machine (SCHED_FIFO), so that other programs do not take part in the numbers. Not for guests that run on and
        on. Without the privilege, a note says that the numbers have it the hard way."""
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            self.report.note("measured beside whatever else ran on this machine: no privilege for SCHED_FIFO")
            yield
            return
        self.report.note("measured with real-time priority (SCHED_FIFO 1), contenders alike, as other programs ran")
        try:
            yield
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))

    def begin(self, module, name):
        self.report = Report(name, module.SUMMARY, self.host)
        return self.report

    def describe(self):
        return machine.describe(self.mayfly, self.peers, self.kind)


@contextlib.contextmanager
def no_interrupt():
    """The last words are not to be cut by a second Ctrl-C."""

    before = {number: signal.signal(number, signal.SIG_IGN) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["CannotMeasure", "ContenderFailed", "Sample", "Session", "no_interrupt"]
