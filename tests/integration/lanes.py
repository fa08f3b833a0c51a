"""Tests shared among several processes, and a journal of what became of each: a pytest plugin.

Lanes are processes that are given the same folder (--share-work): who is first to name a group of tests there runs it.
A lane may be killed at any moment, with the machine under it. What it wrote into its journal (--journal) stays true, and
a process that is given the same journal goes on where that lane was: with what it had claimed, without what it had begun.
"""
import errno
import itertools
import json
import os
import pathlib
import uuid

import pytest

BEGUN = "begun"


def pytest_addoption(parser):
    parser.addoption("--share-work", metavar="DIR", help="share the tests with other processes that are given the same "
                     "folder, empty before the first of them starts: who is first to name a group there runs it")
    parser.addoption("--journal", metavar="FILE", help="write down there what became of each test, a JSON object a line; "
                     "what it names already is not run")


def pytest_configure(config):
    if config.getoption("--journal"):
        config.pluginmanager.register(Journal(config.getoption("--journal")), "journal")


def read_journal(path):
    """{node: (outcome, reason)} in the order in which they began; the outcome is `begun` where the end was not seen."""
    outcomes = {}
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return outcomes
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last one of a process that was killed
        outcomes[entry["node"]] = (entry["outcome"], entry.get("reason", ""))
    return outcomes


class Journal:
    """Each line is one write(), so that it is in the file however this process ends."""

    def __init__(self, path):
        self.known = set(read_journal(path))
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self.fd).st_size
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            os.write(self.fd, b"\n")
        self.outcome = ("passed", "")

    def write(self, **entry):
        os.write(self.fd, json.dumps(entry).encode() + b"\n")

    def pytest_runtest_logstart(self, nodeid):
        self.outcome = ("passed", "")
        self.write(node=nodeid, outcome=BEGUN)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.outcome = ("failed", "")
        elif report.skipped and self.outcome[0] == "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.outcome = ("skipped", reason.removeprefix("Skipped: "))

    def pytest_runtest_logfinish(self, nodeid):
        self.write(node=nodeid, outcome=self.outcome[0], reason=self.outcome[1])


def groups_of(items):
    """Runs of tests that share a guest, each with a name that is the same in every process."""
    def name(item):
        params = item.callspec.params if hasattr(item, "callspec") else {}
        return "-".join([item.nodeid.rpartition("::")[0],
                         *(str(params[key]) for key in ("variant", "kernel", "each_kernel") if params.get(key))])

    for number, (group, members) in enumerate(itertools.groupby(items, name)):
        yield f"{number}-{group}".replace("/", ":"), list(members)


def claim(path, owner):
    """Whether the group is the owner's, now or already. A symbolic link comes into being with its text or not at all."""
    try:
        os.symlink(owner, path)
        return True
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    return os.readlink(path) == owner


def claimed(items, folder, owner):
    groups = sorted(groups_of(items), key=lambda group: not any(item.get_closest_marker("long") for item in group[1]))
    for group, members in groups:
        if claim(folder / group, owner):
            yield from members


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    config = session.config
    folder, journal = config.getoption("--share-work"), config.pluginmanager.get_plugin("journal")
    if not (folder or journal) or session.testsfailed or config.option.collectonly:
        return None
    owner = pathlib.Path(config.getoption("--journal")).name if journal else uuid.uuid4().hex
    mine = claimed(session.items, pathlib.Path(folder), owner) if folder else iter(session.items)
    if journal:
        mine = (item for item in mine if item.nodeid not in journal.known)
    item = next(mine, None)
    while item:
        following = next(mine, None)
        config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True
