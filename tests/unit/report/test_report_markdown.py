from __future__ import annotations

import re
from dataclasses import replace

import pytest

from perfguard.report.markdown import MOST_BYTES, to_markdown

EVERY = ["bisect", "no_change", "unknown", "compare", "run", "hostile", "fixed", "conflicting"]


def test_the_verdict_comes_first(samples):
    text = to_markdown(samples.bisect_result(), report="https://ci.example.org/a (1).html")
    assert text.startswith("## ▲ Culprit found\n\n**4017a57fd lowered throughput by 17.8%")
    assert "[The whole report](https://ci.example.org/a%20%281%29.html)" in text
    order = [
        "## ▲",
        "### Effects",
        "### The commit",
        "### Findings",
        "### Functions whose cost",
        "Revisions",
        "Reproduce",
    ]
    assert [text.index(each) for each in order] == sorted(text.index(each) for each in order)
    assert "| `Throughput` | **-17.8%** | -21.9% to -13.4% (95%) | worse | 6 |" in text
    assert "`[Feature] Broadcast multimodal inputs from the entry rank (#11910)`" in text
    assert "| `broadcast_object_list (torch/distributed/distributed_c10d.py)` | `rank-0` | 0 | 4.50 | ▲ +4.50 |" in text


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_is_small_and_every_table_is_whole(samples, name):
    text = to_markdown(getattr(samples, f"{name}_result")())
    assert len(text.encode()) < MOST_BYTES
    width = None
    for line in text.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert width is None or cells is None or cells == width, line
        width = cells


def test_nothing_foreign_becomes_markup_or_a_mention(samples):
    subject = "Fix @everyone's `x` | <img src=x> [link](http://evil.example) see #1 and sglang/sglang#2"
    revision = samples.revision(3, subject=subject)
    result = samples.compare_result(
        candidate=revision,
        revisions=(samples.summary(revision, 0, 120.0),),
        sentence=f"{subject} is slower",
    )
    text = to_markdown(result)
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text, flags=re.DOTALL)
    assert "<img" not in outside.replace("\\<", "")
    assert not re.search(r"@\w", outside)
    assert not re.search(r"(?<!\\)\]\(http", outside)
    assert not re.search(r"(?<!\\)#\d", outside)
    assert subject.replace("|", "\\|")[:40] in text


def test_a_command_cannot_leave_its_fence(samples):
    result = samples.compare_result(run=samples.run_info(command="perfguard ```` run"))
    assert "\n`````\nperfguard ```` run\n`````\n" in to_markdown(result)


def test_what_does_not_fit_is_left_out_from_the_end_and_said(samples):
    many = tuple(replace(samples.grown_frames()[1], frame=f"f{n} (a.py)") for n in range(2_000))
    result = samples.bisect_result(grown_frames=many)
    assert len(to_markdown(result).encode()) < MOST_BYTES
    short = to_markdown(result, most_bytes=2_000)
    assert len(short.encode()) <= 2_000
    assert short.startswith("## ▲ Culprit found")
    assert "this text was cut to fit" in short
    assert "cut to fit" not in to_markdown(result)
    hostile = to_markdown(samples.hostile_result(), most_bytes=100)
    assert hostile.startswith("## ▲ Culprit found")  # the verdict stays, whatever the limit


def test_secrets_and_homes_do_not_reach_it(samples):
    for result in (samples.bisect_result(), samples.compare_result()):
        text = to_markdown(result)
        for private in ("abc123veryprivate", "topsecretvalue", "/home/ada"):
            assert private not in text
