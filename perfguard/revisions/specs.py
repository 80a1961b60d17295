"""What a managed environment holds: specs as data files, read and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from perfguard.model.errors import UsageError

_SUFFIX = ".toml"
_BUNDLED = Path(__file__).parent / "specs"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStep:
    """Packages that one call of the installer installs; with `no_deps` without what they require."""

    packages: tuple[str, ...]
    no_deps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSpec:
    """What a managed environment holds: `steps` are installed in order, `requires_python` is a PEP 440 specifier.

    `expected_size_bytes` and `expected_time_s` are told before the work starts, `note` with them.
    """

    name: str
    summary: str
    requires_python: str
    expected_size_bytes: int
    expected_time_s: float
    steps: tuple[InstallStep, ...]
    note: str = ""

    def digest(self) -> str:
        """A hash of what decides the environment's contents; the summary, the note and the estimates do not."""
        contents = [self.name, self.requires_python, [dataclasses.asdict(step) for step in self.steps]]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()

    def allows_python(self, version: str) -> bool:
        """Whether a Python of `version` (such as `3.11.7`) can hold this environment."""
        return SpecifierSet(self.requires_python).contains(version, prereleases=True)


def bundled_specs() -> tuple[EnvironmentSpec, ...]:
    """The specs that perfguard ships, by name."""
    return tuple(_parse(file.read_bytes(), file.name) for file in sorted(_BUNDLED.glob(f"*{_SUFFIX}")))


def load_spec(name_or_path: str) -> EnvironmentSpec:
    """The shipped spec of that name, or the one in that TOML file.

    Raises:
        UsageError: there is no such spec, or the file is not a valid one.
    """
    if name_or_path.endswith(_SUFFIX):
        path = Path(name_or_path)
        try:
            return _parse(path.read_bytes(), str(path))
        except OSError as error:
            raise UsageError(f"cannot read the environment spec {path}: {error.strerror}") from error
    specs = {spec.name: spec for spec in bundled_specs()}
    if name_or_path not in specs:
        raise UsageError(
            f"there is no environment spec {name_or_path!r}", hint=f"known: {', '.join(specs)}; or pass a .toml file"
        )
    return specs[name_or_path]


def _parse(content: bytes, source: str) -> EnvironmentSpec:
    try:
        data = msgspec.toml.decode(content)
        _refuse_unknown_keys(data, EnvironmentSpec, where="the spec")
        for step in data.get("steps", ()):
            _refuse_unknown_keys(step, InstallStep, where="a step")
        spec = msgspec.convert(data, EnvironmentSpec)
        SpecifierSet(spec.requires_python)
    except (msgspec.MsgspecError, InvalidSpecifier, UnicodeDecodeError) as error:
        raise UsageError(f"{source} is not a valid environment spec: {error}") from error
    if not spec.name.replace("-", "").replace("_", "").isalnum() or not spec.steps:
        raise UsageError(f"{source} is not a valid environment spec: it needs a plain name and at least one step")
    for package in (package for step in spec.steps for package in step.packages):
        if package.startswith("-"):
            raise UsageError(f"{source} is not a valid environment spec: {package!r} is an option, not a package")
    return spec


def _refuse_unknown_keys(table: dict[str, Any], kind: type, *, where: str) -> None:
    """A key with a typing error (`no_dep`) must not be ignored."""
    unknown = set(table) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise msgspec.ValidationError(f"{where} has the unknown key {min(unknown)!r}")
