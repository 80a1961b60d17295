"""Trace files: read as they are, refused by the line, and replayed with the lengths that they tell."""

import json

import pytest

from perfguard.load.prompts import prompt_of_trace
from perfguard.load.schedule import build_schedule
from perfguard.load.trace import TraceEntry, read_trace
from perfguard.model.errors import UsageError
from perfguard.model.scenario import ArrivalKind, ArrivalSpec, LoadSpec

LINES = (
    '{"timestamp": 27482, "input_length": 6, "output_length": 3, "hash_ids": [46, 47]}\n'
    "\n"
    '{"timestamp": 27482, "input_length": 1, "output_length": 1}\n'
    '{"timestamp": 30535.5, "input_length": 9, "output_length": 4}\n'
)
GOOD = '{"timestamp": 5, "input_length": 1, "output_length": 1}\n'


def test_a_trace_gives_its_times_and_lengths_again_and_again(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text(LINES)
    assert read_trace(path)[2] == TraceEntry(timestamp=30535.5, input_length=9, output_length=4)
    spec = LoadSpec(
        requests=5,
        concurrency=3,
        warmup_requests=0,
        settling_requests=0,
        profiled_requests=0,
        prompt_chars=40,
        output_tokens=7,
        request_timeout_s=10.0,
        seed=1,
        arrival=ArrivalSpec(kind=ArrivalKind.TRACE, trace_file=str(path)),
    )
    requests = build_schedule(spec).requests
    # Three requests in 3.0535 s: the next turn follows after their mean gap.
    assert [r.due_s for r in requests] == pytest.approx([0.0, 0.0, 3.0535, 4.58025, 4.58025])
    bodies = [json.loads(request.body) for request in requests]
    assert [body["max_tokens"] for body in bodies] == [3, 1, 4, 3, 1]
    assert [request.output_tokens for request in requests] == [3, 1, 4, 3, 1]
    prompts = [body["messages"][0]["content"][0]["text"] for body in bodies]
    assert [len(prompt.split()) for prompt in prompts] == [6, 1, 9, 6, 1]
    assert len(set(prompts)) == 5
    path.write_text(LINES.replace("30535.5", "30536.5"))
    assert build_schedule(spec).digest != build_schedule(spec, requests=4).digest
    assert build_schedule(spec).requests[2].due_s == 3.0545


def test_equal_hashes_are_equal_blocks_of_a_turn():
    trace = (
        TraceEntry(timestamp=0, input_length=1100, output_length=1, hash_ids=(7, 8, 9)),
        TraceEntry(timestamp=1, input_length=700, output_length=1, hash_ids=(7, 10)),
        TraceEntry(timestamp=2, input_length=520, output_length=1, hash_ids=(7,)),
        TraceEntry(timestamp=3, input_length=520, output_length=1),
    )
    prompts = [prompt_of_trace(3, number, trace).split() for number in range(8)]
    assert [len(prompt) for prompt in prompts] == [1100, 700, 520, 520] * 2
    first, second, third, alone = prompts[:4]
    assert first[:512] == second[:512] == third[:512]
    assert first[512:700] != second[512:700]
    # What no hash covers is the request's own.
    assert (third[512], alone[0]) == ("2000000", "3000000")
    # A trace that is repeated is not answered from the cache of its last turn.
    assert prompts[4][:512] != first[:512]
    assert prompts[4][:512] == prompts[5][:512]
    assert prompt_of_trace(4, 0, trace).split()[:512] != first[:512]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no request"),
        ("oops\n", "line 1: JSON is malformed"),
        (GOOD + '{"timestamp": 6, "input_length": 1}\n', "line 2: Object missing required field `output_length`"),
        (GOOD + '{"timestamp": "6", "input_length": 1, "output_length": 1}', "line 2: Expected `float`"),
        (GOOD + GOOD.replace("5", "4"), "line 2: its timestamp lies before"),
        (GOOD.replace("1}", '1, "hash_ids": ["a"]}'), "line 1: Expected `int`"),
        (GOOD.replace('"input_length": 1', '"input_length": 0'), "line 1: input_length and output_length"),
        ('{"timestamp": 5, "input_length": "\\ud800\n', "line 1: "),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


def test_a_missing_trace_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read the trace"):
        read_trace(tmp_path / "none.jsonl")
