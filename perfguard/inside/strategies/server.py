"""SGLang's modules, changed to a strategy; what is not recognised is refused with the reason, never guessed at.

Three shapes of the scheduler are known:
    0.5.4.post1 and before    `MultimodalInputs.from_dict(...)` is called where a request arrives
    0.5.4.post2 - 0.5.5.post2 `Scheduler._process_and_broadcast_mm_inputs` does it
    0.5.5.post3 and after     `Scheduler._get_multimodal_inputs` chooses, by a flag of the server
"""

import functools
import inspect
import os
import re
import types

import torch
import torch.distributed as dist

from . import NAMES, cards, codec, collectives, hashing, shared

THRESHOLD_VARIABLE = "SGLANG_MM_BROADCAST_THRESHOLD"
DEFAULT_THRESHOLD_BYTES = 100 * 1024
LIMIT_VARIABLE = "PERFGUARD_STRATEGY_TIMEOUT_S"
DEFAULT_LIMIT_S = 300.0
_REQUEST_CLASSES = {"TokenizedGenerateReqInput": "mm_inputs", "TokenizedEmbeddingReqInput": "image_inputs"}


class StrategyError(RuntimeError):
    """The strategy cannot be put into this revision, or not into a server that is started like this."""


def change_scheduler(module, name, record):
    """Let the scheduler of `module` (just imported) share multimodal inputs by strategy `name`.

    Raises:
        StrategyError: the name or the module's code is not known.
    """
    if name not in NAMES:
        raise StrategyError(f"strategy {name!r}: unknown, expected one of {', '.join(NAMES)}")
    if name == "as-committed":
        return
    build = _builder(module, name)
    replaced = _replace_materialisation(module, name, build)
    links = {}
    if name == "tensor-broadcast":
        replaced += _replace_broadcast_pyobj(module, name, links)
    _configure_ranks(module, name, links, record)
    for what, detail in replaced:
        record(strategy=name, replaced=f"{module.__name__}.{what}", detail=f"strategy {name}: {detail}")


def change_requests(module, record):
    """Let tokenized requests carry their multimodal inputs so that they pickle as descriptors, once a producer is set.

    Raises:
        StrategyError: a request class is missing, or has another field.
    """
    for class_name, field in _REQUEST_CLASSES.items():
        kind = getattr(module, class_name, None)
        fields = getattr(kind, "__dataclass_fields__", {})
        if field not in fields:
            raise _refusal("shared-memory", module, f"{class_name} has no field {field}")
        kind.__init__ = _sharing_init(kind.__init__, field)
        record(
            strategy="shared-memory",
            replaced=f"{module.__name__}.{class_name}",
            detail=f"strategy shared-memory: {field} pickle as a descriptor of shared memory",
        )
    shared.here.record = record


def change_tokenizer(module):
    """Make the process of the tokenizer manager the producer of shared inputs.

    Raises:
        StrategyError: there is no `TokenizerManager(server_args, ...)`.
    """
    manager = getattr(module, "TokenizerManager", None)
    if manager is None or _parameters(manager.__init__)[:2] != ["self", "server_args"]:
        raise _refusal("shared-memory", module, "no TokenizerManager(server_args, ...)")
    init = manager.__init__

    @functools.wraps(init)
    def init_as_producer(self, server_args, *args, **kwargs):
        become_producer(server_args.tp_size)
        init(self, server_args, *args, **kwargs)

    manager.__init__ = init_as_producer


def become_producer(ranks):
    """Let this process write shared inputs for `ranks` ranks; one rank alone shares nothing."""
    from sglang.srt.managers import mm_utils

    if ranks > 1 and shared.here.producer is None:
        shared.here.prepare = hashing.ItemHasher(mm_utils.hash_feature).hash_items
        shared.here.producer = shared.Producer(ranks, shared.here.record)


def _builder(module, name):
    """Return `build(scheduler, raw)`, which gives this rank its `MultimodalInputs`."""
    from_dict = module.MultimodalInputs.from_dict
    threshold_bytes = _number(THRESHOLD_VARIABLE, DEFAULT_THRESHOLD_BYTES)

    def local(scheduler, raw):
        return from_dict(raw)

    def broadcast(scheduler, raw):
        group = scheduler.tp_cpu_group
        if group is None or dist.get_world_size(group) == 1:
            return from_dict(raw)
        return collectives.broadcast_built(lambda: from_dict(raw), group)

    def conditional(scheduler, raw):
        # Every rank has the same raw inputs, and so comes to the same answer without asking.
        return (local if codec.size_bytes(raw) < threshold_bytes else broadcast)(scheduler, raw)

    return {"broadcast": broadcast, "conditional": conditional}.get(name, local)


_DETAILS = {
    "local": "every rank builds its own",
    "broadcast": "rank 0 builds, broadcast_object_list carries",
    "conditional": "local for small inputs, broadcast for large ones",
    "tensor-broadcast": "every rank builds its own, with the hashes that rank 0 computed",
    "shared-memory": "every rank builds its own over shared memory, with the hashes that the producer computed",
}


def _replace_materialisation(module, name, build):
    scheduler = getattr(module, "Scheduler", None)
    if scheduler is None:
        raise _refusal(name, module, "no class Scheduler")

    def materialise(self, raw):
        return None if raw is None else build(self, raw)

    for method in ("_get_multimodal_inputs", "_process_and_broadcast_mm_inputs"):
        original = scheduler.__dict__.get(method)
        if original is None:
            continue
        if len(_parameters(original)) != 2:
            raise _refusal(name, module, f"Scheduler.{method} takes {', '.join(_parameters(original))}")
        setattr(scheduler, method, materialise)
        return [(f"Scheduler.{method}", _DETAILS[name])]
    _check_direct_calls(module, name)
    current = _current_scheduler(scheduler)
    module.MultimodalInputs = types.SimpleNamespace(from_dict=lambda raw: build(current(), raw))
    return [("MultimodalInputs.from_dict", _DETAILS[name])]


