"""What every report is, and the reading of those on disk. Light: standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeVar

from pipelines.lake.data_files import read_json
from pipelines.lake.json_records import NewerFormatError, Record
from pipelines.lake.layout import REPORT_JSON
from transforms.errors import DataError
from transforms.instants import micros_of_text

__all__ = ["Report", "newest_first"]

_MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, kw_only=True)
class Report(Record):
    """A report; it lies in a folder of its own, below that of its kind."""

    WHAT: ClassVar[str] = "report"
    MADE: ClassVar[str] = ""
    """The field that holds when the report was made, ISO 8601 with a zone, by the clock of who made it; "": its file's time counts."""


Kind = TypeVar("Kind", bound=Report)


def newest_first(folder: Path, kind: type[Kind]) -> Iterator[tuple[Path, Kind]]:
    """The reports below a folder that holds one folder for each (``layout.verify``, ``layout.monitor``), newest first, read as they are
    asked for.

    A report is as old as it says (``kind.MADE``), else as its file is: a file server's clock need not be that of those who write there.
    No moment is believed that lies more than a minute ahead of now, as it is of a clock that runs ahead or was set back since; a report
    without one that is believed is older than all others. Torn or foreign files are passed over. Raises DataError at one of a newer
    format: what is older than that is no longer what counts.
    """
    found, latest = [], time.time_ns() + _MINUTE_NS
    for path in folder.glob(f"*/{REPORT_JSON}"):
        with suppress(OSError):
            written = path.stat().st_mtime_ns
            moments = (_made_ns(path, kind.MADE, written), written)
            found.append((next((at for at in moments if at is not None and at <= latest), -1), written, path))
    for *_, path in sorted(found, reverse=True):
        report = _read(path, kind)
        if report is not None:
            yield path, report


@lru_cache(maxsize=4096)  # whoever asks for the newest report asks again and again, and reports are written once
def _made_ns(path: Path, name: str, written_ns: int) -> int | None:
    """When a report was made by its own word, in nanoseconds since 1970; None where it does not say. ``written_ns``: another file is
    looked at anew."""
    said = (read_json(path) or {}).get(name)
    made = micros_of_text(said) if isinstance(said, str) else None
    return None if made is None else made * 1000


def _read(path: Path, kind: type[Kind]) -> Kind | None:
    said = read_json(path)
    try:
        return None if said is None else kind.of(said, path)
    except NewerFormatError:
        raise
    except DataError:
        return None
