"""How a value is read: what a field's ``parse`` may be. The declarations; the reading itself is :mod:`transforms.conversions`' business.

A text that says its zone itself (RFC 3339, ``2024-05-01T10:00:00.5+02:00``) is the moment that it says to all that read times.
Each is a plain value, checked where it is written, and part of the fingerprint of the definitions that use it.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, ClassVar, Literal, get_args

from transforms.errors import DefinitionError

__all__ = [
    "Base64", "BigEndian", "Date", "Decimal", "Enum", "Epoch", "Hex", "IsoTime", "Local", "Number", "Parse", "Text", "TimeFormat",
    "TimeOfDay",
]  # fmt: skip

Unit = Literal["s", "ms", "us", "ns", "ticks", "excel"]
Choice = Literal["earlier", "later", "reject"]

MAX_SCALE = 15
"""Digits after the decimal point: 10**15 and every number of as many digits are exact in a float64."""


@dataclass(frozen=True)
class Parse:
    """Base of all ways to read a value."""

    dtypes: ClassVar[tuple[str, ...]] = ()
    """The dtypes that a field read in this way may have."""

    def check(self, what: str, dtype: str | None) -> None:
        """Raises DefinitionError where a field of ``dtype`` cannot be read in this way."""
        if dtype not in self.dtypes:
            raise DefinitionError(
                f"{what}: {type(self).__name__} gives {' or '.join(self.dtypes)}, but the field is {dtype}; change one of both"
            )

    def canonical(self) -> dict[str, Any]:
        """A JSON-able form of everything that can change a value."""
        return {"parse": type(self).__name__, **{f.name: getattr(self, f.name) for f in fields(self)}}

    def _refuse(self, text: str) -> DefinitionError:
        return DefinitionError(f"{type(self).__name__}: {text}")


@dataclass(frozen=True)
class Epoch(Parse):
    """A number of units since 1970 in UTC: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``; or ``"ticks"``, .NET's 100 ns since the year 1; or
    ``"excel"``, days since 1899-12-30 as spreadsheets count them, to the nearest millisecond, as they show them.

    Whole numbers are exact, nanoseconds and ticks floored to microseconds. A float is the nearest microsecond to it, ties to the even one.
    ``text``: also a text that holds such a number, floored; in milliseconds also as ``/Date(1714557660123+0200)/`` (OData of SAP and .NET,
    whose offset moves no moment). In columns of files a timestamp with a unit of its own is what it is.
    """

    unit: Unit
    text: bool = False
    dtypes: ClassVar[tuple[str, ...]] = ("timestamp",)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise self._refuse(f"unit {self.unit!r} is none of {', '.join(get_args(Unit))}; write Epoch('ms')")
        if not isinstance(self.text, bool):
            raise self._refuse(f"text={self.text!r} is neither True nor False")


class Local(Parse):
    """What may be in local times of a zone: the base of those that read texts of times. ``format`` is how such a text may be written."""

    format: str
    zone: str | None
    ambiguous: Choice
    missing: Choice

    def _check_zone(self) -> None:
        if self.zone is not None:
            try:
                zoneinfo.ZoneInfo(self.zone)
            except (ValueError, OSError, KeyError, TypeError):
                raise self._refuse(f"zone {self.zone!r} is no time zone of the IANA; write one such as 'Europe/Paris' or 'UTC'") from None
        for name in ("ambiguous", "missing"):
            if getattr(self, name) not in ("earlier", "later", "reject"):
                raise self._refuse(f"{name}={getattr(self, name)!r} is none of 'earlier', 'later', 'reject'")


@dataclass(frozen=True)
class TimeFormat(Local):
    """A text in a format of Python's ``datetime.strptime``, in local time of an IANA ``zone`` unless the format reads one (``%z``).

    Where clocks are put back, a local time is there twice: ``ambiguous`` takes the ``"earlier"`` or the ``"later"`` of both moments, or
    rejects the record. Where they are put forward, some local times are ``missing``: ``"later"`` reads 02:30 as the old offset has it
    (half an hour after the change), ``"earlier"`` as the new one has it (half an hour before), ``"reject"`` rejects it.

    A column of timestamps without a zone (Parquet, Avro's local timestamps, tables) holds local times of ``zone``, too; one with a zone
    holds the moments that it says. A format that begins with the year reads whole numbers by their digits, too (20240501 for ``%Y%m%d``).
    """

    format: str
    zone: str | None = None
    ambiguous: Choice = "reject"
    missing: Choice = "reject"
    dtypes: ClassVar[tuple[str, ...]] = ("timestamp",)

    def __post_init__(self) -> None:
        if not isinstance(self.format, str) or "%" not in self.format:
            raise self._refuse(
                f"format {self.format!r} is none of datetime.strptime; write TimeFormat('%d/%m/%Y %H:%M', zone='Europe/Paris')"
            )
        if not any(d in self.format for d in ("%Y", "%y", "%c", "%x", "%G")):
            raise self._refuse(f"format {self.format!r} has no year (%Y); a moment needs one")
        try:
            example = datetime(2024, 5, 17, 13, 14, 15)
            datetime.strptime(example.astimezone(zoneinfo.ZoneInfo("UTC")).strftime(self.format), self.format)
        except ValueError as error:
            raise self._refuse(f"format {self.format!r}: {error}; see datetime.strptime") from None
        zoned = "%z" in self.format
        if zoned == (self.zone is not None):
            said = (
                "reads a zone (%z) and another is given; drop zone="
                if zoned
                else "reads no zone; give one, e.g. zone='Europe/Paris' or 'UTC'"
            )
            raise self._refuse(f"format {self.format!r} {said}")
        self._check_zone()

    @property
    def takes_digits(self) -> bool:
        """Whether a whole number may be such a text: of a day or a month that came first it would have lost a zero."""
        return self.format.startswith("%Y") and self.zone is not None


@dataclass(frozen=True)
class IsoTime(Local):
    """A text as ISO 8601 has it, and databases and programs that print a moment: ``2024-05-01 10:00:00.123+00``, ``2024-05-01T10:00``.

    A ``T`` or a blank behind the day, seconds and any digits of them (floored) or none, and a zone as ``Z``, ``UTC``, ``+hh``, ``+hhmm``,
    ``+hh:mm`` or ``+hh:mm:ss`` (local mean times, of before there were zones), with a blank before it or not; also ISO's basic form
    (``20240501T100000Z``). What Java and RFC 9557 write behind an offset in brackets (``[Europe/Paris]``), and Go as its name
    (``+0200 CEST``), says nothing more. A text that says no zone is local time of
    ``zone``, as of :class:`TimeFormat`, with its ``ambiguous`` and ``missing``; without a ``zone`` it is refused.
    """

    zone: str | None = None
    ambiguous: Choice = "reject"
    missing: Choice = "reject"
    dtypes: ClassVar[tuple[str, ...]] = ("timestamp",)
    format: ClassVar[str] = "%Y-%m-%dT%H:%M:%S.%f"  # type: ignore[misc]

    def __post_init__(self) -> None:
        self._check_zone()


@dataclass(frozen=True)
class Date(Parse):
    """A day, as the moment at which it begins in UTC: text ``YYYY-MM-DD``, whole days since 1970, or a date of Arrow, Avro or Protobuf."""

    dtypes: ClassVar[tuple[str, ...]] = ("timestamp",)


@dataclass(frozen=True)
class Decimal(Parse):
    """A decimal number of at most ``scale`` digits after the decimal point: a number, a text (``"12.30"``) or a decimal of Arrow or Avro.

    As float64 it is the nearest one to the decimal. As int64 it is a whole number of the smallest unit (cents, for ``scale=2``), of which
    all sums are exact. What has more digits does not fit and is an ``overflow``.

    ``unscaled``: bytes, or a text of them in base64, are the whole number of its smallest units, big-endian and signed, as Kafka Connect
    and Debezium write decimals: ``"MDk="`` is 123.45 for ``scale=2``.
    """

    scale: int
    unscaled: bool = False
    dtypes: ClassVar[tuple[str, ...]] = ("float64", "int64")

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int) or not 0 <= self.scale <= MAX_SCALE:
            raise self._refuse(
                f"scale {self.scale!r} is not a number of digits after the decimal point from 0 to {MAX_SCALE}; write Decimal(scale=2)"
            )
        if not isinstance(self.unscaled, bool):
            raise self._refuse(f"unscaled={self.unscaled!r} is neither True nor False")

    def canonical(self) -> dict[str, Any]:
        """What was there before ``unscaled`` was has the form that it had."""
        return {"parse": "Decimal", "scale": self.scale, **({"unscaled": True} if self.unscaled else {})}


@dataclass(frozen=True)
class Number(Parse):
    """A number of the field's dtype, as such or as a text that holds one: ``"42"``, ``"-1.5e3"``. White space around it is not taken."""

    dtypes: ClassVar[tuple[str, ...]] = ("int64", "float64")


@dataclass(frozen=True)
class Text(Parse):
    """A text as it is, or a whole number as its decimal digits: an id, which some writers send as a number, of any size (unsigned 64 bits,
    decimals without a fraction) and without loss. Whole floats below 2^53 are whole numbers; others, and truth values, are refused."""

    dtypes: ClassVar[tuple[str, ...]] = ("string",)


@dataclass(frozen=True)
class TimeOfDay(Parse):
    """A time of the day, as whole microseconds since midnight (floored): times of Arrow, Avro and Python, durations, and texts: ``10:15``,
    ``10:15:30.5``, ``1:05 PM``, ``101530``. Hours may be more than 24, as timetables count them behind midnight (``25:10:00`` of GTFS), and
    a sign may stand before them, as MySQL's TIME has it. A day beside it makes a moment of both: ``(col("day").cast("int64") +
    col("time")).cast("timestamp")``, in UTC."""

    dtypes: ClassVar[tuple[str, ...]] = ("int64",)


@dataclass(frozen=True)
class BigEndian(Parse):
    """Four or eight bytes, big-endian, signed: what Kafka's Integer and Long serializers write; float64: what its Float and Double do."""

    dtypes: ClassVar[tuple[str, ...]] = ("int64", "float64")


@dataclass(frozen=True)
class Enum(Parse):
    """One of the values that ``mapping`` names, as what it says: ``Enum({0: "unknown", 1: "paid", "PAID": "paid"})``.

    Keys are texts, whole numbers or booleans, as they stand in the data. Any other value is ``not_in_domain``.
    """

    mapping: Mapping[Any, Any]
    dtypes: ClassVar[tuple[str, ...]] = ("string", "int64", "float64", "bool")

    def __post_init__(self) -> None:
        if not isinstance(self.mapping, (Mapping, tuple)) or not self.mapping:
            raise self._refuse(f"mapping {self.mapping!r} is no mapping; write Enum({{0: 'unknown', 1: 'paid'}})")
        pairs = tuple(self.mapping.items()) if isinstance(self.mapping, Mapping) else self.mapping
        for key, _ in pairs:
            if type(key) not in (str, int, bool) or (type(key) is int and not -(2**63) <= key < 2**64):
                raise self._refuse(f"key {key!r} is not text, a whole number of 64 bits or a boolean, as values in the data are")
        object.__setattr__(self, "mapping", tuple(sorted(pairs, key=lambda pair: (type(pair[0]).__name__, pair[0]))))

    def check(self, what: str, dtype: str | None) -> None:
        """As the base; and each of its values must be of ``dtype``."""
        super().check(what, dtype)
        kinds: dict[str | None, tuple[type, ...]] = {"string": (str,), "int64": (int,), "float64": (int, float), "bool": (bool,)}
        for key, value in self.mapping:
            wrong = type(value) not in kinds[dtype] or (dtype == "int64" and not -(2**63) <= value < 2**63) or value != value
            if wrong or (dtype == "float64" and abs(value) > 2**53):
                raise DefinitionError(f"{what}: Enum maps {key!r} to {value!r}, which is no {dtype}; write values of the field's type")

    def canonical(self) -> dict[str, Any]:
        """The pairs in order, with the types of their keys."""
        return {"parse": "Enum", "mapping": [[type(k).__name__, k, v] for k, v in self.mapping]}


@dataclass(frozen=True)
class _Bytes(Parse):
    text: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, bool):
            raise self._refuse(f"text={self.text!r} is neither True nor False")


@dataclass(frozen=True)
class Hex(_Bytes):
    """Bytes, written in hexadecimal (with or without ``0x``, in either case) or as bytes of Arrow, Avro or Protobuf.

    A string field holds them in lower-case hexadecimal, without ``0x``; with ``text`` the UTF-8 text that they are. An int64 field is the
    unsigned number that they are, big-endian.
    """

    dtypes: ClassVar[tuple[str, ...]] = ("string", "int64")

    def check(self, what: str, dtype: str | None) -> None:
        """As the base; a text is no number."""
        super().check(what, dtype)
        if self.text and dtype != "string":
            raise DefinitionError(f"{what}: Hex(text=True) gives string, but the field is {dtype}; change one of both")


@dataclass(frozen=True)
class Base64(_Bytes):
    """Bytes, written in base64 (RFC 4648; the alphabet for URLs too; with or without padding) or as bytes of Arrow, Avro or Protobuf.

    The field holds them in base64 of the usual alphabet with padding; with ``text`` the UTF-8 text that they are.
    """

    dtypes: ClassVar[tuple[str, ...]] = ("string",)
