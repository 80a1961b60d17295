"""The stand-in's kernels that compute, against the formulas in double precision; needs torch."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

INSIDE = Path(__file__).parents[3] / "perfguard" / "inside"


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFGUARD_REPORT_DIR", str(tmp_path))
    monkeypatch.setenv("PERFGUARD_STAND_IN_KERNELS", "plain")
    monkeypatch.syspath_prepend(str(INSIDE / "site"))
    monkeypatch.syspath_prepend(str(INSIDE / "stand_in"))
    finders = list(sys.meta_path)
    yield importlib.import_module("sgl_kernel")
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] in {"sgl_kernel", "perfguard_hook"}]:
        del sys.modules[name]


def normalised(x, weight, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def made(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_rmsnorm_is_the_formula(kernels, dtype, tolerance):
    x, weight = made(7, 128, dtype=dtype), made(128, dtype=dtype)
    wanted = normalised(x.double(), weight.double(), 1e-6)
    result = kernels.rmsnorm(x, weight, 1e-6)
    assert result.dtype is dtype
    torch.testing.assert_close(result.double(), wanted, rtol=tolerance, atol=tolerance)
    out = torch.empty_like(x)
    assert kernels.rmsnorm(x, weight, 1e-6, out=out) is out
    assert torch.equal(out, result)


def test_fused_add_rmsnorm_writes_both_in_place(kernels):
    x, residual, weight = made(5, 64), made(5, 64) * 2, made(64)
    wanted_residual = x + residual
    wanted = normalised(wanted_residual.double(), weight.double(), 1e-5)
    assert kernels.fused_add_rmsnorm(x, residual, weight, 1e-5) is None
    assert torch.equal(residual, wanted_residual)
    torch.testing.assert_close(x.double(), wanted, rtol=1e-5, atol=1e-5)


def test_silu_and_mul_gates_one_half_with_the_other(kernels):
    x = made(3, 10)
    gate, value = x[..., :5], x[..., 5:]
    out = torch.empty(3, 5)
    assert kernels.silu_and_mul(x, out) is out
    torch.testing.assert_close(out, gate / (1 + (-gate).exp()) * value)
    assert torch.equal(kernels.silu_and_mul(x), out)


def test_each_kernel_is_recorded_once_a_process(kernels, tmp_path):
    for _ in range(3):
        kernels.silu_and_mul(made(1, 2))
    kernels.rmsnorm(made(1, 4), made(4))
    records = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert [each["computed"] for each in records if "computed" in each] == [
        "sgl_kernel.silu_and_mul",
        "sgl_kernel.rmsnorm",
    ]
