"""What the host's kernel says of a process."""
import pathlib

from .clock import wait_until


def vcpu_runtimes_ns(pid):
    """How long each vCPU thread has run so far, by its name."""
    return {name: int((task / "schedstat").read_text().split()[0]) for name, task in vcpu_threads(pid)}


def vcpu_threads(pid):
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        name = (task / "comm").read_text().strip()
        if name.startswith("vcpu"):
            yield name, task


def vcpus_sleep(pid):
    """Whether no vCPU thread is on a CPU or wants one."""
    return all(") S " in (task / "stat").read_text() for _, task in vcpu_threads(pid))


def parked_runtimes_ns(pid):
    """The same of a paused machine: a thread that has left the guest is still on its way to sleep."""
    wait_until(lambda: vcpus_sleep(pid), 60, "all vCPU threads to sleep")
    return vcpu_runtimes_ns(pid)


def open_descriptors(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
