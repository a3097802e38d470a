"""What a source's definition could be, from what its columns are: names, the event time and its disorder, a tie breaker, keys."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from pipelines.inference.column import NONE, Column
from pipelines.inference.column_facts import EMPTY_LISTS, KEYS, describe
from pipelines.inference.disorder import UNKNOWN, Disorder, Moments, disorder_of
from pipelines.inference.envelope import Envelope
from pipelines.inference.names import identifier, taken_from, words
from pipelines.inference.sampling import Sample, explode_word
from pipelines.inference.times import shown, time_like
from transforms.errors import DataError
from transforms.instants import instant, micros_of
from transforms.places import path_text

__all__ = ["ORIGIN", "Proposal", "propose"]

_BEGINS = {"event", "created", "occurred", "pickup", "start", "started", "ordered", "order", "begin", "sent"}
_PLAIN = {"timestamp", "event_time", "event_timestamp", "event_ts", "event_at", "occurred_at", "ts", "time", "at"}
_LATER = {
    "end", "ended", "updated", "modified", "expires", "expiry", "dropoff", "due", "birth", "received", "ingested", "processed", "deleted",
    "delivered", "delivery", "finish", "finished", "loaded",
}  # fmt: skip
MOST_NAMED = 4
ORIGIN = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
"""The day that is assumed where the data tells none."""
_EARLY = "not after 1970-01-01 00:00:00 UTC"
_DAY_US = 86_400_000_000


@dataclass
class Proposal:
    """A definition: ``columns`` become fields, ``event_time`` is one of them; with ``offset`` it counts from a day that nobody tells:
    seconds, or a time of the day."""

    sample: Sample
    columns: list[Column]
    event_time: Column
    tie_breaker: Column
    disorder: Disorder
    left_out: list[Column]
    notes: list[str] = field(default_factory=list)
    offset: bool = False
    day: Column | None = None
    """The column with the day of an event time that is one of the day."""
    zone: str | None = None
    """That of times without one, where it is said."""

    @property
    def keys(self) -> list[Column]:
        """Columns that could be an entity's key, the most likely first."""
        of_row = self.sample.envelope.of_row if self.sample.envelope else lambda steps: steps
        found = [
            c for c in self.columns if c.dtype in ("string", "int64") and not c.parse and c.required and not c.of_folder and of_row(c.steps)
        ]
        found = [c for c in found if 1 < c.distinct <= (c.rows if self._is_key(c) else c.rows / 4)]
        return sorted(found, key=lambda c: (not self._is_key(c), _key_rank(c), self.columns.index(c)))

    def _is_key(self, column: Column) -> bool:
        """Whether it stands in the records' keys, too: what they are about."""
        return column.called in self.sample.key_names

    @property
    def measures(self) -> list[Column]:
        """Columns of numbers to make means of."""
        skip = {"id", "code", "type", "flag", "label", "key", "number", "lat", "lon", "latitude", "longitude", "seq", "pos", "lsn", *KEYS}
        found = [
            c for c in self.columns if c.dtype in ("float64", "int64") and c.distinct > 5 and not c.of_day and not skip & set(words(c.name))
        ]
        hint = {"amount", "amt", "fare", "price", "total", "value", "wert", "temp", "duration", "distance"}
        return sorted(found, key=lambda c: (c.dtype != "float64", not hint & set(words(c.name)), self.columns.index(c)))


