"""What /proc says of a running monitor: memory by whose it is, threads, CPU time."""
import dataclasses
import pathlib
import re

from .children import ContenderFailed

MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ")


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes, without the guest's memory: `private` are pages that are this process's alone whatever else runs (anonymous
    ones, and those of files that it has changed); `shared` are unchanged pages of files, which all processes of one
    program share. (smaps calls them private too while there is just one such process.)"""

    private: int
    shared: int
    guest: int          # of the guest's memory what is there
    page_tables: int
    threads: int


def mappings(pid):
    """[(start, end, permissions, {field: bytes})] of /proc/PID/smaps."""
    found = []
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        head = MAPPING.match(line)
        if head:
            found.append((int(head[1], 16), int(head[2], 16), head[3], {}))
        elif line.endswith(" kB"):
            name, _, value = line.partition(":")
            found[-1][3][name] = int(value.split()[0]) * 1024
    return found


def guest_range(maps, memory_bytes):
    """Where the guest's memory lies: neighbouring private writable mappings of exactly its size together. A kernel file
    that is mapped into it makes several of one."""
    start = end = None
    for low, high, permissions, _ in maps:
        if not permissions.startswith("rw") or permissions[3] != "p":
            start = None
            continue
        if start is None or low != end:
            start = low
        end = high
        if end - start == memory_bytes:
            return start, end
        if end - start > memory_bytes:
            # What is below it may have come to touch it: the largest of them alone, then.
            start = low
            if high - low == memory_bytes:
                return low, high
    return None


def memory(pid, memory_bytes):
    """Of a monitor whose guest has that much memory."""
    try:
        maps = mappings(pid)
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise ContenderFailed(f"process {pid} has gone: {error.strerror}") from error
    found = guest_range(maps, memory_bytes)
    if not found:
        raise ContenderFailed(f"process {pid}: no mapping of {memory_bytes >> 20} MiB that could be the guest's memory")
    private = shared = guest = 0
    for low, high, _, fields in maps:
        if found[0] <= low and high <= found[1]:
            guest += fields["Rss"]
        else:
            private += fields["Anonymous"]
            shared += fields["Rss"] - fields["Anonymous"]
    return Memory(private, shared, guest, int(re.search(r"VmPTE:\s+(\d+) kB", status)[1]) * 1024,
                  int(re.search(r"Threads:\s+(\d+)", status)[1]))


def cpu_ns(pid):
    """CPU time of all threads that it has now (sched-stats)."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            continue
    return total
