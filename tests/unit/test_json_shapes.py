"""Payloads that are alike are read at once: which are, what they may have as columns, and that it changes no verdict and no value."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.unit.judged import verdicts
from tests.unit.test_contract_properties import TOKENS
from tests.unit.test_mapped_sources import ORDER, ORDERS, T
from transforms import contract, json_columns, json_payload, json_shapes
from transforms.contract import check_json
from transforms.definitions import Decimal, Epoch, EventSource, Field, Number
from transforms.json_shapes import shapes_of, whole

NOW = 1_800_000_000_000_000
DEPTH = 64


def paths(value: Any, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The places of an object's keys, of which each may be a column; all elements of a list stand in one place."""
    if isinstance(value, list):
        return set().union(*(paths(element, (*at, "[]")) for element in value))
    if not isinstance(value, dict):
        return set()
    return {(*at, key) for key in value}.union(*(paths(inner, (*at, key)) for key, inner in value.items()))


names = st.sampled_from(
    ["a", "b", "ab", "aaaaaaa", "aaaaaaaa", "aaaaaaab", "aaaaaaaaaaaaaaab", "aaaaaaaaaaaaaaac", "x" * 130, "", "ü", "a:"]
)
leaves = st.one_of(st.none(), st.integers(-9, 99), st.booleans(), st.sampled_from(["", "v", ":", '","b":', "[", "{x}", "é", " "]))
trees = st.recursive(leaves, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=3)), max_leaves=6)
objects = st.dictionaries(names, trees, max_size=4)


def varied(value: Any, draw: st.DataObject) -> Any:
    """The same keys in the same places, with other values."""
    if isinstance(value, dict):
        return {key: varied(inner, draw) for key, inner in value.items()}
    return [varied(inner, draw) for inner in value] if isinstance(value, list) else draw.draw(leaves)


