"""Comparing rows cell by cell and bit by bit, against a plain loop over Python values."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.lake.row_compare import codes, compare, locate, newest, same
from tests.examples import examples
from tests.oracle.strategies import FLOATS, INTS, TEXTS
from transforms.definitions import TIMESTAMP
from transforms.errors import DataError

NANS = [struct.unpack(">d", bytes.fromhex(h))[0] for h in ("7ff8000000000000", "7ff8000000000001", "fff8000000000000")]
TYPES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.float64(): st.sampled_from([*FLOATS, math.inf, *NANS]),
    pa.float32(): st.sampled_from([0.0, -0.0, 1.5, math.inf, math.nan, -2.0]),
    pa.int64(): st.sampled_from(INTS),
    pa.string(): st.sampled_from(TEXTS),
    pa.bool_(): st.booleans(),
    TIMESTAMP: st.integers(0, 3),
}
LISTS = {pa.list_(k): st.lists(st.none() | v, max_size=3) for k, v in TYPES.items() if k != TIMESTAMP}


def bits(value: Any, kind: pa.DataType) -> Any:
    """A value of a type as something that Python's == compares bit by bit."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [bits(v, kind.value_type) for v in value]
    return struct.pack(">f" if kind == pa.float32() else ">d", value) if pa.types.is_floating(kind) else value


def chunked(draw: Any, values: list[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """The values in pieces, each a slice of something longer."""
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=2)))
    pieces = [values[a:b] for a, b in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    return pa.chunked_array([pa.array([None, *p, None], type=kind).slice(1, len(p)) for p in pieces], type=kind)


@given(st.data())
@settings(max_examples=examples(300))
def test_same_is_equality_of_the_bits(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([*TYPES, *LISTS]))
    values = st.none() | {**TYPES, **LISTS}[kind]
    pairs = data.draw(st.lists(st.tuples(values, values) | values.map(lambda v: (v, v)), max_size=12))
    a, b = ([p[i] for p in pairs] for i in (0, 1))
    got = same(chunked(data.draw, a, kind), chunked(data.draw, b, kind)).tolist()
    plain = pa.array(a, type=kind).to_pylist(), pa.array(b, type=kind).to_pylist()
    assert got == [bits(x, kind) == bits(y, kind) for x, y in zip(*plain, strict=True)]


def test_values_of_other_types_are_never_the_same() -> None:
    assert same(pa.array([1, None]), pa.array([1.0, None])).tolist() == [False, True]
    assert same(pa.nulls(2), pa.array(["a", None])).tolist() == [False, True]


@given(st.data())
@settings(max_examples=examples(100))
def test_codes_are_equal_for_equal_rows(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=3))
    n = data.draw(st.integers(0, 12))
    columns = [pa.array(data.draw(st.lists(st.none() | TYPES[k], min_size=n, max_size=n)), type=k) for k in kinds]
    rows = [[bits(v, k) for v, k in zip(row, kinds, strict=True)] for row in zip(*(c.to_pylist() for c in columns), strict=True)]
    code = codes(columns).tolist()
    assert all((code[i] == code[j]) == (rows[i] == rows[j]) for i in range(n) for j in range(n))


NAMES = st.tuples(st.sampled_from(["EWR", "JFK", "", "é"]), st.integers(0, 2), st.integers(0, 3))
VALUES = st.fixed_dictionaries(
    {
        "x": st.none() | TYPES[pa.float64()],
        "last": st.lists(st.none() | st.integers(0, 2), max_size=3),
        "tandem_revision": st.integers(1, 3),
    }
)
SCHEMA = pa.schema(
    [
        pa.field("origin", pa.string()),
        pa.field("gate", pa.int64()),
        pa.field("event_timestamp", TIMESTAMP),
        pa.field("x", pa.float64()),
        pa.field("last", pa.list_(pa.int64())),
        pa.field("tandem_revision", pa.int64()),
        pa.field("tandem_fingerprint", pa.string()),
        pa.field("created_timestamp", TIMESTAMP),
    ]
)
KEYS = ("origin", "gate")


def table(rows: list[tuple[tuple[Any, ...], dict[str, Any]]], fingerprint: str = "f", created: int = 1) -> pa.Table:
    dicts = [
        {"origin": k[0], "gate": k[1], "event_timestamp": k[2], **v, "tandem_fingerprint": fingerprint, "created_timestamp": created}
        for k, v in rows
    ]
    return pa.Table.from_arrays([pa.array([d[f.name] for d in dicts], f.type) for f in SCHEMA], schema=SCHEMA)


