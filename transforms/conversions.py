"""Values read as a field's ``parse`` says: one at a time, which is the rule, and by columns, which only says the same sooner.

What a way to read takes stands with it in :mod:`transforms.parsing`.
"""

from __future__ import annotations

import base64
import binascii
import decimal
import math
import re
import struct
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.clock_times import clock_micros
from transforms.columns import (
    CODE,
    EXACT,
    MAX_INT64,
    Column,
    all_ok,
    convert,
    int64_values,
    is_text,
    is_valid,
    raw_value,
    target_type,
    texts_of,
    value_as,
    within_int64,
)
from transforms.instants import MAX_US, MIN_US, BeyondCalendar, micros_of, micros_of_text
from transforms.json_payload import Refused
from transforms.parsing import (
    Base64,
    BigEndian,
    Date,
    Decimal,
    Enum,
    Epoch,
    Hex,
    IsoTime,
    Local,
    Number,
    Parse,
    Text,
    TimeFormat,
    TimeOfDay,
)  # fmt: skip
from transforms.quick_conversions import MOST_SERIAL, SERIAL_ZERO_US, YEAR_ONE_US, quick
from transforms.reasons import INFINITE, INVALID_UTF8, NAN, NOT_IN_DOMAIN, OVERFLOW, WRONG_TYPE
from transforms.zones import utc_of, utc_of_one

__all__ = ["column_of", "is_local", "value_of", "values_of"]

_PER_UNIT = {"s": Fraction(1_000_000), "ms": Fraction(1000), "us": Fraction(1), "ns": Fraction(1, 1000), "ticks": Fraction(1, 10)}
_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]*)", re.ASCII)
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)={0,2}", re.ASCII)
_ODATA = re.compile(r"/Date\((-?[0-9]{1,18})([+-][0-9]{4})?\)/", re.ASCII)
_ISO = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(?::[0-9]{2})?|[0-9]{8}[Tt][0-9]{4}(?:[0-9]{2})?)(?:[.,]([0-9]+))?"
    # Behind an offset its name, as Go prints it, and what RFC 9557 and Java put into brackets: the offset says which moment it is. An era
    # or a half of the day is no name.
    r"(?: ?([Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?)(?: (?!(?:AD|BC|BCE|CE|AM|PM)\b)[A-Z]{2,5})?(?:\[[^\[\]]{1,64}\])*)?",
    re.ASCII,
)
_EPOCH_DAY = date(1970, 1, 1)
_AN = {"int64": "an int64", "float64": "a float64"}
_DAY_US = 86_400_000_000
_HUGE = 10**400
"""Longer numbers are cut off where JSON is read."""


def value_of(value: Any, parse: Parse, dtype: str) -> Any:
    """A value that is not null, as ``dtype``; a timestamp as int microseconds, clipped to int64. Raises Refused: the reason, and the end of
    a detail that begins with field and value. NaN and infinity pass for float64: the contract's rules see them."""
    if isinstance(parse, (Epoch, Local, Date)):
        us = _moment(value, parse)
        return within_int64(us)
    if isinstance(parse, Enum):
        return _member(value, parse)
    if isinstance(parse, Decimal):
        units = parse.unscaled and isinstance(value, (str, bytes))
        return _unscaled(value, parse.scale, dtype) if units else _decimal(value, parse.scale, dtype)
    if isinstance(parse, Number):
        return _number(value, dtype)
    if isinstance(parse, BigEndian):
        return _big_endian(value, dtype)
    if isinstance(parse, Text):
        return _digits(value)
    if isinstance(parse, TimeOfDay):
        since = clock_micros(_text(value) or value)
        if since is None:
            raise Refused(WRONG_TYPE, "is no time of the day such as 10:15:30")
        if not -MAX_INT64 - 1 <= since <= MAX_INT64:
            raise Refused(OVERFLOW, "does not fit int64 in microseconds")
        return since
    assert isinstance(parse, (Hex, Base64))
    data = _bytes(value, parse, dtype)
    if dtype == "int64":
        if not data or len(data) > 400:
            raise Refused(WRONG_TYPE if not data else OVERFLOW, "holds no number" if not data else "does not fit int64 exactly")
        number = int.from_bytes(data, "big")
        if number > MAX_INT64:
            raise Refused(OVERFLOW, "does not fit int64 exactly")
        return number
    if not parse.text:
        return data.hex() if isinstance(parse, Hex) else base64.b64encode(data).decode()
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused(INVALID_UTF8, "is not valid UTF-8 in its bytes") from None


