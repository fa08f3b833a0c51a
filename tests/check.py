"""Runs every test of the project, part by part, and counts what they say. Started by ./check.

Each part is a function below that returns a Result. What a part prints goes to the terminal and to
results/check/PART.log. A part that cannot run is a failure with its name, never a silence.
"""
import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "integration"))

import lanes  # noqa: E402

RESULTS = REPOSITORY / "results" / "check"
PYTEST = ["/usr/bin/python3", "-m", "pytest", "-q"]
# What the emulated host is slower by than a machine that runs its guests itself.
EMULATED_TIME_FACTOR = "12"
EMULATED_HOSTS = 2
EMULATED_TIMEOUT_SECONDS = "2700"
NATIVE_AT_ONCE = 2
# What emulated-host ends with when the host itself failed, and how often a part may have that, less one.
HOST_FAILED = 125
HOSTS_AT_MOST = 3
# What failed once is tried once more; if it was more than this, it was no accident.
RETRIES_AT_MOST = 5
# The functions of tests that passed on this machine itself, which --shown takes.
SHOWN = RESULTS / "shown-natively"


@dataclasses.dataclass
class Result:
    passed: int = 0
    failed: int = 0
    failures: list = dataclasses.field(default_factory=list)  # names
    skipped: list = dataclasses.field(default_factory=list)   # (name, reason)
    second: list = dataclasses.field(default_factory=list)    # names of those that passed at the second try

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.failures += other.failures
        self.skipped += other.skipped
        self.second += other.second


class CannotRun(Exception):
    """The part failed before it could count anything."""


def run(part, command, environment=None, show=True):
    """Runs a command, its output to the terminal and behind the part's log. Returns the status."""
    line = shlex.join(map(str, command))
    with open(RESULTS / f"{part}.log", "a", encoding="utf-8") as log:
        log.write(f"$ {line}\n")
        log.flush()
        process = subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})})
        # As it comes: pytest's dots are the progress.
        while piece := os.read(process.stdout.fileno(), 65536):
            text = piece.decode(errors="replace")
            log.write(text)
            log.flush()
            if show:
                print(text, end="", flush=True)
        return process.wait()


def must(part, command, environment=None):
    """As run(), quietly; a failure shows the end of the log and ends the part."""
    if run(part, command, environment, show=False) != 0:
        tail = (RESULTS / f"{part}.log").read_text(encoding="utf-8").splitlines()[-40:]
        print("\n".join(tail), flush=True)
        raise CannotRun(shlex.join(map(str, command)))


def build(part, name, *options, compiler="gcc", targets=()):
    """A build folder of its own, made when it is not there or its options have changed."""
    folder = REPOSITORY / name
    wanted = json.dumps([compiler, *options])
    stamp = folder / "check-options"
    if not stamp.exists() or stamp.read_text() != wanted:
        if (folder / "build.ninja").exists():
            must(part, ["meson", "setup", "--wipe", folder, *options], {"CC": compiler})
        else:
            must(part, ["meson", "setup", folder, *options], {"CC": compiler})
        stamp.write_text(wanted)
    must(part, ["ninja", "-C", folder, *targets])
    return folder


def meson_tests(part, folder, suite, environment=None):
    """Unit tests count one by one (criterion says how many); a fuzzer counts as one."""
    run(part, ["meson", "test", "-C", folder, "--no-rebuild", "--suite", suite, "--num-processes", "2",
               "--timeout-multiplier", "4", "--print-errorlogs"], environment)
    result = Result()
    lines = (folder / "meson-logs" / "testlog.json").read_text(encoding="utf-8").splitlines()
    for program in map(json.loads, lines):
        name = f"{part}: {program['name']}"
        synthesis = re.search(r"Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)",
                              re.sub(r"\x1b\[[0-9;]*m", "", program.get("stdout", "") + program.get("stderr", "")))
        passing = int(synthesis[2]) if synthesis else 0
        failing = int(synthesis[3]) + int(synthesis[4]) if synthesis else 0
        if program["result"] == "OK":
            result.passed += max(passing, 1)
        elif program["result"] == "SKIP":
            result.skipped.append((name, "the program says so"))
        else:
            result.passed += passing
            result.failed += max(failing, 1)
            result.failures.append(name)
    if not lines:
        raise CannotRun(f"{part}: no test of suite {suite} ran")
    return result


