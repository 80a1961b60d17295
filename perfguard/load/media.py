"""Images and videos made from a seed: what they show, how they are encoded, and the data URLs that carry them."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from perfguard.load import avi
from perfguard.model.scenario import ImageFormat, VideoSending

if TYPE_CHECKING:
    import numpy.typing as npt

    from perfguard.model.scenario import ImageSpec, VideoSpec

# What sets of media are made from; those of a mix need a seed for each of its classes.
Seed = int | tuple[int, ...]

# The coarsest field has about this many cells along the longer side; each octave doubles it and halves the amplitude,
# which gives the 1/f amplitude spectrum of photographs.
# Source: Field (1987), "Relations between the statistics of natural images and the response properties of cortical
# cells".
_COARSEST_CELLS = 3
_LUMA_CONTRAST = 52.0
_CHROMA_CONTRAST = 18.0
_SENSOR_NOISE = 5.0
# Colour varies more slowly than brightness, in photographs too; it also makes the making cheaper.
_FINEST_LUMA_PX = 2
_FINEST_CHROMA_PX = 16
_ENCODER_OPTIONS: dict[ImageFormat, dict[str, int]] = {
    ImageFormat.JPEG: {"quality": 85},
    ImageFormat.PNG: {"compress_level": 6},
    ImageFormat.WEBP: {"quality": 80, "method": 2},
}
# What a frame of a video moves on: every one differs from the one before, as in a slow pan.
_PAN_PX = 4


def encode(spec: ImageSpec, seed: int) -> bytes:
    """Make one image from `seed` and encode it as `spec` says.

    The picture is a smooth random field plus sensor noise, so that its encoded size is that of a photograph and not of
    a flat area or of white noise. The same pillow and numpy give the same bytes; another pillow may encode
    differently, which the schedule's digest then shows.
    """
    return _encoded(_picture(spec.width_px, spec.height_px, seed), spec.format)


def frames(spec: VideoSpec, seed: int) -> tuple[bytes, ...]:
    """Make the frames of one video as jpegs: a camera that pans to the right over one picture."""
    steps = spec.frames - 1
    whole = _picture(spec.width_px + _PAN_PX * steps, spec.height_px, seed)
    lefts = (_PAN_PX * number for number in range(spec.frames))
    return tuple(
        _encoded(whole.crop((left, 0, left + spec.width_px, spec.height_px)), ImageFormat.JPEG) for left in lefts
    )


@lru_cache(maxsize=8)
def data_urls(spec: ImageSpec, seed: Seed, count: int) -> tuple[bytes, ...]:
    """Make `count` different images from `seed` as `data:` URLs, ready to stand in a JSON string.

    The last few sets are kept, since every phase of every trial of a run asks for the same one.
    """
    return tuple(_url(f"image/{spec.format.value}", encode(spec, child)) for child in _children(seed, count))


@lru_cache(maxsize=8)
def video_urls(spec: VideoSpec, seed: Seed, count: int) -> tuple[tuple[bytes, ...], ...]:
    """Make `count` different videos from `seed` as `data:` URLs: one for each frame, or one for the file."""
    made = (frames(spec, child) for child in _children(seed, count))
    if spec.sent_as is VideoSending.IMAGES:
        return tuple(tuple(_url("image/jpeg", frame) for frame in each) for each in made)
    size = (spec.width_px, spec.height_px)
    return tuple((_url("video/x-msvideo", avi.motion_jpeg(each, *size, spec.frame_rate)),) for each in made)


def _children(seed: Seed, count: int) -> tuple[int, ...]:
    return tuple(int(child) for child in np.random.SeedSequence(seed).generate_state(count, np.uint64))


def _url(media_type: str, content: bytes) -> bytes:
    return f"data:{media_type};base64,".encode() + base64.b64encode(content)


def _encoded(picture: Image.Image, image_format: ImageFormat) -> bytes:
    out = io.BytesIO()
    picture.save(out, format=image_format.value.upper(), **_ENCODER_OPTIONS[image_format])
    return out.getvalue()


def _picture(width: int, height: int, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    luma = 128.0 + _LUMA_CONTRAST * _field(rng, height, width, finest_px=_FINEST_LUMA_PX)
    red_shift = _CHROMA_CONTRAST * _field(rng, height, width, finest_px=_FINEST_CHROMA_PX)
    blue_shift = _CHROMA_CONTRAST * _field(rng, height, width, finest_px=_FINEST_CHROMA_PX)
    noise = _SENSOR_NOISE * rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.stack((luma + red_shift, luma - 0.5 * (red_shift + blue_shift), luma + blue_shift), axis=2) + noise
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _field(rng: np.random.Generator, height: int, width: int, *, finest_px: int) -> npt.NDArray[np.float32]:
    """Return a smooth random field of shape (height, width), mean about 0 and standard deviation about 1.

    Its details are `finest_px` pixels wide at the least.
    """
    field = np.zeros((height, width), dtype=np.float32)
    cells, amplitude, power = _COARSEST_CELLS, 1.0, 0.0
    longer = max(height, width)
    while cells * finest_px < longer or power == 0.0:
        shape = (max(2, round(cells * height / longer)), max(2, round(cells * width / longer)))
        coarse = rng.standard_normal(shape, dtype=np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        field += amplitude * np.asarray(smooth, dtype=np.float32)
        power += amplitude**2
        cells, amplitude = cells * 2, amplitude / 2
    field /= np.float32(power**0.5)
    return field
