"""Aggregates that Tandem does not know: of the repository's definitions, of a module beside them, of a package; and TopK. All the way.

Batch, transform graph, Feast, online store, training set, the stream by hand, verify, and workers that loaded no repository.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.feature_store.materialize import materialize
from pipelines.feature_store.store import apply as feast_apply
from pipelines.feature_store.store import open_store
from pipelines.project.repository import load_repo
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.applied import apply_run
from tests.integration.flights import environment, feature_rows, offline_rows, us
from tests.integration.pure_stream import kafka_log, stream
from tests.oracle.compare import differences, to_dicts
from tests.oracle.features import boundaries
from transforms.errors import DefinitionError

pytestmark = pytest.mark.timeout(900)

START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 4, tzinfo=UTC)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
CARDS = ["c1", "c2", "c3", "c4"]

FILES = {
    "tandem.yaml": "data: ../data\ndefinitions: features\n",
    "feature_store.yaml": """
project: own
provider: local
registry: ../data/registry.db
offline_store:
  type: serving.offline_store.AsofOfflineStore
online_store:
  type: serving.online_store.sqlite.OrderedSqliteOnlineStore
  path: ../data/online.db
entity_key_serialization_version: 3
""",
    "own.py": '''
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from tandem.transforms.functions import Aggregate, Greatest, Output, Smallest


@dataclass(frozen=True)
class Spread(Aggregate):
    """The greatest value less the smallest; it keeps states of Tandem's own."""

    kind: ClassVar[str] = "spread"

    def output(self, dtype):
        return Output("float64")

    def states(self):
        return self.state(Smallest), self.state(Greatest)

    def extract_output(self, parts, boundary):
        low, high = parts
        return pa.array((high.values - low.values).astype("float64"), mask=~low.valid)
''',
    "features.py": '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from own import Spread
from tandem_outside.aggregates import Share

from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import *
from tandem.transforms.functions import Counts, State
from tandem.transforms.functions.arrays import Int


@dataclass(frozen=True)
class Bits(State):
    """Whole numbers joined bit by bit."""

    bits: Int
    kind: ClassVar[str] = "own_bits"

    @classmethod
    def arrow_type(cls, value, tie, param):
        return pa.int64()

    @classmethod
    def add_input(cls, events, param):
        return cls(events.values.fill_null(0).to_numpy())

    @classmethod
    def from_arrow(cls, array, param):
        return cls(array.to_numpy())

    def merge(self, lo, hi, ordered):
        return Bits(np.array([np.bitwise_or.reduce(self.bits[a:b]) for a, b in zip(lo, hi)], np.int64))

    def to_arrow(self):
        return pa.array(self.bits)


@dataclass(frozen=True)
class Joined(Aggregate):
    """Whole numbers joined bit by bit, as wide as ``width``."""

    width: int = 8
    kind: ClassVar[str] = "own_joined"
    takes: ClassVar[tuple[str, ...]] = ("int64",)

    def output(self, dtype):
        return Output("int64", nullable=False)

    def states(self):
        return (self.state(Bits),)

    def extract_output(self, parts, boundary):
        return pa.array(parts[0].bits & (2**self.width - 1))


payments = EventSource(
    name="payments",
    fields=[
        Field("id", "string", required=True), Field("card", "string", required=True), Field("amount", "float64"),
        Field("shop", "string"), Field("flags", "int64", min=0), Field("declined", "bool"),
    ],
    event_time="at", tie_breaker="id", out_of_orderness=minutes(1), allowed_lateness=hours(1),
    files="events/payments", topic="payments",
)
cards = FeatureGroup(
    name="cards", source=payments, entity=Entity("card"), hop=minutes(30), ttl=days(36500),
    aggregates=[
        Count(over=hours(6)), TopK("shop", k=2, over=[hours(1), hours(6)]), Spread("amount", over=hours(6)),
        Joined("flags", over=[hours(1), hours(6)], where=Field("amount") > 20), Share("declined", over=hours(6), name="declined"),
    ],
    preprocessing_fn="preprocessing:cards",
)
views = feast_views(__name__)
''',
    "preprocessing.py": '''
import tensorflow as tf
import tensorflow_transform as tft


def cards(inputs):
    """A mean over an aggregate of one's own, and how many of the most frequent shops there are."""
    spread = tf.sparse.to_dense(inputs["amount_spread_6h"], default_value=0.0)
    shops = inputs["shop_top_2_6h"]
    return {
        "spread_z": tft.scale_to_z_score(spread),
        "shops": tf.reduce_sum(tf.cast(tf.sparse.to_dense(shops, default_value="") != "", tf.int64), axis=1),
    }
''',
}


