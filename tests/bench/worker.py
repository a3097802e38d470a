"""The stream's worker, stage by stage: what an event costs with many keys, groups, shards and partitions, beside the base case.

The stages of the stream (poll, fold, sink) run in this process, one after the other as in one bundle of the engine, over a broker in memory
and a real Redis: no engine, so what is measured is the worker's own CPU, and Redis' beside it. The values in Redis are checked.

A case with more rows than the base has a limit of its own beside it: the base, its further rows in the log's format, and its further hashes
sent to Redis as bytes that were made before. What makes rows is not in it: no worker can be below.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.analysis import analyze_groups
from pipelines.feature_store.store import apply, open_store
from pipelines.project.repository import Repo, load_repo
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.one_step import OneStep
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.stages.sink import SinkRows
from pipelines.streaming.stages.ticks import TickGate, now_ms
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.row_log import read_rows
from tests.bench.report import Part, Took
from tests.bench.sales import FAR, FEATURES, STEP, T0, TOPIC
from tests.redis_server import RedisServer, redis_server
from transforms.aggregates import rows_between, tile
from transforms.contract import check_json

EVENTS, FEW = 200_000, 40_000
POLL_RECORDS = 20_000
OVER = ("1h", "3h", "24h")
WINDOWS = ("hours(1)", "hours(3)", "hours(24)")


@dataclass(frozen=True)
class Case:
    """One measured case: ``keys`` sellers, ``groups`` of the same aggregates, ``shards``, ``partitions`` of the topic, ``hop`` of rows."""

    name: str
    keys: int = 500
    groups: int = 1
    shards: int = 1
    partitions: int = 2
    hop: str = "minutes(15)"


MANY = Case("keys x100: 50,000", keys=50_000)
CASES = (
    Case("base: 500 keys, 1 group, 2 partitions"),
    MANY,
    Case("500 keys at a hop of 20 s: rows as of many keys", hop="seconds(20)"),
    Case("5 groups on the topic", groups=5),
    Case("16 partitions", partitions=16),
    Case("two tasks: 2 shards", shards=2),
    Case("eight tasks: 8 shards", shards=8),
)


class Cell:
    """A value of state, as Beam gives it to a DoFn."""

    value: Any = None

    def read(self) -> Any:
        """The value."""
        return self.value

    def write(self, value: Any) -> None:
        """Another one."""
        self.value = value


class Bag:
    """A bag of state, as Beam gives it to a DoFn."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def read(self) -> list[bytes]:
        """All of them."""
        return list(self.values)

    def add(self, value: bytes) -> None:
        """One more."""
        self.values.append(value)

    def clear(self) -> None:
        """None."""
        self.values = []


def events(case: Case, n: int) -> list[list[bytes]]:
    """``n`` sales as JSON, in order of time, by partition."""
    r = np.random.default_rng(7)
    times, sellers, amounts = T0 + np.sort(r.integers(0, n * STEP, n)), r.integers(0, case.keys, n), r.integers(4, 4000, n) / 4
    out: list[list[bytes]] = [[] for _ in range(case.partitions)]
    for i, (at, s, x) in enumerate(zip(times.tolist(), sellers.tolist(), amounts.tolist())):
        event = {"sale_id": f"sale-{i:09d}", "seller": f"s{s:05d}", "amount": x, "sold_at": at}
        out[s % case.partitions].append(json.dumps(event).encode())
    return out


