"""Kafka to Redis: Tandem's stream against the same features per event and entity in Beam, in PyFlink SQL, and in bytewax."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import redis as redis_client

from pipelines.project.repository import Repo, load_repo
from tests.bench.report import Part
from tests.bench.rivals import environments
from tests.bench.rivals.entity_windows import HOP, NAMES
from tests.bench.rivals.environments import NotAvailable
from tests.bench.sales import PARTITIONS, SELLERS, SLACK_US, TOPIC, Sales, check_rows, expected, make_repo
from tests.integration.kafka_world import options_of
from tests.kafka_server import kafka_server
from tests.redis_server import redis_server

WAYS = ("tandem", "direct", "beam", "pyflink", "bytewax", "bytewax-windows")
EVENTS, FEW = 400_000, 200_000
SECONDS, FEWER = 90.0, 40.0
"""How long a slow way is watched at most, whole and quick: its rate is steady."""
LEFT_OUT = {
    "tandem": "",
    "direct": "",
    "beam": "leaves out: events out of order or late, exact sums, rows of windows that only empty; ",
    "pyflink": "leaves out: the join to one row per seller, any store, corrections of late events, exact sums; ",
    "bytewax": "leaves out: events out of order or late, checkpoints, exact sums, the contract; ",
    "bytewax-windows": "leaves out: the join to one row per seller, corrections of late events, checkpoints, exact sums, the contract; ",
}
"""What a way does not do of what Tandem does, in its line."""
Rows = dict[tuple[str, int], dict[str, Any]]


def say(text: str) -> None:
    """Progress, beside what may be JSON on stdout."""
    print(f"  {text}", file=sys.stderr, flush=True)


@dataclass
class Stage:
    """The servers, the events in the topic, and what is right."""

    sales: Sales
    bootstrap: str
    redis_port: int
    repo: Repo
    want: Rows
    folder: Path
    seconds: float = SECONDS

    def redis(self, db: int = 0) -> Any:
        """A client."""
        return redis_client.Redis(port=self.redis_port, db=db)

    def keys(self) -> list[bytes]:
        """Every seller's key in Feast's layout."""
        from feast.infra.online_stores.helpers import _redis_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        keys = [EntityKey(join_keys=["seller"], entity_values=[Value(string_val=f"s{n:04d}")]) for n in range(SELLERS)]
        return [_redis_key("sales", key, entity_key_serialization_version=3) for key in keys]

    @property
    def last(self) -> int:
        """The last boundary that all reach."""
        return int((self.sales.times[-1] - SLACK_US) // HOP * HOP)


class Watch(threading.Thread):
    """Looks at Redis from outside, 50 times a second: when which boundary's rows were readable (the median of 20 sellers)."""

    def __init__(self, stage: Stage, db: int) -> None:
        super().__init__(daemon=True)
        self.stage, self.over = stage, threading.Event()
        self.seen: list[tuple[float, int]] = []
        self.client, self.some = stage.redis(db), stage.keys()[::25]
        self.start_time = time.perf_counter()

    def run(self) -> None:
        """Until :meth:`end`."""
        from google.protobuf.timestamp_pb2 import Timestamp

        while not self.over.wait(0.02):
            pipe = self.client.pipeline(transaction=False)
            for key in self.some:
                pipe.hget(key, "_ts:sellers")
            found = [Timestamp.FromString(v).ToMicroseconds() if v else 0 for v in pipe.execute()]
            boundary = int(np.median(found)) // HOP * HOP
            if boundary and (not self.seen or self.seen[-1][1] != boundary):
                self.seen.append((time.perf_counter(), boundary))

    def end(self) -> None:
        """Stop looking."""
        self.over.set()
        self.join()

    def steady(self) -> tuple[float, int, float]:
        """Seconds and events between the first rows that were seen and the last, and seconds to the first."""
        if len(self.seen) < 2:
            raise NotAvailable("too few rows were seen to tell a rate")
        (t0, b0), (t1, b1) = self.seen[0], self.seen[-1]
        return t1 - t0, self.stage.sales.before(b1) - self.stage.sales.before(b0), t0 - self.start_time


