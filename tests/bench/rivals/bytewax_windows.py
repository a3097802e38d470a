"""The sales' features by bytewax' own sliding windows: ``python bytewax_windows.py JSON``; prints a line of JSON.

Each event is folded into the 112 windows that hold it. Ends after ``limit`` events or ``seconds``: the rate is steady.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.operators import windowing
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

asked = json.loads(sys.argv[1])
ALIGN = datetime(2020, 1, 1, tzinfo=UTC)
HOP = timedelta(minutes=15)
first = 0.0
events = 0
some: dict[str, list[Any]] = {f"{hours}h": [] for hours in (1, 3, 24)}


def report() -> None:
    """Say what was measured and end, whatever bytewax still has to do."""
    print(json.dumps({"seconds": time.perf_counter() - first, "events": events, "rows": some}), flush=True)
    os._exit(0)


def parse(message: Any) -> tuple[str, tuple[datetime, float]]:
    global first, events
    if not events:
        first = time.perf_counter()
    elif events >= asked["limit"] or time.perf_counter() - first > asked["seconds"]:
        report()
    events += 1
    event = json.loads(message.value)
    return event["seller"], (datetime.fromtimestamp(event["sold_at"] / 1e6, UTC), event["amount"])


def nothing() -> list[float]:
    return [0, 0.0, 0.0, math.inf, -math.inf]


def fold(a: list[float], event: tuple[datetime, float]) -> list[float]:
    x = event[1]
    return [a[0] + 1, a[1] + x, a[2] + x * x, min(a[3], x), max(a[4], x)]


def merge(a: list[float], b: list[float]) -> list[float]:
    return [a[0] + b[0], a[1] + b[1], a[2] + b[2], min(a[3], b[3]), max(a[4], b[4])]


class Write(StatelessSinkPartition[Any]):
    """One pipeline of commands per batch."""

    def __init__(self) -> None:
        self.client = redis.Redis(port=asked["redis_port"], db=asked["db"])

    def write_batch(self, items: list[Any]) -> None:
        pipe = self.client.pipeline(transaction=False)
        for over, seller, end, values in items:
            pipe.hset(f"{seller}/{over}", mapping={"at": end.timestamp(), **values})
            if seller in ("s0001", "s0002", "s0003"):
                some[over].append([seller, end.strftime("%Y-%m-%dT%H:%M:%S"), *values.values()])
        pipe.execute()


class Sink(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Write:
        return Write()


def finish(hours: int) -> Any:
    """What makes a row of a window's sums."""

    def row(item: Any) -> Any:
        seller, (number, (n, total, squares, low, high)) = item
        std = math.sqrt(max(n * squares - total * total, 0.0)) / n
        values = {"count": n, "mean": total / n, "std": std, "min": low, "max": high, "spread": (high - low) / (std + 1.0)}
        return f"{hours}h", seller, ALIGN + number * HOP + timedelta(hours=hours), values

    return row


flow = Dataflow("sales")
messages = op.input("read", flow, KafkaSource([asked["bootstrap"]], [asked["topic"]], tail=False, batch_size=1000))
keyed = op.map("parse", messages, parse)
clock = windowing.EventClock(lambda event: event[0], wait_for_system_duration=timedelta(seconds=60))
for hours in (1, 3, 24):
    windower = windowing.SlidingWindower(length=timedelta(hours=hours), offset=HOP, align_to=ALIGN)
    found = windowing.fold_window(f"over {hours}", keyed, clock, windower, nothing, fold, merge)
    op.output(f"write {hours}", op.map(f"finish {hours}", found.down, finish(hours)), Sink())
cluster_main(flow, [], 0, worker_count_per_proc=1)
report()
