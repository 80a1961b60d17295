"""A study's tables, as plain text cells: every face shows the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perfguard.model.claim import ClaimVerdict
from perfguard.model.study import MemoryPages
from perfguard.report import words
from perfguard.report.fact_table import FactTable

if TYPE_CHECKING:
    from perfguard.model.result import Effect
    from perfguard.model.study import BreakEven, CellArm, CellResult, StudyCell, StudyResult

TIE = "tie"
NOTHING = "nothing measured"


def claim_table(result: StudyResult) -> FactTable:
    """Give every claim beside what was measured; what the run holds nothing about stands last."""
    ordered = sorted(result.claims, key=lambda row: row.verdict is ClaimVerdict.NOT_MEASURED)
    return FactTable(
        title=result.claims_title,
        columns=("Claim", "Claimed", "Measured", "Verdict", "Measured as", "Source"),
        rows=tuple(
            (row.claim, row.claimed, row.measured or words.NOT_MEASURED, row.verdict.value, row.how, row.source)
            for row in ordered
        ),
        note=result.claims_note,
    )


def break_even_table(result: StudyResult) -> FactTable:
    """Give the payload from which each strategy is faster than the baseline, per rank count."""
    baseline = result.spec.baseline.value
    return FactTable(
        title=f"Break-even: the payload from which a strategy is faster than {baseline}",
        columns=("Strategy", ">Ranks", "Faster from", f"Interval, {100 * result.spec.confidence:g}%", ">Blocks"),
        rows=tuple(
            (
                each.candidate.value,
                str(each.ranks) if each.ranks is not None else "all",
                tell_crossing(each),
                tell_interval(each),
                str(each.blocks),
            )
            for each in (*result.break_evens, *((result.threshold.overall,) if result.threshold.overall else ()))
        ),
        note="The interval is from a bootstrap over blocks; concurrencies and memory pages count alike.",
    )


def tell_crossing(each: BreakEven) -> str:
    """Write where a strategy begins to pay: `412 KB`, `every size from 75 KB`, `no size up to 50 MB`."""
    return _tell_size(each, each.size_bytes)


def tell_interval(each: BreakEven) -> str:
    """Write the interval of a break-even size."""
    low, high = _tell_size(each, each.low_bytes), _tell_size(each, each.high_bytes)
    return low if low == high else f"{low} to {high}"


def _tell_size(each: BreakEven, size_bytes: float | None) -> str:
    if size_bytes is None:
        return f"no size up to {size(each.largest_bytes)}"
    return size(size_bytes) if size_bytes else f"every size from {size(each.smallest_bytes)}"


def cell_table(result: StudyResult) -> FactTable:
    """Give the milliseconds a request of every strategy in every cell, and who is fastest."""
    strategies = result.spec.strategies
    rows = []
    for cell in result.cells:
        arms = {arm.strategy: arm for arm in cell.arms}
        rows.append(
            (
                *_place(cell),
                *(_milliseconds(arms[each]) if each in arms else words.NOT_MEASURED for each in strategies),
                tell_winner(cell),
                tell_margin(cell),
            )
        )
    columns = (
        ">Ranks",
        "Media",
        ">MB",
        ">Concurrency",
        *(f">{each.value}" for each in strategies),
        "Fastest",
        "Margin",
    )
    return FactTable(
        title="Every cell: ms per request, geometric mean over blocks (interval)",
        columns=columns,
        rows=tuple(rows),
        note="Margin: by how much the next strategy that can be told from the fastest takes longer; its interval holds "
        "for all comparisons of a cell together.",
    )


def ratio_table(result: StudyResult) -> FactTable:
    """Give how many times the fastest strategy's time each one takes, paired inside blocks."""
    strategies = result.spec.strategies
    rows = []
    for cell in result.cells:
        arms = {arm.strategy: arm for arm in cell.arms}
        fastest = cell.arms[0].strategy if cell.leaders else None
        ratios = [_times(arms[each], is_fastest=each is fastest) if each in arms else "" for each in strategies]
        rows.append((*_place(cell), *ratios))
    return FactTable(
        title="Every cell: times the fastest, paired inside blocks (interval)",
        columns=(">Ranks", "Media", ">MB", ">Concurrency", *(f">{each.value}" for each in strategies)),
        rows=tuple(rows),
        note="The intervals of a cell hold together.",
    )


