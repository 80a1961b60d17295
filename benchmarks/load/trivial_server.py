"""A server that costs next to nothing: it counts a request's bytes and answers with one canned stream.

It answers every POST with the events of a real answer of two tokens, as HTTP/1.1 chunks in one write. It prints its
port, serves until its stdin closes, and pins itself to a core when it is told one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

TOKENS = ({"role": "assistant", "content": ""}, {"content": "amber"}, {"content": " anchor"}, {"content": None})


def canned_answer() -> bytes:
    """Return the bytes of one whole answer."""
    events = [
        json.dumps(
            {
                "id": "0123456789abcdef0123456789abcdef",
                "object": "chat.completion.chunk",
                "created": 1761868800,
                "model": "default",
                "choices": [
                    {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, "matched_stop": None}
                ],
            }
        )
        for delta in TOKENS
    ]
    head = (
        b"HTTP/1.1 200 OK\r\ndate: Thu, 30 Oct 2025 00:00:00 GMT\r\nserver: uvicorn\r\n"
        b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    pieces = [f"data: {event}\n\n".encode() for event in (*events, "[DONE]")]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class Answering(asyncio.Protocol):
    """One connection: waits for a whole request, answers, and waits again."""

    answer = canned_answer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = transport
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        """Take the next bytes; the last one of a request sends the answer."""
        if self._left == 0:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            lower = self._head[:end].lower()
            start = lower.index(b"content-length:") + 15
            length = int(lower[start : (lower + b"\r\n").index(b"\r\n", start)])
            self._left = length - (len(self._head) - end - 4)
            self._head = b""
        else:
            self._left -= len(data)
        if self._left == 0:
            self._transport.write(self.answer)


async def serve() -> None:
    """Serve until stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Answering, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(serve())
