"""One trial: a load that the generator could not follow is repeated; not followed again, it fails the trial."""

from types import SimpleNamespace

import pytest
from made_trials import make_samples

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Device
from perfguard.workflows import trial as module
from perfguard.workflows.trial import run_trial


@pytest.fixture
def lab(monkeypatch):
    """A server that answers every load; `vetoes` are what is said of the measured loads, in order."""
    lab = SimpleNamespace(loads=[], vetoes=[], said=[], drained=0)
    samples = make_samples(100.0)

    class Cpu:
        def __init__(self, processes):
            lab.processes = processes

        def start(self):
            pass

        def stop(self):
            return samples.cpu

    def run_load(_url, schedule, **_):
        lab.loads.append(schedule)
        return samples.load

    def drain(_timeout_s):
        lab.drained += 1

    monkeypatch.setattr(module, "run_load", run_load)
    monkeypatch.setattr(module, "CpuSampler", Cpu)
    monkeypatch.setattr(module, "generator_veto", lambda _: lab.vetoes.pop(0))
    lab.bench = SimpleNamespace(
        scenario=SimpleNamespace(
            load=SimpleNamespace(concurrency=4, request_timeout_s=1.0, slo=None, profiled_requests=0),
            target=SimpleNamespace(drain_timeout_s=1.0, device=Device.CPU),
        ),
        schedules=SimpleNamespace(warmup="warmup", settling="settling", measured="measured"),
        progress=SimpleNamespace(say=lab.said.append),
    )
    lab.server = SimpleNamespace(
        base_url="http://x",
        report=samples.server,
        processes=lambda: [SimpleNamespace(pid=7, role="rank-0")],
        check_alive=lambda: None,
        log_tail=lambda: "the log",
        drain=drain,
    )
    lab.run = lambda: run_trial(lab.bench, lab.server, None, first=True, profile=False)
    return lab


def test_a_load_that_the_generator_follows_is_sent_once(lab):
    lab.vetoes = [None]
    lab.run()
    assert lab.loads == ["warmup", "measured"]
    assert (lab.said, lab.drained) == ([], 1)


def test_a_load_that_the_generator_could_not_follow_is_repeated_on_the_same_server(lab):
    lab.vetoes = ["load generator: 616 ms late", None]
    lab.run()
    assert lab.loads == ["warmup", "measured", "measured"]
    assert lab.said == ["the load is repeated: load generator: 616 ms late"]


def test_two_vetoes_make_the_trial_untestable_with_the_last_reason(lab):
    lab.vetoes = ["load generator: 616 ms late", "load generator: 528 ms late"]
    with pytest.raises(UntestableError, match=r"528 ms late \(2 times\)") as told:
        lab.run()
    assert told.value.log_tail == "the log"
    assert lab.drained == 0