def cases(part):
    """What the part's pytest has run: (node, passed | failed | skipped | begun, reason)."""
    for node, (outcome, reason) in lanes.read_journal(RESULTS / f"{part}.journal").items():
        yield f"tests/integration/{node.rpartition('tests/integration/')[2]}", outcome, reason


def read_cases(part):
    result = Result()
    for node, outcome, reason in cases(part):
        name = f"{part}: {node.removeprefix('tests/integration/')}"
        if outcome == "passed":
            result.passed += 1
        elif outcome == "skipped":
            result.skipped.append((name, reason))
        else:
            result.failed += 1
            result.failures.append(name + (" (did not end)" if outcome == lanes.BEGUN else ""))
    return result


def pytest_part(part, arguments, wrapper=(), environment=None):
    """With a wrapper, pytest runs on a host that may fail under it: what is left then goes on in a fresh one."""
    journal = RESULTS / f"{part}.journal"
    journal.unlink(missing_ok=True)
    command = [*wrapper, *PYTEST, "--journal", journal, *arguments]
    for left in reversed(range(HOSTS_AT_MOST)):
        status = run(part, command, environment)
        if not (wrapper and status == HOST_FAILED and left):
            break
        under = [node for node, outcome, _ in cases(part) if outcome == lanes.BEGUN][-1:] or ["no test"]
        print(f"== {part}: its host failed under {under[0]}; a fresh one goes on", flush=True)
    result = read_cases(part)
    if status not in (0, 1) or (status == 1 and result.failed == 0) or not (result.passed or result.failed or result.skipped):
        raise CannotRun(f"pytest ended with status {status} after {result.passed + result.failed} tests")
    return result


def check_unit():
    return meson_tests("unit", build("unit", "build", "-Dwerror=true", "-Dtests=enabled"), "unit")


def check_clang():
    build("clang", "build-clang", "-Dwerror=true", "-Dtests=enabled", compiler="clang")
    return Result(passed=1)


def check_sanitize():
    folder = build("sanitize", "build-sanitize", "-Dwerror=true", "-Dtests=enabled", "-Db_sanitize=address,undefined",
                   "-Db_lundef=false")
    environment = {"UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
                   # Tests of crashes need the signals themselves.
                   "ASAN_OPTIONS": "detect_leaks=1:handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:"
                                   # It would unmap the threads' signal stacks, which are the program's own.
                                   "handle_abort=0:use_sigaltstack=0"}
    result = meson_tests("sanitize", folder, "unit", environment)
    result.add(pytest_part("sanitize-hostile", ["tests/integration/test_hostile.py", "-m", "not emulated_host",
                                                "--mayfly", folder / "mayfly"], environment=environment))
    return result


def check_fuzz():
    folder = build("fuzz", "build-fuzz", "-Dwerror=true", "-Dfuzzers=true", compiler="clang")
    return meson_tests("fuzz", folder, "fuzz")


