from __future__ import annotations

import pytest

from perfguard.report import words

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "n/a"), (NAN, "n/a"), (-INF, "n/a"), (0.0, "0"), (4.5, "4.50"), (153.9, "154"), (12_345.6, "12,346"),
        (0.01234, "0.0123"), (-0.5, "-0.500"), (1e-12, "1.00e-12"),
    ],
)  # fmt: skip
def test_numbers(value, expected):
    assert words.number(value) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.838, "-16.2%"), (1.0, "0.0%"), (1.0004, "0.0%"), (1.05, "+5.0%"), (3.5, "+250%"), (NAN, "n/a"), (None, "n/a")],
)
def test_percent_change(ratio, expected):
    assert words.percent_change(ratio) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(1.25, "1.2 s"), (63.5, "1 min 04 s"), (3723, "1 h 02 min"), (NAN, "n/a")]
)
def test_seconds(value, expected):
    assert words.seconds(value) == expected


def test_signed_numbers_show_their_sign():
    assert [words.signed(x) for x in (4.5, -4.5, 0.0, None)] == ["+4.50", "-4.50", "0", "n/a"]


def test_share_of_nothing_is_not_zero():
    assert words.share(1, 0) == "n/a"
    assert words.share(1, 1_000_000) == "<0.01%"
    assert words.share(37, 48_248) == "0.08%"


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 99])
def test_shortened_text_keeps_both_ends_and_the_limit(limit):
    text = "a" * 50 + "b" * 50
    short = words.shorten(text, limit)
    assert len(short) == limit
    assert "…" in short
    assert words.shorten("a" * limit, limit) == "a" * limit


def test_one_line_has_no_breaks():
    assert words.one_line("a\n\tb  c", 10) == "a b c"
