"""Read a server's log: its end, and the one line that says why the server died."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A server that was logging for minutes may have written hundreds of megabytes; the reason stands near the end.
_TAIL_BYTES = 256 * 1024
_EXCEPTION = re.compile(r"^(?:\w+\.)*(?P<name>\w*(?:Error|Exception|Interrupt|Exit|NotFound))(?:: (?P<text>.*))?$")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
# What the processes say that were only torn along: the peer or the child had died before.
_SECONDARY = re.compile(
    r"EOFError|KeyboardInterrupt|SystemExit|CancelledError|BrokenPipeError|ConnectionResetError"
    r"|Connection (?:closed|reset) by peer|Broken pipe|Connection refused|another rank is gone"
)
_ADDRESS_IN_USE = re.compile(r"address already in use|EADDRINUSE|\[?Errno 98\b", re.IGNORECASE)
_MAX_REASON_CHARS = 300


def tail(log_path: Path, lines: int) -> str:
    """Return the last `lines` lines of a log; empty when there is none."""
    return "\n".join(_last_part(log_path).splitlines()[-lines:])


def died_of_taken_address(log_path: Path) -> bool:
    """Tell whether the log says that an address was in use."""
    return _ADDRESS_IN_USE.search(_last_part(log_path)) is not None


def last_exception(log_path: Path, *, source_root: Path) -> str | None:
    """Return the exception a server died of as one line, with the place that raised it; None when the log has none.

    The last one that is not a mere consequence (a lost connection to a rank that had died). Paths below
    `source_root` are given relative to it.
    """
    found = secondary = None
    place = ""
    for line in _last_part(log_path).splitlines():
        if frame := _FRAME.match(line):
            place = f"{_shorten(frame['file'], source_root)}:{frame['line']}"
        elif _EXCEPTION.match(line):
            text = line.strip()[:_MAX_REASON_CHARS] + (f" ({place})" if place else "")
            if _SECONDARY.search(line):
                secondary = text
            else:
                found = text
            place = ""
    return found or secondary


def _shorten(file: str, source_root: Path) -> str:
    return file.removeprefix(f"{source_root}/")


def _last_part(log_path: Path) -> str:
    try:
        with log_path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
