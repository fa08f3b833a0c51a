"""Snapshots: the guest goes on where it was, and what cannot be loaded is refused by name."""
import json
import os
import random
import shutil
import signal
import struct
import threading
import time

import pytest

from harness import namespaces, small
from harness.api import ConnectionClosed
from harness.clock import FACTOR
from harness.snapshots import Snapshot, load, merge, refuse, save

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

SERVE = "mode=fill fraction=50 then=serve"
MEMORY_BYTES = 16 << 20
TAIL_BYTES = 8192


def boot(workshop, args=SERVE, **configuration):
    return workshop.boot_small("memtouch", args, **configuration).wait_ready()


def check_memory(monitor):
    """All that the guest has written is as it was written."""
    verify = small.SmallGuest(monitor).ask("verify")
    assert verify["bad"] == 0 and verify["pages"] > 0
    return verify["pages"]


def sections(state):
    """Where the body of each section of a state file begins (docs/snapshot-format.md)."""
    found, place = {}, 16
    while place < len(state):
        length, _, _, name_bytes, instance_bytes, _ = struct.unpack_from("<IIHBBI", state, place)
        body = place + 16 + name_bytes + instance_bytes
        found[state[place + 16:place + 16 + name_bytes].decode()] = body
        place = body + length
    return found


def take(workshop, name="one", **configuration):
    """A snapshot of a guest that has filled half of its memory; the guest is gone."""
    guest = boot(workshop, **configuration)
    snapshot = save(guest.monitor, Snapshot.at(workshop, name))
    guest.monitor.kill()
    workshop.forget(guest)
    return snapshot


@pytest.mark.once
class TestStates:
    def test_a_snapshot_is_made_of_a_paused_guest_only(self, workshop):
        guest = boot(workshop)
        snapshot = Snapshot.at(workshop, "one")
        assert "paused" in guest.api.refusal("PUT", "/snapshot/create", snapshot.create_body())
        guest.api.pause()
        guest.api.put("/snapshot/create", snapshot.create_body())
        assert "after starting" in guest.api.refusal("PUT", "/snapshot/load", snapshot.load_body())
        # It is still a guest.
        guest.api.resume()
        check_memory(guest.monitor)

    def test_before_the_start_there_is_nothing_to_save(self, workshop):
        api = workshop.monitor(api=True).api
        assert "before starting" in api.refusal("PUT", "/snapshot/create", Snapshot.at(workshop, "one").create_body())

    def test_a_configured_machine_cannot_be_loaded_over(self, workshop):
        snapshot = take(workshop)
        monitor = workshop.monitor(api=True)
        monitor.api.put("/machine-config", {"vcpu_count": 1, "mem_size_mib": 16})
        assert "not allowed" in monitor.api.refusal("PUT", "/snapshot/load", snapshot.load_body())
        assert monitor.api.state() == "Not started"

    def test_logger_and_metrics_belong_to_the_process_that_loads(self, workshop):
        snapshot = take(workshop)
        monitor = workshop.monitor(api=True)
        monitor.api.put("/logger", {"log_path": str(workshop.path("log"))})
        monitor.api.put("/metrics", {"metrics_path": str(workshop.path("metrics"))})
        monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=True))
        check_memory(monitor)
        assert "loaded" in workshop.path("log").read_text()
        assert json.loads(workshop.path("metrics").read_text().split("\n", maxsplit=1)[0])

    def test_a_loaded_guest_is_paused_until_it_is_resumed(self, workshop):
        monitor = load(workshop, take(workshop), resume=False)
        assert monitor.api.state() == "Paused"
        config = monitor.api.get("/vm/config")
        assert config["machine-config"]["mem_size_mib"] == 16 and "memtouch" in config["boot-source"]["kernel_image_path"]
        monitor.type(b"verify\n")
        time.sleep(0.1)
        assert monitor.console.mark() == 0
        monitor.api.resume()
        monitor.console.wait_for(rb"result: verify pages=[0-9]+ bad=0 ", small.SECONDS)

    def test_what_is_missing_or_too_much_is_named(self, workshop):
        snapshot = take(workshop)
        api = workshop.monitor(api=True).api
        body = {"snapshot_path": str(snapshot.state)}
        file = {"backend_type": "File", "backend_path": str(snapshot.memory)}
        for fields, words in (({}, "either `mem_backend` or `mem_file_path`"),
                              ({"mem_backend": file, "mem_file_path": "x"}, "not both"),
                              ({"mem_backend": {"backend_type": "Tape", "backend_path": "x"}}, "`Tape`"),
                              ({"mem_backend": {"backend_type": "File"}}, "missing field `backend_path`"),
                              ({"mem_backend": file, "network_overrides": [{"iface_id": "a"}]},
                               "network_overrides[0]: missing field `host_dev_name`"),
                              ({"mem_backend": file, "drive_overrides": {}}, "drive_overrides"),
                              ({"mem_backend": file, "drive_overrides": 2 * [{"drive_id": "a", "path_on_host": "b"}]},
                               "a is named twice"),
                              ({"mem_backend": file, "resume": True}, "unknown field `resume`")):
            assert words in api.refusal("PUT", "/snapshot/load", {**body, **fields})
        # None of these has touched the machine.
        answer = api.request("PUT", "/snapshot/load", {**body, "mem_file_path": str(snapshot.memory)})
        assert answer.status == 204 and answer.header("Deprecation") == "true"

    def test_two_files_of_one_name_are_refused(self, workshop):
        guest = boot(workshop)
        guest.api.pause()
        path = str(workshop.path("same"))
        assert "same file" in guest.api.refusal("PUT", "/snapshot/create", {"snapshot_path": path, "mem_file_path": path})
        # Not by the words alone.
        again = f"{workshop.path('same').parent}/./same"
        assert "same file" in guest.api.refusal("PUT", "/snapshot/create", {"snapshot_path": path, "mem_file_path": again})
        assert not workshop.path("same").exists()

    def test_a_disk_of_the_guest_is_not_replaced(self, workshop):
        disk, another = workshop.disk("disk", 1 << 20), str(workshop.path("another"))
        guest = boot(workshop, drives=[{"path": disk, "drive_id": "data"}])
        guest.api.pause()
        os.link(disk, workshop.path("link"))
        for name in (str(disk), f"{disk.parent}/./disk", str(workshop.path("link"))):
            for body in ({"snapshot_path": name, "mem_file_path": another}, {"snapshot_path": another, "mem_file_path": name}):
                text = guest.api.refusal("PUT", "/snapshot/create", body)
                assert name in text and "is the image of drive data" in text
        assert os.path.getsize(disk) == 1 << 20 and not os.path.exists(another)


