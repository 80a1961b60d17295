"""Judge profiles that exist: summarise them one by one, judge the rules, or hold two sides against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perfguard.evidence.callrules import CallClass
from perfguard.evidence.callsites import CallSites
from perfguard.evidence.cost import StackCosts, count_stacks
from perfguard.evidence.diff import ChangeKind, FrameChange, compare_profiles
from perfguard.evidence.profile_rules import ProfileFinding, judge_profiles
from perfguard.evidence.reading import ProfileFormat, ReadProfile, WeightUnit
from perfguard.evidence.rule_config import RuleConfig
from perfguard.evidence.summary import ProfileSummary, summarise
from perfguard.model.errors import PerfguardError, UsageError
from perfguard.model.result import SCHEMA_VERSION
from perfguard.workflows.call_rules import packaged_call_rules, read_call_rules
from perfguard.workflows.profile_files import ProfileSources, collector_paused, find_profiles, read_file, role_of

Json = dict[str, object]

PERCENT = "percent_of_working_samples"
MS_PER_REQUEST = "ms_per_request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """Profiles that were summarised and judged; `profiles` are the same as read, and `sites` what classed them."""

    summaries: tuple[ProfileSummary, ...]
    findings: tuple[ProfileFinding, ...]
    profiles: tuple[ReadProfile, ...]
    sites: CallSites

    @property
    def fired(self) -> bool:
        """Whether a rule fired."""
        return any(finding.fired for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffRequest:
    """What to hold against what. `requests` is how many requests every profile covers; None compares shares.

    `rate_hz` is the sampling rate of profiles that do not tell theirs.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    before_source: Path | None
    after_source: Path | None
    requests: int | None
    rate_hz: float
    confidence: float
    call_rules: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Two sides compared, in `unit`: percent of a role's working samples, or milliseconds per request.

    `trials` holds, by role, how many profiles stand on either side.
    """

    unit: str
    confidence: float
    trials: Mapping[str, tuple[int, int]]
    changes: tuple[FrameChange, ...]


def analyze(places: Sequence[str], source: Path | None, call_rules: Path | None = None) -> Analysis:
    """Summarise and judge profiles.

    Args:
        places: files, folders or patterns.
        source: where the source behind the frames lies; None looks where the frames themselves say.
        call_rules: a TOML file of the server's own names, tried before those that come with perfguard.

    Raises:
        UsageError: an argument means no profile, or `source` is no folder.
        PerfguardError: a profile cannot be read.
    """
    sites = _sites(source, call_rules)
    config = RuleConfig()
    summaries, profiles = [], []
    for path in find_profiles(places):
        with collector_paused():
            profile = read_file(path)
            summary = summarise(profile, sites, name=str(path), role=role_of(path), confidence=config.confidence)
        summaries.append(summary)
        profiles.append(profile)
    return Analysis(
        summaries=tuple(summaries),
        findings=judge_profiles(summaries, config),
        profiles=tuple(profiles),
        sites=sites,
    )


def diff(request: DiffRequest) -> Diff:
    """Hold two sides' profiles against each other; every profile of a role is one trial of it.

    Raises:
        UsageError: an argument means no profile, or no role stands on both sides.
        PerfguardError: a profile cannot be read, or holds no stacks.
    """
    if request.requests is not None and request.requests <= 0:
        raise UsageError(f"--requests must be greater than 0, not {request.requests}")
    if not request.rate_hz > 0.0:
        raise UsageError(f"--rate must be greater than 0, not {request.rate_hz:g}")
    before = _trials(request, request.before, request.before_source)
    after = _trials(request, request.after, request.after_source)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise UsageError(
            f"the sides have no role in common: {', '.join(sorted(before))} and {', '.join(sorted(after))}",
            hint="roles are told by file names, such as rank-0.raw; name both sides' files alike",
        )
    return Diff(
        unit=PERCENT if request.requests is None else MS_PER_REQUEST,
        confidence=request.confidence,
        trials={role: (len(before[role]), len(after[role])) for role in common},
        changes=compare_profiles(
            _by_trial(before, common),
            _by_trial(after, common),
            confidence=request.confidence,
            sources=_both_sources(request),
        ),
    )


def analysis_document(analysis: Analysis) -> Json:
    """Give the document that `perfguard analyze --json` prints."""
    return {
        "schema_version": SCHEMA_VERSION,
        "fired": analysis.fired,
        "profiles": [_summary(each) for each in analysis.summaries],
        "findings": [_finding(each) for each in analysis.findings if each.fired],
        "rules_judged": [_finding(each) for each in analysis.findings],
    }


def diff_document(result: Diff) -> Json:
    """Give the document that `perfguard diff --json` prints; costs are in `unit`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "unit": result.unit,
        "confidence": result.confidence,
        "trials": {role: {"before": before, "after": after} for role, (before, after) in result.trials.items()},
        "frames": [_change(each) for each in result.changes],
    }


