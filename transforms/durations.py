"""Durations as definitions write them: ``timedelta``, and whole microseconds below."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from transforms.errors import DefinitionError

__all__ = ["check_duration", "days", "duration_name", "hours", "micros", "minutes", "seconds"]


def seconds(n: float) -> timedelta:
    """A duration of ``n`` seconds."""
    return timedelta(seconds=n)


def minutes(n: float) -> timedelta:
    """A duration of ``n`` minutes."""
    return timedelta(minutes=n)


def hours(n: float) -> timedelta:
    """A duration of ``n`` hours."""
    return timedelta(hours=n)


def days(n: float) -> timedelta:
    """A duration of ``n`` days of 24 hours."""
    return timedelta(days=n)


def micros(duration: timedelta) -> int:
    """The duration in whole microseconds, exactly."""
    return (duration.days * 86_400 + duration.seconds) * 1_000_000 + duration.microseconds


def duration_name(duration: timedelta) -> str:
    """The shortest whole-unit name of a duration: ``24h``, ``90m``, ``7d`` (from two days up), ``1500us``."""
    us = micros(duration)
    if us % 86_400_000_000 == 0 and us >= 2 * 86_400_000_000:
        return f"{us // 86_400_000_000}d"
    for unit, size in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if us % size == 0:
            return f"{us // size}{unit}"
    return f"{us}us"


def check_duration(what: str, value: Any, *, zero: bool = False) -> None:
    if not isinstance(value, timedelta):
        raise DefinitionError(f"{what} {value!r} is no duration; write minutes(5), hours(1) or days(7)")
    if micros(value) < 0 or (micros(value) == 0 and not zero):
        raise DefinitionError(f"{what} {value} must be {'zero or ' if zero else ''}longer than zero")
