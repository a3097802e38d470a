"""The answer of packed rows has the bytes that one object per value would have: all types, nulls, NaN and infinity, rows that are not there
or too old, the same entity asked for twice, few rows and many. What is right is taken from the values that were packed."""

from __future__ import annotations

import base64
import math
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from serving import packed_answer
from serving.catalog import View
from serving.online_answer import online_json
from serving.online_store.packed import layout_of
from serving.online_store.packed_rows import PackedRows
from serving.packed_answer import written_packed
from serving.packed_view_rows import PackedViewRows
from serving.protocol import format_timestamp
from serving.view_rows import PRESENT, ViewPlan, ViewRows

NOW = 1_700_000_000_000_000
HOUR = 3_600_000_000
KINDS: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "f64": (Float64, pa.float64(), [0.1, -0.0, 1e300, 5e-324, None, 123456789.123, 1e16]),
    "whole": (Float64, pa.float64(), [1.0, 2.5]),
    "odd": (Float64, pa.float64(), [math.nan, math.inf, -math.inf, 1.0, None]),
    "all_odd": (Float32, pa.float32(), [math.nan, math.inf]),
    "f32": (Float32, pa.float32(), [0.1, 16777216.0, None]),
    "i64": (Int64, pa.int64(), [2**53 + 1, -(2**63), 2**63 - 1]),
    "i64_null": (Int64, pa.int64(), [2**53 + 1, None]),
    "i32": (Int32, pa.int32(), [1, -(2**31), None]),
    "yes": (Bool, pa.bool_(), [True, False]),
    "yes_null": (Bool, pa.bool_(), [True, None, False]),
    "text": (String, pa.string(), ["", 'na"ïve\\ null ],[ ✈ \x00\n', "\U0001f600", None]),
    "no_null": (String, pa.string(), ["null", "a,b"]),
    "bytes": (Bytes, pa.binary(), [b"", b"\xff\x00", None]),
    "time": (UnixTimestamp, pa.timestamp("us", tz="UTC"), [0, 1_700_000_000_000_000, None]),
    "tandem_revision": (Int64, pa.int64(), [0, 1, 2]),
}
VIEW = FeatureView(
    name="v",
    entities=[Entity(name="k", join_keys=["k"], value_type=ValueType.STRING)],
    ttl=timedelta(hours=1),
    source=FileSource(name="s", path="s.parquet", timestamp_field="event_timestamp"),
    schema=[Field(name="k", dtype=String), *(Field(name=name, dtype=kind) for name, (kind, *_) in KINDS.items())],
)


def _packed(n: int, ages: list[int], first: int, longest: int = 0) -> tuple[PackedRows, dict[str, list[Any]], list[int]]:
    """(rows, the values in them by feature, their times); an age below zero: no row."""
    layout = layout_of(VIEW)
    values = {name: [some[(i + first) % len(some)] for i in range(n)] for name, (_, _, some) in KINDS.items()}
    values["text"][-1] = "x" * longest or values["text"][-1]
    times = [NOW - ages[i % len(ages)] - i for i in range(n)]
    cells = layout.pack(np.array(times), [(name, pa.array(values[name], kind)) for name, (_, kind, _) in KINDS.items()])
    assert cells is not None
    there = [ages[i % len(ages)] >= 0 for i in range(n)]
    rows = PackedRows.read(layout, [cell if ok else None for cell, ok in zip(cells.to_pylist(), there)])
    assert rows is not None
    return rows, values, [at if ok else 0 for at, ok in zip(times, there)]


def _right(values: dict[str, list[Any]], times: list[int], places: list[int]) -> bytes:
    return orjson.dumps({"metadata": {"feature_names": list(KINDS)}, "results": _results(values, times, places)})


