"""A network of one TAP, in a network namespace of its own: nothing of this machine's is touched."""
import contextlib
import ctypes
import itertools
import os
import re
import socket
import subprocess

import pytest

from .clock import scaled

HOST_ADDRESS, PREFIX = "10.0.0.1", 24
GUEST_ADDRESS = "10.0.0.2"
TAP = "tap0"

CLONE_NEWNET = 0x40000000
numbers = itertools.count()


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def enter(path):
    """Puts this thread into a network namespace; what sockets it then makes stay there."""
    fd = os.open(path, os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns", path)
    finally:
        os.close(fd)


class Network:
    """Made by make(); the monitor joins it by options={"wrapper": network.wrapper}."""

    def __init__(self):
        self.name = f"mayfly-{os.getpid()}-{next(numbers)}"
        ip("netns", "add", self.name)
        try:
            ip("-n", self.name, "link", "set", "lo", "up")
            ip("-n", self.name, "tuntap", "add", "dev", TAP, "mode", "tap")
            ip("-n", self.name, "addr", "add", f"{HOST_ADDRESS}/{PREFIX}", "dev", TAP)
            ip("-n", self.name, "link", "set", TAP, "up")
        except subprocess.CalledProcessError:
            self.clean_up()
            raise

    @property
    def wrapper(self):
        return "ip", "netns", "exec", self.name

    @contextlib.contextmanager
    def inside(self):
        """This thread is in the network's namespace."""
        enter(f"/run/netns/{self.name}")
        try:
            yield
        finally:
            enter(f"/proc/{os.getpid()}/ns/net")

    def socket(self, *how):
        with self.inside():
            made = socket.socket(*how)
        made.settimeout(scaled(10))
        return made

    def ping(self, address, count=3, payload_bytes=56, seconds=5):
        """How many answers came."""
        done = subprocess.run([*self.wrapper, "ping", "-n", "-c", str(count), "-i", "0.2", "-s", str(payload_bytes),
                               "-W", str(int(scaled(seconds))), address], check=False, capture_output=True, text=True)
        return int(re.search(r"([0-9]+) received", done.stdout)[1])

    def clean_up(self):
        ip("netns", "delete", self.name, check=False)


def make(needs):
    """A network, or the test is skipped and says why."""
    needs("ip", "ping")
    if os.geteuid() != 0:
        pytest.skip("only root can make TAPs")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("this host has no /dev/net/tun")
    return Network()
