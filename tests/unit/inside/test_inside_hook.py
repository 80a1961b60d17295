"""What perfguard changes in a server's processes, seen in processes of their own with small fakes of torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

INSIDE = Path(__file__).parents[3] / "perfguard" / "inside"


@pytest.fixture
def run(tmp_path):
    """Run Python code with the hook and the stand-ins; return its output, error output and the records it left."""
    reports = tmp_path / "reports"
    reports.mkdir()
    (tmp_path / "fakes").mkdir()

    def run_code(code, *, files=(), stand_in=True, check=True, **environment):
        for name, text in dict(files).items():
            file = tmp_path / "fakes" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(text))
        stand_ins = [INSIDE / "stand_in", INSIDE / "stand_in_layers"] if stand_in else []
        path = [INSIDE / "site", *stand_ins, tmp_path / "fakes"]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PERFGUARD_REPORT_DIR": str(reports)}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        lines = [line for file in sorted(reports.iterdir()) for line in file.read_text().splitlines()]
        return done.stdout, done.stderr, [json.loads(line) for line in lines]

    return run_code


def without_pid(records):
    return [{key: value for key, value in record.items() if key != "pid"} for record in records]


def test_a_process_that_imports_nothing_is_left_alone(run):
    out, err, records = run("import sys; print('torch' in sys.modules, 'multiprocessing' in sys.modules)")
    assert (out, err, records) == ("False False\n", "", [])


def test_stand_in_kernels_resolve_and_calls_raise_and_are_recorded(run):
    out, _, records = run(
        """
        import sgl_kernel, inspect, os
        from sgl_kernel import rmsnorm, scalar_types
        from sgl_kernel.flash_attn.deep import attend
        class Mixed(sgl_kernel.Something): pass
        print(Mixed.__bases__, hasattr(sgl_kernel, "__no_such__"), scalar_types.uint4.__name__, os.getpid())
        for kernel in (rmsnorm, attend):
            try: kernel(1, x=2)
            except NotImplementedError as error: print(error)
        """
    )
    first, *errors = out.splitlines()
    pid = int(first.split()[-1])
    assert first.startswith("(<class 'object'>,) False sgl_kernel.scalar_types.uint4")
    assert errors == [
        "sgl_kernel.rmsnorm: the stand-in has no such kernel",
        "sgl_kernel.flash_attn.deep.attend: the stand-in has no such kernel",
    ]
    assert {record["pid"] for record in records} == {pid}
    assert without_pid(records) == [
        {"replaced": "sgl_kernel", "detail": "kernel stand-in: names resolve, calls raise"},
        {"called": "sgl_kernel.rmsnorm"},
        {"called": "sgl_kernel.flash_attn.deep.attend"},
    ]


def test_no_kernel_is_stood_in_for_without_the_stand_in_path(run):
    _, err, _ = run("import sgl_kernel", stand_in=False, check=False)
    assert "No module named 'sgl_kernel'" in err


LAYERS = {
    "sglang/__init__.py": "",
    "sglang/srt/__init__.py": "",
    "sglang/srt/layers/__init__.py": "",
    "sglang/srt/layers/activation.py": """
        class SiluAndMul: pass
        class GeluAndMul: pass
        own = SiluAndMul
        from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
        """,
    "sglang/srt/layers/layernorm.py": """
        class RMSNorm: pass
        class GemmaRMSNorm: pass
        own = RMSNorm
        from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
        """,
}


def test_the_server_gets_its_own_layers_back(run):
    out, _, records = run(
        """
        from sglang.srt.layers import activation, layernorm
        print(activation.SiluAndMul is activation.own, layernorm.RMSNorm is layernorm.own)
        try: import vllm.model_executor.layers.quantization
        except ImportError as error: print(error.name)
        from vllm._custom_ops import rotary_embedding
        try: rotary_embedding()
        except NotImplementedError: print("raised")
        """,
        files=LAYERS,
    )
    assert out.splitlines() == ["True True", "vllm.model_executor.layers.quantization", "raised"]
    assert {"called": "vllm._custom_ops.rotary_embedding"} in without_pid(records)


FAKE_TORCH = {
    "torch/__init__.py": "from torch import library, _C",
    "torch/_C.py": "",
    "torch/library.py": """
        def register_fake(operator, function=None, /, *, lib=None):
            print("registers", operator, function, lib)
            return function
        """,
}
DESCRIBE = """
    import torch
    @torch.library.register_fake("sgl_kernel::missing")
    def description(): pass
    print(description.__name__, torch.library.register_fake("sgl_kernel::other", len) is len)
    torch.library.register_fake("mine::there", len, lib="mine")
    """


def test_descriptions_of_kernels_that_are_not_there_are_dropped_with_the_stand_in(run):
    out, _, records = run(DESCRIBE, files=FAKE_TORCH, PERFGUARD_STAND_IN_KERNELS="plain")
    assert out.splitlines() == ["description True", "registers mine::there <built-in function len> mine"]
    assert [each["replaced"] for each in records] == [
        f"sgl_kernel::{name} for the tracer" for name in ("missing", "other")
    ]


def test_descriptions_of_kernels_are_left_alone_without_it(run):
    out, _, records = run(DESCRIBE, files=FAKE_TORCH, check=False)
    assert out.splitlines()[0] == "registers sgl_kernel::missing None None"
    assert not records


def test_a_few_kernels_of_the_stand_in_compute_and_the_others_still_raise(run):
    out, _, records = run(
        """
        import sgl_kernel
        from sgl_kernel import rmsnorm, fp8_gemm
        print(rmsnorm.__module__, sgl_kernel.fused_add_rmsnorm.__name__, sgl_kernel.silu_and_mul.__name__)
        try: fp8_gemm()
        except NotImplementedError as error: print(error)
        """,
        PERFGUARD_STAND_IN_KERNELS="plain",
    )
    assert out.splitlines() == [
        "sgl_kernel._plain fused_add_rmsnorm silu_and_mul",
        "sgl_kernel.fp8_gemm: the stand-in has no such kernel",
    ]
    assert {"called": "sgl_kernel.fp8_gemm"} in without_pid(records)


@pytest.mark.parametrize(("has", "answer"), [(False, "False"), (True, "'real'")])
def test_the_amx_probe_is_filled_only_where_it_is_missing(run, has, answer):
    torch = "class _C:\n    class _cpu:\n        pass\n"
    if has:
        torch += "_C._cpu._is_amx_tile_supported = lambda: 'real'\n"
    out, _, records = run(
        "import torch; print(repr(torch._C._cpu._is_amx_tile_supported()))", files={"torch/__init__.py": torch}
    )
    assert out == f"{answer}\n"
    assert len(records) == (0 if has else 1)


@pytest.mark.parametrize("loads", [True, False])
def test_torchvisions_registrations_are_skipped_only_without_its_operators(run, loads):
    files = {
        "torchvision/__init__.py": """
            from . import extension
            from . import _meta_registrations, _autograd_registrations
            """,
        "torchvision/extension.py": f"def _has_ops(): return {loads}",
        "torchvision/_meta_registrations.py": "print('meta')",
        "torchvision/_autograd_registrations.py": "print('autograd')",
    }
    out, _, records = run("import torchvision", files=files)
    assert out.split() == (["meta", "autograd"] if loads else [])
    assert {record["replaced"] for record in records} == (set() if loads else {"torchvision"})


VISION = {
    "sglang/__init__.py": "",
    "sglang/srt/__init__.py": "",
    "sglang/srt/models/__init__.py": "",
    "sglang/srt/models/qwen2_5_vl.py": """
        class Last: output_size = 128
        class Merger: mlp = [None, None, Last()]
        class Qwen2_5_VisionBlock:
            def forward(self, x): return "block"
        class Qwen2_5_VisionTransformer:
            spatial_merge_size = 2
            dtype, device = "bf16", "cpu"
            merger = Merger()
            def rot_pos_emb(self): pass
            def forward(self, x, grid_thw): return "encoded"
        class Patches:
            shape = (64, 1176)
            def new_zeros(self, shape, dtype, device): return shape, dtype, device
        """,
}
ENCODE = """
    from sglang.srt.models.qwen2_5_vl import *
    print(Qwen2_5_VisionTransformer().forward(Patches(), grid_thw=None), Qwen2_5_VisionBlock().forward(0))
    """


def test_the_vision_tower_answers_zeros_of_the_right_shape_when_asked_to(run):
    out, _, records = run(ENCODE, files=VISION, PERFGUARD_VISION_TOWER="zeros")
    assert out == "((16, 128), 'bf16', 'cpu') block\n"
    assert [record["replaced"] for record in records] == [
        "sglang.srt.models.qwen2_5_vl.Qwen2_5_VisionTransformer.forward"
    ]


def test_the_vision_tower_stays_real_by_default(run):
    out, _, records = run(ENCODE, files=VISION, PERFGUARD_VISION_TOWER="real")
    assert (out, records) == ("encoded block\n", [])


def test_a_revision_without_the_tower_fails_instead_of_running_something_else(run):
    files = VISION | {"sglang/srt/models/qwen2_5_vl.py": "class Renamed: pass"}
    _, err, _ = run("import sglang.srt.models.qwen2_5_vl", files=files, check=False, PERFGUARD_VISION_TOWER="zeros")
    assert "no vision tower found in sglang.srt.models.qwen2_5_vl" in err


def test_created_segments_are_recorded_and_opened_ones_are_not(run):
    out, _, records = run(
        """
        import os
        from multiprocessing.shared_memory import SharedMemory
        made = SharedMemory(create=True, size=16)
        opened = SharedMemory(name=made.name)
        print(made.name, os.stat("/dev/shm/" + made.name).st_ino)
        opened.close(); made.close(); made.unlink()
        """
    )
    name, inode = out.split()
    assert without_pid(records) == [{"shm": name, "inode": int(inode)}]


def test_nothing_is_written_without_a_report_directory(run):
    out, err, records = run("import sgl_kernel; print(sgl_kernel.x.__name__)", PERFGUARD_REPORT_DIR="")
    assert (out, err, records) == ("sgl_kernel.x\n", "", [])


def test_a_shadowed_sitecustomize_still_runs(run):
    out, _, _ = run("print('main')", files={"sitecustomize.py": "print('theirs', __name__)"})
    assert out == "theirs sitecustomize\nmain\n"


def test_an_intercepted_module_keeps_its_loader_and_source(run):
    out, _, _ = run(
        """
        import inspect, torch
        print(type(torch.__loader__).__name__, inspect.getsource(torch).strip())
        import importlib; importlib.reload(torch)
        """,
        files={"torch/__init__.py": "class _C: pass"},
    )
    assert out == "SourceFileLoader class _C: pass\n"


def test_workers_die_with_the_process_that_started_them_and_others_do_not(run):
    code = """
        import ctypes, subprocess, sys
        ask = '''
        import ctypes
        value = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(value))
        print(value.value, end=" ")
        '''.replace("\\n        ", "\\n")
        for arguments in (["--multiprocessing-fork"], []):
            print(subprocess.run([sys.executable, "-c", ask, *arguments], capture_output=True, text=True).stdout)
        """
    out, _, _ = run(code)
    assert out.split() == ["9", "0"]