class TestRounds:
    @pytest.mark.once
    def test_a_chain_of_snapshots_each_of_the_guest_of_the_one_before(self, workshop):
        rounds = 200 if FACTOR == 1 else 5
        guest = boot(workshop)
        monitor, snapshot = guest.monitor, Snapshot.at(workshop, "chain")
        for number in range(rounds):
            save(monitor, snapshot)
            monitor.kill()
            workshop.forget(monitor)
            monitor = load(workshop, snapshot)
            if number % 20 == 0 or number == rounds - 1:
                check_memory(monitor)
        guest = small.SmallGuest(monitor)
        guest.tell("reset")
        guest.finish()

    @pytest.mark.once
    def test_a_guest_may_be_saved_while_it_works(self, workshop):
        """`keep` writes all memory again and again; a value that a save or a load lost would be found by the sums."""
        guest = workshop.boot_small("memtouch", "mode=write then=keep")
        monitor, snapshot = guest.monitor, Snapshot.at(workshop, "work")
        for _ in range(20 if FACTOR == 1 else 3):
            time.sleep(random.random() / 50)
            save(monitor, snapshot)
            monitor.kill()
            workshop.forget(monitor)
            monitor = load(workshop, snapshot)
        assert monitor.process.poll() is None and monitor.api.state() == "Running"

    @pytest.mark.once
    def test_many_clones_of_one_snapshot_run_at_once(self, workshop):
        snapshot = take(workshop)
        clones = [load(workshop, snapshot) for _ in range(20 if FACTOR == 1 else 4)]
        check_memory(clones[0])
        for number, clone in enumerate(clones):
            small.SmallGuest(clone).ask(f"seed {number + 2}")
            small.SmallGuest(clone).ask("touch 50")
        for clone in clones:
            assert check_memory(clone) == 50


