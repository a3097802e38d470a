"""What a view answers for N entities: values, statuses and ages, from what a store holds of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError

from serving.answer_columns import Columns, size_in_bytes
from serving.catalog import View
from serving.online_store.base import StoredColumns
from serving.online_store.decoding import Cell, decode_column, decode_list, decode_values
from serving.online_store.packed import Layout, Slot
from serving.projections import Projection
from transforms.definitions import FINGERPRINT, REVISION
from transforms.errors import StoreError

__all__ = [
    "NOT_FOUND",
    "NULL",
    "OUTSIDE_MAX_AGE",
    "PRESENT",
    "STATUSES",
    "Bools",
    "Codes",
    "Places",
    "ViewPlan",
    "ViewRows",
    "column",
    "judged",
    "rows_of",
]

STATUSES = ("PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_MAX_AGE")
PRESENT, NULL, NOT_FOUND, OUTSIDE_MAX_AGE = range(4)

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

_EMPTY_WINDOWS = b"\x20\x00"
"""An int64 of 0 as stores hold it: the revision of a row whose windows are all empty, which does not expire."""


@dataclass(frozen=True)
class ViewRows:
    """What one view answered for N entities. Values are null unless their status is PRESENT."""

    view: str
    columns: Mapping[str, pa.Array]
    statuses: dict[str, Codes]
    """Per feature, N codes: indices into STATUSES. Not to be written to: features may share them."""
    row_status: Codes
    """N codes: PRESENT, NOT_FOUND or OUTSIDE_MAX_AGE. Not to be written to."""
    timestamps_us: npt.NDArray[np.int64]
    """Event timestamps; 0 where there is no row."""
    ages: npt.NDArray[np.float64]
    """Seconds from the event timestamp to now; NaN where there is no row."""
    fingerprints: list[str | None]
    """Of the rows that are PRESENT."""
    revisions: list[int | None]
    """Of the rows that are there, PRESENT or too old; None where a view keeps none."""
    as_of_us: int
    """The instant that ages and TTLs were judged at."""
    projection: Projection | None = None
    """What ``view`` stands for; None: the registry's view of that name, with its own keys."""

    def __len__(self) -> int:
        return len(self.row_status)

    @property
    def size(self) -> int:
        """About how many bytes the values take."""
        return size_in_bytes(self.columns)

    def column_of(self, feature: str) -> pa.Array:
        """A feature's values, by whoever wants a column and no list."""
        return self.columns[feature]

    def statuses_of(self, feature: str) -> Codes:
        """Its statuses."""
        return self.statuses[feature]

    @property
    def features(self) -> Iterable[str]:
        """The names of the columns."""
        return self.columns

    @property
    def fingerprint_column(self) -> pa.Array:
        """``fingerprints`` as Arrow's."""
        return pa.array(self.fingerprints, pa.string())

    @property
    def revision_column(self) -> pa.Array:
        """``revisions`` as Arrow's."""
        return pa.array(self.revisions, pa.int64())

    @property
    def status_counts(self) -> npt.NDArray[np.int64]:
        """int64 [4]: how many values of all features have each status."""
        codes = list(self.statuses.values())
        return np.bincount(np.concatenate(codes), minlength=len(STATUSES)) if codes else np.zeros(len(STATUSES), np.int64)


@dataclass(frozen=True)
class ViewPlan:
    """How the features of one view are read."""

    view: View
    features: tuple[str, ...]
    names: tuple[str, ...]
    """What is read: the features, then fingerprint and revision where the view has them."""
    projection: Projection | None
    keys: Callable[[Sequence[Any]], Sequence[bytes]] | None = field(repr=False)
    """The store's keys of entities (values, or tuples of them); None: the store or its configuration makes them one by one."""
    layout: Layout = field(repr=False)
    """Of the view's packed rows."""

    @cached_property
    def slots(self) -> list[tuple[str, Slot]]:
        """The features with their places in packed rows."""
        return [(feature, self.layout.slots[feature]) for feature in self.features]


