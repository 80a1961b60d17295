"""The schedule: the same bodies for every revision, no shared prompts, images shared in memory."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from perfguard.load import media
from perfguard.load.prompts import MIN_PROMPT_CHARS
from perfguard.load.schedule import Schedule, build_phases, build_schedule
from perfguard.model.errors import UsageError
from perfguard.model.scenario import AnswerKind, ImageFormat, ImageSpec, LoadSpec, RequestSpec

IMAGE = ImageSpec(width_px=32, height_px=16, format=ImageFormat.PNG)


def load(**changes) -> LoadSpec:
    spec = LoadSpec(
        requests=6,
        concurrency=3,
        warmup_requests=4,
        settling_requests=2,
        profiled_requests=2,
        image=IMAGE,
        distinct_images=3,
        prompt_chars=40,
        output_tokens=5,
        request_timeout_s=10.0,
        seed=11,
    )
    return dataclasses.replace(spec, **changes)


def prompt_of(request) -> str:
    return json.loads(request.body)["messages"][0]["content"][0]["text"]


def test_a_body_asks_for_a_fixed_number_of_tokens_as_a_stream():
    body = json.loads(build_schedule(load(), model="tiny").requests[0].body)
    content = body.pop("messages")[0]["content"]
    assert body == {
        "model": "tiny",
        "max_tokens": 5,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert content[1]["image_url"]["url"].encode() == media.data_urls(IMAGE, 11, 3)[0]


def test_usage_is_asked_for_where_it_is_wanted():
    asked, plain = (json.loads(build_schedule(load(), usage=usage).requests[3].body) for usage in (True, False))
    assert asked.pop("stream_options") == {"include_usage": True}
    assert asked == plain


def test_prompts_have_their_length_and_differ_from_the_first_characters_on():
    prompts = [prompt_of(request) for request in build_schedule(load(), requests=300).requests]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({prompt[:7] for prompt in prompts}) == 300
    assert len({prompt[8:] for prompt in prompts}) > 290
    assert all(first[0] != second[0] for first, second in itertools.pairwise(prompts))


def test_images_are_walked_through_in_order_and_shared():
    requests = build_schedule(load(image=dataclasses.replace(IMAGE, count=2)), requests=4).requests
    urls = media.data_urls(IMAGE, 11, 3)
    chosen = [
        [part["image_url"]["url"].encode() for part in json.loads(r.body)["messages"][0]["content"][1:]]
        for r in requests
    ]
    assert chosen == [[urls[0], urls[1]], [urls[2], urls[0]], [urls[1], urls[2]], [urls[0], urls[1]]]
    assert requests[0].parts[1] is requests[3].parts[1]


def test_a_load_without_images_has_text_only():
    content = json.loads(build_schedule(load(image=None, distinct_images=0)).requests[0].body)["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text"]


def test_the_same_load_gives_the_same_digest():
    assert build_schedule(load()).digest == build_schedule(load()).digest
    assert len(build_schedule(load()).digest) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 12},
        {"concurrency": 4},
        {"requests": 7},
        {"prompt_chars": 41},
        {"output_tokens": 6},
        {"distinct_images": 2},
        {"image": dataclasses.replace(IMAGE, width_px=33)},
        {"image": None},
    ],
    ids=str,
)
def test_every_change_of_the_load_changes_the_digest(change):
    assert build_schedule(load(**change)).digest != build_schedule(load()).digest


def test_the_order_of_requests_is_part_of_the_digest():
    schedule = build_schedule(load())
    assert Schedule(requests=schedule.requests[::-1], concurrency=3).digest != schedule.digest


def test_phases_are_consecutive_pieces_of_one_schedule():
    phases, whole = build_phases(load()), build_schedule(load())
    pieces = (phases.warmup, phases.settling, phases.measured, phases.profiled)
    assert [[r.index for r in piece.requests] for piece in pieces] == [
        [0, 1, 2, 3],
        [4, 5],
        [6, 7, 8, 9, 10, 11],
        [12, 13],
    ]
    assert tuple(r for piece in pieces for r in piece.requests) == whole.requests
    assert phases.digest == whole.digest
    assert len({piece.digest for piece in pieces} | {whole.digest}) == 5


def test_an_offset_continues_the_same_sequence():
    whole = build_schedule(load(), requests=9)
    assert build_schedule(load(), requests=4, offset=5).requests == whole.requests[5:]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt_chars": MIN_PROMPT_CHARS - 1}, "prompt_chars"),
        ({"distinct_images": 0}, "distinct_images"),
        ({"image": dataclasses.replace(IMAGE, count=0)}, "images per request"),
        ({"concurrency": 0}, "concurrency"),
        ({"output_tokens": 0}, "output_tokens"),
        ({"requests": 10_000_001}, "10000000"),
    ],
)
def test_a_load_that_cannot_be_built_is_a_usage_error(change, word):
    with pytest.raises(UsageError, match=word):
        build_schedule(load(**change))


def test_a_request_of_its_own_is_filled_in_everywhere():
    body = {"text": "<{prompt}>", "ids": ["{number}", 7], "flag": True}
    spec = RequestSpec(path="/rank/{number}", json=body)
    request = build_schedule(load(image=None, request=spec)).requests[12]
    sent = json.loads(request.body)
    assert (request.method, request.path, request.answer) == ("POST", "/rank/12", AnswerKind.PLAIN)
    assert sent["text"].startswith("<2100000 ")
    assert len(sent["text"]) == 42
    assert (sent["ids"], sent["flag"]) == (["12", 7], True)


def test_a_request_may_be_text_or_have_no_body():
    text = RequestSpec(path="/", text="n={number}", content_type="text/plain")
    assert build_schedule(load(image=None, request=text)).requests[3].body == b"n=3"
    assert build_schedule(load(image=None, request=RequestSpec(path="/", method="GET"))).requests[3].body == b""


def test_where_a_request_goes_is_part_of_the_digest():
    digests = {
        build_schedule(load(image=None, request=spec)).digest
        for spec in (
            None,
            RequestSpec(path="/a"),
            RequestSpec(path="/b"),
            RequestSpec(path="/a", method="PUT"),
            RequestSpec(path="/a", answer=AnswerKind.OPENAI_STREAM),
        )
    }
    assert len(digests) == 5
