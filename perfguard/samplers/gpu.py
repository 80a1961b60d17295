"""Graphics cards over a load, by NVIDIA's management library (NVML): how busy, how full, how much power and traffic.

NVML tells how busy a card was over the last sixth of a second or longer, so that ten readings a second lose nothing.
Bytes over PCIe and NVLink come from counters: asking for a PCIe rate would block for 20 ms. They are read every time,
since that of PCIe was seen to begin again after 2**32 bytes.

Source: nvml.h, `nvmlUtilization_t`, `nvmlDeviceGetPcieThroughput`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from perfguard.model.errors import PerfguardError
from perfguard.model.gpu import CardLoad, GpuResult
from perfguard.samplers.repeater import Repeater

if TYPE_CHECKING:
    from types import TracebackType

RATE_HZ = 10.0
_PERCENT = 100.0
_MILLIWATTS = 1000.0
# NVML's numbers of counters, and the bytes that one count stands for. Source: nvml.h, "Field Identifiers".
_COUNTERS = {
    "pcie_sent": (197, 1),
    "pcie_received": (198, 1),
    "nvlink_sent": (138, 1024),
    "nvlink_received": (139, 1024),
}
_ALL_LINKS = 0xFFFFFFFF
_COUNTER_END = 2**32


@dataclass(slots=True, kw_only=True)
class _Card:
    """A card while it is watched; a list holds what was read of it."""

    index: int
    name: str
    handle: Any
    memory_total_bytes: int
    counted: dict[str, int]
    traffic_bytes: dict[str, int] = field(default_factory=dict)
    busy: list[float] = field(default_factory=list)
    memory_used: list[int] = field(default_factory=list)
    power_w: list[float] = field(default_factory=list)


@final
class GpuSampler:
    """Reads every card of the machine `rate_hz` times a second between `start()` and `stop()`.

    Where there is no card, no driver or no `pynvml`, the result says so. As a context manager it starts nothing by
    itself and leaves no thread behind. `nvml` is for tests.
    """

    def __init__(self, *, rate_hz: float = RATE_HZ, nvml: Any = None) -> None:
        if not 0 < rate_hz <= _PERCENT:
            raise PerfguardError(f"cards cannot be read {rate_hz:g} times a second", hint="choose 0.1 to 100")
        self._nvml = nvml
        self._cards: list[_Card] = []
        self._unknown = ""
        self._repeater = Repeater(self._read, interval_s=1.0 / rate_hz, name="perfguard-gpu")
        self._opened = False
        self._began_s: float | None = None

    def start(self) -> None:
        """Read once, and go on in the background."""
        self._open()
        self._began_s = time.perf_counter()
        self._read()
        if self._cards:
            self._repeater.start()

    def stop(self) -> GpuResult:
        """Return what was read since `start()`.

        Raises:
            PerfguardError: it was not started.
        """
        if self._began_s is None:
            raise PerfguardError("the GPU sampler was stopped before it was started")
        self._repeater.close()
        self._read()
        duration_s = time.perf_counter() - self._began_s
        loads = [self._load(card, duration_s) for card in self._cards]
        self.close()
        cards = tuple(load for load in loads if load is not None)
        unknown = self._unknown if not cards else ""
        return GpuResult(duration_s=duration_s, cards=cards, unknown=unknown)

    def close(self) -> None:
        """End the readings and let go of the driver; does nothing after `stop()`."""
        self._repeater.close()
        if self._opened:
            self._opened = False
            self._nvml.nvmlShutdown()

    def __enter__(self) -> GpuSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._nvml is None:
            try:
                import pynvml  # noqa: PLC0415 - only machines with cards pay for it
            except ImportError:
                self._unknown = "the package nvidia-ml-py is not installed"
                return
            self._nvml = pynvml
        try:
            self._nvml.nvmlInit()
            self._opened = True
            self._cards = [self._card(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        except self._nvml.NVMLError as error:
            self._unknown = f"the driver does not answer: {error}"
            return
        if not self._cards:
            self._unknown = "the driver knows of no card"

    def _card(self, index: int) -> _Card:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        name = self._nvml.nvmlDeviceGetName(handle)
        return _Card(
            index=index,
            name=name.decode() if isinstance(name, bytes) else str(name),
            handle=handle,
            memory_total_bytes=int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total),
            counted=self._counted(handle),
        )

    def _count(self, card: _Card) -> None:
        """Add what the counters moved since they were read last."""
        now = self._counted(card.handle)
        for name in now.keys() & card.counted.keys():
            moved = now[name] - card.counted[name]
            moved_bytes = (moved if moved >= 0 else moved + _COUNTER_END) * _COUNTERS[name][1]
            card.traffic_bytes[name] = card.traffic_bytes.get(name, 0) + moved_bytes
        card.counted = now

    def _counted(self, handle: Any) -> dict[str, int]:
        """Read the counters that the driver has for this card."""
        found = {}
        for name, (number, _) in _COUNTERS.items():
            asked = (number, _ALL_LINKS) if name.startswith("nvlink") else number
            try:
                value = self._nvml.nvmlDeviceGetFieldValues(handle, [asked])[0]
            except self._nvml.NVMLError:
                continue
            if value.nvmlReturn == self._nvml.NVML_SUCCESS:
                found[name] = int(value.value.ullVal)
        return found

    def _read(self) -> None:
        for card in self._cards:
            try:
                card.busy.append(self._nvml.nvmlDeviceGetUtilizationRates(card.handle).gpu / _PERCENT)
                card.memory_used.append(int(self._nvml.nvmlDeviceGetMemoryInfo(card.handle).used))
            except self._nvml.NVMLError as error:
                self._unknown = f"card {card.index} cannot be read: {error}"
                continue
            self._count(card)
            try:
                card.power_w.append(self._nvml.nvmlDeviceGetPowerUsage(card.handle) / _MILLIWATTS)
            except self._nvml.NVMLError:
                continue  # not every card tells its power

    def _load(self, card: _Card, duration_s: float) -> CardLoad | None:
        if not card.busy or not card.memory_used:
            return None

        def rate(name: str) -> float | None:
            return card.traffic_bytes[name] / duration_s if name in card.traffic_bytes else None

        return CardLoad(
            index=card.index,
            name=card.name,
            readings=len(card.busy),
            busy_frac=sum(card.busy) / len(card.busy),
            memory_used_bytes=max(card.memory_used),
            memory_total_bytes=card.memory_total_bytes,
            power_w=sum(card.power_w) / len(card.power_w) if card.power_w else None,
            pcie_sent_bytes_per_s=rate("pcie_sent"),
            pcie_received_bytes_per_s=rate("pcie_received"),
            nvlink_sent_bytes_per_s=rate("nvlink_sent"),
            nvlink_received_bytes_per_s=rate("nvlink_received"),
        )
