"""Mixes of media: the same for the same seed, by weight, with the repeats that were asked for."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import struct
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from perfguard.load import avi, media
from perfguard.load.mix import carried
from perfguard.load.schedule import build_phases, build_schedule
from perfguard.model.errors import UsageError
from perfguard.model.scenario import ImageFormat, ImageSpec, LoadSpec, MediaSpec, VideoSending, VideoSpec

SMALL = MediaSpec(name="small", weight=6, image=ImageSpec(width_px=16, height_px=8, format=ImageFormat.WEBP))
PAIR = MediaSpec(name="pair", weight=3, image=ImageSpec(width_px=9, height_px=9, format=ImageFormat.PNG, count=2))
VIDEO = VideoSpec(width_px=24, height_px=16, frames=3)
CLIP = MediaSpec(name="clip", weight=2, video=VIDEO)
FILE = MediaSpec(name="file", weight=1, video=dataclasses.replace(VIDEO, sent_as=VideoSending.FILE))
TEXT = MediaSpec(name="text", weight=0.5)
MIX = (SMALL, PAIR, CLIP, FILE, TEXT)
ODDS = 1e-6


def load(*classes: MediaSpec, **changes) -> LoadSpec:
    spec = LoadSpec(
        requests=40,
        concurrency=3,
        warmup_requests=4,
        settling_requests=2,
        profiled_requests=2,
        distinct_images=5,
        prompt_chars=40,
        output_tokens=5,
        request_timeout_s=10.0,
        seed=11,
        media=classes,
    )
    return dataclasses.replace(spec, **changes)


def urls_of(request, part="image_url") -> list[str]:
    content = json.loads(request.body)["messages"][0]["content"]
    assert {each["type"] for each in content[1:]} <= {part}
    return [each[part]["url"] for each in content[1:]]


def picture(url: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_each_class_sends_what_it_says():
    requests = build_schedule(load(*MIX), requests=80).requests
    of = {name: next(each for each in requests if each.media_class == name) for name in {m.name for m in MIX}}
    assert [(picture(url).size, picture(url).format) for url in urls_of(of["small"])] == [((16, 8), "WEBP")]
    assert [(picture(url).size, picture(url).format) for url in urls_of(of["pair"])] == [((9, 9), "PNG")] * 2
    frames = urls_of(of["clip"])
    assert [(picture(url).size, picture(url).format) for url in frames] == [((24, 16), "JPEG")] * 3
    assert len(set(frames)) == 3
    (file,) = urls_of(of["file"], "video_url")
    assert file.startswith("data:video/x-msvideo;base64,UklGR")  # RIFF
    assert urls_of(of["text"]) == []


def test_classes_come_by_their_weights():
    count = 2000
    drawn = Counter(each.media_class for each in carried(load(*MIX), count))
    whole = sum(each.weight for each in MIX)
    for each in MIX:
        chance = stats.binom(count, each.weight / whole)
        assert chance.ppf(ODDS) <= drawn[each.name] <= chance.isf(ODDS), each.name


def test_the_choice_depends_on_the_seed_and_the_number_alone():
    mixed = (dataclasses.replace(SMALL, repeated_frac=0.4), *MIX[1:])
    long = carried(load(*mixed), 90)
    assert carried(load(*mixed), 60) == long[:60]
    assert carried(load(*mixed, seed=12), 90) != long
    whole = build_schedule(load(*mixed), requests=50)
    assert build_schedule(load(*mixed), requests=20, offset=30).requests == whole.requests[30:]
    assert build_schedule(load(*mixed), requests=50).digest == whole.digest
    phases = build_phases(load(*mixed))
    pieces = (phases.warmup, phases.settling, phases.measured, phases.profiled)
    assert tuple(r for piece in pieces for r in piece.requests) == build_schedule(load(*mixed)).requests


def test_without_a_share_of_repeats_a_class_walks_through_its_set():
    sent = [urls for each in carried(load(PAIR, TEXT), 40) if (urls := each.urls)]
    flat = [url for urls in sent for url in urls]
    assert len(set(flat)) == 5
    assert flat[5:10] == flat[:5]


@pytest.mark.parametrize("frac", [0.0, 0.3, 1.0])
def test_repeats_are_as_many_as_were_asked_for(frac):
    count = 300
    sent = [each.urls[0] for each in carried(load(dataclasses.replace(SMALL, repeated_frac=frac)), count)]
    repeated = count - len(set(sent))
    chance = stats.binom(count - 1, frac)
    assert chance.ppf(ODDS) <= repeated <= chance.isf(ODDS) if 0 < frac < 1 else repeated == frac * (count - 1)


def test_a_repeated_clip_is_the_whole_clip():
    sent = [each.urls for each in carried(load(dataclasses.replace(CLIP, repeated_frac=0.5)), 20)]
    frames = {frame for urls in sent for frame in urls}
    assert 1 < len(set(sent)) < 20
    assert len(frames) == 3 * len(set(sent))


def test_classes_of_the_same_size_have_pictures_of_their_own():
    twin = dataclasses.replace(SMALL, name="twin")
    by_class = {each.media_class: set() for each in carried(load(SMALL, twin), 40)}
    for each in carried(load(SMALL, twin), 40):
        by_class[each.media_class].update(each.urls)
    assert not by_class["small"] & by_class["twin"]


def test_what_would_take_minutes_to_make_is_refused():
    large = ImageSpec(width_px=4000, height_px=3000, format=ImageFormat.JPEG)
    with pytest.raises(UsageError, match=r"load\.media large: 100 different images or videos, 1,200 million pixels"):
        carried(load(MediaSpec(name="large", weight=1, image=large, repeated_frac=0.0)), 100)


def test_one_medium_and_a_mix_exclude_each_other():
    with pytest.raises(UsageError, match="exclude each other"):
        build_schedule(load(SMALL, image=PAIR.image))


def test_frames_move_a_little_from_one_to_the_next():
    spec = VideoSpec(width_px=224, height_px=112, frames=3)
    frames = [np.asarray(Image.open(io.BytesIO(frame)), dtype=int) for frame in media.frames(spec, 3)]
    assert [frame.shape for frame in frames] == [(112, 224, 3)] * 3
    for before, after in itertools.pairwise(frames):
        moved, still = np.abs(after[:, :-4] - before[:, 4:]).mean(), np.abs(after - before).mean()
        assert 0 < moved < 0.7 * still


def chunks(content: bytes):
    """Walk through RIFF chunks, as a reader does."""
    at = 0
    while at < len(content):
        name, size = struct.unpack_from("<4sI", content, at)
        yield name, content[at + 8 : at + 8 + size], at
        at += 8 + size + size % 2


def test_a_video_file_holds_its_frames_where_its_index_says():
    frames = media.frames(VIDEO, 5)
    ((name, riff, _),) = chunks(avi.motion_jpeg(frames, 24, 16, 2.5))
    assert (name, riff[:4]) == (b"RIFF", b"AVI ")
    headers, movie, index = chunks(riff[4:])
    assert (headers[0], headers[1][:4], movie[0], movie[1][:4], index[0]) == (
        b"LIST",
        b"hdrl",
        b"LIST",
        b"movi",
        b"idx1",
    )
    assert [content for _, content, _ in chunks(movie[1][4:])] == list(frames)
    entries = list(struct.iter_unpack("<4sIII", index[1]))
    assert [movie[1][offset + 8 : offset + 8 + size] for _, _, offset, size in entries] == list(frames)
    main, streams = chunks(headers[1][4:])
    assert (main[0], struct.unpack("<14I", main[1])[0], struct.unpack("<14I", main[1])[4]) == (b"avih", 400_000, 3)
    stream, bitmap = chunks(streams[1][4:])
    assert (stream[1][:8], struct.unpack_from("<II", stream[1], 20)) == (b"vidsMJPG", (1000, 2500))
    assert struct.unpack_from("<Iii", bitmap[1]) == (40, 24, 16)
