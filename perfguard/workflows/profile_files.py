"""Profiles on disk: which files are meant, whose they are, and where the source behind their frames lies."""

from __future__ import annotations

import gc
import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perfguard.evidence.reading import ReadProfile, read_profile
from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.trial import ROLE_DETOKENIZER, ROLE_TOKENIZER, rank_role

# What is larger was recorded per sample and not per stack; reading it would take the memory of the machine.
MAX_FILE_BYTES = 1 << 30
UNKNOWN_ROLE = "profile"
# What SGLang's processes are called (`scheduler_TP0`), and perfguard's own words.
_RANK = re.compile(r"(?:rank|tp|scheduler)[-_]?(?:tp)?[-_]?(\d+)", re.IGNORECASE)
_SKIPPED_SUFFIXES = {".py", ".md", ".txt.gz", ".html", ".svg", ".png", ".log", ".json5", ".toml", ".sqlite"}


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cycle collector from running while large profiles are read.

    Millions of objects are made that live on and hold no cycles; walking them again and again takes a fifth of the
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_profiles(places: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that arguments mean: paths, patterns such as `runs/*.raw`, and folders with all that is in them.

    Raises:
        UsageError: an argument means no file.
    """
    found: dict[Path, None] = {}
    for place in places:
        files = list(_files(place))
        if not files:
            raise UsageError(
                f"there is no profile at {place}", hint="give files, a folder that holds some, or a quoted pattern"
            )
        found.update(dict.fromkeys(files))
    return tuple(found)


def _files(place: str) -> Iterator[Path]:
    path = Path(place)
    if path.is_dir():
        inside = sorted(each for each in path.rglob("*") if each.is_file())
        yield from (each for each in inside if not each.name.startswith(".") and each.suffix not in _SKIPPED_SUFFIXES)
    elif path.exists():
        yield path
    else:
        # `Path.glob` takes no absolute patterns.
        yield from (Path(each) for each in sorted(glob.glob(place, recursive=True)) if Path(each).is_file())  # noqa: PTH207


def role_of(path: Path) -> str:
    """Return whose profile a file is by its name: a rank, the tokenizer, the detokenizer, or unknown."""
    name = path.name.lower()
    match = _RANK.search(name)
    if match is not None:
        return rank_role(int(match[1]))
    if ROLE_DETOKENIZER in name:
        return ROLE_DETOKENIZER
    return ROLE_TOKENIZER if ROLE_TOKENIZER in name else UNKNOWN_ROLE


def read_file(path: Path, strip_prefixes: Sequence[str] = ()) -> ReadProfile:
    """Read one profile.

    Raises:
        PerfguardError: the file cannot be read, is too large, or is no profile.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PerfguardError(
                f"{path} has {size >> 20} MiB, more than the {MAX_FILE_BYTES >> 20} that are read",
                hint="record with --format raw, which adds equal stacks up",
            )
        data = path.read_bytes()
    except OSError as error:
        raise PerfguardError(f"cannot read {path}: {error.strerror}") from error
    return read_profile(data, name=str(path), strip_prefixes=strip_prefixes)


class ProfileSources:
    """The source behind a profile's frames: below given folders first, and where the frame itself says last.

    A frame may name its file in full, relative to an import root, or (Python 3.15's profiler) by its bare name. A full
    path that is not under a root is matched by its longest tail that is, so that a profile of another machine finds the
    files of a checkout; a bare name only counts where a root holds exactly one such file.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        """Look under `roots`, first match first; with none, where the frames say.

        Raises:
            UsageError: a root is no folder.
        """
        for root in roots:
            if not root.is_dir():
                raise UsageError(f"--source {root} is not a folder")
        self._roots = tuple(roots)
        self._texts: dict[str, str | None] = {}
        self._by_name: dict[str, list[Path]] | None = None

    def source(self, file: str) -> str | None:
        """Return the text of `file`, or None where it is not to be had."""
        if file not in self._texts:
            self._texts[file] = next((text for path in self._places(file) if (text := _text(path)) is not None), None)
        return self._texts[file]

    def _places(self, file: str) -> Iterator[Path]:
        # Native code, frozen modules and what was typed in have no Python source.
        if not file.endswith(".py") or "\x00" in file:
            return
        parts = [part for part in file.split("/") if part not in {"", ".", ".."}]
        for root in self._roots:
            yield from (root.joinpath(*parts[start:]) for start in range(max(0, len(parts) - 1)))
            if len(parts) == 1:
                yield root / file
        if len(parts) == 1:
            named = self._named().get(file, [])
            if len(named) == 1:
                yield named[0]
        if file.startswith("/"):
            yield Path(file)

    def _named(self) -> dict[str, list[Path]]:
        if self._by_name is None:
            self._by_name = {}
            for root in self._roots:
                for path in root.rglob("*.py"):
                    self._by_name.setdefault(path.name, []).append(path)
        return self._by_name


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    except (OSError, ValueError):
        return None