@pytest.mark.once
class TestDiffs:
    @pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
    def test_a_full_and_five_diffs_merged_are_a_full(self, workshop, tracked):
        guest = boot(workshop)
        base = save(guest.monitor, Snapshot.at(workshop, "base"))
        guest.monitor.kill()
        guest = small.SmallGuest(load(workshop, base, track_dirty_pages=tracked))
        merged = shutil.copy(base.memory, workshop.path("merged"))
        for number in range(5):
            guest.ask(f"seed {number + 2}")
            guest.ask(f"touch {20 * (number + 1)}")
            diff = save(guest.monitor, Snapshot.at(workshop, f"diff-{number}"), "Diff")
            assert diff.memory.stat().st_blocks < base.memory.stat().st_blocks / 2
            guest.api.resume()
            done = merge(workshop, merged, diff.memory)
            assert done.returncode == 0, done.stderr
        # With the guest as the last diff has it.
        guest.api.pause()
        final = save(guest.monitor, Snapshot.at(workshop, "last-diff"), "Diff")
        assert merge(workshop, merged, final.memory).returncode == 0
        full = save(guest.monitor, Snapshot.at(workshop, "full"))
        assert merged.read_bytes()[:MEMORY_BYTES] == full.memory.read_bytes()[:MEMORY_BYTES]
        guest.monitor.kill()
        check_memory(load(workshop, Snapshot(final.state, merged)))

    def test_the_first_diff_of_a_booted_guest_holds_all(self, workshop):
        guest = workshop.boot_small("memtouch", SERVE, machine={"track_dirty_pages": True}).wait_ready()
        first = save(guest.monitor, Snapshot.at(workshop, "first"), "Diff")
        guest.api.resume()
        guest.ask("touch 3")
        second = save(guest.monitor, Snapshot.at(workshop, "second"), "Diff")
        assert second.memory.stat().st_blocks < first.memory.stat().st_blocks / 4
        guest.monitor.kill()
        restored = load(workshop, first)
        check_memory(restored)
        restored.kill()
        assert "merge-memory BASE DIFF" in refuse(workshop, second)
        assert merge(workshop, first.memory, second.memory).returncode == 0
        check_memory(load(workshop, Snapshot(second.state, first.memory)))

    def test_a_base_in_use_is_not_merged_into(self, workshop):
        base = take(workshop)
        monitor = load(workshop, base)
        diff = save(monitor, Snapshot.at(workshop, "diff"), "Diff")
        done = merge(workshop, base.memory, diff.memory)
        assert done.returncode == 1 and "a microVM or another merge uses it" in done.stderr
        assert merge(workshop, base.memory, "/nonexistent").returncode == 1


@pytest.mark.once
class TestRefusals:
    def test_files_of_two_snapshots_do_not_go_together(self, workshop):
        one, other = take(workshop, "one"), take(workshop, "other")
        text = refuse(workshop, Snapshot(one.state, other.memory))
        assert "another snapshot" in text and str(other.memory) in text
        check_memory(load(workshop, one))

    def test_a_memory_file_of_another_length_is_refused(self, workshop):
        snapshot = take(workshop)
        os.truncate(snapshot.memory, MEMORY_BYTES - 4096)
        assert f"it has {MEMORY_BYTES - 4096} bytes" in refuse(workshop, snapshot)
        snapshot.memory.unlink()
        assert "No such file or directory" in refuse(workshop, snapshot)

    def test_a_damaged_state_file_is_refused_with_its_section(self, workshop):
        snapshot = take(workshop)
        good = snapshot.state.read_bytes()
        places = sections(good)
        assert {"vcpu", "vm", "serial", "i8042", "memory", "config"} <= set(places)
        for name, place in places.items():
            bad = bytearray(good)
            bad[place] ^= 0x40
            snapshot.state.write_bytes(bad)
            assert f"section {name}" in refuse(workshop, snapshot)
        snapshot.state.write_bytes(good[:-9])
        assert "cut" in refuse(workshop, snapshot)
        snapshot.state.write_bytes(b"")
        assert "not the state file" in refuse(workshop, snapshot)

    def test_an_override_of_what_is_not_there_is_refused_by_name(self, workshop):
        snapshot = take(workshop)
        assert "no network interface eth9" in refuse(
            workshop, snapshot, network_overrides=[{"iface_id": "eth9", "host_dev_name": "tap0"}])
        assert "no drive data" in refuse(
            workshop, snapshot, drive_overrides=[{"drive_id": "data", "path_on_host": "/x"}])

    def test_a_memory_file_that_is_cut_ends_the_guest_with_words(self, workshop):
        snapshot = take(workshop)
        monitor = load(workshop, snapshot, resume=False)
        os.truncate(snapshot.memory, 1 << 20)
        monitor.api.resume()
        monitor.type(b"verify\n")
        assert monitor.wait() in (1, 149)
        assert "memory file was cut" in monitor.stderr or "SIGBUS" in monitor.stderr


