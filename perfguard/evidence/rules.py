"""The rules: what a change of evidence means, each judged for every role beside the good revision.

A rule that stays silent leaves its finding too, with the numbers that kept it silent. All thresholds stand in
`RuleConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import fmean
from typing import TYPE_CHECKING

from perfguard.evidence.callsites import CallClass
from perfguard.evidence.gpu_rules import judge_cards
from perfguard.evidence.rank_rules import judge_duplicates, judge_event_loops, judge_ranks
from perfguard.evidence.rule_changes import class_change, working_change
from perfguard.evidence.rule_config import CPU_SATURATED, PICKLE_DOMINATED, RuleConfig
from perfguard.evidence.rule_parts import CORES, FRAC, MS_PER_REQUEST, rose, tell_interval, unknown, went
from perfguard.evidence.stacks import function_key
from perfguard.model.errors import PerfguardError
from perfguard.model.result import Evidence, Finding

__all__ = ["CPU_SATURATED", "PICKLE_DOMINATED", "RuleConfig", "judge"]

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perfguard.evidence.trial import RoleEvidence, RoleLoad, TrialEvidence
    from perfguard.model.profile import Frame


def judge(
    before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig | None = None
) -> tuple[Finding, ...]:
    """Judge every rule for every role that ran on both sides.

    Args:
        before: trials of the good revision.
        after: trials of the revision in question.
        config: the thresholds; the defaults if None.

    Returns:
        One finding a rule and role, those that fired first; the roles in the order of their names. Rules about several
        ranks leave none where there is one rank only, nor do those about event loops and cards where there are none.

    Raises:
        PerfguardError: a side has no trial.
    """
    if not before or not after:
        side = "good" if not before else "bad"
        raise PerfguardError(f"the rules cannot be judged: the {side} revision has no completed trial")
    config = config or RuleConfig()
    roles = sorted(
        {role for trial in before for role in trial.loads} & {role for trial in after for role in trial.loads}
    )
    findings = [rule(role, before, after, config) for rule in (_judge_pickle, _judge_saturation) for role in roles]
    for rule_of_many in (judge_event_loops, judge_ranks, judge_duplicates, judge_cards):
        findings += rule_of_many(before, after, config)
    return tuple(sorted(findings, key=lambda finding: not finding.fired))


def _judge_pickle(
    role: str, before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> Finding:
    threshold = (
        f"pickling grew beyond its noise by {config.pickle_growth_of_working:.0%} or more of the working CPU before, "
        f"and is {config.pickle_share:.0%} or more of the working CPU after"
    )
    profiled_before = [trial.roles[role] for trial in before if role in trial.roles]
    profiled_after = [trial.roles[role] for trial in after if role in trial.roles]
    if not profiled_before or not profiled_after:
        return unknown(PICKLE_DOMINATED, role, threshold)
    pickle = class_change(CallClass.PICKLE, profiled_before, profiled_after, config)
    working_before = fmean(evidence.costs.working_ms for evidence in profiled_before)
    working_after = fmean(evidence.costs.working_ms for evidence in profiled_after)
    share_before = pickle.before / working_before if working_before else 0.0
    share_after = pickle.after / working_after if working_after else 0.0
    fired = (
        rose(pickle, config)
        and pickle.growth >= config.pickle_growth_of_working * working_before
        and share_after >= config.pickle_share
    )
    site, site_before, site_after = _top_site(CallClass.PICKLE, profiled_before, profiled_after)
    where = f"; its growth is mostly at {site}" if site_after > site_before else ""
    return Finding(
        rule=PICKLE_DOMINATED,
        role=role,
        fired=fired,
        effect=(
            f"Pickling in {role} {went(pickle, config)} {tell_interval(pickle, config)}and is {share_after:.0%} of its "
            f"working CPU ({share_before:.0%} before){where}."
        ),
        threshold=threshold,
        evidence=(
            Evidence(what="pickling", unit=MS_PER_REQUEST, before=pickle.before, after=pickle.after),
            Evidence(what="pickling, share of working CPU", unit=FRAC, before=share_before, after=share_after),
            Evidence(
                what="working CPU under the sampler", unit=MS_PER_REQUEST, before=working_before, after=working_after
            ),
            *(
                [Evidence(what=f"pickling called at {site}", unit=MS_PER_REQUEST, before=site_before, after=site_after)]
                if site
                else []
            ),
        ),
    )


def _judge_saturation(
    role: str, before: Sequence[TrialEvidence], after: Sequence[TrialEvidence], config: RuleConfig
) -> Finding:
    threshold = (
        f"polling taken off, the busiest thread works {config.thread_saturated_cores:g} cores or more, the machine is "
        f"{config.machine_saturated_frac:.0%} busy, or that thread waits for a core {config.run_delay_frac:.0%} of the "
        "time that it is ready; and this was not so before, or the working CPU per request grew beyond its noise"
    )
    state_before = _state([trial.loads[role] for trial in before if role in trial.loads], before)
    state_after = _state([trial.loads[role] for trial in after if role in trial.loads], after)
    if state_before is None or state_after is None:
        return unknown(CPU_SATURATED, role, threshold)
    working = working_change(role, before, after, config)
    was, now = _reached(state_before, config), _reached(state_after, config)
    grew = rose(working, config)
    entered = any(
        state_after.reading(limit) - state_before.reading(limit) >= config.saturation_step for limit in now - was
    )
    fired = bool(now) and (grew or (entered and working.growth > 0.0))
    return Finding(
        rule=CPU_SATURATED,
        role=role,
        fired=fired,
        effect=(
            f"{_saturation_effect(role, state_before, state_after, was, now)}; the working CPU of {role} "
            f"{went(working, config)}."
        ),
        threshold=threshold,
        evidence=(
            Evidence(
                what="busiest thread, working",
                unit=CORES,
                before=state_before.thread_cores,
                after=state_after.thread_cores,
            ),
            Evidence(what="working CPU", unit=MS_PER_REQUEST, before=working.before, after=working.after),
            Evidence(
                what="CPU with polling", unit=MS_PER_REQUEST, before=state_before.cpu_ms, after=state_after.cpu_ms
            ),
            Evidence(
                what="busiest thread's wait for a core",
                unit=FRAC,
                before=state_before.run_delay_frac,
                after=state_after.run_delay_frac,
            ),
            *_machine_evidence(state_before, state_after),
        ),
    )


class _Limit(Enum):
    """What can be saturated."""

    THREAD = "thread"
    MACHINE = "machine"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """How busy a role and its machine were, as means over trials."""

    thread_cores: float
    run_delay_frac: float
    machine_frac: float | None
    cpu_ms: float

    def reading(self, limit: _Limit) -> float:
        """Return the number that is held against `limit`; 0.0 where it is not known."""
        if limit is _Limit.THREAD:
            return self.thread_cores
        return self.run_delay_frac if limit is _Limit.QUEUE else self.machine_frac or 0.0


def _state(loads: Sequence[RoleLoad], trials: Sequence[TrialEvidence]) -> _State | None:
    cores = [load.busiest_thread_cores for load in loads if load.busiest_thread_cores is not None]
    if not cores:
        return None
    machine = [trial.machine_working_frac for trial in trials if trial.machine_working_frac is not None]
    return _State(
        thread_cores=fmean(cores),
        run_delay_frac=fmean(load.run_delay_frac for load in loads),
        machine_frac=fmean(machine) if machine else None,
        cpu_ms=fmean(load.cpu_ms_per_request for load in loads),
    )


def _reached(state: _State, config: RuleConfig) -> frozenset[_Limit]:
    limits = {
        _Limit.THREAD: config.thread_saturated_cores,
        _Limit.MACHINE: config.machine_saturated_frac,
        _Limit.QUEUE: config.run_delay_frac,
    }
    reached = {limit for limit, threshold in limits.items() if state.reading(limit) >= threshold}
    if state.thread_cores < config.run_delay_min_cores:
        reached.discard(_Limit.QUEUE)
    return frozenset(reached)


def _saturation_effect(role: str, before: _State, after: _State, was: frozenset[_Limit], now: frozenset[_Limit]) -> str:
    if not now:
        nearest = max((_Limit.THREAD, _Limit.MACHINE), key=after.reading)
        return f"Nothing is saturated: {_in_words(nearest, role, before, after)}"
    readings = "; ".join(_in_words(limit, role, before, after) for limit in _Limit if limit in now)
    when = "as before" if now <= was else "not so before"
    return f"Saturated ({when}): {readings}"


def _in_words(limit: _Limit, role: str, before: _State, after: _State) -> str:
    if limit is _Limit.THREAD:
        return f"the busiest thread of {role} works {after.thread_cores:.2f} cores ({before.thread_cores:.2f} before)"
    if limit is _Limit.MACHINE:
        machine_before = "unknown" if before.machine_frac is None else f"{before.machine_frac:.0%}"
        return f"the machine is {after.machine_frac or 0.0:.0%} busy with work ({machine_before} before)"
    return (
        f"the busiest thread of {role} waits for a core {after.run_delay_frac:.0%} of the time that it is ready "
        f"({before.run_delay_frac:.0%} before)"
    )


def _machine_evidence(before: _State, after: _State) -> tuple[Evidence, ...]:
    if before.machine_frac is None or after.machine_frac is None:
        return ()
    return (Evidence(what="machine busy with work", unit=FRAC, before=before.machine_frac, after=after.machine_frac),)


def _top_site(
    call_class: CallClass, before: Sequence[RoleEvidence], after: Sequence[RoleEvidence]
) -> tuple[str, float, float]:
    """Return where a class of call grew most, `function (file:line)`, and what the calls of that function cost.

    Both costs, before and after, are means over trials. Functions are compared, since lines move between revisions; the
    line is the one that costs most after.
    """
    lines_after = _site_means(call_class, after)
    functions_before, functions_after = _by_function(_site_means(call_class, before)), _by_function(lines_after)
    if not functions_after:
        return "", 0.0, 0.0
    top = max(functions_after, key=lambda name: (functions_after[name] - functions_before.get(name, 0.0), name))
    line = max(
        (frame for frame in lines_after if function_key(frame) == top),
        key=lambda frame: (lines_after[frame], frame.line),
    )
    return str(line), functions_before.get(top, 0.0), functions_after[top]


def _site_means(call_class: CallClass, side: Sequence[RoleEvidence]) -> dict[Frame, float]:
    means: dict[Frame, float] = {}
    for evidence in side:
        for (kind, frame), cost_ms in evidence.site_ms.items():
            if kind is call_class:
                means[frame] = means.get(frame, 0.0) + cost_ms / len(side)
    return means


def _by_function(lines: dict[Frame, float]) -> dict[str, float]:
    functions: dict[str, float] = {}
    for frame, cost_ms in lines.items():
        functions[function_key(frame)] = functions.get(function_key(frame), 0.0) + cost_ms
    return functions
