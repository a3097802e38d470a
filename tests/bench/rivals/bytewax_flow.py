"""The sales' features in bytewax: ``python bytewax_flow.py JSON``, in an environment of its own; prints a line of JSON.

The fastest of the ways tried: state per key that keeps partials (bytewax' own sliding windows fold each event into 96 windows for 24 h).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import bytewax
import redis
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import cluster_main

sys.path.insert(0, str(Path(__file__).parent))
from entity_windows import EntityWindows

asked = json.loads(sys.argv[1])
first = last = 0.0
events = rows = 0


def parse(message: Any) -> tuple[str, tuple[int, float]]:
    global first, events
    if not events:
        first = time.perf_counter()
    events += 1
    event = json.loads(message.value)
    return event["seller"], (event["sold_at"], event["amount"])


def fold(state: EntityWindows | None, event: tuple[int, float]) -> tuple[EntityWindows, list[tuple[int, dict[str, float]]]]:
    state = state or EntityWindows()
    return state, state.add(*event)


class Write(StatelessSinkPartition[Any]):
    """One pipeline of commands per batch."""

    def __init__(self) -> None:
        self.client = redis.Redis(port=asked["redis_port"], db=asked["db"])

    def write_batch(self, items: list[Any]) -> None:
        global last, rows
        pipe = self.client.pipeline(transaction=False)
        for seller, (boundary, features) in items:
            pipe.hset(seller, mapping={"at": boundary, **{k: "" if v is None else v for k, v in features.items()}})
        pipe.execute()
        rows += len(items)
        last = time.perf_counter()


class Sink(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Write:
        return Write()


flow = Dataflow("sales")
messages = op.input("read", flow, KafkaSource([asked["bootstrap"]], [asked["topic"]], tail=False, batch_size=asked["batch"]))
keyed = op.map("parse", messages, parse)
op.output("write", op.stateful_flat_map("fold", keyed, fold), Sink())
start = time.perf_counter()
cluster_main(flow, [], 0, worker_count_per_proc=1)
print(
    json.dumps(
        {
            "seconds": last - first,
            "startup": first - start,
            "events": events,
            "rows": rows,
            "version": bytewax.__version__ if hasattr(bytewax, "__version__") else "",
        }
    )
)
