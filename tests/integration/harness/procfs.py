"""What the host's kernel says of a process."""
import pathlib


def vcpu_runtimes_ns(pid):
    """How long each vCPU thread has run so far, by its name."""
    times = {}
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        name = (task / "comm").read_text().strip()
        if name.startswith("vcpu"):
            times[name] = int((task / "schedstat").read_text().split()[0])
    return times


def open_descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
