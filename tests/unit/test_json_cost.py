"""What judging JSON costs: counted in cells of the tables that are made, not timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.json
import pytest

from transforms import json_columns
from transforms.contract import check_json
from transforms.definitions import EventSource, Field

NOW = 1_700_000_000_000_000


def cells_of(n: int, keys: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch) -> int:
    """Rows times columns that are made to judge ``n`` records, each with these unknown keys; all of them are accepted."""
    made = 0
    read = pyarrow.json.read_json

    def counted(*args: Any, **options: Any) -> pa.Table:
        nonlocal made
        table = read(*args, **options)
        made += table.num_rows * table.num_columns
        assert table.num_rows * table.num_columns <= 3 * json_columns.CHUNK_CELLS
        return table

    monkeypatch.setattr(pyarrow.json, "read_json", counted)
    whole = {"id": "a", "at": NOW}
    payloads = pa.array([json.dumps({**whole, **dict.fromkeys(keys(k), 1)}).encode() for k in range(n)], pa.binary())
    source = EventSource(name="s", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id", files="s")
    checked = check_json(payloads, source, NOW, 0)
    assert checked.valid.num_rows == n
    monkeypatch.setattr(pyarrow.json, "read_json", read)
    return made


@pytest.mark.parametrize(
    "keys",
    [
        lambda k: [f"k{k}"],
        lambda k: [f"k{k}_{i}" for i in range(20)],
        lambda k: [f"k{k}_{i}" for i in range(400 if k % 97 == 0 else 0)],
        lambda k: [":", "x"],
    ],
)
def test_records_with_different_unknown_keys_cost_as_their_number(
    keys: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SECURITY H3: each unknown key was a column for all records, so that 20,000 took minutes and gigabytes."""
    monkeypatch.setattr(json_columns, "CHUNK_CELLS", 20_000)
    once, twice = cells_of(1500, keys, monkeypatch), cells_of(3000, keys, monkeypatch)
    assert twice <= 2.2 * once
    assert once <= 1500 * 1500


ALIKE = {
    "the contract's": ({}, 1),
    "twenty more": ({f"more_{i}": i for i in range(20)}, 1),
    "and one in a thousand of another kind": ({"more": 1}, 2),
}


@pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE)
def test_records_with_the_same_keys_are_read_at_once(case: tuple[dict[str, int], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What records with other keys could cost is no reason to read these in pieces: a reader costs as much as hundreds of records."""
    more, kinds = case
    calls, read = 0, pyarrow.json.read_json

    def counted(*args: Any, **options: Any) -> pa.Table:
        nonlocal calls
        calls += 1
        return read(*args, **options)

    monkeypatch.setattr(pyarrow.json, "read_json", counted)
    records = [{"id": f"i{k}", "at": NOW, **more, **({"other": 1} if kinds > 1 and k % 1000 == 7 else {})} for k in range(20_000)]
    payloads = pa.array([json.dumps(record).encode() for record in records], pa.binary())
    source = EventSource(name="s", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id", files="s")
    assert check_json(payloads, source, NOW, 0).valid.num_rows == 20_000
    assert calls == 1
