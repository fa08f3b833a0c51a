"""tests/fuzz/run: what it keeps, counts and says, with small harnesses that crash or hang on purpose."""
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import time

import pytest

from harness import kernels
from harness.clock import scaled, wait_until

RUN = kernels.REPOSITORY / "tests" / "fuzz" / "run"

HARNESSES = {
    # Finds its word by steps, so that the corpus grows before the crash.
    "crashes": """
        if (size > 2 && data[0] == 'b' && data[1] == 'a' && data[2] == 'd') __builtin_trap();
        return 0;""",
    "is_well": """
        static volatile int seen;
        if (size > 1 && data[0] == 'o' && data[1] == 'k') seen++;
        return 0;""",
}
DIES_AT_ONCE = "#!/bin/sh\nexit 3\n"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    (folder / "tests" / "fuzz").mkdir(parents=True)
    for name, body in HARNESSES.items():
        source = folder / f"{name}.c"
        source.write_text("#include <stdint.h>\n#include <stdlib.h>\n"
                          f"int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {{ {body} }}\n")
        subprocess.run(["clang", "-O1", "-fsanitize=fuzzer", source, "-o", folder / "tests" / "fuzz" / f"{name}_fuzz"],
                       check=True)
    program = folder / "tests" / "fuzz" / "dies_at_once_fuzz"
    program.write_text(DIES_AT_ONCE)
    program.chmod(0o755)
    return folder


class Fuzzing:
    def __init__(self, build, folder):
        self.build, self.corpus, self.results, self.seeds = build, folder / "corpus", folder / "results", folder / "seeds"

    def command(self, *words):
        return [os.fspath(word) for word in (RUN, "--build", self.build, "--corpus", self.corpus, "--results", self.results,
                                             "--seeds", self.seeds, *words)]

    def run(self, *words):
        return subprocess.run(self.command(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=scaled(120), check=False)

    def summary(self):
        return json.loads((self.results / "summary.json").read_text())["harnesses"]


@pytest.fixture
def fuzzing(build, tmp_path):
    return Fuzzing(build, tmp_path)


def test_a_crash_is_kept_with_the_command_that_replays_it(fuzzing):
    done = fuzzing.run("--minutes", "0.2", "--jobs", "1", "crashes")
    assert done.returncode == 1, done.stdout
    finding, = fuzzing.summary()["crashes"]["findings"]
    assert pathlib.Path(finding["input"]).read_bytes().startswith(b"bad")
    assert f"replay: {finding['command']}" in done.stdout
    assert "deadly signal" in pathlib.Path(finding["log"]).read_text()
    replay = subprocess.run(shlex.split(finding["command"]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert replay.returncode != 0 and b"deadly signal" in replay.stdout


def test_the_same_crash_again_is_counted_and_not_kept(fuzzing):
    done = fuzzing.run("--minutes", "0.5", "--jobs", "2", "crashes")
    found = fuzzing.summary()["crashes"]
    finding, = found["findings"]
    assert finding["times"] >= 5 and "found the same" in found["failed"], done.stdout
    assert len(list((fuzzing.results / "crashes").glob("crash-*"))) == 2       # the input and its log


def test_what_is_learnt_stays_and_is_where_the_next_run_begins(fuzzing):
    done = fuzzing.run("--minutes", "0.05", "is_well")
    assert done.returncode == 0, done.stdout
    first = fuzzing.summary()["is_well"]
    assert first["executions"] > 1000 and first["edges"] > 1 and first["new"] > 0 and not first["findings"]
    again = fuzzing.run("--minutes", "0.05", "is_well")
    assert again.returncode == 0
    assert fuzzing.summary()["is_well"]["corpus"] >= first["corpus"]
    assert fuzzing.summary()["is_well"]["new"] < first["new"]
    assert re.search(r"^\d+ executions, 0 findings$", again.stdout, re.M)


def test_every_harness_gets_its_share_and_one_that_finds_something_stops_no_other(fuzzing):
    done = fuzzing.run("--minutes", "0.15", "--jobs", "1")
    summary = fuzzing.summary()
    assert set(summary) == {*HARNESSES, "dies_at_once"}
    assert summary["is_well"]["executions"] > 1000 and summary["crashes"]["findings"]
    assert "status 3 before its first input" in summary["dies_at_once"]["failed"]
    assert done.returncode == 1 and "FAILED: dies_at_once" in done.stdout


def test_merge_copies_what_reaches_more_and_nothing_twice(fuzzing):
    (fuzzing.corpus / "is_well").mkdir(parents=True)
    for name, text in {"a": b"xx", "b": b"xx ", "c": b"ok"}.items():
        (fuzzing.corpus / "is_well" / name).write_bytes(text)
    (fuzzing.seeds / "is_well").mkdir(parents=True)
    (fuzzing.seeds / "is_well" / "mine").write_bytes(b"xx")
    done = fuzzing.run("--merge", "is_well")
    assert done.returncode == 0 and "is_well: 1 new seeds" in done.stdout, done.stdout
    assert sorted(path.read_bytes() for path in (fuzzing.seeds / "is_well").iterdir()) == [b"ok", b"xx"]
    assert "is_well: 0 new seeds" in fuzzing.run("--merge", "is_well").stdout


@pytest.mark.parametrize("words, message", [
    (["--minutes", "1", "nothing"], "there is no harness 'nothing': there are crashes, dies_at_once, is_well"),
    (["--minutes", "0"], "'0' is not above 0"),
    ([], "say --minutes N, or --merge"),
    (["--minutes", "1", "--jobs", "0"], "--jobs 0: at least 1"),
])
def test_a_wrong_command_line(fuzzing, words, message):
    done = fuzzing.run(*words)
    assert done.returncode == 2 and message in done.stdout


def test_ctrl_c_ends_the_harnesses_and_shows_what_there_is(fuzzing):
    with subprocess.Popen(fuzzing.command("--minutes", "30", "is_well"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True) as process:
        wait_until(lambda: any((fuzzing.corpus / "is_well").glob("*")), 60, "the corpus grows")
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=scaled(60))
    assert process.returncode == 130, output
    assert "findings" in output and fuzzing.summary()["is_well"]["executions"] > 0
    left = subprocess.run(["pgrep", "-f", os.fspath(fuzzing.corpus)], stdout=subprocess.PIPE, check=False)
    assert left.stdout == b""