def propose(sample: Sample, *, zone: str | None = None, event_time: str | None = None) -> Proposal:
    """A definition for a sample. ``zone`` is that of times without one; ``event_time`` names a column or path. Raises DataError."""
    mark = sample.dialect.decimal if sample.dialect else "."
    thousands = sample.dialect.thousands if sample.dialect else None
    asked = event_time or (None if sample.envelope is None else ".".join(sample.envelope.time))
    described = [
        describe(s, v, sample.kinds.get(s), sample.text, mark, zone, thousands, asked, sample.words.get(s, ()), sample.told.get(s))
        for s, v in sample.columns.items()
    ]
    described = [c for c in described if not _is_bare(c) or not _goes_on(c, described, sample)]
    _leave_out_mixed(described, sample)
    columns = [c for c in described if not c.left_out]
    taken = {"event_at"}
    for column in columns:
        column.of_folder = len(column.steps) == 1 and column.steps[0] in sample.folders
        column.name = _name(column, sample.envelope, taken)
    _note_renamed(columns)
    changed = None if sample.envelope is None else _of_change(columns, sample.envelope)
    if (
        changed is None
        and event_time is None
        and sample.kind == "topic"
        and not sample.lists
        and not (_times(columns) or _seconds(columns))
    ):
        changed = _record_time(sample.rows, taken)
    when, offset = _event_time(columns, event_time, sample.lists) if changed is None or event_time is not None else (changed, False)
    day: Column | None = None
    if event_time is None and _is_day(when) and (clock := _clock_beside(when, columns)) is not None:  # it tells more
        when, offset, day = clock, True, when
    elif when.of_day:
        day = _likeliest([c for c in _times(columns) if _is_day(c)])
    if day is not None:
        _as_shown(day, zone)
    moments = _moments(when, day)
    _note_early(when if day is None else day, moments)
    if when.nulls:
        when.notes.append(f"QUESTION: {when.nulls:,} of {when.rows:,} records have none, and will be dead letters (missing_timestamp)")
    fields = [c for c in columns if offset or c is not when]
    if sample.explode is not None and not any(c.unique and c.dtype in ("string", "int64") for c in fields):
        # Elements of one record share its time: their position tells them apart.
        name = taken_from((*sample.explode, "index"), taken)
        tie = Column((name,), sample.rows, dtype="int64", name=name, is_index=True)
        fields.append(tie)
    else:
        tie = _tie_breaker([c for c in fields if sample.envelope and sample.envelope.is_place(c.steps)], fields)
    disorder = UNKNOWN if sample.kind == "table" or when.is_record_time else disorder_of(moments, sample.parts)
    made = Proposal(
        sample,
        fields,
        when,
        tie,
        disorder,
        [c for c in described if c.left_out],
        offset=offset,
        day=day,
        zone=zone,
    )
    for column in (tie, *made.keys[:1]):
        column.needed = True
    return made


def _is_day(column: Column) -> bool:
    """Whether it holds days, and no time of them."""
    return column.parse == "Date()" or bool(column.day_format)


def _clock_beside(day: Column, columns: list[Column]) -> Column | None:
    """The time of the day that belongs to a day: the next column behind it that is one, or else the last before it."""
    at = columns.index(day)
    found = [c for c in columns if c.required and c.of_day and time_like(c.called)]
    return min(found, key=lambda c: (columns.index(c) < at, abs(columns.index(c) - at)), default=None)


def _as_shown(day: Column, zone: str | None) -> None:
    """Have a day be the midnight of UTC, to which a time of the day is added before any zone is looked at."""
    if not day.day_format or day.moments is None:
        return
    day.parse = f'TimeFormat("{day.day_format}", zone="UTC")'
    day.notes = [n for n in day.notes if "local time" not in n]
    if zone is not None:
        place = ZoneInfo(zone)
        local = [us if us == NONE else micros_of(instant(us).astimezone(place).replace(tzinfo=None)) for us in day.moments.tolist()]
        day.moments = np.array(local, np.int64)
        known = day.moments[day.moments != NONE]
        day.low, day.high = shown(int(known.min())), shown(int(known.max()))


def _is_bare(column: Column) -> bool:
    """Whether nothing stands there, or nothing but empty lists: of what, others may say."""
    return column.nulls == column.rows or column.left_out == EMPTY_LISTS


def _goes_on(column: Column, described: list[Column], sample: Sample) -> bool:
    """Whether in other records there is more: objects, a map or a list of objects where there is nothing; of empty lists, a map or a list
    of objects."""
    if column.nulls == column.rows:
        return any(o.steps[: len(column.steps)] == column.steps != o.steps for o in described)
    return column.steps in sample.lists or column.steps in sample.maps


def _of_change(columns: list[Column], envelope: Envelope) -> Column | None:
    """The moment of a change. What is done to rows is more than what was seen."""
    for column in columns:
        if column.steps == envelope.op:
            column.domain = None
    return next((c for c in columns if envelope.is_time(c.steps) and c.required and c.dtype == "timestamp"), None)


def _name(column: Column, envelope: Envelope | None, taken: set[str]) -> str:
    if envelope is None:
        return taken_from(column.steps, taken)
    if envelope.is_time(column.steps):
        return taken_from(("changed_at",), taken)
    return taken_from(envelope.of_row(column.steps) or column.steps[len(envelope.at) :], taken)


