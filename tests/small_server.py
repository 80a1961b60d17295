"""What tests of target `command` measure: a small HTTP server in one file, and a repository of revisions of it."""

from __future__ import annotations

import os
import subprocess

_PROGRAM = """
import asyncio
import sys
{prelude}


async def answer(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = 0
            for line in head.split(b"\\r\\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = await reader.readexactly(length)
            reply = {reply}
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(reply) + reply)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[-1]))
    async with server:
        await server.serve_forever()


asyncio.run(main())
"""


def program(reply, *, prelude=""):
    """Return a server that listens on the port of its last argument.

    `reply` is an expression, of `head` and `body` (bytes), that gives bytes and may await; `prelude` comes before it.
    """
    return _PROGRAM.format(reply=reply, prelude=prelude)


class Repository:
    """A git repository at `path`, made anew or gone on with; no setting of the user's reaches it."""

    def __init__(self, path):
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def commit(self, subject, files):
        """Write `files`, texts by their paths, and commit all; gives the hash."""
        for name, text in files.items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def git(self, *arguments):
        """Run git there; gives what it prints."""
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *who, *arguments],
            cwd=self.path,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        )
        return done.stdout.strip()
