from __future__ import annotations

from dataclasses import replace

import pytest

from perfguard.model.result import CompareVerdict, Direction
from perfguard.report.clean import clean
from perfguard.report.view import CPU_RUN_NOTE, CUDA_STAND_IN_NOTE, build_page


def page_of(result):
    return build_page(clean(result))


@pytest.mark.parametrize(
    ("name", "look", "label"),
    [
        ("bisect", "culprit", "Culprit found"),
        ("no_change", "no-change", "No change"),
        ("unknown", "unknown", "Unknown"),
        ("compare", "slower", "Slower"),
        ("run", "run", "Measured"),
    ],
)
def test_each_verdict_has_its_own_look(samples, name, look, label):
    banner = page_of(getattr(samples, f"{name}_result")()).banner
    assert (banner.look, banner.label) == (look, label)
    assert banner.sentence


def test_every_compare_verdict_has_a_look(samples):
    looks = {page_of(samples.compare_result(verdict=verdict)).banner.look for verdict in CompareVerdict}
    assert looks == {"slower", "faster", "no-change", "unknown"}


def test_a_found_improvement_is_no_culprit(samples):
    banner = page_of(samples.bisect_result(direction=Direction.IMPROVEMENT)).banner
    assert (banner.look, banner.label) == ("faster", "Improvement found")


def test_the_facts_name_trials_losses_and_the_kind_of_machine(samples):
    facts = page_of(samples.bisect_result()).banner.facts
    assert facts == (
        "23 trials",
        "1 of them untestable",
        "11 revisions measured of 128",
        "scenario small-images",
        "37 of 48,248 stack samples lost (0.08%)",
        CPU_RUN_NOTE.rstrip("."),
    )
    assert "no stand-ins" in page_of(samples.compare_result()).banner.facts


def test_the_runs_own_metric_stands_first_and_noise_is_named(samples):
    rows = page_of(samples.bisect_result()).effects
    assert [(row.metric, row.change, row.meaning) for row in rows] == [
        ("Throughput", "-17.8%", "worse"),
        ("E2E latency p50", "+21.0%", "worse"),
        ("TTFT p50", "+4.0%", "noise"),
    ]
    assert rows[0].interval == "-21.9% to -13.4% (95%)"


def test_findings_that_fired_stand_first(samples):
    assert [row.fired for row in page_of(samples.bisect_result()).findings] == [True, False]


def test_frames_outside_the_noise_stand_first(samples):
    result = samples.bisect_result()
    rows = page_of(result).frames
    assert [row.significant for row in rows] == [True] * 5 + [False] * 2
    # Within the significant ones the evidence's own order stays: it knows which function explains the others.
    in_order = [frame.frame for frame in result.grown_frames if frame.significant]
    assert [row.key for row in rows if row.significant] == in_order
    (new,) = [row for row in rows if row.frame.startswith("_process_and_broadcast_mm_inputs")]
    assert (new.change, new.ratio) == ("+6.70", "new")
    assert [row.ratio for row in rows if row.frame.startswith("from_dict")] == ["gone"]
    assert [row.interval for row in rows if not row.tested] == ["not tested"]


def test_a_page_shows_a_hundred_functions_and_counts_the_others(samples):
    frames = tuple(replace(samples.grown_frames()[0], frame=f"f{n} (a.py)") for n in range(250))
    page = page_of(samples.bisect_result(grown_frames=frames))
    assert len(page.frames) == 100
    assert page.hidden_frames == 150
    assert page_of(samples.bisect_result()).hidden_frames == 0


def test_a_finding_s_evidence_knows_its_frame(samples):
    (fired,) = [row for row in page_of(samples.bisect_result()).findings if row.fired]
    assert [row.frame for row in fired.evidence] == [samples.OBJECT_LIST, ""]


def test_revisions_carry_their_part_and_posterior(samples):
    rows = {row.index: row for row in page_of(samples.bisect_result()).revisions}
    assert list(rows) == sorted(rows)
    assert (rows[64].mark, rows[64].posterior) == ("culprit", "98.10%")
    assert (rows[0].mark, rows[127].mark, rows[32].mark) == ("good", "bad", "")
    assert (rows[61].metric, rows[61].untestable) == ("n/a", 1)
    assert "ImportError" in rows[61].untestable_reason


def test_trials_show_labels_and_untestable_ones_their_reason_and_log(samples):
    rows = page_of(samples.bisect_result()).trials
    assert [row.number for row in rows] == list(range(1, 24))
    assert not rows[0].completed
    assert rows[0].reason == "the server did not start within 120 s"
    assert rows[0].log.startswith("Traceback")
    assert rows[1].revision == samples.revision(0).label
    assert rows[1].errors == "1 of 400"


def test_a_long_log_keeps_its_end(samples):
    trial = samples.untestable(1, 1, samples.revision(1), log="x" * 50_000 + "the end")
    log = page_of(samples.bisect_result(trials=(trial,))).trials[0].log
    assert len(log) < 7_000
    assert log.endswith("the end")


def test_the_culprits_diff_is_told_apart_by_line(samples):
    commit = page_of(samples.bisect_result()).culprit
    assert [line.kind for line in commit.hunks[0].lines] == ["same", "removed", "added", "added", "added"]
    assert commit.hidden_lines == 0


def test_a_huge_diff_is_cut_and_says_so(samples):
    result = samples.bisect_result()
    hunk = result.culprit.hunks[0]
    huge = type(hunk)(path="a.py", old_start=1, old_lines=0, new_start=1, new_lines=5000, text="\n".join(["+x"] * 5000))
    culprit = type(result.culprit)(revision=result.culprit.revision, posterior=0.9, hunks=(huge, hunk))
    commit = page_of(samples.bisect_result(culprit=culprit)).culprit
    assert sum(len(each.lines) for each in commit.hunks) == 600
    assert commit.hidden_lines == 5000 + 5 - 600


def test_no_samples_is_not_zero_percent(samples):
    facts = page_of(samples.bisect_result(run=samples.run_info(lost_samples=0, kept_samples=0))).banner.facts
    assert "no stacks were sampled" in facts


def test_stand_ins_on_cards_are_not_called_a_cpu_run(samples):
    result = samples.compare_result()
    run = replace(
        result.run, environment=(*result.run.environment, ("device", "cuda")), stand_ins=("sgl_kernel: plain",)
    )
    page = page_of(replace(result, run=run))
    assert page.device_note == CUDA_STAND_IN_NOTE
    assert "Stand-in kernels" in page.banner.facts[-1]


def test_how_busy_the_cards_were_is_a_column_only_where_they_were_read(samples):
    result = samples.run_result()
    assert not page_of(result).has_gpu
    measured = tuple(replace(summary, gpu_busy_frac=0.19) for summary in result.revisions)
    page = page_of(replace(result, revisions=measured))
    assert page.has_gpu
    assert {row.gpu for row in page.revisions} == {"19.00%"}
