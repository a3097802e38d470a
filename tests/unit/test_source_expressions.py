"""Computed fields and ``where`` of a source: JSON, records and columns judged alike, each record for itself, as plain Python says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from tests.examples import examples
from tests.oracle import expressions as oracle
from transforms.contract import check, check_json, check_records
from transforms.definitions import EventSource, Field, case, coalesce, col, when
from transforms.expressions import formula_of

NOW = 2 * 10**15
AT = 1_714_557_660_000_000
NET = col("amount") / col("parts") - coalesce(col("fee"), 0)
WHERE = (col("kind") == "order") & (col("amount") >= 0)
SHOP = EventSource(
    "shop",
    [
        Field("id", "string", required=True),
        Field("kind", "string"),
        Field("amount", "float64", max=1000),
        Field("parts", "int64"),
        Field("fee", "float64"),
        Field("net", "float64", value=NET, min=-50),
        Field("size", "string", value=case(when(col("net") > 10, "big"), otherwise="small")),
        Field("twice", "int64", value=col("parts") * 2),
    ],
    "at",
    "id",
    where=WHERE,
)
PLAIN = {f.name: str(f.dtype) for f in SHOP.all_fields if f.value is None}


def events() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "id": st.sampled_from(["a", "b", None]),
            "kind": st.sampled_from(["order", "order", "click", None, 7]),
            "amount": st.sampled_from([5.0, 250.0, -1.0, 2000.0, None, "five", float("nan"), 1e308]),
            "parts": st.sampled_from([1, 4, 0, None, 2**62]),
            "fee": st.sampled_from([None, 0.5, 70.0, "free"]),
            "at": st.sampled_from([AT, AT, "2024-05-01T10:00:00Z", None, "noon"]),
        }
    )


def verdict(event: dict[str, Any]) -> Any:
    """As docs/semantics.md has it: read, compute, filter, then the contract. The event, "filtered", or the reasons that may be told."""
    read: dict[str, Any] = {}
    kinds = {"string": str, "int64": int, "float64": (int, float)}
    for name, dtype in PLAIN.items():
        value = event.get(name)
        if dtype == "timestamp":
            times: dict[Any, Any] = {"2024-05-01T10:00:00Z": AT - 60_000_000, "noon": oracle.Fault("wrong_type_timestamp")}
            read[name] = times.get(value, value)
        elif value is not None and not isinstance(value, kinds[dtype]):  # type: ignore[arg-type]
            read[name] = oracle.Fault("wrong_type")
        else:
            read[name] = value
    for name, e in (("net", NET), ("size", SHOP.fields[6].value), ("twice", SHOP.fields[7].value)):
        try:
            read[name] = oracle.value(formula_of(e), read, PLAIN | {"net": "float64"})
        except oracle.Fault as fault:
            read[name] = fault
    try:
        if oracle.value(formula_of(WHERE), read, PLAIN) is not True:
            return "filtered"
    except oracle.Fault as fault:
        read["where"] = fault
    reasons = {str(v) for v in read.values() if isinstance(v, oracle.Fault)}
    reasons |= {"missing_timestamp"} if read["at"] is None else set()
    reasons |= {"missing_field"} if read["id"] is None else set()
    amount = read["amount"]
    if isinstance(amount, float) and amount != amount:
        reasons |= {"nan"}
    if isinstance(amount, float) and amount > 1000:
        reasons |= {"out_of_range"}
    if isinstance(read["net"], float) and read["net"] < -50:
        reasons |= {"out_of_range"}
    return reasons or read


def told(checked: Any) -> list[Any]:
    """ "filtered", the reason, or the values of each record."""
    out: list[Any] = [r if r is not None else "filtered" for r in checked.reasons.to_pylist()]
    for row, event in zip(checked.accepted.tolist(), checked.valid.to_pylist(), strict=True):
        out[row] = event
    assert checked.passed_over == out.count("filtered")
    return out


@settings(max_examples=examples(60))
@given(log=st.lists(events(), min_size=1, max_size=12))
def test_read_compute_filter_then_the_contract(log: list[dict[str, Any]]) -> None:
    payloads = [json.dumps(e).encode() for e in log]
    got = told(check_json(payloads, SHOP, NOW, 0))
    for event, found in zip(log, got, strict=True):
        want = verdict(event)
        if isinstance(want, set):
            assert found in want, (event, found, want)
        elif want == "filtered":
            assert found == "filtered", (event, found)
        else:
            assert {k: found[k] for k in ("net", "size", "twice", "amount")} == {k: want[k] for k in ("net", "size", "twice", "amount")}
    alone = [told(check_json([p], SHOP, NOW, 0))[0] for p in payloads]
    assert alone == got == told(check_json(pa.array(payloads, pa.binary()), SHOP, NOW, 0))
    many = told(check_json(pa.array(payloads * 40, pa.binary()), SHOP, NOW, 0))
    assert many == got * 40
    assert told(check_records(log, {}, SHOP, NOW, 0)) == got


def test_columns_are_judged_as_records_are() -> None:
    log = [
        {"id": str(n), "kind": kind, "amount": amount, "parts": parts, "fee": fee, "at": AT}
        for n, (kind, amount, parts, fee) in enumerate(
            (k, a, p, f)
            for k in ("order", "click", None)
            for a in (5.0, -1.0, 2000.0, None, 1e308)
            for p in (1, 0, None, 2**62)
            for f in (None, 70.0)
        )
    ]
    batch = pa.RecordBatch.from_pylist(log)
    rows = told(check(batch, SHOP, NOW, 0))
    assert rows == told(check_json([json.dumps(e).encode() for e in log], SHOP, NOW, 0))
    assert {"filtered", "infinite", "overflow", "out_of_range"} <= {r for r in rows if isinstance(r, str)}
    assert np.array_equal(check(batch.slice(7, 9), SHOP, NOW, 0).accepted, [n for n, r in enumerate(rows[7:16]) if isinstance(r, dict)])


@pytest.mark.parametrize(
    ("event", "says"),
    [
        ({"parts": 0}, 'net=None is (col("amount") / col("parts")) - coalesce(col("fee"), 0), which has no value that can be held,'
         " of amount=5.0, fee=None, parts=0"),
        ({"amount": "5"}, "amount='5' is no float64"),
        ({"parts": 2**62}, 'net=None is (col("amount") / col("parts")) - coalesce(col("fee"), 0), which has no value that can be held,'
         " of amount=5.0, fee=None, parts=4611686018427387904"),
        ({"fee": 70.0}, "net=-65.0 is outside of -50 to any"),
        ({"kind": 7}, "kind=7 is no string; the field's parse=Text() reads it"),
    ],
)  # fmt: skip
def test_a_reject_says_what_was_computed(event: dict[str, Any], says: str) -> None:
    checked = check_json([json.dumps({"id": "a", "kind": "order", "amount": 5.0, "parts": 1, "at": AT} | event).encode()], SHOP, NOW, 0)
    assert checked.details.to_pylist() == [says]


@pytest.mark.parametrize(
    ("local", "says"),
    [
        ("2024-03-31T02:30:00Z", "2024-03-31 02:30:00 is not there, as clocks are put forward in Europe/Berlin at that time;"
         ' choose one: from_local(..., missing="earlier" or "later")'),
        ("2024-10-27T02:30:00Z", "2024-10-27 02:30:00 is there twice, as clocks are put back in Europe/Berlin at that time;"
         ' choose one: from_local(..., ambiguous="earlier" or "later")'),
    ],
)  # fmt: skip
def test_a_reject_says_where_clocks_change(local: str, says: str) -> None:
    fields = [Field("id", "string", required=True), Field("shown", "timestamp"), Field("net", "float64")]
    moment = Field("moment", "timestamp", value=(col("shown") + timedelta(0)).from_local("Europe/Berlin"))
    record = json.dumps({"id": "a", "shown": local, "at": AT}).encode()
    good = json.dumps({"id": "b", "shown": "2024-05-01T02:30:00Z", "at": AT}).encode()
    checked = check_json([good, record], EventSource("s", [*fields, moment], "at", "id"), NOW, 0)
    assert checked.reasons.to_pylist() == [None, "wrong_type"]
    assert checked.details[1].as_py() == f"moment=None is {moment.value}, which has no value: {says}"
    where = EventSource("s", fields, "at", "id", where=col("shown").from_local("Europe/Berlin") > datetime(2020, 1, 1, tzinfo=UTC))
    assert check_json([good, record], where, NOW, 0).details[1].as_py().endswith(f" has no value: {says}")


def test_a_filter_that_has_no_value_makes_a_dead_letter() -> None:
    source = EventSource("s", [Field("id", "string", required=True), Field("n", "int64")], "at", "id", where=col("n") * 2**40 > 0)
    checked = check_json([json.dumps({"id": "a", "n": n, "at": AT}).encode() for n in (1, 2**40, -1, None)], source, NOW, 0)
    assert checked.reasons.to_pylist() == [None, "overflow", None, None] and checked.accepted.tolist() == [0] and checked.passed_over == 2
    assert checked.details[1].as_py() == 'where: (col("n") * 1099511627776) > 0 has no value that can be held, of n=1099511627776'


def test_what_a_filter_lets_pass_and_the_contract_refuses_is_a_dead_letter() -> None:
    """Parts that no accepted event passes have a meaning: the filter is asked first."""
    kind = Field("kind", "string", required=True, domain=["a", "b"])
    where = col("kind").is_null() | (col("kind") == "legacy") | (col("n") > 3)
    source = EventSource("s", [Field("id", "string", required=True), kind, Field("n", "int64", max=9)], "at", "id", where=where)
    events: list[dict[str, Any]] = [
        {"kind": None, "n": 1},
        {"n": 1},
        {"kind": "legacy", "n": 1},
        {"kind": "a", "n": 4},
        {"kind": "a", "n": 1},
    ]
    checked = check_json([json.dumps({"id": "x", "at": AT, **event}).encode() for event in events], source, NOW, 0)
    assert checked.reasons.to_pylist() == ["missing_field", "missing_field", "not_in_domain", None, None]
    assert checked.accepted.tolist() == [3] and checked.passed_over == 1
