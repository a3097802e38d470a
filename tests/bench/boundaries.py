"""A stream that keeps up: the CPU between a boundary's last event and its rows in the store, boundary by boundary.

The stages of the stream run in this process over a broker in memory and a real Redis, as :mod:`tests.bench.worker` has them; time is what
the events say, so a machine that others use too gives the same rounds.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.one_step import OneStep
from tests.bench.report import Part
from tests.bench.sales import T0, TOPIC
from tests.bench.worker import Bag, Case, Cell, repository, spec_of
from tests.redis_server import redis_server

__all__ = ["run"]

KEYS, ROUNDS = 2_000, 20
"""Keys, each with an event a second; polls a second."""
WARM_UP, SECONDS = 330, 120


def run(quick: bool = False) -> list[Part]:
    """Percentiles over the boundaries of two minutes, once the longest window is full."""
    warm_up, seconds = (60, 20) if quick else (WARM_UP, SECONDS)
    case = Case("boundaries", keys=KEYS, hop="seconds(1)")
    with_rows, others, ahead = list[float](), list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp, redis_server() as redis:
        broker = MemoryBroker()
        broker.create_topic(TOPIC, case.partitions)
        online = f"type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: '{redis.connection_string}'"
        repo = repository(Path(temp), case, online, broker, ("minutes(1)", "minutes(5)"), 0)
        step = OneStep(spec_of(repo, broker, case))
        step.setup()
        state, at, waiting = (Cell(), Bag(), Bag()), dict[str, Any](), list[Any]()
        for number in range((warm_up + seconds) * ROUNDS):
            produce(broker, case.partitions, number)
            start = time.process_time()
            step._round(at, waiting, *state)
            if number % 2:  # the end of an engine's tick
                step._deliver(waiting, *state)
            step._settle()
            took, start = time.process_time() - start, time.process_time()
            step.fold.prepare(0)
            if number >= warm_up * ROUNDS:
                (others if number % ROUNDS else with_rows).append(took)
                ahead.append(time.process_time() - start)
        (counts,) = (shard.counts for shard in step.sink.sink._shards.values())
        if counts.rows["sellers0"] < (warm_up + seconds - 2) * KEYS:
            raise ValueError(f"{counts.rows} rows of {warm_up + seconds} boundaries and {KEYS} keys")
        step.teardown()
    title = f"a boundary with {KEYS:,} rows, CPU of its stages: hop 1 s, windows of 1 and 5 min, {ROUNDS} polls a second, Redis"
    part = Part(title, "boundaries", "warm; CPU of this process")
    for q in (50, 90, 99):
        part.add(f"the poll that brings its rows, p{q}", float(np.percentile(with_rows, q)), 1)
    part.add("a poll without rows, mean", float(np.mean(others)), 1)
    part.add("made ahead of a boundary's rows, mean", float(np.sum(ahead)) / seconds, 1, f"{max(ahead) * 1000:.0f} ms at most")
    part.notes.append(f"load {os.getloadavg()[0]:.0f}; {seconds} boundaries after {warm_up}; none is to cost more than others")
    return [part]


def produce(broker: MemoryBroker, partitions: int, number: int) -> None:
    """The events of one round."""
    time_us, keys = T0 + number * 1_000_000 // ROUNDS, range(number % ROUNDS, KEYS, ROUNDS)
    for p in range(partitions):
        events = [
            {"sale_id": f"{number}-{k}", "seller": f"s{k:05d}", "amount": k % 100 + 0.5, "sold_at": time_us} for k in keys[p::partitions]
        ]
        broker.append(TOPIC, p, [json.dumps(event).encode() for event in events])
