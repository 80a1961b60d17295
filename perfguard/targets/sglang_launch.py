"""How an SGLang server is started: its flags, its environment and its import path, as data. Starts nothing itself."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
from pathlib import Path

from perfguard.model.errors import PerfguardError, UntestableError, UsageError
from perfguard.model.scenario import Device, Strategy, TargetSpec, VisionTower
from perfguard.targets.running import SITE, user_environment

_INSIDE = Path(__file__).parents[1] / "inside"
_TINY_MODEL_LIMIT_S = 120.0

# Only what a server without compiled kernels cannot do is switched off; the request path is the default one.
CPU_FLAGS = (
    "--device=cpu",
    "--attention-backend=torch_native",
    "--mm-attention-backend=sdpa",
    "--disable-overlap-schedule",
    "--disable-fast-image-processor",
    "--disable-radix-cache",  # equal prompts must cost equal work
    "--grammar-backend=none",
    "--skip-server-warmup",  # warming up is the load's business, and the same for every revision
    "--mem-fraction-static=0.1",
    "--max-total-tokens=65536",
)
CUDA_FLAGS = (
    "--device=cuda",
    "--disable-radix-cache",
    "--skip-server-warmup",
)
# With kernels of perfguard's: only the backends that need none of the compiled package. CUDA graphs and the overlap
# scheduler stay on, as they are by default.
CUDA_STAND_IN_FLAGS = (
    "--attention-backend=triton",
    "--mm-attention-backend=triton_attn",
    "--sampling-backend=pytorch",
    "--disable-custom-all-reduce",
    "--grammar-backend=none",
    # A tiny model would give nearly the whole card to its cache; several servers are up at once.
    "--mem-fraction-static=0.5",
    "--max-total-tokens=262144",
)
CUDA_STAND_IN_ENVIRONMENT = {
    "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "GLOO_SOCKET_IFNAME": "lo",
    # The stand-in's kernels compute, see `inside/stand_in/sgl_kernel`.
    "PERFGUARD_STAND_IN_KERNELS": "plain",
}
CPU_ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    # More threads than cores turn the sign of what is measured: one a rank.
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    # With NCCL on the machine the server builds its communicator for a CPU device, and fails.
    "SGLANG_NCCL_SO_PATH": "/nonexistent/libnccl.so",
    # Ranks of one machine: the host's name, which may resolve to nothing or to a firewalled address, is not asked.
    "GLOO_SOCKET_IFNAME": "lo",
}
TINY_MODEL_FLAGS = ("--load-format=dummy",)
TINY_MODEL_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_LINK_VARIABLES = ("NCCL_", "TORCH_NCCL_", "TORCH_SYMM_MEM_", "NVSHMEM_")
_REPORTED_PACKAGES = ("numpy", "torch", "torchvision", "transformers", "vllm", "sgl_kernel")
# Written by `perfguard.revisions.bundle_install`.
_MACHINE_SITES = "zz-perfguard-machine.pth"
_ADDED_SITE = re.compile(r"addsitedir\('([^']+)'\)")
# The package under test, as it is imported.
PACKAGE = "sglang"


def find_source_root(source_tree: Path) -> Path:
    """Return the directory of a checkout or an unpacked release that goes on the import path.

    Raises:
        UntestableError: there is no `sglang` package in it.
    """
    for root in (source_tree / "python", source_tree):
        if (root / "sglang" / "__init__.py").is_file():
            return root.resolve()
    raise UntestableError(f"no sglang package in {source_tree}")


def server_command(target: TargetSpec, *, python: Path, model_path: Path | str, port: int) -> tuple[str, ...]:
    """Return the command line of a server on `port` of the loopback interface; the scenario's arguments come last."""
    return (
        str(python),
        "-m",
        "sglang.launch_server",
        f"--model-path={model_path}",
        *(TINY_MODEL_FLAGS if target.model is None else ()),
        "--host=127.0.0.1",
        f"--port={port}",
        f"--tp-size={target.tensor_parallel_size}",
        *_device_flags(target),
        *target.extra_args,
    )


def _device_flags(target: TargetSpec) -> tuple[str, ...]:
    if target.device is Device.CPU:
        return CPU_FLAGS
    return (*CUDA_FLAGS, *(CUDA_STAND_IN_FLAGS if target.stands_in else ()))


def server_environment(
    target: TargetSpec,
    *,
    source_root: Path,
    temp_dir: Path,
    report_dir: Path,
    cores: tuple[int, ...],
    strategy: Strategy = Strategy.AS_COMMITTED,
) -> dict[str, str]:
    """Return the whole environment of a server: perfguard's, and the user's without what steers Python or the server.

    On CUDA the user's settings of NCCL and of memory shared between cards are kept.

    Nothing of the user's `PYTHONPATH` is kept. Compiled files are written (`PYTHONDONTWRITEBYTECODE` is dropped):
    sources lie in perfguard's own cache, and compiling them anew would add seconds to each start. `cores` are
    the numbers of the cores to use. The server's processes put `strategy` in themselves, by the hook in `inside/`.
    """
    environment = user_environment()
    stand_ins = [_INSIDE / "stand_in", _INSIDE / "stand_in_layers"] if target.stands_in else []
    import_path = [SITE, *stand_ins, source_root]
    if target.device is Device.CPU:
        environment |= CPU_ENVIRONMENT
        environment["SGLANG_CPU_OMP_THREADS_BIND"] = bind_ranks(target.tensor_parallel_size, cores)
    else:
        # How the cards talk to each other is the machine's affair (interfaces, NVLink features that must stay off).
        environment |= {name: value for name, value in os.environ.items() if name.startswith(_LINK_VARIABLES)}
        environment |= CUDA_STAND_IN_ENVIRONMENT if target.stands_in else {}
    if target.model is None:
        environment |= TINY_MODEL_ENVIRONMENT
    return (
        environment
        | {
            "PYTHONPATH": os.pathsep.join(str(entry) for entry in import_path),
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
            "TMPDIR": str(temp_dir),
            "PERFGUARD_REPORT_DIR": str(report_dir),
            "PERFGUARD_PACKAGE": PACKAGE,
            "PERFGUARD_VISION_TOWER": "zeros" if target.vision_tower is VisionTower.ZEROS else "real",
            "PERFGUARD_STRATEGY": strategy.value,
        }
        | dict(target.extra_environment)
    )