def repository(
    folder: Path,
    case: Case,
    online: str,
    broker: MemoryBroker,
    overs: Sequence[str] = WINDOWS,
    slack: int = 60,
) -> Repo:
    """An applied repository of the case, without preprocessing."""
    path, data = folder / "repo", folder / "data"
    path.mkdir(parents=True)
    data.mkdir()
    text = (
        FEATURES.replace("{over}", ", ".join(overs))
        .replace("{slack}", str(slack))
        .replace("{hop}", case.hop)
        .replace("{lateness}", "hours(1)")
    )
    text = text.replace('    preprocessing_fn="preprocessing:sellers",\n', "")
    head, _, tail = text.partition("sellers = FeatureGroup(")
    body, _, tail = tail.partition("feast_views(")
    groups = "".join(f"sellers{n} = FeatureGroup({body}".replace('name="sellers"', f'name="sellers{n}"') for n in range(case.groups))
    (path / "features.py").write_text(f"{head}{groups}feast_views({tail}")
    (path / "feature_store.yaml").write_text(
        "project: sales\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        "offline_store: {type: serving.offline_store.AsofOfflineStore}\n"
        f"online_store: {{{online}}}\n"
    )
    stream = {"clock": "replay", "shards": case.shards, "poll_records": POLL_RECORDS}
    settings = {"data": "../data", "definitions": "features", "kafka": {"bootstrap_servers": broker.address}, "stream": stream}
    (path / "tandem.yaml").write_text(json.dumps(settings))
    sys.modules.pop("features", None)
    repo = load_repo(path)
    prints = analyze_groups({n: (g, None, []) for n, g in repo.groups.items()}, data / "graphs")
    for name, made in prints.items():
        (data / "graphs" / name / "CURRENT").write_text(made + "\n")
    apply(repo, prints)
    return repo


