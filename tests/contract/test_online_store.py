"""The contract of both online stores (DESIGN 3.7): ordered, correctable, atomic writes; statuses; stock Feast reads it all."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from feast import Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Float32, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from serving.online_store.encoding import encode_column
from tests.contract.stores import DAY, NOW, US, Bench, batch, key, view
from tests.redis_server import free_port, redis_server
from transforms.errors import DataError, FingerprintError, StoreError

T = NOW - timedelta(hours=1)
ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("step", [US, timedelta(milliseconds=1), timedelta(hours=1)])
@pytest.mark.parametrize("entry", ["write", "write_protos"])
def test_a_newer_row_wins_also_within_one_second(bench: Bench, step: timedelta, entry: str) -> None:
    write = getattr(bench, entry)
    write(("EWR", T, 1, 1.0))
    write(("EWR", T + step, 1, 2.0))
    assert bench.x() == 2.0
    write(("EWR", T, 9, 3.0))
    assert bench.x() == 2.0


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_batches_does_not_matter(bench: Bench, order: tuple[int, ...]) -> None:
    for i in order:
        bench.write(("EWR", T + i * US, 1, float(i)))
    assert bench.x() == 2.0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("entry", ["write", "write_protos"])
def test_order_within_a_batch_does_not_matter(bench: Bench, order: tuple[int, ...], entry: str) -> None:
    getattr(bench, entry)(*(("EWR", T + i * US, 1, float(i)) for i in order))
    assert bench.x() == 2.0


def test_a_correction_wins_and_a_replay_cannot_undo_it(bench: Bench) -> None:
    assert bench.write(("EWR", T, 3, 1.0)).written == 1
    assert bench.write(("EWR", T, 4, 2.0)).written == 1
    result = bench.write(("EWR", T, 3, 1.0), ("EWR", T, 4, 7.0))
    assert (result.written, result.stale, result.refused) == (0, 2, 0)
    assert bench.x() == 2.0


def test_rows_of_the_applied_graph_replace_equal_ones_of_another(bench: Bench) -> None:
    bench.write(("EWR", T, 3, 1.0), fingerprint="old")
    bench.write(("EWR", T, 3, 2.0), fingerprint="new")
    assert bench.x() == 1.0, "nothing is applied yet: the first one stays"
    bench.store.apply_fingerprint(bench.config, "traffic", "new")
    assert bench.store.applied_fingerprint(bench.config, "traffic") == "new"
    bench.write(("EWR", T, 3, 2.0), fingerprint="new")
    assert bench.x() == 2.0
    bench.write(("EWR", T, 3, 5.0), fingerprint="new")
    assert bench.x() == 2.0
    bench.write(("EWR", T - US, 3, 5.0), ("EWR", T, 2, 6.0), fingerprint="new")
    assert bench.x() == 2.0


@pytest.mark.parametrize("entry", ["write", "write_protos"])
def test_a_writer_of_the_old_graph_is_refused_whole(bench: Bench, entry: str) -> None:
    bench.write(("EWR", T, 3, 1.0), fingerprint="old")
    bench.store.apply_fingerprint(bench.config, "traffic", "new")
    with pytest.raises(FingerprintError, match=r"'old'.*'new' is applied"):
        getattr(bench, entry)(("EWR", T + DAY / 48, 3, 2.0), ("JFK", T, 1, 2.0), fingerprint="old")
    many = pa.Table.from_batches(
        [
            batch(*((f"A{i}", T, 1, 1.0) for i in range(1200)), fingerprint="new"),
            batch(("Z", T, 1, 1.0), fingerprint="old"),
        ]
    )
    with pytest.raises(FingerprintError, match="'old'"):
        bench.store.write_rows(bench.config, bench.table, many)
    assert [bench.x(k) for k in ("EWR", "JFK", "A0", "Z")] == [1.0, None, None, None]
    bench.store.apply_fingerprint(bench.config, "another_view", "other")
    assert bench.write(("JFK", T, 1, 2.0), fingerprint="new").written == 1


def test_the_far_future_is_refused_and_the_rest_written(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        result = bench.write(
            ("EWR", NOW + DAY, 1, 1.0), ("JFK", NOW + DAY + US, 1, 2.0), ("JFK", NOW, 1, 3.0), ("LGA", NOW + 9000 * DAY, 1, 4.0)
        )
    assert (result.written, result.stale, result.refused) == (2, 0, 2)
    assert len(caplog.messages) == 1
    assert "refused 2 of 4 rows" in caplog.text
    assert "JFK" in caplog.text
    assert "2030-01-02T00:00:00.000001" in caplog.text
    assert (bench.x("EWR"), bench.x("JFK"), bench.x("LGA")) == (1.0, 3.0, None)


def test_ttl_on_read_to_the_microsecond(bench: Bench) -> None:
    ttl = bench.table.ttl
    bench.write(("EWR", NOW - ttl, 1, 1.0), ("JFK", NOW - ttl - US, 1, 2.0), ("LGA", T, 1, None))
    keys = [key(origin=o) for o in ("EWR", "JFK", "LGA", "XXX", "EWR")]
    rows = bench.store.read_rows(bench.config, bench.table, keys, ["x", "unheard_of"], now=NOW)
    assert rows.statuses["x"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NULL", "NOT_FOUND", "PRESENT"]
    assert rows.statuses["unheard_of"] == ["NOT_FOUND", "OUTSIDE_MAX_AGE", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"]
    assert rows.ages == [129600.0, 129600.000001, 3600.0, None, 129600.0]
    assert rows.values["x"][1] == Value()
    read = bench.store.online_read(bench.config, bench.table, keys, ["x"])
    assert read[0] == (NOW - ttl, {"x": Value(double_val=1.0)})
    assert read[1] == (NOW - ttl - US, None)
    assert read[3] == (None, None)
    assert bench.store.online_read_stored(bench.config, bench.table, keys[1:2], ["x"]) == [(NOW - ttl - US, {"x": Value(double_val=2.0)})]
    later = bench.store.read_rows(bench.config, bench.table, keys, ["x"], now=NOW + US)
    assert later.statuses["x"][0] == "OUTSIDE_MAX_AGE"


def test_a_view_without_ttl_never_expires(bench: Bench) -> None:
    eternal = bench.of(view(ttl=timedelta(0), name="eternal"))
    eternal.write(("EWR", NOW - 40_000 * DAY, 1, 1.0))
    assert eternal.x() == 1.0
    assert eternal.store.online_read(eternal.config, eternal.table, [key(origin="EWR")], ["x"])[0][1] == {"x": Value(double_val=1.0)}


EVERY = {
    "f64": (Float64, pa.float64(), 0.1, Value(double_val=0.1)),
    "zero": (Float64, pa.float64(), 0.0, Value(double_val=0.0)),
    "f32": (Float32, pa.float32(), 0.25, Value(float_val=0.25)),
    "i64": (Int64, pa.int64(), 2**53 + 1, Value(int64_val=2**53 + 1)),
    "s": (String, pa.string(), "naïve ✈ \x00", Value(string_val="naïve ✈ \x00")),
    "b": (Bool, pa.bool_(), False, Value(bool_val=False)),
    "ts": (UnixTimestamp, pa.timestamp("us", tz="UTC"), NOW, Value(unix_timestamp_val=1893456000)),
    "lf": (Array(Float64), pa.list_(pa.float64()), [0.5, 0.1], None),
    "lf32": (Array(Float32), pa.list_(pa.float32()), [0.5], None),
    "li": (Array(Int64), pa.list_(pa.int64()), [2**60, 1], None),
    "ls": (Array(String), pa.list_(pa.string()), ["a", ""], None),
    "lb": (Array(Bool), pa.list_(pa.bool_()), [True, False], None),
    "le": (Array(Float64), pa.list_(pa.float64()), [], None),
    "lt": (Array(UnixTimestamp), pa.list_(pa.timestamp("us", tz="UTC")), [NOW], None),
}


def test_every_type_composite_and_integer_keys_and_nulls(bench: Bench) -> None:
    table = view(
        {"origin": ValueType.STRING, "number": ValueType.INT64}, [Field(name=n, dtype=t[0]) for n, t in EVERY.items()], name="every"
    )
    every = bench.of(table)
    columns = {
        "number": pa.array([-5, 2**40]),
        "origin": pa.array(["EWR", "EWR"]),
        "event_timestamp": pa.array([T, T], pa.timestamp("us", tz="UTC")),
        "tandem_revision": pa.array([1, 1]),
        "tandem_fingerprint": pa.array(["f", "f"]),
        "extra": pa.array([1, 2]),
        **{n: pa.array([v, None], kind) for n, (_, kind, v, _) in EVERY.items()},
    }
    assert every.store.write_rows(every.config, table, pa.table(columns)).written == 2
    keys = [key(origin="EWR", number=-5), key(origin="EWR", number=2**40), key(number=-5, origin="EWR"), key(origin="JFK", number=-5)]
    rows = every.store.read_rows(every.config, table, keys, now=NOW)
    for name, (_, _, value, proto) in EVERY.items():
        got = rows.values[name]
        assert rows.statuses[name] == ["PRESENT", "NULL", "PRESENT", "NOT_FOUND"], name
        assert got[0] == got[2]
        if proto is not None:
            assert got[0] == proto
        else:
            assert list(getattr(got[0], got[0].WhichOneof("val")).val) == (value if name != "lt" else [1893456000])
    assert [v.int64_val for v in rows.values["tandem_revision"][:2]] == [1, 1]

    stock, config = every.stock()
    theirs, ours_ = (
        stock.online_read(config, table, keys[:2], list(EVERY)),
        every.store.online_read(every.config, table, keys[:2], list(EVERY)),
    )
    for (at, values), (_, ours) in zip(theirs, ours_):
        assert at.replace(tzinfo=None) == T.replace(tzinfo=None)
        assert {n: values[n] for n in EVERY} == ours


def test_features_that_a_row_lacks_become_null_not_the_old_value(bench: Bench) -> None:
    table = view(features=[Field(name="x", dtype=Float64), Field(name="y", dtype=Float64)], name="two")
    two = bench.of(table)
    two.store.write_rows(
        two.config,
        table,
        batch(("EWR", T, 1, 1.0)).from_pydict(
            {"origin": ["EWR"], "event_timestamp": [T], "x": [1.0], "y": [1.0], "tandem_revision": [1], "tandem_fingerprint": ["n"]}
        ),
    )
    two.write_protos(("EWR", T + US, 1, 2.0))
    rows = two.store.read_rows(two.config, table, [key(origin="EWR")], ["x", "y"], now=NOW)
    assert rows.statuses == {"x": ["PRESENT"], "y": ["NULL"]}


def test_rows_without_key_or_time_are_one_error(bench: Bench) -> None:
    good = batch(("EWR", T, 1, 1.0))
    with pytest.raises(DataError, match="no column 'origin'"):
        bench.store.write_rows(bench.config, bench.table, pa.Table.from_batches([good]).drop(["origin"]))
    bad = pa.table({"origin": ["EWR", None], "event_timestamp": pa.array([T, T], pa.timestamp("us", tz="UTC")), "x": [1.0, 2.0]})
    with pytest.raises(DataError, match="column 'origin' has 1 nulls"):
        bench.store.write_rows(bench.config, bench.table, bad)


def test_nothing_written_yet_and_no_keys(bench: Bench) -> None:
    assert bench.x() is None
    assert bench.store.online_read(bench.config, bench.table, [], ["x"]) == []
    assert bench.store.write_rows(bench.config, bench.table, batch(("EWR", T, 1, 1.0)).slice(0, 0)).written == 0


def test_a_view_that_is_dropped_is_gone_and_may_come_back(bench: Bench) -> None:
    other = bench.of(view(name="other"))
    bench.write(("EWR", T, 5, 1.0))
    other.write(("EWR", T, 5, 9.0))
    bench.store.apply_fingerprint(bench.config, "traffic", "gone")
    bench.store.update(bench.config, [bench.table], [other.table], [], [], False)
    assert (bench.x(), other.x()) == (None, 9.0)
    bench.store.update(bench.config, [], [bench.table, other.table], [], [], False)
    bench.write(("EWR", T - US, 1, 3.0))
    assert bench.x() == 3.0


def test_marks_tell_a_store_that_forgot(bench: Bench) -> None:
    mark = bench.store.mark
    assert not mark(bench.config, "main/0", 5, at_least=1), "nothing is there"
    assert mark(bench.config, "main/0", 5)
    assert mark(bench.config, "main/0", 7, at_least=5)
    assert mark(bench.config, "main/0", 1_800_000_000_000_000, at_least=6)
    assert not mark(bench.config, "main/0", 9, at_least=1_800_000_000_000_001)
    assert not mark(bench.config, "main/1", 9, at_least=1)
    bench.write(("EWR", T, 1, 1.0))
    bench.store.sync(bench.config)
    assert bench.x() == 1.0


ROUNDS, RACERS, STEPS = 300, 3, 6


def _race(bench: Bench, seed: int, barrier: Any) -> None:
    """In every round all racers write the same rows of one new key, each in an order and in batches of its own, at the same time."""
    rng = random.Random(seed)
    for number in range(ROUNDS):
        steps, best = rng.sample(range(STEPS), STEPS), -1
        barrier.wait(30)
        while steps:
            size = rng.randint(1, 3)
            some, steps = steps[:size], steps[size:]
            write = bench.write if rng.random() < 0.5 else bench.write_protos
            write(*((f"K{number}", T + s // 2 * US, s % 2, float(s)) for s in some))
            best = max(best, *some)
            seen = bench.x(f"K{number}")
            assert seen is not None
            assert seen >= best, "an older value won"


def test_racing_writers_never_let_an_older_value_win(bench: Bench) -> None:
    processes = multiprocessing.get_context("fork")
    barrier = processes.Barrier(RACERS)
    races = [processes.Process(target=_race, args=(bench, seed, barrier)) for seed in range(RACERS)]
    for p in races:
        p.start()
    for p in races:
        p.join(120)
    assert [p.exitcode for p in races] == [0] * RACERS
    assert {bench.x(f"K{number}") for number in range(ROUNDS)} == {STEPS - 1.0}


def test_redis_that_is_not_there_or_goes_away_is_one_clear_error(tmp_path: Path) -> None:
    gone = Bench.redis(tmp_path, view(), f"127.0.0.1:{free_port()},password=secret")
    with pytest.raises(StoreError, match=r"redis 127\.0\.0\.1:\d+: .*start Redis there") as e:
        gone.write(("EWR", T, 1, 1.0))
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)
    with redis_server() as server:
        bench = Bench.redis(tmp_path, view(), server.connection_string)
        bench.write(("EWR", T, 1, 1.0))
        server.kill()
        with pytest.raises(StoreError, match="start Redis there"):
            bench.write(("EWR", T, 2, 1.0))
        with pytest.raises(StoreError, match="start Redis there"):
            bench.x()


def test_redis_that_forgot_the_script_is_told_again(tmp_path: Path) -> None:
    with redis_server() as server:
        bench = Bench.redis(tmp_path, view(), server.connection_string)
        bench.write(("EWR", T, 1, 1.0))
        bench.store._client.script_flush()
        assert bench.write(*((f"A{i}", T, 1, 2.0) for i in range(1100))).written == 1100


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"give a path that can be written in feature_store\.yaml"):
        Bench.sqlite(tmp_path / "file", view())


@pytest.mark.parametrize(
    ("kind", "slot", "values"),
    [
        (pa.float64(), "double_val", [0.0, -0.0, None, 1e308, float("inf"), 0.1]),
        (pa.float32(), "float_val", [0.0, None, -1.5, float("-inf")]),
        (pa.int64(), "int64_val", [0, -1, None, 2**63 - 1, -(2**63), 5, 5]),
        (pa.string(), "string_val", ["", None, "é", "x" * 300]),
        (pa.bool_(), "bool_val", [True, None, False]),
    ],
)
def test_the_fast_encoding_is_that_of_protobuf(kind: pa.DataType, slot: str, values: list[Any]) -> None:
    expected = [(Value() if v is None else Value(**{slot: v})).SerializeToString() for v in values]
    whole = pa.array([None, *values], kind).slice(1)
    assert encode_column(whole).to_pylist() == expected
    assert encode_column(pa.chunked_array([whole.slice(0, 2), whole.slice(2)])).to_pylist() == expected
