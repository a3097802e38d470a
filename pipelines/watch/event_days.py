"""On which days a log has events, by the events themselves; what a file holds is found out once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
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
from transforms.instants import EPOCH, micros_of

__all__ = ["EventDays", "event_days"]

_CACHE = ".event-days.json"
_DAY = timedelta(days=1)
_DAY_US = 86_400_000_000


def _midnight(day: int) -> datetime:
    return EPOCH + day * _DAY


@dataclass(frozen=True)
class EventDays:
    """The whole days [``first``, ``end``) up to which every source has events; ``days`` are those of them that have any (days since 1970).

    Between the two may lie days without events, thousands where one clock was wrong: what is new is counted in ``days``.
    """

    first: datetime
    end: datetime
    days: tuple[int, ...]

    def since(self, moment: datetime) -> int:
        """How many whole days with events begin at ``moment`` or later."""
        return sum(_midnight(day) >= moment for day in self.days)


def event_days(data: Path, sources: Iterable[EventSource], now: datetime, keep: bool = False) -> EventDays | None:
    """The days of the sources that have files; None if there are none. Today is not whole yet, and what lies ahead of ``now`` is not there.

    A source's days are those on which it has events that its contract takes. Where files lie in ``date=YYYY-MM-DD`` folders, a day of
    those between the first and the last that hold an event of their own day is taken by its name. A file is read
    once, and again when its size or time of change is another, if ``keep`` (else, and where that cannot be written, each time).
    """
    cache = _Cache(layout.watch(data) / _CACHE)
    today = now.astimezone(UTC).date().toordinal() - EPOCH.date().toordinal()
    found = [days for source in sources if source.files and (days := _days_of(data, source, now, today, cache))]
    if keep:
        cache.save()
    if not found:
        return None
    first, end = max(days[0] for days in found), min(today, min(days[-1] for days in found) + 1)
    days = sorted({day for some in found for day in some if first <= day < end})
    return EventDays(_midnight(first), _midnight(end), tuple(days)) if first < end else None


def _days_of(data: Path, source: EventSource, now: datetime, today: int, cache: _Cache) -> list[int]:
    """The days of a source's events up to ``today``, rising."""
    try:
        files = list_files(data, source, None, None, hashes=False)
    except (DataError, OSError):
        return []
    dated: dict[int, list[EventFile]] = {}
    others: set[int] = set()
    for file in files:
        if file.date is None:
            others.update(cache.days(file, source, now))
        else:
            dated.setdefault(_number(file.date), []).append(file)

    def has_events(day: int) -> bool:
        return any(day in cache.days(file, source, now) for file in dated[day])

    named = sorted(day for day in dated if day <= today)
    while named and not has_events(named[-1]):
        named.pop()
    first = next((place for place, day in enumerate(named) if has_events(day)), 0)
    return sorted({*named[first:], *(day for day in others if day <= today)})


def _number(day: date) -> int:
    return day.toordinal() - EPOCH.date().toordinal()


class _Cache:
    """What each file was found to hold; ``save`` keeps it for the next look."""

    def __init__(self, path: Path) -> None:
        self.path, self.changed = path, False
        try:
            known = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            known = {}
        self.known: dict[str, Any] = known if isinstance(known, dict) else {}

    def days(self, file: EventFile, source: EventSource, now: datetime) -> Sequence[int]:
        """The days of the events of a file that lie before ``now``, rising; of one in the folder of a day, that day if it is among them."""
        stat = Path(file.path).stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        kept = self.known.get(file.name)
        if not isinstance(kept, dict) or kept.get("stamp") != stamp:
            kept = self.known[file.name] = {"stamp": stamp, "days": _read(file, source, micros_of(now))}
            self.changed = True
        days: list[int] = kept["days"]
        return days

    def save(self) -> None:
        """A data folder that is read-only or full is looked at all the same."""
        if self.changed:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self.known)


def _read(file: EventFile, source: EventSource, now_us: int) -> list[int]:
    own = None if file.date is None else _number(file.date)
    days: set[int] = set()
    for valid, _ in events(file.path, source, now_us, 0, partitions=file.partitions):
        times = valid.column(valid.schema.get_field_index(source.event_time)).cast(pa.int64())
        days.update(pc.unique(pc.divide(times, _DAY_US)).to_pylist())  # event times are positive
        if own in days:
            return [own]
    return sorted(days) if own is None else []
