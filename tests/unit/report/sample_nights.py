"""Nights of the guard for tests: a step that is accepted, an improvement, nights that fail, and a hostile branch."""

from __future__ import annotations

from dataclasses import replace

import sample_results

from perfguard.model.night import (
    Acceptance,
    Alert,
    AlertKind,
    AlertState,
    MachineFingerprint,
    NightCulprit,
    NightRecord,
    NightVerdict,
)
from perfguard.model.result import Effect

HOSTILE = "</script><img src=x onerror=alert(1)> \u202e & \"quoted\" 'too' <!-- token=topsecretvalue"


def effect(percent, *, half_width=1.5):
    ratio = 1 + percent / 100
    low, high = ratio - half_width / 100, ratio + half_width / 100
    return Effect(metric="throughput_rps", ratio=ratio, low=low, high=high, confidence=0.95, pairs=6, starts=3)


def alert(commit, state, first, last, **changed):
    base = Alert(
        id=f"step-{commit}",
        kind=AlertKind.STEP,
        state=state,
        commit=commit,
        first_night=f"n{first}",
        last_night=f"n{last}",
        sentence=f"{commit[:9]} made the server slower.",
        effect=effect(-9),
    )
    return replace(base, **changed)


def night(number, verdict, percent=None, **changed):
    """The night of day `number`; `percent` is the change of its head, None where nothing was measured."""
    base = NightRecord(
        schema_version=1,
        night=f"n{number}",
        number=number,
        started_at=f"2026-01-{number:02d}T02:17:00+00:00",
        repo="https://example.org/server.git",
        branch="main",
        scenario="mm-small-images",
        metric="throughput_rps",
        larger_is_better=True,
        machine=MachineFingerprint(key="k", described="2 cores of a test"),
        head=sample_results.revision(number),
        baseline=sample_results.revision(max(0, number - 1)),
        trusted=sample_results.revision(number),
        verdict=verdict,
        sentence=f"Night {number} says {verdict.value}.",
        reason="",
        effects=() if percent is None else (effect(percent),),
        trials=0 if percent is None else 12,
        wall_s=300.0,
    )
    return replace(base, **changed)


def culprit(number, *, subject=None):
    return NightCulprit(revision=sample_results.revision(number, subject=subject), posterior=0.98, effect=effect(-9))


def nights():
    """Twelve nights of two series, oldest first, every verdict among them."""
    slow = culprit(5)
    commit = slow.revision.commit
    made = [
        night(1, NightVerdict.FIRST, baseline=None),
        night(2, NightVerdict.CLEAN, 0.4),
        night(3, NightVerdict.FAILED, reason="the network is gone", head=None, baseline=None),
        night(4, NightVerdict.CLEAN, -0.8),
        night(
            5, NightVerdict.REGRESSION, -9, culprit=slow, alerts=(alert(commit, AlertState.OPEN, 5, 5),),
            report="runs/n5-bisect/report.html",
        ),
        night(6, NightVerdict.REGRESSION, -8.5, culprit=slow, alerts=(alert(commit, AlertState.UPDATED, 5, 6),)),
        night(
            7, NightVerdict.CLEAN, 0.2,
            alerts=(alert(commit, AlertState.ACCEPTED, 5, 7, sentence="It was accepted: it buys us safety"),),
        ),
        night(8, NightVerdict.UNKNOWN, -3, reason="its interval is too wide"),
        night(9, NightVerdict.IMPROVEMENT, 7, culprit=culprit(9)),
        night(10, NightVerdict.UNFINISHED, -6, reason="the budget ended"),
    ]  # fmt: skip
    bad = culprit(11, subject=HOSTILE)
    made.append(
        night(
            11, NightVerdict.REGRESSION, -12, branch=HOSTILE, scenario="text-only", sentence=HOSTILE, reason=HOSTILE,
            culprit=bad, head=bad.revision, notes=(HOSTILE,), report="../../etc/passwd.html",
            alerts=(alert(bad.revision.commit, AlertState.OPEN, 11, 11, sentence=HOSTILE),),
            machine=MachineFingerprint(key="h", described=HOSTILE),
        )
    )  # fmt: skip
    made.append(night(12, NightVerdict.CLEAN, 1.1))
    return tuple(made)


def acceptances():
    return (
        Acceptance(
            schema_version=1,
            id="a1",
            commit=sample_results.revision(5).commit,
            reason=f"it buys us safety {HOSTILE}",
            after_night="n6",
            accepted_at="2026-01-06T09:00:00+00:00",
        ),
    )
