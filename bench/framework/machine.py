"""What the numbers were measured on."""
import os
import pathlib
import platform
import subprocess
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def first_line(*command):
    """What a command says first, or "" when it cannot be asked."""
    try:
        done = subprocess.run(list(map(os.fspath, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, errors="replace", timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.strip().splitlines()), "")


def host_kind():
    """hardware, pvm or none, and why: see tests/host/README.md."""
    done = subprocess.run([REPOSITORY / "tests/host/detect", "--explain"], stdout=subprocess.PIPE, text=True, check=True)
    kind, _, why = done.stdout.strip().partition("\n")
    return kind, why


def meminfo():
    """/proc/meminfo in bytes."""
    values = {}
    for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        values[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return values


def idle_ns():
    """How long the processors have been idle since the boot, to the nanosecond. Only root may ask.

    In the emulated host the clock leaps from timer to timer while nothing runs: time without idle time is work."""
    lines = pathlib.Path("/proc/timer_list").read_text(encoding="ascii", errors="replace").splitlines()
    return sum(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith(".idle_sleeptime"))


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def git_revision():
    revision = first_line("git", "-C", REPOSITORY, "rev-parse", "HEAD") or "unknown"
    changed = first_line("git", "-C", REPOSITORY, "status", "--porcelain", "--untracked-files=no")
    return revision + (" with changes" if changed else "")


def describe(mayfly, peers, kind):
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revision": git_revision(),
        "host": kind,
        "kernel": platform.release(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": meminfo()["MemTotal"],
        "load": os.getloadavg()[0],
        "mayfly": first_line(mayfly, "--version"),
        "peers": {name: f"{path}: {first_line(path, '--version') or 'no version'}" for name, path in peers.items()},
    }


def describe_text(machine):
    peers = "; ".join(f"{name}: {what}" for name, what in machine["peers"].items()) or "none"
    return (f"machine: {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_bytes'] / (1 << 30):.1f} GiB, "
            f"Linux {machine['kernel']}, KVM: {machine['host']}, load {machine['load']:.2f}\n"
            f"measured: {machine['mayfly']}, revision {machine['revision']}, {machine['date']}\npeers: {peers}")
