"""The one compiled operator whose name SGLang imports on the CPU; it rotates in Python and never calls it."""

import perfguard_hook


def rotary_embedding(*args, **kwargs):
    perfguard_hook.record(called="vllm._custom_ops.rotary_embedding")
    raise NotImplementedError("vllm._custom_ops.rotary_embedding: the CPU stand-in has no kernels")
