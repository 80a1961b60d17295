"""A result as one JSON document for other programs: numbers stay numbers, units stand in the key names.

What is not finite becomes null. The keys are a promise; whoever changes them raises `SCHEMA_VERSION`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfguard.model.result import (
    SCHEMA_VERSION,
    BisectResult,
    BisectVerdict,
    CompareResult,
    Effect,
    Finding,
    GrownFrame,
    RevisionSummary,
    RunInfo,
)
from perfguard.report.clean import AnyResult, clean
from perfguard.report.gil_layers import gil_frames
from perfguard.report.view import measured

if TYPE_CHECKING:
    from perfguard.model.fix import FixResult, Recovery
    from perfguard.model.revision import Revision
    from perfguard.model.strategies import ArmMetric, StrategyTable

Json = dict[str, Any]


def to_json_document(result: AnyResult, report_path: Path | None) -> Json:
    """Give the document that `--json` prints; `report_path` is where the HTML report lies, None where none was written.

    Home directories and secrets are redacted in everything but `report`, which other programs open.
    """
    shown = clean(result, home=str(Path.home()))
    if isinstance(shown, BisectResult):
        body = _bisect(shown)
    elif isinstance(shown, CompareResult):
        body = _compare(shown)
    else:
        body = {
            "metric": shown.run.metric,
            "revisions": [_summary(each) for each in shown.revisions],
            "strategies": [_strategies(each) for each in shown.strategies],
        }
    document = {
        "schema_version": SCHEMA_VERSION,
        **body,
        "trials": len(shown.trials),
        "revisions_measured": measured(shown.search_trials if isinstance(shown, BisectResult) else shown.trials),
        "environment": _environment(shown.run),
        "report": str(report_path) if report_path is not None else None,
    }
    finite: Json = _finite(document)
    return finite


def _bisect(result: BisectResult) -> Json:
    culprit = result.culprit if result.verdict is BisectVerdict.CULPRIT else None
    return {
        "verdict": result.verdict.value,
        "culprit": {**_revision(culprit.revision), "posterior": culprit.posterior} if culprit else None,
        "credible_set": [_revision(each) for each in result.credible_set],
        **_judgements(result),
        "fix": _fix(result.fix) if result.fix is not None else None,
    }


def _fix(fix: FixResult) -> Json:
    return {
        "mode": fix.mode.value,
        "sentence": fix.sentence,
        "notes": list(fix.notes),
        "reverted": _revision(fix.reverted) if fix.reverted is not None else None,
        "conflicts": [
            {"path": each.path, "reason": each.reason, "functions": list(each.functions)} for each in fix.conflicts
        ],
        "patch": fix.patch or None,
        "first_trial": fix.first_trial,
        "arms": [
            {
                **_revision(arm.revision),
                "strategy": arm.strategy.value,
                "trials": arm.trials,
                "untestable_reason": arm.untestable_reason or None,
                "metric_mean": arm.mean,
                "verdict": arm.verdict.value if arm.verdict is not None else None,
                "recovery": _recovery(arm.recovery) if arm.recovery is not None else None,
            }
            for arm in fix.arms
        ],
    }


def _recovery(found: Recovery) -> Json:
    return {
        "frac": found.frac,
        "low": found.low,
        "high": found.high,
        "confidence": found.confidence,
        "rounds": found.rounds,
    }


def _compare(result: CompareResult) -> Json:
    return {
        "verdict": result.verdict.value,
        "baseline": _revision(result.baseline),
        "candidate": _revision(result.candidate),
        **_judgements(result),
    }


def _judgements(result: BisectResult | CompareResult) -> Json:
    decisive = sorted(result.effects, key=lambda effect: effect.metric != result.run.metric)
    return {
        "effect": _effect(decisive[0]) if decisive else None,
        "effects": [
            {**_effect(each), "confidence": each.confidence, "pairs": each.pairs, "starts": each.starts}
            for each in decisive
        ],
        "findings": [_finding(each) for each in result.findings if each.fired],
        "rules_judged": [_finding(each) for each in result.findings],
        "grown_frames": [_frame(each) for each in result.grown_frames],
        "gil_frames": gil_frames(result.baseline_profiles, result.candidate_profiles),
    }


def _revision(revision: Revision) -> Json:
    return {"revision": revision.label, "commit": revision.commit, "subject": revision.subject}


def _effect(effect: Effect) -> Json:
    return {"metric": effect.metric, "ratio": effect.ratio, "low": effect.low, "high": effect.high}


def _finding(finding: Finding) -> Json:
    return {
        "rule": finding.rule,
        "role": finding.role,
        "fired": finding.fired,
        "effect": finding.effect,
        "threshold": finding.threshold,
        "evidence": [
            {"what": each.what, "unit": each.unit, "before": each.before, "after": each.after}
            for each in finding.evidence
        ],
    }


def _frame(frame: GrownFrame) -> Json:
    return {
        "frame": frame.frame,
        "role": frame.role,
        "before_ms_per_request": frame.before_ms_per_request,
        "after_ms_per_request": frame.after_ms_per_request,
        "before_self_ms_per_request": frame.before_self_ms_per_request,
        "after_self_ms_per_request": frame.after_self_ms_per_request,
        "change_low_ms_per_request": frame.low_ms,
        "change_high_ms_per_request": frame.high_ms,
        "significant": frame.significant,
    }


def _summary(summary: RevisionSummary) -> Json:
    return {
        **_revision(summary.revision),
        "strategy": summary.strategy.value,
        "index": summary.index,
        "trials": summary.trials,
        "untestable": summary.untestable,
        "untestable_reason": summary.untestable_reason or None,
        "metric_mean": summary.metric_mean,
        "metric_low": summary.metric_low,
        "metric_high": summary.metric_high,
        "evidence_ms_per_request": summary.evidence_ms_per_request,
        "gpu_busy_frac": summary.gpu_busy_frac,
    }


def _strategies(table: StrategyTable) -> Json:
    return {
        **_revision(table.revision),
        "baseline": table.baseline.value,
        "confidence": table.confidence,
        "blocks": table.blocks,
        "advice": table.advice,
        "arms": [
            {
                "strategy": arm.strategy.value,
                "trials": arm.trials,
                "untestable": arm.untestable,
                "untestable_reason": arm.untestable_reason or None,
                "metrics": [_arm_metric(each) for each in arm.metrics],
            }
            for arm in table.arms
        ],
    }


def _arm_metric(line: ArmMetric) -> Json:
    change = line.change
    return {
        "metric": line.metric,
        "role": line.role or None,
        "mean": line.mean,
        "trials": line.trials,
        "change": {
            "kind": change.kind.value,
            "change": change.change,
            "low": change.low,
            "high": change.high,
            "blocks": change.blocks,
            "meaning": change.meaning.value,
        }
        if change is not None
        else None,
    }


def _environment(run: RunInfo) -> Json:
    return {
        **dict(run.environment),
        "stand_ins": list(run.stand_ins),
        "lost_samples": run.lost_samples,
        "kept_samples": run.kept_samples,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
