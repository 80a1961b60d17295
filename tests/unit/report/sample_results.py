"""Results built by hand, with realistic numbers and, where asked for, hostile names."""

from __future__ import annotations

import random
from dataclasses import replace

from perfguard.model.fix import FixArm, FixMode, FixResult, FixVerdict, Recovery, RevertConflict
from perfguard.model.gil_stacks import GilLayers
from perfguard.model.gil_trial import RoleGil
from perfguard.model.result import (
    BisectResult,
    BisectVerdict,
    CompareResult,
    CompareVerdict,
    Culprit,
    Direction,
    Effect,
    Evidence,
    Finding,
    GrownFrame,
    RevisionSummary,
    RoleProfile,
    RunInfo,
    RunResult,
)
from perfguard.model.revision import Hunk, Revision
from perfguard.model.scenario import Strategy
from perfguard.model.strategies import (
    GIL_WAIT,
    PICKLE,
    WORKING_CPU,
    ArmChange,
    ArmMeaning,
    ArmMetric,
    ChangeKind,
    StrategyArm,
    StrategyTable,
)
from perfguard.model.trial import (
    Completed,
    CpuResult,
    LatencySummary,
    LoadResult,
    RequestOutcome,
    RequestRecord,
    Samples,
    ServerReport,
    Trial,
    Untestable,
)
from perfguard.report.fact_table import FactTable
from perfguard.report.flame import SAMPLES, Side
from perfguard.report.index_page import IndexEntry
from perfguard.report.profile_page import ProfileReport

HOSTILE = "</script><img src=x onerror=alert(1)>"
HOSTILE_NAMES = (
    HOSTILE,
    "\"quoted' `ticked` & ampersand",
    "--><svg onload=alert(2)>",
    "right\u202eto left\u2066 isolate",
    "line\u2028separator\u2029s",
    "{{ 7 * 7 }}{% raw %}",
    "[bold red]markup[/]",
    "\x1b[31mcoloured\x1b[0m \x07bell",
    "$x^2$ and \\textbf{y}",
    "__proto__",
    "lone \ud800 surrogate",
    "w" * 10_000,
)


def revision(number, *, subject=None):
    commit = f"{number:02x}" + "17a57fd86c0ffee0ddba11deadbeefcafe0000"
    return Revision(
        commit=commit,
        label=commit[:9],
        subject=subject or f"[scheduler] Change number {number}",
        author="Ada Example",
        committed_at="2025-10-30T12:00:00+00:00",
    )


def run_info(**changed):
    values = {
        "command": "perfguard bisect 32438eba4 17a57fd86 --scenario small-images --seed 7",
        "run_dir": "/home/ada/.cache/perfguard/runs/2025-11-22-1",
        "scenario": "small-images",
        "scenario_description": "One 112x112 JPEG a request, 96 clients",
        "schedule_digest": "sha256:5f2d8e",
        "metric": "throughput_rps",
        "larger_is_better": True,
        "started_at": "2025-11-22T18:00:00+00:00",
        "wall_s": 3723.0,
        "seed": 7,
        "environment": (
            ("kernel", "Linux 6.1.0 x86_64"),
            ("cores", "2"),
            ("python", "3.11.7"),
            ("package torch", "2.8.0+cpu"),
            ("tokenizers", "0.22.1"),
            ("HF_TOKEN", "abc123veryprivate"),
        ),
        "stand_ins": ("sgl_kernel: plain PyTorch in place of the CUDA kernels", "model: tiny, with dummy weights"),
        "lost_samples": 37,
        "kept_samples": 48_211,
    }
    return RunInfo(**(values | changed))


def latency(p50_ms):
    return LatencySummary(
        count=400, mean_ms=p50_ms * 1.1, p50_ms=p50_ms, p90_ms=p50_ms * 1.4, p99_ms=p50_ms * 1.9, max_ms=p50_ms * 2.2
    )


