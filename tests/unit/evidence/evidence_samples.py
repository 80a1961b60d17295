"""Small hand-made profiles and CPU readings for the tests of this room."""

from __future__ import annotations

from perfguard.evidence.cost import StackCosts
from perfguard.model.profile import Frame, Stack
from perfguard.model.trial import CpuResult, LoadResult, ProcessCpu, Samples, ServerReport, ThreadCpu


class Sources:
    """Source files held in a dict."""

    def __init__(self, files):
        self.files = files

    def source(self, file):
        return self.files.get(file)


def frame(function, file="app.py", line=1):
    return Frame(function=function, file=file, line=line)


def path(*functions):
    return tuple(frame(function) for function in functions)


def stack(frames, samples, *, tid=0, thread=""):
    return Stack(thread=thread, tid=tid, frames=frames, samples=samples)


def process(role, cpu_s, threads, *, pid=1, run_delay_s=0.0):
    return ProcessCpu(
        pid=pid,
        role=role,
        cpu_s=cpu_s,
        run_delay_s=run_delay_s,
        threads=tuple(
            ThreadCpu(tid=tid, name=f"t{tid}", cpu_s=thread_s, run_delay_s=delay_s)
            for tid, (thread_s, delay_s) in threads.items()
        ),
    )


def cpu_result(processes, *, duration_s=10.0, cores=2, busy=0.5):
    return CpuResult(
        duration_s=duration_s,
        cores=cores,
        machine_busy_frac=busy,
        stolen_frac=0.0,
        throttled_s=0.0,
        processes=tuple(processes),
    )


def load_result(succeeded):
    return LoadResult(
        schedule_digest="d",
        duration_s=10.0,
        sent=succeeded,
        succeeded=succeeded,
        errors=0,
        timeouts=0,
        first_error="",
        throughput_rps=succeeded / 10.0,
        ttft=None,
        e2e=None,
        generator_cpu_frac=0.1,
        generator_lag_p99_ms=1.0,
        records=(),
    )


def samples_of(cpu, *, requests, profiled_cpu=None, profiled_requests=None):
    return Samples(
        server=ServerReport(command=("serve",), start_s=1.0, stand_ins=(), packages=()),
        load=load_result(requests),
        cpu=cpu,
        profiled_load=load_result(profiled_requests or requests) if profiled_cpu else None,
        profiled_cpu=profiled_cpu,
        profiles=(),
    )


def costs(working, *, role="rank-0", samples=1000):
    """Costs of stacks given as {(function, ...): ms}."""
    return StackCosts(
        role=role,
        requests=100,
        samples=samples,
        working={path(*functions): cost_ms for functions, cost_ms in working.items()},
        polling={},
        unsampled_ms=0.0,
    )
