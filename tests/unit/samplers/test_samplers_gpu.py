"""The GPU sampler against a driver that is made up: what it reads, what it cannot, and that it lets go."""

# ruff: noqa: N802, ARG002 - the made-up driver has the names and the arguments of the real one

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from perfguard.model.errors import PerfguardError
from perfguard.samplers.gpu import GpuSampler

GIB = 2**30


class MadeUpError(Exception):
    """What the library raises."""


class Driver:
    """Two cards: one busy, one idle, with counters that grow; `without` names calls that the driver refuses."""

    NVMLError = MadeUpError
    NVML_SUCCESS = 0

    def __init__(self, *, cards=2, without=(), first=0):
        self.cards = cards
        self.first = first
        self.without = set(without)
        self.open = 0
        self.counts = 0

    def _ask(self, name):
        if name in self.without:
            raise MadeUpError(f"{name}: not supported")

    def nvmlInit(self):
        self._ask("init")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return self.cards

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetName(self, handle):
        return f"Card {handle}".encode()

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=80 * GIB, used=(handle + 1) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        self._ask("busy")
        return SimpleNamespace(gpu=40 if handle == 0 else 0)

    def nvmlDeviceGetPowerUsage(self, handle):
        self._ask("power")
        return 250_000

    def nvmlDeviceGetFieldValues(self, handle, fields):
        self._ask("counters")
        (asked,) = fields
        self.counts += 1
        # The counters move once, after the first look at all of them, and begin again where they end.
        counted = self.first if self.counts <= 4 * self.cards else (self.first + 1_000_000) % 2**32
        supported = not isinstance(asked, tuple) or "links" not in self.without
        return [SimpleNamespace(nvmlReturn=0 if supported else 3, value=SimpleNamespace(ullVal=counted))]


def watched(driver, seconds=0.1, rate_hz=100.0):
    with GpuSampler(rate_hz=rate_hz, nvml=driver) as sampler:
        sampler.start()
        time.sleep(seconds)
        return sampler.stop()


def test_cards_are_read_over_the_load_and_the_driver_is_let_go():
    driver = Driver()
    result = watched(driver)
    assert driver.open == 0
    assert result.unknown == ""
    busy, idle = result.cards
    assert (busy.name, busy.busy_frac, idle.busy_frac) == ("Card 0", pytest.approx(0.4), 0.0)
    assert busy.readings >= 2
    assert (busy.memory_used_bytes, busy.memory_total_bytes) == (GIB, 80 * GIB)
    assert busy.power_w == pytest.approx(250.0)
    assert result.busy_frac == pytest.approx(0.4)  # a card that nobody uses says nothing of the server
    assert not [thread for thread in threading.enumerate() if thread.name == "perfguard-gpu"]


@pytest.mark.parametrize("first", [0, 2**32 - 10])
def test_bytes_are_rates_over_the_whole_load_also_where_a_counter_begins_again(first):
    result = watched(Driver(first=first))
    card = result.cards[0]
    assert card.pcie_sent_bytes_per_s == pytest.approx(1_000_000 / result.duration_s)
    assert card.nvlink_received_bytes_per_s == pytest.approx(1024 * 1_000_000 / result.duration_s)


def test_what_the_driver_does_not_count_is_none_and_the_rest_is_read():
    result = watched(Driver(without=["power", "links"]))
    card = result.cards[0]
    assert (card.power_w, card.nvlink_sent_bytes_per_s) == (None, None)
    assert card.pcie_received_bytes_per_s is not None
    assert card.busy_frac == pytest.approx(0.4)
    assert watched(Driver(without=["counters"])).cards[0].pcie_sent_bytes_per_s is None


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (Driver(cards=0), "the driver knows of no card"),
        (Driver(without=["init"]), "the driver does not answer: init: not supported"),
        (Driver(without=["busy"]), "card 1 cannot be read: busy: not supported"),
    ],
)
def test_no_reading_says_why(driver, reason):
    result = watched(driver, seconds=0.0)
    assert (result.cards, result.unknown, result.busy_frac) == ((), reason, None)
    assert driver.open == 0


def test_a_sampler_that_was_not_started_and_an_impossible_rate_are_errors():
    with pytest.raises(PerfguardError, match="before it was started"):
        GpuSampler(nvml=Driver()).stop()
    with pytest.raises(PerfguardError, match="0 times a second"):
        GpuSampler(rate_hz=0)


def test_this_machines_cards_are_read_or_the_result_says_why_not():
    sampler = GpuSampler()
    sampler.start()
    result = sampler.stop()
    assert bool(result.cards) != bool(result.unknown)
