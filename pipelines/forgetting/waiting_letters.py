"""A subject's records among the dead letters that wait in the data folder for their topic: told by payload, key and headers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.forgetting.subject import Subject
from pipelines.sources.broker import Original
from pipelines.sources.letter_spool import keep_waiting, waiting_records
from transforms.event_source import EventSource
from transforms.mapping import read_records
from transforms.origin import Origin

__all__ = ["letters_have", "letters_hold", "without_letters"]


def without_letters(path: Path, subject: Subject, dry_run: bool) -> int:
    """Leave those that are not about it; how many were. A file that holds no letters has none."""
    try:
        source, records = waiting_records(path)
    except (OSError, ValueError):
        return 0  # its bytes are searched in the end
    about = [_is_about(record, source, subject) for record in records]
    if any(about) and not dry_run:
        keep_waiting(path, [not each for each in about])
    return sum(about)


def letters_have(path: Path, has: Callable[[bytes], bool]) -> bool:
    """Whether some payload, key or header of them is one that ``has`` says yes to. Raises OSError, ValueError for another file."""
    _, records = waiting_records(path)
    return any(has(part) for key, value, headers in records for part in (key, value, *(h for _, h in headers)) if part is not None)


def letters_hold(path: Path, subject: Subject) -> bool | None:
    """Whether a file of them holds the subject's values; None for one that holds no letters."""
    try:
        source, records = waiting_records(path)
    except (OSError, ValueError):
        return None
    return any(_is_about(record, source, subject) for record in records) or subject.stands_in(path.read_bytes())


def _is_about(record: Original, source: str, subject: Subject) -> bool:
    key, value, headers = record
    parts = [part for part in (key, value, *(header for _, header in headers)) if part is not None]
    if (value is not None and subject.is_in_text(value)) or subject.stands_in(b"\n".join(parts)):
        return True
    if len(subject.keys) == 1 and subject.keys[0][1].encode() in parts:  # a text of few bytes, as the whole of a key or a header
        return True
    return any(_read_as(record, each, subject) for each in subject.sources if each.name == source)


def _read_as(record: Original, source: EventSource, subject: Subject) -> bool:
    """Whether the event that its source makes of it is about the subject: its keys may stand in the record's key or headers."""
    key, value, headers = record
    try:
        payload = json.loads(value) if value is not None else {}
    except (ValueError, RecursionError):
        payload = {}
    origin = Origin.of([key], [headers], np.zeros(1, np.int64))
    read = read_records([payload if isinstance(payload, dict) else {}], {}, source, origin, bounded=False)
    return bool(subject.events(source, read, 1).any())