def role_gil(role, hold, wait, *, unknown=""):
    return RoleGil(
        role=role, thread="MainThread", looks=100, running_frac=0.5, hold_frac=hold, wait_frac=wait,
        waiting_threads=wait, held_frac=hold, unknown=unknown,
    )  # fmt: skip


def completed(number, block, of, throughput_rps, *, strategy="as-committed", gil=()):
    load = LoadResult(
        schedule_digest="sha256:5f2d8e",
        duration_s=2.7,
        sent=400,
        succeeded=399,
        errors=1,
        timeouts=0,
        first_error="connection reset",
        throughput_rps=throughput_rps,
        ttft=latency(80_000 / throughput_rps),
        e2e=latency(90_000 / throughput_rps),
        generator_cpu_frac=0.12,
        generator_lag_p99_ms=1.2,
        records=(
            RequestRecord(
                index=0, sent_s=0.0, first_token_s=0.2, finished_s=0.4, outcome=RequestOutcome.OK, detail="never shown"
            ),
        ),
    )
    cpu = CpuResult(duration_s=2.7, cores=2, machine_busy_frac=0.97, stolen_frac=0.0, throttled_s=0.0, processes=())
    server = ServerReport(
        command=("python", "-m", "sglang.launch_server", "--api-key", "sekrit-value"),
        start_s=31.0,
        stand_ins=(),
        packages=(),
    )
    samples = Samples(server=server, load=load, cpu=cpu, profiled_load=None, profiled_cpu=None, profiles=(), gil=gil)
    return Trial(
        number=number,
        block=block,
        start=number,
        revision=of.commit,
        strategy=strategy,
        started_at="2025-11-22T18:00:00+00:00",
        wall_s=63.5,
        outcome=Completed(samples=samples),
    )


def untestable(number, block, of, *, reason="the server did not start within 120 s", log="Traceback ...\nImportError"):
    return Trial(
        number=number,
        block=block,
        start=number,
        revision=of.commit,
        strategy="as-committed",
        started_at="2025-11-22T18:00:00+00:00",
        wall_s=121.0,
        outcome=Untestable(reason=reason, log=log),
    )


SCHEDULER = "sglang/srt/managers/scheduler.py"
LOOP = f"event_loop_overlap ({SCHEDULER}:912)"
RECEIVE = f"recv_requests ({SCHEDULER}:1012)"
PYOBJ = "broadcast_pyobj (sglang/srt/utils/common.py:1180)"
HANDLE = f"handle_generate_request ({SCHEDULER}:1201)"
BROADCAST_MM = f"_process_and_broadcast_mm_inputs ({SCHEDULER}:1154)"
OBJECT_LIST = "broadcast_object_list (torch/distributed/distributed_c10d.py:3483)"
FROM_DICT = "from_dict (sglang/srt/managers/schedule_batch.py:260)"
HASH = "tensor_hash (sglang/srt/managers/mm_utils.py:612)"
FORWARD = "forward_batch_generation (sglang/srt/managers/tp_worker.py:233)"


def _profile(role, stacks, *, loop=LOOP):
    top = (
        "<module> (<string>:1)",
        "spawn_main (multiprocessing/spawn.py:122)",
        f"run_scheduler_process ({SCHEDULER}:2800)",
        loop,
    )
    return RoleProfile(role=role, samples=5200, trials=3, stacks=tuple(((*top, *frames), ms) for frames, ms in stacks))


def before_profiles():
    rank_0 = [((RECEIVE, PYOBJ), 1.9), ((HANDLE, FROM_DICT, HASH), 2.3), ((HANDLE,), 0.4), ((FORWARD,), 3.6)]
    rank_1 = [((RECEIVE, PYOBJ), 4.1), ((HANDLE, FROM_DICT, HASH), 2.2), ((HANDLE,), 0.4), ((FORWARD,), 3.5)]
    return _profile("rank-0", rank_0), _profile("rank-1", rank_1)


