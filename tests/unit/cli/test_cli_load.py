"""`perfguard load` against a small server on the loopback: the table, the document, and every way to be told off."""

import asyncio
import json
import signal
import socket
import threading
from concurrent.futures import Future

import pytest
from aiohttp import web

from perfguard.cli.main import run_cli
from perfguard.load.schedule import CHAT_PATH
from perfguard.workflows.scenarios import load_scenario, scenario_dir

PIECES = (
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"content": "amber"}}]},
    0.02,
    {"choices": [{"index": 0, "delta": {"content": " anchor"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
)


class ChatServer:
    """Answers two tokens, 20 ms apart; or, once `broken`, with an error."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.broken = False
        port: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(port)), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{port.result(10)}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self, port: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_post(CHAT_PATH, self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.set_result(runner.addresses[0][1])
        await self._stop.wait()
        await runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if self.broken:
            return web.Response(status=503, text="no\x1b[31m model")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in PIECES:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                await response.write(b"data: " + json.dumps(piece).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    # Whether a loaded machine lets the generator keep up is not the question here.
    monkeypatch.setattr("perfguard.workflows.load.generator_veto", lambda _result: None)
    before = signal.getsignal(signal.SIGTERM)
    running = ChatServer()
    yield running
    running.close()
    signal.signal(signal.SIGTERM, before)


def test_the_table_tells_rates_latencies_and_the_generators_health(server, capsys):
    code = run_cli(["load", "--url", server.url, "-s", "mm-open-loop", "--rate", "200", "--requests", "40"])
    out = capsys.readouterr().out
    assert code == 0
    assert f"{server.url}: 40 requests in " in out
    assert "poisson arrivals at 200 a second, at most 512 in flight" in out
    for word in ("Throughput: ", "Goodput: ", "with TTFT <= 500 ms, E2E <= 1000 ms", "TTFT", "ITL", "TPOT", "E2E"):
        assert word in out
    assert "Errors: 0, timeouts: 0\n" in out
    assert "requests sent " in out
    assert len(server.bodies) == 40
    assert server.bodies[0]["model"] == "default"


def test_the_document_holds_the_same(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--requests", "6", "--concurrency", "2", "--json"]
    assert run_cli([*command, "--model", "tiny", "--seed", "5"]) == 0
    document = json.loads(capsys.readouterr().out)
    result = document["result"]
    assert (document["schema_version"], document["url"], document["veto"]) == (1, server.url, None)
    assert (document["load"]["concurrency"], document["load"]["seed"], document["load"]["arrival"]) == (2, 5, None)
    assert (result["succeeded"], result["itl"]["count"], result["tpot"]["count"]) == (6, 6, 6)
    assert result["itl"]["p50_ms"] >= 15
    assert result["goodput_rps"] is None
    assert "records" not in result
    assert server.bodies[0]["model"] == "tiny"


def test_a_trace_is_replayed_once(server, capsys, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = ({"timestamp": 20 * n, "input_length": 3 + n, "output_length": 2} for n in range(5))
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run_cli(["load", "--url", server.url, "-s", "text-only", "--trace", str(trace)]) == 0
    out = capsys.readouterr().out
    assert f"{server.url}: 5 requests in " in out
    assert f"as in {trace}, at most 96 in flight" in out
    assert sorted(len(body["messages"][0]["content"][0]["text"].split()) for body in server.bodies) == [3, 4, 5, 6, 7]


def test_a_ramp_of_clients_has_a_row_for_every_stage(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--ramp", "clients=1,4", "--requests", "6"]
    assert run_cli(command) == 0
    out = capsys.readouterr().out
    assert f"{server.url}: 12 requests in " in out
    assert "closed loop in 2 stages" in out
    assert [line.split()[:4] for line in out.splitlines() if " clients  " in line] == [
        ["1", "clients", "6", "0"],
        ["4", "clients", "6", "0"],
    ]
    assert run_cli([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [stage["concurrency"] for stage in document["load"]["stages"]] == [1, 4]
    assert [stage["result"]["succeeded"] for stage in document["result"]["stages"]] == [6, 6]
    assert "records" not in document["result"]["stages"][0]["result"]


def test_a_ramp_of_rates_is_an_open_loop(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--ramp", "rate=100,200.5", "--requests", "5"]
    assert run_cli([*command, "--arrival", "constant"]) == 0
    out = capsys.readouterr().out
    assert "constant arrivals in 2 stages, at most 96 in flight" in out
    assert "100 a second" in out
    assert "200.5 a second" in out


def test_a_mix_has_a_row_for_every_class(server, capsys, tmp_path):
    text = (scenario_dir() / "text-only.toml").read_text()
    classes = (
        '[[load.media]]\nname = "small"\nweight = 1\nimage = { width_px = 8, height_px = 8, format = "png" }\n'
        '[[load.media]]\nname = "clip [b]"\nweight = 1\nvideo = { width_px = 8, height_px = 8, frames = 2 }\n'
    )
    path = tmp_path / "mixed.toml"
    path.write_text(text.replace("[profiling]", classes + "[profiling]"))
    assert run_cli(["load", "--url", server.url, "-s", str(path), "--requests", "16"]) == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    assert rows.keys() >= {"small", "clip [b]"}
    images = [sum(part["type"] == "image_url" for part in b["messages"][0]["content"]) for b in server.bodies]
    assert set(images) == {1, 2}
    assert f"  {images.count(2)}  " in rows["clip [b]"].replace("   ", "  ")


def test_a_service_level_of_the_command_line_counts(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--requests", "4", "--slo"]
    assert run_cli([*command, "e2e=60000,ttft=60000.5"]) == 0
    out = capsys.readouterr().out
    assert "with TTFT <= 60000.5 ms, E2E <= 60000 ms" in out
    assert run_cli([*command, "e2e=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["goodput_rps"] == 0.0


def test_others_may_go_first_and_every_request_may_be_written_down(server, capsys, tmp_path):
    path = tmp_path / "records.jsonl"
    command = ["load", "--url", server.url, "-s", "text-only", "--requests", "4", "--warmup", "3", "--json"]
    assert run_cli([*command, "--records", str(path)]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["sent"], len(server.bodies)) == (4, 7)
    assert len({body["messages"][0]["content"][0]["text"] for body in server.bodies}) == 7
    assert all(body["stream_options"] == {"include_usage": True} for body in server.bodies)
    # Two tokens were asked for, and the server does not tell how many it made.
    assert result["output_tokens_per_s"] == pytest.approx(2 * result["throughput_rps"])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["index"] for record in records] == [0, 1, 2, 3]
    assert all(record["sent_s"] < record["first_token_s"] < record["finished_s"] for record in records)


def test_records_that_cannot_be_written_are_one_clear_line(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--requests", "2", "-q"]
    assert run_cli([*command, "--records", "/nonexistent/records.jsonl"]) == 129
    assert "--records /nonexistent/records.jsonl: there is no folder /nonexistent" in capsys.readouterr().err
    assert server.bodies == []


def test_a_load_that_cannot_run_keeps_the_records_of_the_last_one(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("of the last load\n")
    assert run_cli(["load", "--url", "http://127.0.0.1:9", "-s", "text-only", "-q", "--records", str(path)]) == 128
    assert path.read_text() == "of the last load\n"


def test_progress_goes_to_stderr_unless_quiet(server, capsys):
    command = ["load", "--url", server.url, "-s", "text-only", "--requests", "4"]
    assert run_cli(command) == 0
    assert "making 4 requests" in capsys.readouterr().err
    assert run_cli([*command, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_generator_at_its_limit_makes_the_exit_code_125(server, capsys, monkeypatch):
    monkeypatch.setattr("perfguard.workflows.load.generator_veto", lambda _result: "load generator: it was slow")
    assert run_cli(["load", "--url", server.url, "-s", "text-only", "--requests", "2"]) == 125
    assert "Not the server's figures: load generator: it was slow" in capsys.readouterr().out


def test_a_server_that_only_fails_is_told_with_its_first_error(server, capsys):
    server.broken = True
    assert run_cli(["load", "--url", server.url, "-s", "text-only", "--requests", "3"]) == 128
    out = capsys.readouterr().out
    assert "Errors: 3, timeouts: 0; the first: HTTP 503: no" in out
    assert "\x1b" not in out


def test_nothing_that_answers_is_one_clear_line(server, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert run_cli(["load", "--url", url]) == 128
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"perfguard: nothing answers at {url}: Connection refused"
    assert "start the server" in second


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "localhost:30000"], "no server's address"),
        (["--url", "http://127.0.0.1:port"], "--url http://127.0.0.1:port"),
        (["--url", "URL", "--rate", "0"], "request_rate must be greater than 0"),
        (["--url", "URL", "--arrival", "gamma"], "needs a rate"),
        (["--url", "URL", "--arrival", "trace"], "needs a trace"),
        (["--url", "URL", "--arrival", "often"], "often"),
        (["--url", "URL", "--trace", "/nonexistent.jsonl"], "cannot read the trace /nonexistent.jsonl"),
        (["--url", "URL", "--trace", "t.jsonl", "--rate", "3"], "--trace excludes --rate"),
        (["--url", "URL", "--requests", "0"], "load.requests must be greater than 0"),
        (["--url", "URL", "--ramp", "1,2"], "--ramp 1,2 is no ramp"),
        (["--url", "URL", "--ramp", "clients=1.5"], "clients are whole numbers"),
        (["--url", "URL", "--ramp", "clients=0,4"], "load.stages 1: concurrency must be greater than 0"),
        (["--url", "URL", "--ramp", "rate=0"], "request_rate must be greater than 0"),
        (["--url", "URL", "--ramp", "clients=1,2", "--rate", "3"], "--ramp clients=1,2 and --rate exclude each other"),
        (["--url", "URL", "--ramp", "clients=1,2", "--concurrency", "3"], "and --concurrency exclude"),
        (["--url", "URL", "--ramp", "rate=1,2", "--trace", "t.jsonl"], "and --trace exclude each other"),
        (["--url", "URL", "--ramp", "clients=1,2", "--requests", "0"], "load.requests must be greater than 0"),
        (["--url", "URL", "--slo", "ttft:500"], "--slo ttft:500 is no service level"),
        (["--url", "URL", "--slo", "itl=5"], "is no service level"),
        (["--url", "URL", "--slo", "e2e=5,e2e=6"], "is no service level"),
        (["--url", "URL", "--slo", "e2e=0"], "limits of load.slo must be greater than 0"),
        ([], "--url"),
    ],
)
def test_a_wrong_command_is_one_clear_line(server, capsys, arguments, says):
    assert run_cli(["load", *(server.url if part == "URL" else part for part in arguments)]) == 129
    assert says in capsys.readouterr().err.splitlines()[0]
    assert server.bodies == []


def test_the_kind_of_arrivals_may_be_changed_alone(server, capsys):
    command = ["load", "--url", server.url, "-s", "mm-open-loop", "--requests", "3", "--json", "--arrival", "constant"]
    assert load_scenario("mm-open-loop").load.arrival.kind.value == "poisson"
    assert run_cli(command) == 0
    arrival = json.loads(capsys.readouterr().out)["load"]["arrival"]
    assert (arrival["kind"], arrival["request_rate"]) == ("constant", 60.0)
