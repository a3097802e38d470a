"""What a view answers of packed rows: columns, statuses and ages are made when they are asked for, which most never are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.answer_columns import Columns
from serving.online_store.lazily import lazily
from serving.online_store.packed_rows import PackedRows
from serving.view_rows import NULL, PRESENT, STATUSES, Bools, Codes, Places, ViewPlan, ViewRows, column, judged
from transforms.definitions import FINGERPRINT, REVISION

__all__ = ["PackedViewRows", "joined"]


@lru_cache(maxsize=256)
def all_of_status(n: int, status: int) -> Codes:
    """N times a status; not to be written to."""
    made = np.full(n, status, np.uint8)
    made.flags.writeable = False
    return made


class PackedViewRows(ViewRows):
    """The same, of packed rows: what is asked for is made when it is asked for, which of most is never. Immutable to those who look."""

    def __init__(self, plan: ViewPlan, rows: PackedRows, inverse: Places | None, now: int) -> None:
        """``rows``: of each entity; ``inverse``: which of them each row asked for, None: its own. ``now``: us."""
        self.__dict__.update(view=plan.view.name, projection=plan.projection, as_of_us=now, plan=plan, rows=rows, inverse=inverse, nows=now)

    @staticmethod
    def together(parts: Sequence[PackedViewRows]) -> PackedViewRows:
        """The rows of several answers that are :meth:`alike`, one behind the other, each as of its own instant."""
        first = parts[0]
        if len(parts) == 1:
            return first
        sizes = [len(part.rows) for part in parts]
        inverse = None
        if any(part.inverse is not None for part in parts):
            starts = np.cumsum([0, *sizes[:-1]])
            own = [np.arange(n) if part.inverse is None else part.inverse for part, n in zip(parts, sizes)]
            inverse = np.concatenate([some + start for some, start in zip(own, starts)])
        made = PackedViewRows(first.plan, PackedRows.together([part.rows for part in parts]), inverse, first.as_of_us)
        made.__dict__["nows"] = np.repeat([part.as_of_us for part in parts], sizes)
        return made

    @property
    def alike(self) -> Any:
        """Equal for answers that can be put :meth:`together`."""
        use = None if self.projection is None else self.projection.text()
        return self.view, self.plan.view.ttl_us, self.plan.names, self.plan.features, self.rows.layout.schema, use

    plan: ViewPlan
    rows: PackedRows
    inverse: Places | None
    nows: int | npt.NDArray[np.int64]
    """The instant of each row of ``rows``, or of all (us)."""

    def __len__(self) -> int:
        return len(self.rows) if self.inverse is None else len(self.inverse)

    @property
    def size(self) -> int:
        return self.rows.size if self.inverse is None else self.rows.size + 8 * len(self.inverse)

    @lazily
    def plainly(self) -> bool:
        """Whether each row asked for is one of ``rows``, these are few, and all are there and young enough."""
        return self.inverse is None and self.rows.few and self._verdict[0] is None

    @property
    def status_counts(self) -> npt.NDArray[np.int64]:
        slots = [slot for _, slot in self.plan.slots]
        if not all(slot.plain for slot in slots):
            return super().status_counts
        made: npt.NDArray[np.int64] = np.bincount(self.row_status, minlength=len(STATUSES)) * len(slots)
        live = self._verdict[0]
        for slot in slots:  # of the values' own, the bits of what is null are enough
            if (nulls := self.rows.nulls(slot)) is not None:
                nulls = nulls if live is None else nulls & live
                count = int((nulls if self.inverse is None else nulls[self.inverse]).sum())
                made[NULL] += count
                made[PRESENT] -= count
        return made

    @lazily
    def _verdict(self) -> tuple[Bools | None, Codes]:
        rows, ttl = self.rows, self.plan.view.ttl_us
        latest = self.nows if isinstance(self.nows, int) else int(self.nows.max())
        if rows.all_found and (not ttl or latest - rows.oldest_us <= ttl):
            return None, all_of_status(len(rows), PRESENT)
        return judged(self.plan, rows.found, rows.event_us, self.nows, lambda: _all_empty(rows))

    @lazily
    def _decoded(self) -> tuple[Columns, dict[str, Codes]]:
        return _of_packed(self.plan, self.rows, *self._verdict, self.inverse)

    @property
    def columns(self) -> Columns:
        return self._decoded[0]

    @property
    def statuses(self) -> dict[str, Codes]:
        return self._decoded[1]

    @property
    def features(self) -> Sequence[str]:
        return self.plan.features

    def column_of(self, feature: str) -> pa.Array:
        made = self._arrow(feature, self._verdict[0])
        return self.columns[feature] if made is None else made

    def statuses_of(self, feature: str) -> Codes:
        slot = self.rows.layout.slots[feature]
        if not slot.plain:
            return self.statuses[feature]
        nulls, live = self.rows.nulls(slot), self._verdict[0]
        if nulls is None:
            return self.row_status
        if live is None:  # all are PRESENT
            status = nulls.view(np.uint8) * np.uint8(NULL)
        else:
            status = self._verdict[1].copy()
            status[nulls & live] = NULL
        return status if self.inverse is None else status[self.inverse]

    @property
    def fingerprint_column(self) -> pa.Array:
        made = self._arrow(FINGERPRINT, self._verdict[0])
        return super().fingerprint_column if made is None else made

    @property
    def revision_column(self) -> pa.Array:
        made = self._arrow(REVISION, None)
        return super().revision_column if made is None else made

    def _arrow(self, name: str, live: Bools | None) -> pa.Array | None:
        slot = self.rows.layout.slots.get(name)
        made = None if slot is None or not slot.plain else self.rows.arrow(slot, live)
        return made if made is None or self.inverse is None else made.take(pa.array(self.inverse))

    @lazily
    def row_status(self) -> Codes:
        status = self._verdict[1]
        return status if self.inverse is None else status[self.inverse]

    @lazily
    def timestamps_us(self) -> npt.NDArray[np.int64]:
        times = self.rows.event_us
        return times if self.inverse is None else times[self.inverse]

    @lazily
    def ages(self) -> npt.NDArray[np.float64]:
        ages = (self.nows - self.rows.event_us) / 1e6
        if not self.rows.all_found:
            ages[~self.rows.found] = np.nan
        return ages if self.inverse is None else ages[self.inverse]

    @lazily
    def fingerprints(self) -> list[str | None]:
        return self._own(FINGERPRINT, self._verdict[0])

    @lazily
    def revisions(self) -> list[int | None]:
        return self._own(REVISION, None)

    def _own(self, name: str, live: Bools | None) -> list[Any]:
        """The values of one of our own columns; None where a view has no such column."""
        made = _own(self.rows, name, live)
        return made if self.inverse is None else [made[i] for i in self.inverse.tolist()]


def joined(groups: Sequence[ViewRows]) -> list[ViewRows]:
    """The same answers, those of packed rows that are alike as one."""
    alike: dict[Any, list[PackedViewRows]] = {}
    others: list[ViewRows] = []
    for group in groups:
        if isinstance(group, PackedViewRows):
            alike.setdefault(group.alike, []).append(group)
        else:
            others.append(group)
    return [*others, *map(PackedViewRows.together, alike.values())]


def _of_packed(
    plan: ViewPlan, rows: PackedRows, live: Bools | None, row_status: Codes, inverse: Places | None
) -> tuple[Columns, dict[str, Codes]]:
    """(columns, their statuses) of packed rows."""
    if rows.few and live is None and inverse is None:
        return _of_few(plan, rows, row_status)
    columns, statuses = Columns(), {}
    places: list[int] = [] if inverse is None else inverse.tolist()
    each_row = row_status if inverse is None else row_status[inverse]
    dead = None if live is None else ~live
    for feature, slot in plan.slots:
        values, nulls = rows.values(slot), rows.nulls(slot)
        hidden = dead if nulls is None else nulls if dead is None else nulls | dead
        if isinstance(values, np.ndarray):
            if hidden is not None and values.dtype.kind == "f":
                values[hidden] = np.nan
            if inverse is not None:
                values, hidden = values[inverse], None if hidden is None else hidden[inverse]
            columns.set_numbers(feature, values, hidden, slot.kind)
        else:
            if hidden is not None:
                values = [None if h else v for v, h in zip(values, hidden.tolist())]
            if slot.plain:
                columns.set_list(feature, values if inverse is None else [values[i] for i in places], slot.kind)
            else:
                array, more = column(plan.view, feature, values, slot.kind)
                columns.set_array(feature, array if inverse is None else array.take(pa.array(inverse)))
                nulls = more if nulls is None else nulls if more is None else nulls | more
        if nulls is None:
            statuses[feature] = each_row
        else:
            status = row_status.copy()
            status[nulls if live is None else nulls & live] = NULL
            statuses[feature] = status if inverse is None else status[inverse]
    return columns, statuses


def _of_few(plan: ViewPlan, rows: PackedRows, row_status: Codes) -> tuple[Columns, dict[str, Codes]]:
    """As :func:`_of_packed`, of few rows that are all there: without numpy, whose calls would cost more than the values."""
    columns, statuses = Columns(), {}
    known: dict[tuple[int, ...], Codes] = {}
    for feature, slot in plan.slots:
        values, nulls = rows.values(slot), rows.null_list(slot)
        if nulls is not None:
            values = [None if null else v for v, null in zip(values, nulls)]
        if slot.plain:
            columns.set_list(feature, values, slot.kind)
        else:
            array, more = column(plan.view, feature, values, slot.kind)
            columns.set_array(feature, array)
            if more is not None:
                nulls = [a | b for a, b in zip(nulls or [0] * len(values), more.tolist())]
        if nulls is None:
            statuses[feature] = row_status
        elif len(nulls) == 1:
            statuses[feature] = all_of_status(1, nulls[0])
        else:
            key = tuple(nulls)  # 1 is NULL, 0 PRESENT
            statuses[feature] = known[key] if key in known else known.setdefault(key, np.array(nulls, np.uint8))
    return columns, statuses


def _own(rows: PackedRows, name: str, live: Bools | None) -> list[Any]:
    """The values of one of our own columns; None where a view has no such column."""
    slot = rows.layout.slots.get(name)
    if slot is None or not slot.plain:
        return [None] * len(rows.found)
    values, nulls = rows.values(slot), rows.nulls(slot)
    values = values.tolist() if isinstance(values, np.ndarray) else list(values)
    hidden = nulls if live is None else ~live if nulls is None else nulls | ~live
    return values if hidden is None else [None if h else v for v, h in zip(values, hidden.tolist())]


def _all_empty(rows: PackedRows) -> Bools:
    """Whether a row stays true however old it is: its windows are all empty."""
    slot = rows.layout.slots[REVISION]
    nulls, values = rows.nulls(slot), np.asarray(rows.values(slot))
    empty: Bools = values == 0
    return empty if nulls is None else empty & ~nulls
