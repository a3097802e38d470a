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
from transforms.instants import MAX_US, MIN_US
from transforms.json_payload import Refused
from transforms.moments import moment_of, text_of
from transforms.parsing import (
    Base64,
    BigEndian,
    Date,
    Decimal,
    Enum,
    Epoch,
    Hex,
    Local,
    Number,
    Parse,
    Text,
    TimeOfDay,
)  # fmt: skip
from transforms.quick_conversions import quick
from transforms.reasons import INFINITE, INVALID_UTF8, NAN, NOT_IN_DOMAIN, OVERFLOW, WRONG_TYPE
from transforms.zones import utc_of

__all__ = ["column_of", "is_local", "value_of", "values_of"]

_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]*)", re.ASCII)
_BASE64 = re.compile(r"([A-Za-z0-9+/]*)={0,2}", re.ASCII)
_AN = {"int64": "an int64", "float64": "a float64"}
_HUGE = 10**400
"""Longer numbers are cut off where JSON is read."""


def value_of(value: Any, parse: Parse, dtype: str) -> Any:
    """A value that is not null, as ``dtype``; a timestamp as int microseconds, clipped to int64. Raises Refused: the reason, and the end of
    a detail that begins with field and value. NaN and infinity pass for float64: the contract's rules see them."""
    if isinstance(parse, (Epoch, Local, Date)):
        us = moment_of(value, parse)
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
        since = clock_micros(text_of(value) or value)
        if since is None:
            raise Refused(WRONG_TYPE, "is not a time of day such as 10:15:30")
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


def _member(value: Any, parse: Enum) -> Any:
    kind = type(value)
    if kind is bytes:
        value = text_of(value)
        kind = type(value)
    if kind is float and value.is_integer() and abs(value) < EXACT:
        value, kind = int(value), int
    if kind not in (str, int, bool, float):
        raise Refused(WRONG_TYPE, "is not text, a number or a boolean, which an Enum maps")
    for key, member in parse.mapping:
        if type(key) is kind and key == value:
            return member
    raise Refused(NOT_IN_DOMAIN, f"is not one of the {len(parse.mapping)} values that its Enum maps")


def _decimal(value: Any, scale: int, dtype: str) -> Any:
    power = 10**scale
    text = text_of(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise Refused(NAN if math.isnan(value) else INFINITE, "is not a finite number")
        units = round(Fraction(value) * power)
        if abs(units) > 10**15 or units / power != value:  # more digits than a float holds of a decimal, or than the scale
            raise Refused(
                OVERFLOW, f"has more than {scale} digits after the decimal point, or more than 15 in all, which a float cannot hold"
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
        raise Refused(OVERFLOW, f"has more than {scale} digits after the decimal point")
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
    text = text_of(value)
    binary = type(value) is bytes and len(value) in (1, 2, 4, 8) and (text is None or not text.isprintable())
    if text is None and not binary:
        return value_as(value, dtype)
    if text is None or not _NUMBER.fullmatch(text):
        raise Refused(WRONG_TYPE, f"is not the text of {_AN[dtype]}{'; parse=BigEndian() reads numbers in binary' if binary else ''}")
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
    raise Refused(WRONG_TYPE, f"is not bytes in {'hexadecimal' if isinstance(parse, Hex) else 'base64'}")