@pytest.mark.once
class TestWholeOrNotAtAll:
    def test_a_kill_at_any_moment_leaves_a_snapshot_that_loads(self, workshop):
        snapshot = take(workshop)
        for _ in range(30 if FACTOR == 1 else 3):
            monitor = load(workshop, snapshot)
            monitor.api.pause()
            victim = threading.Timer(random.random() / 100, monitor.signal, [signal.SIGKILL])
            victim.start()
            try:
                monitor.api.request("PUT", "/snapshot/create", snapshot.create_body())
            except (ConnectionClosed, BrokenPipeError, OSError):
                pass
            victim.join()
            monitor.wait()
            workshop.forget(monitor)
            # Between the two names there is one moment: then the two are told apart.
            monitor = workshop.monitor(api=True)
            answer = monitor.api.request("PUT", "/snapshot/load", snapshot.load_body(resume_vm=True))
            if answer.status == 204:
                check_memory(monitor)
            else:
                assert "another snapshot" in answer.fault
                snapshot = take(workshop)
            monitor.kill()
            workshop.forget(monitor)
        assert not list(workshop.folder.glob("*.part-*"))

    def test_a_full_disk_leaves_the_old_files(self, workshop):
        reason = namespaces.why_none()
        if reason:
            pytest.skip(reason)
        small_disk = workshop.path("small")
        small_disk.mkdir()
        script = ('mount -t tmpfs -o size=9m none "$0" && exec "$@"')
        guest = boot(workshop, options={"wrapper": ["unshare", "-m", "sh", "-c", script, small_disk]})
        inside = f"/proc/{guest.monitor.pid}/root{small_disk}"
        snapshot = Snapshot(small_disk / "state", small_disk / "memory")
        save(guest.monitor, snapshot)

        def content():
            return {name: open(f"{inside}/{name}", "rb").read() for name in sorted(os.listdir(inside))}

        before = content()
        text = guest.api.refusal("PUT", "/snapshot/create", snapshot.create_body())
        assert "No space left on device" in text
        assert content() == before and set(before) == {"state", "memory"}
        guest.api.resume()
        check_memory(guest.monitor)


def test_the_cpuid_table_ends_with_its_last_leaf(workshop):
    """KVM of Linux 6.1 does not say how many entries it has written; a later one does."""
    snapshot = take(workshop)
    state = snapshot.state.read_bytes()
    body = sections(state)["vcpu"]
    count = struct.unpack_from("<I", state, body)[0]
    entries = [struct.unpack_from("<7I", state, body + 4 + 28 * i) for i in range(count)]
    assert entries[0][0] == 0 and entries[0][3] > 0  # leaf 0, with a vendor
    assert any(entries[-1])
    leaves = [entry[:2] for entry in entries]
    assert len(set(leaves)) == len(leaves) and (1, 0) in leaves


@pytest.mark.once
class TestDescription:
    def test_a_state_file_is_described_for_people_and_for_programs(self, workshop):
        snapshot = take(workshop)
        text = workshop.run("--describe-snapshot", snapshot.state).stdout
        assert "vCPUs 1, memory 16 MiB, drives 0, network interfaces 0" in text
        assert "vcpu " in text and "serial " in text
        described = json.loads(workshop.run("--describe-snapshot", snapshot.state, "--json").stdout)
        assert described["format_version"] == 1 and described["memory_bytes"] == MEMORY_BYTES
        assert described["config"]["machine-config"]["vcpu_count"] == 1
        names = [section["section"] for section in described["sections"]]
        assert {"snapshot", "config", "memory", "vm", "vcpu", "serial", "i8042"} <= set(names)
        mark = snapshot.memory.read_bytes()[MEMORY_BYTES:]
        assert len(mark) == TAIL_BYTES and bytes.fromhex(described["memory_id"]) in mark[:64]

    def test_what_is_no_state_file_is_refused(self, workshop):
        done = workshop.run("--describe-snapshot", workshop.file("other", b"hello, world, hello"))
        assert done.returncode == 1 and "it is not the state file of a snapshot" in done.stderr
        assert workshop.run("--snapshot-version").stdout == "v1.0.0\n"


