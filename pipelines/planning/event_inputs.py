"""The event files that a batch run would read, without reading them: which are as earlier runs had them, and which are not.

A file of the name and size that a run recorded, not touched since that run began, is taken for the same; one that was touched is hashed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines.lake.files import sha256
from pipelines.lake.run_records import BatchRecord
from pipelines.sources.event_files import EventFile, inventory
from transforms.definitions import EventSource
from transforms.errors import DataError
from transforms.instants import micros_of

__all__ = ["EventInputs", "Recorded", "differences", "event_inputs"]


@dataclass(frozen=True)
class Recorded:
    """A file as the newest of some runs read it; ``since_us``: when that run began."""

    size: int
    sha256: str
    since_us: int


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


def recorded(runs: Sequence[BatchRecord], source: str) -> dict[str, Recorded]:
    """Name -> file, of all that these runs (newest first) read of a source."""
    out: dict[str, Recorded] = {}
    for run in runs:
        since = micros_of(datetime.fromisoformat(run.created))
        for f in run.inputs.get(source, ()):
            out.setdefault(f["file"], Recorded(f["size"], f["sha256"], since))
    return out


def digest_of(file: EventFile, known: Mapping[str, Recorded]) -> str:
    """The SHA-256 of a file: the recorded one, where nobody touched it since."""
    then = known.get(file.name)
    if then is not None and then.size == file.size and os.stat(file.path).st_mtime_ns // 1000 < then.since_us:
        return then.sha256
    return sha256(Path(file.path))


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


def as_inputs(files: Sequence[EventFile], known: Mapping[str, Recorded]) -> list[dict[str, Any]]:
    """The files as a manifest names them."""
    return [{"file": f.name, "size": f.size, "sha256": digest_of(f, known)} for f in files]