def rows_of(plan: ViewPlan, stored: StoredColumns, inverse: Places | None, now: int) -> ViewRows:
    """What a view answers as of ``now`` (us), from what is stored of each entity; ``inverse``: which of them each row asked for, None: its
    own. Raises StoreError for a value that is none of its feature's type."""
    view, times = plan.view, stored.event_us
    ages = (now - times) / 1e6
    cells = dict(zip(plan.names, stored.cells))
    live, row_status = judged(plan, stored.found, times, now, lambda: np.fromiter(map(_lasts, cells[REVISION]), np.bool_, len(times)))
    if not stored.found.all():
        ages[~stored.found] = np.nan
    columns, statuses, each_row, prints, revisions = _of_cells(plan, cells, live, row_status, inverse)
    return ViewRows(
        view=view.name,
        columns=columns,
        statuses=statuses,
        row_status=each_row,
        timestamps_us=times if inverse is None else times[inverse],
        ages=ages if inverse is None else ages[inverse],
        fingerprints=prints,
        revisions=revisions,
        as_of_us=now,
        projection=plan.projection,
    )


def judged(
    plan: ViewPlan, found: Bools, times: npt.NDArray[np.int64], now: int | npt.NDArray[np.int64], lasting: Callable[[], Bools]
) -> tuple[Bools | None, Codes]:
    """(which rows are there and young enough, None: all; the rows' status). ``lasting``: which rows never grow too old."""
    row_status = np.where(found, np.uint8(PRESENT), np.uint8(NOT_FOUND))
    live: Bools | None = None if found.all() else found
    if plan.view.ttl_us and (expired := found & (now - times > plan.view.ttl_us)).any():
        if REVISION in plan.names:
            expired &= ~lasting()
        row_status[expired] = OUTSIDE_MAX_AGE
        live = found & ~expired
    return live, row_status


_Decoded = tuple[Columns, dict[str, Codes], Codes, list[Any], list[Any]]
"""Columns, their statuses, the rows' status, fingerprints, revisions."""


def _of_cells(
    plan: ViewPlan,
    cells: Mapping[str, Sequence[Cell]],
    live: Bools | None,
    row_status: Codes,
    inverse: Places | None,
) -> _Decoded:
    """What Feast's fields hold. ``live``: which rows are there and young enough, None: all."""
    view = plan.view
    columns, statuses = Columns(), {}
    take = None if inverse is None else pa.array(inverse)
    places: list[int] = [] if inverse is None else inverse.tolist()
    each_row = row_status if inverse is None else row_status[inverse]
    for feature in plan.features:
        kind, some = view.types[feature], _live_cells(cells[feature], live)
        nulls = None
        if (few := decode_values(some, kind)) is not None:
            columns.set_list(feature, few if inverse is None else [few[i] for i in places], kind)
            if b"" in some:
                nulls = np.array([c == b"" for c in some], np.bool_)
        else:
            values, nulls = column(view, feature, some, kind)
            columns.set_array(feature, values if take is None else values.take(take))
        status = row_status
        if nulls is not None or None in some:
            status = row_status.copy()
            if nulls is not None:
                status[nulls] = NULL
            missing = np.array([c is None for c in some], np.bool_)
            status[missing if live is None else missing & live] = NOT_FOUND
        statuses[feature] = each_row if status is row_status else status if inverse is None else status[inverse]
    prints = _words(cells.get(FINGERPRINT), live, len(row_status))
    revisions = _words(cells.get(REVISION), None, len(row_status))
    if inverse is not None:
        prints, revisions = [prints[i] for i in places], [revisions[i] for i in places]
    return columns, statuses, each_row, prints, revisions


def _lasts(cell: Cell) -> bool:
    """Whether a row of this revision stays true however old it is: its windows are all empty."""
    if isinstance(cell, bytes) or cell is None:
        return cell == _EMPTY_WINDOWS
    return cell.WhichOneof("val") == "int64_val" and cell.int64_val == 0


def _live_cells(cells: Sequence[Cell], live: Bools | None) -> Sequence[Cell]:
    return cells if live is None else [c if ok else None for c, ok in zip(cells, live.tolist())]


def column(view: View, feature: str, cells: Sequence[Cell], kind: pa.DataType | None) -> tuple[pa.Array, Bools | None]:
    try:
        return decode_column(cells, kind)
    except (ValueError, TypeError, OverflowError) as e:  # pyarrow's are of these kinds, too
        raise StoreError(f"the online store holds a value of {view.name}:{feature} that is no {kind}; materialize the view again") from e
    except DecodeError as e:
        raise StoreError(f"the online store holds a value of {view.name}:{feature} that cannot be read; materialize the view again") from e


def _words(cells: Sequence[Cell] | None, live: Bools | None, n: int) -> list[Any]:
    """The values of one of our own columns; None where a view has no such column."""
    return [None] * n if cells is None else decode_list(_live_cells(cells, live))