def _check_direct_calls(module, name):
    """Make sure that the module uses `MultimodalInputs` for nothing but its two calls where requests arrive."""
    uses = re.findall(r"\bMultimodalInputs\b(.{0,40})", inspect.getsource(module))
    calls = [use for use in uses if re.match(r"\.from_dict\(recv_req\.(mm_inputs|image_inputs)\)", use)]
    imports = [use for use in uses if use.strip() in ("", ",")]
    if len(calls) != 2 or len(calls) + len(imports) != len(uses):
        raise _refusal(name, module, "MultimodalInputs is used in a way that is not known")


def _current_scheduler(scheduler_class):
    """Remember the process's scheduler as it is made, for functions that are not its methods."""
    init = scheduler_class.__init__
    made = []

    @functools.wraps(init)
    def remember(self, *args, **kwargs):
        made[:] = [self]
        init(self, *args, **kwargs)

    scheduler_class.__init__ = remember
    scheduler_class.perfguard_adopt = lambda self: made.__setitem__(slice(None), [self])
    return lambda: made[0]


def _sharing_init(init, field):
    @functools.wraps(init)
    def init_sharing(self, *args, **kwargs):
        init(self, *args, **kwargs)
        raw = getattr(self, field)
        if type(raw) is dict and shared.here.producer is not None:
            setattr(self, field, shared.SharedInputs(raw))

    return init_sharing


def _replace_broadcast_pyobj(module, name, links):
    """Let requests go between ranks as metadata and raw tensors: over `links[group]` where there is one, else by gloo."""
    original = getattr(module, "broadcast_pyobj", None)
    expected = ["data", "rank", "dist_group", "src", "force_cpu_device"]
    if original is None or _parameters(original) != expected:
        raise _refusal(name, module, f"no broadcast_pyobj({', '.join(expected)})")
    from sglang.srt.managers import mm_utils

    hasher = hashing.ItemHasher(mm_utils.hash_feature)

    @functools.wraps(original)
    def broadcast_pyobj(data, rank, dist_group=None, src=0, force_cpu_device=True):
        if rank == src:
            for raw in _raw_inputs(data):
                hasher.hash_items(raw)
        link = links.get(dist_group)
        if link is None:
            return collectives.broadcast_parted(data, rank, dist_group, src)
        return link.send(data, early=_features(data)) if rank == src else link.receive()

    module.broadcast_pyobj = broadcast_pyobj
    return [("broadcast_pyobj", "requests go as metadata and raw tensors; rank 0 hashes first")]


def _raw_inputs(requests):
    for request in requests:
        for single in getattr(request, "batch", None) or (request,):
            for field in _REQUEST_CLASSES.values():
                raw = getattr(single, field, None)
                if isinstance(raw, dict):
                    yield raw


def _features(requests):
    """Return what the requests' items are made of, wherever it lies."""
    items = [item for raw in _raw_inputs(requests) for item in raw.get("mm_items") or ()]
    return [getattr(item, "feature", None) for item in items]


def _configure_ranks(module, name, links, record):
    """Tell this process its rank as its scheduler is made, and limit how long it waits for other ranks afterwards.

    For `tensor-broadcast` on cards, `links` then has the group of the ranks.
    """
    scheduler = module.Scheduler
    init = scheduler.__init__
    signature = inspect.signature(init)
    if not {"server_args", "tp_rank"} <= set(signature.parameters):
        raise _refusal(name, module, "Scheduler takes no server_args and tp_rank")

    @functools.wraps(init)
    def init_with_strategy(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        _check_parallelism(given["server_args"], name)
        become_rank(given["tp_rank"])
        init(self, *args, **kwargs)
        if given["server_args"].tp_size == 1 or name == "local":
            return
        limit_s = _number(LIMIT_VARIABLE, DEFAULT_LIMIT_S)
        collectives.limit_waits(self.tp_cpu_group, limit_s)
        if name == "tensor-broadcast" and given["server_args"].device == "cuda":
            card = torch.device("cuda", torch.cuda.current_device())
            links[self.tp_cpu_group] = cards.CardLink(self.tp_cpu_group, limit_s, card)
            record(
                strategy=name,
                replaced=f"{module.__name__}.broadcast_pyobj",
                detail=f"strategy {name}: metadata by a local socket, tensors between cards over NCCL",
            )

    scheduler.__init__ = init_with_strategy


def become_rank(rank):
    """Let this process receive shared inputs as tensor-parallel rank `rank`."""
    shared.here.rank = rank


def join_as_rank(scheduler, rank, limit_s):
    """Do for a scheduler that was made without its constructor what the changed constructor does."""
    become_rank(rank)
    if hasattr(scheduler, "perfguard_adopt"):
        scheduler.perfguard_adopt()
    if scheduler.tp_cpu_group is not None:
        collectives.limit_waits(scheduler.tp_cpu_group, limit_s)


def _check_parallelism(server_args, name):
    if name == "local":
        return
    for option in ("pp_size", "dp_size", "nnodes"):
        if getattr(server_args, option, 1) != 1:
            raise StrategyError(
                f"strategy {name}: one group of tensor-parallel ranks on one host only; {option} is not 1"
            )


def _parameters(function):
    return list(inspect.signature(function).parameters)


def _number(variable, default):
    text = os.environ.get(variable, "")
    try:
        return type(default)(text) if text else default
    except ValueError:
        raise StrategyError(f"{variable} is not a number: {text!r}") from None


def _refusal(name, module, what):
    return StrategyError(f"strategy {name}: the code of {module.__name__} is not recognised: {what}")
