from __future__ import annotations

import io

import pytest
from rich.console import Console

from perfguard.report.text import print_result


def printed(result, *, width=200, terminal=False):
    out = io.StringIO()
    print_result(
        result, Console(file=out, width=width, force_terminal=terminal, color_system="standard" if terminal else None)
    )
    return out.getvalue()


def test_the_verdict_is_the_first_line(samples):
    lines = printed(samples.bisect_result()).splitlines()
    assert lines[0] == "CULPRIT FOUND"
    assert lines[1].startswith("4017a57fd lowered throughput by 17.8%")
    assert "Broadcast multimodal inputs" in lines[2]


def test_everything_that_matters_is_there(samples):
    text = printed(samples.bisect_result())
    for wanted in (
        "-21.9% to -13.4% (95%)",
        "pickle-in-hot-path (rank-0): pickling costs +4.5 ms",
        "1 rule stayed silent",
        "broadcast_object_list (torch/distributed/distributed_c10d.py)",
        "+6.00 to +7.50",
        "98.10%",
        "untestable 1x: ImportError",
        "CPU run: judges the request path, not the kernels",
    ):
        assert wanted in text
    assert "tensor_hash" not in text  # not tested, so not shown as grown


def test_no_change_and_unknown(samples):
    assert printed(samples.no_change_result()).startswith("NO CHANGE\n")
    unknown = printed(samples.unknown_result())
    assert unknown.startswith("UNKNOWN\n")
    assert "It is among these 3 revisions:" in unknown


@pytest.mark.parametrize("name", ["bisect", "compare", "run", "hostile"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_wider_than_the_terminal(samples, name, width):
    assert all(len(line) <= width for line in printed(getattr(samples, f"{name}_result")(), width=width).splitlines())


def test_names_are_neither_markup_nor_control_codes(samples):
    text = printed(samples.hostile_result())
    assert "[bold red]markup[/]" in text
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


def test_secrets_do_not_reach_the_terminal(samples):
    assert "/home/ada" not in printed(samples.bisect_result())


def test_colour_only_where_the_console_has_it(samples):
    assert "\x1b[" in printed(samples.bisect_result(), terminal=True)
    assert "\x1b[" not in printed(samples.bisect_result())
