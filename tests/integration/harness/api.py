"""A client of the API that shows everything: status line, headers as sent, body; and raw bytes."""
import dataclasses
import json
import re
import socket
import struct

from .clock import TookTooLong, scaled

ANSWER_SECONDS = 60


@dataclasses.dataclass
class Answer:
    """One HTTP answer, as it came."""

    version: str
    status: int
    reason: str
    headers: list  # of (name, value)
    body: bytes

    def header(self, name):
        """The value of a header, or None; there must not be two."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) < 2, f"{name} came {len(found)} times"
        return found[0] if found else None

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def fault(self):
        """The text of a refusal; there must be nothing else in its body."""
        assert self.status == 400, self
        assert set(self.json) == {"fault_message"}, self
        return self.json["fault_message"]


class ConnectionClosed(Exception):
    """The server has closed the connection; `rest` is what came before."""

    def __init__(self, rest):
        super().__init__(f"the server closed the connection after {rest!r}")
        self.rest = rest


class Connection:
    """One connection, which stays open until close()."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        # Not Python's own time-out: that would make connect(2) fail when it only had to wait.
        seconds = struct.pack("ll", int(scaled(ANSWER_SECONDS)), 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        self.buffer = b""
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """More bytes into the buffer."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError as late:
            raise TookTooLong(f"no answer within {scaled(ANSWER_SECONDS):g} s") from late
        except ConnectionResetError:
            data = b""
        if not data:
            raise ConnectionClosed(self.buffer)
        self.buffer += data

    def read_head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.receive()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"(HTTP/1\.[01]) ([0-9]{3}) (.*)", lines[0])
        assert match, f"not a status line: {lines[0]!r}"
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(": ")
            assert colon and re.fullmatch(r"[A-Za-z-]+", name), f"not a header: {line!r}"
            headers.append((name, value))
        return Answer(match[1], int(match[2]), match[3], headers, b"")

    def read_answer(self):
        answer = self.read_head()
        length = int(answer.header("Content-Length") or 0)
        while len(self.buffer) < length:
            self.receive()
        answer.body, self.buffer = self.buffer[:length], self.buffer[length:]
        return answer

    def read_end(self):
        """Waits for the server to close the connection; returns the bytes that came before."""
        while True:
            try:
                self.receive()
            except ConnectionClosed as closed:
                return closed.rest

    def request(self, method, path, body=None, headers=()):
        self.send(request_bytes(method, path, body, headers))
        return self.read_answer()


def request_bytes(method, path, body=None, headers=()):
    """A request as bytes. A body that is not bytes is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class Api:
    """Requests on connections of their own."""

    def __init__(self, path):
        self.path = path

    def connect(self):
        return Connection(self.path)

    def try_connect(self):
        try:
            self.connect().close()
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        return True

    def request(self, method, path, body=None, headers=()):
        with self.connect() as connection:
            return connection.request(method, path, body, headers)

    def get(self, path):
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def put(self, path, body):
        """A PUT that must succeed."""
        answer = self.request("PUT", path, body)
        assert answer.status == 204, answer

    def patch(self, path, body):
        answer = self.request("PATCH", path, body)
        assert answer.status == 204, answer

    def refusal(self, method, path, body=None):
        """The fault message of a request that must be refused."""
        return self.request(method, path, body).fault

    def start(self):
        self.put("/actions", {"action_type": "InstanceStart"})

    def pause(self):
        self.patch("/vm", {"state": "Paused"})

    def resume(self):
        self.patch("/vm", {"state": "Resumed"})

    def state(self):
        return self.get("/")["state"]
