"""From when to when the events of a log are, by the events themselves; what a file holds is found out once."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.sources.event_files import EventFile, events, list_files
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import instant, micros_of

__all__ = ["event_span"]

_CACHE = ".event-spans.json"


def event_span(data: Path, source: EventSource, now: datetime) -> tuple[datetime, datetime] | None:
    """The times of the first and the last event of a source's files that its contract takes and that lie before ``now``; None without any.

    A file is read once, and again when its size or time of change is another; each time, where that cannot be kept.
    """
    path = layout.watch(data) / _CACHE
    try:
        known = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    try:
        files = list_files(data, source, None, None, hashes=False)
    except (DataError, OSError):
        return None
    before = dict(known) if isinstance(known, dict) else {}
    spans, changed = [], False
    for file in files:
        stamp = [file.size, Path(file.path).stat().st_mtime_ns]
        kept = before.get(file.name)
        if not isinstance(kept, dict) or kept.get("stamp") != stamp:
            kept = before[file.name] = {"stamp": stamp, "span": _span(file, source, micros_of(now))}
            changed = True
        if kept["span"] is not None:
            spans.append(kept["span"])
    if changed:
        with suppress(OSError):  # a data folder that is read-only or full is looked at all the same
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, before)
    return (instant(min(s[0] for s in spans)), instant(max(s[1] for s in spans))) if spans else None


def _span(file: EventFile, source: EventSource, now_us: int) -> list[int] | None:
    least: int | None = None
    most: int | None = None
    for valid, _ in events(file.path, source, now_us, 0, partitions=file.partitions):
        if valid.num_rows:
            times = pc.min_max(valid.column(valid.schema.get_field_index(source.event_time)).cast(pa.int64())).as_py()
            least = times["min"] if least is None else min(least, times["min"])
            most = times["max"] if most is None else max(most, times["max"])
    return None if least is None or most is None else [least, most]
