"""From a produced record to a readable value: 2,000 events a second through embedded Flink into Redis, with the settings as shipped."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, KafkaProducer

from pipelines.lake.processes import start_child, stop_child
from pipelines.project.config import load_settings
from pipelines.project.repository import Repo
from tests.bench.report import Part
from tests.bench.sales import PARTITIONS, TOPIC, make_repo
from tests.integration.kafka_world import new_topic, options_of
from tests.integration.stream_world import ROOT, environment
from tests.kafka_server import kafka_server
from tests.redis_server import RedisServer, redis_server

RATE = 2_000
HOP_US = 1_000_000
SECONDS, WARM_UP = 90, 15
CASES: tuple[tuple[int, dict[str, Any]], ...] = ((20, {}), (2_000, {"tick_ms": 20}))
"""Sellers, so rows each second, and settings of the stream."""


class Producer(threading.Thread):
    """Sends events of now, 2,000 a second in steps of 5 ms; keeps when each hop boundary was first passed in every partition."""

    def __init__(self, bootstrap: str, sellers: int) -> None:
        super().__init__(daemon=True)
        self.bootstrap, self.sellers, self.over = bootstrap, sellers, threading.Event()
        self.closed: dict[int, float] = {}
        self.sent = 0

    def run(self) -> None:
        """Until told to end."""
        passed = [0] * PARTITIONS
        with KafkaProducer(**options_of(self.bootstrap)) as producer:
            start = time.time()
            while not self.over.wait(0.005):
                due = int((time.time() - start) * RATE)
                for n in range(self.sent, due):
                    now = time.time_ns() // 1000
                    event = {"sale_id": f"sale-{n:09d}", "seller": f"s{n % self.sellers:04d}", "amount": n % 100 + 0.5, "sold_at": now}
                    partition = n % self.sellers % PARTITIONS
                    passed[partition] = now - now % HOP_US
                    boundary = min(passed)
                    if boundary and boundary not in self.closed:
                        self.closed[boundary] = now / 1e6
                    producer.send(TOPIC, json.dumps(event).encode(), partition=partition)
                self.sent = due


class Plain(threading.Thread):
    """The least there can be: a consumer that sets a hash of Redis for each event; how long after it was made that was done."""

    def __init__(self, bootstrap: str, redis: RedisServer) -> None:
        super().__init__(daemon=True)
        import redis as redis_client

        self.client: Any = redis_client.Redis(port=redis.port, db=1)
        self.bootstrap, self.over = bootstrap, threading.Event()
        self.took: list[float] = []

    def run(self) -> None:
        """Until told to end."""
        options = options_of(self.bootstrap)
        with contextlib.closing(KafkaConsumer(TOPIC, auto_offset_reset="latest", enable_auto_commit=False, **options)) as consumer:
            while not self.over.is_set():
                records = [r for each in consumer.poll(timeout_ms=20).values() for r in each]
                pipe = self.client.pipeline(transaction=False)
                events = [json.loads(r.value) for r in records]
                for event in events:
                    pipe.hset(event["seller"], mapping=event)
                pipe.execute()
                now = time.time()
                self.took += [now - event["sold_at"] / 1e6 for event in events]


class Looker(threading.Thread):
    """Reads one seller's row of Redis all the time; keeps when each boundary's was first there."""

    def __init__(self, redis: RedisServer, key: bytes) -> None:
        super().__init__(daemon=True)
        import redis as redis_client

        self.client: Any = redis_client.Redis(port=redis.port)  # its types are of another mind in each version
        self.key, self.over = key, threading.Event()
        self.seen: dict[int, float] = {}

    def run(self) -> None:
        """Until told to end."""
        from google.protobuf.timestamp_pb2 import Timestamp

        while not self.over.wait(0.001):
            stamp: Any = self.client.hget(self.key, "_ts:sellers")
            if stamp:
                self.seen.setdefault(Timestamp.FromString(stamp).ToMicroseconds(), time.time())


@contextlib.contextmanager
def _stream(repo: Repo, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-W", "ignore", "-m", "pipelines.cli", "stream", "--repo", str(repo.path)]
    process = start_child(words, folder / "stream.out", environment(), ROOT)
    try:
        yield process
    finally:
        stop_child(process, 60)  # a second signal would end it in the middle of its end


def cpu_below(pid: int) -> float:
    """Seconds of CPU that a process and those that it started and that run now have taken."""
    found, parents = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            found[int(stat.parent.name)], parents[int(stat.parent.name)] = (int(fields[11]) + int(fields[12])), int(fields[1])

    def below(one: int) -> int:
        return found.get(one, 0) + sum(below(child) for child, parent in parents.items() if parent == one)

    return below(pid) / os.sysconf("SC_CLK_TCK")


def run(quick: bool = False) -> list[Part]:
    """p50 and p99 over the hops of 90 seconds, after a warm-up; each case."""
    return [measured(sellers, 20 if quick else SECONDS, settings) for sellers, settings in CASES]


def measured(sellers: int, seconds: int, settings: dict[str, Any]) -> Part:
    """One case."""
    from feast.infra.online_stores.helpers import _redis_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    key = _redis_key(
        "sales", EntityKey(join_keys=["seller"], entity_values=[Value(string_val="s0001")]), entity_key_serialization_version=3
    )
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp, kafka_server(Path(temp)) as broker, redis_server() as redis:
        folder = Path(temp)
        new_topic(options_of(broker.bootstrap), PARTITIONS, TOPIC)
        new_topic(options_of(broker.bootstrap), 1, "tandem.dead_letters")
        how: dict[str, Any] = {"slack": 0, "hop": "seconds(1)", "overs": ("1m", "5m"), "lateness": "seconds(10)"}
        repo = make_repo(folder / "fresh", broker.bootstrap, redis.connection_string, None, **how, **settings)
        stream = load_settings(repo.path).stream
        producer, looker = Producer(broker.bootstrap, sellers), Looker(redis, key)
        with _stream(repo, folder) as process:
            producer.start()
            looker.start()
            until = time.monotonic() + 300
            while len(looker.seen) < WARM_UP and process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            begun, count, load, cpu = time.time(), producer.sent, os.getloadavg()[0], cpu_below(process.pid)
            while time.time() < begun + seconds and process.poll() is None:
                time.sleep(0.1)
            took_s = time.time() - begun
            rate, cpu = (producer.sent - count) / took_s, (cpu_below(process.pid) - cpu) / took_s
            looked = time.time() - 10
            looker.over.set()
        plain = Plain(broker.bootstrap, redis)  # of the same events, when the stream has ended
        plain.start()
        time.sleep(min(seconds, 20))
        for thread in (producer, looker, plain):
            thread.over.set()
            thread.join()
        if process.returncode or len(looker.seen) < WARM_UP:
            raise ValueError(f"the stream ended with {process.returncode}: {(folder / 'stream.out').read_text()[-500:]}")
    # A boundary whose row was gone before anybody looked was readable no later than the next one's.
    times = np.array(sorted(looker.seen))
    took = []
    for boundary, at in producer.closed.items():
        if begun <= at < looked:
            later = times[np.searchsorted(times, boundary) :]
            if not len(later):
                raise ValueError(f"the row of {boundary} never came")
            took.append(looker.seen[int(later[0])] - at)
    part = Part(
        f"from produced to readable: {rate:,.0f} events/s of {sellers:,} sellers, JSON, embedded Flink, Redis, hop 1 s,"
        f" tick {stream.tick_ms} ms,"
        f" checkpoints every {stream.checkpoint_seconds:g} s",
        "rows",
        "warm; wall time, boundary by boundary after a warm-up of 15",
    )
    for name, q in (("p50", 50), ("p90", 90), ("p99", 99)):
        part.add(name, float(np.percentile(took, q)), 1, f"of {len(took)} boundaries; load {load:.0f}")
    settled = plain.took[len(plain.took) // 4 :]
    for name, q in (("p50", 50), ("p99", 99)):
        extra = f"of {len(settled):,} events; a plain consumer, no windows, no watermark to wait for"
        part.add(f"the limit: each event set in Redis, {name}", float(np.percentile(settled, q)), 1, extra)
    part.notes.append("from before the producer is given the event that closes a hop, to a reader that finds that hop's row in Redis")
    part.notes.append(f"{cpu:.2f} cores of CPU: the command, its worker and its engine")
    return part
