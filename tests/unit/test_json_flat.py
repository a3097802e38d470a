"""What the bytes of flat JSON payloads tell, against the same read off one payload at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms import json_flat
from transforms.json_flat import keys_in, keys_of_each, plain


@contextmanager
def limits(small: bool, **more: int) -> Iterator[None]:
    """Other limits; and blocks so small that there are several."""
    with ExitStack() as stack:
        for name, value in ({"BLOCK": 7, "BLOCK_ENDS": 3} if small else {}).items() | more.items():
            stack.enter_context(mock.patch.object(json_flat, name, value))
        yield


PIECES = st.sampled_from(['{"a":1}', "{", "}", "[", "]", "\\", "\n", "\x7f", "|", "~", '"', " ", "é", "{}", "a", ""])
BYTES = st.lists(st.one_of(st.lists(PIECES, max_size=5).map(lambda p: "".join(p).encode()), st.binary(max_size=6), st.none()), max_size=12)


def is_plain(payload: bytes | None) -> bool:
    """The definition, of one payload."""
    if payload is None or payload[:1] != b"{" or payload[-1:] != b"}" or len(payload) < 2:
        return False
    return not any(byte < 0x20 or byte in b"\\[]{}" for byte in payload[1:-1])


@given(BYTES, st.integers(0, 3), st.booleans())
def test_which_payloads_are_plain(payloads: list[bytes | None], before: int, small: bool) -> None:
    """Also where all are, of a slice of an array, and where a batch is longer than what is looked at in one go."""
    array = pa.array([b"{[}"] * before + payloads + [b"}"], pa.binary()).slice(before, len(payloads))
    with limits(small):
        assert plain(array).tolist() == [is_plain(p) for p in payloads]
        some = [p for p in payloads if is_plain(p)]
        assert plain(pa.array(some, pa.binary())).all()


KEYS = st.one_of(
    st.sampled_from(
        ["a", "b", "ab", "id", "sold_at", "seven77", "eight888", "a_key_of_more_than_eight", "b_key_of_more_than_eight", "x" * 16]
    ),
    st.text("ab: ,'", max_size=20),
    st.sampled_from(["l" * 128, "l" * 129, "m" + "l" * 128]),
)
VALUES = st.one_of(st.integers(-5, 5), st.sampled_from(["", ":", " ", " :", ": ", ",", "a", '":'.replace('"', "'"), "a_key"]), st.none())
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
STYLES = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : "), (",", "  :")])


@given(st.lists(st.tuples(OBJECTS, STYLES, st.integers(1, 3)), min_size=1, max_size=12), st.booleans(), st.integers(1, 5), st.booleans())
def test_no_range_of_payloads_has_more_keys_than_are_told(
    made: list[tuple[dict[str, object], tuple[str, str], int]], shuffled: bool, most: int, small: bool
) -> None:
    """SECURITY H3: what is told bounds the columns that a reader of these payloads makes, however few keys are looked for."""
    objects = [
        (record, json.dumps(record, separators=style, ensure_ascii=False).encode()) for record, style, times in made for _ in range(times)
    ]
    if shuffled:
        objects = objects[::2] + objects[1::2]
    array = pa.array([b"{}", *(payload for _, payload in objects)], pa.binary()).slice(1)
    with limits(small, FRUITLESS=most, **({"MOST_KEYS": most} if small else {})):
        common, others = keys_in(array)
        with mock.patch("transforms.json_flat.Keys.same_in_all", return_value=None):
            by_place, others_by_place = keys_in(array)
        each = keys_of_each(array)
    for first in range(len(objects)):
        for last in range(first + 1, len(objects) + 1):
            different = len({key for record, _ in objects[first:last] for key in record})
            assert different <= common + others[first:last].sum()
            assert different <= by_place + others_by_place[first:last].sum()
            assert different <= each[first:last].sum()


@given(st.lists(st.sampled_from(['"', '"', " ", "   ", ":", "a", "," + " " * 8, '" :']), max_size=60).map("".join), st.integers(1, 9))
def test_quotes_before_a_colon_wherever_blocks_end(text: str, block: int) -> None:
    """Blanks between, or none, that reach over blocks, to the end, or to another quote."""
    given_ = np.frombuffer(text.encode(), np.uint8)
    with limits(small=False, BLOCK=block):
        assert json_flat._key_ends(given_).tolist() == [found.start() for found in re.finditer('" *:', text)]


def records(n: int, **more: object) -> list[dict[str, object]]:
    """Sales."""
    return [
        {"sale_id": f"s{k}", "seller": f'x "{k}'.replace('"', "'"), "amount": k / 4, "sold_at": 1_700_000_000_000_000 + k, **more}
        for k in range(n)
    ]


def told(payloads: Sequence[Mapping[str, object]]) -> tuple[int, int]:
    """The keys that are one column, and all others."""
    common, others = keys_in(pa.array([json.dumps(p).encode() for p in payloads], pa.binary()))
    return common, int(np.sum(others))


def test_the_same_keys_are_one_column_each_whoever_lacks_some() -> None:
    """In any order, with optional ones missing, and whatever the first payload is."""
    alike = records(5000, a_long_name_of_a_field=1)
    assert told(alike) == (5, 0)
    assert told([dict(reversed(r.items())) if k % 2 else r for k, r in enumerate(alike)]) == (5, 0)
    assert told([{key: v for j, (key, v) in enumerate(r.items()) if (k >> j) % 3} for k, r in enumerate(alike)]) == (5, 0)
    odd = {f"odd_{k}": k for k in range(40)}
    common, others = told([odd, *alike])
    assert common <= 5 + json_flat.FRUITLESS
    assert others <= 40


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_payloads(n: int) -> None:
    """Of which the first begins where nothing stands before."""
    assert told(records(n)) == (4, 0)
    assert told([{}] * n) == (0, 0)
    common, others = told([{"a": 1}] * n + [{"a": 1, "b": 2}])
    assert (common, others) == (2, 0)
