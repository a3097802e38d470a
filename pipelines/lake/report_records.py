"""What every report is: a typed record with one form in JSON, and the reading of those on disk. Light: standard library only.

A kind of report is a frozen dataclass below :class:`Report`, in the room that makes it. Its keys in JSON are its fields, in their order,
after ``format``, which rises when a field changes its meaning. Fields that an older report does not have, or that are null, have their
defaults; fields that this version does not know are passed over; a newer ``format`` is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pipelines.lake.files import read_json
from pipelines.lake.layout import REPORT_JSON
from transforms.errors import DataError
from transforms.instants import micros_of_text

__all__ = ["Report", "newest_first"]

_MINUTE_NS = 60_000_000_000


@dataclass(frozen=True, kw_only=True)
class Report:
    """A report; ``FORMAT`` is the number that this version writes and knows."""

    FORMAT: ClassVar[int] = 1
    MADE: ClassVar[str] = ""
    """The field that holds when the report was made, ISO 8601 with a zone, by the clock of who made it; "": its file's time counts."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: ``format``, then each field."""
        return {"format": self.FORMAT, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}

    @classmethod
    def of(cls, said: Mapping[str, Any], place: object = "a report") -> Self:
        """The record of what ``to_dict`` gave, of this version or an older one (without ``format``: the first).

        Raises DataError, one line that names ``place``, for a newer format and for a field that holds no value of its kind.
        """
        given = said.get("format", 1)
        if not _fits(given, int):
            raise DataError(f"{place}: format is {given!r:.40}, not a number; it is no report of Tandem's")
        if given > cls.FORMAT:
            raise NewerFormatError(f"{place} is of a newer Tandem (format {given}, this one knows {cls.FORMAT}); use that one")
        found = {}
        for each in fields(cls):
            value = said.get(each.name)
            if value is None:
                continue
            if (kind := _kind(each)) is not None and not _fits(value, kind):
                raise DataError(f"{place}: {each.name} is {value!r:.40}, not of type {kind.__name__}; it is no report of Tandem's")
            found[each.name] = cls.decoded(each.name, value, place)
        return cls(**found)

    @classmethod
    def decoded(cls, name: str, value: Any, place: object) -> Any:
        """A field's value from its JSON; for kinds whose fields hold records of their own."""
        return value


class NewerFormatError(DataError):
    """The report is of a version to come."""


def _kind(each: Field[Any]) -> type | None:
    """What a field holds, by its default; None for one that may be null."""
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    return None if default is None else type(default)


def _fits(value: Any, kind: type) -> bool:
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


def _plain(value: Any) -> Any:
    if isinstance(value, Report):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(v) for v in value] if isinstance(value, list) else value


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
