"""A Linux guest with everything at work at once: disk, network, serial port, timers; saved, killed and loaded again and again.

5 rounds in ./check; MAYFLY_EXHAUSTIVE=1 makes a chain of 200, MAYFLY_ROUNDS=N one of N (tests/README.md).
"""
import os
import random
import subprocess
import time

import pytest

from harness import images
from harness.clock import EXHAUSTIVE, FACTOR, scaled, wait_until
from test_net import GUEST, HOST, listening, random_file, set_address
from test_snapshot_devices import MIB, Traveller

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("kvm")]

ROUNDS = int(os.environ.get("MAYFLY_ROUNDS") or (200 if EXHAUSTIVE else 5 if FACTOR == 1 else 2))
DISK_MIB, SENT_MIB = (8, 8) if FACTOR == 1 else (1, 1)
# In the emulated host fio takes as long to begin as the rest of a sample: what is saved there is that. Chains wait for it.
SAMPLE = FACTOR > 1 and not EXHAUSTIVE
DISK_LOOPS = 1 if FACTOR == 1 or SAMPLE else 8

# Each of these goes on until it is told to stop, and says in /tmp/errors what was wrong. `whole` starts a program again that
# ended with SIGSEGV before its main(): see tests/README.md.
SCRIPT = r"""
# By the shell alone, since a program might end like that.
lines() {
	count=0
	for file; do
		while read -r _; do
			count=$((count + 1))
		done <$file
	done
	echo $count
}

whole() {
	"$@"
	status=$?
	[ $status -eq 139 ] || return $status
	whole "$@"
}

verify_disk() {
	until [ -e /tmp/stop ] && [ -e /tmp/verified ]; do
		whole fio --name=verify --filename=/dev/vdb --rw=randwrite --bsrange=512-64k --bs_unaligned=0 --ioengine=libaio \
			--direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --loops=LOOPS --randrepeat=0 \
			--fallocate=none --thread=0 >/tmp/fio 2>&1 || { echo "fio: $(cat /tmp/fio)" >>/tmp/errors; return; }
		echo verified >>/tmp/verified
	done
}

receive() {
	until [ -e /tmp/stop ] && [ -e /tmp/received ]; do
		sum=$(whole socat -u TCP:HOST:5001 - 2>/tmp/receiver | sha256sum)
		# Nothing from sha256sum itself is one of those programs.
		[ "${sum%% *}" = EXPECTED ] || { [ -z "$sum" ] || echo "received: $sum $(cat /tmp/receiver)" >>/tmp/errors; continue; }
		echo received >>/tmp/received
	done
}

send() {
	until [ -e /tmp/stop ] && [ -e /tmp/sent ]; do
		whole socat -u FILE:/dev/vdc TCP:HOST:5002 2>/tmp/sender || echo "sent: $(cat /tmp/sender)" >>/tmp/errors
		echo sent >>/tmp/sent
	done
}

watch_time() {
	last=0
	until [ -e /tmp/stop ] && [ -e /tmp/ticks-$1 ]; do
		read now rest </proc/uptime
		now=${now%.*}${now#*.}
		[ "$now" -ge "$last" ] || echo "time went back on CPU $1, from $last to $now" >>/tmp/errors
		last=$now
		echo "$now" >>/tmp/ticks-$1
		sleep 0.05
	done
}

written() {
	read -r _ _ _ _ writes _ </sys/block/vdb/stat
	[ "$writes" -gt 0 ]
}

moved() {
	[ "$(cat /sys/class/net/eth0/statistics/$1_bytes)" -ge 65536 ]
}

begun() {
	until [ SAMPLE = True ] || "$@" || [ -s /tmp/errors ]; do
		sleep 0.05
	done
}

# fio first: it begins much later beside the others.
touch /tmp/errors
verify_disk 2>/dev/null &
begun written
receive 2>/dev/null &
begun moved rx
send 2>/dev/null &
begun moved tx
cpu=0
while [ $cpu -lt VCPUS ]; do
	watch_time $cpu 2>/dev/null &
	taskset -p $((1 << cpu)) $! >/dev/null 2>&1
	cpu=$((cpu + 1))
done
echo "at work"
while read -r line; do
	echo "heard $line"
	[ "$line" != stop ] || break
done <$MAYFLY_CONSOLE
touch /tmp/stop
wait
echo "done: verified $(lines /tmp/verified) received $(lines /tmp/received) ticks $(lines /tmp/ticks-*)"
cat /tmp/errors
[ ! -s /tmp/errors ]
"""


