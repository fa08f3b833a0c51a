"""Monitors that are forks of others."""
import os
import pathlib
import signal

from .api import Api
from .clock import wait_until


class Fork:
    """A monitor that a forker has made: only its API and its process are there."""

    def __init__(self, parent, path, **fields):
        answer = parent.api.request("PUT", "/snapshot/fork", {"api_socket_path": str(path), **fields})
        assert answer.status == 200, answer
        self.report = answer.json
        self.pid = self.report["pid"]
        self.path = path
        self.api = Api(path)

    def is_alive(self):
        try:
            state = pathlib.Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):  # the second when it ends between opening and reading
            return False
        return state != "Z"

    def end(self):
        if self.is_alive():
            os.kill(self.pid, signal.SIGTERM)
            wait_until(lambda: not self.is_alive(), 30, "the end of a forked monitor")


class Forks:
    """Called with a parent and the fields of a request it makes a fork; clean_up() ends them all."""

    def __init__(self, workshop):
        self.workshop = workshop
        self.made = []

    def __call__(self, parent, **fields):
        self.made.append(Fork(parent, self.workshop.path(f"fork-{len(self.made)}.sock"), **fields))
        return self.made[-1]

    def clean_up(self):
        for fork in self.made:
            fork.end()