def check_lint():
    folder = build("lint", "build-clang", "-Dwerror=true", "-Dtests=enabled", compiler="clang")
    sources = sorted(str(path.relative_to(REPOSITORY)) for room in ("src", "devices", "api", "jail", "uffd", "tests/guests")
                     for path in (REPOSITORY / room).rglob("*.c"))
    written = sorted(str(path.relative_to(REPOSITORY))
                     for room in ("include", "src", "devices", "api", "jail", "uffd", "tests", "bench")
                     for path in (REPOSITORY / room).rglob("*.[ch]"))
    result = Result()
    for name, command in {
            "clang-format": ["clang-format", "--dry-run", "-Werror", *written],
            "cppcheck": ["cppcheck", "--quiet", "--error-exitcode=1", "--inline-suppr", "--std=c11", "-j2",
                         "--enable=warning,performance,portability", "--suppress=missingIncludeSystem",
                         "--suppress=memleak",  # it does not know the cleanup attribute
                         "-Iinclude", "-Itests/guests/kit", "-D_GNU_SOURCE", "-D__x86_64__", *sources],
            "clang-tidy": ["sh", "-c", f"printf '%s\\n' \"$@\" | xargs -n 8 -P {os.cpu_count()} clang-tidy --quiet -p {folder}",
                           "clang-tidy", *sources],
            "mandoc": ["mandoc", "-T", "lint", "-W", "warning", "docs/mayfly.1", "docs/mayfly-jailer.1", "docs/mayfly-uffd.1"]}.items():
        if run("lint", command) == 0:
            result.passed += 1
        else:
            result.failed += 1
            result.failures.append(f"lint: {name}")
    return result


def at_once(lanes):
    """Runs several functions at the same time; what they return, added up."""
    total = Result()
    with concurrent.futures.ThreadPoolExecutor(len(lanes)) as pool:
        for result in pool.map(lambda lane: lane(), lanes):
            total.add(result)
    return total


def sharing(count, part, run_one):
    """Lanes that share the tests among them; run_one(name, arguments) is one."""
    work = RESULTS / f"{part}-work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    return [lambda name=f"{part}-{number}": run_one(name, ["--share-work", work]) for number in range(1, count + 1)]


def again(part, result, names, run_one):
    """What failed once is tried once more, with nothing beside it; the summary names what passed only then."""
    nodes = [node for name in names for node, outcome, _ in cases(name) if outcome in ("failed", lanes.BEGUN)]
    if not nodes or len(nodes) > RETRIES_AT_MOST:
        return result
    print(f"== {part}: once more: " + ", ".join(nodes), flush=True)
    name = f"{part}-again"
    retried = run_one(name, nodes)
    second = [f"{part}: {node.removeprefix('tests/integration/')}"
              for node, outcome, _ in cases(name) if outcome == "passed"]
    return Result(result.passed + retried.passed, retried.failed, retried.failures, result.skipped + retried.skipped,
                  result.second + second)


def note_what_was_shown(names):
    """Which functions of tests passed here with everything they were run with."""
    outcomes = {}
    for name in names:
        for node, outcome, _ in cases(name):
            outcomes.setdefault(node.partition("[")[0], set()).add(outcome)
    SHOWN.write_text("".join(f"{function}\n" for function, seen in sorted(outcomes.items()) if seen == {"passed"}),
                     encoding="utf-8")


def check_native():
    build("native", "build", "-Dwerror=true", "-Dtests=enabled")

    def those(expression):
        return lambda name, arguments: pytest_part(name, ["tests/integration", "-m", expression, *arguments])

    # Those that mostly wait are a lane of their own, beside those that keep the processors busy. What boots emulated
    # hosts goes with them, so that there is one at a time.
    names = [*(f"native-{number}" for number in range(1, NATIVE_AT_ONCE + 1)), "native-waits", "native-alone"]
    result = at_once([*sharing(NATIVE_AT_ONCE, "native", those("not alone and not waits and not emulated_host")),
                      lambda: those("(waits or emulated_host) and not alone")("native-waits", [])])
    result.add(those("alone")("native-alone", []))
    note_what_was_shown(names)
    return again("native", result, names, pytest_part)


def emulated_pytest(name, arguments):
    """pytest in an emulated host of its own, of one CPU: two such hosts fill two cores as well as one of two CPUs."""
    wrapper = ["tests/host/emulated-host", "run", "--share", REPOSITORY, "--cwd", REPOSITORY,
               "--env", f"MAYFLY={REPOSITORY / 'build' / 'mayfly'}",
               "--env", f"MAYFLY_TIME_FACTOR={EMULATED_TIME_FACTOR}", "--env", "PYTHONUNBUFFERED=1",
               "--env", "TMPDIR=/scratch", "--env", f"MAYFLY_CACHE={os.environ.get('MAYFLY_CACHE', '')}",
               "--timeout", EMULATED_TIMEOUT_SECONDS, "--console", RESULTS / f"{name}-console.log", "--"]
    return pytest_part(name, arguments, wrapper)


