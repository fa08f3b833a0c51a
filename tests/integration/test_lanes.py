"""Tests of ./check itself: lanes that share tests, and what becomes of them when a lane dies."""
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

import lanes

pytestmark = pytest.mark.host

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "lanes", "-c", os.devnull]

# What each of them does is written down by the test itself, so that it shows who ran it and how often.
TESTS = """
import os, pathlib, signal
import pytest

FOLDER = pathlib.Path(__file__).parent

def ran(request, dies=False):
    with open(FOLDER / "ran", "a") as file:
        file.write(request.node.name + "\\n")
    if dies and not (FOLDER / "died").exists():
        (FOLDER / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.parametrize("number", range(3))
def test_good(request, number):
    ran(request)

class TestTogether:
    def test_before(self, request):
        ran(request)

    def test_under_which_it_dies(self, request):
        ran(request, dies=True)

    def test_after(self, request):
        ran(request)

def test_bad(request):
    ran(request)
    assert False

def test_left_out(request):
    pytest.skip("for a reason")

@pytest.fixture
def broken():
    yield
    raise ValueError

def test_bad_at_its_end(request, broken):
    ran(request)
"""
NODES = ["test_good[0]", "test_good[1]", "test_good[2]", "TestTogether::test_before", "TestTogether::test_under_which_it_dies",
         "TestTogether::test_after", "test_bad", "test_left_out", "test_bad_at_its_end"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "test_these.py").write_text(TESTS)
    (tmp_path / "work").mkdir()
    return tmp_path


def lane(folder, name, *options):
    return subprocess.run([*PYTEST, "--share-work", folder / "work", "--journal", folder / name, *options, folder],
                          env={**os.environ, "PYTHONPATH": os.fspath(REPOSITORY / "tests" / "integration")},
                          capture_output=True, text=True, check=False, cwd=folder)


def outcomes(path):
    return {node.partition("::")[2]: outcome for node, outcome in lanes.read_journal(path).items()}


class TestJournal:
    def test_it_says_what_became_of_each_test(self, folder):
        (folder / "died").touch()
        assert lane(folder, "journal").returncode == 1
        assert outcomes(folder / "journal") == {
            **dict.fromkeys(NODES, ("passed", "")), "test_bad": ("failed", ""), "test_bad_at_its_end": ("failed", ""),
            "test_left_out": ("skipped", "for a reason")}

    def test_after_a_kill_the_same_lane_goes_on_with_what_it_had_claimed(self, folder):
        assert lane(folder, "journal").returncode == -9
        assert outcomes(folder / "journal")["TestTogether::test_under_which_it_dies"] == (lanes.BEGUN, "")
        assert "TestTogether::test_after" not in outcomes(folder / "journal")
        assert lane(folder, "journal").returncode == 1
        assert outcomes(folder / "journal").keys() == set(NODES)
        ran = (folder / "ran").read_text().split()
        assert sorted(ran) == sorted(node.rpartition("::")[2] for node in NODES if node != "test_left_out")

    def test_what_a_dead_lane_had_claimed_is_no_others(self, folder):
        assert lane(folder, "one").returncode == -9
        lane(folder, "two")
        one, two = outcomes(folder / "one"), outcomes(folder / "two")
        assert not one.keys() & two.keys()
        assert set(NODES) - one.keys() - two.keys() == {"TestTogether::test_after"}

    def test_a_line_cut_short_is_passed_over(self, folder):
        path = folder / "journal"
        path.write_text('{"node": "a", "outcome": "passed"}\n{"node": "b", "outc')
        assert lanes.read_journal(path) == {"a": ("passed", "")}
        (folder / "died").touch()
        lane(folder, "journal", "-k", "good")
        assert set(lanes.read_journal(path).values()) == {("passed", "")} and len(lanes.read_journal(path)) == 4


@pytest.fixture
def check(folder, monkeypatch):
    spec = importlib.util.spec_from_file_location("check", REPOSITORY / "tests" / "check.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", folder / "results")
    monkeypatch.setattr(module, "PYTEST", PYTEST)
    monkeypatch.setenv("PYTHONPATH", os.fspath(REPOSITORY / "tests" / "integration"))
    (folder / "results").mkdir()
    return module


class TestAHostThatFails:
    def test_the_rest_goes_on_in_a_fresh_one_and_only_what_ran_is_in_doubt(self, folder, check, capsys):
        boots = folder / "boots"
        host = ["sh", "-c", f'echo >>{boots}; "$@"; s=$?; [ $s -le 1 ] && exit $s || exit 125', "host"]
        result = check.pytest_part("part", [folder], host)
        assert boots.read_text() == "\n\n"
        assert (result.passed, result.failed, [reason for _, reason in result.skipped]) == (5, 3, ["for a reason"])
        assert [name for name in result.failures if name.endswith("test_under_which_it_dies (did not end)")]
        assert "its host failed under" in capsys.readouterr().out

        again = check.again("part", result, ["part"], lambda name, nodes: check.pytest_part(
            name, ["--rootdir", folder, *(folder / node.removeprefix("tests/integration/") for node in nodes)], host))
        assert (again.passed, again.failed, len(again.second)) == (6, 2, 1)
        assert again.second[0].endswith("test_under_which_it_dies")

    def test_a_host_that_always_fails_ends_the_part(self, folder, check):
        boots = folder / "boots"
        with pytest.raises(check.CannotRun, match="status 125"):
            check.pytest_part("part", [folder], ["sh", "-c", f"echo >>{boots}; exit 125", "host"])
        assert len(boots.read_text()) == check.HOSTS_AT_MOST

    def test_without_a_host_of_its_own_a_killed_pytest_ends_the_part(self, folder, check):
        with pytest.raises(check.CannotRun, match="status -9"):
            check.pytest_part("part", [folder])