def _leave_out_mixed(columns: list[Column], sample: Sample) -> None:
    """What is an object, or a list of objects, in some records and something else in others is no field, nor is what stands in it: either
    would refuse the other records. Null is nothing else."""
    known = {c.steps for c in columns if c.nulls < c.rows}
    opened = {c.steps[:n] for c in columns for n in range(1, len(c.steps))}
    mixed = (known | set(sample.lists)) & opened | known & set(sample.lists)
    for column in columns:
        found = next((column.steps[:n] for n in range(1, len(column.steps) + 1) if column.steps[:n] in mixed), None)
        if found is not None and not column.left_out:
            column.left_out = f"as {'.'.join(map(str, found))} is not of one form in all records"


def _note_renamed(columns: list[Column]) -> None:
    """Columns whose names differ by case alone, of which no record has two: one field, whose name was changed from one file to another."""
    first: dict[tuple[str, ...], Column] = {}
    for column in columns:
        twin = first.setdefault(tuple(str(step).lower() for step in column.steps), column)
        if twin is not column and twin.dtype == column.dtype and twin.nulls + column.nulls >= column.rows:
            column.notes.append(
                f'QUESTION: {twin.name} under another name? value=coalesce(col("{twin.name}"), col("{column.name}")) is both'
            )


def _named(column: Column, asked: str) -> bool:
    return asked in (column.name, ".".join(str(s) for s in column.steps), str(column.steps[-1]))


def _event_time(columns: list[Column], asked: str | None, lists: Mapping[tuple[Any, ...], int]) -> tuple[Column, bool]:
    if asked is not None:
        found = [c for c in columns if _named(c, asked)]
        if not found:
            raise DataError(f"--event-time {asked}: no such column; columns are {', '.join(c.name for c in columns[:20])}")
        if not _seldom_null(found[0]):
            raise DataError(f"--event-time {asked}: {found[0].nulls:,} of {found[0].rows:,} records have no value; every event needs one")
        if found[0].dtype == "timestamp":
            if not _after_1970(found[0]):
                raise DataError(_before_1970(found[0]))
            return found[0], False
        if found[0].of_day:
            return found[0], True
        if found[0].dtype != "int64":
            raise DataError(f"--event-time {asked} is {found[0].dtype}, not a readable time; choose another column")
        if not 0 <= found[0].low <= found[0].high < 2**31:
            raise DataError(
                f"--event-time {asked}: {found[0].low} to {found[0].high} are neither seconds nor an epoch; name another, and write the"
                " event time of this one by hand, as a computed field (value=...)"
            )
        return found[0], True
    if times := _times(columns):
        if (likeliest := _likeliest(times)) is None:
            raise DataError(_before_1970(times[0]))
        return likeliest, False
    if seconds := _seconds(columns):
        return seconds[0], True
    some = [explode_word(steps) for steps in sorted(lists, key=lambda steps: -lists[steps])[:MOST_NAMED]]
    listed = f", make the elements of a list the events (--explode {' or '.join(some)})" if some else ""
    mixed = next((path_text(c.steps) for c in columns if c.parse == "Text()" and time_like(c.called)), None)
    kinds = f" ({mixed} is a text in some and a number in others: each kind of events is a source of its own, by where=)" if mixed else ""
    raise DataError(
        f"no column holds a time in every record{kinds}; choose one with --event-time (an integer counts as seconds){listed}, or add one to"
        " the data"
    )


def _seconds(columns: list[Column]) -> list[Column]:
    """What may be seconds, or a time of the day, since a moment that the data does not tell."""
    found = [c for c in columns if c.dtype == "int64" and c.required and time_like(c.called) and isinstance(c.low, int) and c.low >= 0]
    return [c for c in found if c.high < 2**31 or c.of_day]


def _record_time(rows: int, taken: set[str]) -> Column:
    """The timestamps of a topic's records, of which none holds a time."""
    note = "QUESTION: no record holds a time, so the timestamps that records have in their topic are taken; do they say when it was?"
    return Column(("recorded_at",), rows, dtype="timestamp", name=taken_from(("recorded_at",), taken), is_record_time=True, notes=[note])


