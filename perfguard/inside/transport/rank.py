"""One tensor-parallel rank: the revision's own receiving functions on its own `Scheduler`, without a model.

Forked by `client.py`. Requests come to rank 0 over a socket, as from the tokenizer's process.
"""

import datetime
import os
import pickle
import resource
import sys
import time
import traceback
import types

import media_requests
import torch
import torch.distributed as dist
import zmq


def run(rank, specification):
    """Be a rank until this process is ended, and end it with what went wrong, if anything does."""
    try:
        serve(rank, specification)
    except Exception:
        # As one write, and not by torch's hook: it puts the rank before each line, and readers of logs miss the error.
        sys.stderr.write(traceback.format_exc())
        sys.exit(1)


def serve(rank, specification):
    os.sched_setaffinity(0, {specification["cores"][rank % len(specification["cores"])]})
    torch.set_num_threads(1)
    from sglang.srt.managers import scheduler as module

    dist.init_process_group(
        "gloo",
        init_method=f"file://{specification['directory']}/rendezvous",
        rank=rank,
        world_size=specification["ranks"],
    )
    rank_loop = RankLoop(module, rank, specification)
    rank_loop.report(ready=rank)
    while (order := rank_loop.next_order()) is not None:
        rank_loop.report(**rank_loop.run(order))


class RankLoop:
    def __init__(self, module, rank, specification):
        self.module = module
        self.rank = rank
        self.ranks = specification["ranks"]
        self.group = dist.group.WORLD
        context = zmq.Context()
        self.answers = context.socket(zmq.PUSH)
        self.answers.connect(f"ipc://{specification['directory']}/answers")
        self.orders = context.socket(zmq.PULL)
        self.orders.connect(f"ipc://{specification['directory']}/orders-{rank}")
        self.requests = None
        if rank == 0:
            self.requests = context.socket(zmq.PULL)
            self.requests.set_hwm(0)
            self.requests.connect(f"ipc://{specification['directory']}/requests")
        self.scheduler = self.make_scheduler(specification["limit_s"])

    def make_scheduler(self, limit_s):
        """Return the revision's `Scheduler` with nothing but what its receiving methods read."""
        scheduler = object.__new__(self.module.Scheduler)
        scheduler.tp_cpu_group = scheduler.cpu_group = self.group
        scheduler.is_entry_rank = self.rank == 0
        scheduler.server_args = types.SimpleNamespace(enable_broadcast_mm_inputs_process=False)
        strategies = sys.modules.get("perfguard_strategies.server")
        if strategies is not None:
            strategies.join_as_rank(scheduler, self.rank, limit_s)
        else:
            dist.distributed_c10d._set_pg_timeout(datetime.timedelta(seconds=limit_s), self.group)
        return scheduler

    def report(self, **fields):
        self.answers.send_json({"rank": self.rank, **fields})

    def next_order(self):
        """Wait for the next order; each rank has a socket of its own, since the group's waits have a limit."""
        return self.orders.recv_json()

    def receive(self, requests):
        if self.ranks > 1:
            requests = self.module.broadcast_pyobj(requests, self.rank, self.group, src=0)
        return requests

    def materialise(self, raw):
        if raw is None:
            return None
        for method in ("_get_multimodal_inputs", "_process_and_broadcast_mm_inputs"):
            if hasattr(self.scheduler, method):
                return getattr(self.scheduler, method)(raw)
        return self.module.MultimodalInputs.from_dict(raw)

    def run(self, order):
        return self.lockstep(order) if order["rate_rps"] is None else self.arrivals(order)

    def lockstep(self, order):
        """Take requests one by one, all ranks beginning together; times of each, in milliseconds."""
        columns = {"unpickle_ms": [], "recv_ms": [], "materialise_ms": [], "use_ms": [], "cpu_ms": []}
        fingerprints = []
        for _ in range(order["requests"]):
            requests = []
            if self.rank == 0:
                message = self.requests.recv()
                begin = time.perf_counter()
                requests = [pickle.loads(message)]
                columns["unpickle_ms"].append(1e3 * (time.perf_counter() - begin))
                del message
            dist.barrier()
            cpu = cpu_s()
            times = [time.perf_counter()]
            requests = self.receive(requests)
            times.append(time.perf_counter())
            inputs = self.materialise(requests[0].mm_inputs)
            times.append(time.perf_counter())
            columns["cpu_ms"].append(1e3 * (cpu_s() - cpu))
            times.append(time.perf_counter())
            self.use(inputs)
            times.append(time.perf_counter())
            for name, left, right in (("recv_ms", 0, 1), ("materialise_ms", 1, 2), ("use_ms", 3, 4)):
                columns[name].append(1e3 * (times[right] - times[left]))
            if order["check"]:
                fingerprints.append(media_requests.fingerprint(inputs))
            del requests, inputs
            # The sender's next work is not to run beside what a rank still does for this request.
            dist.barrier()
            if self.rank == 0:
                self.report(taken=1)
        return {"columns": columns, "fingerprints": fingerprints}

    def arrivals(self, order):
        """Take requests as a server does, as many as have come; when each was read on this rank, by the monotonic clock.

        One whose cancelling came with it is dropped as it is; one whose cancelling comes later was built in vain.
        """
        from sglang.srt.managers.io_struct import AbortReq

        done = {}
        fingerprints = {}
        arrived = 0
        cpu = cpu_s()
        while arrived < order["messages"]:
            requests = []
            if self.rank == 0:
                while True:
                    try:
                        requests.append(self.requests.recv_pyobj(zmq.NOBLOCK))
                    except zmq.ZMQError:
                        break
            requests = self.receive(requests)
            cancelled = {request.rid for request in requests if isinstance(request, AbortReq)}
            arrived += len(requests)
            for request in requests:
                if request.rid in cancelled:
                    continue
                inputs = self.materialise(request.mm_inputs)
                self.use(inputs)
                done[request.rid] = time.monotonic()
                if order["check"]:
                    fingerprints[request.rid] = media_requests.fingerprint(inputs)
                del inputs
        return {"done": done, "fingerprints": fingerprints, "cpu_s": cpu_s() - cpu}

    def use(self, inputs):
        """Read every feature once, as the model's first copy does."""
        for item in inputs.mm_items if inputs is not None else ():
            feature = item.feature if item.feature is not None else item.precomputed_embeddings
            torch.as_tensor(feature).clone()


def cpu_s():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
