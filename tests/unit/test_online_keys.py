"""Keys made many at once are Feast's, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.value_type import ValueType
from hypothesis import given
from hypothesis import strategies as st

from serving.online_store.keys import KeyMatrix, key_packer, key_part, key_parts, part_value

SUFFIX = b"project"
NUMBERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=5) | st.text("abé", min_size=3, max_size=3)


def by_feast(names: list[str], rows: list[tuple[Any, ...]]) -> list[bytes]:
    """What is right."""
    made = []
    for row in rows:
        values = [Value(int64_val=v) if isinstance(v, int) else Value(string_val=v) for v in row]
        made.append(serialize_entity_key(EntityKey(join_keys=names, entity_values=values), entity_key_serialization_version=3) + SUFFIX)
    return made


@given(st.lists(NUMBERS, max_size=60) | st.lists(TEXTS, max_size=60) | st.lists(st.text("ab", min_size=3, max_size=3), max_size=60))
def test_keys_of_one_column(values: list[Any]) -> None:
    kind = ValueType.INT64 if values and isinstance(values[0], int) else ValueType.STRING
    pack = key_packer(["city"], [kind], SUFFIX)
    assert pack is not None
    made, right = pack(values), by_feast(["city"], [(v,) for v in values])
    assert list(made) == right and [made[i] for i in range(len(made))] == right and list(made[3:7]) == right[3:7]
    if isinstance(made, KeyMatrix):
        assert made.between(b"<", b">") == b"".join(b"<" + key + b">" for key in right)
    assert len(values) <= 24 or kind is ValueType.STRING or isinstance(made, KeyMatrix)


@given(st.lists(st.tuples(NUMBERS, TEXTS), max_size=40))
def test_keys_of_two_columns(rows: list[tuple[int, str]]) -> None:
    pack = key_packer(["number", "city"], [ValueType.INT64, ValueType.STRING], SUFFIX)
    assert pack is not None and list(pack(rows)) == by_feast(["number", "city"], rows)


@pytest.mark.parametrize("kinds", [[], [ValueType.INT32], [ValueType.INT64, ValueType.BOOL]])
def test_other_keys_are_left_to_feast(kinds: list[ValueType]) -> None:
    assert key_packer(["a", "b"][: len(kinds)], kinds, SUFFIX) is None


@given(NUMBERS, TEXTS)
def test_the_parts_of_a_key_are_its_values(number: int, text: str) -> None:
    (key,) = by_feast(["number", "city"], [(number, text)])
    parts, behind = key_parts(key, ["number", "city"])
    assert parts == {"city": key_part(text, ValueType.STRING), "number": key_part(number, ValueType.INT64)} and behind == SUFFIX
    assert {name: part_value(part) for name, part in parts.items()} == {"city": text, "number": number}


def test_numbers_of_32_bits_and_what_is_no_key() -> None:
    small = serialize_entity_key(EntityKey(join_keys=["n"], entity_values=[Value(int32_val=-5)]), entity_key_serialization_version=3)
    assert key_parts(small, ["n"]) == ({"n": key_part(-5, ValueType.INT32)}, b"") and part_value(key_part(-5, ValueType.INT32)) == -5
    with pytest.raises(OverflowError):
        key_part(2**31, ValueType.INT32)
    assert key_parts(b"", ["n", "m"])[1] == b""