class Receiver:
    """Takes what the guest sends, connection by connection, and keeps the sums of each whole one."""

    def __init__(self, net, folder):
        self.folder = folder
        folder.mkdir()
        self.process = net.start("socat", "-u", f"{listening(5002, HOST)},fork",
                                 f"SYSTEM:sha256sum >{folder}/$SOCAT_PEERPORT 2>&1")

    def sums(self):
        return [path.read_text().split()[0] for path in self.folder.iterdir() if path.stat().st_size]


# In a chain of snapshots the guest is away most of the time, and what was on its way to it is lost with each TAP. A host that
# has closed its side would give up sending the rest, unheard: the guest would wait for it for ever.
PATIENCE = """cd /proc/sys/net/ipv4
echo 100 >tcp_orphan_retries
echo 100 >tcp_retries2
[ ! -e tcp_rto_max_ms ] || echo 1000 >tcp_rto_max_ms"""


def several(counts):
    """How many vCPUs: one natively, four where there are more; all with everything."""
    marks = {1: [pytest.mark.once]}
    return [pytest.param(count, marks=[pytest.mark.vcpus(count), *marks.get(count, [])]) for count in counts]


@pytest.mark.parametrize("vcpus", several((1, 2, 4) if EXHAUSTIVE else (1, 4)))
def test_everything_goes_on_through_a_chain_of_snapshots(workshop, new_network, each_kernel, needs, vcpus):
    needs("socat")
    net = new_network()
    net.tap("tap0", f"{HOST}/24")
    net.sh(PATIENCE)
    path, expected = random_file(workshop, SENT_MIB)
    sent = workshop.path("sent")
    subprocess.run(["cp", path, sent], check=True)
    root = workshop.copy_of(images.root_disk_with_fio(), "root.ext4")
    guest = workshop.boot(each_kernel, **each_kernel.with_root_disk(), mem=256, vcpus=vcpus, interfaces=[
        {"host_dev_name": "tap0"}], drives=[
        {"path": root, "root": True, "io_engine": "Async"},
        {"path": workshop.disk("disk", DISK_MIB * MIB), "io_engine": "Async"},
        {"path": sent, "io_engine": "Sync", "read_only": True}], options={"wrapper": net.wrapper})
    set_address(guest, f"{GUEST}/24")
    net.start("socat", "-U", f"{listening(5001, HOST)},fork", f"FILE:{path}")  # each connection opens it anew
    receiver = Receiver(net, workshop.path("received"))
    wait_until(lambda: net.sh("ss -Hltn").count(":500") == 2, 30, "the host's sides to listen")

    script = SCRIPT.replace("HOST", HOST).replace("EXPECTED", expected).replace("VCPUS", str(vcpus))
    script = script.replace("LOOPS", str(DISK_LOOPS)).replace("SAMPLE", str(SAMPLE))
    guest.script(f"cat >/tmp/work.sh <<'END'\n{script}\nEND")
    traveller = Traveller(workshop, guest, wrapper=net.wrapper)
    traveller.tell("sh /tmp/work.sh")
    traveller.wait_for(b"at work\n", 120)
    for number in range(ROUNDS):
        time.sleep(scaled(0.05) + random.random() / 20)
        traveller.guest.monitor.type(f"line {number}\n".encode())
        time.sleep(random.random() / 100)
        traveller.move(clock_realtime=bool(number % 2))
        traveller.wait_for(rb"heard line %d\n" % number, 120)
    traveller.guest.monitor.type(b"stop\n")
    report = traveller.succeed(900)
    heard = [line for line in report.splitlines() if line.startswith("heard ")]
    assert heard == [f"heard line {number}" for number in range(ROUNDS)] + ["heard stop"]
    done = report.split("done: ")[1].split()
    print(f"{ROUNDS} rounds, {vcpus} vCPUs: {' '.join(done[:6])}, sent {len(receiver.sums())}")
    assert int(done[1]) > 0 and int(done[3]) > 0 and int(done[5]) >= vcpus
    wait_until(receiver.sums, 60, "what the guest has sent")
    assert set(receiver.sums()) == {expected}
    assert traveller.guest.read("/sys/class/net/eth0/carrier") == "1"
    assert traveller.guest.reboot() == 0
