"""Stands in for SGLang's GPU kernel package: every name resolves, every call raises but those that `_plain` computes.

The server imports dozens of kernels at module level and uses none of them on the CPU, and on CUDA, with Triton's attention,
the few in `_plain`, which compute where `PERFGUARD_STAND_IN_KERNELS` is "plain". A kernel that is called all the same must not
pass for computed, so it raises. Calls are recorded.
"""

import importlib.machinery
import os
import sys
import types

import perfguard_hook

__version__ = "0.0.0+perfguard.stand.in"


class _Kernel:
    """A kernel, a namespace of kernels, or a class of the real package; nobody can tell before it is used."""

    def __init__(self, name):
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args, **kwargs):
        perfguard_hook.record(called=self.__name__)
        raise NotImplementedError(f"{self.__name__}: the stand-in has no such kernel")

    def __getattr__(self, name):
        return _kernel(self.__name__, name)

    def __mro_entries__(self, bases):
        # `class X(sgl_kernel.Something)` at import: X simply has no base of ours.
        return ()


def _kernel(parent, name):
    # Protocols (copy, pickle, inspect, torch.library) probe dunders; an answer would make them believe in one.
    if name.startswith("__"):
        raise AttributeError(name)
    return _Kernel(f"{parent}.{name}")


def __getattr__(name):
    return _kernel(__name__, name)


class _SubmoduleFinder:
    """Makes every `sgl_kernel.x.y` importable as a module whose names are kernels."""

    def find_spec(self, name, path=None, target=None):
        if name.startswith(__name__ + "."):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _kernel(spec.name, name)
        return module

    def exec_module(self, module):
        pass


sys.meta_path.append(_SubmoduleFinder())
if os.environ.get("PERFGUARD_STAND_IN_KERNELS") == "plain":
    from ._plain import fused_add_rmsnorm, rmsnorm, silu_and_mul

    perfguard_hook.record(
        replaced="sgl_kernel", detail="kernel stand-in: a few kernels in plain torch, calls of all others raise"
    )
else:
    perfguard_hook.record(replaced="sgl_kernel", detail="kernel stand-in: names resolve, calls raise")
