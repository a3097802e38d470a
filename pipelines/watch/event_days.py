"""On which days a log has events, by the events themselves; what a file holds is found out once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.sources.event_files import EventFile, events, list_files
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import EPOCH

__all__ = ["EventDays", "event_days"]

_CACHE = ".event-days.json"
_DAY = timedelta(days=1)
_DAY_US = 86_400_000_000
_GAP, _FEW = 365, 7
"""So long a gap, in days, sets apart; fewer days with events than this beyond it are a clock's mistake until more follow."""
_ANY_TIME_US = 1 << 62
"""No event is ahead of it. What lies after the moment that is asked about is left out by day, so what is kept holds for every moment."""
_FIRST_ROWS, _MANY_ROWS = 4096, 65_536
"""So much is read at a time: an event of its own day mostly stands among the first of a day's file, others are read whole."""


def _midnight(day: int) -> datetime:
    return EPOCH + day * _DAY


@dataclass(frozen=True)
class EventDays:
    """The whole days [``first``, ``end``) up to which every source has events; ``days`` are those of them that have any (days since 1970,
    rising, at least one).

    Between the two may lie days without events: what is new, and what is trained on, is counted in ``days``.
    """

    first: datetime
    end: datetime
    days: tuple[int, ...]

    def since(self, moment: datetime) -> int:
        """How many whole days with events begin at ``moment`` or later."""
        return sum(_midnight(day) >= moment for day in self.days)

    def last(self, count: int) -> datetime:
        """When the last ``count`` (1 or more) days with events begin; ``first`` where there are fewer."""
        return _midnight(self.days[-count]) if count <= len(self.days) else self.first


def event_days(data: Path, sources: Iterable[EventSource], now: datetime, keep: bool = False) -> EventDays | None:
    """The days before that of ``now`` (UTC) of the sources that have files; None if there are none.

    A source's days are those on which it has events that its contract takes; in a ``date=YYYY-MM-DD`` folder only events of that day
    count. Fewer than seven of them, more than a year before or after all others, are left out: a clock was wrong. A file is read once for
    a contract, and again when it was written to, if ``keep`` (else, and where that cannot be written, each time).
    """
    cache = _Cache(layout.watch(data) / _CACHE)
    today = now.astimezone(UTC).date().toordinal() - EPOCH.date().toordinal()
    found = [days for source in sources if source.files and (days := _days_of(data, source, today, cache))]
    if keep:
        cache.save()
    if not found:
        return None
    first, end = max(days[0] for days in found), min(days[-1] for days in found) + 1
    days = sorted({day for some in found for day in some if first <= day < end})
    return EventDays(_midnight(first), _midnight(end), tuple(days)) if days else None


def _days_of(data: Path, source: EventSource, today: int, cache: _Cache) -> list[int]:
    """The days of a source's events before ``today``, rising, without those of a wrong clock."""
    try:
        files = list_files(data, source, None, None, hashes=False)
    except (DataError, OSError):
        files = []
    known = cache.of(source, files)
    days: set[int] = set()
    for file in files:
        own = None if file.date is None else _number(file.date)
        if own is None or (own < today and own not in days):  # one file with events of the day is enough
            days.update(known.days(file, own))
    return _of_right_clocks(sorted(day for day in days if day < today))


def _of_right_clocks(days: list[int]) -> list[int]:
    """Without the few days at either end that a long gap sets apart from the others, where these are more."""
    parts: list[list[int]] = []
    for day in days:
        if not parts or day - parts[-1][-1] > _GAP:
            parts.append([])
        parts[-1].append(day)
    while len(parts) > 1:
        end = 0 if len(parts[0]) < len(parts[-1]) else -1
        others = sum(map(len, parts)) - len(parts[end])  # not its neighbour alone: that may be another wrong clock's
        if len(parts[end]) >= min(_FEW, others):
            break
        parts.pop(end)
    return [day for part in parts for day in part]


def _number(day: date) -> int:
    return day.toordinal() - EPOCH.date().toordinal()


def _are_days(kept: Any) -> bool:
    return isinstance(kept, list) and all(type(day) is int for day in kept)


class _Known:
    """What the files of one source were found to hold, by its contract; in the form that is kept."""

    def __init__(self, source: EventSource, kept: Any, files: Iterable[EventFile]) -> None:
        said = json.dumps([source.canonical(), repr(source.file_format)], sort_keys=True, default=str)
        self.source, self.contract = source, hashlib.sha256(said.encode()).hexdigest()
        same = isinstance(kept, dict) and kept.get("contract") == self.contract and isinstance(kept.get("files"), dict)
        self.files: dict[str, Any] = {f.name: kept["files"][f.name] for f in files if f.name in kept["files"]} if same else {}

    def days(self, file: EventFile, own: int | None) -> list[int]:
        """The days of the events of a file, rising; of one in the folder of a day (``own``), that day if it has events of it."""
        kept = self.files.get(file.name)
        if not isinstance(kept, dict) or kept.get("version") != file.version or not _are_days(kept.get("days")):
            kept = self.files[file.name] = {"version": file.version, "days": _read(file, self.source, own)}
        days: list[int] = kept["days"]
        return days


class _Cache:
    """What the sources that are asked about were found to hold; ``save`` keeps that, and nothing else, for the next look."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, dict[str, _Known]()
        try:
            before = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            before = {}
        self.before: dict[str, Any] = before if isinstance(before, dict) else {}

    def of(self, source: EventSource, files: Iterable[EventFile]) -> _Known:
        """What is known of the files of a source; of others nothing is kept."""
        self.asked[source.name] = _Known(source, self.before.get(source.name), files)
        return self.asked[source.name]

    def save(self) -> None:
        """A data folder that is read-only or full is looked at all the same."""
        now = {name: {"contract": known.contract, "files": known.files} for name, known in self.asked.items()}
        if now != self.before:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, now)


def _read(file: EventFile, source: EventSource, own: int | None) -> list[int]:
    days: set[int] = set()
    rows = _MANY_ROWS if own is None else _FIRST_ROWS
    for valid, _ in events(file.path, source, _ANY_TIME_US, 0, partitions=file.partitions, batch_rows=rows):
        times = valid.column(valid.schema.get_field_index(source.event_time)).cast(pa.int64())
        days.update(pc.unique(pc.divide(times, _DAY_US)).to_pylist())  # event times are positive
        if own in days:
            return [own]
    return sorted(days) if own is None else []
