"""How each class of a mix and each stage of a ramp fared, revision by revision. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, LatencySummary, LoadResult, MediaResult, Trial
from perfguard.report import words
from perfguard.report.fact_table import FactTable
from perfguard.report.rows import labels_of

if TYPE_CHECKING:
    from perfguard.model.revision import Revision

_COLUMNS = (">Trials", ">Failed", ">TTFT p50 (ms)", ">TTFT p99 (ms)", ">E2E p50 (ms)", ">E2E p99 (ms)")
_NOTE = (
    "Failed requests are those of all trials, everything else is the median over them. Nothing here was tested: a "
    "difference may be noise."
)


def load_tables(trials: Sequence[Trial], revisions: Sequence[Revision]) -> tuple[FactTable, ...]:
    """Give a table of the stages of the load and one of its classes of media, each only where the trials had any."""
    classes: dict[tuple[str, str], list[MediaResult]] = {}
    stages: dict[tuple[str, str], list[LoadResult]] = {}
    for who, load in _loads(trials, labels_of(revisions)):
        for each in load.media:
            classes.setdefault((each.name, who), []).append(each)
        for stage in load.stages:
            stages.setdefault((stage.name, who), []).append(stage.result)
    tables = (
        FactTable(
            title="Stages of the load",
            columns=("Stage", "Revision", ">Throughput (req/s)", *_COLUMNS),
            rows=tuple(
                (*key, words.number(median(each.throughput_rps for each in stages[key])), *_cells(stages[key]))
                for key in _in_order(stages)
            ),
            note=_NOTE,
        ),
        FactTable(
            title="Classes of media",
            columns=("Class", "Revision", *_COLUMNS),
            rows=tuple((*key, *_cells(classes[key])) for key in _in_order(classes)),
            note=_NOTE,
        ),
    )
    return tuple(table for table in tables if table.rows)


def _loads(trials: Sequence[Trial], labels: dict[str, str]) -> Iterator[tuple[str, LoadResult]]:
    for trial in sorted(trials, key=lambda trial: trial.number):
        if isinstance(trial.outcome, Completed):
            label = labels.get(trial.revision, trial.revision)
            way = "" if trial.strategy == Strategy.AS_COMMITTED.value else f", {trial.strategy}"
            yield words.one_line(label + way, 80), trial.outcome.samples.load


def _in_order(found: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
    """Put the rows of one class or stage together, both in the order in which they were first met."""
    first = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in found))}
    return sorted(found, key=lambda key: first[key[0]])


def _cells(results: Sequence[LoadResult] | Sequence[MediaResult]) -> tuple[str, ...]:
    sent = sum(each.sent for each in results)
    failed = sent - sum(each.succeeded for each in results)
    ttft, e2e = [each.ttft for each in results], [each.e2e for each in results]
    return (f"{len(results):,}", f"{failed:,} of {sent:,}", *_latencies(ttft), *_latencies(e2e))


def _latencies(summaries: Sequence[LatencySummary | None]) -> tuple[str, str]:
    known = [each for each in summaries if each is not None]
    if not known:
        return words.NOT_MEASURED, words.NOT_MEASURED
    return words.number(median(each.p50_ms for each in known)), words.number(median(each.p99_ms for each in known))
