"""Monitors that wait with a prepared machine (--prepare): what then starts or is loaded is what it would be without."""
import os
import re
import signal
import subprocess

import pytest

from harness import small
from harness.clock import wait_until
from harness.guest import Guest
from harness.procfs import vcpu_threads, vcpus_sleep
from harness.snapshots import Snapshot, load, save

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

SERVE = "mode=fill fraction=50 then=serve"
SHAPE = "vcpu_count=1,mem_size_mib=16"
ANEW = "the prepared machine is made anew"


def prepared(workshop, shape=SHAPE, *arguments, **options):
    """A monitor that answers, and so has its machine, whose threads have begun: they name themselves."""
    log = workshop.path(f"prepared-log-{workshop.count}")
    monitor = workshop.monitor("--prepare", shape, "--log-path", log, *arguments, api=True, **options)
    monitor.log_path = log
    assert monitor.api.state() == "Not started"
    vcpus = int(re.search("vcpu_count=([0-9]+)", shape)[1])
    wait_until(lambda: len(list(vcpu_threads(monitor.pid))) == vcpus, 30, f"{vcpus} threads")
    return monitor


def log(monitor):
    return monitor.log_path.read_text()


def configure(workshop, monitor, name="memtouch", args=SERVE, **machine):
    monitor.api.put("/boot-source", {"kernel_image_path": str(small.path(workshop.program, name)), "boot_args": args})
    monitor.api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 16, **machine})


def start(monitor):
    monitor.api.put("/actions", {"action_type": "InstanceStart"})
    return small.SmallGuest(monitor)


def check_memory(monitor):
    verify = small.SmallGuest(monitor).ask("verify")
    assert verify["bad"] == 0 and verify["pages"] > 0


def take(workshop, **configuration):
    """A snapshot of a guest that has filled half of its memory; the guest is gone."""
    guest = workshop.boot_small("memtouch", SERVE, **configuration).wait_ready()
    snapshot = save(guest.monitor, Snapshot.at(workshop, "one"))
    guest.monitor.kill()
    workshop.forget(guest)
    return snapshot


def seccomp_modes(pid):
    return {name: re.search(r"^Seccomp:\s+(\d)", (task / "status").read_text(), re.M)[1] for name, task in vcpu_threads(pid)}


