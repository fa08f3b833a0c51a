"""The bench: its arithmetic, what it says, and that whatever goes wrong, children end and results stay.

Runs measure the program under test with a few rounds: no time that they take is looked at.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys

import pytest

from harness import kernels
from harness.clock import scaled, wait_until

BENCH = kernels.REPOSITORY / "bench"
sys.path.insert(0, os.fspath(BENCH))

from framework import plots, statistics  # noqa: E402
from framework.children import Child, ContenderFailed  # noqa: E402
from framework.processes import guest_range  # noqa: E402
from framework.report import Report, Sample, format_value  # noqa: E402
from framework.session import Session  # noqa: E402


class Options:
    samples, quick, limit, before = 3, True, None, None


@pytest.fixture
def session(program):
    with Session(Options(), host="native", kind="hardware", mayfly=program, build=program.parent,
                 peers={"qemu": pathlib.Path("/bin/true")}) as bench:
        bench.report = Report("test", "a test", "native")
        bench.report.measure("wall", "exec to exit", "ns", baseline="a")
        yield bench


def run_bench(program, output, *words, wrapper=(), **variables):
    command = [*wrapper, BENCH / "run", "--mayfly", program, "--output", output, "--no-peers", *words]
    return subprocess.run(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=scaled(120), env={**os.environ, **variables},
                          check=False)


def read_json(output, name):
    return json.loads((output / f"{name}-native.json").read_text(encoding="utf-8"))


@pytest.fixture
def mount_namespace():
    """A wrapper in which a shell line may mount what it likes before the program starts."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("mounting needs root and unshare")

    def wrap(line):
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{line} && exec "$@"', "sh"]
    return wrap


class TestStatistics:
    def test_a_percentile_is_a_sample_and_not_between_two(self):
        samples = list(range(1, 101))
        assert statistics.percentile(samples, 99) == 99
        assert statistics.percentile([5], 99) == 5
        assert statistics.percentile([3, 1, 2], 50) == 2

    def test_the_median_of_an_even_number_is_the_middle(self):
        assert statistics.median([4, 1, 3, 2]) == 2.5
        assert statistics.median([3, 1, 2]) == 2

    def test_ratios_are_made_pair_by_pair(self):
        # Both are three times slower in round 1: the ratio of medians would be 3.
        ratio = statistics.ratio({0: 2.0, 1: 6.0, 2: 2.0}, {0: 1.0, 1: 3.0, 2: 1.0})
        assert (ratio.count, ratio.median, ratio.p25, ratio.p75) == (3, 2.0, 2.0, 2.0)

    def test_rounds_that_only_one_has_are_left_out(self):
        assert statistics.ratio({0: 2.0, 1: 9.0}, {0: 1.0, 2: 1.0}).count == 1
        assert statistics.ratio({0: 2.0}, {1: 1.0}) is None
        assert statistics.ratio({0: 2.0}, {0: 0}) is None


