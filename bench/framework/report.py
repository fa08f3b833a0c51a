"""What one benchmark found: samples with the command that made each, tables, goals, plots, JSON.

A series is named by its measure (what was measured) and its contender (whose). Samples carry the number of the round
that they were taken in, so that ratios are made pair by pair.
"""
import dataclasses
import json
import os

from . import statistics


def format_value(value, unit):
    """For people: 1234567 ns as 1.235 ms."""
    if unit == "ns":
        for factor, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
            if abs(value) >= factor:
                return f"{value / factor:.3f} {name}"
        return f"{value:.0f} ns"
    if unit == "bytes":
        for factor, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if abs(value) >= factor:
                return f"{value / factor:.2f} {name}"
        return f"{value:.0f} B"
    number = f"{value:.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3f}"
    return f"{number} {unit}".strip()


def format_table(header, rows):
    """Columns wide enough for what is in them; the first to the left, the others to the right."""
    lines = [list(map(str, header)), *(list(map(str, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    def one(line):
        return "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                         for column, (cell, width) in enumerate(zip(line, widths))).rstrip()
    return "\n".join([one(lines[0]), "  ".join("-" * width for width in widths), *map(one, lines[1:])])


def name_all(contenders):
    """For the left of a command: who was measured by it."""
    different = list(dict.fromkeys(contenders))
    return ", ".join(different[:3]) + (f" and {len(different) - 3} more rows" if len(different) > 3 else "")


@dataclasses.dataclass
class Measure:
    name: str
    title: str
    unit: str            # ns, bytes, or any word: samples are in this unit
    better: str          # "less" or "more"
    baseline: str        # the contender that ratios are against; "" for none


@dataclasses.dataclass
class Sample:
    """One contender's values of one round, and the command that made them.

    values: {measure: value}; what one round has many of, such as stages, as {(measure, row): value}.
    """

    values: dict
    command: str


@dataclasses.dataclass
class Goal:
    text: str
    value: str
    reached: bool


class Report:
    """One benchmark's results, complete at any moment: an interrupted run has what it has."""

    def __init__(self, name, summary, host):
        self.name, self.summary, self.host = name, summary, host
        self.measures = {}          # name -> Measure
        self.series = {}            # (measure, contender) -> [(round, value, command number)]
        self.commands = []          # command lines; samples refer to them by number
        self.tables = []            # (title, header, rows): free ones
        self.goals = []
        self.notes = []
        self.plots = []
        self.error = ""             # why it is not complete

    # Recording

    def measure(self, name, title, unit, *, better="less", baseline=""):
        """Declares what samples of this name are; tables come in the order of declaration."""
        self.measures[name] = Measure(name, title, unit, better, baseline)

    def command_number(self, command):
        if command not in self.commands:
            self.commands.append(command)
        return self.commands.index(command)

    def add(self, measure, contender, value, *, command, round_number=None):
        """One sample. Without a round number it is the series' next."""
        if measure not in self.measures:
            raise KeyError(f"measure {measure} was not declared")
        series = self.series.setdefault((measure, contender), [])
        number = len(series) if round_number is None else round_number
        series.append((number, value, self.command_number(command)))

    def add_sample(self, contender, sample, round_number):
        for key, value in sample.values.items():
            measure, row = key if isinstance(key, tuple) else (key, contender)
            self.add(measure, row, value, command=sample.command, round_number=round_number)

    def table(self, title, header, rows, command=""):
        """A table of another shape; `command` made its numbers."""
        self.tables.append((title, [str(cell) for cell in header], [[str(cell) for cell in row] for row in rows], command))

    def goal(self, text, value, reached):
        """A goal of the project, the number that was found, and whether that reaches it."""
        self.goals.append(Goal(text, value, bool(reached)))

    def note(self, text):
        """A sentence that belongs to the numbers: what was left out and why."""
        if text not in self.notes:
            self.notes.append(text)

    def plot(self, plot):
        self.plots.append(plot)

    # Reading

    def contenders(self, measure):
        return [contender for name, contender in self.series if name == measure]

    def values(self, measure, contender):
        return [value for _, value, _ in self.series.get((measure, contender), [])]

    def by_round(self, measure, contender):
        return {number: value for number, value, _ in self.series.get((measure, contender), [])}

    def command_of(self, measure, contender):
        """The command of the first sample; "" without one."""
        series = self.series.get((measure, contender))
        return self.commands[series[0][2]] if series else ""

    def median(self, measure, contender):
        """None without samples."""
        values = self.values(measure, contender)
        return statistics.median(values) if values else None

    def ratio(self, measure, contender, baseline):
        """Pair by pair; None when there is no pair."""
        return statistics.ratio(self.by_round(measure, contender), self.by_round(measure, baseline))

    # Showing

    def measure_table(self, measure):
        rows = []
        for contender in self.contenders(measure.name):
            summary = statistics.summarize(self.values(measure.name, contender))
            row = [contender, summary.count, *(format_value(value, measure.unit) for value in
                                               (summary.min, summary.median, summary.p99, summary.max))]
            if measure.baseline:
                ratio = contender != measure.baseline and self.ratio(measure.name, contender, measure.baseline)
                row.append(f"{ratio.median:.3f} ({ratio.p25:.3f} to {ratio.p75:.3f})" if ratio else "-")
            rows.append(row)
        header = ["", "samples", "min", "median", "p99", "max"]
        if measure.baseline:
            header.append(f"to {measure.baseline}, pair by pair (quartiles)")
        return format_table(header, rows)

    def text(self):
        """All of it as people read it."""
        clock = ", instruction clock: 1 ns an instruction" if self.host == "emulated" else ""
        parts = [f"== {self.name}: {self.summary} ({self.host}{clock})"]
        used = {}
        for measure in self.measures.values():
            if self.contenders(measure.name):
                parts.append(f"{measure.title} ({measure.better} is better)\n{self.measure_table(measure)}")
        for (_, contender), samples in self.series.items():
            used.setdefault(samples[0][2], []).append(contender)
        for title, header, rows, command in self.tables:
            parts.append(f"{title}\n{format_table(header, rows)}" + (f"\nby: {command}" if command else ""))
        if used:
            parts.append("Commands (of each contender the first; all are in the JSON)\n" + "\n".join(
                f"  {name_all(contenders)}: {self.commands[number]}" for number, contenders in used.items()))
        if self.goals:
            parts.append("\n".join(f"goal: {goal.text}: {goal.value}: {'reached' if goal.reached else 'NOT REACHED'}"
                                   for goal in self.goals))
        parts += [f"note: {note}" for note in self.notes]
        if self.error:
            parts.append(f"NOT COMPLETE: {self.error}")
        return "\n\n".join(parts)

    def as_json(self, machine):
        series = []
        for (measure, contender), samples in self.series.items():
            values = [value for _, value, _ in samples]
            entry = {"measure": measure, "contender": contender, "unit": self.measures[measure].unit,
                     "summary": dataclasses.asdict(statistics.summarize(values)),
                     "samples": [{"round": number, "value": value, "command": command}
                                 for number, value, command in samples]}
            baseline = self.measures[measure].baseline
            ratio = baseline and contender != baseline and self.ratio(measure, contender, baseline)
            if ratio:
                entry["ratio"] = {"to": baseline, **dataclasses.asdict(ratio)}
            series.append(entry)
        return {"benchmark": self.name, "summary": self.summary, "host": self.host, "machine": machine,
                "complete": not self.error, "error": self.error,
                "measures": [dataclasses.asdict(measure) for measure in self.measures.values()],
                "commands": self.commands, "series": series,
                "tables": [{"title": title, "header": header, "rows": rows, "command": command}
                           for title, header, rows, command in self.tables],
                "goals": [dataclasses.asdict(goal) for goal in self.goals], "notes": self.notes}

    @property
    def file_name(self):
        """What the names of this report's files begin with."""
        return f"{self.name}-{self.host}"

    def save(self, folder, machine):
        """FILE_NAME.json. Never leaves half a file in the place of a whole one; OSError names the file."""
        write_whole(folder / f"{self.file_name}.json",
                    json.dumps(self.as_json(machine), indent=1, ensure_ascii=False) + "\n")


def write_whole(path, text):
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = os.fspath(path)
        raise
