"""Avro's dates, times of day, moments and UUIDs beyond what Python's own types hold: 24:00:00, a database's infinite date; and decimals
of more bytes than are taken.

fastavro raises for such a time, and one that nobody asked for would take its record, or its whole file, away. Files and topics read them
by this module, so the verdict on a record does not depend on what carried it. UUIDs are their texts in both.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any

from transforms.instants import BeyondCalendar

__all__ = ["MOMENTS", "OWN", "has_several", "integers", "with_times", "time_value"]

OWN = "tandem-"
"""Before the name of a logical type: it is read by this module."""
_DAY_US = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1)
# How many microseconds a unit has, as (times, divided by).
_SCALES = {"millis": (1000, 1), "micros": (1, 1), "nanos": (1, 1000)}
MOMENTS = {f"{local}timestamp-{unit}": scale for local in ("", "local-") for unit, scale in _SCALES.items()}
"""How many microseconds a unit of each logical type of moments has, as (times, divided by)."""

MOST_DECIMAL_BYTES = 1024
"""A decimal of more bytes (2,466 digits) is none: to make it a number costs their square."""

Change = Callable[[str, str, bool], str | None]
"""A type, its logical type, and whether it is in a union with null alone -> its logical type from now on, None for none."""


def with_times(schema: Any) -> Any:
    """A schema (JSON, of which anything may be no schema) whose values say what they are: ``date``, ``datetime``, ``time``, and
    :class:`~transforms.instants.BeyondCalendar` where these have none."""
    _registered()
    return _changed(schema, lambda kind, logical, alone: f"{OWN}{logical}" if (kind, logical) in _READERS else logical)


def integers(schema: Any) -> Any:
    """A schema whose values are the integers that are written. In a union of several types dates and times of day tell what they are, as
    in :func:`with_times`: an integer may be another type's."""
    _registered()

    def change(kind: str, logical: str, alone: bool) -> str | None:
        if (kind, logical) not in _READERS:
            return logical
        return None if logical != "decimal" and (alone or logical in MOMENTS) else f"{OWN}{logical}"

    return _changed(schema, change)


def has_several(schema: Any) -> bool:
    """Whether there is a union of several types beside null anywhere in a schema."""
    if isinstance(schema, list):
        return sum(each != "null" for each in schema) > 1 or any(map(has_several, schema))
    return isinstance(schema, dict) and any(has_several(inner) for _, inner in _inner(schema))


def _inner(schema: dict[str, Any]) -> list[tuple[str, Any]]:
    """The parts of a schema that are schemas themselves; fields are read as such, by their ``type``."""
    found = [(part, schema[part]) for part in ("type", "items", "values") if isinstance(schema.get(part), (dict, list))]
    fields = schema.get("fields")
    return found + ([("fields", field) for field in fields] if isinstance(fields, list) else [])


def _changed(schema: Any, change: Change, alone: bool = True) -> Any:
    if isinstance(schema, list):
        alone = sum(each != "null" for each in schema) < 2
        return [_changed(each, change, alone) for each in schema]
    if not isinstance(schema, dict):
        return schema
    out = dict(schema)
    for part, inner in _inner(schema):
        if part != "fields":
            out[part] = _changed(inner, change, alone if part == "type" else True)
    if isinstance(schema.get("fields"), list):
        out["fields"] = [_changed(field, change) for field in schema["fields"]]
    if isinstance(kind := schema.get("type"), str) and isinstance(logical := schema.get("logicalType"), str):
        new = None if logical == "uuid" else logical if logical == "decimal" and not _is_decimal(schema) else change(kind, logical, alone)
        if new is None:
            del out["logicalType"]
        else:
            out["logicalType"] = new
    return out


def _is_decimal(schema: dict[str, Any]) -> bool:
    """Whether a schema is right for a decimal, by fastavro, which looks at it under that name alone."""
    from fastavro import parse_schema

    try:
        parse_schema({part: value for part, value in schema.items() if part != "doc"}, {})
    except Exception:  # of any kind: what it is made of may be anything
        return False
    return True


# ---- what fastavro calls ---------------------------------------------------------------------------------------------------


def _moment(zero: datetime, times: int, by: int) -> Callable[..., Any]:
    kind = "local" if zero.tzinfo is None else "moment"

    def read(number: int, writer: Any = None, reader: Any = None) -> Any:
        us = number * times // by
        try:
            return zero + timedelta(microseconds=us)
        except OverflowError:
            return BeyondCalendar(number, kind, us)

    return read


def _date(number: int, writer: Any = None, reader: Any = None) -> Any:
    try:
        return _EPOCH_DAY + timedelta(number)
    except OverflowError:
        return BeyondCalendar(number, "date", number * _DAY_US)


def _time(times: int) -> Callable[..., Any]:
    def read(number: int, writer: Any = None, reader: Any = None) -> Any:
        us = number * times
        if not 0 <= us < _DAY_US:
            return BeyondCalendar(number, "time", us)
        seconds, micros = divmod(us, 1_000_000)
        return time(seconds // 3600, seconds // 60 % 60, seconds % 60, micros)

    return read


_THEIRS: dict[str, Callable[..., Any]] = {}
"""What fastavro reads logical types by."""


def _decimal(kind: str) -> Callable[..., Any]:
    def read(data: bytes, writer: Any = None, reader: Any = None) -> Any:
        if len(data) > MOST_DECIMAL_BYTES:
            raise ValueError(f"a decimal of {len(data):,} bytes, more than {MOST_DECIMAL_BYTES:,}")
        return _THEIRS[f"{kind}-decimal"](data, writer, reader)

    return read


_READERS: dict[tuple[str, str], Callable[..., Any]] = {
    **{(kind, "decimal"): _decimal(kind) for kind in ("bytes", "fixed")},
    ("int", "date"): _date,
    ("int", "time-millis"): _time(1000),
    ("long", "time-micros"): _time(1),
    **{
        ("long", name): _moment(datetime(1970, 1, 1, tzinfo=None if name.startswith("local-") else UTC), *_SCALES[name.rpartition("-")[2]])
        for name in MOMENTS
    },
}


def time_value(kind: str, logical: str, number: int) -> Any:
    """What a number of a type and logical type is, as those of records are; the number where they have no time."""
    read = _READERS.get((kind, logical.removeprefix(OWN)))
    return number if read is None else read(number)


@cache
def _registered() -> None:
    """Under names of our own, so that other schemas are not affected."""
    from fastavro.read import LOGICAL_READERS

    _THEIRS.update(LOGICAL_READERS)
    LOGICAL_READERS.update({f"{kind}-{OWN}{name}": read for (kind, name), read in _READERS.items()})