def column_of(column: pa.Array, parse: Parse, dtype: str) -> Column:
    """A column of any Arrow type, read as :func:`value_of` reads its values."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    n = len(column)
    if pa.types.is_null(column.type):
        return pa.nulls(n, target_type(dtype)), all_ok(n)
    if isinstance(parse, (Epoch, Local, Date)) and pa.types.is_timestamp(column.type):
        return _local(column, parse) if isinstance(parse, Local) and is_local(column.type, parse) else convert(column, dtype)
    if isinstance(parse, Number) and not is_text(column.type):
        return convert(column, dtype)
    if isinstance(parse, Text) and (is_text(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return _texts(column)
    if isinstance(parse, Enum) and n > 1 and not pa.types.is_nested(column.type) and not pa.types.is_decimal(column.type):
        try:
            encoded = column.dictionary_encode()
        except pa.ArrowException:
            return _one_by_one(_python(column, parse), parse, dtype)
        array, codes = _one_by_one(_python(encoded.dictionary, parse), parse, dtype)
        null = ~is_valid(encoded.indices)
        own = codes[encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)] if len(codes) else all_ok(n)
        own[null] = all_ok(1)[0]
        return array.take(encoded.indices), own
    valid = is_valid(column)
    found = quick(column, parse, dtype)
    if found is None:
        return _one_by_one(_python(column, parse), parse, dtype)
    values, sure = found
    rest = np.flatnonzero(valid & ~sure)
    codes = all_ok(n)
    if len(rest):
        odd, odd_codes = _one_by_one(_python(column.take(pa.array(rest)), parse), parse, dtype)
        codes[rest] = odd_codes
        values[rest] = odd.fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(values, target_type(dtype), mask=~valid | (codes != all_ok(1)[0])), codes


def _texts(column: pa.Array) -> Column:
    """Texts as they are, whole numbers as their digits."""
    if is_text(column.type):
        return convert(column, "string")
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()), all_ok(len(column))
    whole, codes = convert(column, "int64")
    return whole.cast(pa.string()), codes


def is_local(kind: pa.DataType, parse: Parse | None) -> bool:
    """Whether a column holds moments without a zone, and is read in one that says which local times these are."""
    return isinstance(parse, Local) and parse.zone is not None and pa.types.is_timestamp(kind) and kind.tz is None


def _local(column: pa.Array, parse: Local) -> Column:
    us, codes = convert(column, "timestamp")
    local, valid = int64_values(us), is_valid(us)
    shown = valid & (local >= MIN_US) & (local <= MAX_US)  # beyond these the contract refuses it as it is
    moments, found = utc_of(np.where(shown, local, 0).astype(np.int64), str(parse.zone), parse.ambiguous, parse.missing)
    codes[shown & ~found] = CODE[WRONG_TYPE]
    return pa.array(np.where(shown, moments, local), mask=~valid | (codes != all_ok(1)[0])), codes


_KINDS: dict[frozenset[type], pa.DataType] = {
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({str}): pa.string(),
    frozenset({bytes}): pa.binary(),
}


def values_of(values: list[Any], parse: Parse, dtype: str) -> Column:
    """Python values, None for null, read as :func:`value_of` reads each."""
    kind = _KINDS.get(frozenset(map(type, values)) - {type(None)}) if len(values) > 8 else None
    if kind is not None:
        try:
            return column_of(pa.array(values, kind), parse, dtype)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # some value is too large for its type or not UTF-8: look at each
    return _one_by_one(values, parse, dtype)


def _one_by_one(values: list[Any], parse: Parse, dtype: str) -> Column:
    out, codes = [], all_ok(len(values))
    for row, value in enumerate(values):
        try:
            out.append(None if value is None else value_of(value, parse, dtype))
        except Refused as refused:
            out.append(None)
            codes[row] = CODE[refused.reason]
    return pa.array(out, target_type(dtype)), codes


def _python(column: pa.Array, parse: Parse) -> list[Any]:
    """The values as Python has them: text as text, bytes as bytes where those are meant."""
    as_bytes = isinstance(parse, (Hex, Base64, BigEndian)) or (isinstance(parse, Decimal) and parse.unscaled)
    if is_text(column.type) and not (as_bytes and _is_binary(column.type)):
        return texts_of(column)
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (ValueError, OverflowError, pa.ArrowException):
        return [raw_value(column, row) for row in range(len(column))]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


# ---- one value -----------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    if type(value) is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return value if type(value) is str else None


def _moment(value: Any, parse: Epoch | Local | Date) -> int:
    if isinstance(value, datetime):
        if value.tzinfo is None and isinstance(parse, Local) and parse.zone is not None:
            return _of_zone(value, parse)
        return micros_of(value)
    if type(value) is BeyondCalendar and (value.kind in ("moment", "local") or (value.kind == "date" and isinstance(parse, Date))):
        return value.us
    text = _text(value)
    if isinstance(parse, TimeFormat):
        if type(value) is int and parse.takes_digits:
            text = str(value)
        if text is not None:
            return _formatted(text, parse)
        raise Refused(WRONG_TYPE, f"is no text in the format {parse.format!r}")
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
        raise Refused(WRONG_TYPE, "is no date; send YYYY-MM-DD or whole days since 1970")
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
    raise Refused(WRONG_TYPE, f"is no Epoch({parse.unit!r}); send {taken} of {parse.unit} since 1970")


def _serial(value: Any, text: str | None, parse: Epoch) -> int:
    """Days as a spreadsheet counts them."""
    if parse.text and text is not None and _PLAIN_NUMBER.fullmatch(text):
        value = float(text)
    if type(value) not in (int, float) or not abs(value) < MOST_SERIAL:
        taken = "a number" + (" or the text of one" if parse.text else "")
        raise Refused(WRONG_TYPE, f"is no Epoch('excel'); send {taken} of days since 1899-12-30")
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
                raise Refused(WRONG_TYPE, "says no zone; say which one is meant: IsoTime(zone='Europe/Paris')")
            return _of_zone(read, parse)
        offset = "+000000" if zone.upper() in ("Z", "UTC", "GMT") else zone.replace(":", "").ljust(7, "0")
        hours, minutes, seconds = (int(offset[at : at + 2]) for at in (1, 3, 5))
        if hours > 23 or minutes > 59 or seconds > 59:
            raise ValueError
        return micros_of(read) - (-1 if offset[0] == "-" else 1) * (hours * 3600 + minutes * 60 + seconds) * 1_000_000
    except ValueError:
        raise Refused(WRONG_TYPE, "is no time such as 2024-05-01 10:00:00.123+00, as IsoTime reads them") from None


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
        raise Refused(WRONG_TYPE, f"{found} in {parse.zone} then; say which moment is meant, in the field's {type(parse).__name__}")
    return found


def _member(value: Any, parse: Enum) -> Any:
    kind = type(value)
    if kind is bytes:
        value = _text(value)
        kind = type(value)
    if kind is float and value.is_integer() and abs(value) < EXACT:
        value, kind = int(value), int
    if kind not in (str, int, bool, float):
        raise Refused(WRONG_TYPE, "is no text, number or boolean, of which its Enum has the values")
    for key, member in parse.mapping:
        if type(key) is kind and key == value:
            return member
    raise Refused(NOT_IN_DOMAIN, f"is none of the {len(parse.mapping)} values that its Enum maps")


def _decimal(value: Any, scale: int, dtype: str) -> Any:
    power = 10**scale
    text = _text(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise Refused(NAN if math.isnan(value) else INFINITE, "is not a finite number")
        units = round(Fraction(value) * power)
        if abs(units) > 10**15 or units / power != value:  # more digits than a float holds of a decimal, or than the scale
            raise Refused(
                OVERFLOW, f"is no number of {scale} digits behind the point, or of more than 15 in all, which a float does not hold"
            )
        return units if dtype == "int64" else value + 0.0
    if type(value) is int:
        exact = Fraction(value)
    elif text is not None and _NUMBER.fullmatch(text):
        exact = Fraction(text)
    elif isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise Refused(NAN if value.is_nan() else INFINITE, "is not a finite number")
        if abs(value.adjusted()) > 1000:
            raise Refused(OVERFLOW, f"does not fit {dtype} exactly")
        exact = Fraction(value)
    else:
        raise Refused(WRONG_TYPE, "is no decimal number")
    units_exact = exact * power
    if units_exact.denominator != 1:
        raise Refused(OVERFLOW, f"has more than {scale} digits behind the point")
    return _of_units(units_exact.numerator, scale, dtype)


def _unscaled(value: Any, scale: int, dtype: str) -> Any:
    data = _bytes(value, Base64(), dtype)
    if not data:
        raise Refused(WRONG_TYPE, "holds no number")
    if len(data) > 400:
        raise Refused(OVERFLOW, f"does not fit {dtype} exactly")
    return _of_units(int.from_bytes(data, "big", signed=True), scale, dtype)


def _of_units(units: int, scale: int, dtype: str) -> Any:
    if dtype == "int64":
        if not -MAX_INT64 - 1 <= units <= MAX_INT64:
            raise Refused(OVERFLOW, "does not fit int64 exactly")
        return units
    try:
        return units / 10**scale
    except OverflowError:
        raise Refused(OVERFLOW, "does not fit float64") from None


def _digits(value: Any) -> str:
    if type(value) in (str, bytes):
        return str(value_as(value, "string"))
    if isinstance(value, decimal.Decimal) and value.is_finite() and value.adjusted() < 400 and value == value.to_integral_value():
        value = int(value)
    if type(value) is float:
        value = value_as(value, "int64")
    if type(value) is not int:
        raise Refused(WRONG_TYPE, "is neither a text nor a whole number")
    if abs(value) >= _HUGE:
        raise Refused(OVERFLOW, "is a number of more than 400 digits")
    return str(value)


def _number(value: Any, dtype: str) -> Any:
    text = _text(value)
    binary = type(value) is bytes and len(value) in (1, 2, 4, 8) and (text is None or not text.isprintable())
    if text is None and not binary:
        return value_as(value, dtype)
    if text is None or not _NUMBER.fullmatch(text):
        raise Refused(WRONG_TYPE, f"is no text of {_AN[dtype]}{'; parse=BigEndian() reads numbers in binary' if binary else ''}")
    whole = not any(c in text for c in ".eE")
    if dtype == "float64":
        if whole and abs(int(text)) > EXACT:
            raise Refused(OVERFLOW, "does not fit float64 exactly")
        return float(text) + 0.0
    exact = Fraction(text)
    if exact.denominator != 1:
        raise Refused(WRONG_TYPE, "is no whole number")
    if not -MAX_INT64 - 1 <= exact.numerator <= MAX_INT64:
        raise Refused(OVERFLOW, "does not fit int64 exactly; a string field holds it")
    return exact.numerator


def _big_endian(value: Any, dtype: str) -> Any:
    if type(value) is not bytes:
        raise Refused(WRONG_TYPE, "is no bytes of a number")
    if dtype == "int64":
        if len(value) not in (1, 2, 4, 8):
            raise Refused(WRONG_TYPE, f"is {len(value)} bytes long; a big-endian whole number has 4 or 8")
        return int.from_bytes(value, "big", signed=True)
    if len(value) not in (4, 8):
        raise Refused(WRONG_TYPE, f"is {len(value)} bytes long; a big-endian float has 4 or 8")
    return struct.unpack(">f" if len(value) == 4 else ">d", value)[0] + 0.0


def _bytes(value: Any, parse: Hex | Base64, dtype: str) -> bytes:
    if type(value) is bytes:
        return value
    if type(value) is str:
        if isinstance(parse, Hex):
            found = _HEX.fullmatch(value)
            if found and (dtype == "int64" or len(found[1]) % 2 == 0):
                return bytes.fromhex("0" * (len(found[1]) % 2) + found[1])
        else:
            found = _BASE64.fullmatch(value.replace("-", "+").replace("_", "/"))
            if found and len(found[1]) % 4 != 1:
                try:
                    return base64.b64decode(found[1] + "=" * (-len(found[1]) % 4))
                except binascii.Error:
                    pass
    raise Refused(WRONG_TYPE, f"is no bytes in {'hexadecimal' if isinstance(parse, Hex) else 'base64'}")
