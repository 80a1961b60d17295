"""How a server is started, judged without starting one."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perfguard.cli.run import StrategyChoice
from perfguard.inside import strategies
from perfguard.model.errors import PerfguardError, UntestableError, UsageError
from perfguard.model.scenario import Device, Kernels, Strategy, TargetKind, TargetSpec, VisionTower
from perfguard.targets import sglang_launch

PYTHON = Path("/env/bin/python")


def spec(**changes):
    return TargetSpec(
        **{
            "kind": TargetKind.SGLANG_SERVER,
            "device": Device.CPU,
            "tensor_parallel_size": 2,
            "model": None,
            "vision_tower": VisionTower.ZEROS,
            "environment_spec": "cpu",
            "extra_args": (),
            "extra_environment": (),
            "start_timeout_s": 10.0,
            "drain_timeout_s": 10.0,
        }
        | changes
    )


def environment(target, **changes):
    places = {"source_root": Path("/tree"), "temp_dir": Path("/t"), "report_dir": Path("/r"), "cores": (0, 1)}
    return sglang_launch.server_environment(target, **(places | changes))


def test_how_cards_are_linked_is_left_to_the_user_on_cuda_only(monkeypatch):
    monkeypatch.setenv("NCCL_NVLS_ENABLE", "0")
    monkeypatch.setenv("TORCH_LOGS", "all")
    on_cuda = environment(spec(device=Device.CUDA, model="/model"))
    assert on_cuda["NCCL_NVLS_ENABLE"] == "0"
    assert "TORCH_LOGS" not in on_cuda
    assert "NCCL_NVLS_ENABLE" not in environment(spec())


@pytest.mark.parametrize("inside", ["python/sglang", "sglang"])
def test_the_package_is_found_in_a_checkout_and_in_a_release(tmp_path, inside):
    (tmp_path / inside).mkdir(parents=True)
    (tmp_path / inside / "__init__.py").touch()
    assert sglang_launch.find_source_root(tmp_path) == (tmp_path / inside).parent


def test_a_tree_without_sglang_is_untestable(tmp_path):
    (tmp_path / "sglang").mkdir()
    with pytest.raises(UntestableError, match=f"no sglang package in {tmp_path}"):
        sglang_launch.find_source_root(tmp_path)


@pytest.mark.parametrize(
    ("ranks", "cores", "expected"),
    [(2, (0, 1), "0|1"), (1, (5,), "5"), (4, (2, 7), "2|7|2|7"), (2, tuple(range(32)), "0|1")],
)
def test_every_rank_gets_one_core_in_turn(ranks, cores, expected):
    assert sglang_launch.bind_ranks(ranks, cores) == expected


def test_extra_arguments_come_last_so_that_they_win():
    target = spec(extra_args=("--max-total-tokens", "9"))
    command = sglang_launch.server_command(target, python=PYTHON, model_path="/m", port=1234)
    assert command[:4] == (str(PYTHON), "-m", "sglang.launch_server", "--model-path=/m")
    assert {"--host=127.0.0.1", "--port=1234", "--tp-size=2", "--device=cpu", "--load-format=dummy"} < set(command)
    assert command[-2:] == ("--max-total-tokens", "9")


def test_a_real_model_is_loaded_with_its_weights_and_may_be_downloaded():
    target = spec(model="org/model")
    assert "--load-format=dummy" not in sglang_launch.server_command(target, python=PYTHON, model_path="x", port=1)
    assert "HF_HUB_OFFLINE" not in environment(target)


def test_cuda_gets_no_stand_in_and_no_cpu_setting():
    target = spec(device=Device.CUDA, model="org/model")
    command = sglang_launch.server_command(target, python=PYTHON, model_path="org/model", port=1)
    assert "--device=cuda" in command
    assert not set(sglang_launch.CPU_FLAGS) - set(sglang_launch.CUDA_FLAGS) & set(command)
    variables = environment(target)
    assert "stand_in" not in variables["PYTHONPATH"]
    assert not set(sglang_launch.CPU_ENVIRONMENT) & set(variables)


def test_cuda_with_stand_ins_gets_kernels_that_compute_and_the_tiny_model(tmp_path):
    target = spec(device=Device.CUDA, kernels=Kernels.STAND_IN)
    command = sglang_launch.server_command(target, python=PYTHON, model_path="/m", port=1)
    assert {"--device=cuda", "--attention-backend=triton", "--load-format=dummy"} < set(command)
    assert not {"--disable-cuda-graph", "--disable-overlap-schedule"} & set(command)
    variables = environment(target)
    places = [Path(each).name for each in variables["PYTHONPATH"].split(os.pathsep)]
    assert places == ["site", "stand_in", "stand_in_layers", "tree"]
    assert variables["PERFGUARD_STAND_IN_KERNELS"] == "plain"
    assert "SGLANG_USE_CPU_ENGINE" not in variables
    resolved = sglang_launch.resolve_model(target, python=PYTHON, model_path=Path("/given"), work_dir=tmp_path)
    assert resolved == Path("/given")


def test_the_import_path_is_perfguards_and_the_trees_alone(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/home/me/hacks")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("SGLANG_SOMETHING", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("HOME", "/home/me")
    variables = environment(spec())
    hook, stand_in, layers, tree = variables["PYTHONPATH"].split(os.pathsep)
    assert Path(hook, "sitecustomize.py").is_file()
    assert Path(stand_in, "sgl_kernel", "__init__.py").is_file()
    assert Path(layers, "vllm", "__init__.py").is_file()
    assert tree == "/tree"
    assert not {"PYTHONDONTWRITEBYTECODE", "SGLANG_SOMETHING"} & set(variables)
    assert variables["OMP_NUM_THREADS"] == "1"
    assert variables["HOME"] == "/home/me"
    assert variables["SGLANG_CPU_OMP_THREADS_BIND"] == "0|1"


def test_a_scenarios_own_environment_wins():
    variables = environment(spec(extra_environment=(("OMP_NUM_THREADS", "2"), ("NEW", "x"))))
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["NEW"] == "x"


def test_cuda_without_a_model_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="real model") as caught:
        sglang_launch.resolve_model(spec(device=Device.CUDA), python=PYTHON, model_path=None, work_dir=tmp_path)
    assert "--model" in str(caught.value.hint)


def write_interpreter(folder, *, torch=None, kernels=False):
    """A Python that sees only what is put beside it."""
    site = folder / "site"
    site.mkdir(parents=True)
    for package, version in (("torch", torch), ("sgl_kernel", "0.3.16" if kernels else None)):
        if version is not None:
            (site / package).mkdir()
            (site / package / "__init__.py").touch()
            (site / f"{package}-{version}.dist-info").mkdir()
            (site / f"{package}-{version}.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.parametrize(
    ("packages", "kernels", "message"),
    [
        ({}, Kernels.INSTALLED, "has no torch"),
        (
            {"torch": "2.13.0+cpu", "kernels": True},
            Kernels.INSTALLED,
            r"torch 2.13.0\+cpu, which computes on the CPU only",
        ),
        ({"torch": "2.13.0+cpu"}, Kernels.STAND_IN, "computes on the CPU only"),
        ({"torch": "2.11.0+cu130"}, Kernels.INSTALLED, "has no sgl_kernel"),
        ({"torch": "2.11.0+cu130"}, Kernels.STAND_IN, None),
        ({"torch": "2.11.0", "kernels": True}, Kernels.INSTALLED, None),
    ],
)
def test_what_cards_need_is_asked_of_the_environment_before_a_server_starts(tmp_path, packages, kernels, message):
    target = spec(device=Device.CUDA, model="/model", kernels=kernels)
    python = write_interpreter(tmp_path / "env", **packages)
    if message is None:
        sglang_launch.check_environment(target, python)
        return
    with pytest.raises(UsageError, match=message) as caught:
        sglang_launch.check_environment(target, python)
    assert caught.value.hint


def test_a_server_on_the_cpu_asks_nothing_and_a_python_that_does_not_run_is_told(tmp_path):
    sglang_launch.check_environment(spec(), PYTHON)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no such library >&2\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match="cannot be asked for its packages: no such library"):
        sglang_launch.check_environment(spec(device=Device.CUDA, model="/m"), broken)


def test_a_local_model_is_named_absolutely_and_a_hub_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    resolve = sglang_launch.resolve_model
    assert resolve(spec(model="mine"), python=PYTHON, model_path=None, work_dir=tmp_path) == tmp_path / "mine"
    assert resolve(spec(model="org/name"), python=PYTHON, model_path=None, work_dir=tmp_path) == "org/name"
    assert resolve(spec(), python=PYTHON, model_path=Path("/given"), work_dir=tmp_path) == Path("/given")


def fake_python(directory, script):
    python = directory / "python"
    python.write_text("#!/bin/sh\n" + script)
    python.chmod(0o755)
    return python


def test_the_tiny_model_is_written_once(tmp_path):
    python = fake_python(tmp_path, f'echo run >> {tmp_path}/runs; mkdir "$3"')
    first = sglang_launch.ensure_tiny_model(python, tmp_path / "cache")
    assert first.is_dir()
    assert sglang_launch.ensure_tiny_model(python, tmp_path / "cache") == first
    assert (tmp_path / "runs").read_text() == "run\n"


def test_an_environment_that_cannot_write_the_model_is_one_clear_error(tmp_path):
    python = fake_python(tmp_path, "echo \"ModuleNotFoundError: No module named 'tokenizers'\" >&2; exit 1")
    with pytest.raises(PerfguardError, match="No module named 'tokenizers'"):
        sglang_launch.ensure_tiny_model(python, tmp_path / "cache")
    with pytest.raises(PerfguardError, match="cannot write the tiny model with /no/python"):
        sglang_launch.ensure_tiny_model(Path("/no/python"), tmp_path / "cache")


@pytest.mark.parametrize("line", ['__version__ = "0.5.4.post1"', "__version__ = version = '0.5.4.post1'"])
def test_versions_are_read_from_names_and_files(tmp_path, line):
    site = tmp_path / "env" / "lib" / "python3.11" / "site-packages"
    for name in ("torch-2.13.0+cpu", "transformers-4.57.1", "left_out-1.0"):
        (site / f"{name}.dist-info").mkdir(parents=True)
    (tmp_path / "sglang").mkdir()
    (tmp_path / "sglang" / "version.py").write_text(line + "\n")
    assert sglang_launch.installed_packages(tmp_path / "env" / "bin" / "python", tmp_path) == (
        ("sglang", "0.5.4.post1"),
        ("torch", "2.13.0+cpu"),
        ("transformers", "4.57.1"),
    )


def test_versions_of_what_the_machine_provides_are_read_behind_the_environments_own(tmp_path):
    own = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    machine = tmp_path / "machine" / "site-packages"
    for place in (own / "transformers-4.57.1", machine / "torch-2.11.0+cu130", machine / "transformers-5.0"):
        place.with_name(f"{place.name}.dist-info").mkdir(parents=True)
    (own / "zz-perfguard-machine.pth").write_text(f"import site; site.addsitedir({str(machine)!r})\n")
    assert sglang_launch.installed_packages(tmp_path / "env" / "bin" / "python", tmp_path) == (
        ("torch", "2.11.0+cu130"),
        ("transformers", "4.57.1"),
    )


def test_the_strategy_goes_to_the_hook_and_the_users_own_does_not(monkeypatch):
    monkeypatch.setenv("PERFGUARD_STRATEGY", "broadcast")
    assert environment(spec())["PERFGUARD_STRATEGY"] == "as-committed"
    assert environment(spec(), strategy=Strategy.SHARED_MEMORY)["PERFGUARD_STRATEGY"] == "shared-memory"


def test_strategies_have_one_set_of_names():
    assert tuple(strategy.value for strategy in Strategy) == strategies.NAMES
    assert [choice.value for choice in StrategyChoice] == [*strategies.NAMES, "all"]
    assert StrategyChoice.ALL.strategies == tuple(Strategy)
    assert StrategyChoice.LOCAL.strategies == (Strategy.LOCAL,)
