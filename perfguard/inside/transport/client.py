"""The process that makes and sends requests, in the place of the server's tokenizer; starts the ranks, and answers orders.

Run with the managed environment's Python as `client.py SPECIFICATION` (JSON: `directory`, `ranks`, `cores`, `limit_s`,
`control`, the path of a listening UNIX socket). Orders and answers are JSON lines over it:

    {"case": {"kind": "image", ...}, "requests": 9, "rate_rps": null, "check": false, "seed": 1}
    {"ranks": [...], "send_ms": [...], "payload_bytes": 1, "memcpy_ms": 1.0, "sha256_ms": 1.0}   or   {"error": "..."}

`rate_rps` null sends in lockstep; with `bursts` in its place, that many times `requests` requests are sent at once.
"""

import hashlib
import json
import os
import pickle
import random
import socket
import subprocess
import sys
import time

import media_requests
import torch
import zmq

HERE = os.path.dirname(os.path.abspath(__file__))
DISTINCT_INPUTS = 4
LIMIT_REPEATS = 5
POLL_MS = 200
LAST_WORDS_S = 2.0


def main(specification):
    os.sched_setaffinity(0, {specification["cores"][0]})
    torch.set_num_threads(1)
    control = socket.socket(socket.AF_UNIX)
    control.connect(specification["control"])
    orders = control.makefile("rb")
    client = Client(specification)
    try:
        client.wait_until_ready()
        answer = {"ready": True}
        while True:
            control.sendall(json.dumps(answer).encode() + b"\n")
            line = orders.readline()
            if not line:
                return
            answer = client.run(json.loads(line))
    except RankEndedError as error:
        control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
    finally:
        client.end()


class RankEndedError(RuntimeError):
    """A rank process ended, or did not answer in time."""