def check_emulated():
    build("emulated", "build", "-Dwerror=true", "-Dtests=enabled")
    # Made here, where it is fast; inside they are found in the cache.
    must("emulated", ["scripts/stock-kernel"])
    must("emulated", ["guest-kernel-configs/build"])
    must("emulated", ["/usr/bin/python3", "-m", "harness.images"],
         {"PYTHONPATH": str(REPOSITORY / "tests" / "integration"), "MAYFLY_TEST_HOST": "hardware"})
    shown = ["--shown", SHOWN] if SHOWN.exists() else []
    result = at_once(sharing(EMULATED_HOSTS, "emulated", lambda name, arguments: emulated_pytest(
        name, ["tests/integration", "-m", "guest and not native and not emulated_host", *shown, *arguments])))
    return again("emulated", result, [f"emulated-{number}" for number in range(1, EMULATED_HOSTS + 1)],
                 emulated_pytest)


PARTS = {
    "unit": (check_unit, "build with gcc, unit tests"),
    "clang": (check_clang, "build with clang"),
    "sanitize": (check_sanitize, "unit tests and the hostile guest under AddressSanitizer and "
                                 "UndefinedBehaviorSanitizer"),
    "fuzz": (check_fuzz, "each fuzzer: its corpus, then a fixed number of executions"),
    "lint": (check_lint, "clang-format, cppcheck, clang-tidy, the manual pages"),
    "native": (check_native, "integration tests on this machine, and of the emulated host"),
    "emulated": (check_emulated, "integration tests in the emulated host"),
}


def host():
    explain = subprocess.run([REPOSITORY / "tests/host/detect", "--explain"], capture_output=True, text=True, check=True)
    return ": ".join(explain.stdout.strip().splitlines())


def run_part(name, total):
    function, what = PARTS[name]
    begin = time.monotonic()
    for log in RESULTS.glob(f"{name}*.log"):
        log.unlink()
    print(f"\n== {name}: {what}", flush=True)
    try:
        result = function()
    except CannotRun as reason:
        result = Result(failed=1, failures=[f"{name}: could not run: {reason}"])
    print(f"== {name}: {result.passed} passed, {result.failed} failed, {len(result.skipped)} skipped in "
          f"{time.monotonic() - begin:.0f} s", flush=True)
    total.add(result)


def main():
    parser = argparse.ArgumentParser(prog="check", description="Builds, and runs every test, or the parts named.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="parts:\n" + "\n".join(f"  {name:10}{what}" for name, (_, what) in PARTS.items()))
    parser.add_argument("parts", nargs="*", metavar="PART", help="the parts to run (default: all)")
    parser.add_argument("--quick", action="store_true", help="all parts but the emulated host, lint and fuzz")
    arguments = parser.parse_args()
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part '{unknown[0]}': there are {', '.join(PARTS)}")
    parts = arguments.parts or [part for part in PARTS
                                if not arguments.quick or part not in ("emulated", "lint", "fuzz")]
    RESULTS.mkdir(parents=True, exist_ok=True)
    SHOWN.unlink(missing_ok=True)
    total = Result()
    begin = time.monotonic()
    print(f"this machine: {host()}", flush=True)
    for part in parts:
        run_part(part, total)

    print(f"\nall parts took {time.monotonic() - begin:.0f} s; their logs are in results/check/")
    for name, reason in total.skipped:
        print(f"skipped: {name}: {reason}")
    for name in total.second:
        print(f"passed at the second try: {name}")
    for name in total.failures:
        print(f"FAILED: {name}")
    print(f"{total.passed} passed, {total.failed} failed" +
          (f", {len(total.skipped)} skipped" if total.skipped else ""), flush=True)
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
