"""The process that makes and sends requests, in the place of the server's tokenizer; starts the ranks, and answers orders.

Run with the managed environment's Python as `client.py SPECIFICATION` (JSON: `directory`, `ranks`, `cores`, `limit_s`,
`control`, the path of a listening UNIX socket). Orders and answers are JSON lines over it:

    {"case": {"kind": "image", ...}, "requests": 9, "rate_rps": null, "check": false, "seed": 1, "cancel_frac": 0.0}
    {"ranks": [...], "send_ms": [...], "payload_bytes": 1, "memcpy_ms": 1.0, "sha256_ms": 1.0}   or   {"error": "..."}

`rate_rps` null sends in lockstep; with `bursts` in its place, that many times `requests` requests are sent at once. The
first answer, without an order, tells the ranks' processes: {"ranks": [2, 3]}.

The revision is imported once, and the ranks are forked from this process: importing it takes seconds of processor time.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import socket
import sys
import time

import media_requests
import rank
import torch
import zmq

DISTINCT_INPUTS = 4
LIMIT_REPEATS = 5
POLL_MS = 200
LAST_WORDS_S = 2.0
SENT, UNSENT, ABORTED = "sent", "unsent", "aborted"


def main(specification):
    torch.set_num_threads(1)
    from sglang.srt.managers import scheduler

    # Before anything is opened that a rank should not hold, too.
    processes = start_ranks(specification)
    os.sched_setaffinity(0, {specification["cores"][0]})
    control = socket.socket(socket.AF_UNIX)
    control.connect(specification["control"])
    orders = control.makefile("rb")
    client = Client(specification, scheduler, processes)
    try:
        client.wait_until_ready()
        answer = {"ranks": [process.pid for process in processes]}
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


def start_ranks(specification):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=rank.run, args=(number, specification), daemon=True)
        for number in range(specification["ranks"])
    ]
    for process in processes:
        process.start()
    return processes


class RankEndedError(RuntimeError):
    """A rank process ended, or did not answer in time."""


class Client:
    def __init__(self, specification, module, processes):
        self.specification = specification
        self.module = module
        self.processes = processes
        self.ranks = specification["ranks"]
        directory = specification["directory"]
        context = zmq.Context()
        self.answers = context.socket(zmq.PULL)
        self.answers.bind(f"ipc://{directory}/answers")
        self.requests = context.socket(zmq.PUSH)
        self.requests.set_hwm(0)
        self.requests.setsockopt(zmq.SNDTIMEO, POLL_MS)
        self.requests.bind(f"ipc://{directory}/requests")
        self.early = []
        self.orders = []
        for number in range(self.ranks):
            orders = context.socket(zmq.PUSH)
            orders.setsockopt(zmq.SNDTIMEO, POLL_MS)
            orders.bind(f"ipc://{directory}/orders-{number}")
            self.orders.append(orders)
        strategies = sys.modules.get("perfguard_strategies.server")
        if strategies is not None and os.environ["PERFGUARD_STRATEGY"] == "shared-memory":
            strategies.become_producer(self.ranks)

    def wait_until_ready(self):
        for _ in range(self.ranks):
            self.answer(self.specification["start_limit_s"])

    def run(self, order):
        begin = order["seed"]
        distinct = min(DISTINCT_INPUTS, order["requests"])
        inputs = [media_requests.make_inputs(order["case"], begin + n) for n in range(distinct)]
        if order.get("bursts"):
            return {**self.send_bursts(order, inputs), **limits(inputs[0])}
        fates = draw_fates(order)
        self.tell_ranks(order, messages=fates.count(SENT) + 2 * fates.count(ABORTED))
        if order["rate_rps"] is None:
            result = self.send_in_lockstep(order, inputs)
        else:
            result = self.send_at_rate(order, inputs, fates)
        answers = sorted((self.answer() for _ in range(self.ranks)), key=lambda answer: answer["rank"])
        if order["check"] and order["rate_rps"] is not None:
            expected = [media_requests.fingerprint(built(raw)) for raw in inputs]
            result["mismatched"] = sorted(
                {
                    request
                    for answer in answers
                    for request, got in answer.pop("fingerprints").items()
                    if got != expected[media_requests.number_of(request) % len(inputs)]
                }
            )
        return {**result, "ranks": answers, **limits(inputs[0])}

    def tell_ranks(self, order, *, messages):
        told = {name: order[name] for name in ("requests", "rate_rps", "check")} | {"messages": messages}
        for orders in self.orders:
            self.send(orders, json.dumps(told).encode())

    def send_bursts(self, order, inputs):
        """Send all requests of a burst at once; when each was ready on its last rank, in milliseconds since then."""
        ready_ms = []
        for _ in range(order["bursts"]):
            requests = [self.request(inputs, number) for number in reversed(range(order["requests"]))]
            self.tell_ranks(order, messages=order["requests"])
            begin = time.monotonic()
            while requests:
                self.send(self.requests, pickle.dumps(requests.pop(), 5))
            done = [self.answer()["done"] for _ in range(self.ranks)]
            ready_ms.append([1e3 * (max(times[request] for times in done) - begin) for request in done[0]])
        return {"ready_ms": ready_ms}

    def send_in_lockstep(self, order, inputs):
        """Send the next request when all ranks are done with the last; the milliseconds that each sending took."""
        send_ms = []
        for number in range(order["requests"]):
            request = self.request(inputs, number)
            begin = time.perf_counter()
            self.send(self.requests, pickle.dumps(request, 5))
            send_ms.append(1e3 * (time.perf_counter() - begin))
            del request
            while "taken" not in (answer := self.receive()):
                self.early.append(answer)  # a rank that is done with its last request before rank 0 tells so
        return {"send_ms": send_ms}

    def send_at_rate(self, order, inputs, fates):
        """Send at Poisson arrivals; the intended times by the monotonic clock, from which latencies count.

        An unsent request ends before it is pickled, an aborted one right after it went out, as the server's own do.
        """
        from sglang.srt.managers.io_struct import AbortReq

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
            if fates[number] != UNSENT:
                self.send(self.requests, pickle.dumps(request, 5))
            if fates[number] == ABORTED:
                self.send(self.requests, pickle.dumps(AbortReq(rid=request.rid), 5))
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
            self.check_ranks()
            if time.monotonic() > deadline:
                raise RankEndedError("no rank answered in time")
        return self.answers.recv_json()

    def send(self, socket_, message):
        """Send to a rank.

        Raises:
            RankEndedError: a rank ended: without a receiver sending would wait for ever.
        """
        while True:
            try:
                socket_.send(message, copy=False)
            except zmq.Again:
                self.check_ranks()
            else:
                return

    def check_ranks(self):
        """See to it that all ranks live.

        Raises:
            RankEndedError: one does not.
        """
        if any(process.exitcode is not None for process in self.processes):
            self.wait_for_last_words()
            ends = [f"rank {number} {state(process)}" for number, process in enumerate(self.processes)]
            raise RankEndedError(", ".join(ends))

    def wait_for_last_words(self):
        """Let the other ranks end by themselves: they are to notice that one is gone."""
        deadline = time.monotonic() + self.specification["limit_s"] + LAST_WORDS_S
        while time.monotonic() < deadline and any(process.is_alive() for process in self.processes):
            time.sleep(0.05)

    def end(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def draw_fates(order):
    """Draw what becomes of each request: sent and left alone, or by `cancel_frac` one of the two ways of cancelling."""
    draw = random.Random(f"fates {order['seed']}")
    cancel_frac = order.get("cancel_frac", 0.0)
    return [draw.choice((UNSENT, ABORTED)) if draw.random() < cancel_frac else SENT for _ in range(order["requests"])]


def built(raw):
    """Return what the revision itself makes of raw inputs, in this process."""
    from sglang.srt.managers.schedule_batch import MultimodalInputs

    return None if raw is None else MultimodalInputs.from_dict(media_requests.fresh(raw))


def state(process):
    return "runs" if process.exitcode is None else f"ended with {process.exitcode}"


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