@pytest.mark.once
class TestBoot:
    def test_the_machine_that_waits_is_the_one_that_starts(self, workshop):
        monitor = prepared(workshop)
        threads = {task.name for _, task in vcpu_threads(monitor.pid)}
        assert len(threads) == 1
        configure(workshop, monitor)
        guest = start(monitor).wait_ready()
        assert {task.name for _, task in vcpu_threads(monitor.pid)} == threads
        check_memory(monitor)
        guest.tell("reset")
        guest.finish()
        assert ANEW not in log(monitor)

    @pytest.mark.parametrize("shape, machine", [
        ("vcpu_count=2,mem_size_mib=16", {}),
        ("vcpu_count=1,mem_size_mib=32", {}),
        (SHAPE + ",track_dirty_pages=true", {}),
        (SHAPE, {"track_dirty_pages": True}),
        (SHAPE, {"huge_pages": "Transparent"}),
        ("vcpu_count=2,smt=true,mem_size_mib=16", {"vcpu_count": 2}),
    ], ids=["vcpus", "memory", "untracked", "tracked", "huge", "smt"])
    def test_another_shape_is_made_anew_and_the_log_says_so(self, workshop, shape, machine):
        monitor = prepared(workshop, shape)
        configure(workshop, monitor, **machine)
        start(monitor).wait_ready()
        check_memory(monitor)
        wanted = {"vcpu_count": 1, "mem_size_mib": 16, **machine}
        line = next(line for line in log(monitor).splitlines() if ANEW in line)
        assert f'"vcpu_count":{wanted["vcpu_count"]},"mem_size_mib":16' in line
        wait_until(lambda: len(list(vcpu_threads(monitor.pid))) == wanted["vcpu_count"], 30, "threads")

    def test_a_start_that_is_refused_can_be_tried_again(self, workshop):
        monitor = prepared(workshop)
        damaged = workshop.file("damaged", b"\x7fELF" + bytes(100))
        monitor.api.put("/boot-source", {"kernel_image_path": str(damaged)})
        monitor.api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 16})
        assert "damaged" in monitor.api.refusal("PUT", "/actions", {"action_type": "InstanceStart"})
        assert monitor.api.state() == "Not started"
        configure(workshop, monitor)
        start(monitor).wait_ready()

    def test_log_metrics_and_serial_port_may_be_named_afterwards(self, workshop):
        monitor = prepared(workshop)
        for path, field in (("/logger", "log_path"), ("/metrics", "metrics_path"), ("/serial", "serial_out_path")):
            monitor.api.put(path, {field: str(workshop.path(field))})
        configure(workshop, monitor)
        start(monitor)
        wait_until(lambda: b"guest: ready" in workshop.path("serial_out_path").read_bytes(), small.SECONDS, "the console")
        assert "the microVM runs" in workshop.path("log_path").read_text()
        assert workshop.path("metrics_path").read_text().startswith("{")

    def test_pause_snapshot_and_load_elsewhere(self, workshop):
        monitor = prepared(workshop, SHAPE + ",track_dirty_pages=true")
        configure(workshop, monitor, track_dirty_pages=True)
        guest = start(monitor).wait_ready()
        base = save(monitor, Snapshot.at(workshop, "base"))
        monitor.api.resume()
        guest.ask("touch 3")
        diff = save(monitor, Snapshot.at(workshop, "diff"), "Diff")
        assert diff.memory.stat().st_blocks < base.memory.stat().st_blocks / 4
        monitor.kill()
        check_memory(load(workshop, base))


