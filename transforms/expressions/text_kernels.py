"""Functions of texts, and texts as other types and back: as Python's ``str`` has them.

Columns of ASCII go through Arrow's kernels. What Arrow does with other letters depends on its version's tables, and what its casts print
or refuse does too (one bad text fails a batch), so such rows are computed by Python: the result of a row is the same beside any others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.expressions.values import Values, bits, marked, strict, texts_of
from transforms.instants import micros_of_text
from transforms.reasons import CODE, INFINITE, NAN, OK, OUT_OF_RANGE, OVERFLOW, TOO_LONG, WRONG_TYPE

__all__ = [
    "cased",
    "cast",
    "compared_texts",
    "contained",
    "joined",
    "matched",
    "replaced",
    "sliced",
    "texts_within",
]

_LONGEST = 64 << 10  # bytes of UTF-8 that a step may make
_END = 1 << 25
_BLANKS = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_CASED: dict[str, tuple[Callable[[Any], Any], Callable[[str], str]]] = {
    "lower": (pc.ascii_lower, str.lower),
    "upper": (pc.ascii_upper, str.upper),
    "strip": (lambda texts: pc.ascii_trim(texts, characters=_BLANKS), str.strip),
}


def _true(array: pa.Array) -> Any:
    return bits(array, 1) & bits(array, 0) if array.null_count else bits(array, 1)


def cased(how: str, a: Values, rows: int) -> Values:
    """``lower``, ``upper``, ``strip``: Python's methods of these names."""
    texts = texts_of(a, rows)
    ascii_only, by_python = _CASED[how]
    plain = pc.fill_null(pc.string_is_ascii(texts), True)
    if pc.all(plain).as_py() is not False:
        return Values(ascii_only(texts), a.null, a.bad)
    made = [None if t is None else by_python(t) for t in texts.to_pylist()]
    return _short(Values(pa.array(made, pa.string()), a.null, a.bad))


def _short(made: Values) -> Values:
    return marked(made, pc.fill_null(pc.binary_length(made.data), 0).to_numpy(zero_copy_only=False) > _LONGEST, TOO_LONG)


def sliced(a: Values, start: int, length: int | None, rows: int) -> Values:
    """``length`` code points from number ``start`` on, counted from 0."""
    stop = _END if length is None else min(start + length, _END)  # a greater one overflows inside Arrow
    texts = texts_of(a, rows)
    made = pc.if_else(texts.is_valid(), "", texts) if length == 0 else pc.utf8_slice_codeunits(texts, start=min(start, _END), stop=stop)
    return Values(made, a.null, a.bad)


def contained(how: str, a: Values, pattern: str, rows: int) -> Values:
    """``contains``, ``starts_with``, ``ends_with`` of a plain text."""
    kernel = {"contains": pc.match_substring, "starts_with": pc.starts_with, "ends_with": pc.ends_with}[how]
    texts = texts_of(a, rows)
    return Values(_true(texts.is_valid() if pattern == "" else kernel(texts, pattern=pattern)), a.null, a.bad)


def matched(a: Values, pattern: str, rows: int) -> Values:
    """Whether the regular expression of RE2 is found anywhere in the text."""
    return Values(_true(pc.match_substring_regex(texts_of(a, rows), pattern=pattern)), a.null, a.bad)


