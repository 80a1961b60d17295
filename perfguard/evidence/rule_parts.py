"""What the rules share: telling a growth from noise, and putting it into words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfguard.model.result import Finding

if TYPE_CHECKING:
    from perfguard.evidence.intervals import Change
    from perfguard.evidence.rule_config import RuleConfig

MS_PER_REQUEST = "ms/request"
FRAC = "frac"
CORES = "cores"


def unknown(rule: str, role: str, threshold: str) -> Finding:
    """Say that a role cannot be judged; a rule without stacks never fires, since polling would pass for work."""
    return Finding(
        rule=rule,
        role=role,
        fired=False,
        effect=f"Not judged: {role} has no stacks on one side, so its work cannot be told from polling.",
        threshold=threshold,
        evidence=(),
    )


def rose(moved: Change, config: RuleConfig) -> bool:
    """Tell a growth from noise: by its interval, or with one trial a side by its size."""
    if moved.growth <= 0.0:
        return False
    if moved.p_value is not None:
        return moved.excludes_zero
    return (
        moved.growth >= config.single_trial_growth_ms
        and moved.growth >= config.single_trial_growth_frac * moved.before
        and moved.growth >= config.single_trial_errors * moved.error
    )


def went(moved: Change, config: RuleConfig) -> str:
    """Put a change into words, such as `rose from 1.20 to 3.40 ms/request`."""
    numbers = f"{moved.before:.2f} to {moved.after:.2f} ms/request"
    if rose(moved, config):
        return f"rose from {numbers}"
    return (
        f"fell from {numbers}"
        if moved.p_value is not None and moved.excludes_zero
        else f"did not change beyond noise ({numbers})"
    )


def tell_interval(moved: Change, config: RuleConfig) -> str:
    """Put a change's interval into words, with a space behind them."""
    if moved.low is None or moved.high is None:
        return "(one trial on a side) "
    return f"({moved.growth:+.2f}, {config.confidence:.0%} interval {moved.low:+.2f} to {moved.high:+.2f}) "
