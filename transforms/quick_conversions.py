"""The readings of :mod:`transforms.conversions` by columns, for the values whose reading is plain; what is not is left to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.clock_times import clock_columns
from transforms.columns import EXACT, MAX_INT64, convert, float64_values, int64_values, is_text
from transforms.parsing import Date, Decimal, Epoch, IsoTime, Number, Parse, TimeFormat, TimeOfDay
from transforms.time_texts import fixed_texts, utc_texts
from transforms.zones import utc_of

__all__ = ["MOST_SERIAL", "SERIAL_ZERO_US", "YEAR_ONE_US", "Quick", "quick"]

YEAR_ONE_US = -62_135_596_800_000_000
"""The first moment of the year 1, from which ticks are counted."""

SERIAL_ZERO_US = -25_569 * 86_400_000_000
"""1899-12-30, the day 0 of spreadsheets."""
MOST_SERIAL = 4e6
"""Their days end with the year 9999, before this one."""

Quick = tuple[npt.NDArray[np.int64] | npt.NDArray[np.float64], npt.NDArray[np.bool_]]
"""Values [N], and which of them are right, bool [N]; nothing is said of the others."""

_FACTORS = {"s": 1_000_000, "ms": 1000, "us": 1}
_DAY_US = 86_400_000_000


def quick(column: pa.Array, parse: Parse, dtype: str) -> Quick | None:
    """The values of N that are read plainly; None where there is no way by columns for this type. What stands at nulls is not meant."""
    t = column.type
    whole, real = pa.types.is_integer(t), pa.types.is_float32(t) or pa.types.is_float64(t)
    if isinstance(parse, Epoch) and parse.unit == "excel":
        return _serial(float64_values(column.cast(pa.float64(), safe=False))) if whole or real else None
    if isinstance(parse, Epoch):
        if whole:
            return _epoch_whole(column, parse)
        if real and parse.unit in _FACTORS:
            return _epoch_real(float64_values(column.cast(pa.float64())), _FACTORS[parse.unit])
        if parse.text and is_text(t):
            if parse.unit == "ms" and not _is_binary(t):
                column = pc.replace_substring_regex(column, r"^/Date\((-?[0-9]{1,18})([+-][0-9]{4})?\)/$", r"\1")
            texts, sure = _matching(column, r"^-?[0-9]{1,18}$")
            return (_epoch_whole(texts.cast(pa.int64()), parse)[0], sure) if sure.any() else None
    if isinstance(parse, Date):
        if pa.types.is_date32(t):
            return _scaled(int64_values(column.cast(pa.int32()).cast(pa.int64())), _DAY_US)
        if pa.types.is_date64(t):
            return _scaled(int64_values(column.cast(pa.int64())), 1000)
        if whole:
            return _scaled(int64_values(convert(column, "timestamp")[0]), _DAY_US)
        if is_text(t):
            return fixed_texts(column, "%Y-%m-%d")
    if isinstance(parse, IsoTime) and is_text(t):
        return _iso(column, parse)
    if isinstance(parse, TimeFormat) and whole and parse.takes_digits:
        column, t = column.cast(pa.string()), pa.string()
    if isinstance(parse, TimeFormat) and is_text(t) and parse.zone is not None:
        found = fixed_texts(column, parse.format)
        if found is not None:
            local, sure = found
            us, there = utc_of(np.where(sure, local, 0).astype(np.int64), parse.zone, parse.ambiguous, parse.missing)
            return us, sure & there
    if isinstance(parse, Decimal):
        if whole:
            return _decimal_units(*_clipped(column), parse.scale, dtype, given=0)
        if real:
            return _decimal_real(float64_values(column.cast(pa.float64())), parse.scale, dtype)
        if pa.types.is_decimal128(t):
            return _decimal_128(column, parse.scale, dtype)
        if is_text(t) and not parse.unscaled:
            behind = rf"(\.[0-9]{{1,{parse.scale}}})?" if parse.scale else ""
            texts, sure = _matching(column, rf"^-?[0-9]{{1,{max(1, 15 - parse.scale)}}}{behind}$")
            values, exact = _decimal_real(float64_values(texts.cast(pa.float64())), parse.scale, dtype)
            return values, sure & exact
    if isinstance(parse, TimeOfDay):
        return clock_columns(column)
    if isinstance(parse, Number) and is_text(t):
        if dtype == "int64":
            texts, sure = _matching(column, r"^-?[0-9]{1,18}$")
            return int64_values(texts.cast(pa.int64())).copy(), sure
        texts, sure = _matching(column, r"^-?[0-9]{1,15}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?$")
        return float64_values(texts.cast(pa.float64())) + 0.0, sure
    return None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _iso(column: pa.Array, parse: IsoTime) -> Quick | None:
    """Texts with seconds in UTC, and those that say no zone; offsets are left."""
    texts, sure = _matching(column, r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]{8,15} ?(Z|z|UTC|GMT|[+-]00(:?00)?)?$")
    if not sure.any():
        return None
    texts = pc.replace_substring_regex(texts, r"^(.{10})[t ]", r"\1T")
    texts = pc.replace_substring_regex(texts, r" ?(Z|z|UTC|GMT|[+-]00(:?00)?)$", "Z")
    us, whole = utc_texts(texts)
    if parse.zone is None or whole.all():
        return us, sure & whole
    local, naive = np.zeros(len(us), np.int64), np.zeros(len(us), bool)
    for form in (parse.format, parse.format.removesuffix(".%f")):
        found, own = fixed_texts(texts, form) or (local, naive)
        local, naive = np.where(own, found, local), naive | own
    moments, there = utc_of(local.astype(np.int64), parse.zone, parse.ambiguous, parse.missing)
    return np.where(whole, us, moments), sure & (whole | (naive & there))


def _matching(column: pa.Array, pattern: str) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The texts, where they are of the pattern and "0" elsewhere; and where they are."""
    try:
        texts = column.cast(pa.large_binary() if pa.types.is_large_binary(column.type) else column.type).cast(pa.string())
    except pa.ArrowException:  # not UTF-8, somewhere
        return pa.array(["0"] * len(column)), np.zeros(len(column), bool)
    sure = pc.fill_null(pc.match_substring_regex(texts, pattern), False)
    return pc.if_else(sure, texts, "0"), sure.to_numpy(zero_copy_only=False).copy()


