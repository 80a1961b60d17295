"""What it costs to hand a tensor to another rank: the strategies' ways over gloo and NCCL, beside the bare collective.

Needs torch alone, two cards for the arms that use cards, and no perfguard: the strategies' modules are loaded by path.
Every arm of a size runs in each block, in random order; a value's time is the slowest rank's, from a barrier until the
tensor can be used there (cards synchronised).

    python benchmarks/transport/gpu.py --out FILE.csv [--blocks 4] [--repeats 7] [--no-cards]
    python benchmarks/transport/gpu.py --table FILE.csv
"""

from __future__ import annotations

import argparse
import collections
import csv
import importlib.util
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANKS = 2
SIZES_MB = (0.3, 2.7, 18.8, 50.0)
STRATEGIES = Path(__file__).resolve().parents[2] / "perfguard" / "inside" / "strategies"
COLUMNS = ("megabytes", "arm", "block", "repeat", "ms")
WARM_UP = 3


def main() -> None:
    """Start the ranks, be one, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-cards", action="store_true")
    parser.add_argument("--arms", default="", help="only the arms whose names have one of these in them: a,b")
    parser.add_argument("--strategies", type=Path, default=STRATEGIES)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rendezvous", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.table is not None:
        table(arguments.table)
    elif arguments.rank is not None:
        run_rank(arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            begin = [sys.executable, __file__, *sys.argv[1:], "--rendezvous", f"file://{folder}/store"]
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            ranks = [subprocess.Popen([*begin, "--rank", str(rank)], env=environment) for rank in range(RANKS)]
            sys.exit(max(abs(rank.wait()) for rank in ranks))


def run_rank(arguments: argparse.Namespace) -> None:
    """Take part in every arm as one rank; the first writes the rows."""
    import torch  # noqa: PLC0415 - the table needs none
    import torch.distributed as dist  # noqa: PLC0415

    rank = arguments.rank
    cards = not arguments.no_cards
    if cards:
        torch.cuda.set_device(rank)
    dist.init_process_group("gloo", init_method=arguments.rendezvous, rank=rank, world_size=RANKS)
    link = Link(rank, dist.new_group(backend="nccl") if cards else None, arguments.strategies)
    wanted = arguments.arms.split(",") if arguments.arms else [""]
    order = random.Random(1)  # the same on every rank
    rows = []
    for megabytes in SIZES_MB:
        tensor = torch.rand(int(megabytes * 1e6 / 4), generator=torch.Generator().manual_seed(7))
        arms = {name: arm for name, arm in link.arms(tensor).items() if any(part in name for part in wanted)}
        for arm in arms.values():
            for _ in range(WARM_UP):
                received = arm()
            if not torch.equal(received.cpu(), tensor):
                raise AssertionError("what arrived is not what was sent")
        for block in range(arguments.blocks):
            for name in order.sample(sorted(arms), len(arms)):
                times_ms = [link.timed(arms[name]) for _ in range(arguments.repeats)]
                rows += [(megabytes, name, block, place, f"{ms:.4f}") for place, ms in enumerate(times_ms)]
    dist.barrier()
    if rank == 0:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        with arguments.out.open("w", newline="") as stream:
            csv.writer(stream).writerows([COLUMNS, *rows])
    dist.destroy_process_group()


class Link:
    """One rank's end of the two groups, and the arms over them."""

    def __init__(self, rank, card_group, strategies) -> None:  # noqa: ANN001 - torch's types are not known here
        self.rank = rank
        self.card_group = card_group
        package = _load(strategies)
        self.collectives, self.shared = package.collectives, package.shared
        self.cards = None
        self.waiting: list[object] = []  # arms that return when the tensor can be used
        if card_group is not None:
            import torch  # noqa: PLC0415
            import torch.distributed as dist  # noqa: PLC0415

            self.cards = package.cards.CardLink(dist.group.WORLD, 60.0, torch.device("cuda", rank))
        self.shared.here.rank = rank
        self.producer = self.shared.Producer(RANKS, lambda **_: None) if rank == 0 else None

    def arms(self, host):  # noqa: ANN001, ANN201
        """Return every arm for the tensor `host`, by name; each gives the tensor as this rank has it afterwards."""
        import torch  # noqa: PLC0415
        import torch.distributed as dist  # noqa: PLC0415

        mine = self.rank == 0
        group = dist.group.WORLD

        def objects(value, where):  # noqa: ANN001, ANN202
            message = [value if mine else None]
            dist.broadcast_object_list(message, src=0, group=where)
            return message[0]

        def bare(like, where):  # noqa: ANN001, ANN202
            received = like if mine else torch.empty_like(like)
            dist.broadcast(received, src=0, group=where)
            return received

        def parted(value):  # noqa: ANN001, ANN202
            return self.collectives.broadcast_parted([value] if mine else None, self.rank, group, 0)[0]

        def over_link(value, feature):  # noqa: ANN001, ANN202
            return self.cards.send([value], early=[feature])[0] if mine else self.cards.receive()[0]

        def shared_memory():  # noqa: ANN202
            descriptor = objects(self.producer.publish({"feature": host}) if mine else None, group)
            return descriptor.attach(self.rank)["feature"]

        arms = {
            "host: broadcast_object_list, gloo (broadcast)": lambda: objects(host, group),
            "host: dist.broadcast, gloo (bare)": lambda: bare(host, group),
            "host: tensor-broadcast, gloo": lambda: parted(host),
            "host: shared-memory": shared_memory,
        }
        if self.card_group is None:
            return arms
        card = host.cuda()
        request = {
            "rid": "0" * 32,
            "input_ids": [7] * 100,
            "positions": torch.arange(300).view(3, 100),
            "feature": card,
        }

        def by_handle():  # noqa: ANN202
            from torch.multiprocessing.reductions import reduce_tensor  # noqa: PLC0415

            message = objects(reduce_tensor(card) if mine else None, group)
            if mine:
                return card
            build, parts = message
            return build(*parts).to("cuda")  # a copy between cards; the opened tensor lies on the sender's

        linked = {
            "host: tensor-broadcast, pinned memory and NCCL": lambda: over_link(host, host),
            "card: tensor-broadcast, NCCL": lambda: over_link(card, card),
            "card: tensor-broadcast of a request, NCCL": lambda: over_link(request, card)["feature"],
        }
        self.waiting += linked.values()
        return (
            arms
            | linked
            | {
                "card: broadcast_object_list, NCCL": lambda: objects(card, self.card_group),
                "card: dist.broadcast, NCCL (bare)": lambda: bare(card, self.card_group),
                "card: CUDA IPC handle and a copy": by_handle,
            }
        )

    def timed(self, arm) -> float:  # noqa: ANN001
        """Run an arm from a barrier on; the slowest rank's milliseconds."""
        import torch  # noqa: PLC0415
        import torch.distributed as dist  # noqa: PLC0415

        self._synchronise()
        dist.barrier()
        begin = time.perf_counter()
        received = arm()
        if arm not in self.waiting:
            self._synchronise()
        slowest = torch.tensor([time.perf_counter() - begin], dtype=torch.float64)
        del received
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        return 1000.0 * float(slowest)

    def _synchronise(self) -> None:
        if self.card_group is not None:
            import torch  # noqa: PLC0415

            torch.cuda.synchronize()


def _load(directory: Path):  # noqa: ANN202
    """Load the strategies' package by its path: its parent needs perfguard's own packages."""
    spec = importlib.util.spec_from_file_location(
        "perfguard_strategies", directory / "__init__.py", submodule_search_locations=[str(directory)]
    )
    package = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    for name in ("cards", "collectives", "shared"):
        importlib.import_module(f"{spec.name}.{name}")
    return package


def table(file: Path) -> None:
    """Print the medians, with the least and the largest median of a block."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            found[row["arm"], float(row["megabytes"])][row["block"]].append(float(row["ms"]))
    sizes = sorted({megabytes for _, megabytes in found})
    print("| way |", " | ".join(f"{megabytes:g} MB" for megabytes in sizes), "|")
    print("|---|" + "---|" * len(sizes))
    for arm in sorted({arm for arm, _ in found}):
        cells = []
        for megabytes in sizes:
            blocks = found[arm, megabytes].values()
            medians = [statistics.median(block) for block in blocks]
            middle = statistics.median(itertools.chain(*blocks))
            cells.append(f"{middle:.3f} ({min(medians):.3f} - {max(medians):.3f})")
        print(f"| {arm} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
