"""How each class of a mix and each stage of a ramp fared, revision by revision. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from perfguard.model.scenario import Strategy
from perfguard.model.trial import Completed, LatencySummary, LoadResult, Trial
from perfguard.report import words
from perfguard.report.fact_table import FactTable

if TYPE_CHECKING:
    from perfguard.model.revision import Revision

_LATENCIES = (">TTFT p50 (ms)", ">TTFT p99 (ms)", ">E2E p50 (ms)", ">E2E p99 (ms)")
_NOTE = "Medians over the trials. Nothing here was tested: a difference may be noise."


def load_tables(trials: Sequence[Trial], revisions: Sequence[Revision]) -> tuple[FactTable, ...]:
    """Give a table of the classes of media and one of the stages, each only where the trials had any."""
    labels = {name: revision.label for revision in revisions for name in (revision.commit, revision.label)}
    classes: dict[tuple[str, str], list[tuple[int, int, LatencySummary | None, LatencySummary | None]]] = {}
    stages: dict[tuple[str, str], list[LoadResult]] = {}
    for who, load in _loads(trials, labels):
        for each in load.media:
            classes.setdefault((each.name, who), []).append((each.sent, each.succeeded, each.ttft, each.e2e))
        for stage in load.stages:
            stages.setdefault((stage.name, who), []).append(stage.result)
    tables = []
    if stages:
        tables.append(
            FactTable(
                title="Stages of the load",
                columns=("Stage", "Revision", ">Trials", ">Throughput (req/s)", ">Failed", *_LATENCIES),
                rows=tuple(_stage_row(*key, stages[key]) for key in _in_order(stages)),
                note=_NOTE,
            )
        )
    if classes:
        tables.append(
            FactTable(
                title="Classes of media",
                columns=("Class", "Revision", ">Trials", ">Requests", ">Failed", *_LATENCIES),
                rows=tuple(_class_row(*key, classes[key]) for key in _in_order(classes)),
                note=_NOTE,
            )
        )
    return tuple(tables)


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


def _stage_row(name: str, who: str, results: Sequence[LoadResult]) -> tuple[str, ...]:
    sent = sum(each.sent for each in results)
    failed = sum(each.errors + each.timeouts for each in results)
    return (
        words.one_line(name, 60),
        who,
        f"{len(results):,}",
        words.number(median(each.throughput_rps for each in results)),
        f"{failed:,} of {sent:,}",
        *_latencies([each.ttft for each in results], [each.e2e for each in results]),
    )


def _class_row(
    name: str, who: str, results: Sequence[tuple[int, int, LatencySummary | None, LatencySummary | None]]
) -> tuple[str, ...]:
    sent = sum(each[0] for each in results)
    failed = sent - sum(each[1] for each in results)
    return (
        words.one_line(name, 60),
        who,
        f"{len(results):,}",
        f"{sent:,}",
        f"{failed:,} of {sent:,}",
        *_latencies([each[2] for each in results], [each[3] for each in results]),
    )


def _latencies(
    ttft: Sequence[LatencySummary | None], e2e: Sequence[LatencySummary | None]
) -> tuple[str, str, str, str]:
    pairs = [[each for each in summaries if each is not None] for summaries in (ttft, e2e)]
    first, whole = pairs
    return (
        words.number(median(each.p50_ms for each in first) if first else None),
        words.number(median(each.p99_ms for each in first) if first else None),
        words.number(median(each.p50_ms for each in whole) if whole else None),
        words.number(median(each.p99_ms for each in whole) if whole else None),
    )
