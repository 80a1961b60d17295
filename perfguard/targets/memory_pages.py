"""Huge pages for the memory that a server's processes allocate: how they are asked for, and whether they come."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from perfguard.model.study import MemoryPages

if TYPE_CHECKING:
    from collections.abc import Sequence

_VARIABLE = "GLIBC_TUNABLES"
_ASK = "glibc.malloc.hugetlb=1"
_PROBE_MIB = 64
_PROBE_LIMIT_S = 30
# Touches a block that malloc gives, and says how much of the process then lies in huge pages.
_PROBE = f"""
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
ctypes.memset(libc.malloc({_PROBE_MIB} << 20), 1, {_PROBE_MIB} << 20)
kib = [int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages:")]
print(sum(kib) // 1024)
"""


def pages_environment(pages: MemoryPages, others: Sequence[tuple[str, str]] = ()) -> tuple[tuple[str, str], ...]:
    """Return the environment `others` with what asks glibc's malloc for such pages; its other settings are kept.

    Where the kernel's setting is `madvise`, malloc's asking decides; `always` gives huge pages to all, `never` to none.

    Source: the GNU C Library's manual, "Memory Allocation Tunables" (glibc 2.35 and later).
    """
    if pages is MemoryPages.DEFAULT:
        return tuple(others)
    kept = dict(others)
    return tuple({**kept, _VARIABLE: ":".join(filter(None, (kept.get(_VARIABLE), _ASK)))}.items())


def probe_pages(python: Path, pages: MemoryPages) -> str:
    """Say how much of a block of 64 MiB lies in huge pages in a process of `python` that is started so."""
    environment = {**os.environ, **dict(pages_environment(pages))}
    try:
        done = subprocess.run(
            (str(python), "-I", "-c", _PROBE),
            env=environment,
            capture_output=True,
            text=True,
            timeout=_PROBE_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"not known: {error}"
    return f"{int(done.stdout)} of {_PROBE_MIB} MiB in huge pages"