def after_profiles():
    broadcast = (HANDLE, BROADCAST_MM, OBJECT_LIST)
    to_tensor = (*broadcast, "_object_to_tensor (torch/distributed/distributed_c10d.py:2921)")
    rank_0 = [
        ((RECEIVE, PYOBJ), 2.0), ((HANDLE, BROADCAST_MM, FROM_DICT, HASH), 2.2), (to_tensor, 3.1), (broadcast, 1.4),
        ((HANDLE,), 0.5), ((FORWARD,), 3.55),
    ]  # fmt: skip
    rank_1 = [((RECEIVE, PYOBJ), 4.0), (broadcast, 5.2), ((HANDLE,), 0.5), ((FORWARD,), 3.4)]
    moved = f"event_loop_overlap ({SCHEDULER}:941)"  # the commit added lines above
    return _profile("rank-0", rank_0, loop=moved), _profile("rank-1", rank_1, loop=moved)


def _grown(frame, role, before, after, low, high, *, significant):
    return GrownFrame(
        frame=frame,
        role=role,
        before_ms_per_request=before,
        after_ms_per_request=after,
        before_self_ms_per_request=before / 4,
        after_self_ms_per_request=after / 4,
        low_ms=low,
        high_ms=high,
        significant=significant,
    )


def grown_frames():
    return (
        _grown("broadcast_pyobj (sglang/srt/utils/common.py)", "rank-0", 1.9, 2.0, -0.4, 0.6, significant=False),
        _grown(f"handle_generate_request ({SCHEDULER})", "rank-0", 2.7, 7.2, 3.9, 5.2, significant=True),
        _grown(f"_process_and_broadcast_mm_inputs ({SCHEDULER})", "rank-0", 0.0, 6.7, 6.0, 7.5, significant=True),
        _grown(
            "broadcast_object_list (torch/distributed/distributed_c10d.py)",
            "rank-0",
            0.0,
            4.5,
            4.0,
            5.1,
            significant=True,
        ),
        _grown(
            "broadcast_object_list (torch/distributed/distributed_c10d.py)",
            "rank-1",
            0.0,
            5.2,
            4.7,
            5.9,
            significant=True,
        ),
        _grown("from_dict (sglang/srt/managers/schedule_batch.py)", "rank-1", 2.2, 0.0, -2.5, -1.9, significant=True),
        _grown("tensor_hash (sglang/srt/managers/mm_utils.py)", "rank-0", 2.3, 2.2, None, None, significant=False),
    )


def findings():
    evidence = (
        Evidence(what=OBJECT_LIST, unit="CPU ms/request", before=0.0, after=4.5),
        Evidence(what="share of working samples that pickle", unit="%", before=6.6, after=15.8),
    )
    return (
        Finding(
            rule="gil-wait", role="tokenizer", fired=False, effect="GIL waiting moved by +0.3 points (-0.8 to +1.4)",
            threshold="at least 5 points", evidence=(),
        ),
        Finding(
            rule="pickle-in-hot-path", role="rank-0", fired=True,
            effect="pickling costs +4.5 ms CPU per request (+4.0 to +5.1)", threshold="at least 0.5 ms per request",
            evidence=evidence,
        ),
    )  # fmt: skip


def effects():
    return (
        Effect(metric="e2e_p50_ms", ratio=1.21, low=1.12, high=1.31, confidence=0.95, pairs=6, starts=2),
        Effect(metric="throughput_rps", ratio=0.822, low=0.781, high=0.866, confidence=0.95, pairs=6, starts=2),
        Effect(metric="ttft_p50_ms", ratio=1.04, low=0.95, high=1.14, confidence=0.95, pairs=6, starts=2),
    )


def summary(of, index, mean, *, trials=3):
    tested = mean is not None
    return RevisionSummary(
        revision=of,
        index=index,
        trials=trials if tested else 1,
        untestable=0 if tested else 1,
        untestable_reason="" if tested else "ImportError: cannot import name 'fused_moe'",
        metric_mean=mean,
        metric_low=mean * 0.96 if tested else None,
        metric_high=mean * 1.04 if tested else None,
        evidence_ms_per_request=(0.1 if mean > 140 else 4.6) if tested else None,
    )