class Client:
    def __init__(self, specification):
        self.specification = specification
        self.ranks = specification["ranks"]
        directory = specification["directory"]
        context = zmq.Context()
        self.answers = context.socket(zmq.PULL)
        self.answers.bind(f"ipc://{directory}/answers")
        self.requests = context.socket(zmq.PUSH)
        self.requests.set_hwm(0)
        self.requests.bind(f"ipc://{directory}/requests")
        self.early = []
        self.orders = []
        for rank in range(self.ranks):
            orders = context.socket(zmq.PUSH)
            orders.bind(f"ipc://{directory}/orders-{rank}")
            self.orders.append(orders)
        argument = json.dumps(specification)
        self.processes = [
            subprocess.Popen([sys.executable, os.path.join(HERE, "rank.py"), str(rank), argument])
            for rank in range(self.ranks)
        ]
        from sglang.srt.managers import scheduler

        self.module = scheduler
        strategies = sys.modules.get("perfguard_strategies.server")
        if strategies is not None and os.environ["PERFGUARD_STRATEGY"] == "shared-memory":
            strategies.become_producer(self.ranks)

    def wait_until_ready(self):
        for _ in range(self.ranks):
            self.answer(self.specification["start_limit_s"])

    def run(self, order):
        begin = order["seed"]
        inputs = [media_requests.make_inputs(order["case"], begin + n) for n in range(DISTINCT_INPUTS)]
        if order.get("bursts"):
            return {**self.send_bursts(order, inputs), **limits(inputs[0])}
        self.tell_ranks(order)
        send = self.send_in_lockstep if order["rate_rps"] is None else self.send_at_rate
        result = send(order, inputs)
        answers = sorted((self.answer() for _ in range(self.ranks)), key=lambda answer: answer["rank"])
        return {**result, "ranks": answers, **limits(inputs[0])}

    def tell_ranks(self, order):
        for orders in self.orders:
            orders.send_json({name: order[name] for name in ("requests", "rate_rps", "check")})

    def send_bursts(self, order, inputs):
        """Send all requests of a burst at once; when each was ready on its last rank, in milliseconds since then."""
        ready_ms = []
        for _ in range(order["bursts"]):
            requests = [self.request(inputs, number) for number in reversed(range(order["requests"]))]
            self.tell_ranks(order)
            begin = time.monotonic()
            while requests:
                self.requests.send(pickle.dumps(requests.pop(), 5), copy=False)
            done = [self.answer()["done"] for _ in range(self.ranks)]
            ready_ms.append([1e3 * (max(rank[request] for rank in done) - begin) for request in done[0]])
        return {"ready_ms": ready_ms}

    def send_in_lockstep(self, order, inputs):
        """Send the next request when rank 0 is done with the last; the milliseconds that each sending took."""
        send_ms = []
        for number in range(order["requests"]):
            request = self.request(inputs, number)
            begin = time.perf_counter()
            self.requests.send(pickle.dumps(request, 5), copy=False)
            send_ms.append(1e3 * (time.perf_counter() - begin))
            del request
            while "taken" not in (answer := self.receive()):
                self.early.append(answer)  # a rank that is done with its last request before rank 0 tells so
        return {"send_ms": send_ms}

    def send_at_rate(self, order, inputs):
        """Send at Poisson arrivals; the intended times by the monotonic clock, from which latencies count."""
        draw = random.Random(order["seed"])
        intended = {}
        due = time.monotonic() + 0.1
        late_s = 0.0
        for number in range(order["requests"]):
            due += draw.expovariate(order["rate_rps"])
            request = self.request(inputs, number)
            time.sleep(max(0.0, due - time.monotonic()))
            late_s = max(late_s, time.monotonic() - due)
            intended[request.rid] = due
            self.requests.send(pickle.dumps(request, 5), copy=False)
        return {"intended": intended, "worst_send_lag_ms": 1e3 * late_s}

    def request(self, inputs, number):
        raw = media_requests.fresh(inputs[number % len(inputs)])
        return media_requests.make_request(self.module, raw, number)

    def answer(self, limit_s=None):
        """Return the next answer of any rank, as `receive`."""
        return self.early.pop() if self.early else self.receive(limit_s)

    def receive(self, limit_s=None):
        """Return the next message of any rank.

        Raises:
            RankEndedError: a rank ended, or no answer came in time.
        """
        deadline = time.monotonic() + (limit_s or 3 * self.specification["limit_s"])
        while not self.answers.poll(POLL_MS):
            if any(process.poll() is not None for process in self.processes):
                self.wait_for_last_words()
                ends = [f"rank {rank} {state(process)}" for rank, process in enumerate(self.processes)]
                raise RankEndedError(", ".join(ends))
            if time.monotonic() > deadline:
                raise RankEndedError("no rank answered in time")
        return self.answers.recv_json()

    def wait_for_last_words(self):
        """Let the other ranks end by themselves: they are to notice that one is gone."""
        deadline = time.monotonic() + self.specification["limit_s"] + LAST_WORDS_S
        while time.monotonic() < deadline and any(process.poll() is None for process in self.processes):
            time.sleep(0.05)

    def end(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()


def state(process):
    return "runs" if process.returncode is None else f"ended with {process.returncode}"


def limits(raw):
    """Measure one copy and one sha256 of the payload: the least milliseconds that any way of sharing could take."""
    parts = media_requests.payload(raw)
    copies = [torch.empty_like(part) for part in parts]
    copy_ms, hash_ms = [], []
    for _ in range(LIMIT_REPEATS):
        begin = time.perf_counter()
        for part, copy in zip(parts, copies):
            copy.copy_(part)
        middle = time.perf_counter()
        for part in parts:
            hashlib.sha256(part.numpy()).digest()
        copy_ms.append(1e3 * (middle - begin))
        hash_ms.append(1e3 * (time.perf_counter() - middle))
    return {
        "payload_bytes": sum(part.numel() for part in parts),
        "memcpy_ms": sorted(copy_ms)[LIMIT_REPEATS // 2],
        "sha256_ms": sorted(hash_ms)[LIMIT_REPEATS // 2],
    }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
