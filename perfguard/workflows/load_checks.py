"""What must hold of the media and the stages of a scenario's load."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from perfguard.model.errors import UsageError
from perfguard.model.scenario import ArrivalKind, LoadSpec, MediaSpec, StageSpec

MAX_REQUEST_RATE = 100_000


def fill_requests(load: Any) -> None:
    """Put the sum of its stages' requests into the table `load`, if it has stages and does not say so itself."""
    stages = load.get("stages") if isinstance(load, dict) else None
    if not isinstance(stages, list) or "requests" in load:
        return
    counts = [stage.get("requests") if isinstance(stage, dict) else None for stage in stages]
    whole = [count for count in counts if isinstance(count, int)]
    if whole and len(whole) == len(counts):
        load["requests"] = sum(whole)


def check_media(load: LoadSpec, where: str) -> None:
    """Refuse a mix whose classes cannot be told apart, or that cannot be made.

    Raises:
        UsageError: there is such a class.
    """
    if load.media and load.image is not None:
        raise UsageError(
            f"{where}: load.image and load.media exclude each other", hint="make the image a class of load.media"
        )
    names = Counter(each.name for each in load.media)
    for number, each in enumerate(load.media, start=1):
        inside = f"{where}: load.media {number} ({each.name})"
        if not each.name.strip() or names[each.name] > 1:
            raise UsageError(f"{inside}: every class needs a name of its own, results are told by it")
        if not 0 < each.weight < math.inf:
            raise UsageError(f"{inside}: weight must be greater than 0, not {each.weight}")
        _check_class(each, inside)


def _check_class(media: MediaSpec, inside: str) -> None:
    image, video = media.image, media.video
    if image is not None and video is not None:
        raise UsageError(f"{inside}: takes image or video, not both", hint="make two classes of it")
    if image is not None and min(image.width_px, image.height_px, image.count) <= 0:
        raise UsageError(f"{inside}: image needs a width_px, a height_px and a count greater than 0")
    if video is not None and (min(video.width_px, video.height_px, video.frames) <= 0 or not video.frame_rate > 0):
        raise UsageError(f"{inside}: video needs a width_px, a height_px, frames and a frame_rate greater than 0")
    if media.repeated_frac is None:
        return
    if image is None and video is None:
        raise UsageError(f"{inside}: repeated_frac needs an image or a video to repeat")
    if not 0 <= media.repeated_frac <= 1:
        raise UsageError(f"{inside}: repeated_frac must lie between 0 and 1, not {media.repeated_frac}")


def check_stages(load: LoadSpec, where: str) -> None:
    """Refuse a ramp that its loop cannot make.

    Raises:
        UsageError: a stage has no requests or not what its loop goes by, or `load.requests` is not their sum.
    """
    if not load.stages:
        return
    if load.arrival is not None and load.arrival.kind is ArrivalKind.TRACE:
        raise UsageError(
            f"{where}: load.stages and a trace exclude each other", hint="the trace's timestamps are the rate"
        )
    for number, stage in enumerate(load.stages, start=1):
        inside = f"{where}: load.stages {number}"
        if stage.requests <= 0:
            raise UsageError(f"{inside}: requests must be greater than 0, not {stage.requests}")
        _check_stage(stage, inside, is_open=load.arrival is not None)
    if (total := sum(stage.requests for stage in load.stages)) != load.requests:
        raise UsageError(
            f"{where}: load.requests is {load.requests}, its stages have {total}", hint="leave load.requests out"
        )


def _check_stage(stage: StageSpec, inside: str, *, is_open: bool) -> None:
    if not is_open and (stage.request_rate is not None or stage.concurrency is None):
        raise UsageError(
            f"{inside}: a closed loop goes by concurrency", hint="for a request_rate the load needs [load.arrival]"
        )
    if is_open and (stage.concurrency is not None or stage.request_rate is None):
        raise UsageError(
            f"{inside}: an open loop goes by request_rate", hint="for a concurrency leave [load.arrival] out"
        )
    if stage.concurrency is not None and stage.concurrency <= 0:
        raise UsageError(f"{inside}: concurrency must be greater than 0, not {stage.concurrency}")
    if stage.request_rate is not None and not 0 < stage.request_rate <= MAX_REQUEST_RATE:
        raise UsageError(
            f"{inside}: request_rate must be greater than 0 and at most {MAX_REQUEST_RATE:,}, not {stage.request_rate}"
        )