@given(st.dictionaries(NAMES, VALUES, max_size=10), st.dictionaries(NAMES, VALUES, max_size=10), st.data())
@settings(max_examples=examples(200))
def test_compare_is_a_loop_over_cells(left: dict[Any, Any], right: dict[Any, Any], data: st.DataObject) -> None:
    for name in left:  # most rows of both sides are alike
        if data.draw(st.booleans()):
            right[name] = dict(left[name])
    batch = data.draw(st.permutations(list(left.items())))
    stream = data.draw(st.permutations(list(right.items())))
    c = compare("g", KEYS, table(batch), table(stream, "other", 9))
    names = [tuple(r.values()) for r in c.names.set_column(2, "event_timestamp", pa.array(c.event_us)).to_pylist()]
    assert sorted(names, key=repr) == sorted(left.keys() | right.keys(), key=repr)
    assert names[: len(batch)] == [n for n, _ in batch]
    assert [n for n, m in zip(names, c.missing, strict=True) if m] == [n for n in names if n not in right]
    assert [n for n, m in zip(names, c.extra, strict=True) if m] == [n for n in names if n not in left]
    assert set(c.unequal) == {"x", "last", "tandem_revision"}
    kinds = {f.name: f.type for f in SCHEMA}
    for column, wrong in c.unequal.items():
        want = [n in left and n in right and bits(left[n][column], kinds[column]) != bits(right[n][column], kinds[column]) for n in names]
        assert wrong.tolist() == want
    assert c.odd.tolist() == [n not in left or n not in right or bool(d) for n, d in zip(names, c.different, strict=True)]


def test_a_column_that_one_side_lacks_differs_where_the_other_has_a_value() -> None:
    rows = table(
        [(("EWR", 0, 0), {"x": 1.0, "last": [], "tandem_revision": 1}), (("EWR", 0, 1), {"x": None, "last": [], "tandem_revision": 1})]
    )
    assert compare("g", KEYS, rows, rows.drop(["x"])).unequal["x"].tolist() == [True, False]


def test_two_rows_of_one_name_are_refused() -> None:
    row = (("EWR", 0, 0), {"x": 1.0, "last": [], "tandem_revision": 1})
    with pytest.raises(DataError, match="group 'g': two stream rows have the same keys and event timestamp"):
        compare("g", KEYS, table([row]), table([row, row]))


@given(st.lists(st.tuples(NAMES, VALUES, st.sampled_from("ab")), max_size=14))
@settings(max_examples=examples(200))
def test_newest_is_the_last_of_the_greatest_revision(log: list[Any]) -> None:
    delivered = pa.concat_tables([table([(n, v)], f) for n, v, f in log]) if log else table([])
    found = newest(delivered, KEYS)
    want: dict[Any, tuple[int, Any, str]] = {}
    for place, (name, values, fingerprint) in enumerate(log):
        if name not in want or values["tandem_revision"] >= want[name][1]["tandem_revision"]:
            want[name] = place, values, fingerprint
    in_order = sorted(want.items(), key=lambda item: item[1][0])
    expected = pa.concat_tables([table([(n, v)], f) for n, (_, v, f) in in_order]) if log else table([])
    assert compare("g", KEYS, expected, found.rows).odd.sum() == 0
    assert found.rows.num_rows == len(want)
    for i, (name, (_, values, fingerprint)) in enumerate(in_order):
        of_name = [(v, f) for n, v, f in log if n == name]
        assert found.deliveries[i] == len(of_name)
        assert found.revisions[i] == len({v["tandem_revision"] for v, _ in of_name})
        assert found.conflicts[i] == sum(
            v["tandem_revision"] == values["tandem_revision"]
            and f == fingerprint
            and any(bits(v[c], SCHEMA.field(c).type) != bits(values[c], SCHEMA.field(c).type) for c in ("x", "last"))
            for v, f in of_name
        )


def test_locate_finds_the_last_of_equal_rows() -> None:
    rows = table([(("EWR", 0, i), {"x": float(i), "last": [], "tandem_revision": 1}) for i in (0, 1, 1)])
    wanted = table([(("EWR", 0, i), {"x": 0.0, "last": [], "tandem_revision": 1}) for i in (1, 2, 0)])
    assert locate(wanted, rows, ["origin", "event_timestamp"]).tolist() == [2, -1, 0]
    assert locate(wanted.slice(0, 0), rows, ["origin"]).tolist() == []
    assert locate(wanted, rows.slice(0, 0), ["origin"]).tolist() == [-1, -1, -1]
    assert isinstance(newest(rows, KEYS).deliveries, np.ndarray)
