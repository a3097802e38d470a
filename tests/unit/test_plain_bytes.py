"""What crosses a process border in a stream: plain values, whole and equal on the other side; other bytes make nothing run."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lake.arrow_bytes import to_ipc
from pipelines.streaming.stages.coders import Element, FoldOutput, FoldOutputCoder, decode, encode
from pipelines.streaming.stages.plain_bytes import dumps, loads
from pipelines.streaming.stages.position import Position
from transforms.errors import DataError
from transforms.fold import OffsetRange, PartitionState, Segment

INT64 = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | INT64 | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | INT64 | st.tuples(st.text(), INT64), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


@given(PLAIN)
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    again = loads(dumps(value))
    assert same(again, value) and repr(again) == repr(value)


def test_the_streams_own_classes_and_columns_come_back() -> None:
    hashes = np.array([1, 2**64 - 1], np.uint64)
    state = PartitionState(5, 3, segments=[Segment(1, 2, 3, 4)], pending_corrections={"g": (hashes, -7)})
    again = loads(dumps(state))
    assert again.segments == state.segments and type(again.segments[0]) is Segment
    array, since = again.pending_corrections["g"]
    assert array.dtype == np.uint64 and array.tolist() == hashes.tolist() and since == -7
    array[0] = 3  # a state goes on being changed
    batch = pa.RecordBatch.from_arrays([pa.array([1, None])], ["x"])
    position = Position(1, 2, 3, counts={"a": 1})
    assert loads(dumps((batch, position))) == (batch, position)
    span = OffsetRange("s", 0, 1, 0, 0, 2, -1, 5, 5)
    element = decode(encode(Element(span, {"g": batch}, None, True, True)))
    assert element == Element(span, {"g": batch}, None, True, True)
    output = FoldOutput(1, {"g": batch}, {}, {"output_watermark": {"s": None}, "run": "r"}, {"n": 2})
    assert FoldOutputCoder().decode(FoldOutputCoder().encode(output)) == output


@pytest.mark.parametrize("rows", [0, 1, 7, 3_000])
def test_a_batch_is_the_stream_of_arrow_that_readers_and_states_of_before_have(rows: int) -> None:
    """Nulls, texts and lists, of a slice what it shows alone."""
    columns = [[*range(rows + 5)], [None if i % 3 else f"text {i}" for i in range(rows + 5)], [[i, None] for i in range(rows + 5)]]
    batch = pa.record_batch([pa.array(columns[0]), pa.array(columns[1], pa.string()), pa.array(columns[2])], ["a", "b", "c"]).slice(3, rows)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert to_ipc(batch) == sink.getvalue().to_pybytes()
    assert loads(dumps(batch)).equals(batch)


WORDS = pa.array(["a", None, "a", "b"]).dictionary_encode()
OF_WORDS = {
    "words": WORDS,
    "list": pa.ListArray.from_arrays(pa.array([0, 2, 3, 3, 4], pa.int32()), WORDS),
    "struct": pa.StructArray.from_arrays([WORDS], ["word"]),
    "map": pa.MapArray.from_arrays(pa.array([0, 1, 2, 3, 4], pa.int32()), pa.array(["k"] * 4), WORDS),
    "list in a struct": pa.StructArray.from_arrays([pa.ListArray.from_arrays(pa.array([0, 1, 2, 2, 4], pa.int32()), WORDS)], ["words"]),
    "words of words": pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1]), pa.StructArray.from_arrays([WORDS[:2]], ["word"])),
}


@pytest.mark.parametrize("column", OF_WORDS.values(), ids=list(OF_WORDS))
def test_a_batch_with_dictionaries_is_written_whole(column: pa.Array) -> None:
    """Their messages come before the batch's, wherever in a column they are; no byte is left at the end that nobody wrote."""
    batch = pa.record_batch([column, column], ["a", "b"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert to_ipc(batch) == sink.getvalue().to_pybytes()
    assert loads(dumps(batch)).equals(batch)


def test_what_is_no_plain_value_is_refused() -> None:
    for value in (object(), {1, 2}, lambda: None, np.zeros((2, 2)), type):
        with pytest.raises(TypeError, match="no plain value"):
            dumps(value)


class Bomb:
    """Unpickling it runs a command."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_a_pickle_is_no_value_and_runs_nothing(tmp_path: Any) -> None:
    """SECURITY C1: state and shuffle were pickles."""
    bomb = pickle.dumps(Bomb(str(tmp_path / "ran")))
    for data in (bomb, dumps(("x", 1))[:4] + bomb, b""):
        with pytest.raises(DataError, match="are no value of a stream"):
            loads(data)
    assert not (tmp_path / "ran").exists()


@given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 255))
def test_damaged_bytes_are_one_error(noise: bytes, at: int, byte: int) -> None:
    whole = dumps({"a": (1, b"bytes", np.arange(3)), "b": Segment(1, 2, 3, 4)})
    damaged = whole[: at % len(whole)] + bytes([byte]) + whole[at % len(whole) + 1 :]
    for data in (noise, whole[:4] + noise, damaged, whole[:at], whole[:4] + struct.pack("<I", 2**32 - 1) + noise):
        with contextlib.suppress(DataError):  # and nothing else
            loads(data)


def test_no_class_but_the_streams_own_is_made() -> None:
    """SECURITY C1: a head cannot name a class of the process."""
    for head in (b'{"class":["Popen",{"args":"true"}]}', b'{"array":["O",0]}', b'{"call":[]}'):
        with pytest.raises(DataError):
            loads(b"TDM1" + struct.pack("<I", len(head)) + head + struct.pack("<I", 8) + bytes(8))