def _trials(request: DiffRequest, places: Sequence[str], source: Path | None) -> dict[str, list[StackCosts]]:
    """Return the costs of every profile by role, in the order of the files."""
    sites = _sites(source, request.call_rules)
    trials: dict[str, list[StackCosts]] = {}
    for path in find_profiles(places):
        profile = read_file(path)
        if profile.format is ProfileFormat.CPROFILE:
            raise PerfguardError(
                f"{path} is a table of cProfile: it holds no stacks to compare",
                hint="record with py-spy, or look at the table with `perfguard analyze`",
            )
        polling = {stack.frames for stack in profile.stacks if sites.stack(stack.frames).call_class is CallClass.POLL}
        working = sum(stack.samples for stack in profile.stacks if stack.frames and stack.frames not in polling)
        if not working:
            raise PerfguardError(f"{path} holds not one sample of work")
        grain = _sample_ms(profile, request.rate_hz) / request.requests if request.requests else 100.0 / working
        role = role_of(path)
        costs = count_stacks(profile.stacks, role=role, sample_ms=grain, is_polling=polling.__contains__)
        trials.setdefault(role, []).append(costs)
    return trials


def _sample_ms(profile: ReadProfile, rate_hz: float) -> float:
    if profile.unit is WeightUnit.MICROSECONDS:
        return 1e-3
    return 1000.0 * profile.interval_s if profile.interval_s else 1000.0 / rate_hz


def _by_trial(trials: Mapping[str, Sequence[StackCosts]], roles: Sequence[str]) -> list[dict[str, StackCosts]]:
    longest = max(len(trials[role]) for role in roles)
    return [{role: trials[role][n] for role in roles if n < len(trials[role])} for n in range(longest)]


def _sites(source: Path | None, call_rules: Path | None) -> CallSites:
    rules = packaged_call_rules()
    if call_rules is not None:
        rules = read_call_rules(call_rules).before(rules)
    return CallSites(ProfileSources([source] if source else []), rules)


def _both_sources(request: DiffRequest) -> tuple[ProfileSources, ProfileSources] | None:
    """Return both sides' sources, to tell renamed functions by; one tree for both sides tells nothing."""
    if request.before_source is None or request.after_source is None:
        return None
    return ProfileSources([request.before_source]), ProfileSources([request.after_source])


def _summary(summary: ProfileSummary) -> Json:
    weight = "samples" if summary.unit is WeightUnit.SAMPLES else "time_us"
    return {
        "profile": summary.name,
        "role": summary.role,
        "format": summary.format.value,
        weight: summary.samples,
        "interval_s": summary.interval_s,
        "distinct_stacks": summary.distinct_stacks,
        "threads": [{"thread": each.thread, "tid": each.tid or None, weight: each.samples} for each in summary.threads],
        "classes_frac": {kind.value: frac for kind, frac in summary.class_frac.items()},
        "pickle_frac": summary.pickle_frac,
        "pickle_low_frac": summary.pickle_low,
        "pickle_high_frac": summary.pickle_high,
        "polling_frac": summary.polling_frac,
        "unclassed_frac": summary.unclassed_frac,
        "event_loop": None
        if summary.loop is None
        else {
            weight: summary.loop.samples,
            "blocked_frac": summary.loop.blocked_frac,
            "top_site": summary.loop.top_site or None,
        },
        "top_self": [
            {"frame": each.frame, "self_frac": each.self_frac, "total_frac": each.total_frac}
            for each in summary.top_self
        ],
        "top_total": [
            {"frame": each.frame, "self_frac": each.self_frac, "total_frac": each.total_frac}
            for each in summary.top_total
        ],
        "sites": [{"class": each.call_class.value, "site": each.site, "frac": each.frac} for each in summary.sites],
        "functions": [
            {
                "function": each.function,
                "file": each.file,
                "line": each.line,
                "calls": each.calls,
                "self_s": each.self_s,
                "total_s": each.total_s,
            }
            for each in summary.functions
        ],
    }


def _finding(finding: ProfileFinding) -> Json:
    return {
        "rule": finding.rule,
        "role": finding.role,
        "profiles": list(finding.profiles),
        "fired": finding.fired,
        "effect": finding.effect,
        "threshold": finding.threshold,
        "frac": finding.frac,
        "low_frac": finding.low_frac,
        "high_frac": finding.high_frac,
    }


def _change(each: FrameChange) -> Json:
    frame = each.frame
    return {
        "frame": frame.frame,
        "role": frame.role,
        "kind": each.kind.value,
        "renamed_from": each.renamed_from or None,
        "before": frame.before_ms_per_request,
        "after": frame.after_ms_per_request,
        "before_self": frame.before_self_ms_per_request,
        "after_self": frame.after_self_ms_per_request,
        "change_low": frame.low_ms,
        "change_high": frame.high_ms,
        "significant": frame.significant,
        "regression": frame.significant and each.kind in {ChangeKind.EXPLAINS, ChangeKind.GREW},
    }