class TestReport:
    def test_a_table_has_every_statistic_and_the_ratio_of_pairs(self, session):
        for number, (a, b) in enumerate([(1000, 3000), (2000, 6000), (5000, 15000)]):
            session.report.add("wall", "a", a, command="run a", round_number=number)
            session.report.add("wall", "b", b, command="run b", round_number=number)
        lines = session.report.text().splitlines()
        b = next(line for line in lines if line.startswith("b "))
        assert b.split() == ["b", "3", "3.000", "µs", "6.000", "µs", "15.000", "µs", "15.000", "µs",
                             "3.000", "(3.000", "to", "3.000)"]
        assert "  a: run a" in lines and "  b: run b" in lines

    def test_the_json_has_each_sample_with_the_command_that_made_it(self, session):
        session.report.add("wall", "a", 7, command="run a", round_number=0)
        session.report.add("wall", "a", 9, command="run a again", round_number=1)
        saved = json.loads(json.dumps(session.report.as_json({"cpus": 2})))
        series, = saved["series"]
        assert [(sample["value"], saved["commands"][sample["command"]]) for sample in series["samples"]] == [
            (7, "run a"), (9, "run a again")]
        assert series["unit"] == "ns" and series["summary"]["median"] == 8
        assert saved["machine"] == {"cpus": 2} and saved["complete"]

    def test_a_sample_of_an_unknown_measure_is_a_mistake(self, session):
        with pytest.raises(KeyError, match="declared"):
            session.report.add("no such", "a", 1, command="")

    def test_units_are_those_that_people_read(self):
        assert [format_value(value, "ns") for value in (999, 1500, 2.5e6, 3e9)] == [
            "999 ns", "1.500 µs", "2.500 ms", "3.000 s"]
        assert [format_value(value, "bytes") for value in (512, 2048, 3 << 20)] == ["512 B", "2.00 KiB", "3.00 MiB"]
        assert format_value(12.5, "MB/s") == "12.500 MB/s"

    def test_an_older_result_stays_whole_when_the_new_one_cannot_be_written(self, session, tmp_path, monkeypatch):
        session.report.save(tmp_path, {})
        before = read_json(tmp_path, "test")
        monkeypatch.setattr(pathlib.Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="test-native.json"):
            session.report.save(tmp_path, {"new": True})
        assert read_json(tmp_path, "test") == before
        assert [path.name for path in tmp_path.iterdir()] == ["test-native.json"]


