"""Stands in for SGLang's GPU kernel package where there is no GPU: every name resolves, every call raises.

The server imports dozens of kernels at module level and uses none of them on the CPU. A kernel that is called all the same
must not pass for computed, so it raises, and the call is recorded.
"""

import importlib.machinery
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
        raise NotImplementedError(f"{self.__name__}: the CPU stand-in has no kernels")

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
perfguard_hook.record(replaced="sgl_kernel", detail="kernel stand-in: names resolve, calls raise")
