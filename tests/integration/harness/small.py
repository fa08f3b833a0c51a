"""The small guests of tests/guests/README.md: where they are, what they say, what they are told."""
import dataclasses
import os
import pathlib
import re

READY = rb"guest: ready\n"
END = b"result: end\n"
SECONDS = 60


def folder(program):
    """Where the build has put them: beside the program under test, or where MAYFLY_GUESTS says."""
    named = os.environ.get("MAYFLY_GUESTS")
    return pathlib.Path(named) if named else pathlib.Path(program).parent / "tests" / "guests"


def path(program, name):
    file = folder(program) / name
    assert file.is_file(), f"there is no small guest {file}: the build makes them, or name a folder by MAYFLY_GUESTS"
    return file


@dataclasses.dataclass
class Result:
    """A line "result: NAME KEY=VALUE ...": numbers are numbers."""

    name: str
    values: dict

    def __getitem__(self, key):
        return self.values[key]


def number_or_text(value):
    return int(value, 0) if re.fullmatch(r"-?(0x[0-9a-f]+|[0-9]+)", value) else value


def results(data):
    """All results in what came over the serial port, in their order. An unfinished last line is none."""
    found = []
    for line in data.decode(errors="replace").split("\n")[:-1]:
        if line.startswith("result: "):
            name, *pairs = line.split()[1:]
            found.append(Result(name, {key: number_or_text(value)
                                       for key, _, value in (pair.partition("=") for pair in pairs)}))
    return found


class SmallGuest:
    """A small guest in a monitor."""

    def __init__(self, monitor):
        self.monitor = monitor
        self.console = monitor.console

    @property
    def api(self):
        return self.monitor.api

    def results(self, name=None, start=0):
        return [result for result in results(self.console.since(start)) if name in (None, result.name)]

    def result(self, name, start=0):
        """The one result of this name."""
        found = self.results(name, start)
        assert len(found) == 1, f"{len(found)} results {name} in {self.console.since(start)!r}"
        return found[0]

    def wait_ready(self):
        self.console.wait_for(READY, SECONDS)
        return self

    def tell(self, line):
        """Sends a command; returns the place in the console's output behind which its answer is."""
        mark = self.console.mark()
        self.monitor.type(line.encode() + b"\n")
        return mark

    def ask(self, line, seconds=SECONDS):
        """Sends a command and returns the result that answers it."""
        mark = self.tell(line)
        match = self.console.wait_for(rb"result: [^\n]*\n|guest failed: [^\n]*\n", seconds, mark)
        assert match[0].startswith(b"result: "), match[0]
        return results(match[0])[0]

    def finish(self):
        """Waits for the guest's own end, which must be a good one."""
        assert self.monitor.wait(SECONDS) == 0
        assert self.console.since().endswith(END), self.console.since()[-500:]

    def fail(self):
        """Waits for the guest's failure; returns the reason that it gave."""
        assert self.monitor.wait(SECONDS) == 1
        return re.search(rb"\nguest failed: ([^\n]*)\n", self.console.since())[1].decode()