@pytest.mark.once
class TestLoad:
    def test_the_machine_that_waits_takes_the_snapshot(self, workshop):
        snapshot = take(workshop)
        monitor = prepared(workshop)
        threads = {task.name for _, task in vcpu_threads(monitor.pid)}
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
        assert {task.name for _, task in vcpu_threads(monitor.pid)} == threads
        check_memory(monitor)
        assert ANEW not in log(monitor)
        # And is a snapshot again.
        again = save(monitor, Snapshot.at(workshop, "again"))
        monitor.kill()
        check_memory(load(workshop, again))

    def test_several_vcpus(self, workshop):
        guest = workshop.boot_small("memtouch", SERVE, vcpus=4).wait_ready()
        snapshot = save(guest.monitor, Snapshot.at(workshop, "four"))
        guest.monitor.kill()
        monitor = prepared(workshop, "vcpu_count=4,mem_size_mib=16")
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
        check_memory(monitor)
        assert len(list(vcpu_threads(monitor.pid))) == 4 and ANEW not in log(monitor)

    @pytest.mark.parametrize("shape, fields", [
        ("vcpu_count=2,mem_size_mib=16", {}),
        ("vcpu_count=1,mem_size_mib=128", {}),
        (SHAPE, {"track_dirty_pages": True}),
        (SHAPE, {"huge_pages": "Transparent"}),
    ], ids=["vcpus", "memory", "tracked", "huge"])
    def test_another_shape_is_made_anew_and_the_log_says_so(self, workshop, shape, fields):
        snapshot = take(workshop)
        monitor = prepared(workshop, shape)
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True, **fields))
        check_memory(monitor)
        assert log(monitor).count(ANEW) == 1

    def test_a_shape_that_a_load_asks_for_may_be_the_prepared_one(self, workshop):
        snapshot = take(workshop)
        monitor = prepared(workshop, SHAPE + ",track_dirty_pages=true,huge_pages=Transparent")
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True, track_dirty_pages=True,
                                                             huge_pages="Transparent"))
        check_memory(monitor)
        assert ANEW not in log(monitor)

    def test_after_a_refused_load_a_good_one_works(self, workshop):
        snapshot = take(workshop)
        damaged = Snapshot(workshop.file("damaged", bytes(snapshot.state.read_bytes()[:-9])), snapshot.memory)
        foreign = Snapshot(snapshot.state, workshop.file("foreign", bytes(snapshot.memory.stat().st_size)))
        monitor = prepared(workshop)
        assert "cut" in monitor.api.refusal("PUT", "/snapshot/load", damaged.load_body())
        # What has not touched the machine leaves it there.
        assert len(list(vcpu_threads(monitor.pid))) == 1
        assert "foreign" in monitor.api.refusal("PUT", "/snapshot/load", foreign.load_body())
        assert monitor.api.state() == "Not started"
        assert monitor.api.get("/vm/config")["machine-config"]["mem_size_mib"] == 128
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
        check_memory(monitor)

    def test_after_a_refused_load_a_guest_can_be_booted(self, workshop):
        snapshot = take(workshop)
        snapshot.memory.unlink()
        monitor = prepared(workshop)
        assert "cannot be opened" in monitor.api.refusal("PUT", "/snapshot/load", snapshot.load_body())
        configure(workshop, monitor)
        start(monitor).wait_ready()

    def test_preparing_is_no_configuration(self, workshop):
        snapshot = take(workshop)
        monitor = prepared(workshop)
        monitor.api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 16})
        assert "not allowed" in monitor.api.refusal("PUT", "/snapshot/load", snapshot.load_body())

    def test_memory_may_come_from_a_handler(self, workshop, program):
        snapshot = take(workshop)
        socket = workshop.path("uffd.sock")
        handler = subprocess.Popen([program.parent / "uffd" / "mayfly-uffd", "--socket", socket, "--memory-file",
                                    snapshot.memory])
        try:
            wait_until(socket.exists, 30, "the handler's socket")
            monitor = prepared(workshop)
            monitor.api.put("/snapshot/load", {"snapshot_path": str(snapshot.state), "resume_vm": True, "mem_backend": {
                "backend_type": "Uffd", "backend_path": str(socket)}})
            check_memory(monitor)
        finally:
            handler.kill()
            handler.wait()


@pytest.mark.once
class TestForks:
    """What waits for a start may be forked afterwards; nothing of the fork was prepared."""

    def check(self, workshop, forks, monitor):
        guest = small.SmallGuest(monitor)
        threads = {task.name for _, task in vcpu_threads(monitor.pid)}
        copied = []
        for number in range(2):
            fork = forks(monitor, resume_vm=True)
            copied.append(fork.report["copied_bytes"])
            guest.ask(f"seed {number + 5}")
            guest.ask("touch 100")
        assert {task.name for _, task in vcpu_threads(monitor.pid)} == threads
        check_memory(monitor)
        check_memory(load(workshop, save(fork, Snapshot.at(workshop, "fork"))))
        assert ANEW not in log(monitor)
        return copied

    def test_what_a_prepared_machine_starts_can_be_forked(self, workshop, forks):
        monitor = prepared(workshop, SHAPE, "--enable-fork")
        assert "before starting" in monitor.api.refusal("PUT", "/snapshot/fork", {"api_socket_path": "x"})
        configure(workshop, monitor)
        start(monitor).wait_ready()
        first, second = self.check(workshop, forks, monitor)
        assert first == 0 and 100 * 4096 <= second < 8 << 20

    def test_what_a_prepared_machine_loads_can_be_forked(self, workshop, forks):
        snapshot = take(workshop)
        kept = snapshot.memory.read_bytes()
        monitor = prepared(workshop, SHAPE, "--enable-fork")
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
        _, second = self.check(workshop, forks, monitor)
        assert 100 * 4096 <= second < 8 << 20
        assert snapshot.memory.read_bytes() == kept

    def test_of_another_shape_it_can_be_forked_too(self, workshop, forks):
        monitor = prepared(workshop, "vcpu_count=2,mem_size_mib=32", "--enable-fork")
        configure(workshop, monitor)
        start(monitor).wait_ready()
        assert log(monitor).count(ANEW) == 1
        fork = forks(monitor)
        assert fork.report["copied_bytes"] == 0
        check_memory(monitor)
        check_memory(load(workshop, save(fork, Snapshot.at(workshop, "fork"))))