@contextlib.contextmanager
def watching(stage: Stage, db: int) -> Iterator[Watch]:
    """A watch that ends."""
    watch = Watch(stage, db)
    watch.start()
    try:
        yield watch
    finally:
        watch.end()


def online_rows(stage: Stage, store: Any, config: Any, view: Any, rename: Callable[[str], str], db: int) -> Rows:
    """What Feast's reader finds for every seller."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [EntityKey(join_keys=["seller"], entity_values=[Value(string_val=f"s{n:04d}")]) for n in range(SELLERS)]
    out: Rows = {}
    for n, (at, values) in enumerate(store.online_read(config, view, keys, [rename(name) for name in NAMES])):
        if at is not None:
            row = {name: values[rename(name)] for name in NAMES}
            plain = {k: None if v.WhichOneof("val") is None else getattr(v, v.WhichOneof("val")) for k, v in row.items()}
            moment = at if at.tzinfo else at.replace(tzinfo=datetime.now().astimezone().tzinfo)
            out[f"s{n:04d}", round(moment.timestamp() * 1e6) // HOP * HOP] = plain
    return out


def _ours(name: str) -> str:
    return name if name.startswith(("count", "spread")) else f"amount_{name}"


def tandem(stage: Stage, runner: str) -> tuple[float, int, str]:
    """``tandem stream --until latest``, from the beginning. Seconds, events, a remark."""
    from feast import FeatureStore

    from pipelines.streaming.driver import stream_folder
    from pipelines.streaming.state.job_state import JobState
    from pipelines.streaming.stream_job import run_stream
    from pipelines.streaming.stream_options import StreamOptions

    stage.redis().flushdb()
    store: Any = FeatureStore(repo_path=str(stage.repo.path))
    online, view = store._get_provider().online_store, store.get_feature_view("sellers")
    current = stage.repo.data / "graphs" / "sellers" / "CURRENT"
    online.apply_fingerprint(store.config, "sellers", current.read_text().strip())
    name = f"{runner}-{time.time_ns()}"
    with watching(stage, 0) as watch:
        code = run_stream(load_repo(stage.repo.path), StreamOptions(name=name, runner=runner, until="latest"), lambda line: None)["code"]
    if code:
        raise ValueError(f"the stream ended with {code}: {JobState(stream_folder(stage.repo.data, name)).said()[0][-3:]}")
    check_rows(online_rows(stage, online, store.config, view, _ours, 0), stage.want, "tandem")
    if watch.seen[-1][1] != stage.last:
        raise ValueError(f"the rows end at {watch.seen[-1][1]}, not at {stage.last}")
    lines = JobState(stream_folder(stage.repo.data, name)).said()[0]
    began = min(datetime.fromisoformat(line.split(" ", 1)[0]).timestamp() for line in lines if "reading from offset" in line)
    whole, events = watch.seen[-1][0] - time.perf_counter() + time.time() - began, len(stage.sales.times)
    if runner == "direct":
        # One tick reads everything before the first row is folded: from the first record to the last row.
        return whole, events, "first record to last row"
    if len(watch.seen) < 2:  # all rows came at once
        return whole, events, "first record to last row, which all came at once"
    seconds, steady, startup = watch.steady()
    # Records are read while the graph is still being loaded: the steady rate flatters, the whole's includes a second or more of start-up.
    return seconds, steady, f"first row after {startup:.0f} s; from the first record read to the last row {events / whole:,.0f}/s"


def beam(stage: Stage) -> tuple[float, int, str]:
    """Beam on the same embedded Flink, an event at a time."""
    from functools import partial

    from pipelines.streaming.engines.flink_job import FlinkJob, FlinkOptions
    from tests.bench.rivals import beam_per_event

    target = f"127.0.0.1:{stage.redis_port},db=1"
    stage.redis(1).flushdb()
    how = FlinkOptions(folder=stage.folder / "beam", name="per-event")
    how.folder.mkdir(exist_ok=True)
    build = partial(beam_per_event.build, client=options_of(stage.bootstrap), topic=TOPIC, partitions=PARTITIONS, redis=target)
    job = FlinkJob(how, build, say)
    with watching(stage, 1) as watch:
        job.start()
        try:
            until = time.monotonic() + 180
            while time.monotonic() < until and not (watch.seen and watch.seen[-1][1] >= stage.last):
                if job.poll() is not None:
                    raise NotAvailable(f"the job ended: {job.error()}")
                if len(watch.seen) == 1:
                    until = time.monotonic() + stage.seconds
                time.sleep(0.05)
        finally:
            job.stop()
    check_rows(online_rows(stage, *beam_per_event.stock(target), str, 1), stage.want, "beam")
    seconds, events, startup = watch.steady()
    return (
        seconds,
        events,
        f"first row after {startup:.0f} s; {'all' if watch.seen[-1][1] >= stage.last else f'the first {events:,}'} events",
    )


def bytewax(stage: Stage) -> tuple[float, int, str]:
    """bytewax, one worker."""
    python = environments.python_of("bytewax", say)
    stage.redis(2).flushdb()
    asked = {"bootstrap": stage.bootstrap, "topic": TOPIC, "redis_port": stage.redis_port, "db": 2, "batch": 1000}
    out = environments.run(python, "bytewax_flow.py", asked, 600)
    client, got = stage.redis(2), {}
    for key in client.scan_iter():
        fields = {k.decode(): v.decode() for k, v in client.hgetall(key).items()}
        got[key.decode(), int(fields.pop("at"))] = {k: float(v) if v else None for k, v in fields.items()}
    check_rows(got, stage.want, "bytewax")
    return out["seconds"], out["events"], f"{environments.PACKAGES['bytewax'][0]}, one worker; {out['rows']:,} rows"


def _check_windows(stage: Stage, found: dict[str, list[list[Any]]], n: int, what: str) -> None:
    """Rows of single windows ``[seller, end, count, mean, ...]`` are those over the first ``n`` events, wherever Tandem has a row."""
    (group,) = stage.repo.groups.values()
    want, compared = expected(stage.sales.rows(group, n)), 0
    for over, rows in found.items():
        names = [f"{m}_{over}" for m in ("count", "mean", "std", "min", "max", "spread")]
        for seller, end, *values in rows:
            right = want.get((seller, int(datetime.fromisoformat(f"{end}+00:00").timestamp()) * 1_000_000))
            if right is not None and right[f"count_{over}"]:
                check_rows({(seller, 0): dict(zip(names, values))}, {(seller, 0): {name: right[name] for name in names}}, what)
                compared += 1
    if compared < 10:
        raise ValueError(f"only {compared} of {what}'s rows could be compared")


def bytewax_windows(stage: Stage) -> tuple[float, int, str]:
    """bytewax' own sliding windows, one worker."""
    python = environments.python_of("bytewax", say)
    stage.redis(3).flushdb()
    asked = {
        "bootstrap": stage.bootstrap,
        "topic": TOPIC,
        "redis_port": stage.redis_port,
        "db": 3,
        "limit": 100_000,
        "seconds": SECONDS / 3,
    }
    out = environments.run(python, "bytewax_windows.py", asked, 600)
    # Rows of windows that ended before the events that were read are final; the events of both partitions were read about alike.
    whole = int(stage.sales.times[min(out["events"], len(stage.sales.times)) * 9 // 10])
    final = {o: [r for r in rows if datetime.fromisoformat(f"{r[1]}+00:00").timestamp() * 1e6 <= whole] for o, rows in out["rows"].items()}
    _check_windows(stage, final, len(stage.sales.times), "bytewax")
    return out["seconds"], out["events"], f"{environments.PACKAGES['bytewax'][0]}, one worker; the first {out['events']:,} events"


def pyflink(stage: Stage) -> tuple[float, int, str]:
    """PyFlink SQL: the time of all events less the time of a tenth of them, in one process."""
    python, jar = environments.python_of("pyflink", say), environments.connector(say)
    n = len(stage.sales.times)
    small = n // 10
    asked = {
        "bootstrap": stage.bootstrap, "topic": TOPIC, "jar": jar.as_uri(), "parallelism": 1, "check": True,
        "small": stage.sales.offsets(small), "large": stage.sales.offsets(n),
    }  # fmt: skip
    out = environments.run(python, "pyflink_sql.py", asked, 900)
    _check_windows(stage, out["rows"], small, "pyflink")
    seconds = out["large_seconds"] - out["small_seconds"]
    return seconds, n - small, f"apache-flink=={out['version']}; three rows, no join, into the blackhole; warm JVM"


def run(quick: bool = False, only: Collection[str] = ()) -> list[Part]:
    """Every way (or those of ``only``) over one topic."""
    if unknown := [w for w in only if w not in WAYS]:
        raise SystemExit(f"no way stream:{unknown[0]}; choose from {', '.join(WAYS)}")
    wanted = [w for w in WAYS if not only or w in only]
    sales = Sales.made(FEW if quick else EVENTS)
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp, kafka_server(Path(temp)) as broker, redis_server() as redis:
        folder = Path(temp)
        say(f"{len(sales.times):,} events into {PARTITIONS} partitions")
        sales.produce(broker.bootstrap)
        repo = make_repo(folder / "sales", broker.bootstrap, redis.connection_string, sales.rows)
        (group,) = repo.groups.values()
        stage = Stage(sales, broker.bootstrap, redis.port, repo, expected(sales.rows(group)), folder, FEWER if quick else SECONDS)
        part = Part(
            f"Kafka to Redis: count, mean, std, min, max over 1h, 3h, 24h and a transform for {SELLERS} sellers, hop 15 min, JSON,"
            f" {len(sales.times):,} events in {PARTITIONS} partitions, {sum(b <= stage.last for _, b in stage.want):,} rows",
            "events",
            "warm: steady rates, start-up left out; wall time, one round",
        )
        names = {
            "tandem": "tandem, embedded Flink",
            "direct": "tandem, direct runner",
            "beam": "beam per event and entity, same Flink",
            "pyflink": "pyflink SQL, HOP windows",
            "bytewax": "bytewax, hand-made state per key",
            "bytewax-windows": "bytewax, its sliding windows",
        }
        ways: dict[str, Callable[[], tuple[float, int, str]]] = {
            "tandem": lambda: tandem(stage, "flink"),
            "direct": lambda: tandem(stage, "direct"),
            "beam": lambda: beam(stage),
            "pyflink": lambda: pyflink(stage),
            "bytewax": lambda: bytewax(stage),
            "bytewax-windows": lambda: bytewax_windows(stage),
        }
        for way in wanted:
            say(f"{names[way]} ...")
            load = os.getloadavg()[0]
            try:
                seconds, events, extra = ways[way]()
            except NotAvailable as why:
                part.notes.append(f"{names[way]} was left out: {why}")
                say(part.notes[-1])
                continue
            except ValueError as why:
                part.notes.append(f"{names[way]} gave wrong rows, so its speed does not count: {why}")
                say(part.notes[-1])
                continue
            part.add(names[way], max(seconds, 1e-9), events, f"{LEFT_OUT[way]}{extra}; load {load:.0f}", WAYS.index(way))
            say(f"{events / seconds:,.0f} events/s; {extra}")
        part.notes.append("the values in Redis are checked (of PyFlink, which writes none: those of three sellers)")
        return [part]


__all__ = ["WAYS", "run"]
