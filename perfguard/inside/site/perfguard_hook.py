"""What perfguard changes in a server's Python processes; everything it replaced is recorded.

Each change waits for the import of the module it concerns: a process that never imports torch pays nothing. Records are
JSON lines in `PERFGUARD_REPORT_DIR`, one file a process:

    {"pid": 1, "replaced": "torchvision", "detail": "..."}     something stands in for the real thing
    {"pid": 1, "called": "sgl_kernel.rmsnorm"}                 a stand-in kernel was asked to compute, and raised
    {"pid": 1, "computed": "sgl_kernel.rmsnorm"}               a stand-in kernel was asked to compute, and did
    {"pid": 1, "strategy": "local", "replaced": "..."}         the same, done by a strategy (`PERFGUARD_STRATEGY`)
    {"pid": 1, "shm": "psm_1", "inode": 7}                     a shared-memory segment was created
    {"pid": 1, "shm_prefix": "perfguard-5a...-"}               segments will be created with names that begin so
    {"pid": 1, "loaded": "sglang.srt.server_args"}             a module of the package under test is being imported
"""

import ctypes
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)


def install():
    """Prepare this process: how it dies, who may profile it, and what happens after certain imports."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Under Yama (ptrace_scope 1) only an ancestor may read a process; the profiler is a cousin of the server.
    libc.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)
    if os.environ.get("PERFGUARD_SERVER") == "any":
        # Not SGLang's: nothing of it is known, so nothing in it is changed.
        sys.meta_path.insert(0, _ImportInterceptor({"multiprocessing.shared_memory": _note_shared_memory}, ""))
        return
    if "--multiprocessing-fork" in sys.orig_argv:
        # The server's workers ask for this themselves once their imports are done, seconds later. Only these:
        # the signal comes when the starting *thread* ends, which nobody else has agreed to.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    around = {
        "multiprocessing.shared_memory": _note_shared_memory,
        "torch": _after_torch,
        "torchvision._meta_registrations": _skip_without_compiled_operators,
        "torchvision._autograd_registrations": _skip_without_compiled_operators,
    }
    if os.environ.get("PERFGUARD_VISION_TOWER") == "zeros":
        around["sglang.srt.models.qwen2_5_vl"] = _answer_vision_tower_with_zeros
    strategy = os.environ.get("PERFGUARD_STRATEGY", "as-committed")
    if strategy != "as-committed":
        around.update(_strategies().install(strategy, record))
    sys.meta_path.insert(0, _ImportInterceptor(around, os.environ.get("PERFGUARD_PACKAGE", "")))


def run_shadowed_sitecustomize():
    """Run the `sitecustomize` that Python would have found without perfguard's, if there is one."""
    here = os.path.realpath(os.path.dirname(__file__))
    elsewhere = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def record(**fields):
    """Append one record of this process; without `PERFGUARD_REPORT_DIR` nothing is written."""
    directory = os.environ.get("PERFGUARD_REPORT_DIR")
    if not directory:
        return
    line = json.dumps({"pid": os.getpid(), **fields}) + "\n"
    # One write of one line in append mode: a process that is killed leaves no half records of others behind.
    descriptor = os.open(
        os.path.join(directory, f"{os.getpid()}.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _strategies():
    """Load the package beside this directory under a name that nothing of the server can have."""
    directory = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "strategies")
    spec = importlib.util.spec_from_file_location(
        "perfguard_strategies", os.path.join(directory, "__init__.py"), submodule_search_locations=[directory]
    )
    package = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package


class _ImportInterceptor:
    """A finder that lets the others find a module, and runs `around[name](module, execute)` in place of its execution.

    It sees every first import, and writes down those of `package`: only commits that touch such a file can matter.
    """

    def __init__(self, around, package):
        self._around = around
        self._package = package

    def find_spec(self, name, path=None, target=None):
        if self._package and name.partition(".")[0] == self._package:
            record(loaded=name)
        around = self._around.get(name)
        if around is None:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                _intercept(spec, around)
                return spec
        return None


def _intercept(spec, around):
    loader = spec.loader
    execute = loader.exec_module

    def exec_module(module):
        del loader.exec_module
        around(module, lambda: execute(module))

    # The loader's own method is shadowed, not the loader replaced: tracebacks and inspect ask it for the source.
    loader.exec_module = exec_module


def _note_shared_memory(module, execute):
    """Write down each segment that is created, with its inode: the reaper removes those that outlive the server.

    A killed process leaves its segments in /dev/shm, and afterwards nothing tells whose they were.
    """
    execute()
    backend = module._posixshmem
    shm_open = backend.shm_open

    def shm_open_noted(path, flags, *args, **kwargs):
        descriptor = shm_open(path, flags, *args, **kwargs)
        if flags & os.O_CREAT:
            record(shm=path.lstrip("/"), inode=os.fstat(descriptor).st_ino)
        return descriptor

    backend.shm_open = shm_open_noted


def _after_torch(torch, execute):
    execute()
    _fill_amx_probe(torch)
    if os.environ.get("PERFGUARD_STAND_IN_KERNELS") == "plain":
        _swallow_fakes_of_missing_kernels(torch)


def _swallow_fakes_of_missing_kernels(torch):
    """Let the server describe to the tracer (`register_fake`) kernels that are not there; torch refuses unknown names.

    Nothing traces while the stand-in is used (dynamo is off), so that nobody would have asked for the description.
    """
    register_fake = torch.library.register_fake

    def register_fake_of_what_exists(operator, function=None, /, **options):
        if not (isinstance(operator, str) and operator.startswith("sgl_kernel::")):
            return register_fake(operator, function, **options)
        record(replaced=f"{operator} for the tracer", detail="no such compiled kernel; its description is dropped")
        return function if function is not None else lambda described: described

    torch.library.register_fake = register_fake_of_what_exists


def _fill_amx_probe(torch):
    """Answer the AMX probe that torch 2.13 dropped: the server asks `torch._C._cpu._is_amx_tile_supported()`.

    "No" is the truth on the CPU, whatever the processor has: the AMX kernels are in the package that is stood in for.
    """
    cpu = getattr(torch._C, "_cpu", None)
    if cpu is not None and not hasattr(cpu, "_is_amx_tile_supported"):
        cpu._is_amx_tile_supported = lambda: False
        record(replaced="torch._C._cpu._is_amx_tile_supported", detail="missing in this torch; answers no")


def _skip_without_compiled_operators(module, execute):
    """Skip torchvision's registrations for its compiled operators where those could not be loaded.

    A torchvision wheel built for CUDA loads no operators beside a CPU torch, and then its import fails on registering
    shapes and gradients for operators that do not exist. The transforms, all that the server uses, are pure Python.
    """
    if sys.modules["torchvision.extension"]._has_ops():
        execute()
    else:
        record(replaced="torchvision", detail="compiled operators do not load; their registrations are skipped")


def _answer_vision_tower_with_zeros(module, execute):
    """Let the vision tower answer zeros of the right shape, so that the request path is not hidden behind it.

    On a CPU its attention is quadratic in the patches: seconds for one photo. All before and after it stays real.
    """
    execute()
    towers = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and name.startswith("Qwen2_5_Vision")
        and hasattr(value, "rot_pos_emb")
    ]
    if not towers:
        raise RuntimeError(f"PERFGUARD_VISION_TOWER=zeros: no vision tower found in {module.__name__}")
    for tower in towers:
        tower.forward = _zeros_forward
        record(
            replaced=f"{module.__name__}.{tower.__name__}.forward",
            detail="vision tower: zeros of the right shape in place of the encoder's output",
        )


def _zeros_forward(self, x, grid_thw, *args, **kwargs):
    last = self.merger.mlp[-1]
    width = getattr(last, "output_size", None) or last.out_features
    return x.new_zeros((x.shape[0] // self.spatial_merge_size**2, width), dtype=self.dtype, device=self.device)
