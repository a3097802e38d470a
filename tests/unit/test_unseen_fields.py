"""``tandem check`` names fields whose paths lead to nothing, and what may be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.training.unseen_fields import unseen_fields
from transforms.contract import check_json
from transforms.definitions import EventSource, Field

AT = 1_714_557_600_000_000


def said(tmp_path: Path, records: list[dict[str, Any]], *fields: Field, **more: Any) -> list[str]:
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    payloads = [json.dumps({"id": f"a{n}", "at": AT, **r}).encode() for n, r in enumerate(records)]
    (folder / "a.jsonl").write_bytes(b"\n".join(payloads))
    source = EventSource("things", [Field("id", "string", required=True), *fields], "at", "id", files="events/things", **more)
    return unseen_fields(tmp_path, source, pa.Table.from_batches([check_json(payloads, source, 2 * 10**15, 0).valid]))


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("payload.shop.Order.id", """; write path='payload["shop.Order"].id', where something does"""),
        ("payload.customerid", "; write path='payload.customer_ID', where something does"),
        ("payload.nothing", ""),
        ("nothing", ""),
    ],
)
def test_a_path_that_leads_to_nothing(tmp_path: Path, path: str, advice: str) -> None:
    record: dict[str, Any] = {"payload": {"shop.Order": {"id": "o1"}, "customer_ID": "c", "gone": None, "empty": []}}
    present = [Field("gone", "string", path="payload.gone"), Field("first", "string", path="payload.empty[0]")]
    lines = said(tmp_path, [record] * 30, Field("x", "string", path=path), *present)
    assert lines == [f"source things: field x is null in all events: there is nothing at {path!r}{advice}"]


def test_a_field_under_its_own_name_and_elements(tmp_path: Path) -> None:
    record = {"userId": "u", "items": [{"sku": "a", "Price": 1.5}]}
    fields = [Field("user_id", "string"), Field("sku", "string", path="items[].sku"), Field("price", "float64", path="items[].price")]
    assert said(tmp_path, [record] * 30, *fields, explode="items") == [
        f"source things: field {name} is null in all events: there is nothing at {at!r}; write path={meant!r}, where something does"
        for name, at, meant in (("user_id", "user_id", "userId"), ("price", "items[].price", "items[].Price"))
    ]


def test_nothing_is_said_of_few_events_or_of_what_is_there(tmp_path: Path) -> None:
    assert said(tmp_path, [{}] * 5, Field("x", "string")) == []
    assert said(tmp_path / "other", [{"x": None}] * 30 + [{"y": "z"}], Field("x", "string"), Field("y", "string")) == []