def make_events() -> list[dict[str, Any]]:
    rng, at = random.Random(4), us(START) - 20 * 3_600_000_000
    log: list[dict[str, Any]] = []
    while at < us(END) + 3_600_000_000:
        at += rng.choice([0, 1, 40_000_000, 900_000_000, 1_800_000_000])
        shop = rng.choice(["a", "ä", "\U00010000", "\uffff", "b", None])
        log.append(
            {
                "at": at,
                "id": f"p{len(log):05d}",
                "card": rng.choice(CARDS if at < us(START + timedelta(days=2)) else CARDS[:3]),
                "amount": rng.choice([None, rng.choice([0.1, 1e16, 5.0]), rng.uniform(1, 100)]),
                "shop": shop,
                "flags": rng.choice([None, rng.randrange(2**12)]),
                "declined": rng.choice([None, True, False, False]),
            }
        )
    return log


def expected_row(card: str, boundary: int, log: list[dict[str, Any]]) -> dict[str, Any]:
    """A row in plain Python."""

    def window(hours: int) -> list[dict[str, Any]]:
        return [e for e in log if e["card"] == card and boundary - hours * 3_600_000_000 <= e["at"] < boundary]

    def top(hours: int) -> list[str]:
        often = Counter(e["shop"] for e in window(hours) if e["shop"] is not None)
        return sorted(often, key=lambda shop: (-often[shop], shop.encode()))[:2]

    def joined(hours: int) -> int:
        out = 0
        for e in window(hours):
            if e["amount"] is not None and e["amount"] > 20 and e["flags"] is not None:
                out |= e["flags"]
        return out & 255

    long = window(6)
    amounts = [e["amount"] for e in long if e["amount"] is not None]
    declined = [e["declined"] for e in long if e["declined"] is not None]
    return {
        "card": card,
        "event_timestamp": boundary + 60_000_000,
        "count_6h": len(long),
        "shop_top_2_1h": top(1),
        "shop_top_2_6h": top(6),
        "amount_spread_6h": max(amounts) - min(amounts) if amounts else None,
        "flags_own_joined_1h": joined(1),
        "flags_own_joined_6h": joined(6),
        "declined_6h": sum(declined) / len(declined) if declined else None,
        "tandem_revision": len(long),
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, outside_package: Path) -> Any:
    folder = tmp_path_factory.mktemp("own")
    path, data = folder / "repo", folder / "data"
    path.mkdir()
    for name, text in FILES.items():
        (path / name).write_text(text)
    log = make_events()
    repo = load_repo(path)
    source = repo.sources["payments"]
    table = pa.table({f.name: pa.array([e[f.name] for e in log], f.type) for f in source.arrow_schema}, schema=source.arrow_schema)
    days = np.array([datetime.fromtimestamp(e["at"] / 1e6, UTC).date().isoformat() for e in log])
    for day in sorted(set(days)):
        target = data / "events" / "payments" / f"date={day}" / "part-0.parquet"
        target.parent.mkdir(parents=True)
        pq.write_table(table.filter(pa.array(days == day)), target, version="2.6", coerce_timestamps="us")
    result = run_batch(repo, START, END, now=NOW)
    fingerprints = apply_run(repo, result.run)
    feast_apply(repo, fingerprints)
    return SimpleNamespace(repo=load_repo(path), path=path, data=data, log=log, table=table, run=result.run, graphs=fingerprints)


def expected(world: Any, after: datetime = START, upto: datetime = END) -> list[dict[str, Any]]:
    group, out = world.repo.groups["cards"], []
    for card in CARDS:
        at = boundaries([e["at"] for e in world.log if e["card"] == card], group)
        out += [expected_row(card, b, world.log) for b in sorted(at) if us(after) < b <= us(upto)]
    return out


