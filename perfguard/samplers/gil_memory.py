"""Reads another process's memory and its map, without a pause of that process."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

_MAP_LINE = re.compile(
    r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<flags>\S{4}) (?P<offset>[0-9a-f]+) "
    r"\S+ (?P<inode>\d+)(?: +(?P<path>.*))?"
)
_HIGHEST_ADDRESS = 2**63 - 1


class Memory(Protocol):
    """Something that bytes can be read from by their address."""

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            OSError: some of them are not mapped, the process is gone, or it may not be read.
        """
        ...


class ProcessMemory:
    """The memory of process `pid`, by `/proc/PID/mem`.

    Raises:
        OSError: the process is gone or may not be read.
    """

    def __init__(self, pid: int, proc_root: Path = Path("/proc")) -> None:
        self._fd = os.open(proc_root / str(pid) / "mem", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes from `address`; see `Memory.read`."""
        if address <= 0 or size < 0 or address > _HIGHEST_ADDRESS - size:
            raise OSError(f"no such address: {address:#x}")
        found = os.pread(self._fd, size, address)
        if len(found) != size:  # the mapping ends before, or the process is gone
            raise OSError(f"memory at {address:#x} cannot be read")
        return found

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def __enter__(self) -> ProcessMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An executable file or library that a process has mapped.

    `start` is where its beginning lies, `end` where that first mapping ends. `path` is as the process sees it, in its
    own mount namespace, and may have been deleted since.
    """

    path: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return os.path.basename(self.path.removesuffix(" (deleted)"))  # noqa: PTH119 - a name of another namespace


def read_images(pid: int, proc_root: Path = Path("/proc")) -> tuple[Image, ...]:
    """List the files whose code process `pid` has mapped, in the order of their addresses.

    Raises:
        OSError: the process is gone or may not be read.
    """
    text = (proc_root / str(pid) / "maps").read_text(encoding="utf-8", errors="replace")
    images: list[Image] = []
    with_code: set[Image] = set()
    for line in text.splitlines():
        match = _MAP_LINE.fullmatch(line)
        if match is None or not match["path"] or match["inode"] == "0":
            continue
        if int(match["offset"], 16) == 0:
            images.append(Image(path=match["path"], start=int(match["start"], 16), end=int(match["end"], 16)))
        # A file may be mapped twice: its code belongs to the image that began last.
        if "x" in match["flags"] and images and images[-1].path == match["path"]:
            with_code.add(images[-1])
    return tuple(image for image in images if image in with_code)
