"""What a jail costs, and what the host's mounts add to it.

From the spawn of the jailer to the end of the monitor in it, which only says its version; beside it the same monitor
without a jail. All run in mount namespaces of the benchmark's own: one as the host is, one with 500 mounts more. One jail
at a time, and ten that are made at once, since mounts are behind one lock of the kernel.
"""
import os
import shutil
import subprocess

from framework.plots import Plot
from framework.session import CannotMeasure, Sample

SUMMARY = "spawn of the jailer to the end of a monitor in it; with 500 mounts on the host; ten at once"
HOSTS = ("native", "emulated")
MOUNTS = 500
AT_ONCE = 10
USER = "61234"

HOLD = """
mount --make-rprivate /
mkdir -p "$1"
mount -t tmpfs tmpfs "$1"
for number in $(seq "$2"); do mkdir "$1/$number"; mount --bind "$1/$number" "$1/$number"; done
echo made
exec cat
"""
MANY = 'for number in $(seq "$0"); do "$@" --id "jail-$number" -- --version & done; wait'


class Host:
    """A mount namespace with some mounts more, for as long as its process lives."""

    def __init__(self, folder, mounts):
        self.process = subprocess.Popen(["unshare", "--mount", "sh", "-ec", HOLD, "sh", folder, str(mounts)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"made\n":
            raise CannotMeasure("no mount namespace can be made here")
        self.enter = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def declare(report):
    report.measure("wall", "spawn to exit", "ns", baseline="no jail")
    report.measure("cpu", "CPU time of it", "ns", baseline="no jail")
    report.measure("at-once", f"{AT_ONCE} jails at once, spawn of the first to exit of the last", "ns",
                   baseline="as the host is")


def contenders(bench, hosts):
    jailer = bench.local(bench.mayfly.with_name("mayfly-jailer"))
    monitor = bench.local(bench.mayfly)
    base = bench.folder / "jails"
    base.mkdir(mode=0o755, exist_ok=True)
    jail = [jailer, "--exec-file", monitor.resolve(), "--uid", USER, "--gid", USER, "--chroot-base-dir", base.resolve()]

    def run(host, *command):
        def turn():
            done = bench.run([*hosts[host].enter, *command], stdout=None, stderr=None).must(0)
            return Sample({"wall": done.wall_ns, "cpu": done.user_ns + done.system_ns}, done.command)

        return turn

    def many(host):
        def turn():
            done = bench.run([*hosts[host].enter, "sh", "-c", MANY, str(AT_ONCE), *jail], stdout=None, stderr=None).must(0)
            return Sample({"at-once": done.wall_ns}, done.command)

        return turn

    single = (*jail, "--id", "jail", "--", "--version")
    return ({"no jail": run("host", monitor, "--version"), "jail": run("host", *single),
             f"jail, {MOUNTS} mounts": run("many", *single)},
            {"as the host is": many("host"), f"{MOUNTS} mounts": many("many")})


def measure(bench):
    if os.geteuid() != 0:
        raise CannotMeasure("making a jail with all its walls takes root")
    if not shutil.which("nsenter"):
        raise CannotMeasure("nsenter is not installed")
    declare(bench.report)
    hosts = {}
    try:
        hosts["host"] = Host(bench.folder / "mounts", 0)
        hosts["many"] = Host(bench.folder / "mounts", MOUNTS)
        single, many = contenders(bench, hosts)
        bench.interleave(single)
        bench.interleave(many)
    finally:
        for host in hosts.values():
            host.close()
    report = bench.report
    report.note("nsenter's own exec is part of every number.")
    ratio = report.ratio("at-once", f"{MOUNTS} mounts", "as the host is")
    if ratio:
        report.note(f"{AT_ONCE} jails at once with {MOUNTS} mounts more take {ratio.median:.2f} times as long.")
    report.plot(Plot("jail", "A jail, and mounts on the host", "round", "spawn to exit (ns)",
                     [(name, list(enumerate(report.values("wall", name) or []))) for name in single]))
