"""Scenario files: those that come along are right, wrong ones are named."""

import re
import sys
from pathlib import Path

import pytest

from perfguard.cli.options import ScenarioChanges, changed_scenario
from perfguard.model.errors import UsageError
from perfguard.model.progress import Silent
from perfguard.model.scenario import ArrivalKind, Device, TargetKind, UserMetric, VideoSending, VisionTower
from perfguard.revisions.environments import site_packages
from perfguard.workflows.scenarios import list_scenarios, load_scenario, read_scenario, scenario_dir
from perfguard.workflows.setup import ensure_environment, model_path


def test_the_scenarios_that_come_along():
    by_name = {scenario.name: scenario for scenario in list_scenarios()}
    assert set(by_name) == {
        "mm-small-images",
        "mm-small-images-cuda",
        "mm-high-concurrency",
        "mm-large-images",
        "mm-medium-images",
        "mm-video",
        "mm-open-loop",
        "text-only",
    }
    small, high = by_name["mm-small-images"], by_name["mm-high-concurrency"]
    assert (small.load.image.width_px, small.load.concurrency) == (112, 96)
    assert (high.load.image.width_px, high.load.image.height_px, high.load.requests) == (1120, 700, 512)
    assert by_name["text-only"].load.image is None
    (clip,) = by_name["mm-video"].load.media
    assert (clip.video.frames, clip.video.sent_as) == (8, VideoSending.FILE)
    assert [name for name, each in by_name.items() if not each.load.carries_media] == ["text-only"]
    arrival = by_name["mm-open-loop"].load.arrival
    assert arrival is not None
    assert (arrival.kind, arrival.request_rate) == (ArrivalKind.POISSON, 60.0)
    assert all(
        scenario.metric is (UserMetric.THROUGHPUT if scenario.load.arrival is None else UserMetric.E2E_P50)
        for scenario in by_name.values()
    )
    for name, scenario in by_name.items():
        assert load_scenario(name) == scenario


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(UsageError) as caught:
        load_scenario("mm-smal-images")
    assert "mm-small-images" in caught.value.hint


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("concurrency = 96", "concurency = 96", "unknown field load.concurency"),
        ("concurrency = 96", 'concurrency = "many"', "Expected `int`"),
        ("concurrency = 96", "concurrency = 0", "load.concurrency must be greater than 0"),
        ('metric = "throughput_rps"', 'metric = "speed"', "Invalid enum value 'speed'"),
        ('device = "cpu"', 'device = "cuda"', "cannot compute on device"),
        ('device = "cpu"', 'device = "cpu"\nkernels = "installed"', 'needs device = "cuda"'),
        ("confidence = 0.95", "confidence = 95", "between 0.5 and 1"),
        ("width_px = 112", "width_px = -1", "width"),
        ("profiled_requests = 400", "profiled_requests = 0", "profiled_requests is 0"),
        ("\nrequests = 640", "\n", "missing required field `requests`"),
        ("[load]", "[load", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(tmp_path, before, after, message):
    text = (scenario_dir() / "mm-small-images.toml").read_text()
    assert before in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(UsageError) as caught:
        read_scenario(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("request_rate = 60.0", "request_rate = 0.0", "request_rate must be greater than 0"),
        ("request_rate = 60.0", "", "request_rate must be greater than 0"),
        ("request_rate = 60.0", "request_rate = 60.0\nburstiness = 0.0", "burstiness greater than 0"),
        ("request_rate = 60.0", "request_rate = 60.0\nburst_size = 0", "burst_size of at least 1"),
        ("request_rate = 60.0", 'request_rate = 60.0\ntrace_file = "t.jsonl"', "belongs to kind = 'trace'"),
        ('kind = "poisson"', 'kind = "trace"', "needs a trace_file and takes no request_rate"),
        ('kind = "poisson"', 'kind = "often"', "Invalid enum value 'often'"),
        ("request_rate = 60.0", "rate = 60.0", "unknown field load.arrival.rate"),
        ("ttft_ms = 500.0", "ttft_ms = -1.0", "limits of load.slo"),
    ],
)
def test_wrong_arrivals_are_told(tmp_path, before, after, message):
    text = (scenario_dir() / "mm-open-loop.toml").read_text()
    assert before in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(UsageError) as caught:
        read_scenario(path)
    assert message in caught.value.message


