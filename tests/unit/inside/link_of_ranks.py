"""A link of N rank processes, for the tests of links: `python link_of_ranks.py N FOLDER [cuda]`.

Each rank writes what it found to `FOLDER/RANK.json`. On `cuda` each has a card of its own, and values lie on it too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from test_inside_codec import CASES, noise, request, same

from perfguard.inside.strategies import cards
from perfguard.inside.strategies.line import Line, RankFailedError

LIMIT_S = 60.0
SHORT_LIMIT_S = 2.0
HANG_S = 120.0


def main(ranks, folder, device):
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            run_rank(rank, ranks, folder, device)
        pids.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


def run_rank(rank, ranks, folder, device):
    """Run one rank and end its process; the last one kills itself at the end, with its findings written."""
    code = 1
    faulthandler.dump_traceback_later(float(os.environ.get("HANG_S", HANG_S)), exit=True)
    try:
        torch.set_num_threads(1)
        if device.type == "cuda":
            device = torch.device("cuda", rank)
            torch.cuda.set_device(device)
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
        found = look(rank, ranks, device)
        file = folder / f"{rank}.json"
        if ranks > 1:
            link = new_link(device)
            dist.barrier()
            if rank == ranks - 1:
                file.write_text(json.dumps(found))
                link._post = lambda _: os.kill(os.getpid(), signal.SIGKILL)
            found["killed"] = failure(link, rank)
        file.write_text(json.dumps(found))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def look(rank, ranks, device):
    """Return by name what this rank saw of its links."""
    link = new_link(device)
    cases = {**CASES, **CARD_CASES} if device.type == "cuda" else CASES
    early_cases = [case for case in cases if case in EARLY or case in CARD_CASES]
    found = {
        "wrong": [case for case in cases if not arrived(pass_on(link, rank, [cases[case]()])[0], cases[case]())],
        "wrong early": [case for case in early_cases if not arrived(early(link, rank, cases[case]()), cases[case]())],
        "together": same(pass_on(link, rank, [case() for case in CASES.values()]), [case() for case in CASES.values()]),
        "nothing": pass_on(link, rank, []),
        "long": pass_on(link, rank, ["x" * 300_000]) == ["x" * 300_000],
        "long behind early": long_behind_early(new_link(device), rank),
        "many": [pass_on(link, rank, [number]) for number in range(100)] == [[number] for number in range(100)],
    }
    try:
        found["unsendable"] = pass_on(link, rank, [lambda: "cannot be pickled"]) if rank == 0 else "not asked"
    except Exception as error:  # noqa: BLE001 - which one is pickle's affair
        found["unsendable"] = type(error).__name__
    found["after it"] = pass_on(link, rank, ["in step"])
    if ranks > 1:
        found["failed receiver"] = broken(device, rank, who=ranks - 1)
        found["failed sender"] = broken(device, rank, who=0)
        line = Line(dist.group.WORLD, SHORT_LIMIT_S)
        found["silent"] = failure(line, rank) if rank else "slept"
        dist.barrier()
    return found


def new_link(device):
    return cards.CardLink(dist.group.WORLD, LIMIT_S, device)


def pass_on(link, rank, values, tensors=()):
    if rank == 0:
        link.send(values, early=tensors)
        return values
    return link.receive()


EARLY = ("image", "several images", "transposed", "bfloat16", "zero rows", "scalar tensor", "item without feature")


def early(link, rank, value):
    """Announce the features before the rest; something that is not in the value must not do harm."""
    return pass_on(link, rank, [value], [*(item.feature for item in value["mm_items"]), noise(3)])[0]


def long_behind_early(link, rank):
    """Announce a tensor of a value whose metadata is longer than a link has room for at first."""
    value = {"feature": noise(64, 1176), "text": "x" * 300_000}
    arrived_well = same(pass_on(link, rank, [value], [value["feature"]]), [value])
    dist.barrier()  # the link goes with this function, and whoever still waits would think its rank gone
    return arrived_well


def on_card(make):
    """Let the features of a request lie on this rank's card."""

    def made():
        value = make()
        for item in value["mm_items"]:
            item.feature = item.feature.cuda()
        return value

    return made


CARD_CASES = {
    f"{case} on a card": on_card(CASES[case])
    for case in ("image", "several images", "bfloat16", "bool", "transposed", "zero rows", "scalar tensor")
} | {"a card's and the host's": lambda: {**on_card(CASES["image"])(), "precomputed": noise(64, 1176, seed=3)}}


def arrived(value, expected):
    """Whether `value` is equal to the byte, and each feature lies where it lay."""
    if not isinstance(value, dict) or "mm_items" not in value:
        return same(value, expected)
    places = []
    for each in (value, expected):
        features = [getattr(item, "feature", None) for item in each["mm_items"]]
        places.append([feature.device if isinstance(feature, torch.Tensor) else None for feature in features])
        for item, feature in zip(each["mm_items"], features, strict=True):
            if isinstance(feature, torch.Tensor):
                item.feature = feature.cpu()
    return places[0] == places[1] and same(value, expected)


def broken(device, rank, who):
    """Let rank `who` raise between the message and its collective: what each rank is told, and whether in time."""
    link = new_link(device)
    dist.barrier()  # nobody is to find the failure while its link is made
    if rank == who:
        link._post = lambda _: 1 // 0
    return failure(link, rank)


def failure(link, rank):
    """Use a link until it fails."""
    begin = time.monotonic()
    try:
        while True:
            pass_on(link, rank, [request(), noise(64, 1176)])
    except (RankFailedError, ZeroDivisionError) as error:
        told = f"{type(error).__name__}: {error}"
    late = time.monotonic() - begin > LIMIT_S / 2
    with contextlib.suppress(RankFailedError):  # closed twice by some
        link.close()
    return "late: " + told if late else told


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), torch.device((*sys.argv, "cpu")[3])))
