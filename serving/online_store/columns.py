"""Rows of several views as columns: what is asked of a store at once, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from feast import FeatureView

from serving.online_store.decoding import Cell
from serving.online_store.order import StoredRow

__all__ = ["ColumnRead", "StoredColumns", "by_columns"]


@dataclass(frozen=True)
class ColumnRead:
    """The features ``names`` of a view, for N keys as :meth:`~serving.online_store.base.OrderedOnlineStore.entity_key` gives them."""

    table: FeatureView = field(repr=False)
    keys: Sequence[bytes]
    names: tuple[str, ...]


@dataclass(frozen=True)
class StoredColumns:
    """The rows of N keys, however old: ``event_us`` int64 [N] (0 where there is no row), ``found`` bool [N], and per feature N values as
    they are stored, None where a row holds none, or there is no row."""

    event_us: npt.NDArray[np.int64]
    found: npt.NDArray[np.bool_]
    cells: Sequence[Sequence[Cell]]


def by_columns(rows: Sequence[StoredRow | None], width: int) -> StoredColumns:
    """N rows of ``width`` features as columns."""
    nothing: StoredRow = (0, [None] * width)
    some = [row or nothing for row in rows]
    times = np.array([at for at, _ in some], np.int64)
    return StoredColumns(times, np.array([row is not None for row in rows], np.bool_), list(zip(*(v for _, v in some))) or [()] * width)