def bisect_result(**changed):
    """A bisect of 128 revisions that named number 64, with one untestable revision on the way."""
    rng = random.Random(7)
    subject = "[Feature] Broadcast multimodal inputs from the entry rank (#11910)"
    measured = [0, 32, 48, 56, 60, 62, 63, 64, 66, 80, 127]
    made = {number: revision(number, subject=subject if number == 64 else None) for number in [*measured, 61]}
    summaries = [summary(made[n], n, (155.0 if n < 64 else 127.5) * rng.uniform(0.98, 1.02)) for n in measured] + [
        summary(made[61], 61, None)
    ]
    trials = [untestable(1, 1, made[61])]
    for block in range(1, 12):
        for number in (measured[block - 1], rng.choice((0, 127))):
            base = 155.0 if number < 64 else 127.5
            trials.append(completed(len(trials) + 1, block, made[number], base * rng.uniform(0.95, 1.05)))
    posterior = [0.0] * 128
    posterior[64], posterior[63], posterior[66] = 0.981, 0.012, 0.007
    values = {
        "run": run_info(),
        "origin": "https://example.org/sglang.git",
        "direction": Direction.REGRESSION,
        "good": made[0],
        "bad": made[127],
        "candidates": 127,
        "verdict": BisectVerdict.CULPRIT,
        "sentence": "4017a57fd lowered throughput by 17.8% (13.4% to 21.9%): pickling grew by 4.5 ms CPU per request "
        "on rank 0.",
        "culprit": Culprit(
            revision=made[64],
            posterior=0.981,
            hunks=(
                Hunk(
                    path=SCHEDULER, old_start=1150, old_lines=3, new_start=1150, new_lines=6,
                    text=" def handle_generate_request(self, recv_req):\n"
                    "-    image_inputs = MultimodalInputs.from_dict(recv_req.mm_inputs)\n"
                    "+    image_inputs = self._process_and_broadcast_mm_inputs(\n"
                    "+        sorted(recv_req.mm_inputs, key=len)\n"
                    "+    )\n",
                ),
            ),
        ),
        "credible_set": (made[64],),
        "posterior": tuple(posterior),
        "effects": effects(),
        "findings": findings(),
        "grown_frames": grown_frames(),
        "baseline_profiles": before_profiles(),
        "candidate_profiles": after_profiles(),
        "revisions": tuple(summaries),
        "trials": tuple(trials),
    }  # fmt: skip
    return BisectResult(**(values | changed))


def _arm(of, strategy, mean, verdict=None, frac=None, low=None, high=None, reason=""):
    recovery = None if frac is None else Recovery(frac=frac, low=low, high=high, confidence=0.95, rounds=3)
    return FixArm(
        revision=of,
        strategy=strategy,
        trials=3,
        mean=mean,
        untestable_reason=reason,
        verdict=verdict,
        recovery=recovery,
    )


def fixed_result():
    """A bisect whose culprit's revert gives the performance back; strategies help, cannot be told, and fail."""
    result = bisect_result()
    plain = Strategy.AS_COMMITTED
    reverted = replace(result.bad, commit="d" * 40, label=f"{result.bad.label} without {made_label(result)}")
    last = len(result.trials)
    arms = (
        _arm(result.good, plain, 155.0),
        _arm(result.bad, plain, 127.5),
        _arm(reverted, plain, 154.0, FixVerdict.RESTORES, 0.97, 0.84, 1.1),
        _arm(result.bad, Strategy.LOCAL, 140.0, FixVerdict.HELPS, 0.4, 0.2, 0.6),
        _arm(result.bad, Strategy.CONDITIONAL, 128.0, FixVerdict.CANNOT_TELL, 0.02, None, None),
        _arm(result.bad, Strategy.SHARED_MEMORY, None, FixVerdict.CANNOT_TELL, reason="the code is not known"),
    )
    trials = [
        completed(last + 1 + place, 99, arm.revision, arm.mean, strategy=arm.strategy.value)
        for place, arm in enumerate(arms)
        if arm.mean is not None
    ]
    fix = FixResult(
        mode=FixMode.ALL,
        sentence="Reverting it gives back 97% of the lost throughput (95% interval 84% to 110%, 3 rounds).",
        notes=(),
        reverted=reverted,
        conflicts=(),
        patch="fix.patch",
        arms=arms,
        first_trial=last + 1,
    )
    return replace(result, trials=(*result.trials, *trials), fix=fix)


