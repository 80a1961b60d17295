"""The GIL in trials: one line a role from a recording, and `gil_contended` judged beside the good revision."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.evidence.gil import thread_shares
from perfguard.evidence.intervals import Change, change
from perfguard.evidence.rule_config import GIL_CONTENDED, RuleConfig
from perfguard.model.gil_trial import RoleGil
from perfguard.model.result import Evidence, Finding
from perfguard.model.threads import GilAnswer, ProcessTicks, ThreadRecording

if TYPE_CHECKING:
    from collections.abc import Sequence

# A look at a server of four processes with 120 threads took 0.9 ms of CPU on a busy machine (benchmarks/gil): at this
# rate 0.8% of two cores. Five seconds of load give 100 looks, which tell a share to within ten points, and its mean
# over three trials to within six.
TRIAL_RATE_HZ = 20.0
_FRAC = "frac"


def role_gils(recording: ThreadRecording, config: RuleConfig | None = None) -> tuple[RoleGil, ...]:
    """Tell of every role what a trial keeps; of a role with several processes, the one that ran most."""
    config = config or RuleConfig()
    busiest: dict[str, tuple[float, RoleGil]] = {}
    for process in recording.processes:
        told = _role_gil(process, config)
        if told is not None and (process.role not in busiest or busiest[process.role][0] < told.running_frac):
            busiest[process.role] = (told.running_frac, told)
    return tuple(told for _, (_, told) in sorted(busiest.items()))


def judge_gil_trials(
    before: Sequence[Sequence[RoleGil]], after: Sequence[Sequence[RoleGil]], config: RuleConfig | None = None
) -> tuple[Finding, ...]:
    """Judge `gil_contended` for every role whose GIL was watched on both sides.

    It fires where the role's busiest thread waits for the GIL `gil_wait_frac` of its time and `gil_wait_of_wanted` of
    the time in which it wanted the interpreter, and the waiting grew beyond its noise. A role whose GIL could not be
    watched leaves a finding that says why.

    Args:
        before: of each trial of the good revision, what `role_gils` told.
        after: the same for the revision in question.
        config: the thresholds; the defaults if None.
    """
    config = config or RuleConfig()
    sides = [[{told.role: told for told in trial} for trial in side] for side in (before, after)]
    roles = sorted({role for trial in sides[0] for role in trial} & {role for trial in sides[1] for role in trial})
    return tuple(
        _judge_role(role, *[[trial[role] for trial in side if role in trial] for side in sides], config=config)
        for role in roles
    )


def _role_gil(process: ProcessTicks, config: RuleConfig) -> RoleGil | None:
    shares = thread_shares(process, config)
    if not shares:
        return None
    top = shares[0]
    watched = process.gil is GilAnswer.WATCHED and process.ticks > 0
    return RoleGil(
        role=process.role,
        thread=top.name,
        looks=top.ticks,
        running_frac=top.running_frac,
        hold_frac=top.gil_hold_frac,
        wait_frac=top.gil_wait_frac,
        waiting_threads=sum(share.gil_wait_frac or 0.0 for share in shares) if watched else None,
        held_frac=process.gil_held_ticks / process.ticks if watched else None,
        unknown=top.gil_unknown,
    )


def _judge_role(role: str, before: Sequence[RoleGil], after: Sequence[RoleGil], *, config: RuleConfig) -> Finding:
    threshold = (
        f"the busiest thread waits for the GIL {config.gil_wait_frac:.0%} of its time or more, and "
        f"{config.gil_wait_of_wanted:.0%} or more of the time in which it wants the interpreter; and that grew beyond "
        "its noise"
    )
    known = [[told for told in side if told.wait_frac is not None] for side in (before, after)]
    if not all(known):
        why = next((told.unknown for told in (*before, *after) if told.unknown), "it was not seen")
        return Finding(
            rule=GIL_CONTENDED,
            role=role,
            fired=False,
            effect=f"Not judged: the GIL of {role} cannot be told: {why}.",
            threshold=threshold,
            evidence=(),
        )
    waits = [[told.wait_frac or 0.0 for told in side] for side in known]
    moved = change(
        waits[0],
        waits[1],
        confidence=config.confidence,
        grain_before=[1.0 / max(1, told.looks) for told in known[0]],
        grain_after=[1.0 / max(1, told.looks) for told in known[1]],
    )
    used = [fmean(_used(told) for told in side) for side in known]
    wanted = moved.after + used[1]
    fired = (
        _grew(moved, config)
        and moved.after >= config.gil_wait_frac
        and moved.after >= config.gil_wait_of_wanted * wanted
    )
    held = [fmean(told.held_frac or 0.0 for told in side) for side in known]
    crowd = [fmean(told.waiting_threads or 0.0 for told in side) for side in known]
    return Finding(
        rule=GIL_CONTENDED,
        role=role,
        fired=fired,
        effect=(
            f"{known[1][0].thread}, the busiest thread of {role}, waits for the GIL {moved.after:.1%} of its time "
            f"({moved.before:.1%} before{_interval(moved, config)})."
        ),
        threshold=threshold,
        evidence=(
            Evidence(what="busiest thread waits for the GIL", unit=_FRAC, before=moved.before, after=moved.after),
            Evidence(what="busiest thread holds the GIL, or runs", unit=_FRAC, before=used[0], after=used[1]),
            Evidence(what="GIL is held by any thread", unit=_FRAC, before=held[0], after=held[1]),
            Evidence(what="threads that wait at once, mean", unit="threads", before=crowd[0], after=crowd[1]),
        ),
    )


def _used(told: RoleGil) -> float:
    return told.running_frac if told.hold_frac is None else told.hold_frac


def _grew(moved: Change, config: RuleConfig) -> bool:
    if moved.p_value is not None:
        return moved.growth > 0.0 and moved.excludes_zero
    return moved.growth >= config.gil_wait_frac


def _interval(moved: Change, config: RuleConfig) -> str:
    if moved.low is None or moved.high is None:
        return "; one trial on a side"
    return f"; change {moved.growth:+.1%}, {config.confidence:.0%} interval {moved.low:+.1%} to {moved.high:+.1%}"
