"""Numbers and names as people read them. Every face of a result uses these, so that the faces agree."""

from __future__ import annotations

import math

NOT_MEASURED = "n/a"

_MOST_DECIMALS = 6
_MINUTE_S = 60
_HOUR_S = 3600
_ROUNDS_TO_ZERO_PERCENT = 0.05
_SMALLEST_PERCENT = 0.01
_WHOLE_PERCENT = 100

_METRICS = {
    "throughput_rps": ("Throughput", "req/s", True),
    "e2e_p50_ms": ("E2E latency p50", "ms", False),
    "e2e_p99_ms": ("E2E latency p99", "ms", False),
    "ttft_p50_ms": ("TTFT p50", "ms", False),
}
_UNITS = {"rps": "req/s", "ms": "ms", "us": "us", "s": "s", "bytes": "bytes", "frac": "fraction"}

# What a spreadsheet takes a cell for a formula by.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def number(value: float | None) -> str:
    """Write `value` with three significant digits, or every digit before the point; `n/a` where there is none."""
    if value is None or not math.isfinite(value):
        return NOT_MEASURED
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")  # 0.0999999 is 0.100, not 0.1000
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    if decimals > _MOST_DECIMALS:
        return f"{value:.2e}"
    return f"{value:,.{decimals}f}"


def signed(value: float | None) -> str:
    """Write `value` like `number`, with its sign always shown."""
    text = number(value)
    return text if text in (NOT_MEASURED, "0") or text.startswith("-") else f"+{text}"


def percent_change(ratio: float | None) -> str:
    """Write the ratio after / before as a change: 0.838 is `-16.2%`, 3.5 is `+250%`."""
    if ratio is None or not math.isfinite(ratio):
        return NOT_MEASURED
    change = (ratio - 1.0) * 100.0
    if abs(change) < _ROUNDS_TO_ZERO_PERCENT:
        return "0.0%"
    return f"{change:+,.0f}%" if abs(change) >= _WHOLE_PERCENT else f"{change:+.1f}%"


def share(part: float, whole: float) -> str:
    """Write `part` of `whole` in percent; `n/a` of nothing."""
    if not whole > 0 or not math.isfinite(part):
        return NOT_MEASURED
    if part == 0:
        return "0%"
    frac = part / whole * 100.0
    return "<0.01%" if 0 < frac < _SMALLEST_PERCENT else f"{frac:.2f}%"


def seconds(value: float) -> str:
    """Write a duration given in seconds: `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    if not math.isfinite(value):
        return NOT_MEASURED
    if value < _MINUTE_S:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S:02d} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02d} min"


def counted(count: int, noun: str) -> str:
    """Write `1 trial`, `2,000 trials`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of `text` where it is longer than `limit`: a name's end tells as much as its beginning."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[-tail:] if tail else ''}"


def one_line(text: str, limit: int) -> str:
    """Put `text` on one line of at most `limit` characters."""
    return shorten(" ".join(text.split()), limit)


def metric_name(metric: str) -> str:
    """Name a metric as people say it; a metric that is not a user metric keeps its own name."""
    return _METRICS[metric][0] if metric in _METRICS else metric


def metric_unit(metric: str) -> str:
    """Name the unit of a metric, or an empty string where its name does not tell."""
    if metric in _METRICS:
        return _METRICS[metric][1]
    return _UNITS.get(metric.rpartition("_")[2], "")


def metric_larger_is_better(metric: str) -> bool | None:
    """Tell whether a larger value is better; None for a metric that is not a user metric."""
    return _METRICS[metric][2] if metric in _METRICS else None


def spreadsheet_text(text: str) -> str:
    """Write `text` as a cell that no spreadsheet takes for a formula: it then begins with `'`."""
    return f"'{text}" if text.startswith(_FORMULA) else text