def made_label(result):
    """What the culprit is called."""
    return result.culprit.revision.label


def conflicting_result(name=SCHEDULER):
    """A bisect whose culprit cannot be reverted: on `name`, which stands everywhere a name can."""
    conflict = RevertConflict(path=name, reason="the same lines were changed since", functions=(name, "other"))
    fix = FixResult(
        mode=FixMode.REVERT,
        sentence=f"Reverting it conflicts in {name}. Nothing was measured.",
        notes=(name,),
        reverted=None,
        conflicts=(conflict,),
        patch="",
        arms=(),
        first_trial=None,
    )
    return bisect_result(fix=fix)


def no_change_result():
    return bisect_result(
        verdict=BisectVerdict.NO_CHANGE,
        sentence="No change of throughput of 5% or more: -0.4% (-2.1% to +1.3%) over 8 pairs.",
        culprit=None,
        credible_set=(),
        posterior=(),
        effects=(
            Effect(metric="throughput_rps", ratio=0.996, low=0.979, high=1.013, confidence=0.95, pairs=8, starts=3),
        ),
        findings=findings()[:1],
        grown_frames=grown_frames()[:1],
    )


def unknown_result():
    return bisect_result(
        verdict=BisectVerdict.UNKNOWN,
        sentence="Unknown: 40 trials did not decide between 3 revisions, of which 1 cannot be started.",
        culprit=None,
        credible_set=(revision(62), revision(63), revision(64)),
        effects=(),
        findings=(),
        grown_frames=(),
        baseline_profiles=(),
        candidate_profiles=(),
    )


def compare_result(**changed):
    rng = random.Random(11)
    baseline, candidate = revision(1), revision(2)
    trials = []
    for block in range(1, 7):
        for of, base in rng.sample([(baseline, 155.0), (candidate, 127.5)], 2):
            trials.append(completed(len(trials) + 1, block, of, base * rng.uniform(0.95, 1.05)))
    values = {
        "run": run_info(command="perfguard compare a b --api-key topsecretvalue", stand_ins=()),
        "baseline": baseline,
        "candidate": candidate,
        "verdict": CompareVerdict.SLOWER,
        "sentence": "0217a57fd answers 17.8% fewer requests per second than 0117a57fd (13.4% to 21.9%).",
        "effects": effects(),
        "findings": findings(),
        "grown_frames": grown_frames(),
        "baseline_profiles": before_profiles(),
        "candidate_profiles": after_profiles(),
        "revisions": (summary(baseline, 0, 155.0), summary(candidate, 1, 127.5)),
        "trials": tuple(trials),
    }
    return CompareResult(**(values | changed))


def run_result():
    made = [revision(number) for number in (1, 2, 3)]
    trials = [completed(n + 1, 1, made[n], 150.0 - 10 * n) for n in range(2)] + [untestable(3, 1, made[2])]
    return RunResult(
        run=run_info(),
        revisions=(summary(made[0], 0, 150.0), summary(made[1], 1, 140.0), summary(made[2], 2, None)),
        profiles=((made[0].label, before_profiles()), (made[1].label, after_profiles()), (made[2].label, ())),
        trials=tuple(trials),
    )


