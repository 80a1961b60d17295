"""A load with both samplers on a server in another process: what they say fits together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from perfguard.load.client import generator_veto, run_load
from perfguard.load.schedule import build_phases
from perfguard.model.scenario import ImageFormat, ImageSpec, LoadSpec
from perfguard.samplers.cpu import CpuSampler
from perfguard.samplers.pyspy import PySpySampler, check_attach

SERVER = """
import asyncio, time
from aiohttp import web

def burn_ten_ms():
    end = time.thread_time() + 0.010
    while time.thread_time() < end: pass

async def chat(request):
    await request.json()
    burn_ten_ms()
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\\n\\ndata: [DONE]\\n\\n')
    return response

async def main():
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def server():
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    yield process.pid, f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.communicate()


@pytest.mark.skipif(check_attach() is not None, reason="py-spy may not attach here")
def test_ten_milliseconds_a_request_are_seen_by_every_instrument(server, tmp_path):
    pid, url = server
    load = LoadSpec(
        requests=100,
        concurrency=8,
        warmup_requests=10,
        settling_requests=2,
        profiled_requests=100,
        image=ImageSpec(width_px=112, height_px=112, format=ImageFormat.JPEG),
        distinct_images=8,
        prompt_chars=32,
        output_tokens=1,
        request_timeout_s=10.0,
        seed=1,
    )
    phases = build_phases(load)
    assert run_load(url, phases.warmup, concurrency=8, timeout_s=10).succeeded == 10

    cpu = CpuSampler([(pid, "tokenizer")])
    cpu.start()
    measured = run_load(url, phases.measured, concurrency=8, timeout_s=10)
    (process,) = cpu.stop().processes
    assert (measured.succeeded, generator_veto(measured, lag_limit_ms=5000)) == (100, None)
    assert measured.throughput_rps < 100
    assert 1.0 < process.cpu_s < 2.0

    with PySpySampler([(pid, "tokenizer")], rate_hz=100, nonblocking=True, work_dir=tmp_path) as stacks:
        stacks.start()
        cpu.start()
        assert run_load(url, phases.profiled, concurrency=8, timeout_s=10).succeeded == 100
        (process,) = cpu.stop().processes
        (profile,) = stacks.stop()
    burning = sum(int(line.rsplit(" ", 1)[1]) for line in profile.text.splitlines() if "burn_ten_ms" in line)
    # 100 requests of 10 ms are 100 ticks, some of them lost; a thread that waits for a core is sampled as well.
    assert 55 < burning <= 1.25 * 100 * (process.cpu_s + process.run_delay_s)
    assert burning > 0.6 * profile.samples
