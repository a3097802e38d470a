"""The event files that a batch run would read, without reading them: which are as earlier runs had them, and which are not.

What was recorded, and when a file is taken for the same: :mod:`pipelines.sources.recorded_files`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.sources.event_files import EventFile, inventory
from pipelines.sources.recorded_files import Recorded, digest_of
from transforms.definitions import EventSource
from transforms.errors import DataError

__all__ = ["EventInputs", "differences", "event_inputs"]


@dataclass(frozen=True)
class EventInputs:
    """The files of a source for a range, in order of name; ``missing``: why there are none to list (empty: there are)."""

    files: tuple[EventFile, ...]
    missing: str = ""

    @property
    def bytes(self) -> int:
        """All files together."""
        return sum(f.size for f in self.files)

    def days(self) -> tuple[date, date] | None:
        """The first and the last day that a folder ``date=`` names."""
        named = sorted(f.date for f in self.files if f.date is not None)
        return (named[0], named[-1]) if named else None

    def events(self) -> int | None:
        """How many records the files hold, where their footers tell; None where only reading would."""
        if not all(f.name.endswith(".parquet") for f in self.files):
            return None
        try:
            return sum(int(pq.read_metadata(f.path).num_rows) for f in self.files)
        except Exception:  # an unreadable file is the run's business
            return None


def event_inputs(data: Path, source: EventSource, begin_us: int | None, end_us: int | None) -> EventInputs:
    """The files of ``source`` that may hold events of a range (UTC microseconds)."""
    try:
        return EventInputs(tuple(inventory(data, source, begin_us, end_us, hashes=False).files))
    except (DataError, OSError) as error:
        return EventInputs((), " ".join(str(error).split()))


@dataclass(frozen=True)
class Differences:
    """How files differ from those recorded, by name."""

    new: tuple[str, ...]
    altered: tuple[str, ...]
    gone: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.new or self.altered or self.gone)

    def __str__(self) -> str:
        parts = []
        for what, names in (("new", self.new), ("altered", self.altered), ("gone", self.gone)):
            if names:
                parts.append(f"{len(names):,} {what} ({names[0]}{', ..' if len(names) > 1 else ''})")
        return ", ".join(parts)


def differences(now: EventInputs, then: Mapping[str, Recorded], within: Callable[[str], bool]) -> Differences:
    """``within`` says of a recorded file's name whether the range of ``now`` would list it."""
    names = {f.name for f in now.files}
    altered = [f.name for f in now.files if (r := then.get(f.name)) is not None and (r.size != f.size or digest_of(f, then) != r.sha256)]
    return Differences(
        tuple(f.name for f in now.files if f.name not in then),
        tuple(altered),
        tuple(sorted(n for n in then if n not in names and within(n))),
    )
