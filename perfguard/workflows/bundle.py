"""Pack a bundle: name the revisions, choose the packages, write the folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from perfguard.model.errors import UsageError
from perfguard.model.progress import Progress
from perfguard.revisions.bundle_wheels import Machine
from perfguard.revisions.bundles import BundleSummary, Contents, create_bundle
from perfguard.revisions.releases import named_releases
from perfguard.revisions.repository import Repository
from perfguard.revisions.specs import load_spec
from perfguard.workflows.places import cache_dir
from perfguard.workflows.scenarios import scenario_dir

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleRequest:
    """What `perfguard bundle create` is asked; lists are separated by commas, `split` is a size such as `60MiB`."""

    out: Path
    revisions: str
    python: str
    platform: str
    provided: str
    environment_spec: str
    repo: str | None
    package: str
    split: str | None


def pack(request: BundleRequest, progress: Progress) -> BundleSummary:
    """Pack the bundle that was asked for.

    Raises:
        UsageError: a revision, the Python, the platform or the size is not one; there is something in the folder.
        PerfguardError: a download fails, or the folder cannot be written.
    """
    refs = _listed(request.revisions)
    if not refs:
        raise UsageError("--revisions names none", hint="give versions, or with --repo anything git names")
    machine = Machine(
        python=request.python,
        platform=request.platform,
        provided=frozenset(str(canonicalize_name(name)) for name in _listed(request.provided)),
    )
    machine.check()
    split_bytes = parse_size(request.split) if request.split is not None else None
    if request.repo is not None:
        repository = Repository.open(request.repo, cache_dir=cache_dir(), progress=progress)
    else:
        repository = named_releases(request.package, refs, cache_dir=cache_dir(), progress=progress)
    contents = Contents(
        repository=repository,
        named={ref: repository.resolve(ref) for ref in refs},
        spec=load_spec(request.environment_spec),
        machine=machine,
        scenarios=scenario_dir(),
        split_bytes=split_bytes,
    )
    return create_bundle(contents, request.out, progress)


def parse_size(text: str) -> int:
    """Read a size such as `60MiB`, `1.5 GB` or `1000`, in bytes.

    Raises:
        UsageError: it is none, or it is 0.
    """
    found = _SIZE.fullmatch(text.strip())
    size = float(found[1]) * _UNITS.get(found[2].lower(), 0) if found else 0.0
    if size < 1:
        raise UsageError(f"--split {text} is no size", hint="give one such as 60MiB")
    return int(size)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())
