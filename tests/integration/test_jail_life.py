"""Jails that cannot be made, that are killed, that are many: nothing is left, nobody is disturbed."""
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

import pytest

from harness import clock
from harness.jail import USER, cgroup_version, processes_rooted_in
from harness.clock import scaled, wait_until
from harness.kernels import REPOSITORY

pytestmark = [pytest.mark.guest,
              pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")]

SLOW = clock.FACTOR > 1


def cgroup_options(jails):
    return ["--parent-cgroup", jails.parent, "--cgroup", "pids.max=40"] if cgroup_version() else []


@pytest.mark.native
class TestArguments:
    @pytest.mark.parametrize("arguments, words", [
        ([], "--id is missing"),
        (["--id", "a/b"], "the id 'a/b'"),
        (["--id", ".."], "the id '..'"),
        (["--id", "x" * 65], "is not made of 1 to 64 letters"),
        (["--id", "a"], "--exec-file is missing"),
        (["--id", "a", "--exec-file", "PRISONER"], "--uid is missing"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5"], "--gid is missing"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "0", "--gid", "5"], "--uid 0: "),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "0"], "--gid 0: "),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "4294967295", "--gid", "5"], "0 to 4294967294"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "-1", "--gid", "5"], "--uid takes a whole number"),
        (["--id", "a", "--exec-file", "FOLDER/../x", "--uid", "5", "--gid", "5"], "a path with '..' is not taken"),
        (["--id", "a", "--exec-file", "FOLDER/missing", "--uid", "5", "--gid", "5"], "No such file or directory"),
        (["--id", "a", "--exec-file", "FOLDER", "--uid", "5", "--gid", "5"], "is no regular file"),
        (["--id", "a", "--exec-file", "LINK", "--uid", "5", "--gid", "5"], "there is a symbolic link"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "5", "--chroot-base-dir", ""], "needs a path"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "5", "--netns", "/etc/passwd"],
         "is no network namespace"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "5", "--netns", "/proc/self/ns/mnt"],
         "is no network namespace"),
        (["--cgroup", "memory"], "--cgroup takes CONTROLLER.FILE=VALUE"),
        (["--cgroup", "../x.y=1"], "--cgroup takes CONTROLLER.FILE=VALUE"),
        (["--cgroup", "cgroup.procs=1"], "the jailer itself does"),
        (["--cgroup", "memory.max="], "needs a value"),
        (["--cgroup-version", "3"], "--cgroup-version takes"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "5", "--parent-cgroup", "../up"],
         "--parent-cgroup takes a path below"),
        (["--id", "a", "--exec-file", "PRISONER", "--uid", "5", "--gid", "5", "--parent-cgroup", "/abs"],
         "--parent-cgroup takes a path below"),
        (["--resource-limit", "stack=1"], "--resource-limit takes fsize=BYTES or no-file=NUMBER"),
        (["--resource-limit", "no-file=many"], "takes a whole number"),
        (["--bogus"], "There is no option --bogus"),
        (["word"], "arguments of the monitor go behind two hyphens")])
    def test_what_is_refused_and_how(self, jails, arguments, words):
        (jails.folder / "link").symlink_to("prisoner")
        names = {"PRISONER": str(jails.prisoner), "LINK": str(jails.folder / "link"), "FOLDER": str(jails.folder)}
        arguments = [re.sub("PRISONER|LINK|FOLDER", lambda match: names[match[0]], word) for word in arguments]
        done = subprocess.run([jails.jailer, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 153, done
        assert done.stderr.startswith("mayfly-jailer: ") and words in done.stderr, done
        assert done.stderr.count("\n") == 1

    def test_help_and_version(self, jails):
        for word, text in (("--help", "--exec-file FILE"), ("--version", "Mayfly jailer v")):
            done = subprocess.run([jails.jailer, word], capture_output=True, text=True, check=False)
            assert done.returncode == 0 and text in done.stdout and done.stderr == ""

    def test_the_manual_page_has_the_options_of_the_help(self, jails):
        text = subprocess.run([jails.jailer, "--help"], capture_output=True, text=True, check=True).stdout
        manual = (REPOSITORY / "docs/mayfly-jailer.1").read_text().replace("\\-", "-")
        manual = manual[manual.index(".SH OPTIONS"):manual.index(".SH AN ORDINARY USER")]
        options = re.compile("--[a-z-]*[a-z]")
        assert set(options.findall(text)) == set(options.findall(manual))

    def test_a_folder_as_standard_input_is_a_door(self, jails):
        fd = os.open("/", os.O_RDONLY)
        try:
            done = subprocess.run(list(map(str, jails.command("door", "exit", 0))), stdin=fd, capture_output=True,
                                  text=True, check=False)
        finally:
            os.close(fd)
        assert done.returncode == 1 and "standard input is a folder" in done.stderr

    def test_without_standard_descriptors(self, jails):
        command = " ".join(map(str, jails.command("closed", "descriptors", "exit", 7)))
        done = subprocess.run(["sh", "-c", f"exec {command} <&- >&- 2>&-"], check=False)
        assert done.returncode == 7


class TestFailures:
    """Each step that fails names itself, and leaves what it found."""

    def everything(self, jails):
        """All that is below the base, with owners and modes, and our cgroups."""
        seen = {}
        for path in [jails.base, *sorted(jails.base.rglob("*"))]:
            status = path.lstat()
            seen[str(path)] = (status.st_uid, status.st_gid, status.st_mode)
        return seen, jails.cgroup_folders("id")

    def fail(self, jails, *options, program=None, words=""):
        done = jails.run("wait", jail_id="id", options=[*cgroup_options(jails), *options], program=program)
        assert done.returncode == 1 and words in done.stderr, done
        assert done.stderr.startswith("mayfly-jailer: ") and done.stderr.count("\n") == 1, done
        assert jails.leftovers() == {"processes": [], "mounts": []}

    def program(self, jails, contents):
        path = jails.folder / "prisoner-not"
        path.write_bytes(contents)
        path.chmod(0o755)
        return path

    @pytest.mark.parametrize("prepared", [False, True])
    def test_every_step(self, jails, prepared):
        good = jails.prisoner.read_bytes()
        # The shared folders and cgroups above a jail stay: make them first.
        jails.run("exit", 0, jail_id="first", options=cgroup_options(jails))
        jails.run("exit", 0, jail_id="first", program=self.program(jails, good))
        for program in ("prisoner", "prisoner-not"):
            if prepared:
                root = jails.root("id", program)
                root.mkdir(parents=True)
                (root / "kernel").write_text("a kernel")
                root.chmod(0o710)
                os.chown(root, 77, 78)
        before = self.everything(jails)

        dynamic = jails.folder / "dynamic"
        shutil.copy("/usr/bin/true", dynamic)
        cut_off = self.program(jails, good[:100])
        script_words = "it is no ELF program"
        self.fail(jails, program=cut_off, words="copy of the monitor: ")
        assert self.everything(jails) == before
        self.fail(jails, program=self.program(jails, b"#!/bin/sh\n"), words=script_words)
        assert self.everything(jails) == before
        # An ELF file that is fine for us, and not for the kernel: the very last call fails.
        broken = bytearray(good)
        broken[16] = 9  # e_type
        self.fail(jails, program=self.program(jails, bytes(broken)), words="monitor: cannot execute /prisoner-not")
        assert self.everything(jails) == before
        for mode in ("--new-pid-ns", "--daemonize"):
            self.fail(jails, mode, program=self.program(jails, bytes(broken)), words="cannot execute /prisoner-not")
            assert self.everything(jails) == before
        (jails.folder / "file").write_text("x")
        (jails.folder / "file").chmod(0)
        self.fail(jails, "--file", "/etc/hostname:a/b/c:ro", "--file", jails.folder / "file", words="files: --file")
        assert self.everything(jails) == before
        if not cgroup_version():
            return
        self.fail(jails, "--cgroup", "no.such=1", words="cgroup: --cgroup no.such: ")
        assert self.everything(jails) == before
        self.fail(jails, "--cgroup", "pids.nonsense=1", words="cgroup: --cgroup pids.nonsense=1: ")
        assert self.everything(jails) == before

    @pytest.mark.native
    def test_a_cgroup_is_removed_when_its_last_member_is_gone(self, jails):
        """The kernel counts threads that are on their way out; here a stranger is, for a tenth of a second."""
        if not cgroup_version():
            pytest.skip("this host has no cgroups")
        jails.run("exit", 0, jail_id="first", options=cgroup_options(jails))
        place = next(path for path in jails.cgroup_folders() if path.name == jails.parent) / "id/cgroup.procs"
        broken = bytearray(jails.prisoner.read_bytes())
        broken[16] = 9  # e_type: the kernel does not execute it
        program = self.program(jails, bytes(broken))
        strangers = 0
        for _ in range(200):
            jailer = subprocess.Popen(list(map(os.fspath, jails.command(
                "id", "wait", options=cgroup_options(jails), program=program))),
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            with subprocess.Popen(["sleep", "1000"]) as stranger:
                entered = False
                while not entered and jailer.poll() is None:
                    with contextlib.suppress(OSError):
                        place.write_text(str(stranger.pid))
                        entered = True
                time.sleep(0.1 if entered else 0)
                stranger.kill()
            assert jailer.wait(timeout=scaled(60)) == 1
            assert jails.cgroup_folders("id") == []
            strangers += entered
            if strangers == 3:
                return
        pytest.fail("no stranger ever entered the cgroup")

    def test_a_missing_library_is_told_by_name(self, jails):
        path = jails.folder / "dynamic"
        shutil.copy("/usr/bin/true", path)
        done = jails.run(program=path, jail_id="id")
        assert done.returncode == 1 and "Link it statically" in done.stderr
        assert not jails.room("id", "dynamic").exists()

    def test_strict_is_satisfied_by_a_full_jail(self, jails):
        if not os.path.exists("/dev/kvm"):
            pytest.skip("without /dev/kvm something is missing")
        done = jails.run("exit", 0, options=["--strict"])
        assert (done.returncode, done.stderr) == (0, "")

    def test_nobody_listens_to_the_jailer(self, jails):
        """It complains into a closed pipe, and cleans up all the same."""
        command = " ".join(map(str, jails.command("deaf", program=pathlib.Path("/usr/bin/true"))))
        done = subprocess.run(["bash", "-c", f"{command} 2> >(exec true); sleep 0; exit $?"], check=False)
        assert done.returncode in (0, 1) and not jails.room("deaf", "true").exists()

    def test_no_file_may_be_written_at_all(self, jails):
        assert jails.attempts("largest-file", options=["--resource-limit", "fsize=0"]) == {"largest-file": "0"}

    def test_the_monitors_exit_code_is_the_jailers(self, jails):
        for code in (0, 1, 148, 152):
            assert jails.run("exit", code).returncode == code


class TestTwo:
    def test_a_jail_in_use_is_refused_and_not_touched(self, jails):
        process = jails.start(jail_id="used")
        before = sorted(str(path) for path in jails.base.rglob("*"))
        done = jails.run("exit", 0, jail_id="used")
        assert done.returncode == 1
        assert f"the jail used is in use: process {process.pid} runs in it" in done.stderr
        assert process.poll() is None
        assert sorted(str(path) for path in jails.base.rglob("*")) == before
        assert jails.root("used").stat().st_uid == USER

    def test_a_pid_that_is_somebody_elses_by_now(self, jails):
        jails.run("exit", 0, jail_id="old")
        (jails.room("old") / "pid").write_text(f"{os.getpid()}\n")
        assert jails.run("exit", 3, jail_id="old").returncode == 3

    @pytest.mark.native
    @pytest.mark.parametrize("rounds", [10 if SLOW else 40])
    def test_at_once_with_one_id(self, jails, rounds):
        """One of them makes it; the others say that it is taken, and it lives on."""
        for _ in range(rounds):
            command = list(map(str, jails.command("race", "wait", options=cgroup_options(jails))))
            racers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                      for _ in range(4)]
            jails.started += racers
            wait_until(lambda: sum(racer.poll() is not None for racer in racers) == 3, 60, "three losers")
            [winner] = [racer for racer in racers if racer.poll() is None]
            for racer in racers:
                if racer is not winner:
                    assert racer.returncode == 1
                    assert re.search("another jailer is making|is in use", racer.stderr.read())
            assert winner.stdout.readline() == "waiting\n"
            assert processes_rooted_in(jails.root("race")) == [winner.pid]
            winner.kill()
            winner.wait()

    @pytest.mark.native
    @pytest.mark.parametrize("count", [60 if SLOW else 1000])
    def test_many_at_once(self, jails, count):
        """All of them live at the same time, each in its own room and cgroup."""
        batch, alive = 50, []
        for first in range(0, count, batch):
            started = []
            for number in range(first, min(first + batch, count)):
                command = jails.command(f"many-{number}", "pid", "wait", uid=USER + number, gid=USER + number,
                                        options=["--new-pid-ns", *cgroup_options(jails)])
                started.append(subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL,
                                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
            for process in started:
                assert process.wait() == 0, process.stderr.read()
                process.stderr.close()
            alive += range(first, min(first + batch, count))
        assert len(jails.inmates()) == count
        for number in random.Random(1).sample(alive, min(count, 50)):
            pid = int((jails.room(f"many-{number}") / "pid").read_text())
            assert os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat(jails.root(f"many-{number}")))
            assert f"Uid:\t{USER + number}\t" in pathlib.Path(f"/proc/{pid}/status").read_text()
            if cgroup_version():
                assert f"/{jails.parent}/many-{number}\n" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()


@pytest.mark.native
class TestKilled:
    @staticmethod
    def seconds_of(work):
        begin = time.monotonic()
        work()
        return time.monotonic() - begin

    def kill_at_random_moments(self, jails, command, rounds):
        chance = random.Random(rounds)
        whole = min(self.seconds_of(lambda: jails.attempts("pid", options=cgroup_options(jails))) for _ in range(5))
        for _ in range(rounds):
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) as victim:
                time.sleep(chance.random() * whole * 1.5)
                victim.kill()
            for pid in jails.inmates():  # the monitor, where the jailer had left already
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not jails.inmates(), 30, "the end of the inmate")
            assert jails.leftovers() == {"processes": [], "mounts": []}

    @pytest.mark.parametrize("rounds", [30 if SLOW else 300])
    def test_the_monitor_at_any_moment(self, jails, rounds):
        """Whatever was half made or left: the next monitor with this id listens at the same place."""
        image = jails.folder / "image"
        image.write_text("an image")
        options = [*cgroup_options(jails), "--file", f"{image}:a/image"]
        command = list(map(str, jails.command("victim", program=jails.monitor, options=options)))
        for _ in range(3):
            self.kill_at_random_moments(jails, command, rounds // 3)
            monitor = jails.boot(*options, jail_id="victim")
            assert monitor.api.get("/")["id"] == "victim"
            assert monitor.kill() == -signal.SIGKILL

    @pytest.mark.parametrize("rounds", [20 if SLOW else 100])
    @pytest.mark.parametrize("option", ["--new-pid-ns", "--daemonize"])
    def test_the_jailer_at_any_moment(self, jails, rounds, option):
        image = jails.folder / "image"
        image.write_text("an image")
        options = [option, *cgroup_options(jails), "--file", f"{image}:a/image"]
        self.kill_at_random_moments(jails, list(map(str, jails.command("victim", "wait", options=options))), rounds)
        assert jails.attempts("open", "/a/image", jail_id="victim", options=options[1:]) == {"open:/a/image": "ok"}

    def test_a_stale_socket_of_the_monitor_is_removed(self, jails):
        for arguments, place in (((), "run/mayfly.socket"), (("--api-sock=/api.sock",), "api.sock"),
                                 (("--api-sock", "/run/x"), "run/x")):
            first = subprocess.Popen(list(map(str, jails.command("stale", *arguments, program=jails.monitor))))
            jails.started.append(first)
            socket = jails.root("stale", "mayfly") / place
            wait_until(socket.exists, 30, "the API socket")
            first.kill()
            first.wait()
            assert socket.exists()
            second = subprocess.Popen(list(map(str, jails.command("stale", *arguments, program=jails.monitor))))
            jails.started.append(second)
            wait_until(lambda: second.poll() is not None or processes_rooted_in(socket.parents[len(pathlib.Path(
                place).parts) - 1]) == [second.pid], 30, "the second monitor")
            time.sleep(scaled(0.2))
            assert second.poll() is None
            second.terminate()
            second.wait()

    def test_only_sockets_are_removed(self, jails):
        root = jails.root("keep")
        (root / "run").mkdir(parents=True)
        (root / "run/mayfly.socket").write_text("no socket")
        jails.run("exit", 0, jail_id="keep")
        assert (root / "run/mayfly.socket").read_text() == "no socket"


@pytest.mark.native
class TestCost:
    def calls(self, jails, folder):
        """The jailer's system calls, as strace counts them."""
        out = folder / "calls"
        subprocess.run(["strace", "-f", "-qq", "-o", out, *map(str, jails.command("cost", "exit", 0))],
                       check=True, stdin=subprocess.DEVNULL)
        calls = re.findall(r"^\d+ +(\w+)\(", out.read_text(), re.MULTILINE)
        # Of these the C library needs more or fewer as the addresses of a run happen to lie.
        return [call for call in calls if call not in ("brk", "mmap", "munmap")]

    def test_system_calls_do_not_depend_on_the_mounts_of_the_host(self, jails, needs):
        needs("strace")
        options = cgroup_options(jails)
        jails.run("exit", 0, jail_id="cost", options=options)
        few = self.calls(jails, jails.folder)
        place = jails.folder / "mounts"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
        try:
            script = 'for i in $(seq 500); do mkdir "$0/$i"; mount --bind "$0/$i" "$0/$i"; done'
            subprocess.run(["sh", "-ec", script, place], check=True)
            many = self.calls(jails, jails.folder)
        finally:
            subprocess.run(["umount", "-R", "-l", place], check=True)
        assert sorted(many) == sorted(few)
        assert few.count("unshare") == 2 and few.count("umount2") == 1 and len(few) < 600
