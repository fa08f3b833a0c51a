"""Snapshots in a test: made, loaded, and the guest that goes on."""
import dataclasses
import pathlib
import subprocess


@dataclasses.dataclass
class Snapshot:
    """The two files of one snapshot."""

    state: pathlib.Path
    memory: pathlib.Path

    @classmethod
    def at(cls, workshop, name):
        return cls(workshop.path(f"{name}.state"), workshop.path(f"{name}.memory"))

    def create_body(self, kind="Full"):
        return {"snapshot_path": str(self.state), "mem_file_path": str(self.memory), "snapshot_type": kind}

    def load_body(self, **fields):
        return {"snapshot_path": str(self.state),
                "mem_backend": {"backend_type": "File", "backend_path": str(self.memory)}, **fields}


def save(monitor, snapshot, kind="Full"):
    """Pauses and saves; the guest stays paused."""
    monitor.api.pause()
    monitor.api.put("/snapshot/create", snapshot.create_body(kind))
    return snapshot


def load(workshop, snapshot, *arguments, resume=True, options=None, **fields):
    """A new monitor with the guest of the snapshot."""
    monitor = workshop.monitor(*arguments, api=True, **(options or {}))
    monitor.api.put("/snapshot/load", snapshot.load_body(resume_vm=resume, **fields))
    return monitor


def refuse(workshop, snapshot, **fields):
    """A load that must fail: returns what the client is told. The process then ends."""
    monitor = workshop.monitor(api=True)
    text = monitor.api.refusal("PUT", "/snapshot/load", snapshot.load_body(**fields))
    assert monitor.wait() == 152
    assert text in monitor.stderr
    workshop.forget(monitor)
    return text


def merge(workshop, base, diff):
    return subprocess.run([workshop.program, "merge-memory", base, diff], capture_output=True, text=True, check=False)
