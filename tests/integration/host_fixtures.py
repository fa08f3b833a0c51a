"""Fixtures for tests that run in the emulated host (tests/host/README.md)."""
import os
import pathlib
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, os.fspath(REPOSITORY / "tests" / "host"))

from emulated_host import EmulatedHost  # noqa: E402

# Folders of the machine that the emulated host has its own of: what lies there must be shared.
HIDDEN = ("/tmp", "/run", "/dev")


def pytest_configure(config):
    config.addinivalue_line("markers", "emulated_host: boots the emulated host, or needs it booted")


@pytest.fixture(scope="session")
def emulated_host(tmp_path_factory):
    """One emulated host for all tests of the session; tmp_path is the same folder inside."""
    shares = {tmp_path_factory.getbasetemp()}
    for folder in (REPOSITORY, os.environ.get("MAYFLY_BUILD")):
        if folder and os.path.realpath(folder).startswith(tuple(f"{top}/" for top in HIDDEN)):
            shares.add(pathlib.Path(folder).resolve())
    with EmulatedHost(shares=sorted(os.fspath(share) for share in shares)) as host:
        yield host
