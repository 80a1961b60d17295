"""Which media each request of a load carries: of one kind, or drawn from the classes of a mix."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perfguard.load import media
from perfguard.model.errors import UsageError
from perfguard.model.scenario import LoadSpec, MediaSpec, VideoSending

IMAGE_PART = "image_url"
VIDEO_PART = "video_url"
# Of the different media of one class; making as many takes a minute or two, and keeping them some hundred MB.
_MOST_PIXELS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What one request carries: `urls` (data URLs) in content parts of type `part`, and the class that it is of.

    `media_class` is empty where there is no mix.
    """

    media_class: str = ""
    part: str = IMAGE_PART
    urls: tuple[bytes, ...] = ()


def carried(load: LoadSpec, count: int) -> tuple[Carried, ...]:
    """Choose the media of the first `count` requests of `load`.

    The choice depends on the seed and the request's number alone: a longer load begins with the shorter one's.

    Raises:
        UsageError: so many new images are asked for that making them would take minutes.
    """
    if not load.media:
        return tuple(Carried(urls=urls) for urls in _walked(load, count))
    drawn = random.Random(f"{load.seed}:media").choices(  # noqa: S311 - a seeded sequence, no secret
        range(len(load.media)), weights=[each.weight for each in load.media], k=count
    )
    of_class = [iter(_of_class(load, number, drawn.count(number))) for number in range(len(load.media))]
    return tuple(next(of_class[number]) for number in drawn)


def _walked(load: LoadSpec, count: int) -> Iterator[tuple[bytes, ...]]:
    """Walk through the one set of images, again and again."""
    if load.image is None:
        yield from ((),) * count
        return
    urls = itertools.cycle(media.data_urls(load.image, load.seed, load.distinct_images))
    for _ in range(count):
        yield tuple(itertools.islice(urls, load.image.count))


def _of_class(load: LoadSpec, number: int, requests: int) -> list[Carried]:
    """Choose the media of the `requests` requests of class `number` (0-based), in order."""
    spec = load.media[number]
    # From 1 on: a seed's sequence does not tell trailing zeros.
    seed = (load.seed, number + 1)
    if (image := spec.image) is not None:
        picks = _picks(load, number, requests * image.count)
        made = _checked_number(spec, picks, image.width_px * image.height_px)
        images = media.data_urls(image, seed, made)
        left = iter(picks)
        return [
            Carried(media_class=spec.name, urls=tuple(images[pick] for pick in itertools.islice(left, image.count)))
            for _ in range(requests)
        ]
    if (video := spec.video) is not None:
        picks = _picks(load, number, requests)
        made = _checked_number(spec, picks, video.width_px * video.height_px * video.frames)
        videos = media.video_urls(video, seed, made)
        part = VIDEO_PART if video.sent_as is VideoSending.FILE else IMAGE_PART
        return [Carried(media_class=spec.name, part=part, urls=videos[pick]) for pick in picks]
    return [Carried(media_class=spec.name)] * requests


def _picks(load: LoadSpec, number: int, count: int) -> list[int]:
    """Choose `count` images (or videos) of a class by their numbers; a new one has the lowest that was not used."""
    repeated_frac = load.media[number].repeated_frac
    if repeated_frac is None:
        return [place % load.distinct_images for place in range(count)]
    draw = random.Random(f"{load.seed}:media:{number}")  # noqa: S311 - a seeded sequence, no secret
    picks: list[int] = []
    used = 0
    for _ in range(count):
        if used and draw.random() < repeated_frac:
            picks.append(draw.randrange(used))
        else:
            picks.append(used)
            used += 1
    return picks


def _checked_number(spec: MediaSpec, picks: Sequence[int], pixels: int) -> int:
    """Return how many different images (or videos) of `pixels` pixels each are to be made."""
    different = max(picks, default=-1) + 1
    if different * pixels > _MOST_PIXELS:
        raise UsageError(
            f"load.media {spec.name}: {different} different images or videos, {different * pixels / 1e6:,.0f} million "
            f"pixels in all, would take minutes to make (limit {_MOST_PIXELS / 1e6:,.0f} million)",
            hint="ask for fewer requests, for more that repeat (repeated_frac), or for fewer distinct_images",
        )
    return different
