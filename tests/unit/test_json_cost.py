"""What judging JSON costs: counted in cells of the tables that are made, in bytes of memory, and in bytes looked at; not timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.json
import pytest

from tandem.testing.memory import grown
from transforms import json_columns, json_flat, json_shapes
from transforms.contract import check_json
from transforms.definitions import EventSource, Field
from transforms.json_flat import keys_in, keys_of_each
from transforms.json_shapes import shapes_of

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


# ---- what the bytes are looked at for, before anything is read -----------------------------------------------------------------

MEGABYTE = 1 << 20
MARKS = {"texts": '"",', "objects": "{},", "lists": "[],", "keys": '{"k":""},', "long texts": '"' + "x" * 40 + '",'}


def of_marks(piece: str, size: int) -> bytes:
    """A payload of as many pieces as make ``size`` bytes."""
    return b'{"a":[' + (piece * (size // len(piece)))[:-1].encode() + b"]}"


@pytest.mark.parametrize("piece", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("place", [0, 50, 100])
def test_no_more_is_made_of_one_payload_than_its_bytes_pay_for(piece: str, place: int) -> None:
    """SECURITY H3: others were compared with the first one, of whose every mark Python made numbers: 63 bytes a byte."""
    small = [b'{"a":1,"b":"x"}'] * 100
    for size in (2 * MEGABYTE, 4 * MEGABYTE):
        payloads = pa.array([*small[:place], of_marks(piece, size), *small[place:]], pa.binary())
        with grown() as most:
            shapes = shapes_of(payloads, 64)
        assert most() <= 45 * size
        assert shapes.found.all()


@pytest.mark.parametrize("piece", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("place", [0, 50])
def test_payloads_of_more_marks_than_are_compared_are_no_shape(piece: str, place: int) -> None:
    """Wherever they stand: how many marks are made shapes of is counted."""
    small = [b'{"a":1,"b":"x"}'] * 100
    made: list[int] = []

    class Counted(json_shapes._Shape):
        def __init__(self, text: Any, marks: Any) -> None:
            made.append(len(marks))
            super().__init__(text, marks)

    with mock.patch.object(json_shapes, "_Shape", Counted):
        shapes_of(pa.array([*small[:place], *[of_marks(piece, 40_000)] * 40, *small[place:]], pa.binary()), 64)
    assert made and max(made) <= json_shapes.MOST_MARKS


@pytest.mark.parametrize("odd", [b'{"a":"y" ,"b":1}', b'{ "a": "x" }', b'{"a" :1}', b'{"a"' + b" " * 300_000 + b":1}"])
@pytest.mark.parametrize("place", [0, 20, 40])
@pytest.mark.parametrize("look", [keys_in, keys_of_each])
def test_a_blank_behind_a_quote_costs_what_blanks_there_are(odd: bytes, place: int, look: Callable[[pa.Array], Any]) -> None:
    """SECURITY H3: one such record made numbers of eight bytes of every byte of its batch."""
    record = b'{"a":"' + b"x" * 400_000 + b'"}'
    payloads = pa.array([*[record] * place, odd, *[record] * (40 - place)], pa.binary())
    with grown() as most:
        look(payloads)
    assert most() <= 10 * MEGABYTE


TEXTS = {
    "one": b'"' + b"x" * 50_000 + b'" ' + b"y" * 50_000,
    "each": b'" ' * 50_000,
    "far apart": (b'"' + b" " * 99) * 1000,
    "block by block": (b'"' + b" " * 1000) * 100,
    "just within blocks": (b'x"' + b" " * 997) * 100,
    "at the end": b'"' + b" " * 100_000,
    "colons": b'"    :' * 20_000,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_bytes_behind_quotes_are_looked_at_twice_at_most(text: bytes) -> None:
    looked = 0
    places = np.flatnonzero

    def counted(values: Any) -> Any:
        nonlocal looked
        looked += len(values)
        return places(values)

    given = np.frombuffer(text, np.uint8)
    spaced = places((given[:-1] == ord('"')) & (given[1:] == ord(" ")))
    with mock.patch.object(json_flat, "BLOCK", 1000), mock.patch.object(np, "flatnonzero", counted):
        found = json_flat._colon_past_blanks(given, spaced)
    assert looked <= 2 * len(text) + 1000
    assert found.tolist() == [text[at + 1 :].lstrip(b" ")[:1] == b":" for at in spaced.tolist()]
