"""The point-in-time join against a brute-force one, and what Feast's stores get wrong: order, duplicates, TTLs, types, leaks."""

from __future__ import annotations

import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService

from tests.integration.offline_world import FEATURES, SCHEMA, STAMP, T0, TTL, US, Repo, row, spine_of
from transforms.errors import DataError, StoreError


def brute_force(spine: pa.Table, rows: list[dict[str, Any]], ttl: timedelta) -> list[dict[str, Any]]:
    out = []
    for s in spine.to_pylist():
        best = None
        for r in rows:
            if (r["origin"], r["number"]) == (s["origin"], s["number"]) and s["event_timestamp"] - ttl <= r["event_timestamp"] <= s[
                "event_timestamp"
            ]:
                order = (r["event_timestamp"], r["created_timestamp"])
                if best is None or order > (best["event_timestamp"], best["created_timestamp"]):
                    best = r
        out.append({**s, **{f: best[f] if best else None for f in FEATURES}})
    return out


@pytest.mark.parametrize("ttl", [TTL, timedelta(minutes=7, microseconds=3), timedelta(days=3)])
def test_equals_a_brute_force_join_on_random_data(tmp_path: Path, ttl: timedelta) -> None:
    rng = random.Random(7)
    repo = Repo(tmp_path, ttl=ttl)
    rows = [
        row(
            rng.choice("ABC"),
            rng.randrange(4),
            T0 + timedelta(minutes=rng.randrange(6000)) + rng.randrange(2) * US,
            rng.choice([None, rng.randrange(99)]),
            created=T0 + i * US,
        )
        for i in range(600)
    ]
    repo.write(rows)
    spine = spine_of(
        *((rng.choice(["A", "B", "C", "X", None]), rng.randrange(5), T0 + timedelta(minutes=rng.randrange(7000))) for _ in range(500))
    )
    spine = pa.concat_tables([spine, spine.slice(0, 50)])
    got = repo.join(spine)
    assert got.to_pylist() == brute_force(spine, rows, ttl)
    assert sum(v is not None for v in got["f32"].to_pylist()) >= 5
    for name, kind in {
        "f32": pa.float32(),
        "n": pa.int64(),
        "s": pa.string(),
        "b": pa.bool_(),
        "at": STAMP,
        "l": pa.list_(pa.float64()),
        "ls": pa.list_(pa.string()),
        "label": pa.int32(),
        "event_timestamp": STAMP,
    }.items():
        assert got.schema.field(name).type == kind


def test_a_planted_future_value_does_not_leak(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1), row("A", 1, T0 + timedelta(hours=1, microseconds=1), 666)])
    got = repo.join(spine_of(("A", 1, T0 + timedelta(hours=1)), ("A", 1, T0 + timedelta(hours=1, microseconds=1)), ("A", 1, T0 - US)))
    assert got["n"].to_pylist() == [1, 666, None]


def test_ttl_of_mixed_units_holds_to_the_microsecond(tmp_path: Path) -> None:
    repo = Repo(tmp_path, ttl=TTL)
    repo.write([row("A", 1, T0, 1)])
    assert repo.join(spine_of(("A", 1, T0 + TTL), ("A", 1, T0 + TTL + US)))["n"].to_pylist() == [1, None]


def test_the_newest_created_counts_and_runs_may_differ_in_columns(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1, created=T0)], run="1", files=1)
    repo.write([row("A", 1, T0, 2, created=T0 + timedelta(days=1))], run="2", files=1)
    path = tmp_path / "data/offline/legs/run=3/date=2013-05-01"
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row("B", 1, T0, 3)], schema=SCHEMA).drop(["s", "l"]), path / "part-0.parquet")
    got = repo.join(spine_of(("A", 1, T0), ("B", 1, T0)))
    assert got["n"].to_pylist() == [2, 3]
    assert got["s"].to_pylist() == ["s2", None]