def _times(columns: list[Column]) -> list[Column]:
    """The moments that every record has; where there are none, those that few records lack: a line of totals, one that is damaged."""
    found = [c for c in columns if c.dtype == "timestamp" and c.moments is not None]
    return [c for c in found if c.required] or [c for c in found if _seldom_null(c)]


def _seldom_null(column: Column) -> bool:
    return 100 * column.nulls <= column.rows


def _likeliest(times: list[Column]) -> Column | None:
    """Of moments the event's, None where most of each are none of events. One that loses more than one record of a hundred comes behind
    those that do not, and is told where its name is the likelier."""
    possible = [c for c in times if _after_1970(c)]
    likeliest = min(possible, key=lambda c: (100 * _early(c.moments) > c.rows, _time_rank(c)), default=None)
    by_name = min(possible, key=_time_rank, default=None)
    if likeliest is not None and by_name is not None and by_name is not likeliest:
        likeliest.notes.append(f"QUESTION: or {by_name.name}? {_early(by_name.moments):,} of {by_name.rows:,} records are {_EARLY}")
    return likeliest


def _after_1970(column: Column) -> bool:
    """Whether the contract would take most of its moments as those of events. Others may be a database's "no date" (1900-01-01)."""
    assert column.moments is not None
    known = column.moments[column.moments != NONE]
    return 2 * int((known > 0).sum()) >= len(known)


def _early(moments: Moments | None) -> int:
    """How many moments are none that the contract would take for an event's."""
    return 0 if moments is None else int(((moments != NONE) & (moments <= 0)).sum())


def _moments(when: Column, day: Column | None) -> Moments | None:
    """The events' moments, :data:`NONE` where one has none; a time of the day is one of its day. None where no column tells them."""
    if not when.of_day:
        return when.moments
    assert when.moments is not None
    if day is None:
        return when.moments + int(ORIGIN.timestamp()) * 1_000_000
    assert day.moments is not None
    return when.moments + day.moments


def _note_early(column: Column, moments: Moments | None) -> None:
    """Of the column that tells the events' day: the range is that of events that the contract would take, and the others are told."""
    if moments is None or column.moments is None:
        return
    taken, early = moments > 0, _early(moments)
    if early and taken.any():
        column.low, column.high = shown(int(column.moments[taken].min())), shown(int(column.moments[taken].max()))
        column.notes.append(
            f"QUESTION: no date? {early:,} of {(moments != NONE).sum():,} records are {_EARLY} and will be dead letters"
            " (nonpositive_timestamp)"
        )


def _before_1970(column: Column) -> str:
    return (
        f"{column.name} begins at {column.low} UTC, and most of it is {_EARLY} (nonpositive_timestamp); name another time with"
        " --event-time, or add one to the data"
    )


def _time_rank(column: Column) -> tuple[int, bool, int]:
    """What is called a time and nothing more, what begins something, another time, what tells days alone, what comes after the event; of
    elements that are events their own before that of all."""
    found = set(words(column.name))
    assert column.moments is not None
    known = column.moments[column.moments != NONE]
    days = len(known) > 1 and bool((known % _DAY_US == known[0] % _DAY_US).all())
    plain = identifier(column.called) in _PLAIN
    rank = 4 if found & _LATER else 3 if days else 0 if plain else 1 if found & _BEGINS else 2
    return rank, "[]" not in column.steps, len(column.steps)


def _tie_breaker(first: list[Column], columns: list[Column]) -> Column:
    """``first``: places in a log, which are in order whether or not they are unique."""
    fit = [c for c in columns if c.dtype in ("string", "int64") and c.required and not c.of_day]
    placed = [c for c in first if c in fit]
    if placed:
        return max(placed, key=lambda c: c.distinct)
    if not fit:
        raise DataError("no text or integer column has a value in every record, and a tie breaker needs one: add an id to the data")
    unique = [c for c in fit if c.unique]
    if unique:
        return min(unique, key=lambda c: ("id" not in words(c.name), columns.index(c)))
    return max(fit, key=lambda c: (c.distinct, -columns.index(c)))


def _key_rank(column: Column) -> tuple[int, int]:
    found = words(column.name)
    for rank, word in enumerate(KEYS):
        if word in found:
            return rank, 0
    return len(KEYS) + (0 if "id" in found else 1), -column.distinct
