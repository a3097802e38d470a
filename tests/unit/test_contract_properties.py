"""The contract's properties: no verdict depends on what else is in the batch, nor on how it is read; a valid batch survives."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.unit.contract_records import AHEAD, ARROW_CASES, GOOD, NAMES, NOW, SIXTY_DAYS, SOURCE, T, arrow, judge, payload, verdicts
from transforms import contract, json_columns
from transforms.contract import Checked, check, check_json, encode_json

anything = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.lists(st.integers(), max_size=2),
    st.sampled_from([0, -0.0, 2**53 + 1, 2**63, 1e300, "EWR", "\ud800", T, "2023-11-14T22:13:19Z", "2023-11-14"]),
)  # fmt: skip
records = st.dictionaries(st.sampled_from([*NAMES, "extra"]), anything, max_size=4).map(lambda d: payload(**d))
any_payload = st.one_of(records, records, records, st.binary(max_size=8), st.none())


def same(one: Checked, many: list[Checked]) -> None:
    assert one.reasons.to_pylist() == [v for c in many for v in c.reasons.to_pylist()]
    assert one.details.to_pylist() == [v for c in many for v in c.details.to_pylist()]
    assert one.times.to_pylist() == [v for c in many for v in c.times.to_pylist()]
    assert pa.Table.from_batches([one.valid]).equals(pa.Table.from_batches([c.valid for c in many]))


@settings(max_examples=examples(300))
@given(st.lists(any_payload, min_size=1, max_size=12), st.data())
def test_the_verdict_on_payloads_is_that_of_any_split(payloads: list[bytes | None], data: st.DataObject) -> None:
    cuts = sorted({0, len(payloads), *data.draw(st.lists(st.integers(0, len(payloads)), max_size=4))})
    whole = judge(*payloads)
    same(whole, [judge(*payloads[a:b]) for a, b in itertools.pairwise(cuts)])
    same(whole, [judge(p) for p in payloads])


@settings(max_examples=examples(100))
@given(st.data())
def test_the_verdict_on_rows_is_that_of_any_split(data: st.DataObject) -> None:
    name, column, _ = data.draw(st.sampled_from(ARROW_CASES))
    picks = data.draw(st.lists(st.integers(0, len(column) - 1), min_size=1, max_size=10))
    batch = arrow(**{name: column.take(pa.array(picks))})
    cut = data.draw(st.integers(0, len(picks)))
    parts = [batch.slice(0, cut), batch.slice(cut)]
    same(check(batch, SOURCE, NOW, AHEAD), [check(p, SOURCE, NOW, AHEAD) for p in parts])


TOKENS = [
    "0", "-0", "-0.0", "1", "5", "5.0", "1e2", "2E+1", "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807",
    "9223372036854775808", "1e999", "1e-400", "5e-324", "0.1", "123456789012345678901234567890", "9" * 500, "NaN", "Infinity",
    "-Infinity", "Inf", "-Inf", "nan", "01", "1.", ".5", "+1", "0x1", "true", "false", "null", "nul", '"EWR"', '"JFK"', '""', '"a:b"',
    '"{"', '"}"', '"[]"', '"x', '"\\u0041"', '"\\ud800"', '"\t"', '"\x7f"', '"é"', "[1]", "{}", '{"a":1}', "'x'", str(T), f"{T}.0",
    '"2023-11-14T22:13:19Z"', '"\udcff"', "",
]  # fmt: skip
KEYS = [*NAMES, "extra", "extra2", "", "é", "departed_\\u0061t"]
BEFORE = ["", " ", "[", "\ufeff", "{", "{},", "\0"]
AFTER = ["", " ", "\n", "]", "}", ",", ",}", "]}", "\0}", "{}", "//}", ",{}", "\0"]


def text(changes: list[tuple[str, str]], before: str = "", gap: str = "", after: str = "") -> bytes:
    """A payload put together from pieces that need not be JSON; a key may be there twice."""
    base = {**GOOD, "real": 0.25}  # a real beyond 2^53 is never accepted by columns
    pairs = [(k, json.dumps(v, ensure_ascii=False)) for k, v in base.items() if all(k != m for m, _ in changes)] + changes
    inner = ",".join(f'"{k}"{gap}:{gap}{v}' for k, v in pairs)
    return (before + "{" + inner + "}" + after).encode("utf-8", "surrogateescape")


def judged_alike(payloads: Sequence[bytes | None]) -> None:
    """By columns and one by one: the same verdicts, details and values."""
    nows = np.arange(NOW, NOW + len(payloads))
    slow = check_json(payloads, SOURCE, nows, AHEAD)
    with mock.patch.object(contract, "_COLUMNAR_FROM", 1), mock.patch.multiple(json_columns, SMALLEST=1, LEAST_FAILURES=10**9):
        fast = check_json(pa.array(payloads, pa.binary()), SOURCE, nows, AHEAD)
        cut = check_json(pa.array([b"?", *payloads, b"?"], pa.binary())[1:-1], SOURCE, nows, AHEAD)
    for other in (fast, cut):
        same(slow, [other])
        for name in ("delay", "real"):
            at = NAMES.index(name)
            assert not any(v == 0 and math.copysign(1, v) < 0 for v in other.valid.column(at).to_pylist())


def test_reading_by_columns_changes_no_verdict() -> None:
    one_change = [text([(k, v)]) for k in KEYS for v in TOKENS]
    judged_alike(one_change)
    judged_alike([text([], before, gap, after) for before in BEFORE for gap in ("", " ", "\n") for after in AFTER])
    judged_alike([text([(k, "null"), (k, v)]) for k in KEYS for v in ("null", "1")])
    for payloads in ([text([])] * 3, [b"{}"] * 3, [b"", None], [None], []):
        judged_alike(payloads)
    for after in AFTER:  # what a reader that stops early would not see
        judged_alike([text([]), text([], "", "", after)])
        judged_alike([text([], "", "", after), text([])])
    for odd in one_change[::7]:
        judged_alike([text([]), odd, text([("legs", "4")])])


changes = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(TOKENS)), max_size=2)
texts = st.builds(text, changes, st.sampled_from([""] * 20 + BEFORE), st.sampled_from(["", "", " "]), st.sampled_from([""] * 20 + AFTER))


@settings(max_examples=examples(150))
@given(st.lists(st.one_of(texts, texts, texts, any_payload), min_size=1, max_size=20))
def test_reading_any_batch_by_columns_changes_no_verdict(payloads: list[bytes | None]) -> None:
    judged_alike(payloads)


def test_plain_payloads_are_read_by_columns() -> None:
    """Else the equality above says nothing."""
    from transforms.json_columns import read_columns

    rows = [
        payload(),
        payload(extra="x", more=1.5),
        b"",
        None,
        payload(extra=[1]),
        payload(flight_id="\\"),
        b"{}",
        payload(legs="x"),
        b'{"a":1}]}',
    ]
    schema = pa.schema([("departed_at", pa.int64()), ("flight_id", pa.string()), ("legs", pa.int64())])
    rows[0] = rows[0].replace(b"\\u00e9", "é".encode()) if rows[0] else rows[0]
    rows[1] = rows[1].replace(b"\\u00e9", "é".encode()) if rows[1] else rows[1]
    with mock.patch.multiple(json_columns, SMALLEST=1, LEAST_FAILURES=10**9):
        parts = list(read_columns(pa.array(rows * 3, pa.binary()), schema))
    assert sorted(i for at, _ in parts for i in at.tolist()) == [i + 9 * k for k in range(3) for i in (0, 1, 6)]
    assert all(len(at) == batch.num_rows and batch.schema.equals(schema) for at, batch in parts)


def test_large_batches_are_read_in_pieces() -> None:
    with mock.patch.object(json_columns, "CHUNK_BYTES", 500):
        checked = check_json(pa.array([payload(flight_id="F", legs=i % 50) for i in range(200)], pa.binary()), SOURCE, NOW, AHEAD)
    assert verdicts(checked) == [None if i % 50 <= 40 else "out_of_range" for i in range(200)]
    assert checked.valid.column(NAMES.index("legs")).to_pylist() == [i % 50 for i in range(200) if i % 50 <= 40]


valid_rows = st.lists(
    st.fixed_dictionaries(
        {
            "departed_at": st.integers(SIXTY_DAYS, NOW + AHEAD),
            "flight_id": st.text(),
            "origin": st.sampled_from(["EWR", "JFK"]),
            "delay": st.none() | st.floats(-120, 3000).map(lambda x: x + 0.0),
            "legs": st.none() | st.integers(-5, 40),
            "big": st.none() | st.integers(-(2**63), 2**63 - 1),
            "real": st.none() | st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0),
            "diverted": st.none() | st.booleans(),
            "landed_at": st.none() | st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
        }
    ),
    max_size=8,
)


@settings(max_examples=examples(200))
@given(valid_rows)
def test_a_valid_batch_survives_check_and_json_exactly(rows: list[dict[str, Any]]) -> None:
    columns = [pa.array([r[f.name] for r in rows], f.type) for f in SOURCE.arrow_schema]
    batch = pa.RecordBatch.from_arrays(columns, schema=SOURCE.arrow_schema)
    checked = check(batch, SOURCE, NOW, AHEAD)
    assert verdicts(checked) == [None] * len(rows), checked.details
    back = check_json(encode_json(checked.valid), SOURCE, NOW, AHEAD)
    assert checked.valid.equals(batch)
    assert back.valid.equals(batch)
    for name in ("delay", "real"):
        at = NAMES.index(name)
        bits = [np.asarray(b.column(at).fill_null(0.0)).view(np.int64).tolist() for b in (batch, back.valid)]
        assert bits[0] == bits[1]
    assert encode_json(back.valid).equals(encode_json(batch))
