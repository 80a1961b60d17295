"""The real SGLang server: starts, answers an image request, drains, and leaves nothing behind."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from perfguard.model.errors import UntestableError
from perfguard.model.scenario import Device, TargetKind, TargetSpec, VisionTower
from perfguard.targets.sglang_launch import ensure_tiny_model
from perfguard.targets.sglang_server import start_server

pytestmark = pytest.mark.slow
RELEASE = "0.5.4.post1"
SHM = Path("/dev/shm")  # noqa: S108 - the place of POSIX segments, not a temporary directory
REPOSITORY = Path(__file__).parents[2]


def spec(ranks=2):
    return TargetSpec(
        kind=TargetKind.SGLANG_SERVER,
        device=Device.CPU,
        tensor_parallel_size=ranks,
        model=None,
        vision_tower=VisionTower.ZEROS,
        environment_spec="cpu",
        extra_args=(),
        extra_environment=(),
        start_timeout_s=180.0,
        drain_timeout_s=30.0,
    )


@pytest.fixture(scope="module")
def tiny_model(managed_environment, tmp_path_factory):
    return ensure_tiny_model(managed_environment.python, tmp_path_factory.mktemp("model"))


def ask_about_image(base_url, width_px, height_px):
    buffer = io.BytesIO()
    Image.effect_noise((width_px, height_px), 60).convert("RGB").save(buffer, "JPEG")
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 2, "temperature": 0}
    connection = http.client.HTTPConnection(base_url.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        return json.load(response)["usage"]


def segments_left(work_dir):
    """Return the segments that the server of `work_dir` created, and those of them that still exist."""
    lines = [line for file in (work_dir / "inside").iterdir() for line in file.read_text().splitlines()]
    names = [entry["shm"] for entry in map(json.loads, lines) if "shm" in entry]
    return names, [name for name in names if (SHM / name).exists()]


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_real_server_answers_and_leaves_nothing(managed_environment, release_tree, tiny_model, tmp_path, ranks):
    with start_server(
        spec(ranks),
        source_tree=release_tree(RELEASE),
        python=managed_environment.python,
        work_dir=tmp_path,
        model_path=tiny_model,
    ) as server:
        # 112x112 pixels are 8x8 patches of 14, merged 2x2 into 16 tokens.
        small, large = (ask_about_image(server.base_url, *size)["prompt_tokens"] for size in ((112, 112), (224, 224)))
        assert large - small == 64 - 16
        server.drain(10)
        server.check_alive()
        processes = server.processes()
        roles = [process.role for process in processes if process.role != "other"]
        assert sorted(roles) == sorted(["tokenizer", "detokenizer", *(f"rank-{rank}" for rank in range(ranks))])
        report = server.report
        port = int(server.base_url.rpartition(":")[2])
    assert ("sglang", RELEASE) in report.packages
    replaced = " ".join(report.stand_ins)
    assert "sgl_kernel: kernel stand-in" in replaced
    assert "Qwen2_5_VisionTransformer.forward" in replaced
    assert "called" not in replaced
    assert not any(psutil.pid_exists(process.pid) for process in processes)
    created, left = segments_left(tmp_path)
    assert left == []
    assert created or ranks == 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_broken_revision_says_what_broke(managed_environment, release_tree, tiny_model, tmp_path):
    tree = tmp_path / "broken"
    shutil.copytree(release_tree(RELEASE), tree)
    (root,) = (entry for entry in (tree / "python", tree) if (entry / "sglang").is_dir())
    scheduler = root / "sglang" / "srt" / "managers" / "scheduler.py"
    scheduler.write_text("def broken(:\n" + scheduler.read_text())
    with (
        pytest.raises(UntestableError, match=r"^SyntaxError: .*\(sglang/srt/managers/scheduler.py:1\)") as caught,
        start_server(
            spec(), source_tree=tree, python=managed_environment.python, work_dir=tmp_path, model_path=tiny_model
        ),
    ):
        pass
    assert "def broken(:" in caught.value.log_tail


PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from test_targets_real_server import spec
from perfguard.targets.sglang_server import start_server
tree, python, work_dir, model = map(Path, sys.argv[1:5])
with start_server(spec(), source_tree=tree, python=python, work_dir=work_dir, model_path=model) as server:
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("moment", ["imports", "up"])
def test_kill_9_leaves_no_server(managed_environment, release_tree, tiny_model, tmp_path, moment):
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            str(release_tree(RELEASE)),
            str(managed_environment.python),
            str(tmp_path),
            str(tiny_model),
            str(Path(__file__).parent),
        ],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        if moment == "up":
            assert parent.stdout.readline() == "up\n"
        else:
            time.sleep(6)
        below = psutil.Process(parent.pid).children(recursive=True)
        assert len(below) >= 2
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(below, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    created, left = segments_left(tmp_path)
    assert left == []
    assert created or moment == "imports"
