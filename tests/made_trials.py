"""Trials with plausible numbers, for tests of everything that judges or shows them."""

from perfguard.model.trial import (
    Completed,
    CpuResult,
    LatencySummary,
    LoadResult,
    ProcessCpu,
    Profile,
    Samples,
    ServerReport,
    ThreadCpu,
    Trial,
)


def make_load(throughput_rps, requests=2000):
    latency = LatencySummary(
        count=requests,
        mean_ms=96e3 / throughput_rps,
        p50_ms=95e3 / throughput_rps,
        p90_ms=110e3 / throughput_rps,
        p99_ms=150e3 / throughput_rps,
        max_ms=200e3 / throughput_rps,
    )
    return LoadResult(
        schedule_digest="d" * 64,
        duration_s=requests / throughput_rps,
        sent=requests,
        succeeded=requests,
        errors=0,
        timeouts=0,
        first_error="",
        throughput_rps=throughput_rps,
        ttft=latency,
        e2e=latency,
        generator_cpu_frac=0.2,
        generator_lag_p99_ms=5.0,
        records=(),
    )


def make_cpu(cpu_s, duration_s=10.0, roles=("rank-0", "rank-1")):
    return CpuResult(
        duration_s=duration_s,
        cores=2,
        machine_busy_frac=0.99,
        stolen_frac=0.0,
        throttled_s=0.0,
        processes=tuple(
            ProcessCpu(
                pid=100 + rank,
                role=role,
                cpu_s=cpu_s,
                run_delay_s=0.5,
                threads=(ThreadCpu(tid=100 + rank, name="MainThread", cpu_s=cpu_s, run_delay_s=0.5),),
            )
            for rank, role in enumerate(roles)
        ),
    )


def make_samples(throughput_rps, artifacts=(), cpu_s=5.0, requests=2000):
    return Samples(
        server=ServerReport(
            command=("python", "-m", "server"), start_s=15.0, stand_ins=("sgl_kernel",), packages=(("torch", "2.13.0"),)
        ),
        load=make_load(throughput_rps, requests),
        cpu=make_cpu(cpu_s),
        profiled_load=make_load(throughput_rps * 0.8, 500) if artifacts else None,
        profiled_cpu=make_cpu(cpu_s / 2) if artifacts else None,
        profiles=tuple(
            Profile(
                role=role,
                pid=100 + rank,
                rate_hz=100,
                duration_s=5.0,
                samples=400,
                lost=1,
                warnings=(),
                artifact=artifact,
            )
            for rank, (role, artifact) in enumerate(artifacts)
        ),
    )


def make_trial(number, block, revision, samples, start=None):
    return Trial(
        number=number,
        block=block,
        start=number if start is None else start,
        revision=revision,
        strategy="as-committed",
        started_at="2026-01-01T00:00:00+00:00",
        wall_s=30.0,
        outcome=Completed(samples=samples),
    )