def test_rows_of_another_graph_are_not_mixed_in(tmp_path: Path) -> None:
    repo = Repo(tmp_path, tags={"tandem_fingerprint": "new"})
    repo.write([row("A", 1, T0, 1, fingerprint="new"), row("A", 1, T0 + US, 2, fingerprint="old")])
    assert repo.join(spine_of(("A", 1, T0 + US)))["n"].to_pylist() == [1]
    latest = (
        repo.store._get_provider()
        .offline_store.pull_latest_from_table_or_query(
            repo.store.config, repo.view.batch_source, ["origin", "number"], ["n"], "event_timestamp", "created_timestamp", T0, T0 + TTL
        )
        .to_arrow()
    )
    assert latest["n"].to_pylist() == [1]


def test_a_view_without_rows_gives_nulls_of_the_right_type(tmp_path: Path) -> None:
    got = Repo(tmp_path, tags={"definition_hash": "of a group"}).join(spine_of(("A", 1, T0)))
    assert got.num_rows == 1
    assert got["f32"].to_pylist() == [None]
    assert got.schema.field("l").type == pa.list_(pa.float64())


def test_pandas_sql_full_names_services_and_an_alias(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1)])
    frame = pd.DataFrame(
        {"origin": ["A", "B"], "number": [1, 1], "event_timestamp": pd.to_datetime(["2013-05-01", "2013-05-01"]), "word": ["x", "y"]}
    )
    got = repo.store.get_historical_features(entity_df=frame, features=repo.service, full_feature_names=True)
    table = got.to_arrow()
    assert table["legs__n"].to_pylist() == [1, None]
    assert table["word"].to_pylist() == ["x", "y"]
    assert "legs__tandem_fingerprint" in table.column_names
    assert list(got.to_df()["legs__s"]) == ["s1", None]
    query = (
        "SELECT 'A' AS origin, 1 AS number, TIMESTAMPTZ '2013-05-01 02:00:00+02' - INTERVAL (i) DAY AS event_timestamp FROM range(2) t(i)"
    )
    assert repo.join(query)["n"].to_pylist() == [1, None]
    strings = frame.assign(event_timestamp=["2013-05-01T00:00:00Z", "2013-04-30T23:59:59.999999Z"], origin="A")
    assert repo.store._get_provider().get_historical_features(
        repo.store.config, [repo.view], ["legs:n"], strings, repo.store.registry, "t", False
    ).to_arrow()["n"].to_pylist() == [1, None]
    alias = repo.view.with_name("inbound").with_join_key_map({"origin": "dest"})
    service = FeatureService(name="aliased", features=[alias[["n"]], repo.view.with_name("outbound")[["n"]]])
    repo.store.apply([service])
    both = repo.store.get_historical_features(
        entity_df=pa.table({"dest": ["A"], "origin": ["Q"], "number": [1], "event_timestamp": pa.array([T0], STAMP)}),
        features=service,
        full_feature_names=True,
    ).to_arrow()
    assert (both["inbound__n"].to_pylist(), both["outbound__n"].to_pylist()) == ([1], [None])