def _results(values: dict[str, list[Any]], times: list[int], places: list[int]) -> list[dict[str, Any]]:
    results = []
    for name, (_, kind, _) in KINDS.items():
        said: list[Any] = []
        words = []
        for place in places:
            value, at = values[name][place], times[place]
            if kind == pa.float32() and value is not None:
                value = float(np.float32(value))
            old = bool(at) and NOW - at > HOUR and values["tandem_revision"][place] != 0
            word = "NOT_FOUND" if not at else "OUTSIDE_MAX_AGE" if old else "NULL" if value is None else "PRESENT"
            if word == "PRESENT" and isinstance(value, float) and not math.isfinite(value):
                word, value = "NOT_FINITE", None
            if word in ("NOT_FOUND", "OUTSIDE_MAX_AGE"):
                value = None
            if kind == pa.timestamp("us", tz="UTC") and value is not None:
                value = datetime.fromtimestamp(value // 1_000_000, UTC)
            said.append(base64.b64encode(value).decode() if isinstance(value, bytes) else value)
            words.append(word)
        stamps = [format_timestamp(times[place]) for place in places]
        ages = [(NOW - times[place]) / 1e6 if times[place] else None for place in places]
        results.append({"values": said, "statuses": words, "event_timestamps": stamps, "ages": ages})
    return results


@pytest.mark.parametrize("n", [1, 2, 24, 25, 61, 450])
@pytest.mark.parametrize("ages", [[1_000], [1_000, -1, 2 * HOUR, 2 * HOUR]], ids=["present", "all"])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_bytes_are_those_of_one_object_per_value(n: int, ages: list[int], twice: bool) -> None:
    for first in range(7 if n < 3 else 2):
        rows, values, times = _packed(n, ages, first)
        inverse = np.array([i // 2 for i in range(2 * n)]) if twice else None
        plan = ViewPlan(View.of(VIEW), tuple(KINDS), tuple(KINDS), None, None, layout_of(VIEW))
        group = PackedViewRows(plan, rows, inverse, NOW)
        places = list(range(n)) if inverse is None else inverse.tolist()
        made = online_json(list(KINDS), {}, [(group, name) for name in KINDS], len(places))
        assert made == _right(values, times, places)


@pytest.mark.parametrize("sizes", [[3, 2], [30, 61], [25, 3, 40, 25], [1] * 30])
@pytest.mark.parametrize("ages", [[1_000], [1_000, -1, 2 * HOUR, 2 * HOUR]], ids=["present", "all"])
@pytest.mark.parametrize("longest", [0, 20, 300, 5_000])
def test_rows_of_several_reads_are_those_of_each(sizes: list[int], ages: list[int], longest: int) -> None:
    """Whatever the widths that their texts were filled up to, and where one is so long that they were not."""
    plan = ViewPlan(View.of(VIEW), tuple(KINDS), tuple(KINDS), None, None, layout_of(VIEW))
    parts, values, times = [], {name: list[Any]() for name in KINDS}, list[int]()
    for k, n in enumerate(sizes):
        rows, own, at = _packed(n, ages, k, longest if k == 1 else 0)
        parts.append(PackedViewRows(plan, rows, None, NOW))
        times += at
        for name, column in own.items():
            values[name] += column
    whole = PackedViewRows.together(parts)
    n = len(times)
    assert len(whole) == n
    assert online_json(list(KINDS), {}, [(whole, name) for name in KINDS], n) == _right(values, times, list(range(n)))
    for name, (_, kind, _) in KINDS.items():
        codes = whole.statuses_of(name)
        shown = [v if code == PRESENT else None for v, code in zip(values[name], codes.tolist())]
        assert repr(whole.column_of(name).to_pylist()) == repr(pa.array(shown, kind).to_pylist()), name
        assert codes.tolist() == whole.statuses[name].tolist()


@pytest.mark.parametrize("at_once", [1, 25 * len(KINDS) * 2, 10**6], ids=["one view", "two views", "all"])
def test_views_of_one_request_are_those_of_each(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """However many are written at once; some have all their rows, some do not, and one is asked for two of its features alone."""
    monkeypatch.setattr(packed_answer, "_AT_ONCE", at_once)
    pairs: list[tuple[ViewRows, str]] = []
    right: list[dict[str, Any]] = []
    for k, (ages, names) in enumerate([([1_000], list(KINDS)), ([1_000, -1], ["text", "i64_null"]), ([1_000, 2 * HOUR], list(KINDS))] * 2):
        rows, values, times = _packed(25, ages, k)
        plan = ViewPlan(View.of(VIEW), tuple(names), tuple(names), None, None, layout_of(VIEW))
        group = PackedViewRows(plan, rows, None, NOW)
        pairs += [(group, name) for name in names]
        found = dict(zip(KINDS, _results(values, times, list(range(25)))))
        right += [found[name] for name in names]
    asked = [name for _, name in pairs]
    assert online_json(asked, {}, pairs, 25) == orjson.dumps({"metadata": {"feature_names": asked}, "results": right})


def _whole_numbers(n: int, features: int, nulls: int) -> PackedViewRows:
    """N rows of whole numbers; so many features, the first ones, have one null."""
    names = [f"n{i}" for i in range(features)]
    source = FileSource(name="s", path="s.parquet", timestamp_field="event_timestamp")
    view = FeatureView(name="wide", entities=[], source=source, schema=[Field(name=name, dtype=Int64) for name in names])
    numbers = [np.arange(n) + 10**9 * (i + 1) for i in range(features)]
    hide = np.arange(n) == 0
    columns = [(name, pa.array(own, mask=hide if i < nulls else None)) for i, (name, own) in enumerate(zip(names, numbers))]
    layout = layout_of(view)
    cells = layout.pack(np.full(n, NOW), columns)
    assert cells is not None
    rows = PackedRows.read(layout, cells.to_pylist())
    assert rows is not None
    return PackedViewRows(ViewPlan(View.of(view), tuple(names), tuple(names), None, None, layout), rows, None, NOW)


def _beside_what_is_written(groups: list[PackedViewRows]) -> int:
    """Most bytes that writing these takes at once, less those of what it gives."""
    tracemalloc.start()
    try:
        made = written_packed(groups)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    parts = {id(part): len(part) for view in made for values in view.values() for part in values}  # what features share counts once
    return most - sum(parts.values())


def test_memory_is_that_of_one_view_and_a_null_costs_its_own_feature() -> None:
    """Of many rows of many views: not the arrays of all at once, nor objects for features that have no null."""
    n, features, views = 2_000, 20, 10
    one = _beside_what_is_written([_whole_numbers(n, features, nulls=0)])
    assert one > 8 * n * features, "an array of the view's values at least"
    groups = [_whole_numbers(n, features, nulls=int(k == 0)) for k in range(views)]
    assert _beside_what_is_written(groups[:1]) < 2 * one
    assert _beside_what_is_written(groups) < 3 * one


def test_a_wide_view_with_nulls_in_all_its_features_is_no_object_per_value_at_once() -> None:
    n, features = 1_000, 200
    plain = _beside_what_is_written([_whole_numbers(n, features, nulls=0)])
    assert _beside_what_is_written([_whole_numbers(n, features, nulls=features)]) < 2 * plain


def test_lists_are_left_to_arrow() -> None:
    view = FeatureView(
        name="lists",
        entities=[],
        source=FileSource(name="s", path="s.parquet", timestamp_field="event_timestamp"),
        schema=[Field(name="list", dtype=Array(Float64)), Field(name="n", dtype=Int64)],
    )
    layout = layout_of(view)
    cells = layout.pack(np.array([NOW]), [("n", pa.array([7]))])
    assert cells is not None
    rows = PackedRows.read(layout, cells.to_pylist())
    assert rows is not None
    plan = ViewPlan(View.of(view), ("list", "n"), ("list", "n"), None, None, layout)
    group = PackedViewRows(plan, rows, None, NOW)
    found = orjson.loads(online_json(["list", "n"], {}, [(group, "list"), (group, "n")], 1))["results"]
    assert [column["values"] for column in found] == [[None], [7]]
    assert [column["statuses"] for column in found] == [["NULL"], ["PRESENT"]]
