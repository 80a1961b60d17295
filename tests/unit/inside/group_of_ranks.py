"""A group of N rank processes over gloo, for the tests of groups: `python group_of_ranks.py N FOLDER`.

Forked after torch's import, which costs more than all the rest. Each rank writes what it found to `FOLDER/RANK.json`.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import traceback
import types
from pathlib import Path

import torch
import torch.distributed as dist
from test_inside_codec import CASES, same

from perfguard.inside.strategies import collectives, server, shared

LIMIT_S = 1.0
THRESHOLD_BYTES = 4000


def main(ranks, folder):
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            run_rank(rank, ranks, folder)
        pids.append(pid)
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


def run_rank(rank, ranks, folder):
    """Run one rank and end its process."""
    code = 1
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
        found = look(rank, ranks)
        (folder / f"{rank}.json").write_text(json.dumps(found))
        code = 0
    finally:
        if code:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)


def look(rank, ranks):
    """Return by name what this rank saw of every way of sharing."""
    group = dist.group.WORLD
    collectives.limit_waits(group, 60.0)
    found = {
        "built": wrong_cases(lambda case: collectives.broadcast_built(CASES[case], group)),
        "parted": wrong_cases(lambda case: collectives.broadcast_parted(sent(case, rank), rank, group, 0)[0]),
        "nothing sent": collectives.broadcast_parted([], rank, group, 0),
        **shared_memory(rank, ranks),
        "conditional": [conditional(rank, numbers) for numbers in (10, THRESHOLD_BYTES // 8 - 1, THRESHOLD_BYTES // 8)],
    }
    try:
        collectives.broadcast_built(lambda: 1 // 0, group)
    except (ZeroDivisionError, collectives.RankFailedError) as error:
        found["built failure"] = f"{type(error).__name__}: {error}"
    # A failure that was told leaves the ranks in step.
    found["after the failure"] = collectives.broadcast_built(lambda: f"by {rank}", group)
    found["silence"] = silence(rank, group)
    return found


def sent(case, rank):
    """What a rank passes: receivers may pass anything."""
    return [CASES[case]()] if rank == 0 else ["not looked at"]


def wrong_cases(share):
    """Name the cases in which this rank got anything else than what was sent."""
    return [case for case in CASES if not same(share(case), CASES[case]())]


def shared_memory(rank, ranks):
    """Let rank 0 write every case to its lasting memory and to a segment of its own, and every rank map it."""
    records = []

    def make(**options):
        return shared.Producer(ranks, lambda **fields: records.append(fields), **options) if rank == 0 else None

    def wrong_by(producer):
        def share(case):
            message = [producer.publish(CASES[case]()) if producer else None]
            dist.broadcast_object_list(message, src=0)
            return message[0].attach(rank)

        return wrong_cases(share)

    lasting, alone = make(), make(arena_bytes=0)
    wrong = [*wrong_by(lasting), *wrong_by(alone)]
    dist.barrier()
    left = [
        entry.name
        for entry in Path(shared.DIRECTORY).iterdir()
        if any(entry.name.startswith(fields["shm_prefix"]) for fields in records if "shm_prefix" in fields)
    ]
    lost = [alone.publish({"a": torch.zeros(9000)}) if alone else None]
    dist.broadcast_object_list(lost, src=0)
    refused = ""
    if rank == ranks - 1:  # one rank fails; the others take theirs
        Path(shared.DIRECTORY, lost[0].name).rename(Path(shared.DIRECTORY, f"{lost[0].name}-elsewhere"))
    dist.barrier()
    if rank == ranks - 1:
        try:
            lost[0].attach(rank)
        except RuntimeError as error:
            refused = str(error)
        Path(shared.DIRECTORY, f"{lost[0].name}-elsewhere").unlink()
    return {"shared": wrong, "segments": left, "refused": refused}


def conditional(rank, numbers):
    """Share inputs of 8 bytes a number as strategy `conditional`: who built what this rank got."""
    os.environ[server.THRESHOLD_VARIABLE] = str(THRESHOLD_BYTES)
    inputs = types.SimpleNamespace(from_dict=lambda raw: {"by": rank, "count": len(raw["input_ids"])})
    build = server._builder(types.SimpleNamespace(MultimodalInputs=inputs), "conditional")
    scheduler = types.SimpleNamespace(tp_cpu_group=dist.group.WORLD)
    return build(scheduler, {"input_ids": [1] * numbers})


def silence(rank, group):
    """Let rank 0 fail before it sends: what the others, who wait, are told."""
    collectives.limit_waits(group, LIMIT_S)
    try:
        collectives.broadcast_parted([lambda: "cannot be pickled"], rank, group, 0)
    except (RuntimeError, AttributeError, TypeError, pickle.PicklingError) as error:
        if rank == 0 and dist.get_world_size(group) > 1:
            time.sleep(2 * LIMIT_S)  # alive, so that it is the limit that ends the others' wait
        return type(error).__name__
    return "nothing"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