class TestPlots:
    PLOT = plots.Plot("shape", "A title with 'quotes'", "x_1", "y", [("one", [(1, 2), (2, 3.5)])], kind="lines")
    BARS = plots.Plot("bars", "Bars", "", "µs", [("a", [(1, 2, 3), (2, 3, 4)])], kind="bars", categories=("p q", "r"))

    def test_gnuplot_draws_every_kind(self, needs, tmp_path):
        needs("gnuplot")
        for plot in (self.PLOT, self.BARS):
            svg = plots.draw(plot, tmp_path, "test-native")
            assert svg.read_text(encoding="utf-8").rstrip().endswith("</svg>")

    def test_without_gnuplot_the_script_and_its_numbers_stay(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", os.fspath(tmp_path))
        with pytest.raises(plots.NoPlot, match="gnuplot is not installed"):
            plots.draw(self.PLOT, tmp_path, "test-native")
        assert "2 3.5" in (tmp_path / "test-native-shape.gp").read_text(encoding="utf-8")

    def test_a_gnuplot_that_fails_is_quoted(self, tmp_path, monkeypatch):
        fake = tmp_path / "gnuplot"
        fake.write_text("#!/bin/sh\necho cannot draw today\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(plots.NoPlot, match="cannot draw today"):
            plots.draw(self.PLOT, tmp_path, "test-native")


class TestChildren:
    def test_what_a_program_says_and_how_it_ends(self):
        done = Child(["sh", "-c", "echo out; echo err >&2; exit 3"]).finish()
        assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
        assert done.wall_ns > 0
        with pytest.raises(ContenderFailed, match="status 3: err"):
            done.must(0)

    def test_waiting_for_words_gives_the_time_at_which_they_were_read(self):
        child = Child(["sh", "-c", "echo first; sleep 0.05; echo second; cat"], stdin="pipe")
        _, first = child.wait_for(rb"first")
        _, second = child.wait_for(rb"second")
        assert child.start_ns < first < second
        child.kill()

    def test_a_program_that_ends_too_soon_is_a_failure_with_its_last_words(self):
        with pytest.raises(ContenderFailed, match="status 4: sorry"):
            Child(["sh", "-c", "echo sorry >&2; exit 4"]).wait_for(rb"ready")

    def test_a_program_that_does_not_end_is_killed_with_what_it_started(self, tmp_path):
        pids = tmp_path / "pid"
        child = Child(["sh", "-c", f"sleep 1000 & echo $! >{pids}; wait"])
        wait_until(lambda: pids.exists() and pids.read_text().strip(), 10, "a grandchild")
        with pytest.raises(ContenderFailed, match="did not end within 0.05 s"):
            child.finish(0.05)
        wait_until(lambda: not alive(int(pids.read_text())), 10, "the grandchild's end")

    def test_a_child_that_is_let_be_costs_no_descriptor_and_is_still_ours(self):
        before = len(os.listdir("/proc/self/fd"))
        child = Child(["sleep", "1000"], stdout=None, stderr=None)
        child.let_be()
        assert len(os.listdir("/proc/self/fd")) == before
        child.signal(signal.SIGTERM)
        assert child.finish().status == -signal.SIGTERM
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_program_that_is_not_there_is_a_failure(self):
        with pytest.raises(ContenderFailed, match="cannot be started: No such file"):
            Child(["/no/such/program"])


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestTurns:
    def test_in_every_round_each_has_its_turn_and_warming_up_is_not_counted(self, session):
        turns = []

        def contender(name):
            def once():
                turns.append(name)
                return Sample({"wall": len(turns)}, f"run {name}")
            return once

        session.interleave({"a": contender("a"), "b": contender("b")}, samples=4, warmup=2)
        assert len(turns) == 12 and all(set(turns[at:at + 2]) == {"a", "b"} for at in range(0, 12, 2))
        assert sorted(session.report.by_round("wall", "a")) == [0, 1, 2, 3]
        # 4 turns of warming up went before.
        assert min(session.report.values("wall", "a") + session.report.values("wall", "b")) == 5

    def test_a_contender_that_fails_is_left_out_and_the_others_go_on(self, session, capsys):
        def fails_in_the_second_round():
            if session.report.values("wall", "qemu"):
                raise ContenderFailed("it broke")
            return Sample({"wall": 1}, "run qemu")

        session.interleave({"qemu": fails_in_the_second_round, "a": lambda: Sample({"wall": 2}, "run a")}, samples=3,
                           warmup=0)
        assert len(session.report.values("wall", "a")) == 3 and len(session.report.values("wall", "qemu")) == 1
        assert "qemu is left out: it broke" in capsys.readouterr().out
        assert any("it broke" in note for note in session.report.notes)
        assert not session.report.error

    def test_without_the_program_itself_a_benchmark_is_not_complete(self, session):
        def fails():
            raise ContenderFailed("it broke")

        session.interleave({"mayfly": fails}, samples=2)
        assert "mayfly failed: it broke" in session.report.error


class TestGuestMemory:
    def test_memory_that_a_kernel_file_splits_is_found_whole(self):
        maps = [(0x1000, 0x3000, "rw-p", {}), (0x100000, 0x140000, "---p", {}), (0x140000, 0x150000, "rw-p", {}),
                (0x150000, 0x160000, "rwxp", {}), (0x160000, 0x180000, "rw-p", {}), (0x180000, 0x200000, "---p", {})]
        assert guest_range(maps, 0x40000) == (0x140000, 0x180000)
        assert guest_range(maps, 0x50000) is None


class TestCommandLine:
    @pytest.mark.parametrize("words, said", [
        (["nonsense"], "there is no benchmark 'nonsense': there are startup, hello"),
        (["--peer", "qemu"], "--peer qemu: say NAME=PATH"),
        (["--peer", "bochs=/bin/true"], "there is no peer 'bochs': there are qemu"),
        (["--peer", "kvmtool=/no/such"], "--peer kvmtool: /no/such: there is no such file"),
        (["--peer", "kvmtool=/etc/passwd"], "--peer kvmtool: /etc/passwd cannot be executed"),
        (["--samples", "0"], "'0' is not at least 1"),
        (["--limit", "many"], "many"),
    ])
    def test_a_mistake_is_a_line_and_status_2(self, program, tmp_path, words, said):
        done = run_bench(program, tmp_path / "out", *words)
        assert done.returncode == 2 and said in done.stderr and not done.stdout, done
        assert not (tmp_path / "out").exists()

    def test_the_list_names_every_benchmark(self, program, tmp_path):
        done = run_bench(program, tmp_path, "--list")
        assert done.returncode == 0
        there = {path.stem for path in (BENCH / "benchmarks").glob("*.py")} - {"__init__"}
        assert {line.split()[0] for line in done.stdout.splitlines()} == there and "startup" in there


class TestRuns:
    def test_a_short_run_has_tables_json_and_commands(self, kvm, program, tmp_path):
        done = run_bench(program, tmp_path, "hello", "--samples", "2")
        assert done.returncode == 0, done
        assert re.search(r"^mayfly +2 +[0-9.]+ ms .*\([0-9.]+ to [0-9.]+\)$", done.stdout, re.MULTILINE), done.stdout
        saved = read_json(tmp_path, "hello")
        assert saved["complete"] and saved["machine"]["cpus"] >= 1
        for series in saved["series"]:
            assert len(series["samples"]) == 2
        assert any("bare-kvm" in command for command in saved["commands"])

    def test_the_stages_of_a_start_add_up_to_it(self, kvm, program, tmp_path):
        done = run_bench(program, tmp_path, "startup", "--samples", "2")
        assert done.returncode == 0, done
        saved = read_json(tmp_path, "startup")
        series = {(one["measure"], one["contender"]): {s["round"]: s["value"] for s in one["samples"]}
                  for one in saved["series"]}
        stages = ("main", "options", "api", "config", "memory", "vm", "vcpus", "threads", "kernel", "disks", "devices",
                  "filters", "run")
        for number, whole in series["first-run", "mayfly, file"].items():
            assert sum(series["stage", stage][number] for stage in stages) == whole

    def test_many_guests_and_their_memory(self, kvm, program, tmp_path):
        done = run_bench(program, tmp_path, "density", "--limit", "12", "--quick")
        assert done.returncode == 0, done
        creations = next(one for one in read_json(tmp_path, "density")["series"] if one["measure"] == "creation")
        assert [sample["round"] for sample in creations["samples"]] == list(range(1, 13))

    def test_a_machine_without_kvm_is_said_at_once(self, program, tmp_path, mount_namespace):
        done = run_bench(program, tmp_path, "hello", wrapper=mount_namespace("mount -t tmpfs tmpfs /dev"))
        assert done.returncode == 1 and "nothing can be measured on this machine's KVM" in done.stdout, done
        assert "--host emulated" in done.stdout

    def test_a_full_disk_costs_the_files_and_not_the_tables(self, kvm, program, tmp_path, mount_namespace):
        folder = tmp_path / "small"
        folder.mkdir()
        done = run_bench(program, folder, "hello", "--samples", "20",
                         wrapper=mount_namespace(f"mount -t tmpfs -o size=8k tmpfs {folder}"))
        assert done.returncode == 1, done
        assert f"bench: {folder}/hello-native.json cannot be written: No space left on device" in done.stdout
        assert "exec to exit (less is better)" in done.stdout

    def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(self, kvm, program, tmp_path):
        (tmp_path / "file").write_text("")
        done = run_bench(program, tmp_path / "file" / "results", "hello")
        assert done.returncode == 1 and f"bench: {tmp_path}/file/results: Not a directory" in done.stderr, done
        assert "exec to exit" not in done.stdout

    def test_a_monitor_that_fails_is_quoted_and_the_next_benchmark_runs(self, kvm, program, tmp_path):
        folder = tmp_path / "build"
        shutil.copytree(program.parent / "bench", folder / "bench", ignore=shutil.ignore_patterns("*.p"))
        shutil.copytree(program.parent / "tests/guests", folder / "tests/guests", ignore=shutil.ignore_patterns("*.p"))
        broken = folder / "mayfly"
        broken.write_text("#!/bin/sh\necho not today >&2\nexit 9\n")
        broken.chmod(0o755)
        done = run_bench(broken, tmp_path / "out", "hello", "exits", "--samples", "2")
        assert done.returncode == 1 and "status 9: not today" in done.stdout, done
        assert "bench: not complete: hello, exits" in done.stdout
        # What the other contender had stays.
        assert len(read_json(tmp_path / "out", "hello")["series"][0]["samples"]) == 2

    @pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_an_interrupt_ends_the_children_and_keeps_what_there_is(self, kvm, program, tmp_path, number, status):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        command = [BENCH / "run", "--mayfly", program, "--output", tmp_path / "out", "--no-peers", "density",
                   "--limit", "100000"]
        process = subprocess.Popen(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, start_new_session=True,
                                   env={**os.environ, "TMPDIR": os.fspath(scratch)})
        try:
            wait_until(lambda: len(children_of(process.pid)) >= 6, 60, "five guests and the guardian")
            children = children_of(process.pid)
            os.killpg(process.pid, number)  # as a terminal does
            out, _ = process.communicate(timeout=scaled(60))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == status, out
        assert "NOT COMPLETE: interrupted" in out and "creation: exec until the microVM runs" in out
        saved = read_json(tmp_path / "out", "density")
        assert not saved["complete"] and len(saved["series"][0]["samples"]) >= 4
        assert not [pid for pid in children if alive(pid)]
        assert not list(scratch.iterdir())


    def test_one_that_is_killed_leaves_no_guest_and_no_folder(self, kvm, program, tmp_path):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        command = [BENCH / "run", "--mayfly", program, "--output", tmp_path / "out", "--no-peers", "density",
                   "--limit", "100000"]
        with subprocess.Popen(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, start_new_session=True,
                              env={**os.environ, "TMPDIR": os.fspath(scratch)}) as process:
            try:
                wait_until(lambda: len(children_of(process.pid)) >= 5, 60, "guests")
            finally:
                children = children_of(process.pid)
                process.kill()
        wait_until(lambda: not [pid for pid in children if alive(pid)], 60, "the end of the guests")
        wait_until(lambda: not list(scratch.iterdir()), 60, "the end of the scratch folder")


def children_of(pid):
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class TestFunctionSet:
    """bench/function-set.c, given pages as the kernel's ring buffer has them."""

    @staticmethod
    def event(address, flags=0, kind=1, pid=7):
        body = struct.pack("<HBBiQQ", kind, flags, 0, pid, address, 0)
        return struct.pack("<I", len(body) // 4) + body

    @staticmethod
    def page(*events, missed=False):
        data = b"".join(events)
        return (struct.pack("<QQ", 1, len(data) | (1 << 31 if missed else 0)) + data).ljust(4096, b"\xff")

    def run(self, program, tmp_path, *pages, ask=True):
        trace = tmp_path / "trace"
        trace.write_bytes(b"".join(pages))
        return subprocess.run([program.parent / "bench" / "function-set", trace], input=b"phase\n" if ask else b"",
                              stdout=subprocess.PIPE, timeout=scaled(60), check=True).stdout.decode()

    def test_each_function_once_with_its_calls_and_where_it_was_called(self, program, tmp_path):
        text = self.run(program, tmp_path, self.page(
            self.event(0x1000), self.event(0x2000, flags=0x10), self.event(0x1000, flags=0x08), self.event(0x3000, flags=0x08)),
            self.page(self.event(0x1000), self.event(0x2000, flags=0x08)))
        assert set(text.splitlines()) == {"1000 3 t", "2000 2 s", "3000 1 i", "end 6"}

    def test_what_is_no_call_is_passed_over(self, program, tmp_path):
        extend = struct.pack("<II", 30, 0)
        stamp = struct.pack("<II", 31, 0)
        long = struct.pack("<II", 0, 4 + 24) + self.event(0x5000)[4:]
        discarded = struct.pack("<II", 29 | 1 << 5, 8) + b"\xee" * 4
        text = self.run(program, tmp_path, self.page(extend, self.event(0x1000, kind=5), stamp, long, discarded,
                                                     self.event(0x6000), struct.pack("<I", 29), self.event(0x7000)))
        assert set(text.splitlines()) == {"5000 1 t", "6000 1 t", "end 2"}

    def test_lost_events_are_told(self, program, tmp_path):
        assert "missed 1\n" in self.run(program, tmp_path, self.page(self.event(0x1000), missed=True))

    def test_a_page_that_lies_about_its_length_is_not_read_beyond(self, program, tmp_path):
        whole = self.page(self.event(0x1000))
        text = self.run(program, tmp_path, whole[:8] + struct.pack("<Q", 0xfffff) + whole[16:40] + struct.pack("<I", 3))
        assert "1000 1 t" in text.splitlines()