def _line(metric, mean, change=None, low=None, high=None, *, role="", meaning="noise", kind=ChangeKind.RATIO):
    told = None
    if change is not None:
        blocks = 1 if low is None else 5
        told = ArmChange(kind=kind, change=change, low=low, high=high, blocks=blocks, meaning=ArmMeaning(meaning))
    return ArmMetric(metric=metric, role=role, mean=mean, trials=5, change=told)


def strategies_result(reason="strategy tensor-broadcast: the code is not recognised"):
    """Four strategies of one revision: local is better, conditional inside the noise, one refused for `reason`."""
    difference = {"kind": ChangeKind.DIFFERENCE}
    lines = {
        Strategy.AS_COMMITTED: (
            _line("throughput_rps", 118.0),
            _line("e2e_p99_ms", 840.0),
            _line(WORKING_CPU, 15.2),
            _line(WORKING_CPU, 7.1, role="rank-0"),
            _line(PICKLE, 4.4),
            _line(GIL_WAIT, 0.031, role="tokenizer"),
        ),
        Strategy.LOCAL: (
            _line("throughput_rps", 140.0, 1.186, 1.152, 1.221, meaning="better"),
            _line("e2e_p99_ms", 700.0, 0.83, 0.78, 0.89, meaning="better"),
            _line(WORKING_CPU, 12.0, -3.2, -3.9, -2.5, meaning="better", **difference),
            _line(WORKING_CPU, 7.4, 0.3, 0.1, 0.5, role="rank-0", meaning="worse", **difference),
            _line(PICKLE, 0.9, -3.5, -3.9, -3.1, meaning="better", **difference),
            _line(GIL_WAIT, 0.03, -0.001, -0.012, 0.01, role="tokenizer", **difference),
        ),
        Strategy.CONDITIONAL: (
            _line("throughput_rps", 119.0, 1.008, 0.97, 1.047),
            _line("e2e_p99_ms", 835.0, 0.994),
        ),
        Strategy.TENSOR_BROADCAST: (),
    }
    arms = tuple(
        StrategyArm(
            strategy=strategy,
            trials=5 if metrics else 2,
            untestable=0 if metrics else 2,
            untestable_reason="" if metrics else reason,
            metrics=metrics,
        )
        for strategy, metrics in lines.items()
    )
    made = revision(1)
    table = StrategyTable(
        revision=made,
        baseline=Strategy.AS_COMMITTED,
        confidence=0.95,
        blocks=5,
        arms=arms,
        advice=f"Today run local under {run_info().scenario}: throughput +18.6% (+15.2% to +22.1%, 5 blocks).",
    )
    trials = [completed(1, 1, made, 118.0), completed(2, 1, made, 140.0, strategy="local")]
    return replace(
        run_result(),
        revisions=(summary(made, 0, 118.0), replace(summary(made, 1, 140.0), strategy=Strategy.LOCAL)),
        profiles=(),
        trials=tuple(trials),
        strategies=(table,),
    )


