"""Changes of rows as Debezium writes them: each record says what was done, from where, and the row before and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Envelope", "envelope_of"]

OPS = frozenset("crudtm")
"""Created, read for a snapshot, updated, deleted, truncated, a message."""
_WITH_ROW = frozenset("cru")
_PLACES = ("lsn", "pos", "scn", "change_lsn")
"""What a source calls the place of a change in its log."""


@dataclass(frozen=True)
class Envelope:
    """``at`` is where the envelope stands in each record: () or ``("payload",)``, beside its schema. ``ops`` are those of records with a
    row after them; ``passed`` says how many of the ``rows`` have none, such as deletes."""

    at: tuple[str, ...]
    ops: tuple[str, ...]
    passed: int
    rows: int

    def has_row(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has a row after its change."""
        inside = _inside(record, self.at)
        return inside is not None and inside.get("op") in _WITH_ROW and isinstance(inside.get("after"), Mapping)

    def keeps(self, steps: tuple[Any, ...]) -> bool:
        """Whether what stands there is the event's: the row, what was done, and when and where in its database."""
        own = steps[len(self.at) :]
        if steps[: len(self.at)] != self.at or not own:
            return False
        return own[0] == "after" or self.is_time(steps) or self.is_place(steps) or own == ("op",)

    def of_row(self, steps: tuple[Any, ...]) -> tuple[Any, ...]:
        """The place of a column within its row; () where it is none of the row's."""
        own = steps[len(self.at) :]
        return own[1:] if own[0] == "after" else ()

    def is_time(self, steps: tuple[Any, ...]) -> bool:
        """Whether it is the moment of the change in its database."""
        return steps == (*self.at, "source", "ts_ms")

    def is_place(self, steps: tuple[Any, ...]) -> bool:
        """Whether it is the place of the change in its database's log."""
        return steps[len(self.at) : -1] == ("source",) and steps[-1] in _PLACES


def envelope_of(records: Sequence[Mapping[str, Any]]) -> Envelope | None:
    """The envelope that all records have; None where some have none, or no record has a row."""
    for at in ((), ("payload",)):
        found = [_inside(record, at) for record in records]
        if not found or not all(each is not None and _is_change(each) for each in found):
            continue
        ops = [str(each["op"]) for each in found if each is not None and each["op"] in _WITH_ROW and each.get("after") is not None]
        if ops:
            return Envelope(at, tuple(sorted(set(ops))), len(found) - len(ops), len(found))
    return None


def _inside(record: Mapping[str, Any], at: tuple[str, ...]) -> Mapping[str, Any] | None:
    for step in at:
        record = record.get(step)  # type: ignore[assignment]
        if not isinstance(record, Mapping):
            return None
    return record


def _is_change(record: Mapping[str, Any]) -> bool:
    rows = [record.get(part) for part in ("before", "after")]
    source = record.get("source")
    shaped = all(row is None or isinstance(row, Mapping) for row in rows) and isinstance(source, Mapping) and "ts_ms" in source
    return shaped and isinstance(record.get("op"), str) and record["op"] in OPS
