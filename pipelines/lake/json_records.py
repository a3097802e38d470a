"""What is kept as JSON with a format number: a typed record with one form. Light: standard library only.

A kind is a frozen dataclass below :class:`Record`, in the room that makes it. Its keys in JSON are its fields, in their order, after
``format``, which rises when a field changes its meaning. Fields that an older record does not have, or that are null, have their
defaults, and it is no such record where they have none; fields that this version does not know are passed over; a newer ``format`` is
refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar, Self

from transforms.errors import DataError

__all__ = ["NewerFormatError", "Record"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A record; ``FORMAT`` is the number that this version writes and knows, ``WHAT`` is what errors call it."""

    FORMAT: ClassVar[int] = 1
    WHAT: ClassVar[str] = "record"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: ``format``, then each field."""
        return {"format": self.FORMAT, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}

    @classmethod
    def of(cls, said: Mapping[str, Any], place: object = None) -> Self:
        """The record of what ``to_dict`` gave, of this version or an older one (without ``format``: the first).

        Raises DataError, one line that names ``place``, for a newer format and for a field that holds no value of its kind.
        """
        place = place or f"a {cls.WHAT}"
        given = said.get("format", 1)
        if not _fits(given, int):
            raise DataError(f"{place}: format is {given!r:.40}, not a number; it is no {cls.WHAT} of Tandem's")
        if given > cls.FORMAT:
            raise NewerFormatError(f"{place} is of a newer Tandem (format {given}, this one knows {cls.FORMAT}); use that one")
        found = {}
        for each in fields(cls):
            value = said.get(each.name)
            if value is None:
                if each.default is MISSING and each.default_factory is MISSING:
                    raise DataError(f"{place}: {each.name} is missing; it is no {cls.WHAT} of Tandem's")
                continue
            if (kind := _kind(each)) is not None and not _fits(value, kind):
                raise DataError(f"{place}: {each.name} is {value!r:.40}, not of type {kind.__name__}; it is no {cls.WHAT} of Tandem's")
            found[each.name] = cls.decoded(each.name, value, place)
        return cls(**found)

    @classmethod
    def decoded(cls, name: str, value: Any, place: object) -> Any:
        """A field's value from its JSON; for kinds whose fields hold records of their own."""
        return value


class NewerFormatError(DataError):
    """The record is of a version to come."""


def _kind(each: Field[Any]) -> type | None:
    """What a field holds, by its default; None for one that may be null, or has none."""
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    return None if default is None or default is MISSING else type(default)


def _fits(value: Any, kind: type) -> bool:
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(v) for v in value] if isinstance(value, list) else value