def hostile_result():
    """Every text that comes from outside is hostile."""
    joined = " ".join(name for name in HOSTILE_NAMES if len(name) < 100)
    bad = Revision(commit="c" * 40, label=HOSTILE[:24], subject=joined, author=HOSTILE, committed_at=HOSTILE)
    stacks = tuple(((name, f"inner of {name}"), 1.0 + n) for n, name in enumerate(HOSTILE_NAMES))
    grown = tuple(
        _grown(name, "rank-0", 0.0, 1.0 + n, 0.5, 2.0 + n, significant=True) for n, name in enumerate(HOSTILE_NAMES)
    )
    gil = GilLayers(
        looks=9, holding=stacks, waiting=stacks, meanwhile=tuple((name, HOSTILE, 1.0) for name in HOSTILE_NAMES)
    )
    profile = RoleProfile(role="rank-0", samples=10, trials=2, stacks=stacks, gil=gil)
    odd_role = RoleProfile(role="__proto__", samples=10, trials=2, stacks=stacks)
    judged = tuple(
        Finding(rule=name, role=name, fired=True, effect=name, threshold=name,
                evidence=(Evidence(what=name, unit=name, before=float("nan"), after=float("inf")),))
        for name in HOSTILE_NAMES
    )  # fmt: skip
    good = revision(1)
    return bisect_result(
        run=run_info(
            command=joined, scenario=HOSTILE, scenario_description=joined, run_dir=joined,
            environment=tuple((name, name) for name in HOSTILE_NAMES), stand_ins=HOSTILE_NAMES,
        ),
        bad=bad,
        sentence=joined,
        culprit=Culprit(
            revision=bad, posterior=0.9,
            hunks=(Hunk(path=HOSTILE, old_start=1, old_lines=1, new_start=1, new_lines=1, text=f"+{joined}"),),
        ),
        credible_set=(bad, good),
        effects=(
            Effect(
                metric=HOSTILE, ratio=float("nan"), low=0.1, high=float("inf"), confidence=0.95, pairs=0, starts=0
            ),
        ),
        findings=judged,
        grown_frames=grown,
        baseline_profiles=(profile, odd_role),
        candidate_profiles=(profile, odd_role),
        revisions=(summary(good, 0, 150.0), summary(bad, 1, 120.0), summary(revision(2, subject=joined), 2, None)),
        trials=(
            completed(1, 1, good, 150.0),
            completed(2, 1, bad, 120.0, strategy=HOSTILE),
            untestable(3, 1, bad, reason=joined, log="\n".join(HOSTILE_NAMES)),
        ),
        fix=FixResult(
            mode=FixMode.ALL,
            sentence=joined,
            notes=HOSTILE_NAMES,
            reverted=bad,
            conflicts=tuple(
                RevertConflict(path=name, reason=name, functions=(name, name)) for name in HOSTILE_NAMES
            ),
            patch=HOSTILE,
            arms=(_arm(bad, Strategy.LOCAL, float("nan"), FixVerdict.HELPS, 0.15, 0.1, 0.2, joined),),
            first_trial=3,
        ),
    )  # fmt: skip


def profile_report(**changed):
    """A recording of two processes, with a finding and a table."""
    values = {
        "title": "perfguard record: 4242",
        "sentence": "Two processes were recorded for 10 s; one rule fired.",
        "facts": ("10 s", "5,200 samples"),
        "sides": (Side(name="Recorded", label="4242", profiles=after_profiles()),),
        "unit": SAMPLES,
        "findings": findings(),
        "tables": (
            FactTable(
                title="Threads",
                columns=("Thread", ">Running", ">GIL wait"),
                rows=(("MainThread", "71%", "12%"), ("zmq reaper", "0%", "n/a")),
                note="Shares of the time watched.",
            ),
        ),
        "environment": (("python", "3.11.7"), ("HF_TOKEN", "abc123veryprivate")),
        "command": "perfguard record --pid 4242 --api-key topsecretvalue",
    }
    return ProfileReport(**(values | changed))


def index_entries():
    """Twelve runs of two scenarios, of every verdict."""
    verdicts = [*CompareVerdict, None, *BisectVerdict, *CompareVerdict]
    made = []
    for number, verdict in enumerate(verdicts):
        is_slower = verdict is CompareVerdict.SLOWER
        made.append(
            IndexEntry(
                path=f"run {number}/report.html",
                kind="bisect" if isinstance(verdict, BisectVerdict) else "compare" if verdict else "run",
                run=run_info(
                    started_at=f"2025-11-{number + 1:02d}T02:00:00+00:00",
                    scenario="small-images" if number % 3 else "text-only",
                ),
                verdict=verdict,
                sentence=f"Sentence number {number}, token=topsecretvalue.",
                effect=effects()[1] if is_slower else None,
                metric_mean=150.0 - 20 * is_slower + number,
                revision=revision(number).label,
                untestable=(("abc1234", "ImportError: no module"),) if number == 2 else (),
            )
        )
    return tuple(made)
