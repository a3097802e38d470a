"""Fields that no event has a value of: where they are looked for there may be nothing. Counted by stream and batch, and said."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import ClassVar
from weakref import WeakValueDictionary

import pyarrow as pa

from transforms.definitions import EventSource
from transforms.places import Header, RecordKey, path_text

__all__ = ["LEAST_EVENTS", "NullFields", "null_line"]

LEAST_EVENTS = 1_000
"""Of fewer events nothing is said: a field may be rare."""


class NullFields:
    """The fields of a source that are null in all of the ``events`` seen so far: those read from records, required ones left out, as
    without them there is no event. It costs a count per batch and field, until each was seen once."""

    _of: ClassVar[WeakValueDictionary[Hashable, NullFields]] = WeakValueDictionary()

    def __init__(self, source: EventSource) -> None:
        self.events = 0
        self._places = {f.name: n for n, f in enumerate(source.fields, 1) if f.value is None and not f.required}

    @classmethod
    def of(cls, source: EventSource, what: Hashable) -> NullFields:
        """Those of ``what``, one for all in this process that ask while somebody holds it; they look at batches one after another."""
        return cls._of.setdefault(what, cls(source))

    def see(self, valid: pa.RecordBatch) -> None:
        """Look at a batch of valid events, in ``source.arrow_schema``."""
        self.events += valid.num_rows
        if self._places:
            self._places = {f: n for f, n in self._places.items() if valid.column(n).null_count == valid.num_rows}

    @property
    def names(self) -> list[str]:
        """These fields, in the source's order."""
        return list(self._places)

    @staticmethod
    def together(seen: Iterable[tuple[int, Iterable[str]]]) -> tuple[int, set[str]]:
        """What several have seen of a source, each (its events, its fields), as one would have."""
        known = [(events, set(names)) for events, names in seen if events]
        return sum(events for events, _ in known), set.intersection(*(names for _, names in known)) if known else set()


def null_line(source: EventSource, name: str, events: int, since: str = "") -> str:
    """One line for people: the field, in how many events it was null (read ``since`` when), and where it was looked for."""
    place, more = source.field(name).place, ""
    if isinstance(place, Header):
        where = f"in header {place.name!r}"
    elif isinstance(place, RecordKey):
        where = "in records' keys" if place.member is None else f"at {path_text(tuple(place.member))!r} in records' keys"
    else:
        where = f"at {path_text(place)!r}" if isinstance(place, tuple) else "there"
        more = "; 'tandem check' (--only topics) tells what may be meant"
    read = f"read since {since}" if since else "read"
    return (
        f"source {source.name}: field {name} is null in all of {events:,} events {read}: look whether anything stands {where},"
        f" and correct path= or drop the field{more}"
    )