def test_mistakes_are_one_clear_error(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write([row("A", 1, T0, 1)])
    with pytest.raises(DataError, match="the spine has no column 'number'"):
        repo.join(spine_of(("A", 1, T0)).drop(["number"]))
    with pytest.raises(DataError, match="needs a column 'event_timestamp'"):
        repo.join(spine_of(("A", 1, T0)).drop(["event_timestamp"]))
    with pytest.raises(DataError, match="the spine cannot be read"):
        repo.join("SELECT nonsense FROM nowhere")
    with pytest.raises(StoreError, match="check the types of the spine's keys"):
        repo.join(spine_of(("A", 1, T0)).set_column(1, "number", pa.array(["one"])))
    with pytest.raises(DataError, match="two columns would be called 'n'"):
        repo.join(spine_of(("A", 1, T0)).append_column("n", pa.array([1])))


def test_the_latest_row_is_the_greatest_by_time_and_of_equals_the_one_created_last(tmp_path: Path) -> None:
    repo = Repo(tmp_path)
    repo.write(
        [
            row("A", 1, T0, 1, revision=9),
            row("A", 1, T0 + US, 2, revision=3, created=T0),
            row("A", 1, T0 + US, 3, revision=2, created=T0 + 9 * US),
            row("A", 2, T0, 4, created=T0),
            row("A", 2, T0, 5, created=T0 + US),
            row("A", 2, T0 + 2 * US, 6),
            row("B", 1, T0 - US, 7),
        ]
    )
    offline, source = repo.store._get_provider().offline_store, repo.view.batch_source
    latest = offline.pull_latest_from_table_or_query(
        repo.store.config, source, ["origin", "number"], ["n", "l"], "event_timestamp", "created_timestamp", T0, T0 + US
    ).to_arrow()
    assert sorted(zip(*(latest[c].to_pylist() for c in ("origin", "number", "n")))) == [("A", 1, 3), ("A", 2, 5)]
    assert len(latest.to_batches()) == 1
    assert latest.schema.field("l").type == pa.list_(pa.float64())
    everything = offline.pull_all_from_table_or_query(
        repo.store.config, source, ["origin", "number"], ["n"], "event_timestamp", start_date=T0, end_date=T0 + US
    ).to_arrow()
    assert sorted(everything["n"].to_pylist()) == [1, 2, 3, 4, 5]


def test_materialize_keeps_every_row_and_every_bit(tmp_path: Path) -> None:
    repo = Repo(tmp_path, ttl=timedelta(days=36_500))
    rows = [row("A", i, T0 + i * US, None if i % 3 == 1 else 2**60 + i) for i in range(120)]
    for r in rows:
        r["l"], r["ls"] = [0.1] * (r["number"] % 3), None
    repo.write(rows)
    repo.store.materialize(T0 - TTL, T0 + TTL)
    view = repo.store.get_feature_view("legs")
    from tandem.testing.online_store import key

    got = repo.store._get_provider().online_store.read_rows(repo.store.config, view, [key(origin="A", number=i) for i in range(120)])
    assert [v.int64_val if v.WhichOneof("val") else None for v in got.values["n"]] == [r["n"] for r in rows]
    assert [v.WhichOneof("val") for v in got.values["at"]] == ["unix_timestamp_val"] * 120
    assert [list(v.double_list_val.val) for v in got.values["l"]] == [r["l"] for r in rows]
    assert got.statuses["ls"] == ["NULL"] * 120
    assert got.event_us == [int(T0.timestamp()) * 1_000_000 + i for i in range(120)]
    answer = repo.store.get_online_features(["legs:n", "legs:s"], [{"origin": "A", "number": 3}, {"origin": "Z", "number": 0}]).to_dict()
    assert answer["n"] == [2**60 + 3, None]


def test_time_of_a_large_join_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repo, rng, n = Repo(tmp_path), np.random.default_rng(1), 100_000
    micros = rng.integers(0, 30 * 86_400, n) * 1_000_000 + int(T0.timestamp()) * 1_000_000
    path = tmp_path / "data/offline/legs/run=1/date=2013-05-01"
    path.mkdir(parents=True)
    times = pa.array(micros).cast(pa.timestamp("us")).cast(pa.int64()).cast(STAMP)
    columns = {f.name: pa.nulls(n, f.type) for f in SCHEMA} | {
        "origin": pa.array(rng.choice(["A", "B"], n)),
        "number": pa.array(rng.integers(0, 500, n)),
        "event_timestamp": times,
        "n": pa.array(micros),
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), path / "part-0.parquet")
    m = 50_000
    spine = pa.table(
        {"origin": pa.array(rng.choice(["A", "B"], m)), "number": pa.array(rng.integers(0, 500, m)), "event_timestamp": times.slice(0, m)}
    )
    start = time.perf_counter()
    got = repo.join(spine)
    with capsys.disabled():
        print(f"\npoint-in-time join of {m:,} x {n:,} rows: {time.perf_counter() - start:.2f} s")
    assert got.num_rows == m
