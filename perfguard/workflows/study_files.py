"""Study files and lists of claims: find them, read them, and say what is wrong with them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perfguard.model.claim import Claim, ClaimList
from perfguard.model.errors import UsageError
from perfguard.model.result import Effect
from perfguard.model.study import StudyMedia, StudyMediaKind, StudySpec
from perfguard.workflows.scenarios import refuse_unknown, scenario_dir

FileT = TypeVar("FileT", StudySpec, ClaimList)
DEFAULT_STUDY = "transport"
_STUDIES = "studies"


def list_studies() -> tuple[StudySpec, ...]:
    """Return every study that comes with perfguard, by name."""
    return tuple(load_study(str(path)) for path in sorted((scenario_dir() / _STUDIES).glob("*.toml")))


def load_study(name_or_path: str) -> StudySpec:
    """Return a study by its name, or by the path of a TOML file.

    Raises:
        UsageError: there is no such study, or the file is not one that can run.
    """
    path = _find(name_or_path, _STUDIES, "study")
    spec = _read(path, StudySpec, "media", StudyMedia)
    check_study(spec, str(path))
    return spec


def load_claims(name_or_path: str) -> ClaimList:
    """Return a list of claims by its name, or by the path of a TOML file.

    Raises:
        UsageError: there is no such list, or the file is not one.
    """
    path = _find(name_or_path, "claims", "list of claims")
    found = _read(path, ClaimList, "claims", Claim)
    for claim in found.claims:
        compares = claim.baseline is not None or claim.user_metric is not None
        if compares and claim.ratio is None and claim.direction is None:
            raise UsageError(f"{path}: {claim.text!r} compares, so it needs a ratio or a direction")
        if min(claim.ratio or 1.0, claim.payload_bytes or 1.0) <= 0:
            raise UsageError(f"{path}: {claim.text!r} needs a ratio and a payload_bytes greater than 0")
    return found


class _ResultDocument(msgspec.Struct, frozen=True):
    """What is read of a `result.json`."""

    effects: tuple[Effect, ...]


def read_effects(path: Path) -> tuple[Effect, ...]:
    """Return the effects that a bisect's or a comparison's `result.json` holds, one a user metric.

    Raises:
        UsageError: the file cannot be read, or holds no effects.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=_ResultDocument).effects
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise UsageError(
            f"{path} holds no effects of a bisect or a comparison: {error}",
            hint="name the result.json of such a run's folder",
        ) from error


def check_study(spec: StudySpec, where: str) -> None:
    """Refuse a study that cannot run.

    Raises:
        UsageError: a number lies outside its range, something is named twice, or nothing is left to measure.
    """
    positive = {
        "requests": spec.requests,
        "starts": spec.starts,
        "blocks_per_start": spec.blocks_per_start,
        "most_in_flight_mb": spec.most_in_flight_mb,
        "min_effect_frac": spec.min_effect_frac,
        "the number of memory_pages": len(spec.memory_pages),
        "every entry of ranks": min(spec.ranks, default=0),
        "every entry of concurrency": min(spec.concurrency, default=0),
    }
    for field, value in positive.items():
        if value <= 0:
            raise UsageError(f"{where}: {field} must be greater than 0, not {value}")
    if not 0.5 < spec.confidence < 1.0:  # noqa: PLR2004 - a level of confidence above chance
        raise UsageError(f"{where}: confidence must lie between 0.5 and 1, not {spec.confidence}")
    names: dict[str, tuple[Any, ...]] = {
        "media": tuple(medium.name for medium in spec.media),
        "strategies": spec.strategies,
        "ranks": spec.ranks,
        "concurrency": spec.concurrency,
        "memory_pages": spec.memory_pages,
    }
    for field, values in names.items():
        if len(set(values)) < len(values):
            raise UsageError(f"{where}: {field} names something twice")
    if len(spec.strategies) < 2:  # noqa: PLR2004 - a winner needs a loser
        raise UsageError(f"{where}: a study compares: name two strategies at least")
    if spec.baseline not in spec.strategies:
        raise UsageError(f"{where}: baseline {spec.baseline.value!r} is none of the strategies")
    for medium in spec.media:
        _check_medium(medium, where)
    if not any(spec.cells(ranks) for ranks in spec.ranks):
        raise UsageError(f"{where}: no cell is left to measure", hint="raise most_in_flight_mb, or add media")


def _check_medium(medium: StudyMedia, where: str) -> None:
    if min(medium.width_px, medium.height_px, medium.count, medium.requests or 1) <= 0:
        raise UsageError(f"{where}: {medium.name} needs a width, a height, a count and requests greater than 0")
    if (medium.kind is StudyMediaKind.VIDEO) is (medium.frames < 1):
        raise UsageError(f"{where}: {medium.name}: frames belong to kind = 'video', and to no other")


def _find(name_or_path: str, folder: str, what: str) -> Path:
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    path = scenario_dir() / folder / f"{name_or_path}.toml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.toml"))
        near = difflib.get_close_matches(name_or_path, known, n=3, cutoff=0.4) or known
        raise UsageError(
            f"no {what} is called {name_or_path!r}",
            hint=f"did you mean {', '.join(near)}? Or give the path of a .toml file",
        )
    return path


def _read(path: Path, kind: type[FileT], entries: str, entry: type[Any]) -> FileT:
    """Read a file whose array of tables `entries` holds `entry`s."""
    try:
        document = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    listed = document.get(entries) if isinstance(document, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UsageError(f"{path}: needs [[{entries}]], one at least")
    refuse_unknown({name: value for name, value in document.items() if name != entries}, kind, path, "")
    for number, table in enumerate(listed, start=1):
        refuse_unknown(table, entry, path, f"{entries} {number}: ")
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from error