IMAGE_TABLE = """[load.image]
width_px = 112
height_px = 112
format = "jpeg"
count = 1
"""
MIX = """[[load.media]]
name = "small"
weight = 3
image = { width_px = 112, height_px = 112, format = "jpeg" }
[[load.media]]
name = "clip"
weight = 1
video = { width_px = 448, height_px = 252, frames = 8 }
repeated_frac = 0.5
[[load.media]]
name = "text"
weight = 1
"""
STAGES = """[[load.stages]]
concurrency = 8
requests = 100
[[load.stages]]
concurrency = 96
requests = 300
"""


def mixed(tmp_path, scenario="mm-small-images", changes=()):
    """Read a scenario with a mix and stages in place of its image and requests, and with `changes` on top."""
    text = (scenario_dir() / f"{scenario}.toml").read_text()
    for before, after in ((IMAGE_TABLE, MIX + STAGES), ("\nrequests = ", "\n# requests = "), *changes):
        assert before in text
        text = text.replace(before, after, 1)
    path = tmp_path / "mixed.toml"
    path.write_text(text)
    return read_scenario(path)


def test_the_example_of_a_mix_and_a_ramp_is_right():
    load = read_scenario(scenario_dir() / "examples" / "mixed-ramp.toml").load
    assert [each.name for each in load.media] == ["small", "two large", "clip", "text"]
    assert (load.requests, [stage.concurrency for stage in load.stages]) == (420, [8, 32, 96])


def test_a_mix_and_stages_are_read(tmp_path):
    load = mixed(tmp_path).load
    assert [(each.name, each.weight, each.repeated_frac) for each in load.media] == [
        ("small", 3.0, None),
        ("clip", 1.0, 0.5),
        ("text", 1.0, None),
    ]
    assert (load.media[1].video.frames, load.media[1].video.sent_as, load.media[0].image.count) == (8, "images", 1)
    assert ([stage.concurrency for stage in load.stages], load.requests) == ([8, 96], 400)
    assert load.carries_media


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("weight = 3", "weight = 0", "load.media 1 (small): weight must be greater than 0"),
        ("weight = 3", "wait = 3", "unknown field load.media 1: wait"),
        ("frames = 8", "frames = 8, fps = 2", "unknown field load.media 2: video.fps"),
        ("frames = 8", "frames = 0", "load.media 2 (clip): video needs"),
        ("frames = 8", 'frames = 8, sent_as = "gif"', "Invalid enum value 'gif'"),
        ('name = "clip"', 'name = "small"', "(small): every class needs a name of its own"),
        ('format = "jpeg" }', 'format = "jpeg", count = 0 }', "load.media 1 (small): image needs"),
        ('format = "jpeg" }', 'format = "bmp" }', "Invalid enum value 'bmp'"),
        ("repeated_frac = 0.5", "repeated_frac = 1.5", "repeated_frac must lie between 0 and 1, not 1.5"),
        ('name = "text"', 'name = "text"\nrepeated_frac = 0.5', "(text): repeated_frac needs an image or a video"),
        ("weight = 3", "weight = 3\nvideo = { width_px = 9, height_px = 9, frames = 2 }", "image or video, not both"),
        ("[[load.media]]", IMAGE_TABLE + "[[load.media]]", "load.image and load.media exclude each other"),
        ("requests = 100", "requests = 0", "load.stages 1: requests must be greater than 0"),
        ("concurrency = 8\n", "", "load.stages 1: a closed loop goes by concurrency"),
        ("concurrency = 8\n", "concurrency = -8\n", "load.stages 1: concurrency must be greater than 0"),
        ("\n# requests = ", "\nrequests = ", "load.requests is 640, its stages have 400"),
        ("requests = 100", "requests = 100\nseconds = 5", "unknown field load.stages 1: seconds"),
        ("[[load.media]]", '[load.request]\npath = "/"\n[[load.media]]', "images and load.request exclude each other"),
    ],
)
def test_a_wrong_mix_or_stage_is_told(tmp_path, before, after, message):
    with pytest.raises(UsageError) as caught:
        mixed(tmp_path, changes=[(before, after)])
    assert message in caught.value.message
    assert str(tmp_path / "mixed.toml") in caught.value.message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "load.stages 1: an open loop goes by request_rate"),
        ([("concurrency = 8\n", "request_rate = 0.0\n")], "load.stages 1: request_rate must be greater than 0"),
        (
            [('kind = "poisson"', 'kind = "trace"'), ("request_rate = 60.0", 'trace_file = "t.jsonl"')],
            "load.stages and a trace exclude each other",
        ),
    ],
)
def test_stages_of_an_open_loop_go_by_the_rate(tmp_path, changes, message):
    with pytest.raises(UsageError) as caught:
        mixed(tmp_path, "mm-open-loop", changes)
    assert message in caught.value.message