def _times(arm: CellArm, *, is_fastest: bool) -> str:
    if is_fastest:
        return "1"
    return _ratio(arm.to_best)


def pages_table(result: StudyResult) -> FactTable | None:
    """Give what huge pages do to each strategy; None where the study did not measure both."""
    if not result.pages:
        return None
    strategies = result.spec.strategies
    places = {each.cell: each.payload_bytes for each in result.pages}
    effects = {(each.cell, each.strategy): each.effect for each in result.pages}
    rows = [
        (
            str(cell.ranks),
            cell.media,
            f"{payload_bytes / 1e6:.3g}",
            str(cell.concurrency),
            *(_ratio(effects.get((cell, strategy))) for strategy in strategies),
        )
        for cell, payload_bytes in places.items()
    ]
    return FactTable(
        title="Huge pages: ms per request with them / without, paired inside blocks (interval)",
        columns=(">Ranks", "Media", ">MB", ">Concurrency", *(f">{each.value}" for each in strategies)),
        rows=tuple(rows),
        note="Huge: the processes' malloc asks for transparent huge pages (GLIBC_TUNABLES=glibc.malloc.hugetlb=1). "
        "Under 1 they pay. Without asking, the machine's own setting holds: the environment below names it, and what a "
        "process was given.",
    )


def _ratio(effect: Effect | None) -> str:
    return words.NOT_MEASURED if effect is None else f"{effect.ratio:.2f} ({effect.low:.2f} to {effect.high:.2f})"


def limit_table(result: StudyResult) -> FactTable | None:
    """Give what getting one request to all ranks takes, beside the limits; None where no trial measured it."""
    shown = [cell for cell in result.cells if any(arm.delivered_ms is not None for arm in cell.arms)]
    if not shown:
        return None
    strategies = result.spec.strategies
    rows = []
    for cell in shown:
        arms = {arm.strategy: arm for arm in cell.arms}
        delivered = [_delivered(arms[each]) if each in arms else words.NOT_MEASURED for each in strategies]
        limits = (words.number(cell.memcpy_ms), words.number(cell.sha256_ms))
        rows.append((*_place(cell)[:3], *limits, *delivered))
    return FactTable(
        title="One request in flight, from the sender to every rank: ms, times one copy and one hash (interval)",
        columns=(">Ranks", "Media", ">MB", ">One copy", ">One hash", *(f">{each.value}" for each in strategies)),
        rows=tuple(rows),
        note="Sending (shared-memory: hashing and writing too), unpickling on rank 0, broadcast_pyobj and "
        "materialising on the slowest rank, in lockstep, without the first use. One warm copy and one hash of the "
        "payload were measured in the same trials, and the ratios are taken inside them: no way of sharing that hashes "
        "and copies can be faster.",
    )


def _delivered(arm: CellArm) -> str:
    if arm.to_limit is None:
        return words.number(arm.delivered_ms)
    ratio = arm.to_limit
    return f"{words.number(arm.delivered_ms)}, {ratio.ratio:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


