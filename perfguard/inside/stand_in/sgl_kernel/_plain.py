"""The kernels that a small dense model asks for on CUDA, in plain torch: right, on any device, and slower than compiled ones.

They follow the compiled package's calling conventions, also in what is written in place, and can be captured in a CUDA graph.
"""

import functools

import perfguard_hook


def _recorded(kernel):
    """Record a process's first call: a record for each would cost more than the kernel."""
    seen = []

    @functools.wraps(kernel)
    def call(*args, **kwargs):
        if not seen:
            seen.append(True)
            perfguard_hook.record(computed=f"sgl_kernel.{kernel.__name__}")
        return kernel(*args, **kwargs)

    return call


def _normalised(x, weight, eps):
    wide = x.float()
    scale = (wide.pow(2).mean(dim=-1, keepdim=True) + eps).rsqrt()
    return (wide * scale * weight.float()).to(x.dtype)


@_recorded
def rmsnorm(input, weight, eps=1e-6, out=None, enable_pdl=None):
    """`input / rms(input) * weight`, row by row; into `out` where it is given."""
    result = _normalised(input, weight, eps)
    return result if out is None else out.copy_(result)


@_recorded
def fused_add_rmsnorm(input, residual, weight, eps=1e-6, enable_pdl=None):
    """In place: `residual += input`, then `input = rmsnorm(residual)`."""
    residual.add_(input)
    input.copy_(_normalised(residual, weight, eps))


@_recorded
def silu_and_mul(input, out=None, enable_pdl=None):
    """`silu(first half) * second half` of the last dimension; into `out` where it is given."""
    from torch.nn.functional import silu

    half = input.shape[-1] // 2
    result = silu(input[..., :half]) * input[..., half:]
    return result if out is None else out.copy_(result)