class TestLinux:
    def test_a_disk_at_work_loses_no_write_and_repeats_none(self, workshop, kernel):
        guest = workshop.boot(kernel, vcpus=min(kernel.max_vcpus, 4),
                              drives=[{"path": workshop.disk("disk", 16 << 20), "io_engine": "Async"}])
        guest.start("i=0; while [ $i -lt 2000 ]; do i=$((i+1)); dd if=/dev/urandom of=/tmp/r bs=64k count=16 2>/dev/null; "
                    "dd if=/tmp/r of=/dev/vda bs=64k conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
                    "cmp -n 1048576 /tmp/r /dev/vda || exit 1; echo round $i; done 2>&1")
        monitor, snapshot = guest.monitor, Snapshot.at(workshop, "linux")
        monitor.console.wait_for(rb"round 1\n", 120)
        last = 1
        for _ in range(10 if FACTOR == 1 else 2):
            time.sleep(random.random() / 20)
            save(monitor, snapshot)
            monitor.kill()
            workshop.forget(monitor)
            monitor = load(workshop, snapshot)
            # The first line may be the end of one.
            numbers = [int(monitor.console.wait_for(rb"round ([0-9]+)\n", 120)[1])]
            assert numbers[0] > last
            last = numbers[-1]
        assert b"MAYFLY-EXIT" not in monitor.console.since()

    @pytest.mark.once
    @pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
    def test_a_full_and_five_diffs_of_a_guest_at_work_are_a_full(self, workshop, kernel, tracked):
        """What the kernel writes, what a disk's requests write into its memory, and what nobody writes."""
        memory_mib = 64
        guest = workshop.boot(kernel, mem=memory_mib, drives=[{"path": workshop.disk("disk", 1 << 20), "io_engine": "Async"}])
        base = save(guest.monitor, Snapshot.at(workshop, "base"))
        guest.monitor.kill()
        guest = type(guest)(load(workshop, base, track_dirty_pages=tracked), kernel)
        merged = shutil.copy(base.memory, workshop.path("merged"))  # the base itself is what the guest runs from
        for number in range(5):
            guest.run(f"dd if=/dev/urandom of=/tmp/file-{number} bs=64k count=4 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
                      f"dd if=/tmp/file-{number} of=/dev/vda bs=64k conv=fsync 2>/dev/null; md5sum /dev/vda")
            diff = save(guest.monitor, Snapshot.at(workshop, f"diff-{number}"), "Diff")
            done = merge(workshop, merged, diff.memory)
            assert done.returncode == 0, done.stderr
            guest.api.resume()
        expected = guest.run("cat /tmp/file-* | md5sum")
        last = save(guest.monitor, Snapshot.at(workshop, "last"), "Diff")
        assert merge(workshop, merged, last.memory).returncode == 0
        full = save(guest.monitor, Snapshot.at(workshop, "full"))
        assert merged.read_bytes()[:memory_mib << 20] == full.memory.read_bytes()[:memory_mib << 20]
        guest.monitor.kill()
        guest = type(guest)(load(workshop, Snapshot(last.state, merged)), kernel)
        assert guest.run("cat /tmp/file-* | md5sum") == expected

    def test_a_network_goes_on_at_another_tap(self, workshop, new_network, kernel):
        network = new_network()
        network.tap("tap0", "10.0.0.1/24")
        guest = workshop.boot(kernel, interfaces=[{"host_dev_name": "tap0", "iface_id": "eth0"}],
                              options={"wrapper": network.wrapper})
        guest.run("ip link set eth0 up; ip address add 10.0.0.2/24 dev eth0")
        guest.run("ping -c 1 10.0.0.1", 60)
        guest.start("ping -c 1000 -i 0.1 10.0.0.1 >/dev/null")
        snapshot = save(guest.monitor, Snapshot.at(workshop, "net"))
        guest.monitor.kill()
        workshop.forget(guest)
        # The first TAP is there, but the packets go to the other.
        network.sh("ip address del 10.0.0.1/24 dev tap0")
        network.tap("tap1", "10.0.0.1/24")
        monitor = load(workshop, snapshot, options={"wrapper": network.wrapper},
                       network_overrides=[{"iface_id": "eth0", "host_dev_name": "tap1"}])
        network.sh("ping -c 3 -i 0.2 -W 30 10.0.0.2")
        assert monitor.api.get("/vm/config")["network-interfaces"][0]["host_dev_name"] == "tap1"

    @pytest.mark.once
    def test_another_disk_takes_the_place_of_the_first(self, workshop, kernel):
        disk = workshop.disk("disk", 1 << 20)
        guest = workshop.boot(kernel, drives=[{"path": disk, "drive_id": "data"}])
        guest.run("echo old | dd of=/dev/vda conv=fsync 2>/dev/null")
        snapshot = save(guest.monitor, Snapshot.at(workshop, "disk"))
        guest.monitor.kill()
        other = workshop.file("other", b"new!".ljust(1 << 20, b"\0"))
        monitor = load(workshop, snapshot, drive_overrides=[{"drive_id": "data", "path_on_host": str(other)}])
        restored = type(guest)(monitor, kernel)
        assert restored.run("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=4 count=1 2>/dev/null") == "new!"
        assert monitor.api.get("/vm/config")["drives"][0]["path_on_host"] == str(other)
