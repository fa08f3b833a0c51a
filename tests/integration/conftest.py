"""Fixtures of the integration tests: the real mayfly, on whatever host this is.

Which kernels there are for guests depends on the host (harness/kernels.py). Tests that take the
fixture `kernel` run with the first of them, those that take `each_kernel` with all.
"""
import contextlib
import os
import pathlib
import shutil
import signal
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from harness import kernels, namespaces  # noqa: E402
from harness.forks import Forks  # noqa: E402
from harness.jail import Jails  # noqa: E402
from harness.workshop import Workshop  # noqa: E402

pytest_plugins = ["host_fixtures", "lanes"]


def pytest_configure():
    """What a shell runs in the background ignores the first two, and what nohup runs the third; so would every monitor
    under test, which is to show what it does when they come. What is handled here, children do not inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, lambda number, frame: os._exit(128 + number))
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


def pytest_addoption(parser):
    parser.addoption("--mayfly", metavar="PATH", help="the program to test (or set MAYFLY)")
    parser.addoption("--shown", metavar="FILE", help="leave out tests marked `once` whose function this file names, "
                     "one a line: they passed elsewhere")


@pytest.fixture(scope="session")
def program(request):
    named = request.config.getoption("--mayfly") or os.environ.get("MAYFLY")
    path = pathlib.Path(named or kernels.REPOSITORY / "build" / "mayfly").absolute()
    if not os.access(path, os.X_OK):
        pytest.exit(f"{path}: no such program; name it with --mayfly or MAYFLY", returncode=2)
    return path


@pytest.fixture
def workshop(program):
    work = Workshop(program)
    yield work
    work.clean_up()


@pytest.fixture(scope="session")
def new_workshop(program):
    """For fixtures whose guests serve several tests: a workshop that ends with the `with`."""
    @contextlib.contextmanager
    def make():
        work = Workshop(program)
        try:
            yield work
        finally:
            work.clean_up()

    return make


@pytest.fixture
def forks(workshop):
    made = Forks(workshop)
    yield made
    made.clean_up()


@pytest.fixture
def jails(program):
    made = Jails(program)
    if not made.prisoner.exists():
        pytest.skip("this build has no tests/jail/prisoner (sanitizers cannot be linked statically)")
    yield made
    made.clean_up()


@pytest.fixture(scope="session")
def host_kind():
    return kernels.host_kind()


@pytest.fixture(scope="session")
def kvm(host_kind):
    """For tests whose guest is a few instructions long: they run on every KVM."""
    if host_kind == "none":
        pytest.skip(kernels.why_no_guests())


def pytest_generate_tests(metafunc):
    available = kernels.guest_kernels()
    for name, chosen in (("kernel", available[:1]), ("each_kernel", available)):
        if name in metafunc.fixturenames:
            if chosen:
                metafunc.parametrize(name, chosen, ids=str, scope="session")
            else:
                metafunc.parametrize(name, [pytest.param(None, marks=pytest.mark.skip(
                    reason=kernels.why_no_guests()))], ids=["no-kernel"], scope="session")


def suits(item):
    """Whether the kernel that a test is to run with can do what the test is about."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    kernel = params.get("kernel") or params.get("each_kernel")
    vcpus = item.get_closest_marker("vcpus")
    if kernel and vcpus and kernel.max_vcpus < vcpus.args[0]:
        return False
    if kernel and not kernel.keyboard and item.get_closest_marker("keyboard"):
        return False
    return not (kernel and item.get_closest_marker("plain_kernel")
                and (kernel.modules or kernel.arguments))


def pytest_collection_modifyitems(config, items):
    """On a PVM host some tests have no kernel; they run in the emulated host, so say nothing of them."""
    named = config.getoption("--shown")
    shown = set(pathlib.Path(named).read_text(encoding="utf-8").split()) if named else set()

    def wanted(item):
        function = item.nodeid.partition("[")[0].rpartition("tests/integration/")[2]
        return suits(item) and not (item.get_closest_marker("once") and f"tests/integration/{function}" in shown)

    unwanted = [item for item in items if not wanted(item)]
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if wanted(item)]


def pytest_report_header(config):
    names = ", ".join(map(str, kernels.guest_kernels())) or "none"
    return f"host: {kernels.host_kind()}; guest kernels: {names}"


@pytest.fixture(scope="session")
def can_network():
    reason = namespaces.why_none()
    if reason:
        pytest.skip(reason)


@pytest.fixture
def new_network(can_network):
    """Makes networks that end with the test."""
    made = []

    def make():
        made.append(namespaces.Network())
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def needs():
    """Skips a test when a program is missing, and says which."""
    def check(*programs):
        for name in programs:
            if not shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
                pytest.skip(f"{name} is not installed")
    return check
