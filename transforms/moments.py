"""Moments read from single values, as a field's ``parse`` says: epochs, days, ISO 8601 and its relatives, formats, local times."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

from transforms.instants import BeyondCalendar, micros_of, micros_of_text
from transforms.json_payload import Refused
from transforms.parsing import Date, Epoch, IsoTime, Local, TimeFormat
from transforms.quick_conversions import MOST_SERIAL, SERIAL_ZERO_US, YEAR_ONE_US
from transforms.reasons import WRONG_TYPE
from transforms.zones import utc_of_one

__all__ = ["moment_of", "text_of"]

_PER_UNIT = {"s": Fraction(1_000_000), "ms": Fraction(1000), "us": Fraction(1), "ns": Fraction(1, 1000), "ticks": Fraction(1, 10)}
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_ODATA = re.compile(r"/Date\((-?[0-9]{1,18})([+-][0-9]{4})?\)/", re.ASCII)
_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?|[0-9]{8}[Tt][0-9]{4}(?:[0-9]{2})?)(?:[.,]([0-9]+))?"
    # Behind an offset its name, as Go prints it, and what RFC 9557 and Java put into brackets: the offset says which moment it is. An era
    # or a half of the day is no name.
    r"(?: ?([Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)(?: (?!(?:AD|BC|BCE|CE|AM|PM)\b)[A-Z]{2,5})?(?:\[[^\[\]]{1,64}\])*)?",
    re.ASCII,
)
_EPOCH_DAY = date(1970, 1, 1)
_DAY_US = 86_400_000_000


def text_of(value: Any) -> str | None:
    """The value where it is text, and of bytes their text in UTF-8; else None."""
    if type(value) is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if type(value) is str else None


def moment_of(value: Any, parse: Epoch | Local | Date) -> int:
    """A value that is not null, in microseconds since 1970, of which there may be more than int64 holds. Raises Refused: the reason, and
    the end of a detail that begins with field and value."""
    if isinstance(value, datetime):
        if value.tzinfo is None and isinstance(parse, Local) and parse.zone is not None:
            return _of_zone(value, parse)
        return micros_of(value)
    if type(value) is BeyondCalendar and (value.kind in ("moment", "local") or (value.kind == "date" and isinstance(parse, Date))):
        return value.us
    text = text_of(value)
    if isinstance(parse, TimeFormat):
        if type(value) is int and parse.takes_digits:
            text = str(value)
        if text is not None:
            return _formatted(text, parse)
        raise Refused(WRONG_TYPE, f"is not text in the format {parse.format!r}")
    if text is not None and (us := micros_of_text(text)) is not None:
        return us  # it says its zone itself
    if isinstance(parse, IsoTime):
        return _iso(text, parse)
    if isinstance(parse, Date):
        if isinstance(value, date):
            return (value - _EPOCH_DAY).days * _DAY_US
        if type(value) is int:
            return value * _DAY_US
        if text is not None and _DAY.fullmatch(text):
            try:
                return (date.fromisoformat(text) - _EPOCH_DAY).days * _DAY_US
            except ValueError:
                pass
        raise Refused(WRONG_TYPE, "is not a date; send YYYY-MM-DD or whole days since 1970")
    assert isinstance(parse, Epoch)
    if parse.unit == "excel":
        return _serial(value, text, parse)
    per, zero = _PER_UNIT[parse.unit], YEAR_ONE_US if parse.unit == "ticks" else 0
    if type(value) is int:
        return math.floor(value * per) + zero
    if type(value) is float and math.isfinite(value):
        return round(Fraction(value) * per) + zero
    if parse.text and text is not None:
        odata = _ODATA.fullmatch(text) if parse.unit == "ms" else None
        if odata or _PLAIN_NUMBER.fullmatch(text):
            return math.floor(Fraction(odata[1] if odata else text) * per) + zero
    taken = "a number" + (" or the text of one" if parse.text else "")
    raise Refused(WRONG_TYPE, f"is not an Epoch({parse.unit!r}) value; send {taken} of {parse.unit} since 1970")


def _serial(value: Any, text: str | None, parse: Epoch) -> int:
    """Days as a spreadsheet counts them."""
    if parse.text and text is not None and _PLAIN_NUMBER.fullmatch(text):
        value = float(text)
    if type(value) not in (int, float) or not abs(value) < MOST_SERIAL:
        taken = "a number" + (" or the text of one" if parse.text else "")
        raise Refused(WRONG_TYPE, f"is not an Epoch('excel') value; send {taken} of days since 1899-12-30")
    milliseconds: int = round(value * 86_400_000.0)
    return milliseconds * 1_000 + SERIAL_ZERO_US


def _iso(text: str | None, parse: IsoTime) -> int:
    found = _ISO.fullmatch(text) if text is not None else None
    try:
        if found is None:
            raise ValueError
        told, digits, zone = found.groups()
        year, month, day, hour, minute, second = _parts(told)
        read = datetime(year, month, day, hour, minute, second, int(f"{(digits or '')[:6]:0<6}"))
        if zone is None:
            if parse.zone is None:
                raise Refused(WRONG_TYPE, "has no time zone; name the one that is meant: IsoTime(zone='Europe/Paris')")
            return _of_zone(read, parse)
        offset = "+000000" if zone.upper() in ("Z", "UTC", "GMT") else zone.replace(":", "").ljust(7, "0")
        hours, minutes, seconds = (int(offset[at : at + 2]) for at in (1, 3, 5))
        if hours > 23 or minutes > 59 or seconds > 59:
            raise ValueError
        return micros_of(read) - (-1 if offset[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds) * 1_000_000
    except ValueError:
        raise Refused(WRONG_TYPE, "is not a time such as 2024-05-01 10:00:00.123+00, as IsoTime reads them") from None


def _parts(told: str) -> tuple[int, ...]:
    """The numbers of a time, with or without marks between them; 0 for seconds that are left out."""
    digits = re.sub("[^0-9]", "", told).ljust(14, "0")
    return int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 14, 2))


def _formatted(text: str, parse: TimeFormat) -> int:
    try:
        read = datetime.strptime(text, parse.format)
    except (ValueError, OverflowError):
        if (us := micros_of_text(text)) is not None:
            return us  # it says its zone itself
        raise Refused(WRONG_TYPE, f"is not in the format {parse.format!r}") from None
    return _of_zone(read, parse) if parse.zone is not None else micros_of(read if read.tzinfo is not None else read.replace(tzinfo=UTC))


def _of_zone(read: datetime, parse: Local) -> int:
    assert parse.zone is not None
    try:
        found = utc_of_one(read, parse.zone, parse.ambiguous, parse.missing)
    except OverflowError:
        raise Refused(WRONG_TYPE, "lies outside of the years 1 to 9999") from None
    if isinstance(found, str):
        raise Refused(
            WRONG_TYPE, f"{found} in {parse.zone} at that time; choose one with the options of the field's {type(parse).__name__}"
        )
    return found
