"""A threshold for broadcasting multimodal inputs, from the trials of a study or from its CSV."""

from __future__ import annotations

from pathlib import Path

from perfguard.evidence.study import judge_cells, recommend_threshold
from perfguard.model.errors import UsageError
from perfguard.model.scenario import Strategy
from perfguard.model.study import StudyTrial, Threshold
from perfguard.report.study_files import read_csv
from perfguard.store import RunStore

# As a study's default; a threshold does not depend on it, only which strategy is said to lead everywhere.
_MIN_EFFECT_FRAC = 0.05


def tune(source: Path, confidence: float) -> Threshold:
    """Recommend a threshold from a study's folder, which may be unfinished, or from its CSV.

    Raises:
        UsageError: there is no study, or no trial in it.
    """
    trials = _read(source)
    if not trials:
        raise UsageError(
            f"{source} holds no trial of a study", hint="name the folder of a `perfguard study`, or its CSV"
        )
    cells = judge_cells(trials, baseline=Strategy.LOCAL, confidence=confidence, min_effect_frac=_MIN_EFFECT_FRAC)
    return recommend_threshold(trials, cells, confidence=confidence)


def _read(source: Path) -> tuple[StudyTrial, ...]:
    if source.is_dir():
        with RunStore.open(source.resolve()) as store:
            return store.study_trials()
    return read_csv(source)
