"""A run that exists, judged and told again: every decision is made anew with the trials that were kept.

No server is started. So a report can be made again by a newer perfguard, and a verdict checked.
"""

from __future__ import annotations

import dataclasses
import gzip
import re
import shlex
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from perfguard.model.errors import MissingTrialError, PerfguardError, UsageError
from perfguard.model.fix import FixMode
from perfguard.model.progress import Progress
from perfguard.model.result import BisectResult, CompareResult, Direction, RunResult
from perfguard.model.scenario import Scenario, Strategy
from perfguard.model.trial import Trial
from perfguard.report.clean import AnyResult, clean, clean_text
from perfguard.report.document import write_bytes
from perfguard.revisions.installers import InstallerName
from perfguard.store import RunStore
from perfguard.workflows.bisect import ALL_REVISIONS, FIX, UNTOLD_ROUNDS, bisect
from perfguard.workflows.compare import compare
from perfguard.workflows.measure import measure
from perfguard.workflows.metrics import tell_outcome
from perfguard.workflows.setup import RunRequest

_REPEATS = re.compile(r"run x(\d+)(?: (\S+))?")


KEPT = "judged.json.gz"
KEPT_VERSION = 1
_KINDS: dict[str, type[AnyResult]] = {kind.__name__: kind for kind in (BisectResult, CompareResult, RunResult)}


class _KeptResult(msgspec.Struct, frozen=True):
    """What `keep_result` wrote; `result` is converted once its kind is known."""

    version: int
    kind: str
    result: dict[str, Any]


class _Kept(msgspec.Struct, frozen=True):
    """What `setup.kept_request` wrote."""

    command: str
    repo: str | None
    package: str
    refs: tuple[str, ...]
    installer: InstallerName
    bundle: str | None = None


class _Settings(msgspec.Struct, frozen=True):
    """What a run was created with."""

    verb: str
    revisions: tuple[str, ...]
    scenario: Scenario
    seed: int
    request: _Kept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run's folder as it was left: `verb` with its parameter (`bisect regression`, `run x3`), and the trials.

    `revisions` are the commits that it is about, in the history's order.
    """

    verb: str
    revisions: tuple[str, ...]
    request: RunRequest
    trials: tuple[Trial, ...]

    @property
    def resume_command(self) -> str:
        """The command line that measures what is missing."""
        return resume_command(self.request)


def read_run(run_dir: Path) -> StoredRun:
    """Read what a run's folder holds.

    Raises:
        UsageError: it holds no run, or one that does not tell how it was asked for.
        PerfguardError: its database is damaged.
    """
    run_dir = run_dir.resolve()
    if not (run_dir / "run.sqlite").exists():
        raise UsageError(f"{run_dir} holds no run", hint="name the folder that a bisect, compare or run was kept in")
    with RunStore.open(run_dir) as store:
        try:
            settings = msgspec.convert(store.settings(), _Settings)
        except msgspec.ValidationError as error:
            raise PerfguardError(
                f"the settings of the run in {run_dir} cannot be read: {error}",
                hint="it was written by another version of perfguard, which can still show it",
            ) from error
        trials = store.trials()
    kept = settings.request
    if kept is None:
        raise UsageError(
            f"the run in {run_dir} does not tell how it was asked for: an older perfguard wrote it",
            hint="repeat its command with --resume and --run-dir: trials that are kept are not run again",
        )
    request = RunRequest(
        command=kept.command,
        repo=kept.repo,
        package=kept.package,
        scenario=settings.scenario,
        run_dir=run_dir,
        resume=True,
        seed=settings.seed,
        port=None,
        installer=kept.installer,
        bundle=None if kept.bundle is None else Path(kept.bundle),
        refs=kept.refs,
        replay=True,
    )
    return StoredRun(verb=settings.verb, revisions=settings.revisions, request=request, trials=trials)


def resume_command(request: RunRequest) -> str:
    """Return the command line that goes on with the run in the request's folder."""
    return f"{_without_run_dir(request.command)} --resume --run-dir {shlex.quote(str(request.run_dir))}"


def log_lines(run: StoredRun) -> tuple[str, ...]:
    """Tell what the run did as lines of a shell script: commands, and the trials as comments."""
    run_dir = shlex.quote(str(run.request.run_dir))
    kept = f"{len(run.trials)} trials kept in {run_dir}"
    lines = [
        f"# {run.verb}: {len(run.revisions)} revisions, scenario {run.request.scenario.name}, {kept}",
        *(_trial_line(trial, run.request.scenario) for trial in run.trials),
        "# the report alone, from the trials that were kept:",
        f"#   perfguard report {run_dir}",
        "# on from where it stopped, where it is not finished:",
        f"#   {run.resume_command}",
        "# all of it anew:",
        _without_run_dir(run.request.command),
    ]
    return tuple(" ".join(line.split("\n")) for line in lines)


