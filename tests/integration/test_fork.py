"""Forks: a second monitor that goes on from where the first is, with its memory; the first goes on as it was."""
import json
import os
import pathlib
import re
import signal

import pytest

from harness import small
from harness.api import Api, request_bytes
from harness.clock import wait_until
from harness.jail import USER, status
from harness.snapshots import Snapshot, load, save

pytestmark = [pytest.mark.guest, pytest.mark.once, pytest.mark.usefixtures("kvm")]

SERVE = "mode=fill fraction=50 then=serve"
MEMORY_BYTES = 16 << 20


def boot(workshop, args=SERVE, **configuration):
    return workshop.boot_small("memtouch", args, "--enable-fork", **configuration).wait_ready()


def memory_of(workshop, monitor, name):
    """What a monitor's guest has in its memory; it is paused then."""
    return save(monitor, Snapshot.at(workshop, name)).memory.read_bytes()[:MEMORY_BYTES]


def go_on(workshop, fork, name="on"):
    """The guest of a fork in a monitor with a console, to be asked."""
    return small.SmallGuest(load(workshop, save(fork, Snapshot.at(workshop, name))))


def verify(guest):
    """Behind what it still does."""
    mark = guest.tell("verify")
    guest.console.wait_for(rb"result: verify [^\n]*\n", small.SECONDS, mark)
    found = guest.result("verify", mark)
    assert found["bad"] == 0 and found["pages"] > 0
    return found["pages"]


def mapping_flags(pid, size):
    """proc(5), VmFlags of the writable mapping of that size."""
    found, wanted = [], False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line):
            wanted = int(head[2], 16) - int(head[1], 16) == size
        elif re.match(r"[0-9a-f]+-", line):
            wanted = False
        elif wanted and line.startswith("VmFlags:"):
            found.append(set(line.split()[1:]))
    assert len(found) == 1
    return found[0]


def vcpu_sections(workshop, snapshot):
    """{vCPU: how many bytes its state has}"""
    described = json.loads(workshop.run("--describe-snapshot", snapshot.state, "--json").stdout)
    return {section["instance"]: section["bytes"] for section in described["sections"] if section["section"] == "vcpu"}


def assert_same(forked, memory):
    """But for what a load changes: the generation id, and what KVM tells the guest about its clock."""
    changed = {}
    for place in range(0, MEMORY_BYTES, 4096):
        mine, theirs = forked[place:place + 4096], memory[place:place + 4096]
        if mine != theirs:
            changed[place >> 12] = sum(a != b for a, b in zip(mine, theirs))
    assert 0 < changed.pop(0xff) <= 16
    assert len(changed) <= 1 and sum(changed.values()) <= 32, changed


