"""Forks of a running guest: for how long it stands still, until the second monitor serves its API, and what forks take.

A guest of the kit (memtouch) of 128 MiB has written 8 or 100 MiB of its memory, or one of 1 GiB 8 MiB, and is forked: the
first fork freezes its memory and copies nothing. Then it writes 1 or 8 MiB before each further fork, which copies what was
written, or nothing. A fork of it is forked, too. The pause is what the monitor answers; the second guest runs when the
answer comes. At last the memory of many forks that are there at once.
"""
import itertools
import json
import os
import signal
import time

from benchmarks.snapshot import clone_count, clone_rows
from benchmarks.startup import ANSWER_SECONDS, Client, clock_ns
from framework import guests
from framework.report import format_value
from framework.session import ContenderFailed, Sample

SUMMARY = "the pause of a guest that is forked, first and later; until the second monitor is there; memory of each fork"
HOSTS = ("native", "emulated")
SECONDS = {"native": 60, "emulated": 3600}
MEMORY_MIB = 128
WRITTEN_MIB = (8, 100)
# Of the guest's memory, and how much of it is written.
FIRST = {**{f"first, {written} MiB written": (MEMORY_MIB, written) for written in WRITTEN_MIB},
         "first, of 1 GiB, 8 MiB written": (1024, 8)}
PAUSE_GOAL_NS = 1_000_000


def declare(report):
    report.measure("pause", "what the guest stands still, as the monitor measures it", "ns")
    report.measure("ready", "PUT /snapshot/fork with resume_vm, from request to answer", "ns")
    report.measure("copied", "of guest memory, before the pause and in it", "bytes")


def fork(client, row, path):
    """(what was measured, the new monitor's process)"""
    body = json.dumps({"api_socket_path": os.fspath(path), "resume_vm": True})
    sent = clock_ns()
    client.socket.sendall(f"PUT /snapshot/fork HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
                          f"{body}".encode())
    answer = client.socket.recv(65536)
    took = clock_ns() - sent
    if not answer.startswith(b"HTTP/1.1 200"):
        raise ContenderFailed(f"PUT /snapshot/fork was answered: {answer.decode(errors='replace')}")
    report = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    return Sample({("pause", row): report["pause_us"] * 1000, ("ready", row): took,
                   ("copied", row): report["copied_bytes"]}, "PUT /snapshot/fork"), report["pid"]


def end_fork(pid, path):
    """Its socket goes as the last thing."""
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + ANSWER_SECONDS
    while path.exists():
        if time.monotonic() > deadline:
            raise ContenderFailed(f"the forked monitor {pid} does not end")
        time.sleep(0.001)


class Parent:
    """A guest that can be forked again and again."""

    def __init__(self, bench, memory_mib, written_mib):
        self.bench = bench
        self.path, self.second = bench.memory_file("fork.socket"), bench.memory_file("forked.socket")
        for path in (self.path, self.second):
            path.unlink(missing_ok=True)
        self.child = bench.start([bench.mayfly, "--enable-fork", "--api-sock", self.path, "--level", "Warn"], stdin="pipe")
        self.client = Client(self.path, self.child.start_ns)
        for what, body in (("boot-source", {"kernel_image_path": os.fspath(guests.kit(bench, "memtouch")),
                                            "boot_args": f"bytes={written_mib}M mode=fill then=serve"}),
                           ("machine-config", {"vcpu_count": 1, "mem_size_mib": memory_mib}),
                           ("actions", {"action_type": "InstanceStart"})):
            self.client.put(f"/{what}", body)
        self.child.wait_for(rb"guest: ready", SECONDS[bench.host])

    def ask(self, command, answer):
        os.write(self.child.stdin_fd, command.encode() + b"\n")
        self.child.wait_for(answer, SECONDS[self.bench.host])

    def fork(self, row):
        sample, pid = fork(self.client, row, self.second)
        end_fork(pid, self.second)
        return sample

    def end(self):
        self.client.socket.close()
        self.bench.forget(self.child)


def first(bench, row):
    parent = Parent(bench, *FIRST[row])
    try:
        return parent.fork(row)
    finally:
        parent.end()


def first_of_fork(bench, parent):
    """A fork that was never forked itself is."""
    third = bench.memory_file("forked-again.socket")
    third.unlink(missing_ok=True)
    _, pid = fork(parent.client, "", parent.second)
    client = Client(parent.second, clock_ns())
    try:
        sample, again = fork(client, "a fork's own first, nothing written", third)
        end_fork(again, third)
        return sample
    finally:
        client.socket.close()
        end_fork(pid, parent.second)


def many(bench, parent):
    """The memory of each."""
    forks = []
    try:
        for number in range(clone_count(bench)):
            path = bench.memory_file(f"forked.{number}.socket")
            path.unlink(missing_ok=True)
            forks.append((fork(parent.client, "", path)[1], path))
        rows = clone_rows([pid for pid, _ in forks], MEMORY_MIB)
    finally:
        for pid, path in forks:
            end_fork(pid, path)
    bench.report.table(f"{len(forks)} forks at once of a guest of {MEMORY_MIB} MiB, which had written {WRITTEN_MIB[0]} MiB",
                       ["", "each (median)"], rows, "PUT /snapshot/fork")


def later(bench):
    """A guest that was forked before. The 8 MiB come last: from then on each fork has them to read."""
    parent = Parent(bench, MEMORY_MIB, WRITTEN_MIB[0])
    seeds = itertools.count(2)

    def dirty(mebibytes):
        seed = next(seeds)
        parent.ask(f"touch {mebibytes * 256}\nseed {seed}", rb"seed value=%d\n" % seed)
        return parent.fork(f"later, {mebibytes} MiB written")

    try:
        parent.fork("first")
        bench.interleave({"mayfly, later fork, 1 MiB": lambda: dirty(1),
                          "mayfly, later fork, nothing written": lambda: parent.fork("later, nothing written"),
                          "mayfly, a fork's own first": lambda: first_of_fork(bench, parent)})
        many(bench, parent)
        bench.interleave({"mayfly, later fork, 8 MiB": lambda: dirty(WRITTEN_MIB[0])})
    finally:
        parent.end()


def measure(bench):
    declare(bench.report)
    with bench.undisturbed():
        bench.interleave({f"mayfly, {row}": lambda row=row: first(bench, row) for row in FIRST})
        later(bench)
    if bench.host == "native":
        for row in (f"first, {WRITTEN_MIB[0]} MiB written", "later, 1 MiB written", "a fork's own first, nothing written"):
            value = bench.report.median("pause", row)
            if value is not None:
                bench.report.goal(f"pause of a guest of {MEMORY_MIB} MiB at most 1 ms: {row}", format_value(value, "ns"),
                                  value <= PAUSE_GOAL_NS)