@dataclass
class Stages:
    """The DoFns of a stream and their state; :meth:`run` is the worker's loop. ``cpu``: stage -> seconds of this process."""

    spec: JobSpec
    repo: Repo
    cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what is done within."""
        start = time.process_time()
        yield
        self.cpu[stage] += time.process_time() - start

    def run(self) -> None:
        """All there is: in one step where the job has one part, else with a shuffle between polls and folds."""
        spec = self.spec
        partitions, poll, fold, sink = Partitions(spec), Poll(spec), FoldShard(spec), SinkRows(spec)
        with self.timed("setup"):
            for each in (partitions, poll, fold, sink):
                each.setup()
        if spec.stream.shards == 1:
            self._one_step(OneStep(spec), partitions, poll, fold, sink)
        else:
            self._shuffled(partitions, poll, fold, sink)
        with self.timed("sink"):
            sink.teardown()
        sink_counts = [shard.counts for shard in sink.sink._shards.values()]
        self.rows = sum(sum(c.rows.values()) for c in sink_counts)
        self.written = sum(c.written for c in sink_counts)
        self.parts = {n: sum(getattr(c, f"seconds_{n}") for c in sink_counts) for n in ("graph", "store", "log")}
        poll.teardown()
        partitions.teardown()

    def _one_step(self, step: OneStep, *stages: Any) -> None:
        step.partitions, step.poll, step.fold, step.sink = stages
        step.gate = TickGate()
        for owner, method, stage in ((step.poll, "once", "poll"), (step.fold, "take", "fold"), (step.sink, "process", "sink")):
            setattr(owner, method, self._timed(getattr(owner, method), stage))
        cells, before = (Cell(), Cell(), Bag(), Bag()), b""
        while True:
            with self.timed("step"):
                step.process((0, now_ms()), *cells)
            if cells[0].value == before:
                break
            before = cells[0].value
        self.cpu["step"] -= sum(self.cpu[stage] for stage in ("poll", "fold", "sink"))

    def _timed(self, method: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with self.timed(stage):
                return method(*args)

        return call

    def _shuffled(self, partitions: Partitions, poll: Poll, fold: FoldShard, sink: SinkRows) -> None:
        positions: dict[str, Cell] = defaultdict(Cell)
        states: dict[int, tuple[Cell, Bag, Bag]] = defaultdict(lambda: (Cell(), Bag(), Bag()))
        while True:
            before = {k: c.value for k, c in positions.items()}
            with self.timed("poll"):
                ticks = list(partitions.process(b""))
            for tick in ticks:
                with self.timed("poll"):
                    elements = list(poll.process(tick, positions[tick[0]]))
                for number, data in elements:
                    with self.timed("fold"):
                        outputs = list(fold.process((number, data), *states[number]))
                    for output in outputs:
                        with self.timed("sink"):
                            sink.process(output)
            if before == {k: c.value for k, c in positions.items()}:
                break


def spec_of(repo: Repo, broker: MemoryBroker, case: Case) -> JobSpec:
    """The job of the case."""
    folder = repo.data / "stream" / "main"
    folder.mkdir(parents=True)
    groups = dict(repo.groups)
    graphs = {n: (repo.data / "graphs" / n / "CURRENT").read_text().strip() for n in groups}
    return JobSpec(repo.path, repo.data, folder, groups, graphs, repo.settings.kafka, repo.settings.stream, broker)


def redis_cpu(redis: RedisServer) -> float:
    """Seconds of CPU that the server took."""
    fields = Path(f"/proc/{redis.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def check(repo: Repo, payloads: Iterable[bytes], online: bool = True) -> None:
    """Raise ValueError unless the store holds what one batch over all events ends with."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    store: Any = open_store(repo)
    for name, group in repo.groups.items():
        view = store.get_feature_view(name)
        checked = check_json(pa.array(list(payloads), pa.binary()), group.source, FAR, 10**12)
        newest = max(checked.valid.column(checked.valid.schema.get_field_index("sold_at")).cast(pa.int64()).to_pylist())
        rows = rows_between(tile(checked.valid, group), group, 0, (newest - 60_000_000) // group.hop_us * group.hop_us)
        last = {row["seller"]: row for row in rows.to_pylist()}
        some = sorted(last)[:: max(1, len(last) // 200)]
        keys = [EntityKey(join_keys=["seller"], entity_values=[Value(string_val=s)]) for s in some]
        names = [f"count_{o}" for o in OVER] + [f"amount_{m}_{o}" for m in ("mean", "std", "min", "max") for o in OVER]
        for seller, (_, values) in zip(some, store._get_provider().online_store.online_read(store.config, view, keys, names)):
            for feature in names:
                kind = values[feature].WhichOneof("val") if values else None
                found = None if kind is None else getattr(values[feature], kind)
                if found != last[seller][feature]:
                    raise ValueError(f"{name}: {feature} of {seller} is {found}, not {last[seller][feature]}")


@dataclass(frozen=True)
class Limits:
    """Seconds of CPU that a row takes at the least: in the log, and to be sent to Redis (of this process; of Redis beside it)."""

    logged: float
    sent: float
    stored: float

    def of(self, rows: int, written: int) -> float:
        """This process' seconds for so many rows, of which so many are written online."""
        return rows * self.logged + written * self.sent


AT_ONCE = 100


def limits(repo: Repo, redis: RedisServer, rounds: int) -> Limits:
    """The rows of a stream's log once more as Arrow and as Parquet, and what Redis holds once more by bare ``HSET``s in a pipeline."""
    import redis as redis_client

    (name,) = repo.groups
    rows = read_rows(repo.data / "stream" / "main", name).combine_chunks()
    others = [f.name for f in rows.schema if not pa.types.is_floating(f.type)]  # dictionaries of floats cost, and save nothing
    client = redis_client.Redis(port=redis.port)
    keys = [key for key in client.scan_iter(count=1000, _type="hash") if not key.startswith(b"tandem:")]
    commands = [hiredis.pack_command(("HSET", key, *(x for pair in client.hgetall(key).items() for x in pair))) for key in keys]
    lots = [commands[at : at + AT_ONCE] for at in range(0, len(commands), AT_ONCE)]
    best = [float("inf")] * 3
    for _ in range(rounds):
        start = time.process_time()
        for batch in rows.to_batches():
            batch.serialize()
        pq.write_table(rows, io.BytesIO(), compression="zstd", use_dictionary=others)
        best[0] = min(best[0], time.process_time() - start)
        client.flushall()
        before = redis_cpu(redis)
        with socket.create_connection(("localhost", redis.port)) as connection:
            start = time.process_time()
            for lot in lots:
                connection.sendall(b"".join(lot))
                answers = 0
                while answers < len(lot):
                    answers += connection.recv(1 << 16).count(b"\n")
            best[1] = min(best[1], time.process_time() - start)
        best[2] = min(best[2], redis_cpu(redis) - before)
    if client.dbsize() != len(keys):
        raise ValueError(f"{client.dbsize()} hashes of {len(keys)} came to Redis")
    return Limits(best[0] / rows.num_rows, best[1] / len(keys), best[2] / len(keys))


def measured(folder: Path, case: Case, n: int, redis: RedisServer) -> Stages:
    """Run a case once."""
    import redis as redis_client

    redis_client.Redis(port=redis.port).flushall()
    broker = MemoryBroker()
    by_partition = events(case, n)
    broker.create_topic(TOPIC, case.partitions)
    for p, payloads in enumerate(by_partition):
        broker.append(TOPIC, p, payloads)
    online = f"type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: '{redis.connection_string}'"
    repo = repository(folder, case, online, broker)
    stages = Stages(spec_of(repo, broker, case), repo)
    before = redis_cpu(redis)
    stages.run()
    stages.cpu["redis"] = redis_cpu(redis) - before
    check(repo, [p for each in by_partition for p in each])
    return stages


def run(quick: bool = False) -> list[Part]:
    """Every case, interleaved with the base."""
    n = FEW if quick else EVENTS
    best: dict[Case, tuple[float, Stages]] = {}
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp, redis_server() as redis:
        measured(Path(temp) / "warm", CASES[0], FEW // 2, redis)  # what a process loads and compiles once is no case's
        for attempt in range(1 if quick else 2):
            for number, case in enumerate(CASES):
                stages = measured(Path(temp) / f"{attempt}-{number}", case, n, redis)
                if case is MANY:
                    least = limits(stages.repo, redis, 3)
                own = sum(s for stage, s in stages.cpu.items() if stage not in ("setup", "redis"))
                if case not in best or own < best[case][0]:
                    best[case] = own, stages
    part = Part(
        f"the stream's worker, CPU of its stages in one process: {n:,} events, JSON, broker in memory, Redis",
        "events",
        f"warm; CPU of this process, {'one round' if quick else 'two rounds in turn'}; setup and Redis left out",
    )
    base_own, base = best[CASES[0]]
    for case, (own, stages) in best.items():
        c, more = stages.cpu, stages.rows - base.rows
        per_row = ""
        if more > 0:
            limit = 1 + least.of(more, stages.written - base.written) / base_own
            per_row = (
                f"; {(own - base_own) / more * 1e6:.1f} us more for each row more than the base's; no less than {limit:.2f} of the base"
            )
        part.add(
            case.name, own, n,
            f"us/event: poll {c['poll'] / n * 1e6:.1f}, fold {c['fold'] / n * 1e6:.1f}, sink {c['sink'] / n * 1e6:.1f},"
            f" Redis beside it {c['redis'] / n * 1e6:.1f}; {stages.rows:,} rows, {stages.written:,} written{per_row}",
        )  # fmt: skip
    broker, payloads = MemoryBroker(), events(CASES[0], n)
    repo, took = None, []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        repo = repository(Path(temp), CASES[0], "type: sqlite, path: none.db", broker)
        (group,) = repo.groups.values()
        for _ in range(2):
            start = time.process_time()
            for each in payloads:
                for at in range(0, len(each), POLL_RECORDS):
                    check_json(pa.array(each[at : at + POLL_RECORDS], pa.binary()), group.source, FAR, 10**12)
            took.append(time.process_time() - start)
    part.add("the limit of all: records read and judged, nothing kept", Took(took), n)
    part.notes.append(
        f"load {os.getloadavg()[0]:.0f}; a row more per event is work more: 'no less than' is the base and those rows, as Arrow and Parquet"
        f" {least.logged * 1e6:.1f} us each, and sent to Redis, as bytes made before, {least.sent * 1e6:.1f} us each"
        f" ({least.stored * 1e6:.1f} of Redis); what makes them is not counted"
    )
    return [part]


__all__ = ["CASES", "run"]
