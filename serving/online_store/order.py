"""Which row of a key an online store keeps: the rule, and rows on their way in.

Rows come from two kinds of writers. A **stream** knows what it read (``stamp`` 0). A **materialization** brings what the batch runs have,
as of its moment (``stamp``, microseconds, rising), for all event timestamps up to ``upto_us``; the store keeps that as the view's
:class:`Covered`. :func:`row_wins` then says: rows of the applied graph replace rows of any other; up to where a newer materialization
covers nothing else is taken; a materialization replaces what it covers, whatever revision that has; else the greater (event timestamp,
revision) wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import FingerprintError, OwnerError, StoreError

__all__ = [
    "Covered", "Order", "Rows", "StoredRow", "check_owner", "ends_of_runs", "greatest", "refused_fingerprint", "refused_owner", "row_wins",
    "without_order",
]  # fmt: skip


@dataclass(frozen=True)
class Covered:
    """What was materialized of a view, with the graph that is applied to it: event timestamps up to ``upto_us``, as of ``stamp``.

    ``since``: where rows are dropped, those of lower stamps stay; unless it is 0 those of other graphs, too. 1 leaves what streams wrote,
    -1 and a ``stamp`` of 1 drop that alone. Not kept.
    """

    stamp: int
    upto_us: int
    since: int = 0


@dataclass(frozen=True)
class Rows:
    """N rows on their way into a store, as columns.

    ``keys``: the serialized entity keys (binary); ``event_us`` and ``revision``: int64 [N]; ``fingerprint``: strings;
    ``values``: per feature of the view the serialized ValueProtos (binary); ``created``: None, or one moment or None per row.
    ``stamp``: 0 from a stream, else of the materialization; ``upto_us``: what that covers (None: each row up to its own time).
    ``packed``: each row's packed copy (:mod:`serving.online_store.packed`, binary), for a store that keeps it; None: there is none.
    """

    keys: pa.Array
    event_us: npt.NDArray[np.int64]
    revision: npt.NDArray[np.int64]
    fingerprint: pa.Array
    values: Sequence[pa.Array]
    created: Sequence[datetime | None] | None = None
    stamp: int = 0
    upto_us: int | None = None
    packed: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, places: npt.NDArray[np.int64]) -> Rows:
        """The rows at these places, in their order."""
        at = pa.array(places)
        return replace(
            self,
            keys=self.keys.take(at),
            event_us=self.event_us[places],
            revision=self.revision[places],
            fingerprint=self.fingerprint.take(at),
            values=[v.take(at) for v in self.values],
            created=None if self.created is None else [self.created[i] for i in places],
            packed=None if self.packed is None else self.packed.take(at),
        )

    def part(self, at: slice) -> Rows:
        """The rows of a stretch, without a copy."""
        first, end, _ = at.indices(len(self))
        return replace(
            self,
            keys=self.keys.slice(first, end - first),
            event_us=self.event_us[at],
            revision=self.revision[at],
            fingerprint=self.fingerprint.slice(first, end - first),
            values=[v.slice(first, end - first) for v in self.values],
            created=None if self.created is None else self.created[at],
            packed=None if self.packed is None else self.packed.slice(first, end - first),
        )

    def check_applied(self, view: str, applied: str | None) -> None:
        """Raises FingerprintError if any of the rows stems from other definitions than the applied ones (None: it takes any)."""
        if applied is not None:
            for found in self.fingerprint.unique().to_pylist():
                if found != applied:
                    raise refused_fingerprint(view, found, applied)

    def uncovered(self, covered: Covered | None) -> Rows:
        """Those that no newer materialization covers."""
        if covered is None or self.stamp >= covered.stamp or not (behind := self.event_us <= covered.upto_us).any():
            return self
        return self.take(np.flatnonzero(~behind))


StoredRow = tuple[int, list[bytes | None]]
"""A row as it is stored: its event time in microseconds, and per feature the serialized ValueProto; None where it holds none."""

Order = tuple[int, int, str, int]
"""What decides between rows of one key: event time in microseconds, revision, fingerprint, stamp."""


def row_wins(row: Order, stored: Order | None, applied: str | None, covered: Covered | None = None, upto_us: int | None = None) -> bool:
    """The rule, for stores that compare in Python (ours say the same in SQL and Lua): whether ``row`` replaces ``stored``.

    ``applied`` is the view's fingerprint, ``covered`` what was materialized of it, ``upto_us`` as in :class:`Rows`.
    """
    if covered is not None and row[0] <= covered.upto_us and row[3] < covered.stamp:
        return False
    if stored is None or row[:2] > stored[:2] or (row[2] != stored[2] and row[2] == applied):
        return True
    return row[3] > stored[3] and stored[0] <= (row[0] if upto_us is None else upto_us)


def ends_of_runs(keys: Sequence[pa.Array], event_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of the rows that the row behind them does not follow, with the same key and a later time: the greatest of each key are
    among them. Of rows in the order of keys and times, as streams make them, it is these alone; ``keys`` are columns without nulls."""
    ends = np.ones(len(event_us), bool)
    ends[:-1] = event_us[1:] <= event_us[:-1]
    for key in keys:
        ends[:-1] |= pc.not_equal(key.slice(1), key.slice(0, max(len(key) - 1, 0))).to_numpy(zero_copy_only=False)
    return np.flatnonzero(ends)


def greatest(rows: Rows) -> npt.NDArray[np.int64]:
    """The place of each key's greatest row by (event timestamp, revision), of equals the first: sorted."""
    n = len(rows)
    if pc.all(pc.less(rows.keys.slice(0, max(n - 1, 0)), rows.keys.slice(1))).as_py():  # as of a stream: in order, each key once
        return np.arange(n)
    keys = rows.keys.dictionary_encode()
    if len(keys.dictionary) == n:
        return np.arange(n)
    code = keys.indices.to_numpy()
    order = np.lexsort((-np.arange(n), rows.revision, rows.event_us, code))
    last = np.append(code[order][1:] != code[order][:-1], True)
    return np.sort(order[last])


def refused_fingerprint(view: str, found: str, applied: str) -> FingerprintError:
    """The error for a writer whose rows stem from other definitions than the applied ones."""
    return FingerprintError(
        f"view {view!r}: a row has fingerprint {found[:16]!r}, but {applied[:16]!r} is applied; "
        "no more is written: run the writer again with the applied graph"
    )


def check_owner(project: str, owner: str | None, writer: str | None) -> None:
    """Raises OwnerError if the rows are another's than ``writer``'s: first words are compared. None writes whosever they are."""
    if owner is not None and writer is not None and owner.split(" ", 1)[0] != writer.split(" ", 1)[0]:
        raise refused_owner(project, owner)


def refused_owner(project: str, owner: str) -> OwnerError:
    """The error for a writer of rows that are another's now."""
    place = owner.split(" ", 1)[-1]
    return OwnerError(
        f"the rows of project {project!r} in the online store are written from another data folder now ({place}), which took them over;"
        " no more is written: end this writer, or run 'tandem apply --take-over' here if that folder writes no more"
    )


def without_order(view: str) -> StoreError:
    """A store holds rows of a view and no order of theirs: read as they are, none of them would be there."""
    return StoreError(
        f"view {view!r}: its rows were written by another online store class, without the order that this one keeps;"
        " materialize the view again over their range"
    )
