"""A recording of live processes as text: a table of threads a process, then the findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfguard.model.gpu import CardLoad
from perfguard.model.memory import MemoryGrowth
from perfguard.model.recording import RecordedProcess, RecordedThread, Recording
from perfguard.model.threads import GilAnswer
from perfguard.model.traffic import ProcessTraffic
from perfguard.report.clean import clean_text

# A thread that does less than this, and hardly waits for the GIL either, only fills the table.
_SHOWN_FRAC = 0.005
_GIL_FRAMES = 3
_MIB = 1024.0 * 1024.0
_GIB = 1024.0 * _MIB
_COLUMNS = ("running", "polling", "run\ndelay", "GIL\nheld", "GIL\nwait", "off CPU")


def print_recording(recording: Recording, output_dir: Path, console: Console) -> None:
    """Print the threads that did anything, the findings and what went wrong."""
    for process in recording.processes:
        _print_process(process, console)
    machine, pressure = recording.machine, recording.machine.pressure
    _line(
        console,
        f"Machine: {machine.cores} cores {machine.busy_frac:.0%} busy, {machine.stolen_frac:.0%} stolen, throttled "
        f"{machine.throttled_frac:.0%} of the time; pressure CPU {_percent(pressure.cpu_frac)}, memory "
        f"{_percent(pressure.memory_frac)}, I/O {_percent(pressure.io_frac)}",
    )
    for card in machine.cards:
        _line(console, f"  {_card(card)}")
    _line(
        console,
        f"{recording.looks} looks in {recording.duration_s:.1f} s ({recording.late_looks} late), at "
        f"{recording.sampler_cpu_frac:.1%} of a core"
        + (
            f"; stacks at {recording.stack_rate_hz} Hz by py-spy, at {recording.stack_sampler_cpu_frac:.1%} of a core"
            if recording.stack_rate_hz
            else ""
        ),
    )
    if not recording.findings:
        _line(console, "Findings: none")
    for finding in recording.findings:
        _line(console, f"Finding {finding.rule} in {finding.pid} ({finding.role}): {finding.effect}", style="bold")
        _line(console, f"  helps: {finding.advice}")
    for warning in recording.warnings:
        _line(console, f"Warning: {warning}", style="yellow")
    _line(console, f"Data: {output_dir}")


def _print_process(process: RecordedProcess, console: Console) -> None:
    ended = ", ended meanwhile" if process.ended else ""
    python = f", Python {process.python}" if process.python else ""
    _line(console, f"{process.pid} {process.role}{python}{ended}", style="bold")
    if process.gil is not GilAnswer.WATCHED:
        told = "no GIL" if process.gil is GilAnswer.NONE else "GIL: cannot tell"
        _line(console, f"  {told}: {process.gil_reason}")
    for told in _resources(process):
        _line(console, f"  {told}")
    shown = [thread for thread in process.threads if _is_shown(thread)]
    # Narrow enough for the 80 columns that a file or a pipe counts as; the frames, which are not, follow the table.
    table = Table(box=None, padding=(0, 1, 0, 1))
    table.add_column("tid", justify="right", no_wrap=True)
    table.add_column("thread", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for thread in shown:
        table.add_row(str(thread.tid), Text(clean_text(thread.name)), *_cells(thread))
    if shown:
        console.print(table)
    for line in (*_frame_lines(shown), *_gil_lines(process)):
        _line(console, f"  {line}")
    if len(shown) < len(process.threads):
        _line(
            console,
            f"  not shown, since they did nothing: {len(process.threads) - len(shown)} of {len(process.threads)}",
        )
    for reason in sorted({thread.gil_unknown for thread in shown} - {"", process.gil_reason}):
        _line(console, f"  GIL '?': {reason}")


def _resources(process: RecordedProcess) -> Iterator[str]:
    if process.memory is not None:
        yield _memory(process.memory)
    if process.tcp is not None:
        yield _traffic(process.tcp)
    if process.memray is not None:
        yield f"allocations by function: {process.memray}"
    elif process.memray_unknown:
        yield f"no flamegraph of allocations: {process.memray_unknown}"


def _frame_lines(threads: Sequence[RecordedThread]) -> tuple[str, ...]:
    return tuple(
        f"{thread.tid} {thread.name}: {top.sample_frac:4.0%} of its samples in {top.frame}"
        for thread in threads
        for top in thread.top_frames
    )


def _gil_lines(process: RecordedProcess) -> tuple[str, ...]:
    """Say which functions wait for the GIL and what holds it meanwhile, and which hold it; why it cannot be told."""
    if process.gil is not GilAnswer.WATCHED:
        return ()  # the process's own line says it
    if process.gil_frames_unknown:
        return (f"GIL by function: cannot tell: {process.gil_frames_unknown}",)
    waiting = [frame for frame in process.gil_frames if frame.wait_s > 0][:_GIL_FRAMES]
    holding = sorted((frame for frame in process.gil_frames if frame.hold_s > 0), key=lambda frame: -frame.hold_s)
    lines = [
        f"waits for the GIL {frame.wait_s:.2f} s in {frame.frame}; held meanwhile by "
        + ", ".join(f"{held.frame} {held.wait_frac:.0%}" for held in frame.held_meanwhile[:_GIL_FRAMES])
        for frame in waiting
    ]
    lines += [f"holds the GIL {frame.hold_s:.2f} s in {frame.frame}" for frame in holding[:_GIL_FRAMES]]
    return tuple(lines)


def _memory(grown: MemoryGrowth) -> str:
    rate = f"{grown.bytes_per_s / _MIB:+.2f} MiB/s"
    if grown.low_bytes_per_s is not None and grown.high_bytes_per_s is not None:
        rate += f" ({grown.low_bytes_per_s / _MIB:+.2f} to {grown.high_bytes_per_s / _MIB:+.2f})"
    return (
        f"memory {grown.last_pss_bytes / _MIB:.0f} MiB, {grown.last_shared_bytes / _MIB:.0f} MiB of it shared memory, "
        f"{rate}"
    )


def _card(card: CardLoad) -> str:
    told = [
        f"card {card.index} {clean_text(card.name)}: {card.busy_frac:.0%} busy",
        f"{card.memory_used_bytes / _GIB:.1f} of {card.memory_total_bytes / _GIB:.1f} GiB taken",
    ]
    if card.power_w is not None:
        told.append(f"{card.power_w:.0f} W")
    for name, sent, received in (
        ("PCIe", card.pcie_sent_bytes_per_s, card.pcie_received_bytes_per_s),
        ("NVLink", card.nvlink_sent_bytes_per_s, card.nvlink_received_bytes_per_s),
    ):
        if sent is not None and received is not None:
            told.append(f"{name} {sent / _MIB:.1f} MiB/s sent, {received / _MIB:.1f} received")
    return "; ".join(told)


def _traffic(tcp: ProcessTraffic) -> str:
    if tcp.unknown:
        return f"TCP: cannot tell: {tcp.unknown}"
    sent, received = (moved / _MIB / tcp.duration_s for moved in (tcp.sent_bytes, tcp.received_bytes))
    return f"TCP: {sent:.2f} MiB/s sent, {received:.2f} MiB/s received, on {tcp.connections} connections"


def _is_shown(thread: RecordedThread) -> bool:
    busy = thread.running_frac + (thread.run_delay_frac or 0.0) + (thread.gil_wait_frac or 0.0)
    return busy + (thread.gil_hold_frac or 0.0) >= _SHOWN_FRAC


def _cells(thread: RecordedThread) -> tuple[str, ...]:
    values = (
        thread.running_frac,
        thread.polling_frac,
        thread.run_delay_frac,
        thread.gil_hold_frac,
        thread.gil_wait_frac,
        thread.off_cpu_frac,
    )
    return tuple(_percent(value) for value in values)


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.1%}"


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(Text(clean_text(text)), style=style, highlight=False, soft_wrap=True)
