"""What `perfguard load` found, as text and as a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.model.scenario import ArrivalKind, LoadSpec, SloSpec
from perfguard.model.trial import LatencySummary, MediaResult, StageResult
from perfguard.report.clean import clean_text
from perfguard.workflows.load import Driven


def driven_document(driven: Driven, url: str) -> dict[str, Any]:
    """Make the JSON document; the records of single requests are left out."""
    result = msgspec.to_builtins(driven.result)
    for each in (result, *(stage["result"] for stage in result["stages"])):
        del each["records"]
    return {
        "schema_version": 1,
        "url": url,
        "load": msgspec.to_builtins(driven.load),
        "result": result,
        "veto": driven.veto,
    }


def record_lines(driven: Driven) -> bytes:
    """Make a line of JSON for each request."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in driven.result.records)


def print_driven(driven: Driven, url: str, console: Console) -> None:
    """Print the rates, the table of latencies, what failed and how the generator did."""
    load, result = driven.load, driven.result
    _line(console, f"{url}: {result.sent} requests in {result.duration_s:.1f} s, {_describe(load)}")
    tokens = "" if result.output_tokens_per_s is None else f", {result.output_tokens_per_s:.1f} output tokens/s"
    _line(console, f"Throughput: {result.throughput_rps:.1f} requests/s{tokens}")
    if load.slo is not None and result.goodput_rps is not None:
        _line(console, f"Goodput: {result.goodput_rps:.1f} requests/s with {_limits(load.slo)}")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("latency (ms)", "mean", "P50", "P90", "P99", "max"):
        table.add_column(heading, justify="left" if heading.startswith("latency") else "right")
    for name, summary in (("TTFT", result.ttft), ("ITL", result.itl), ("TPOT", result.tpot), ("E2E", result.e2e)):
        if summary is not None:
            values = (summary.mean_ms, summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.max_ms)
            table.add_row(name, *(f"{value:.2f}" for value in values))
    if table.row_count:
        console.print(table)
    if result.stages:
        console.print(_stages_table(result.stages))
    if result.media:
        console.print(_media_table(result.media))
    failed = f"Errors: {result.errors}, timeouts: {result.timeouts}"
    _line(console, f"{failed}; the first: {result.first_error}" if result.first_error else failed)
    health = (
        f"Generator: {result.generator_cpu_frac:.0%} of a core, event loop {result.generator_lag_p99_ms:.1f} ms late"
    )
    if result.send_lag_p99_ms is not None and result.dispatch_lag_p99_ms is not None:
        health += (
            f", requests sent {result.send_lag_p99_ms:.1f} ms late, {result.dispatch_lag_p99_ms:.1f} ms of it its own"
        )
    _line(console, f"{health} (P99)")
    if driven.veto is not None:
        _line(console, f"Not the server's figures: {driven.veto}", style="bold red")


def _stages_table(stages: Sequence[StageResult]) -> Table:
    table = _latency_table("stage", "sent", "failed", "requests/s", "goodput/s", "generator")
    for stage in stages:
        result = stage.result
        goodput = "" if result.goodput_rps is None else f"{result.goodput_rps:.1f}"
        counts = (str(result.sent), str(result.errors + result.timeouts), f"{result.throughput_rps:.1f}", goodput)
        health = f"{result.generator_cpu_frac:.0%}"
        table.add_row(clean_text(stage.name), *counts, health, *_percentiles(result.ttft), *_percentiles(result.e2e))
    return table


def _media_table(classes: Sequence[MediaResult]) -> Table:
    table = _latency_table("media", "sent", "failed")
    for each in classes:
        counts = (str(each.sent), str(each.sent - each.succeeded))
        table.add_row(Text(clean_text(each.name)), *counts, *_percentiles(each.ttft), *_percentiles(each.e2e))
    return table


def _latency_table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(first, no_wrap=True)
    for heading in (*others, "TTFT P50", "P99", "E2E P50", "P99 (ms)"):
        table.add_column(heading, justify="right")
    return table


def _percentiles(summary: LatencySummary | None) -> tuple[str, str]:
    return ("", "") if summary is None else (f"{summary.p50_ms:.2f}", f"{summary.p99_ms:.2f}")


def _describe(load: LoadSpec) -> str:
    arrival = load.arrival
    if load.stages and arrival is None:
        return f"closed loop in {len(load.stages)} stages"
    if load.stages and arrival is not None:
        return f"{arrival.kind.value} arrivals in {len(load.stages)} stages, at most {load.concurrency} in flight"
    if arrival is None:
        return f"closed loop of {load.concurrency} clients"
    limit = f"at most {load.concurrency} in flight"
    if arrival.kind is ArrivalKind.TRACE:
        return f"as in {arrival.trace_file}, {limit}"
    more = {
        ArrivalKind.GAMMA: f" of burstiness {arrival.burstiness:g}",
        ArrivalKind.BURST: f" of {arrival.burst_size}",
    }
    return f"{arrival.kind.value} arrivals{more.get(arrival.kind, '')} at {arrival.request_rate:g} a second, {limit}"


def _limits(slo: SloSpec) -> str:
    pairs = (("TTFT", slo.ttft_ms), ("E2E", slo.e2e_ms), ("TPOT", slo.tpot_ms))
    return ", ".join(f"{name} <= {limit:g} ms" for name, limit in pairs if limit is not None) or "no limit"


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(clean_text(text)), style=style, highlight=False, soft_wrap=True)
