"""docs/threat-model.md against the tree: what its table names is there, no harness is missing, its numbers are today's."""
import os
import re
import subprocess
import sys

import pytest

from harness.kernels import REPOSITORY

DOCUMENT = (REPOSITORY / "docs" / "threat-model.md").read_text(encoding="utf-8")
SCRIPT = REPOSITORY / "scripts" / "entry-points"


def load():
    """The script is a program without .py: its functions all the same."""
    module = type(sys)("entry_points")
    module.__file__ = os.fspath(SCRIPT)
    sys.modules["entry_points"] = module
    exec(compile(SCRIPT.read_text(encoding="utf-8"), SCRIPT, "exec"), vars(module))   # pylint: disable=exec-used
    return module


entry_points = load()
POINTS = entry_points.read(DOCUMENT)


def harnesses():
    return {path.name.removesuffix("_fuzz.c") for path in (REPOSITORY / "tests" / "fuzz").glob("*_fuzz.c")}


def test_the_table_is_read():
    rows = DOCUMENT.partition("\n## Every way in\n")[2].partition("\n## ")[0].count("\n| ")
    assert len(POINTS) == rows - 2 > 20           # less the header and the line below it


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.what)
def test_what_a_row_names_is_there(point):
    assert point.files and point.fuzzers and point.tests
    for path in (*point.files, *point.tests):
        assert (REPOSITORY / path).is_file(), path
    assert set(point.fuzzers) <= harnesses()


def test_every_harness_is_in_the_table_and_is_built():
    named = {fuzzer for point in POINTS for fuzzer in point.fuzzers}
    built = (REPOSITORY / "tests" / "fuzz" / "meson.build").read_text(encoding="utf-8")
    assert named == harnesses()
    for name in harnesses():
        assert f"'{name}'," in built and any((REPOSITORY / "tests" / "fuzz" / "corpus" / name).iterdir()), name


def test_files_and_programs_that_the_text_names_are_there():
    for path in re.findall(r"(?:\]\(|`)((?:\.\./)?[a-z][\w./-]*/[\w./-]+|[\w-]+\.md)", DOCUMENT):
        # System calls' names, kernel parameters and commands are no paths of ours.
        if path.split("/")[0] in ("src", "devices", "api", "jail", "tests", "scripts", "bench", "docs"):
            assert (REPOSITORY / path.split(" ")[0]).exists(), path
    for name in re.findall(r"\]\(([\w-]+\.md)\)", DOCUMENT):
        assert (REPOSITORY / "docs" / name).is_file(), name


def test_lines_are_counted_as_the_document_says():
    done = subprocess.run([SCRIPT, "--lines"], stdout=subprocess.PIPE, text=True, check=True)
    told = dict(re.findall(r"^\| ([\w ]+?) \| ([\d,]+) \| \d+ \|$", DOCUMENT, re.M))
    counted = {match[1].strip(): int(match[2]) for match in re.finditer(r"^(\D+?) +(\d+) lines", done.stdout, re.M)}
    assert set(told) == set(counted)
    for who, lines in counted.items():
        # A quarter off is old, but true enough to be read.
        assert lines == pytest.approx(int(told[who].replace(",", "")), rel=0.25), f"{who}: print the table again"


def test_comments_and_blank_lines_do_not_count(tmp_path):
    source = tmp_path / "a.c"
    source.write_text("/* one\n * two */\n\nint a; /* three */\n// four\n\tint b;\n")
    assert entry_points.count_lines(source) == 2
