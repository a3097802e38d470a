"""Rows of several views as columns: what is asked of a store at once, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from serving.online_store.decoding import Cell
from serving.online_store.encoding import encode_column
from serving.online_store.order import StoredRow
from serving.online_store.packed import Layout, layout_of
from serving.online_store.packed_rows import PackedRows

__all__ = ["ColumnRead", "PackedColumns", "Part", "Question", "SplitQuestion", "StoredColumns", "by_columns"]


_NULL = ValueProto()


@dataclass(frozen=True)
class ColumnRead:
    """The features ``names`` of a view, for N keys as :meth:`~serving.online_store.base.OrderedOnlineStore.entity_key` gives them."""

    table: FeatureView = field(repr=False)
    keys: Sequence[bytes]
    names: tuple[str, ...]
    known_layout: Layout | None = field(default=None, repr=False, compare=False)

    @property
    def layout(self) -> Layout:
        """Of the view's packed rows."""
        return self.known_layout or layout_of(self.table)


@dataclass(frozen=True)
class StoredColumns:
    """The rows of N keys, however old: ``event_us`` int64 [N] (0 where there is no row), ``found`` bool [N], and per feature N values as
    they are stored, None where a row holds none, or there is no row."""

    event_us: npt.NDArray[np.int64]
    found: npt.NDArray[np.bool_]
    cells: Sequence[Sequence[Cell]]


class PackedColumns(StoredColumns):
    """The same of rows that were read from their packed copies (``rows``)."""

    def __init__(self, rows: PackedRows, names: Sequence[str]) -> None:
        self.__dict__.update(rows=rows, names=tuple(names))

    rows: PackedRows
    names: tuple[str, ...]

    @property
    def event_us(self) -> npt.NDArray[np.int64]:
        return self.rows.event_us

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return self.rows.found

    @cached_property
    def cells(self) -> Sequence[Sequence[Cell]]:
        """As Feast's fields hold them, made from what was read."""
        return [self._cells(name) for name in self.names]

    def messages(self, name: str) -> list[ValueProto | None]:
        """A feature's N values as Feast's SDK has them, None where there is no row. Equal ones may be one object: not to be changed."""
        slot = self.rows.layout.slots[name]
        values, nulls = self.rows.values(slot), self.rows.nulls(slot)
        values = values.tolist() if isinstance(values, np.ndarray) else values
        made: list[ValueProto | None]
        if not slot.plain:
            made = list(map(ValueProto.FromString, values))
        elif slot.fixed:
            if slot.message == "unix_timestamp_val":
                values = [v // 1_000_000 for v in values]
            made = [ValueProto(**{slot.message: v}) for v in values]
        else:
            known = {v: ValueProto(**{slot.message: v}) for v in set(values)}
            made = list(map(known.__getitem__, values))
        if nulls is None:
            return made
        return [(_NULL if there else None) if null else v for v, null, there in zip(made, nulls.tolist(), self.found.tolist())]

    def _cells(self, name: str) -> list[Cell]:
        slot = self.rows.layout.slots[name]
        values, nulls, kind = self.rows.values(slot), self.rows.nulls(slot), slot.kind
        made: Sequence[Cell]
        if not slot.plain:
            made = values
        elif kind == pa.binary():
            made = [ValueProto(bytes_val=v).SerializeToString() for v in values]
        else:
            made = encode_column(pa.array(values, kind)).to_pylist()
        if nulls is None:
            return list(made)
        return [(b"" if there else None) if null else cell for cell, null, there in zip(made, nulls.tolist(), self.found.tolist())]


class Question(Protocol):
    """What reads the packed rows of some views in one exchange of bytes, so that an event loop can."""

    @property
    def data(self) -> bytes:
        """What is sent."""

    @property
    def count(self) -> int:
        """How many answers come back, in Redis' protocol; each is a list."""

    def rows(self, answers: Sequence[list[bytes | None]]) -> list[PackedRows | None]:
        """Per read what the answers hold; None where any row has no packed copy of the view as it is now."""


@dataclass(frozen=True)
class Part:
    """What one of several servers is asked: ``at``, as the store's ``open_socket`` takes it; ``data``; and the places of its answers among
    those of the whole question."""

    at: str
    data: bytes
    places: Sequence[int]


class SplitQuestion:
    """A question whose answers lie on several servers."""

    def __init__(self, whole: Question, parts: Sequence[Part]) -> None:
        """``whole``: what makes rows of the answers in the order of its commands."""
        self.parts, self._whole = parts, whole

    def rows(self, answers: Sequence[list[bytes | None]]) -> list[PackedRows | None]:
        """As :meth:`Question.rows`, of the answers to all parts, those of one behind those of the other."""
        ordered: list[list[bytes | None]] = [[]] * len(answers)
        for place, answer in zip((place for part in self.parts for place in part.places), answers):
            ordered[place] = answer
        return self._whole.rows(ordered)


def by_columns(rows: Sequence[StoredRow | None], width: int) -> StoredColumns:
    """N rows of ``width`` features as columns."""
    nothing: StoredRow = (0, [None] * width)
    some = [row or nothing for row in rows]
    times = np.array([at for at, _ in some], np.int64)
    return StoredColumns(times, np.array([row is not None for row in rows], np.bool_), list(zip(*(v for _, v in some))) or [()] * width)