def test_a_trace_lies_beside_its_scenario(tmp_path):
    text = (scenario_dir() / "mm-open-loop.toml").read_text().replace('kind = "poisson"', 'kind = "trace"')
    path = tmp_path / "traced.toml"
    path.write_text(text.replace("request_rate = 60.0", 'trace_file = "day.jsonl"', 1))
    assert read_scenario(path).load.arrival.trace_file == str(tmp_path / "day.jsonl")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load_scenario(str(tmp_path / "none.toml"))


COMMAND = """
name = "shop"
description = "a shop"
metric = "throughput_rps"

[target]
kind = "command"
start_timeout_s = 30.0
drain_timeout_s = 10.0

[target.command]
line = ["{python}", "-m", "shop", "--port", "{port}"]

[load]
concurrency = 4
warmup_requests = 10
settling_requests = 2
requests = 100
profiled_requests = 50
request_timeout_s = 10.0
seed = 1

[load.request]
path = "/rank"
json = { text = "{prompt}" }

[profiling]
enabled = true
trials_per_revision = 6
rate_hz = 100
nonblocking = true

[limits]
min_effect_frac = 0.05
confidence = 0.95
max_trials = 60
"""


def test_a_command_needs_no_word_of_what_only_sglang_has(tmp_path):
    (tmp_path / "shop.toml").write_text(COMMAND)
    scenario = read_scenario(tmp_path / "shop.toml")
    assert (scenario.target.kind, scenario.target.environment_spec) == (TargetKind.COMMAND, "python")
    assert scenario.target.command.health_path == "/health"
    assert scenario.load.request.json == {"text": "{prompt}"}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"{port}"', '"80"', "must name the port"),
        ('kind = "command"', 'kind = "sglang-server"', "missing required field"),
        ("[target.command]\nline", "[target.other]\nline", "unknown field target.other"),
        ("[target.command]\nline", "[target.command]\nlines", "unknown field target.command.lines"),
        ('line = ["{python}"', 'source_root = "../x"\nline = ["{python}"', "must lie in the revision's tree"),
        ('line = ["{python}"', 'health_path = "up"\nline = ["{python}"', "must begin with a slash, not 'up'"),
        ('path = "/rank"', 'path = "rank"', "must begin with a slash, not 'rank'"),
        ('path = "/rank"', 'path = "/rank"\nmethod = "FETCH"', "must be one of"),
        ('path = "/rank"', 'path = "/rank"\ntext = "x"', "json or text, not both"),
        ("[load.request]", '[load.image]\nwidth_px = 1\nheight_px = 1\nformat = "png"\n[load.request]', "exclude"),
    ],
)
def test_a_wrong_command_is_told_where_and_why(tmp_path, before, after, message):
    assert before in COMMAND
    path = tmp_path / "wrong.toml"
    path.write_text(COMMAND.replace(before, after, 1))
    with pytest.raises(UsageError) as caught:
        read_scenario(path)
    assert message in caught.value.message


