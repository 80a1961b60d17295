"""What graphics cards did during a load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLoad:
    """One card over a load, from `readings` readings.

    `busy_frac` is the mean share of time in which a kernel ran on it (which does not say how much of the card the
    kernel used), `memory_used_bytes` the most that was taken of `memory_total_bytes`, by whomever. `power_w` is a mean.
    The byte rates are of the whole load; None where the driver does not count them.
    """

    index: int
    name: str
    readings: int
    busy_frac: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_w: float | None
    pcie_sent_bytes_per_s: float | None
    pcie_received_bytes_per_s: float | None
    nvlink_sent_bytes_per_s: float | None
    nvlink_received_bytes_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuResult:
    """All cards of the machine over `duration_s` seconds of load; `unknown` says why there are none."""

    duration_s: float
    cards: tuple[CardLoad, ...]
    unknown: str = ""

    @property
    def busy_frac(self) -> float | None:
        """How busy the cards were that held anything for somebody, as a mean; None where none was read."""
        used = [card for card in self.cards if card.busy_frac > 0.0] or list(self.cards)
        return sum(card.busy_frac for card in used) / len(used) if used else None
