"""QEMU's monitor, as far as a host that stands still needs it: QMP over a stream (QEMU's docs/interop/qmp-spec)."""
import asyncio
import json

ANSWER_SECONDS = 10


class Monitor:
    def __init__(self, sock):
        self.socket = sock
        self.reader = self.writer = None
        self.lost = ""  # why there will be no answers

    async def answer(self):
        """The next answer to a command; events and the greeting are passed over."""
        while line := await self.reader.readline():
            message = json.loads(line)
            if "return" in message:
                return message["return"]
            if "error" in message:
                return f"refused: {message['error'].get('desc')}"
        raise ConnectionError("the monitor is closed")

    async def ask(self, command, arguments):
        if self.reader is None:
            self.reader, self.writer = await asyncio.open_connection(sock=self.socket)
            self.writer.write(b'{"execute": "qmp_capabilities"}\n')
            await self.answer()
        self.writer.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        return await self.answer()

    async def say(self, line):
        """What QEMU answers to a line for people (`info registers`), or that it does not."""
        try:
            if not self.lost:
                return await asyncio.wait_for(self.ask("human-monitor-command", {"command-line": line}), ANSWER_SECONDS)
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            self.lost = f"QEMU does not answer: {str(error) or 'timed out'}"
        return self.lost