def replaced(a: Values, old: str, new: str, rows: int) -> Values:
    """Every ``old``, from the left, by ``new``."""
    texts = texts_of(a, rows)
    if len(new.encode()) > len(old.encode()):  # some may come to be longer than memory: they are not made
        found = pc.fill_null(pc.count_substring(texts, pattern=old), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        size = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        a = marked(Values(texts, a.null, a.bad), size + found * (len(new.encode()) - len(old.encode())) > _LONGEST, TOO_LONG)
        texts = texts_of(a, rows)
    return Values(pc.replace_substring(texts, pattern=old, replacement=new), a.null, a.bad)


def joined(args: list[Values], rows: int) -> Values:
    """One after the other; null where any is."""
    null, bad = strict(*args)
    texts = [texts_of(Values(a.data, null, None), rows) for a in args]
    size = sum(pc.fill_null(pc.binary_length(t), 0).to_numpy(zero_copy_only=False).astype(np.int64) for t in texts)
    made = marked(Values(texts[0], null, bad), np.asarray(size) > _LONGEST, TOO_LONG)
    texts = [texts_of(Values(t, made.null, None), rows) for t in texts]
    return Values(pc.binary_join_element_wise(*texts, "", null_handling="emit_null"), made.null, made.bad)


def compared_texts(op: str, a: Values, b: Values, rows: int) -> Values:
    """``== != < <= > >=`` of texts, by their bytes of UTF-8."""
    null, bad = strict(a, b)
    kernel = {"==": pc.equal, "!=": pc.not_equal, "<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}[op]
    left = texts_of(a, rows) if isinstance(a.data, pa.Scalar) and isinstance(b.data, pa.Scalar) else a.data
    return Values(_true(kernel(left, b.data)), null, bad)


def texts_within(a: Values, values: list[str], rows: int) -> Values:
    """Whether it is one of ``values``."""
    return Values(_true(pc.is_in(texts_of(a, rows), value_set=pa.array(values, pa.string()))), a.null, a.bad)


# ---- casts -------------------------------------------------------------------------------------------------------------

_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_NO_NUMBER = {"nan": NAN, "inf": INFINITE, "infinity": INFINITE}


def _int_of(text: str) -> tuple[Any, str | None]:
    if not _WHOLE.fullmatch(text):
        return None, WRONG_TYPE
    short = text.lstrip("+-").lstrip("0")
    if len(short) > 19 or not -(2**63) <= (value := int(f"{'-' if text[0] == '-' else ''}{short or 0}")) < 2**63:
        return None, OVERFLOW
    return value, None


def _float_of(text: str) -> tuple[Any, str | None]:
    if not _REAL.fullmatch(text):
        return None, _NO_NUMBER.get(text.lower().lstrip("+-"), WRONG_TYPE)
    value = float(text) + 0.0
    return (value, None) if abs(value) != float("inf") else (None, INFINITE)


def _bool_of(text: str) -> tuple[Any, str | None]:
    return {"true": (True, None), "false": (False, None)}.get(text, (None, WRONG_TYPE))


def _moment_of(text: str) -> tuple[Any, str | None]:
    us = micros_of_text(text)
    return us, WRONG_TYPE if us is None else None


_PARSED: dict[str, tuple[Callable[[str], tuple[Any, str | None]], pa.DataType, Any]] = {
    "int64": (_int_of, pa.int64(), 1),
    "float64": (_float_of, pa.float64(), 1.0),
    "bool": (_bool_of, pa.bool_(), False),
    "timestamp": (_moment_of, pa.int64(), 1),
}


def _text(value: Any, dtype: str) -> str:
    if dtype == "bool":
        return "true" if value else "false"
    return repr(value)


def cast(a: Values, dtype: str, to: str, rows: int) -> Values:
    """A column of ``dtype`` as one of ``to``; the pairs that exist are :data:`transforms.expressions.binding.CASTS`."""
    if dtype == "string":
        return _parsed(a, to, rows)
    if to != "string":  # of numbers, moments and booleans one is the other
        return _whole_of(a) if dtype == "float64" else Values(a.data.astype(np.int64), a.null, a.bad)
    if dtype == "timestamp":
        low, high = -62_135_596_800_000_000, 253_402_300_799_999_999
        a = marked(a, (a.data < low) | (a.data > high), OUT_OF_RANGE)
        shown = np.datetime_as_string(np.where((a.data < low) | (a.data > high), 0, a.data).astype("datetime64[us]"), unit="us")
        texts = pa.array([f"{t}Z" for t in shown.tolist()], pa.string())
    else:
        texts = pa.array([_text(v, dtype) for v in a.data.tolist()], pa.string())
    return Values(texts_of(Values(texts, a.null, None), rows), a.null, a.bad)


def _whole_of(a: Values) -> Values:
    """float64 as int64 without its fraction, as Python's ``int`` does."""
    fits = (a.data >= -(2.0**63)) & (a.data < 2.0**63)
    return marked(Values(np.where(fits, a.data, 0).astype(np.int64), a.null, a.bad), ~fits, OVERFLOW)


def _parsed(a: Values, to: str, rows: int) -> Values:
    parse, t, neutral = _PARSED[to]
    values, codes = [], np.full(rows, OK)
    for row, text in enumerate(texts_of(a, rows).to_pylist()):
        value, reason = (neutral, None) if text is None else parse(text)
        values.append(neutral if value is None else value)
        if reason is not None:
            codes[row] = CODE[reason]
    made = Values(pa.array(values, t).to_numpy(zero_copy_only=False), a.null, a.bad)
    for code in np.unique(codes[codes != OK]).tolist():
        made = marked(made, codes == code, next(r for r, c in CODE.items() if c == code))
    return made