def _scaled(values: npt.NDArray[np.int64], factor: int) -> Quick:
    """Times a factor, clipped to int64 as timestamps are."""
    most = MAX_INT64 // factor
    clipped = np.clip(values, -most, most) * factor
    return np.where(values > most, MAX_INT64, np.where(values < -most, -MAX_INT64, clipped)), np.ones(len(values), bool)


def _epoch_whole(column: pa.Array, parse: Epoch) -> Quick:
    if pa.types.is_uint64(column.type) and parse.unit in ("ns", "ticks"):
        big = column.fill_null(0).to_numpy(zero_copy_only=False) // np.uint64(1000 if parse.unit == "ns" else 10)
        return big.astype(np.int64) + (YEAR_ONE_US if parse.unit == "ticks" else 0), np.ones(len(big), bool)
    values = int64_values(convert(column, "timestamp")[0])
    if parse.unit == "ns":
        return np.floor_divide(values, 1000), np.ones(len(values), bool)
    if parse.unit == "ticks":
        return np.floor_divide(values, 10) + YEAR_ONE_US, values >= 0  # what is far below would not fit
    return _scaled(values, _FACTORS[parse.unit])


def _epoch_real(values: npt.NDArray[np.float64], factor: int) -> Quick:
    with np.errstate(invalid="ignore", over="ignore"):
        # From 2**19 up a fraction has so few digits that the product with a million is exact.
        sure = (values >= 2.0**19) & (values < 2.0**62 / factor)
        at = np.where(sure, values, 0.0)
    whole = np.floor(at)
    fraction = (at - whole) * factor
    # The whole part may be odd, and half to even is a matter of the sum; times an even factor it is even.
    us = whole.astype(np.int64) * factor + np.rint(fraction).astype(np.int64)
    if factor == 1:
        half = fraction == 0.5
        us = np.where(half, whole.astype(np.int64) + (whole.astype(np.int64) & 1), us)
    return us, sure


def _serial(values: npt.NDArray[np.float64]) -> Quick:
    """Days as a spreadsheet counts them."""
    sure = np.abs(values) < MOST_SERIAL
    return np.rint(np.where(sure, values, 0.0) * 86_400_000.0).astype(np.int64) * 1_000 + SERIAL_ZERO_US, sure


def _clipped(column: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Whole numbers as int64, and which of them fit."""
    if pa.types.is_uint64(column.type):
        big = column.fill_null(0).to_numpy(zero_copy_only=False)
        return np.minimum(big, np.uint64(MAX_INT64)).astype(np.int64), big <= np.uint64(MAX_INT64)
    return int64_values(column.cast(pa.int64())), np.ones(len(column), bool)


def _decimal_units(values: npt.NDArray[np.int64], fits: npt.NDArray[np.bool_], scale: int, dtype: str, given: int) -> Quick:
    """Whole numbers of 10**-given, as the field has them."""
    power = 10 ** (scale - given)
    most = (MAX_INT64 if dtype == "int64" else EXACT) // power
    sure = fits & (values <= most) & (values >= -most)
    units = np.where(sure, values, 0) * power
    return (units, sure) if dtype == "int64" else (units / float(10**scale) + 0.0, sure)


def _decimal_real(values: npt.NDArray[np.float64], scale: int, dtype: str) -> Quick:
    with np.errstate(invalid="ignore", over="ignore"):
        units = np.rint(values * float(10**scale))
        sure = (np.abs(units) <= 1e15) & (units / float(10**scale) == values)
    if dtype == "float64":
        return values + 0.0, sure
    return np.where(sure, units, 0).astype(np.int64), sure


def _decimal_128(column: pa.Array, scale: int, dtype: str) -> Quick | None:
    given = column.type.scale
    if not 0 <= given <= scale or not len(column):
        return None
    words = np.frombuffer(column.buffers()[1], np.int64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    return _decimal_units(words[:, 0], (words[:, 0] >> 63) == words[:, 1], scale, dtype, given)
