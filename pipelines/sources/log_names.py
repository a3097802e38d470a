"""What names alone say of an event log, in a folder as on an object store: which of its folders a run enters, and which files it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePath

from pipelines.sources.file_records import unread
from transforms.definitions import EventSource, micros
from transforms.instants import micros_of

__all__ = ["HIDDEN", "day_in", "enters", "in_range", "is_hidden", "why_not"]

HIDDEN = "its name starts with . or _"
"""Why a hidden file or folder is passed over."""
_DAY = micros(timedelta(days=1))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is never read."""
    return name.startswith((".", "_"))


def why_not(name: str, merged: Mapping[str, str], source: EventSource) -> str | None:
    """Why a file of this name is not read; None: it is. "": it is none that anybody takes for events (``_SUCCESS``), so nobody is told.
    ``merged``: :func:`pipelines.sources.archived_files.covered` of its folder."""
    if name in merged:
        return f"merged into {merged[name]}"
    why = unread(name, source)
    if is_hidden(name):
        return "" if why else HIDDEN
    return why or None


def enters(folder: str, start_us: int | None, end_us: int | None) -> bool:
    """Whether a folder of this name may hold events of ``[start_us, end_us)`` (UTC microseconds; None: open): it is no day, or one of
    these."""
    day = _day_of(folder)
    if day is None:
        return True
    first = micros_of(datetime(day.year, day.month, day.day, tzinfo=UTC))
    return (end_us is None or first < end_us) and (start_us is None or first + _DAY > start_us)


def in_range(name: str, start_us: int | None, end_us: int | None) -> bool:
    """Whether one comes upon a file of this name by entering folders: ``name`` with those that it lies in."""
    return all(enters(part, start_us, end_us) for part in PurePath(name).parts[:-1])


def day_in(folders: Sequence[str]) -> date | None:
    """The day of the innermost folder ``date=YYYY-MM-DD``."""
    return next((day for folder in reversed(folders) if (day := _day_of(folder))), None)


def _day_of(folder: str) -> date | None:
    if not folder.startswith("date="):
        return None
    try:
        return datetime.strptime(folder, "date=%Y-%m-%d").date() if len(folder) == 15 else None
    except ValueError:
        return None  # not a day: a folder as any other