def test_a_command_belongs_to_its_kind(tmp_path):
    text = (scenario_dir() / "text-only.toml").read_text()
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace("[load] ", '[target.command]\nline = ["x", "{port}"]\n[load] '))
    with pytest.raises(UsageError, match=r"belongs to target\.kind"):
        read_scenario(path)


def test_a_command_runs_in_the_python_that_is_there(tmp_path):
    (tmp_path / "shop.toml").write_text(COMMAND)
    scenario = read_scenario(tmp_path / "shop.toml")
    environment = ensure_environment(scenario, installer="pip", progress=Silent())
    assert environment.python == Path(sys.executable)
    assert (site_packages(environment) / "msgspec").is_dir()
    assert model_path(scenario, environment) is None


def test_a_python_that_is_not_there_is_named(tmp_path):
    (tmp_path / "shop.toml").write_text(
        COMMAND.replace('kind = "command"', 'kind = "command"\nenvironment_spec = "python:/none/python"')
    )
    scenario = read_scenario(tmp_path / "shop.toml")
    with pytest.raises(UsageError, match="there is no Python /none/python"):
        ensure_environment(scenario, installer="pip", progress=Silent())


def test_what_only_sglang_understands_is_refused_for_a_command(tmp_path):
    path = tmp_path / "shop.toml"
    path.write_text(COMMAND)
    assert changed_scenario(str(path), ScenarioChanges(max_trials=7)).limits.max_trials == 7
    for changes in (ScenarioChanges(device=Device.CUDA), ScenarioChanges(tensor_parallel_size=2)):
        with pytest.raises(UsageError, match=r"--tp are for SGLang's server"):
            changed_scenario(str(path), changes)


def test_cuda_with_stand_ins_runs_the_tiny_model(tmp_path):
    text = (scenario_dir() / "mm-small-images.toml").read_text()
    path = tmp_path / "cards.toml"
    text = text.replace('device = "cpu"', 'device = "cuda"\nkernels = "stand-in"', 1)
    path.write_text(text.replace('"sglang-cpu"', '"python"', 1))
    target = read_scenario(path).target
    assert target.stands_in
    assert target.model is None
    assert load_scenario("mm-small-images").target.stands_in


def test_cards_take_the_python_that_runs_perfguard_and_the_real_vision_tower(tmp_path):
    target = changed_scenario("mm-small-images", ScenarioChanges(device=Device.CUDA, model=str(tmp_path))).target
    assert (target.environment_spec, target.vision_tower) == ("python", VisionTower.REAL)
    assert not target.stands_in
    on_cards = changed_scenario("mm-small-images-cuda", ScenarioChanges(device=Device.CUDA)).target
    assert on_cards == load_scenario("mm-small-images-cuda").target
    on_cpu = changed_scenario("mm-small-images", ScenarioChanges()).target
    assert (on_cpu.environment_spec, on_cpu.vision_tower) == ("sglang-cpu", VisionTower.ZEROS)


def test_cards_with_installed_kernels_need_a_model():
    with pytest.raises(UsageError, match="needs a model") as caught:
        changed_scenario("mm-small-images", ScenarioChanges(device=Device.CUDA))
    assert "--kernels stand-in" in caught.value.hint


def test_the_example_of_another_server_is_the_one_that_is_documented_and_can_be_loaded():
    root = scenario_dir().parent
    shown = re.search(r"```toml\n(.*?)```", (root / "docs" / "other-servers.md").read_text(), re.DOTALL)[1]
    example = scenario_dir() / "examples" / "shop.toml"
    assert shown == example.read_text()
    assert load_scenario(str(example)).name == "shop"