def test_batch_rows_and_graph_outputs(world: Any) -> None:
    group, want = world.repo.groups["cards"], expected(world)
    assert len(want) > 400 and any(r["amount_spread_6h"] is None for r in want) and any(len(r["shop_top_2_6h"]) == 2 for r in want)
    assert differences(feature_rows(world.data, group, world.run.id), want) == []
    made = offline_rows(world.data, group, world.run.id)
    assert made.column("shops").to_pylist() == [len(r["shop_top_2_6h"]) for r in want]
    z = made.column("spread_z").to_numpy()
    assert abs(float(z.mean())) < 1e-3 and np.isfinite(z).all() and z.std() > 0.9


def test_feast_and_the_online_store(world: Any) -> None:
    materialize(world.repo, START, END)
    names = [f.name for f in world.repo.groups["cards"].features]
    got = open_store(world.repo).get_online_features([f"cards:{n}" for n in names], [{"card": c} for c in CARDS]).to_dict()
    for place, card in enumerate(CARDS):
        newest = [r for r in expected(world) if r["card"] == card and r["event_timestamp"] <= us(END)][-1]
        assert {n: got[n][place] for n in names} == {n: newest[n] for n in names}


def test_a_training_set(world: Any) -> None:
    import pandas as pd

    at = START + timedelta(days=2, minutes=7)
    spine = pd.DataFrame({"card": CARDS, "event_timestamp": [at] * 4})
    names = ["shop_top_2_6h", "amount_spread_6h", "flags_own_joined_6h", "declined_6h", "spread_z"]
    table = open_store(world.repo).get_historical_features(spine, [f"cards:{n}" for n in names]).to_arrow()
    rows = {r["card"]: r for r in to_dicts(table)}
    for card in CARDS:
        known = [r for r in expected(world) if r["card"] == card and r["event_timestamp"] <= us(at)][-1]
        assert {n: rows[card][n] for n in names[:-1]} == {n: known[n] for n in names[:-1]}


def test_the_stream_gives_batchs_rows_and_verify_proves_it(world: Any) -> None:
    begin = END - timedelta(days=1)
    first = run_batch(world.repo, START, begin, now=NOW, pinned=True).run
    times = world.table.column("at").cast(pa.int64()).to_numpy()
    live = world.table.filter(pa.array(times >= us(begin) - 3_600_000_000))
    kafka = kafka_log({"payments": live}, world.repo.sources, seed=3, partitions=2, disorder=0.2, late=0.0)
    folder = world.data / "stream" / "main"
    stream(world.repo, kafka, folder, begin=us(begin), run=first.folder, graphs=world.graphs, shards=3)
    run = run_batch(world.repo, begin, END + timedelta(hours=1), now=NOW, pinned=True).run
    result = run_verify(world.repo, VerifyOptions(against=run.id, online=False))
    assert result.verdict == "proven" and result.values["equal"] > 500 and not result.values["different"]


def test_a_worker_that_loaded_nothing_has_the_definitions(world: Any, outside_package: Path, tmp_path: Path) -> None:
    """As a pool's worker on another machine: neither the repository nor its folder is on its path."""
    for pickler in ("pickle", "cloudpickle", "dill"):
        module = pytest.importorskip(pickler)
        file = tmp_path / f"group.{pickler}"
        file.write_bytes(module.dumps(world.repo.groups["cards"]))
        code = (
            "from tandem.quick_imports import quicken_imports; quicken_imports(); import pickle, sys; "
            "group = pickle.loads(open(sys.argv[1], 'rb').read()); "
            "print(group.definition_hash(), *(type(a).__name__ for a in group.aggregates))"
        )
        path = os.pathsep.join([environment()["PYTHONPATH"], str(outside_package)])
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", code, str(file)],
            cwd=tmp_path, env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [world.repo.groups["cards"].definition_hash(), "Count", "TopK", "Spread", "Joined", "Share"]


def test_a_module_that_cannot_be_had_is_one_line(world: Any, tmp_path: Path) -> None:
    spread = next(a for a in world.repo.groups["cards"].aggregates if a.kind == "spread")
    data = pickle.dumps(spread).replace(b"own", b"0wn")  # a module of that name is nowhere
    with pytest.raises(DefinitionError, match=r"aggregate Spread of module '0wn'.*install its package") as refused:
        pickle.loads(data)
    assert "\n" not in str(refused.value)
