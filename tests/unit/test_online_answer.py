"""The answer written from columns has the bytes that one object per value would have, for every type, NaN and infinity, null and status."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from serving.answer_columns import Columns
from serving.answer_parts import NOT_FINITE, stamps_json
from serving.online_answer import online_json
from serving.protocol import format_timestamp
from serving.read_plan import STATUSES, ViewRows

INF = math.inf
KINDS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "f64": (pa.float64(), [0.1, -0.0, 1e300, 5e-324, None, 123456789.123, 1e16, -1.5]),
    "odd": (pa.float64(), [math.nan, INF, -INF, 1.0, None, 0.0]),
    "f32": (pa.float32(), [0.1, 16777216.0, None, 1e-30]),
    "f32_odd": (pa.float32(), [0.1, INF, None, math.nan]),
    "i64": (pa.int64(), [2**53 + 1, -(2**63), 2**63 - 1, 0]),
    "i64_null": (pa.int64(), [2**53 + 1, None, 0]),
    "i32": (pa.int32(), [1, -(2**31), None]),
    "bool": (pa.bool_(), [True, False]),
    "bool_null": (pa.bool_(), [True, None]),
    "text": (pa.string(), ["", 'na"ïve\\ ✈ \x00\n', "\U0001f600", None]),
    "bytes": (pa.binary(), [b"", b"\xff\x00", None]),
    "time": (pa.timestamp("us", tz="UTC"), [0, 1_700_000_000_000_000, 1, None, -5]),
    "list": (pa.list_(pa.float64()), [[], [0.5, math.nan], None, [1.0]]),
    "texts": (pa.list_(pa.string()), [["a"], None, []]),
    "raws": (pa.list_(pa.binary()), [[b"a"], None]),
}
TIMES = [0, 1, 1_000, 1_000_000, 1_700_000_000_123_456, 1_700_000_000_120_000, -1, -62_135_596_800_000_000, 253_402_300_799_999_999]


def one_by_one(names: list[str], given: Mapping[str, list[Any]], pairs: list[tuple[ViewRows, str]], n: int) -> bytes:
    """What is right, value by value."""
    results: list[dict[str, Any]] = [
        {"values": v, "statuses": ["PRESENT"] * n, "event_timestamps": [format_timestamp(0)] * n, "ages": [None] * n}
        for v in given.values()
    ]
    for group, feature in pairs:
        values, words = group.columns[feature].to_pylist(), [STATUSES[s] for s in group.statuses[feature].tolist()]
        for i, value in enumerate(values):
            some = value if isinstance(value, list) else [value]
            if any(isinstance(v, float) and not math.isfinite(v) for v in some):
                words[i] = NOT_FINITE
        stamps = [format_timestamp(t) for t in group.timestamps_us.tolist()]
        results.append({"values": [_plain(v) for v in values], "statuses": words, "event_timestamps": stamps, "ages": group.ages.tolist()})
    return orjson.dumps({"metadata": {"feature_names": names}, "results": results})


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _rows(n: int, statuses: list[int], as_lists: bool, first: int) -> ViewRows:
    columns = Columns()
    for name, (kind, values) in KINDS.items():
        some = [values[(i + first) % len(values)] for i in range(n)]
        if as_lists and not pa.types.is_list(kind):
            columns.set_list(name, pa.array(some, kind).to_pylist() if pa.types.is_floating(kind) else some, kind)
        else:
            columns.set_array(name, pa.array(some, kind))
    codes = np.array([statuses[i % len(statuses)] for i in range(n)], np.uint8)
    times = np.array([TIMES[(i + first) % len(TIMES)] for i in range(n)], np.int64)
    ages = np.where(codes == 2, np.nan, (1_700_000_001_000_000 - times) / 1e6)
    return ViewRows("v", columns, dict.fromkeys(KINDS, codes), codes, times, ages, [None] * n, [None] * n, 0)


@pytest.mark.parametrize("n", [1, 2, 9, 30, 301])
@pytest.mark.parametrize("statuses", [[0], [0, 1, 2, 3]], ids=["present", "all"])
@pytest.mark.parametrize("as_lists", [True, False], ids=["lists", "arrays"])
def test_bytes_are_those_of_one_object_per_value(n: int, statuses: list[int], as_lists: bool) -> None:
    groups = [_rows(n, statuses, as_lists, first) for first in range(9 if n < 9 else 2)]
    for group in groups:
        pairs = [(group, feature) for feature in KINDS] + [(groups[0], "f64")]
        given: dict[str, list[Any]] = {"city": [f"c{i}" for i in range(n)], "number": list(range(n)), "known": [None] * n}
        names = [*given, *(feature for _, feature in pairs)]
        assert online_json(names, given, pairs, n) == one_by_one(names, given, pairs, n)


@pytest.mark.parametrize("step", [1_000_000, 1_000, 1, 86_399_123_457])
@pytest.mark.parametrize("n", [24, 25, 399, 400, 1_000])
def test_many_times_are_written_as_each_alone(n: int, step: int) -> None:
    for start in (0, -62_135_596_800_000_000, 1_735_689_599_000_000, 1_735_689_598_999_001):
        times = start + np.arange(n) * step
        assert stamps_json(times) == orjson.dumps([format_timestamp(at) for at in times.tolist()])
