"""Video files as the server's own decoder sees them."""

import json
import platform
import subprocess

import numpy as np
import pytest
from PIL import Image

from perfguard.load import avi, media
from perfguard.model.scenario import VideoSpec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the decoder has no wheels for other machines"),
]

DECODE = """
import json, sys
from decord import VideoReader, cpu
video = VideoReader(sys.argv[1], ctx=cpu(0))
frames = video.get_batch([2, 0, 7]).asnumpy()
frames.tofile(sys.argv[2])
print(json.dumps([len(video), video.get_avg_fps(), list(frames.shape)]))
"""


@pytest.mark.parametrize("rate", [2.0, 12.5])
def test_the_decoder_finds_every_frame_in_its_place(managed_environment, tmp_path, rate):
    spec = VideoSpec(width_px=448, height_px=252, frames=8)
    frames = media.frames(spec, 5)
    path, out = tmp_path / "clip.mp4", tmp_path / "pixels"  # SGLang gives every file that name
    path.write_bytes(avi.motion_jpeg(frames, 448, 252, rate))
    command = [str(managed_environment.python), "-c", DECODE, str(path), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(ran.stdout) == [8, pytest.approx(rate), [3, 252, 448, 3]]
    decoded = np.fromfile(out, np.uint8).reshape(3, 252, 448, 3).astype(int)
    for number, pixels in zip((2, 0, 7), decoded, strict=True):
        (tmp_path / "frame.jpg").write_bytes(frames[number])
        expected = np.asarray(Image.open(tmp_path / "frame.jpg"), dtype=int)
        # Two decoders of one jpeg differ in rounding and in how they scale the chroma up; neighbours differ by more.
        assert np.abs(pixels - expected).mean() < 3.0
