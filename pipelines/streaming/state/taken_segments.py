"""What ``tandem vacuum`` took of a stream's log: ``vacuumed.json`` in the stream's folder, written before anything goes.

Whoever compares with the log reads it: rows and notes up to there may be gone, and nothing is wrong about that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.lake.data_files import write_text
from pipelines.streaming.state.stream_link import link_of
from transforms.errors import DataError

__all__ = ["Taken", "forget_taken", "note_taken", "taken_of"]

_NAME = "vacuumed.json"


@dataclass(frozen=True)
class Taken:
    """``rows``: group -> the event timestamp (microseconds) up to which rows may be gone; ``late``: source -> partition -> the offset
    before which notes of late events may be gone."""

    rows: Mapping[str, int] = field(default_factory=dict)
    late: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def with_more(self, more: Taken) -> Taken:
        """Both."""
        late = {
            s: {p: max(each[p] for each in (self.late.get(s, {}), more.late.get(s, {})) if p in each)
                for p in {*self.late.get(s, {}), *more.late.get(s, {})}}
            for s in {*self.late, *more.late}
        }  # fmt: skip
        return Taken({g: max(each[g] for each in (self.rows, more.rows) if g in each) for g in {*self.rows, *more.rows}}, late)


def taken_of(folder: Path) -> Taken:
    """Of the stream in ``folder``; in an object store, what the store says. Raises DataError, StoreError."""
    link = link_of(folder)
    try:
        found = link.read(_NAME) if link is not None else (folder / _NAME).read_bytes()
    except FileNotFoundError:
        found = None
    if found is None:
        return Taken()
    try:
        said = json.loads(found)
        late = {str(s): {int(p): int(o) for p, o in each.items()} for s, each in said["late"].items()}
        return Taken({str(g): int(at) for g, at in said["rows"].items()}, late)
    except (ValueError, KeyError, TypeError, AttributeError):
        line = "delete it; verify then calls the rows that were vacuumed missing"
        raise DataError(f"{folder / _NAME} is damaged; {line}") from None


def note_taken(folder: Path, more: Taken) -> None:
    """Have it say that this goes, too. Raises DataError, StoreError."""
    whole = taken_of(folder).with_more(more)
    text = json.dumps({"rows": whole.rows, "late": whole.late}, sort_keys=True) + "\n"
    if (link := link_of(folder)) is not None:
        link.write(_NAME, text.encode())
    else:
        write_text(folder / _NAME, text, durable=True)


def forget_taken(folder: Path) -> None:
    """The log begins anew."""
    if (link := link_of(folder)) is not None:
        link.drop(folder / _NAME)
    (folder / _NAME).unlink(missing_ok=True)
