"""Rows to the online stores, and back: the ordered, columnar write against Feast's own writers; reading by a compiled plan against
packed rows, which is what the store itself allows, and against Feast's SDK over our store classes and over its own. Same rows, same
server, values compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from feast import Field, ValueType, utils
from feast.types import Float64, Int64, String

from serving.features import OnlineFeatures
from tandem.testing.online_store import NOW, Bench, key, view
from tests.bench import shop
from tests.bench.report import Part, best_of
from tests.redis_server import redis_server

NAMES = [*(f"f{i}" for i in range(6)), "n0", "n1", "n2", "s0"]
TYPES = {"f": Float64, "n": Int64, "s": String}
PRINT = "a" * 64


def _rows(n: int, second: int) -> pa.RecordBatch:
    """``n`` keys with ten features, all newer by ``second`` seconds (Feast's writer drops a newer row of the same second)."""
    r, at = np.random.default_rng(second), int((NOW - timedelta(days=1)).timestamp() + second) * 1_000_000
    return pa.RecordBatch.from_pydict(
        {
            "origin": [f"N{i:06d}" for i in range(n)],
            "event_timestamp": pa.array(np.full(n, at), pa.timestamp("us", "UTC")),
            **{f"f{i}": pa.array(r.normal(size=n), mask=r.random(n) < 0.1) for i in range(6)},
            "n0": r.integers(0, 50, n),
            "n1": r.integers(0, 10**12, n),
            "n2": r.integers(0, 3, n),
            "s0": [f"c{i}" for i in r.integers(0, 300, n)],
            "tandem_revision": r.integers(1, 500, n),
            "tandem_fingerprint": [PRINT] * n,
        }
    )


def _ways(ours: Bench, theirs: Bench, n: int, batches: list[pa.RecordBatch]) -> dict[str, Callable[[], Any]]:
    stock, config = theirs.stock()
    ours.store.apply_fingerprint(ours.config, ours.table.name, PRINT)
    made: list[Any] = []
    turns = [iter(batches), iter(batches)]

    def tandem() -> None:
        written = ours.store.write_rows(ours.config, ours.table, next(turns[0])).written
        if written != n:
            raise ValueError(f"{written} of {n} rows were written")

    def feast() -> None:
        made[:] = utils._convert_arrow_to_proto(pa.Table.from_batches([next(turns[1])]), theirs.table, {"origin": ValueType.STRING})
        stock.online_write_batch(config, theirs.table, made, None)
        found = stock.online_read(config, theirs.table, [key(origin="N000007")], ["n1"])[0][1]
        if found["n1"] != made[7][1]["n1"]:
            raise ValueError("Feast's writer did not write")

    return {"tandem": tandem, "feast": feast}


def run(quick: bool = False) -> list[Part]:
    """20,000 rows of ten features in one batch, each time newer than before."""
    n, rounds = (2_000, 2) if quick else (20_000, 4)
    fields, parts = [Field(name=name, dtype=TYPES[name[0]]) for name in NAMES], []
    batches = [_rows(n, second) for second in range(rounds)]
    with redis_server() as server, tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        for kind in ("redis", "sqlite"):
            benches = []
            for name in ("ours", "theirs"):
                folder = Path(temp) / kind / name
                folder.mkdir(parents=True)
                table = view(features=fields, name=f"{name}_{kind}")
                where = {"connection_string": server.connection_string} if kind == "redis" else {"path": str(folder / "online.db")}
                ours = f"serving.online_store.{kind}.Ordered{kind.title()}OnlineStore"
                benches.append(Bench.open({"type": ours, **where}, table, {"type": kind, **where}))
            took = best_of(rounds, _ways(benches[0], benches[1], n, batches))
            part = Part(
                f"rows to the online store ({kind}): {n:,} keys x {len(NAMES)} features, from Arrow",
                "rows",
                f"warm; wall time, {rounds} rounds in turn",
            )
            part.add("tandem, ordered and atomic", took["tandem"], n, "a row wins by (time, revision)")
            part.add("feast's own writer", took["feast"], n, "whatever comes last, or not at all within a second")
            parts.append(part)
        parts += _reads(Path(temp), server.port, (1, 100) if quick else (1, 10, 100, 1000), 3 if quick else 15)
    return parts


def _reads(root: Path, port: int, sizes: tuple[int, ...], rounds: int) -> list[Part]:
    """Three views of two kinds of entities, 20 features: N entities each, in process."""
    parts = []
    for kind in ("redis", "sqlite"):
        stores = []
        for name, db in (("ours", 0), ("theirs", 1)):
            folder = root / "reads" / kind / name
            where = {"connection_string": f"127.0.0.1:{port},db={db}"} if kind == "redis" else {"path": str(folder / "online.db")}
            own = f"serving.online_store.{kind}.Ordered{kind.title()}OnlineStore"
            stores.append(shop.make_repo(folder, {"type": own if name == "ours" else kind, **where}))
            shop.fill(stores[-1])
        packed = shop.Packed.make(redis.Redis(port=port, db=2))
        reader, fields = (OnlineFeatures(root / "reads" / kind / "ours" / "repo", now_us=lambda: shop.NOW_US) for _ in range(2))
        fields.config.online_store.packed = False
        for each in (reader, fields):
            each.refresh()
        stores[0]._get_provider().online_store.clock = lambda: shop.NOW_US
        for n in sizes:
            took = best_of(rounds, _read_ways(reader, fields, packed, stores, n))
            part = Part(
                f"{n:,} entities from {kind}: 3 views, 20 features, in process", "entities", f"warm; wall time, {rounds} rounds in turn"
            )
            for name, seconds in took.items():
                part.add(name, seconds, n)
            parts.append(part)
    return parts


def _read_ways(
    reader: OnlineFeatures, fields: OnlineFeatures, packed: shop.Packed, stores: list[Any], n: int
) -> dict[str, Callable[[], Any]]:
    wanted, entities = reader.catalog.service(shop.SERVICE), shop.asked(n)
    rows = [{key: entities[key][i] for key in entities} for i in range(n)]
    services = [store.get_feature_service(shop.SERVICE) for store in stores]

    def sdk(place: int) -> Any:
        return stores[place].get_online_features(services[place], rows, full_feature_names=True)

    ways: dict[str, Callable[[], Any]] = {
        "tandem, compiled plan": lambda: reader.read(wanted, entities, n),
        "tandem, from Feast's fields": lambda: fields.read(wanted, entities, n),
        "packed rows in Redis, one MGET": lambda: packed.read(entities),
        "feast SDK over tandem's store class": lambda: sdk(0),
        "feast SDK over its own": lambda: sdk(1),
    }
    ours, from_fields, right, theirs = (way() for way in list(ways.values())[:4])
    for name, group in ours.items():
        numbers = group.columns["n0"].to_pylist()
        if (
            numbers != from_fields[name].columns["n0"].to_pylist()
            or numbers != right[name]["n"][:, 0].tolist()
            or numbers != theirs.to_dict()[f"{name}__n0"]
        ):
            raise ValueError(f"{name}: the ways do not agree")
    return ways