class TestMemory:
    def test_a_fork_keeps_nothing_that_the_first_one_writes_for_the_next(self, workshop, forks):
        """Or one that was taken over could choose its younger brothers' memory and state."""
        guest = boot(workshop)

        def files(pid):
            links = [os.path.join(f"/proc/{pid}/fd", number) for number in os.listdir(f"/proc/{pid}/fd")]
            return {os.stat(link).st_ino for link in links if "mayfly-own" in os.readlink(link)
                    or "mayfly-state" in os.readlink(link)}

        parents = files(guest.monitor.pid)
        assert len(parents) == 2
        for fork in (forks(guest.monitor), forks(guest.monitor)):
            assert len(files(fork.pid)) == 2 and not files(fork.pid) & parents

    def test_both_go_on_with_all_that_the_guest_had(self, workshop, forks):
        guest = boot(workshop)
        pages = verify(guest)
        fork = forks(guest.monitor)
        assert fork.api.state() == "Paused" and guest.api.state() == "Running"
        assert fork.report["copied_bytes"] == 0
        assert verify(guest) == pages
        assert verify(go_on(workshop, fork)) == pages

    def test_what_one_writes_the_other_does_not_see(self, workshop, forks):
        guest = boot(workshop)
        guest.api.pause()
        before = memory_of(workshop, guest.monitor, "before")
        fork = forks(guest.monitor)
        guest.api.resume()
        # The first one writes over pages that it had before, and over others.
        guest.ask("seed 7")
        guest.ask("touch 100")
        after = memory_of(workshop, guest.monitor, "after")
        assert after != before
        mine = go_on(workshop, fork, "fork")
        assert_same(workshop.path("fork.memory").read_bytes(), before)
        mine.ask("seed 9")
        mine.ask("touch 100")
        assert memory_of(workshop, guest.monitor, "later") == after
        guest.api.resume()
        verify(guest)
        verify(mine)

    def test_a_running_fork_writes_while_the_first_stands_still(self, workshop, forks):
        guest = boot(workshop, "mode=write then=keep")
        guest.api.pause()
        before = memory_of(workshop, guest.monitor, "before")
        fork = forks(guest.monitor, resume_vm=True)
        assert fork.api.state() == "Running"
        wait_until(lambda: memory_of(workshop, fork, "fork") != before and not fork.api.resume(), 30, "writes of the fork")
        assert memory_of(workshop, guest.monitor, "after") == before

    def test_what_a_guest_writes_while_it_is_forked_is_not_lost(self, workshop, forks):
        """Most is copied while it writes on; what it writes then is copied again."""
        guest = boot(workshop)
        forks(guest.monitor)
        taken = []
        for seed in range(2, 6):
            # Both commands have come to the guest when it answers the first.
            guest.console.wait_for(rb"result: seed ", 60, guest.tell(f"seed {seed}\nfill"))
            taken.append(forks(guest.monitor))
            verify(guest)
        for number, fork in enumerate(taken):
            mine = go_on(workshop, fork, f"fork-{number}")
            verify(mine)

    @pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="this kernel has small pages only")
    @pytest.mark.parametrize("pages, flag", [("None", "nh"), ("Transparent", "hg")])
    def test_the_page_size_of_guest_memory_stays_what_was_asked_for(self, workshop, forks, pages, flag):
        """Where the host has large pages of shared memory, each mapping says whether it wants them."""
        guest = boot(workshop, machine={"huge_pages": pages})
        assert flag in mapping_flags(guest.monitor.pid, MEMORY_BYTES)
        forks(guest.monitor)
        assert {flag, "dd"} <= mapping_flags(guest.monitor.pid, MEMORY_BYTES)
        verify(guest)

    def test_forks_with_dirty_pages_between(self, workshop, forks):
        guest = boot(workshop)
        taken = []
        for number in range(4):
            guest.api.pause()
            taken.append((memory_of(workshop, guest.monitor, f"at-{number}"), forks(guest.monitor)))
            guest.api.resume()
            guest.ask(f"seed {number + 2}")
            guest.ask(f"touch {250 * (number + 1)}")
        copied = [fork.report["copied_bytes"] for _, fork in taken]
        assert copied[0] == 0 and 0 < copied[1] < copied[3] <= MEMORY_BYTES
        for number, (memory, fork) in enumerate(taken):
            assert_same(memory_of(workshop, fork, f"fork-{number}"), memory)
        verify(guest)

    def test_a_second_fork_copies_only_what_was_written_since_the_first(self, workshop, forks):
        guest = boot(workshop)
        forks(guest.monitor)
        guest.ask("seed 5")
        guest.ask("touch 1000")
        much = forks(guest.monitor).report["copied_bytes"]
        little = forks(guest.monitor).report["copied_bytes"]
        assert much >= 1000 * 4096 and little < much / 8

    def test_a_fork_of_a_fork_of_a_fork(self, workshop, forks):
        guest = boot(workshop)
        forks(guest.monitor)
        guest.ask("seed 5")
        guest.ask("touch 60")
        child = forks(guest.monitor, resume_vm=True)
        grandchild = forks(child, resume_vm=True)
        last = forks(grandchild)
        guest.monitor.kill()
        workshop.forget(guest)
        child.end()
        assert verify(go_on(workshop, last, "last")) > 0
        assert verify(go_on(workshop, grandchild, "grandchild")) > 0

    def test_a_fork_saves_of_its_vcpus_what_the_first_one_does(self, workshop, forks):
        """Which MSRs there are it has from the first one; nothing may get lost on the way."""
        guest = boot(workshop, vcpus=2)
        child = forks(guest.monitor)
        grandchild = forks(child)
        sections = [vcpu_sections(workshop, save(monitor, Snapshot.at(workshop, name)))
                    for name, monitor in (("first", guest.monitor), ("child", child), ("grandchild", grandchild))]
        assert len(sections[0]) == 2 and sections[0] == sections[1] == sections[2]

    def test_a_fork_of_a_loaded_snapshot_shares_its_file(self, workshop, forks):
        guest = boot(workshop)
        snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
        guest.monitor.kill()
        workshop.forget(guest)
        parent = small.SmallGuest(load(workshop, snapshot, "--enable-fork"))
        parent.ask("seed 3")
        parent.ask("touch 20")
        fork = forks(parent.monitor)
        assert 0 < fork.report["copied_bytes"] < MEMORY_BYTES / 2
        assert verify(parent) > 0
        assert verify(go_on(workshop, fork, "two")) > 0

    def test_a_diff_of_one_that_was_forked_holds_all_that_changed(self, workshop, forks):
        guest = boot(workshop)
        base = save(guest.monitor, Snapshot.at(workshop, "base"))
        guest.api.resume()
        guest.ask("seed 3")
        guest.ask("touch 20")
        fork = forks(guest.monitor)
        guest.ask("touch 30")
        diff = save(guest.monitor, Snapshot.at(workshop, "diff"), "Diff")
        assert workshop.run("merge-memory", base.memory, diff.memory).returncode == 0
        full = save(guest.monitor, Snapshot.at(workshop, "full"))
        assert base.memory.read_bytes()[:MEMORY_BYTES] == full.memory.read_bytes()[:MEMORY_BYTES]
        # What a fork saves first is complete.
        first = save(fork, Snapshot.at(workshop, "first"), "Diff")
        assert verify(small.SmallGuest(load(workshop, first))) > 0