@given(st.lists(objects, min_size=1, max_size=3), st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")]), st.integers(1, 4), st.data())
@settings(max_examples=examples(150))
def test_no_payloads_have_more_keys_than_were_counted(
    kinds: list[Any], separators: tuple[str, str], least: int, data: st.DataObject
) -> None:
    records = [varied(data.draw(st.sampled_from(kinds)), data) for _ in range(data.draw(st.integers(1, 12)))]
    texts = [json.dumps(r, ensure_ascii=False, separators=separators).encode() for r in records]
    for before in (0, 1):
        payloads = pa.array([b"?", None, *texts][1 + before :], pa.binary())
        with mock.patch.object(json_shapes, "LEAST_ALIKE", least):
            shapes = shapes_of(payloads, 3)
        assert shapes.found.tolist() == whole(payloads, 3).tolist()
        found = np.flatnonzero(shapes.found[1 - before :]).tolist()
        all_of_them = set().union(*(paths(records[row]) for row in found))
        assert len(all_of_them) <= shapes.common + int(shapes.others[shapes.found].sum())


@pytest.mark.parametrize("other", ['{"a":1,"c":2}', '{"a":"x"}', '{"a":{"b":2}}', '{"b":1,"a":2}', '{"a":1,"b" :2}', '{"a":1,"bb":2}'])
def test_other_keys_are_no_common_ones(other: str) -> None:
    """Each of these has as many brackets and quotes as some other shape; what is counted as one column is one."""
    many = [f'{{"a":{k},"b":{k}}}'.encode() for k in range(20)]
    shapes = shapes_of(pa.array([*many, other.encode(), *many]), DEPTH)
    assert shapes.found.all() and shapes.common == 2
    assert np.flatnonzero(shapes.others).tolist() == [20] and shapes.others[20] >= len(paths(json.loads(other)))


def test_records_of_some_kinds_have_the_keys_of_these() -> None:
    """Nulls in the place of texts, lists of some lengths, more than one type of event in a topic."""
    kinds: list[Any] = [ORDER, {**ORDER, "user": None}, {**ORDER, "items": ORDER["items"][:1]}, {"type": "other", "of": {"id": "x"}}]
    payloads = pa.array([json.dumps(kinds[k % 4], ensure_ascii=False).encode() for k in range(200)], pa.binary())
    shapes = shapes_of(payloads, DEPTH)
    assert shapes.found.all() and not shapes.others.any()
    assert shapes.common <= sum(len(paths(kind)) + 2 for kind in kinds)  # of a list's elements each


# ---- the same verdicts -----------------------------------------------------------------------------------------------------

SALES = EventSource(
    "sales",
    [
        Field("sale_id", "string", required=True, path="saleId"), Field("seller", "string", path="seller.name"),
        Field("cents", "int64", path="order.amount", parse=Decimal(2), min=-100), Field("items", "int64", path="order.items"),
        Field("price", "float64", path="order.price", parse=Number()), Field("ratio", "float64", path="seller.ratio"),
        Field("gift", "bool", path="order.gift"), Field("tags", "list<string>"), Field("second", "string", path="tags[1]"),
    ],
    event_time=Field("at", "timestamp", path="ts", parse=Epoch("ms")),
    tie_breaker="sale_id",
)  # fmt: skip
SLOTS = {
    "ts": str(T), "id": '"s1"', "name": '"n"', "ratio": "0.5", "amount": "1.25", "items": "3", "price": "2.5", "gift": "true",
    "tags": '["a","b"]', "more": "1", "deep": "{}",
}  # fmt: skip


def sale(**values: str) -> bytes:
    """A payload whose members are the texts given, which need not be JSON."""
    of = {**SLOTS, **values}
    text = (
        '{{"ts":{ts},"saleId":{id},"seller":{{"name":{name},"ratio":{ratio}}},"order":{{"amount":{amount},"items":{items},'
        '"price":{price},"gift":{gift}}},"tags":{tags},"more":{more},"deep":{{"x":[{deep}]}}}}'
    )
    return text.format(**of).encode("utf-8", "surrogateescape")


def judged_alike(payloads: list[bytes | None], source: EventSource = SALES) -> None:
    """By columns, those of one shape at once, and one by one: the same verdicts, details and values."""
    slow = verdicts(check_json(payloads, source, NOW, 0))
    with (
        mock.patch.object(contract, "_COLUMNAR_FROM", 1),
        mock.patch.multiple(json_columns, SMALLEST=1, LEAST_FAILURES=10**9),
        mock.patch.object(json_shapes, "LEAST_ALIKE", 1),
    ):
        assert repr(verdicts(check_json(pa.array(payloads, pa.binary()), source, NOW, 0))) == repr(slow)


def test_every_value_among_records_of_its_shape() -> None:
    good: list[bytes | None] = [sale()] * 3
    for slot in SLOTS:
        one_change: list[bytes | None] = [sale(**{slot: token}) for token in TOKENS]
        judged_alike([*good, *one_change, *good])
        for odd in one_change:
            judged_alike([*good, odd, *good])


slots = st.dictionaries(
    st.sampled_from(list(SLOTS)), st.sampled_from([*TOKENS, "null", "0", "7", '"7"', '"7.25"', "7.25", '["a"]']), max_size=3
)


@given(st.lists(slots.map(lambda values: sale(**values)), min_size=1, max_size=12))
@settings(max_examples=examples(150))
@example([sale(), b'{"ts":1,"saleId":"a","saleId":"b"}', b"", sale()])
def test_any_values_in_records_of_few_shapes(payloads: list[bytes]) -> None:
    judged_alike([sale(), *payloads, None])


pieces = st.tuples(
    st.integers(0, 200), st.integers(0, 3), st.sampled_from(['"', ":", ",", "{", "}", "[", "]", "\\", "0", " ", "a", "\n", ""])
)


@given(st.lists(st.lists(pieces, max_size=2), min_size=1, max_size=8))
@settings(max_examples=examples(150))
def test_records_with_bytes_changed(changes: list[list[tuple[int, int, str]]]) -> None:
    payloads: list[bytes | None] = [sale(), sale()]
    for own in changes:
        text = sale()
        for at, drop, put in own:
            text = text[:at] + put.encode() + text[at + drop :]
        payloads.append(text)
    judged_alike(payloads)


def test_orders_with_lists_of_any_length_are_read_by_columns() -> None:
    """Records of more shapes than are looked for, too: none is left to the way record by record."""
    item = {"sku": "a", "price": "1.10"}
    payloads = [json.dumps({**ORDER, "ts": T + n, "items": [item] * (n % 40)}, ensure_ascii=False).encode() for n in range(400)]
    with mock.patch.object(contract, "parse_json", side_effect=AssertionError):
        assert check_json(pa.array(payloads, pa.binary()), ORDERS, NOW, 0).valid.num_rows == sum(n % 40 for n in range(400))
    judged_alike(list(payloads[:45]), ORDERS)


def test_a_flat_source_reads_records_with_more_than_its_fields_by_columns() -> None:
    """Objects and lists that no field asks for, and fields that are lists."""
    source = EventSource("s", [Field("id", "string", required=True), Field("tags", "list<string>")], event_time="at", tie_breaker="id")
    record = {"at": NOW - 5, "tags": ["a", "b"], "meta": {"trace": {"id": 1}}}
    payloads = [json.dumps({"id": f"i{n}", **record}).encode() for n in range(500)]
    with mock.patch.object(contract, "parse_json", wraps=json_payload.parse_json) as one_by_one:
        found = check_json(pa.array(payloads, pa.binary()), source, NOW, 0).valid
    assert found.num_rows == 500 and found.column("tags")[499].as_py() == ["a", "b"] and one_by_one.call_count < 50
    judged_alike([*payloads[:9], b'{"id":"x","at":1,"meta":[', b'{"id":"y"}', *payloads[:3]], source)
