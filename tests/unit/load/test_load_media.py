"""Images: the same from the same seed, of the size asked for, and no easier to compress than a photograph."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from perfguard.load import media
from perfguard.model.scenario import ImageFormat, ImageSpec


def spec(width: int = 112, height: int = 80, kind: ImageFormat = ImageFormat.JPEG) -> ImageSpec:
    return ImageSpec(width_px=width, height_px=height, format=kind)


@pytest.mark.parametrize("kind", list(ImageFormat))
def test_an_image_has_the_size_and_format_asked_for(kind):
    with Image.open(io.BytesIO(media.encode(spec(kind=kind), seed=1))) as image:
        assert (image.width, image.height) == (112, 80)
        assert image.format == kind.value.upper()
        assert image.mode == "RGB"


@pytest.mark.parametrize("kind", list(ImageFormat))
def test_the_seed_decides_every_byte(kind):
    assert media.encode(spec(kind=kind), seed=1) == media.encode(spec(kind=kind), seed=1)
    assert media.encode(spec(kind=kind), seed=1) != media.encode(spec(kind=kind), seed=2)


def test_a_jpeg_is_as_large_as_a_photograph():
    bits_per_pixel = 8 * len(media.encode(spec(672, 448), seed=3)) / (672 * 448)
    assert 0.8 < bits_per_pixel < 3.0


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 64), (3, 500)])
def test_odd_sizes_can_be_made(size):
    with Image.open(io.BytesIO(media.encode(spec(*size), seed=1))) as image:
        assert (image.width, image.height) == size


def test_data_urls_hold_different_images():
    urls = media.data_urls(spec(), 7, 5)
    assert len(set(urls)) == 5
    for url in urls:
        head, _, data = url.partition(b",")
        assert head == b"data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            assert image.size == (112, 80)


def test_data_urls_of_a_smaller_set_begin_the_same():
    assert media.data_urls(spec(), 7, 5)[:3] == media.data_urls(spec(), 7, 3)
    assert media.data_urls(spec(), 8, 3) != media.data_urls(spec(), 7, 3)
