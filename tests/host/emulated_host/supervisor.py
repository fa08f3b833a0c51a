"""Keeps one emulated host: owns its processes and passes frames between clients and the agent.

Started by the client library as `emulated-host supervise`, with a JSON object on standard input:
the machine's options, the folder for sockets and logs, and whether the host is detached. Answers on
standard output with one JSON line: {"ready": seconds} or {"error": text}. Then, unless detached,
the host lives as long as standard input stays open: whoever owns the host may be killed in any way,
and the host goes with it. A detached host needs its owner only until it is up.

Each client connects to FOLDER/control and is one command: the supervisor gives it a channel number
and rewrites the frames' headers, nothing else.
"""
import asyncio
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import sys
import time

from . import protocol
from .machine import HostError, Machine, Options, check_programs
from .qmp import Monitor

SHUTDOWN_SECONDS = 20
# A timer interrupt of the emulated CPU can get lost, and when everything waits for the timer, the host stands still for
# ever (seen: interrupts enabled, the CPU halted, no timer armed). Any further interrupt gets it going again. The likely
# cause is that QEMU 7.2's vCPU thread changes its pending interrupts without a lock when it enters a nested guest.
# A host that answers no poke at all for half of --silence gets an interrupt of another kind, which no such race can lose.
POKE_SECONDS = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    def __init__(self, machine):
        self.machine = machine
        self.clients = {}  # channel: StreamWriter, or None once the client has gone
        self.next_channel = 1
        self.to_agent = None
        self.ready = asyncio.Event()
        self.synced = asyncio.Event()
        self.ended = asyncio.Event()
        self.stopping = False
        self.unanswered = 0  # pokes since the agent was last heard
        self.diagnosis = ""

    async def read_agent(self, stream):
        frames = protocol.Reader()
        while data := await stream.read(1 << 16):
            self.unanswered = 0
            for channel, kind, payload in frames.feed(data):
                if kind == protocol.HELLO:
                    self.ready.set()
                elif kind == protocol.BYE:
                    self.synced.set()
                else:
                    self.to_client(channel, kind, payload)
        self.ended.set()

    def to_client(self, channel, kind, payload):
        writer = self.clients.get(channel)
        if writer:
            writer.write(protocol.frame(0, kind, payload))
        if kind == protocol.EXIT:
            self.clients.pop(channel, None)

    def send(self, channel, kind, payload=b""):
        self.to_agent.write(protocol.frame(channel, kind, payload))

    async def serve(self, reader, writer):
        """One client: one command, or a request to shut down."""
        channel = None
        frames = protocol.Reader()
        try:
            while data := await reader.read(1 << 16):
                for _, kind, payload in frames.feed(data):
                    if kind == protocol.SHUTDOWN:
                        self.stopping = True
                        self.ended.set()
                    elif kind == protocol.START and channel is None:
                        channel, self.next_channel = self.next_channel, self.next_channel + 1
                        self.clients[channel] = writer
                        self.send(channel, kind, payload)
                    elif channel in self.clients:
                        self.send(channel, kind, payload)
        except ConnectionError:
            pass
        if channel in self.clients:
            self.clients[channel] = None
            self.send(channel, protocol.KILL)
        if channel is not None:
            writer.close()

    async def boot(self):
        """Waits for the agent; raises HostError when the host does not come up."""
        seconds = self.machine.options.boot_timeout
        ready = asyncio.ensure_future(self.ready.wait())
        ended = asyncio.ensure_future(self.ended.wait())
        done, rest = await asyncio.wait({ready, ended}, timeout=seconds,
                                        return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        if ready in done:
            return
        what = "ended before it was up" if ended in done else f"was not up after {seconds:g} s"
        raise HostError(f"the emulated host {what}\n{self.machine.last_words()}")

    async def poke(self):
        """Returns when the host is dead. Counts pokes, not seconds: this machine itself may have been asleep."""
        monitor = Monitor(self.machine.monitor)
        patience = self.machine.options.silence // POKE_SECONDS
        while self.unanswered < patience:
            await asyncio.sleep(POKE_SECONDS)
            self.unanswered += 1
            self.send(0, protocol.POKE)
            if self.unanswered == patience // 2:
                await monitor.say("nmi")
        first, second = await monitor.say("info registers"), await monitor.say("info registers")
        self.diagnosis = (f"the emulated host has not answered for {self.unanswered * POKE_SECONDS} s; "
                          f"its CPUs, looked at twice:\n{first}\n{second}")
        self.ended.set()

    async def run(self, folder, report, lifeline, detached):
        """The life of one host."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop_asked)
        os.set_blocking(lifeline, False)
        loop.add_reader(lifeline, self.lifeline_ready, lifeline)
        started = time.monotonic()
        self.machine.start()
        stream, self.to_agent = await asyncio.open_connection(sock=self.machine.port)
        reading = asyncio.ensure_future(self.read_agent(stream))
        await self.boot()
        server = await asyncio.start_unix_server(self.serve, path=folder / "control")
        if detached:
            loop.remove_reader(lifeline)
        report({"ready": time.monotonic() - started})
        # Where instructions are counted, interrupts from outside would be counted too.
        poking = None if self.machine.options.icount else asyncio.ensure_future(self.poke())
        await self.ended.wait()
        server.close()
        if poking:
            poking.cancel()
        if self.stopping:
            await self.shut_down()
        else:
            self.host_died()
        reading.cancel()

    def stop_asked(self):
        self.stopping = True
        self.ended.set()

    def lifeline_ready(self, lifeline):
        with contextlib.suppress(BlockingIOError):
            if not os.read(lifeline, 4096):
                asyncio.get_running_loop().remove_reader(lifeline)
                self.stop_asked()

    async def shut_down(self):
        """Ends the commands and lets the agent write back the shares, so that no result is lost."""
        self.send(0, protocol.SHUTDOWN)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.synced.wait(), SHUTDOWN_SECONDS)

    def host_died(self):
        what = self.diagnosis or "the emulated host ended unexpectedly"
        words = f"{what}\n{self.machine.last_words()}".encode()
        for writer in filter(None, self.clients.values()):
            writer.write(protocol.frame(0, protocol.FAILED, words))


def report(answer):
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(answer), flush=True)


def main():
    request = json.loads(sys.stdin.readline())
    folder = pathlib.Path(request["folder"])
    # Whoever holds this lock is alive; a folder without it is left over from one that was killed.
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    options = Options(**request["options"])
    machine = Machine(options, folder)
    try:
        options.check()
        check_programs()
        asyncio.run(Supervisor(machine).run(folder, report, sys.stdin.fileno(),
                                             request["detached"]))
    except (HostError, OSError) as error:
        report({"error": str(error)})
        return 1
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        machine.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0