def received_table(result: StudyResult) -> FactTable | None:
    """Give what the ranks spend on receiving alone, and the first use added; None where no trial measured it."""
    shown = [cell for cell in result.cells if any(arm.received_ms is not None for arm in cell.arms)]
    if not shown:
        return None
    strategies = result.spec.strategies
    rows = []
    for cell in shown:
        arms = {arm.strategy: arm for arm in cell.arms}
        received = [words.number(arms[each].received_ms) if each in arms else words.NOT_MEASURED for each in strategies]
        whole = [words.number(arms[each].whole_ms) if each in arms else words.NOT_MEASURED for each in strategies]
        pairs = [f"{one} / {all_of_it}" for one, all_of_it in zip(received, whole, strict=True)]
        rows.append((*_place(cell)[:3], *pairs))
    return FactTable(
        title="One request in flight: received / sender to first use, ms",
        columns=(">Ranks", "Media", ">MB", *(f">{each.value}" for each in strategies)),
        rows=tuple(rows),
        note="Received is broadcast_pyobj and materialising on the slowest rank, without what shared-memory moves to "
        "the sender; the second figure holds all of it, and the model's first read. Medians over trials.",
    )


def left_out_note(result: StudyResult) -> str:
    """Name the cells that were not measured, and why; empty where there are none."""
    left_out = result.spec.left_out()
    if not left_out:
        return ""
    by_media: dict[str, list[int]] = {}
    for cell in left_out:
        by_media.setdefault(cell.media, []).append(cell.concurrency)
    told = "; ".join(f"{media} at {', '.join(map(str, sorted(set(each))))}" for media, each in by_media.items())
    most = f"{result.spec.most_in_flight_mb:g} MB"
    return f"Not measured, since more than {most} would be in flight: {told} requests at once."


def untestable_notes(result: StudyResult) -> tuple[str, ...]:
    """Name the strategies that could not be measured somewhere, with the reason."""
    reasons = {
        (arm.strategy.value, arm.untestable_reason)
        for cell in result.cells
        for arm in cell.arms
        if arm.untestable_reason
    }
    return tuple(f"{strategy} is untestable: {reason}" for strategy, reason in sorted(reasons))


def tell_winner(cell: CellResult) -> str:
    """Write who is fastest: a strategy, or a tie with its strategies."""
    if not cell.leaders:
        return NOTHING
    names = ", ".join(each.value for each in cell.leaders)
    return names if len(cell.leaders) == 1 else f"{TIE}: {names}"


def tell_margin(cell: CellResult) -> str:
    """Write by how much the next strategy that can be told from the fastest takes longer."""
    effect = margin(cell)
    if effect is None:
        return ""
    low, high = words.percent_change(effect.low), words.percent_change(effect.high)
    return f"{words.percent_change(effect.ratio)} ({low} to {high})"


def margin(cell: CellResult) -> Effect | None:
    """Give the smallest effect, against the fastest, among those that can be told from it."""
    effects = [arm.to_best for arm in cell.arms if arm.strategy not in cell.leaders and arm.to_best is not None]
    return min(effects, key=lambda effect: effect.ratio, default=None)


def size(size_bytes: float) -> str:
    """Write a payload: `412 KB`, `10.8 MB`."""
    megabyte = 1e6
    if size_bytes < megabyte:
        return f"{size_bytes / 1e3:.3g} KB"
    return f"{size_bytes / megabyte:.3g} MB"


def _place(cell: CellResult) -> tuple[str, str, str, str]:
    payload = f"{cell.payload_bytes / 1e6:.3g}"
    return str(cell.cell.ranks), tell_media(cell.cell), payload, str(cell.cell.concurrency)


def tell_media(cell: StudyCell) -> str:
    """Name what a cell's requests carry, and the memory pages where they are not the machine's own."""
    return cell.media if cell.memory_pages is MemoryPages.DEFAULT else f"{cell.media}, {cell.memory_pages.value} pages"


def _milliseconds(arm: CellArm) -> str:
    if arm.mean_ms is None:
        return "untestable"
    if arm.low_ms is None or arm.high_ms is None:
        return words.number(arm.mean_ms)
    return f"{words.number(arm.mean_ms)} ({words.number(arm.low_ms)} to {words.number(arm.high_ms)})"
