"""Frames between the agent inside the emulated host, the supervisor outside, and its clients.

One byte stream carries many commands. A frame is a header (channel, kind, length of the payload)
and its payload. A channel is one command; between a client and the supervisor, where a connection
is one command, the channel is always 0.

Neither side sends more than WINDOW bytes of one stream of one command before the other has
acknowledged them, so that a command whose output nobody reads blocks itself and nothing else.

The agent imports this too, so nothing here may be slow to import.
"""
import struct

HEADER = struct.Struct("<IBI")
NUMBER = struct.Struct("<i")
CREDIT = struct.Struct("<BI")
SIZE = struct.Struct("<HH")
WINDOW = 256 * 1024
CHUNK = 32 * 1024

HELLO = 1  # agent, once: ready for commands
START = 2  # client: run this (see pack_request)
STDIN = 3  # client: data for the command; empty: end of file
STDOUT = 4  # agent: data from the command
STDERR = 5  # agent: likewise
EXIT = 6  # agent, last of a channel: NUMBER, the exit status or the negative signal
SIGNAL = 7  # client: NUMBER, to the command's process group
KILL = 8  # client: SIGKILL to everything that the command started
CREDITS = 9  # either: CREDIT, that many bytes of stream STDIN, STDOUT or STDERR were consumed
RESIZE = 10  # client: SIZE, the terminal's rows and columns
SHUTDOWN = 11  # client: end every command and the host
BYE = 12  # agent: nothing will be lost when the host stops now
FAILED = 13  # supervisor, last of a channel: text, the host is gone
POKE = 14  # supervisor: asks for a POKED; what counts most is the interrupt that brings it
POKED = 15  # agent: it lives

WANT_STDIN = 1
WANT_TERMINAL = 2
KEEP_RUNNING = 4


def frame(channel, kind, payload=b""):
    return HEADER.pack(channel, kind, len(payload)) + payload


class Reader:
    """Cuts a byte stream into frames."""

    def __init__(self):
        self.pending = bytearray()

    def feed(self, data):
        """Yields (channel, kind, payload) for every frame that is complete with this data."""
        self.pending += data
        start = 0
        while len(self.pending) - start >= HEADER.size:
            channel, kind, length = HEADER.unpack_from(self.pending, start)
            end = start + HEADER.size + length
            if len(self.pending) < end:
                break
            yield channel, kind, bytes(self.pending[start + HEADER.size:end])
            start = end
        del self.pending[:start]


def pack_request(flags, size, cwd, argv, environment):
    """The payload of START. Strings are bytes without NUL, which the kernel would refuse anyway."""
    fields = [b"%d" % flags, b"%d" % size[0], b"%d" % size[1], cwd, b"%d" % len(argv)]
    fields += argv
    fields += [name + b"=" + value for name, value in environment.items()]
    return b"\0".join(fields)


def unpack_request(payload):
    flags, rows, columns, cwd, count, *rest = payload.split(b"\0")
    argv, environment = rest[:int(count)], rest[int(count):]
    pairs = (item.partition(b"=") for item in environment)
    return int(flags), (int(rows), int(columns)), cwd, argv, {name: value for name, _, value in pairs}