@pytest.mark.once
class TestWaiting:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_never_used_it_ends_cleanly(self, workshop, number):
        monitor = prepared(workshop, "vcpu_count=2,mem_size_mib=16")
        monitor.signal(number)
        assert monitor.wait() == 128 + number
        assert not monitor.socket_path.exists() and "error" not in log(monitor).lower()

    def test_its_threads_sleep_behind_their_filters(self, workshop):
        monitor = prepared(workshop, "vcpu_count=2,mem_size_mib=16")
        wait_until(lambda: vcpus_sleep(monitor.pid), 30, "the threads to sleep")
        if "no filters" not in monitor_filters(workshop):
            wait_until(lambda: seccomp_modes(monitor.pid) == {"vcpu0": "2", "vcpu1": "2"}, 30, "filters")

    def test_it_takes_little_memory(self, workshop):
        """Whatever the size of the machine: nothing of it is touched."""
        monitor = prepared(workshop, "vcpu_count=1,mem_size_mib=1024")
        rollup = open(f"/proc/{monitor.pid}/smaps_rollup", encoding="ascii").read()
        assert int(re.search(r"^Anonymous: +(\d+) kB", rollup, re.M)[1]) < 512

    def test_a_bad_shape_is_named_and_ends_it(self, workshop):
        done = workshop.run("--api-sock", workshop.path("x.sock"), "--prepare", "mem_size_mib=67108864")
        assert done.returncode == 1 and "--prepare: " in done.stderr and "67108864 MiB" in done.stderr
        assert not workshop.path("x.sock").exists()


def monitor_filters(workshop):
    """What the help says of filters: a build for sanitizers has none."""
    return "no filters" if "has none to begin with" in workshop.run("--help").stdout else "filters"


@pytest.mark.skipif(os.geteuid() != 0, reason="making a jail with all its walls takes root")
@pytest.mark.once
def test_in_a_jail(workshop, jails):
    snapshot = take(workshop)
    for path in (snapshot.state, snapshot.memory):
        path.chmod(0o644)
    monitor = jails.boot("--file", f"{snapshot.state}:vm.state:ro", "--file", f"{snapshot.memory}:vm.memory:ro",
                         arguments=("--prepare", SHAPE))
    monitor.api.put("/snapshot/load", {"snapshot_path": "/vm.state", "resume_vm": True, "mem_backend": {
        "backend_type": "File", "backend_path": "/vm.memory"}})
    check_memory(monitor)


def test_linux_with_a_disk_boots_and_is_loaded_by_prepared_monitors(workshop, kernel):
    monitor = prepared(workshop, "vcpu_count=1,mem_size_mib=256")
    configuration = workshop.configuration(kernel, drives=[{"path": workshop.disk("disk", 4 << 20), "drive_id": "disk"}])
    for path, body in (("/boot-source", configuration["boot-source"]), ("/machine-config", configuration["machine-config"]),
                       ("/drives/disk", configuration["drives"][0]), ("/actions", {"action_type": "InstanceStart"})):
        monitor.api.put(path, body)
    guest = Guest(monitor, kernel).wait_ready()
    guest.run("echo kept > /tmp/file; echo written | dd of=/dev/vda conv=fsync")
    snapshot = save(monitor, Snapshot.at(workshop, "linux"))
    monitor.kill()
    restored = prepared(workshop, "vcpu_count=1,mem_size_mib=256")
    restored.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
    shown = Guest(restored, kernel).run("cat /tmp/file; dd if=/dev/vda bs=8 count=1")
    assert "kept" in shown and "written" in shown
    assert ANEW not in log(monitor) + log(restored)
