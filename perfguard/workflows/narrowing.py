"""Which revisions a search has to tell apart, and which are likelier: what is known of them without measuring them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from perfguard.model.result import GrownFrame
from perfguard.model.revision import Revision, RevisionChange
from perfguard.model.trial import Trial
from perfguard.search.closure import Closure, close, hidden_commits, keep_all
from perfguard.search.prior import change_of, evidence_prior
from perfguard.targets.sglang_launch import PACKAGE
from perfguard.workflows.metrics import samples_of

# What decides how the package is installed. Perfguard overlays the sources on one environment, so these change nothing
# here; a user's own build may follow them, and they are few.
_PINS = ("python/pyproject*.toml", "pyproject*.toml", "*/requirements*.txt")


class Narrowing:
    """A range seen through what its commits touch: those that cannot matter are folded into their parents."""

    def __init__(self, revisions: Sequence[Revision], changes: Sequence[RevisionChange], *, fold: bool) -> None:
        """`changes[k]` is what `revisions[k]` changed; with `fold` False every revision is kept apart."""
        self._revisions = revisions
        self._changes = changes
        self._fold = fold
        self.closure: Closure = keep_all(len(revisions))

    def look(self, trials: Iterable[Trial]) -> None:
        """Fold what touches nothing that the servers of `trials` loaded; with nothing known of that, fold nothing."""
        used = loaded_files(trials)
        if not self._fold or not used:
            return
        used |= {path for change in self._changes for path in change.paths if _is_package_data(path)}
        closure = close([change.paths for change in self._changes], used, _PINS)
        # The ends differ, so something between them matters: if nothing seems to, what is known is not enough.
        self.closure = closure if closure.can_matter else keep_all(len(self._revisions))

    def overlooked(self, trials: Iterable[Trial]) -> int:
        """How many folded commits touch a file that the servers of `trials` loaded."""
        return len(hidden_commits(self.closure, [change.paths for change in self._changes], loaded_files(trials)))

    @property
    def representatives(self) -> tuple[Revision, ...]:
        """The revisions to search among, in the history's order."""
        return tuple(self._revisions[index] for index in self.closure.representatives)

    def prior(self, grown: Sequence[GrownFrame]) -> tuple[float, ...]:
        """Return a weight for each representative: those that touch the functions that grew weigh more."""
        kept = [self._changes[index] for index in self.closure.representatives]
        return evidence_prior([change_of(change.hunks) for change in kept], grown)


def loaded_files(trials: Iterable[Trial]) -> set[str]:
    """Return the source files that the servers of `trials` loaded, relative to the revision's tree."""
    return {
        file for trial in trials if (samples := samples_of(trial)) is not None for file in samples.server.loaded_files
    }


def _is_package_data(path: str) -> bool:
    """Whether a path is a data file of the package, which a server may open without importing it."""
    return not path.endswith(".py") and PACKAGE in path.split("/")[:2]
