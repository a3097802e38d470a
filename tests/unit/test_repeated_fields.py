"""SECURITY H2, by lists: the events of one record repeat what stands in it once, so a text beside a list would grow with the square."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.forgetting.defined_subject import keys_of
from pipelines.forgetting.subject import Subject
from tests.examples import examples
from tests.unit.judged import NOW, arrow_rows, judged
from tests.unit.test_mapped_sources import ORDER, ORDERS, orders
from transforms import mapping
from transforms.contract import Checked, check, check_json, check_records
from transforms.definitions import EventSource, Field, Header, RecordKey
from transforms.mapping import MAX_REPEATED_BYTES
from transforms.origin import Origin

ITEMS = [Field("sku", "string", path="items[].sku"), Field("n", "int64", path="items[].n")]
PLACES = {
    "a text": ([Field("note", "string")], lambda text: ({"note": text}, None, [])),
    "a list": ([Field("notes", "list<string>")], lambda text: ({"notes": [text[i : i + 100] for i in range(0, len(text), 100)]}, None, [])),
    "numbers": ([Field("vector", "list<float>")], lambda text: ({"vector": [0.5] * (len(text) // 8)}, None, [])),
    "the key": ([Field("note", "string", path=RecordKey())], lambda text: ({}, text.encode(), [])),
    "a header": ([Field("note", "string", path=Header("x"))], lambda text: ({}, None, [("x", text.encode())])),
}


def read(place: str, size: int, elements: int, way: str) -> tuple[Checked, int]:
    """The verdict on one record with so many bytes beside its list, and on a good one behind it; and its own size."""
    fields, made = PLACES[place]
    source = EventSource("s", [Field("id", "string", required=True), *fields, *ITEMS], event_time="at", tie_breaker="id", explode="items")
    more, key, headers = made("x" * size)
    record: dict[str, Any] = {"id": "a", "at": NOW - 1, "items": [{"sku": "s", "n": n} for n in range(elements)], **more}
    small = {**record, "items": record["items"][:1]}
    origin = Origin.of([key, key], [headers, headers], np.array([NOW, NOW]))
    payloads = [json.dumps(r).encode() for r in (record, small)]
    if way == "rows":
        rows = arrow_rows([record, small])
        assert rows is not None
        return check(rows, source, NOW, 0, origin), len(payloads[0])
    if way == "one by one":
        return check_records([record, small], {}, source, NOW, 0, origin), len(payloads[0])
    return check_json(pa.array(payloads, pa.binary()), source, NOW, 0, origin), len(payloads[0])


@pytest.mark.parametrize("way", ["json", "rows", "one by one"])
@pytest.mark.parametrize("place", PLACES)
def test_what_the_events_of_a_record_repeat_of_it_has_a_limit(place: str, way: str) -> None:
    """A record of 68 KB made 80 MB of events, and one of a megabyte would have made tens of gigabytes: a worker's end, again and again."""
    size, elements = 40_000, 1_000
    got, sent = read(place, size, elements, way)
    assert sent < 100_000 and got.valid.nbytes < 1_000_000
    assert got.reasons.to_pylist() == ["too_long", None] and got.valid.num_rows == 1
    assert got.details[0].as_py().startswith("its 1,000 events would repeat 4")
    assert got.details[0].as_py().endswith(f" above the limit of {MAX_REPEATED_BYTES:,}")
    got, _ = read(place, size, 100, way)
    assert got.reasons.to_pylist() == [None, None] and got.valid.num_rows == 101, "as orders are"


@given(st.lists(orders, min_size=1, max_size=5), st.integers(0, 40))
@settings(max_examples=examples(60))
def test_the_limit_is_the_same_for_a_record_alone_among_others_and_as_a_row(records: list[dict[str, Any]], limit: int) -> None:
    with mock.patch.object(mapping, "MAX_REPEATED_BYTES", limit):
        judged([*records, ORDER], ORDERS)
        rows = arrow_rows([*records, ORDER])
        if rows is not None:
            checked, plain = check(rows, ORDERS, NOW, 0), check_records(rows.to_pylist(), {}, ORDERS, NOW, 0)
            assert checked.reasons.to_pylist() == plain.reasons.to_pylist()
            assert checked.valid.to_pylist() == plain.valid.to_pylist() and checked.empty == plain.empty


@pytest.mark.parametrize("form", ["lines", "rows"])
def test_a_subject_is_found_in_records_above_the_limit(form: str) -> None:
    """They have no events, and are about whom they are about: an erase passed them over."""
    source = EventSource(
        "orders",
        [Field("id", "string", required=True), Field("user", "string", path="customer.id"), Field("note", "string"), *ITEMS],
        event_time="at", tie_breaker="id", explode="items",
    )  # fmt: skip
    records = [
        {"id": str(n), "at": NOW - 1, "customer": {"id": f"u{n % 2}"}, "note": "x" * 40_000, "items": [{"sku": "s", "n": 1}] * size}
        for n, size in enumerate([1, 1, 1_000, 1_000, 0])
    ]
    refused = check_records(records, {}, source, NOW, 0).reasons.to_pylist()
    assert refused == [None, None, "too_long", "too_long", None]
    subject = Subject(Subject.parse(["user=u0"]).keys, sources=(keys_of(source, {"user"}),))
    if form == "lines":
        found = subject.in_texts([json.dumps(r).encode() for r in records])
    else:
        rows = arrow_rows(records)
        assert rows is not None
        found = subject.rows(pa.Table.from_batches([rows]))
    assert found.tolist() == [True, False, True, False, False]