def bind_ranks(ranks: int, cores: tuple[int, ...]) -> str:
    """Give each tensor-parallel rank one core, in turn where there are fewer cores than ranks: `0|1|0|1`."""
    return "|".join(str(cores[rank % len(cores)]) for rank in range(ranks))


def resolve_model(target: TargetSpec, *, python: Path, model_path: Path | None, work_dir: Path) -> Path | str:
    """Return the model a server is to load: the scenario's, `model_path`, or the generated tiny model.

    Raises:
        UsageError: a server with the installed kernels and without a model of its own.
    """
    if target.model is not None:
        # The server does not run in the user's directory.
        local = Path(target.model)
        return local.resolve() if local.exists() else target.model
    if not target.stands_in:
        raise UsageError("a server on cuda needs a real model", hint="name one with --model")
    return model_path or ensure_tiny_model(python, work_dir)


def check_environment(target: TargetSpec, python: Path) -> None:
    """Make sure that the environment of `python` has what a server on cards needs; on a CPU nothing is asked.

    Raises:
        UsageError: it has no torch, a torch for the CPU, or not the compiled kernels that are asked for.
    """
    if target.device is Device.CPU:
        return
    torch, kernels = _asked_of(python)
    needed = "a server on cuda needs"
    if torch is None or torch.endswith("+cpu"):
        found = "no torch" if torch is None else f"torch {torch}, which computes on the CPU only"
        raise UsageError(
            f"{python} has {found}; {needed} one that is built for the cards",
            hint="run perfguard with the Python that serves on this machine, or name that one in the scenario: "
            'environment_spec = "python:PATH"',
        )
    if not kernels and not target.stands_in:
        raise UsageError(
            f"{python} has no sgl_kernel; {needed} the compiled kernels",
            hint="install sgl-kernel as the revisions' pyproject.toml asks for, or measure the request path without: "
            "--kernels stand-in",
        )


@functools.cache
def _asked_of(python: Path) -> tuple[str | None, bool]:
    """Return the version of torch in an environment (None: there is none), and whether compiled kernels are there."""
    asked = (
        "import importlib.metadata, importlib.util as u\n"
        "print(importlib.metadata.version('torch') if u.find_spec('torch') else '')\n"
        "print(u.find_spec('sgl_kernel') is not None)"
    )
    try:
        done = subprocess.run(
            [str(python), "-s", "-c", asked], capture_output=True, text=True, check=False, env=user_environment()
        )
    except OSError as error:
        raise UsageError(f"{python} cannot be run: {error.strerror}", hint="name a Python that runs") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"{python} cannot be asked for its packages: {last}", hint="name a Python that runs")
    version, kernels = done.stdout.splitlines()
    return version or None, kernels == "True"


def ensure_tiny_model(python: Path, cache_dir: Path) -> Path:
    """Return the generated tiny vision-language model below `cache_dir`, and write it first where it is missing.

    `python` belongs to the managed environment: the tokenizer is written by the library that will read it.

    Raises:
        PerfguardError: the environment cannot write it.
    """
    script = _INSIDE / "tiny_model.py"
    digest = hashlib.sha256(script.read_bytes()).hexdigest()[:12]
    directory = cache_dir.resolve() / f"tiny-qwen2.5-vl-{digest}"
    if directory.is_dir():
        return directory
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [str(python), "-I", str(script), str(directory)],
            capture_output=True,
            text=True,
            timeout=_TINY_MODEL_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PerfguardError(f"cannot write the tiny model with {python}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PerfguardError(
            f"cannot write the tiny model with {python}: {last}",
            hint="build the managed environment anew with `perfguard env`",
        )
    return directory


def installed_packages(python: Path, source_root: Path) -> tuple[tuple[str, str], ...]:
    """Return (name, version) of the packages that matter, read from file names: asking Python takes a second."""
    versions = {}
    own = sorted(python.parent.parent.glob("lib*/python3*/site-packages/"))
    # A bundle's environment sees the machine's packages behind its own.
    seen = [Path(each) for place in own for each in _ADDED_SITE.findall(_text_of(place / _MACHINE_SITES))]
    for metadata in (each for place in (*seen, *own) for each in sorted(place.glob("*.dist-info"))):
        name, _, version = metadata.name.removesuffix(".dist-info").partition("-")
        if name.lower() in _REPORTED_PACKAGES:
            versions[name.lower()] = version
    if (sglang := _source_version(source_root)) is not None:
        versions["sglang"] = sglang
    return tuple(sorted(versions.items()))


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _source_version(source_root: Path) -> str | None:
    for name in ("version.py", "_version.py"):
        file = source_root / "sglang" / name
        if file.is_file() and (
            found := re.search(
                r"""^__version__\s*=.*["']([^"']+)["']""", file.read_text(errors="replace"), re.MULTILINE
            )
        ):
            return found[1]
    return None
