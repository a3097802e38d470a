"""What a reader is told of stored rows: values, with what became of each, and how old they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from feast.protos.feast.types.Value_pb2 import Value as ValueProto

from serving.online_store.decoding import Cell
from serving.online_store.order import StoredRow
from transforms.definitions import REVISION

__all__ = ["NOT_FOUND", "NULL", "NULL_VALUE", "OUTSIDE_MAX_AGE", "PRESENT", "FeatureRows", "judged_rows", "lasts", "messages_of"]

PRESENT, NULL, NOT_FOUND, OUTSIDE_MAX_AGE = "PRESENT", "NULL", "NOT_FOUND", "OUTSIDE_MAX_AGE"
NULL_VALUE = ValueProto()


@dataclass(frozen=True)
class FeatureRows:
    """What a view holds for N keys. ``values`` and ``statuses`` have N entries per feature; a value is null unless PRESENT.

    ``event_us`` is None and ``ages`` (seconds, may be negative) None where no row is stored.
    """

    values: Mapping[str, list[ValueProto]]
    statuses: Mapping[str, list[str]]
    event_us: list[int | None]
    ages: list[float | None] = field(default_factory=list)


def judged_rows(
    found: Sequence[StoredRow | None], names: Sequence[str], asked: Sequence[str], ttl_us: int | None, now_us: int
) -> FeatureRows:
    """The features ``names`` of stored rows, as of ``now_us``. ``asked``: what each row holds, ``names`` first and perhaps the revision.

    A row that is older than ``ttl_us`` (None: none ever is) has no values, unless it :func:`lasts`.
    """
    values: dict[str, list[ValueProto]] = {n: [] for n in names}
    statuses: dict[str, list[str]] = {n: [] for n in names}
    for row in found:
        expired = row is not None and ttl_us is not None and now_us - row[0] > ttl_us
        if row is not None and expired and REVISION in asked:
            expired = not lasts(ValueProto.FromString(row[1][asked.index(REVISION)] or b""))
        for i, name in enumerate(names):
            data = row[1][i] if row is not None and not expired else None
            value = ValueProto.FromString(data) if data is not None else NULL_VALUE
            if row is not None and expired:
                status = OUTSIDE_MAX_AGE
            elif data is None:
                status = NOT_FOUND
            else:
                status = NULL if value.WhichOneof("val") in (None, "null_val") else PRESENT
            values[name].append(value)
            statuses[name].append(status)
    times = [row[0] if row is not None else None for row in found]
    return FeatureRows(values, statuses, times, [None if t is None else (now_us - t) / 1e6 for t in times])


def lasts(revision: ValueProto | None) -> bool:
    """Whether a row of this revision stays true however old it is: its windows are all empty."""
    return revision is not None and revision.WhichOneof("val") == "int64_val" and revision.int64_val == 0


def messages_of(cells: Sequence[Cell]) -> list[ValueProto | None]:
    """The messages in N cells; equal ones are one object, which nobody may change."""
    if not {bytes, type(None)}.issuperset(map(type, cells)):
        return [ValueProto.FromString(c) if isinstance(c, bytes) else c for c in cells]
    known = {cell: None if cell is None else ValueProto.FromString(cell) for cell in set(cells)}
    return list(map(known.__getitem__, cells))
