"""A digest of rows: the same for the same rows in any order and batches, another where any value, column or number of one is another."""

from __future__ import annotations

import decimal
import random
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.tables.rows_digest import RowsDigest
from tests.examples import examples

D = decimal.Decimal
COLUMNS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["", "a", "b", "\u00fc" * 9, "a\0"]), "large": (pa.large_string(), ["", "a", "ab"]),
    "bytes": (pa.binary(), [b"", b"\xff", b"\xff\0"]), "big": (pa.int64(), [0, 1, -1, 2**63 - 1]), "small": (pa.int8(), [0, 1, -1]),
    "unsigned": (pa.uint64(), [0, 1, 2**64 - 1]), "real": (pa.float64(), [0.5, 0.0, 1e300]), "half": (pa.float32(), [0.5, 0.25]),
    "flag": (pa.bool_(), [True, False]), "day": (pa.date32(), [date(2024, 1, 1), date(2024, 1, 2)]),
    "at": (pa.timestamp("us", "UTC"), [datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)]),
    "clock": (pa.time64("us"), [time(1), time(2)]), "took": (pa.duration("us"), [timedelta(1), timedelta(2)]),
    "money": (pa.decimal128(38, 9), [D("1.1"), D("1.2"), D(-10**20)]), "word": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
    "list": (pa.list_(pa.int64()), [[], [1], [1, 2]]), "inner": (pa.struct([("x", pa.string())]), [{"x": "a"}, {"x": None}]),
}  # fmt: skip
SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])
ROWS = st.lists(st.fixed_dictionaries({name: st.sampled_from([None, *values]) for name, (_, values) in COLUMNS.items()}), max_size=12)


def digest(rows: list[dict[str, Any]], sizes: int = 100, schema: pa.Schema = SCHEMA) -> str:
    made = RowsDigest()
    for begin in range(0, max(1, len(rows)), sizes):
        made.add(pa.RecordBatch.from_pylist(rows[begin : begin + sizes], schema=schema))
    assert made.rows == len(rows)
    return made.hexdigest()


@settings(max_examples=examples(60))
@given(ROWS, ROWS, st.integers(1, 5), st.randoms(use_true_random=False))
def test_equal_exactly_for_the_same_rows(rows: list[dict[str, Any]], others: list[dict[str, Any]], sizes: int, r: random.Random) -> None:
    shuffled = list(rows)
    r.shuffle(shuffled)
    assert digest(shuffled, sizes) == digest(rows)
    same = sorted(map(repr, rows)) == sorted(map(repr, others))
    assert (digest(others) == digest(rows)) == same
    assert digest([*rows, *rows[:1]]) != digest(rows) or not rows


@pytest.mark.parametrize("name", COLUMNS)
def test_every_value_of_every_type_counts(name: str) -> None:
    kind, values = COLUMNS[name]
    schema = pa.schema([("id", pa.int64()), (name, kind)])
    found = {digest([{"id": 1, name: value}], schema=schema) for value in [None, *values]}
    assert len(found) == len(values) + 1


def test_columns_count() -> None:
    rows = [{"a": "x", "b": "y"}]
    both = [pa.schema([("a", pa.string()), ("b", pa.string())]), pa.schema([("b", pa.string()), ("a", pa.string())])]
    assert len({digest(rows, schema=schema) for schema in both} | {digest([{"a": "y", "b": "x"}], schema=both[0])}) == 3
    moments = [{"at": 5}]
    assert digest(moments, schema=pa.schema([("at", pa.timestamp("s"))])) != digest(moments, schema=pa.schema([("at", pa.timestamp("us"))]))