class TestProcess:
    def test_the_first_stays_paused_when_it_was(self, workshop, forks):
        guest = boot(workshop)
        guest.api.pause()
        fork = forks(guest.monitor, resume_vm=True)
        assert fork.report["pause_us"] == 0
        assert guest.api.state() == "Paused" and fork.api.state() == "Running"
        guest.api.resume()
        verify(guest)

    def test_forks_outlive_the_first_and_its_forker_does_not(self, workshop, forks):
        guest = boot(workshop)
        before = children_of(guest.monitor.pid)
        assert len(before) == 1
        fork = forks(guest.monitor, resume_vm=True)
        guest.monitor.kill()
        workshop.forget(guest)
        wait_until(lambda: not pathlib.Path(f"/proc/{before[0]}").exists(), 30, "the forker's end")
        assert fork.api.state() == "Running"

    def test_id_serial_port_log_and_metrics_are_its_own(self, workshop, forks):
        guest = boot(workshop, "mode=write then=keep")
        paths = {name: workshop.path(name) for name in ("serial_out_path", "log_path", "metrics_path")}
        fork = forks(guest.monitor, id="second", resume_vm=True, **{name: str(path) for name, path in paths.items()})
        assert fork.api.get("/")["id"] == "second"
        assert fork.api.get("/vm/config")["serial"]["serial_out_path"] == str(paths["serial_out_path"])
        assert "the microVM is a fork" in paths["log_path"].read_text()
        assert paths["metrics_path"].read_text().startswith("{")
        assert fork.path.stat().st_mode & 0o777 == 0o600
        fork.end()
        assert not fork.path.exists()

    def test_it_writes_nothing_to_the_first_ones_console(self, workshop, forks):
        guest = boot(workshop)
        verify(guest)
        fork = forks(guest.monitor, resume_vm=True)
        assert {os.readlink(f"/proc/{fork.pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
        assert os.getsid(fork.pid) == fork.pid

    def test_a_client_that_leaves_harms_nobody(self, workshop, forks):
        guest = boot(workshop)
        path = workshop.path("left.sock")
        with guest.api.connect() as connection:
            connection.send(request_bytes("PUT", "/snapshot/fork", {"api_socket_path": str(path)}))
        wait_until(path.exists, 30, "the fork")
        left = Api(path)
        wait_until(lambda: left.try_connect() and left.state() == "Paused", 30, "the fork")
        verify(guest)
        forks(guest.monitor)
        forker, = children_of(guest.monitor.pid)
        pid = children_of(forker)[0]
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not path.exists(), 30, "the fork's end")
        wait_until(lambda: pid not in children_of(forker), 30, "its being reaped")

    def test_others_are_served_while_a_fork_is_under_way(self, workshop, forks):
        guest = boot(workshop)
        forker, = children_of(guest.monitor.pid)
        os.kill(forker, signal.SIGSTOP)
        with guest.api.connect() as connection:
            connection.send(request_bytes("PUT", "/snapshot/fork", {"api_socket_path": str(workshop.path("slow.sock"))}))
            refusal = wait_until(lambda: guest.api.request("PUT", "/snapshot/fork", {
                "api_socket_path": str(workshop.path("other.sock"))}), 30, "an answer")
            assert "under way" in refusal.fault
            verify(guest)
            os.kill(forker, signal.SIGCONT)
            answer = connection.read_answer()
        assert answer.status == 200
        os.kill(answer.json["pid"], signal.SIGTERM)
        # Before the folder goes that its socket is in.
        wait_until(lambda: answer.json["pid"] not in children_of(forker), 30, "the fork's end")
        forks(guest.monitor)


def children_of(pid):
    return [int(word) for word in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


class TestRefusals:
    def refusal(self, guest, workshop, **fields):
        return guest.api.refusal("PUT", "/snapshot/fork", {"api_socket_path": str(workshop.path("no.sock")), **fields})

    def test_without_the_option_the_answer_says_what_to_do(self, workshop):
        guest = workshop.boot_small("memtouch", SERVE).wait_ready()
        assert "--enable-fork" in self.refusal(guest, workshop)
        verify(guest)

    def test_before_the_start_there_is_nothing_to_fork(self, workshop):
        monitor = workshop.monitor("--enable-fork", api=True)
        assert "before starting" in monitor.api.refusal("PUT", "/snapshot/fork", {"api_socket_path": "x"})

    def test_what_is_wrong_is_named_and_harms_nobody(self, workshop, forks):
        drive = workshop.disk("drive.img", 1 << 20)
        guest = boot(workshop, drives=[{"path": drive, "drive_id": "data"}])
        copy = workshop.copy_of(drive, "copy.img")
        taken = workshop.file("taken")
        for fields, words in (({"drive_overrides": []}, "drive data"),
                              ({"id": "a b"}, "id: "),
                              ({"resume": True}, "unknown field `resume`"),
                              ({"drive_overrides": [{"drive_id": "none", "path_on_host": "x"}]}, "no drive none"),
                              ({"drive_overrides": [{"drive_id": "data", "path_on_host": "/missing"}]}, "/missing"),
                              ({"network_overrides": [{"iface_id": "eth0", "host_dev_name": "x"}]}, "interface eth0"),
                              ({"log_path": "/missing/log"}, "log_path"),
                              ({"metrics_path": "/missing/metrics"}, "metrics_path"),
                              ({"serial_out_path": "/missing/serial"}, "/missing/serial"),
                              ({"api_socket_path": str(taken)}, f"api_socket_path: cannot make the API socket {taken}"),
                              ({"api_socket_path": "/missing/socket"}, "/missing/socket")):
            fields.setdefault("drive_overrides", [{"drive_id": "data", "path_on_host": str(copy)}])
            assert words in self.refusal(guest, workshop, **fields), fields
            assert not workshop.path("no.sock").exists()
        assert "api_socket_path" in guest.api.refusal("PUT", "/snapshot/fork", {})
        verify(guest)
        forks(guest.monitor, drive_overrides=[{"drive_id": "data", "path_on_host": str(copy)}], resume_vm=True)
        verify(guest)

    def test_a_forker_that_was_killed_is_missed_by_forks_only(self, workshop, forks):
        guest = boot(workshop)
        fork = forks(guest.monitor)
        forker, = [pid for pid in children_of(guest.monitor.pid) if pid != fork.pid]
        os.kill(forker, signal.SIGKILL)
        assert "the process that makes monitors has ended" in self.refusal(guest, workshop)
        assert "the process that makes monitors has ended" in self.refusal(guest, workshop)
        verify(guest)
        assert fork.api.state() == "Paused"

    def test_a_forker_that_dies_meanwhile_is_told(self, workshop):
        guest = boot(workshop)
        forker, = children_of(guest.monitor.pid)
        os.kill(forker, signal.SIGSTOP)
        with guest.api.connect() as connection:
            connection.send(request_bytes("PUT", "/snapshot/fork", {"api_socket_path": str(workshop.path("no.sock"))}))
            wait_until(lambda: "under way" in self.refusal(guest, workshop), 30, "the fork's beginning")
            os.kill(forker, signal.SIGKILL)
            assert "has ended" in connection.read_answer().fault
        verify(guest)

    def test_large_pages_are_refused(self, workshop):
        guest = workshop.boot_small("memtouch", SERVE).wait_ready()
        snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
        guest.monitor.kill()
        workshop.forget(guest)
        loaded = small.SmallGuest(load(workshop, snapshot, "--enable-fork", huge_pages="Transparent"))
        assert "huge_pages" in self.refusal(loaded, workshop)
        verify(loaded)


@pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")
class TestJail:
    def test_a_fork_in_a_jail_is_as_locked_in_as_the_first(self, jails, workshop):
        """No /proc, another user, filters on: and forks that copy only what was written."""
        kernel = small.path(workshop.program, "memtouch")
        config = jails.folder / "config.json"
        config.write_text(json.dumps({"boot-source": {"kernel_image_path": "/kernel", "boot_args": SERVE},
                                      "machine-config": {"vcpu_count": 1, "mem_size_mib": 16}, "drives": [],
                                      "network-interfaces": []}))
        config.chmod(0o644)
        monitor = jails.boot("--file", f"{kernel}:kernel:ro", "--file", f"{config}:config.json:ro",
                             arguments=["--config-file", "/config.json", "--enable-fork"])
        guest = small.SmallGuest(monitor).wait_ready()
        root = jails.root(monitor.jail_id, "mayfly")
        copied = []
        for number in range(3):
            answer = monitor.api.request("PUT", "/snapshot/fork", {"api_socket_path": f"/run/{number}.sock", "resume_vm": True})
            assert answer.status == 200, answer
            copied.append(answer.json["copied_bytes"])
            assert Api(root / f"run/{number}.sock").state() == "Running"
            guest.ask(f"seed {number + 2}")
            guest.ask("touch 300")
        assert copied[0] == 0 and 300 * 4096 <= copied[1] < MEMORY_BYTES / 2 and 300 * 4096 <= copied[2] < MEMORY_BYTES / 2
        verify(guest)
        locked = [status(pid) for pid in jails.inmates()]
        # The first, three forks, and the forker of each; no forker has a filter, every monitor has.
        assert len(locked) == 8
        assert sorted(fields["Seccomp"] for fields in locked) == 4 * ["0"] + 4 * ["2"]
        assert {(fields["Uid"], fields["CapEff"], fields["NoNewPrivs"]) for fields in locked if fields["Seccomp"] == "2"} == \
            {("\t".join(4 * [str(USER)]), 16 * "0", "1")}
        assert {(fields["Uid"], fields["CapEff"]) for fields in locked} == {("\t".join(4 * [str(USER)]), 16 * "0")}
