"""The heat map of a study: who is fastest in every cell of one rank count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle

from perfguard.model.study import MemoryPages
from perfguard.report import words
from perfguard.report.drawing import CLASS, Chart, drawing, new_figure, write_svg
from perfguard.report.study_rows import margin, size, tell_margin, tell_winner

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perfguard.model.study import CellResult, StudyResult

_ROW_IN = 0.62
_TINT = 0.28
_TIE_HATCH = "//"
_LABEL_LIMIT = 24
_FEWEST_FOR_A_TIE = 2
# A cell has room for so many lines of names.
_MOST_NAMES = 2


def winner_chart(result: StudyResult, ranks: int, pages: MemoryPages = MemoryPages.DEFAULT) -> Chart | None:
    """Draw media (small to large, upwards) by concurrency; a cell names the fastest strategy and by how much.

    Ties are hatched, grey, and say so: colour is not needed to read it. None where nothing was measured.
    """
    cells = {
        (each.cell.media, each.cell.concurrency): each
        for each in result.cells
        if each.cell.ranks == ranks and each.cell.memory_pages is pages
    }
    if not cells:
        return None
    spec = result.spec
    media = sorted(spec.media, key=lambda medium: (medium.payload_bytes, medium.name))
    concurrency = sorted(spec.concurrency)
    looks = {strategy: f"{CLASS}arm-{place}" for place, strategy in enumerate(spec.strategies)}
    with drawing():
        figure, axes = new_figure(height_in=1.0 + _ROW_IN * len(media))
        axes.grid(visible=False)
        axes.margins(0)
        for row, medium in enumerate(media):
            for column, requests in enumerate(concurrency):
                cell = cells.get((medium.name, requests))
                if cell is not None and cell.leaders:
                    axes.add_patch(
                        Rectangle(
                            (column - 0.5, row - 0.5), 1, 1, facecolor="black", alpha=_TINT, linewidth=0,
                            gid=looks[cell.leaders[0]] if len(cell.leaders) < _FEWEST_FOR_A_TIE else f"{CLASS}tie",
                        )
                    )  # fmt: skip
                    _write(axes, column, row, cell)
                else:
                    axes.text(column, row, "not measured", ha="center", va="center", fontsize=9.0)
        axes.set_xlim(-0.5, len(concurrency) - 0.5)
        axes.set_ylim(-0.5, len(media) - 0.5)
        axes.set_xticks(range(len(concurrency)), [str(each) for each in concurrency])
        axes.set_yticks(
            range(len(media)),
            [f"{words.one_line(each.name, _LABEL_LIMIT)}\n{size(each.payload_bytes)}" for each in media],
        )
        axes.tick_params(length=0)
        axes.set_xlabel("requests at once" if spec.target.value == "sglang-transport" else "clients of a closed loop")
        title, name = f"Fastest strategy on {ranks} ranks", f"winner-{ranks}"
        if pages is not MemoryPages.DEFAULT:
            title, name = f"{title}, {pages.value} pages", f"{name}-{pages.value}"
        svg = write_svg(
            figure,
            name=name,
            description=f"{title}, by size and concurrency. The numbers follow as a table.",
        )
    table = tuple(
        (medium.name, str(requests), *_cells(cells.get((medium.name, requests))))
        for medium in media
        for requests in concurrency
    )
    columns = ("media", "concurrency", "fastest", "ms per request", "next takes longer by")
    return Chart(name=name, title=title, svg=svg, columns=columns, table=table)


def _write(axes: Axes, column: int, row: int, cell: CellResult) -> None:
    if len(cell.leaders) >= _FEWEST_FOR_A_TIE:
        _write_tie(axes, column, row, [leader.value for leader in cell.leaders])
        return
    effect = margin(cell)
    best = f"{words.number(cell.arms[0].mean_ms)} ms"
    second = f"{best}, next {words.percent_change(effect.ratio)}" if effect is not None else best
    axes.text(column, row + 0.17, cell.leaders[0].value, ha="center", va="center", fontsize=10.0, fontweight="bold")
    axes.text(column, row - 0.2, words.one_line(second, 34), ha="center", va="center", fontsize=8.5)


def _write_tie(axes: Axes, column: int, row: int, names: list[str]) -> None:
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=0, hatch=_TIE_HATCH, alpha=0.15)
    axes.add_patch(frame)
    lines = names[:_MOST_NAMES]
    if more := len(names) - len(lines):
        lines.append(f"and {more} more")
    axes.text(column, row + 0.3, f"= {len(names)} tie", ha="center", va="center", fontsize=9.0, fontweight="bold")
    axes.text(column, row - 0.14, "\n".join(lines), ha="center", va="center", fontsize=7.0)


def _cells(cell: CellResult | None) -> tuple[str, str, str]:
    if cell is None or not cell.leaders:
        return "not measured", "", ""
    return tell_winner(cell), words.number(cell.arms[0].mean_ms), tell_margin(cell)