def _trial_line(trial: Trial, scenario: Scenario) -> str:
    said = tell_outcome(trial, scenario.metric)
    # What a server said may hold anything.
    return clean_text(f"#   trial {trial.number}, block {trial.block}: {trial.revision[:12]} {trial.strategy}: {said}")


def _without_run_dir(command: str) -> str:
    """Take out of a command line what says which run it is to go on with, since a new run is in a new folder."""
    words = shlex.split(command)
    is_value = [place > 0 and words[place - 1] == "--run-dir" for place in range(len(words))]
    kept = [
        word
        for word, skip in zip(words, is_value, strict=True)
        if not (skip or word in ("--run-dir", "--resume") or word.startswith("--run-dir="))
    ]
    return shlex.join(kept)


def replay(run_dir: Path, progress: Progress) -> AnyResult:
    """Judge the run in `run_dir` again and give its result; nothing is measured.

    Where it cannot be judged again (its clone is gone, or another version of perfguard chose its trials), what was
    concluded when it was measured is given as it was kept.

    Raises:
        MissingTrialError: the run is not finished; the hint says how to go on.
        UsageError: the folder holds no run.
    """
    run = read_run(run_dir)
    try:
        return _decide(run, progress)
    except PerfguardError as error:
        kept = read_result(run)
        if kept is not None:
            progress.say(f"cannot be judged again, so what was concluded then is shown: {error.message}")
            return kept
        if isinstance(error, MissingTrialError):
            error.hint = f"{len(run.trials)} trials are kept; continue with: {run.resume_command}"
        raise


def keep_result(result: AnyResult, run_dir: Path) -> None:
    """Keep what a run concluded beside its trials, which stand in the store and are not written twice.

    Raises:
        PerfguardError: the folder cannot be written.
    """
    shown = clean(result, home=str(Path.home()))  # as every face shows it: no secret is kept, and all of it is UTF-8
    fields = {name: getattr(shown, name) for name in _hints(type(shown))}
    body = msgspec.json.encode({"version": KEPT_VERSION, "kind": type(shown).__name__, "result": fields})
    write_bytes(gzip.compress(body, mtime=0), run_dir / KEPT)


def read_result(run: StoredRun) -> AnyResult | None:
    """Give what a run concluded when it was measured; None where that was not kept, or by another version."""
    try:
        kept = msgspec.json.decode(gzip.decompress((run.request.run_dir / KEPT).read_bytes()), type=_KeptResult)
        if kept.version != KEPT_VERSION or kept.kind not in _KINDS:
            return None
        kind = _KINDS[kept.kind]
        fields = {
            name: msgspec.convert(kept.result[name], hint)
            for name, hint in _hints(kind).items()
            if name in kept.result or name not in _added(kind)
        }
    except (OSError, EOFError, KeyError, zlib.error, msgspec.MsgspecError):
        return None
    return kind(**fields, trials=run.trials)


def _hints(kind: type[AnyResult]) -> dict[str, Any]:
    """Give the fields of a result that are kept with it, and their types: all but the trials."""
    return {name: hint for name, hint in get_type_hints(kind).items() if name != "trials"}


def _added(kind: type[AnyResult]) -> set[str]:
    """Name the fields that a kept result may lack, since it may be older than they are."""
    return {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}


def _decide(run: StoredRun, progress: Progress) -> AnyResult:
    name, _, parameter = run.verb.partition(" ")
    # A branch may have moved since; a commit has not. A history of releases knows versions only.
    refs = run.request.refs if run.request.repo is None else run.revisions
    if name == "bisect":
        direction, *rest = parameter.split(" ")
        mode, _, rounds = next((word for word in rest if word.startswith(FIX)), "").removeprefix(FIX).partition(":")
        return bisect(
            run.request,
            refs[0],
            refs[-1],
            Direction(direction),
            progress,
            all_revisions=ALL_REVISIONS in rest,
            fix=FixMode(mode) if mode else FixMode.NONE,
            fix_rounds=int(rounds or UNTOLD_ROUNDS),
        )
    if name == "compare":
        return compare(run.request, refs[0], refs[1], progress)
    if (repeats := _REPEATS.fullmatch(run.verb)) is not None:
        named = (repeats[2] or Strategy.AS_COMMITTED.value).split(",")
        return measure(run.request, refs, int(repeats[1]), progress, tuple(map(Strategy, named)))
    raise UsageError(
        f"the run in {run.request.run_dir} is of {run.verb!r}, which is not known here",
        hint="it was written by another version of perfguard, which can still show it",
    )
