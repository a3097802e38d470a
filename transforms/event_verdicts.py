"""The verdicts on records of a source that maps what it reads: N records, judged as the events that were made of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.columns import OK, Column, all_ok, int64_values, is_valid
from transforms.computed import chosen, clock_change, compute
from transforms.event_source import EventSource
from transforms.expressions.formula import Formula
from transforms.fields import TIMESTAMP, Field
from transforms.instants import MAX_US, MIN_US, instant
from transforms.origin_fields import Read
from transforms.places import EACH, within
from transforms.reasons import REASONS
from transforms.rules import Checked, Now, apply_rules, detail_of, now_of

__all__ = ["judge_events"]

_WHERE = "where "  # stands for the source's filter among names of fields, of which none has a blank
_MOST_NAMED = 5
"""So many of the fields that a formula reads are shown beside it."""


def judge_events(source: EventSource, read: Read, now_us: Now, max_future_us: int) -> Checked:
    """The verdicts on N records as the M events that were made of them: one event that is wrong makes its record a reject, and none of
    the record's events counts, so that a record that is produced again, repaired, counts once."""
    columns, records, start, notes = read.columns, read.records, read.start, read.notes
    compute(source, columns, len(records))
    us, _ = columns[source.event_time]
    at = np.arange(len(records))
    earliest = _earliest(us, records, len(start))
    left_out, unsure = np.zeros(0, np.int64), all_ok(len(records))
    if source.where is not None:
        take, unsure = chosen(source, columns, len(records))
        left_out = records[~take]
        at = np.flatnonzero(take)  # numpy takes by places faster than by truth values
        records, unsure = records[at], unsure[at]
        taken = pa.RecordBatch.from_arrays([array for array, _ in columns.values()], names=list(columns)).filter(pa.array(take))
        columns = {name: (taken.column(i), codes[at]) for i, (name, (_, codes)) in enumerate(columns.items())}
    arrays, by_column, _ = apply_rules(source, columns, now_of(now_us, records), max_future_us)
    by_column[_WHERE] = unsure
    of_event = np.minimum.reduce(list(by_column.values())) if len(records) else all_ok(0)
    verdict = start.copy()
    if source.explode is None:
        verdict[records] = np.minimum(verdict[records], of_event)
    else:
        np.minimum.at(verdict, records, of_event)
    good = verdict == OK
    valid = pa.RecordBatch.from_arrays(arrays, schema=source.arrow_schema)
    if not good.all():
        valid = valid.filter(pa.array(good[records]))
    details: list[str | None] = [None] * len(good)
    depths = {f.name: _depth(f, len(read.elements)) for f in source.all_fields}
    first: dict[int, int] = {}
    for event in np.flatnonzero((of_event == verdict[records]) & ~good[records]).tolist():
        first.setdefault(int(records[event]), event)
    for row in np.flatnonzero(~good).tolist():
        if row in notes and start[row] == verdict[row]:
            details[row] = notes[row]
        else:
            event = first[row]
            name = next(name for name, c in by_column.items() if c[event] == verdict[row])
            if name == _WHERE:
                assert source.filter is not None
                change = clock_change(source, source.filter, columns, event)
                details[row] = (
                    f"where: {source.filter} has no value{f': {change}' if change else _held(source, source.filter, columns, event)}"
                )
                continue
            value, why = read.raw[name](int(at[event])) if name in read.raw else _computed(source, name, columns, event)
            inside = within(source.exploded, [int(each[at[event]]) for each in read.elements[: depths[name]]])
            details[row] = detail_of(source, name, REASONS[verdict[row]], value, max_future_us, why) + inside
    reasons = pa.array(REASONS).take(pa.array(np.where(good, 0, verdict).astype(np.int64), mask=good))
    several = source.explode is not None or source.where is not None
    passed = int(good[left_out].sum())
    return Checked(
        valid, reasons, pa.array(details, pa.string()), earliest, records[good[records]] if several else None, passed, read.empty
    )  # fmt: skip


def _depth(f: Field, most: int) -> int:
    """How many of the ``most`` lists that were exploded lead to a field: all of them to what is computed."""
    return most if f.value is not None else f.place.count(EACH) if isinstance(f.place, tuple) else 0


def _computed(source: EventSource, name: str, columns: dict[str, Column], event: int) -> tuple[object, str]:
    """The value of a computed field, and why it has none, where that is so."""
    array, codes = columns[name]
    value = array[event].as_py()
    made = next(f for f in source.all_fields if f.name == name)
    if value is not None or codes[event] == OK:
        return value, ""
    change = clock_change(source, made.formula, columns, event)
    return value, f"is {made.value}, which has no value{f': {change}' if change else _held(source, made.formula, columns, event)}"


def _held(source: EventSource, formula: Formula | None, columns: dict[str, Column], event: int) -> str:
    """That what is computed of the fields of one event cannot be held, and their values."""
    names = formula.fields[:_MOST_NAMED] if formula is not None else ()
    values = [columns[name][0][event].as_py() for name in names]
    timed = {f.name for f in source.all_fields if f.dtype == "timestamp"}
    shown = [
        f"{instant(v)}" if name in timed and v is not None and MIN_US <= v <= MAX_US else v for name, v in zip(names, values, strict=True)
    ]
    said = ", ".join(f"{name}={repr(v[:80] if isinstance(v, str | list) else v)[:100]}" for name, v in zip(names, shown, strict=True))
    return f" that can be held{', of ' if said else ''}{said}"


def _earliest(us: pa.Array, records: npt.NDArray[np.int64], n: int) -> pa.Array:
    """The event time of each of N records, as far as it can be read: that of its earliest event."""
    values = int64_values(us)
    there = is_valid(us) & (values >= MIN_US) & (values <= MAX_US)
    if len(records) == n and (n == 0 or (records[0] == 0 and bool((np.diff(records) == 1).all()))):
        return pa.array(values, mask=~there).cast(TIMESTAMP)
    times = np.full(n, MAX_US + 1, np.int64)
    np.minimum.at(times, records[there], values[there])
    return pa.array(times, mask=times > MAX_US).cast(TIMESTAMP)
