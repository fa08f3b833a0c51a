"""Networks for tests: namespaces of their own, so that nothing of the machine's network is touched.

A namespace lives as long as its processes. It is held by one that waits for the end of a pipe from
here, so that it goes, with all its TAPs, bridges and addresses, whatever becomes of the tests.
"""
import os
import subprocess

from .clock import scaled

COMMAND_SECONDS = 60


class Network:
    """One network namespace: a host, as far as the network is concerned."""

    def __init__(self):
        self.processes = []
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo made; exec cat >/dev/null"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.holder.stdout.readline() == b"made\n", "no network namespace could be made"
        self.wrapper = ("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "--")
        self.sh("ip link set lo up")

    def sh(self, script, seconds=COMMAND_SECONDS, **options):
        """Runs a script of the shell, which must succeed; returns its output."""
        done = subprocess.run([*self.wrapper, "sh", "-e", "-c", script], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                              timeout=scaled(seconds), **options)
        assert done.returncode == 0, f"{script!r} ended with status {done.returncode}:\n{done.stdout}"
        return done.stdout

    def start(self, *command, **options):
        """Starts a program that close() ends, if it is there still."""
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen([*self.wrapper, *map(os.fspath, command)], **options)
        self.processes.append(process)
        return process

    def tap(self, name, *addresses, mtu=1500):
        """A TAP that is up; returns its name."""
        self.sh(f"ip tuntap add dev {name} mode tap; ip link set dev {name} mtu {mtu} up")
        self.address(name, *addresses)
        return name

    def address(self, device, *addresses):
        for address in addresses:
            # nodad: an address of IPv6 is otherwise of no use for seconds.
            self.sh(f"ip address add {address} dev {device}{' nodad' if ':' in address else ''}")

    def bridge(self, *ports, name="br0", mtu=1500):
        self.sh(f"ip link add {name} type bridge; ip link set {name} mtu {mtu} up")
        for port in ports:
            self.sh(f"ip link set {port} master {name}")
        return name

    def cable(self, near, other, far, mtu=1500):
        """A veth pair: `near` here, `far` in another network; both up."""
        self.sh(f"ip link add {near} mtu {mtu} type veth peer name {far} mtu {mtu} netns {other.holder.pid}; "
                f"ip link set {near} up")
        other.sh(f"ip link set {far} up")

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.holder.stdin.close()
        self.holder.wait()
        self.holder.stdout.close()


def why_none():
    """Why no network can be made here; None when it can."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun cannot be opened: {error.strerror}"
    done = subprocess.run(["unshare", "--net", "ip", "tuntap", "add", "dev", "probe0", "mode", "tap"],
                          capture_output=True, text=True, check=False)
    return f"no TAP can be made in a network of its own: {done.stderr.strip()}" if done.returncode else None
