"""Texts of moments by columns, where their form is plain; what is not is left to be read one by one."""

from __future__ import annotations

import functools
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["Times", "fixed_texts", "utc_texts"]

Times = tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""Microseconds [N], and which of them are right, bool [N]; nothing is said of the others."""

_WIDTHS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}


def utc_texts(column: pa.Array) -> Times:
    """Of N texts those as ``2024-05-01T10:00:00Z``, with up to six digits of a second, as :func:`transforms.instants.micros_of_text`."""
    n = len(column)
    us, sure = fixed_texts(column, "%Y-%m-%dT%H:%M:%S.%f", b"Z") or (np.zeros(n, np.int64), np.zeros(n, bool))
    if not sure.all() and (whole := fixed_texts(column, "%Y-%m-%dT%H:%M:%S", b"Z")) is not None:
        us, sure = np.where(whole[1], whole[0], us), sure | whole[1]
    return us, sure


@functools.lru_cache(maxsize=100)
def _form(pattern: str) -> tuple[tuple[tuple[str, int, int], ...], tuple[tuple[int, int], ...], tuple[int, ...]] | None:
    """Of a format of numbers of fixed width: (directive, first, last) of each, the bytes between as (place, byte), and the lengths that
    a text may have: more than one where it ends in a fraction. None for other formats."""
    parts: list[tuple[str, int, int]] = []
    between: list[tuple[int, int]] = []
    at = 0
    tokens = re.findall(r"%.|.", pattern, re.DOTALL)
    for number, token in enumerate(tokens):
        if token[0] == "%" and token[1:] in _WIDTHS and not any(p[0] == token[1:] for p in parts):
            parts.append((token[1:], at, at + _WIDTHS[token[1:]]))
            at += _WIDTHS[token[1:]]
        elif token == "%f" and number == len(tokens) - 1:
            return (*parts, ("f", at, at + 6)), tuple(between), tuple(range(at + 1, at + 7))
        elif token[0] != "%" and token.isascii():
            between.append((at, ord(token)))
            at += 1
        else:
            return None
    if not any(p[0] == "Y" for p in parts):
        return None
    return tuple(parts), tuple(between), (at,)


def fixed_texts(column: pa.Array, pattern: str, behind: bytes = b"") -> Times | None:
    """N texts in a format of numbers of fixed width, with this byte behind if one is given, as microseconds since a naive 1970."""
    form = _form(pattern)
    if form is None or not len(column):
        return None
    parts, between, lengths = form
    if pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type):
        column = pa.array(column.cast(pa.large_binary()).to_numpy(zero_copy_only=False).tolist(), pa.binary())
    _, ends, data = column.buffers()
    n = len(column)
    if data is None:
        return np.zeros(n, np.int64), np.zeros(n, bool)
    offsets = np.frombuffer(ends, np.int32)[column.offset : column.offset + n + 1].astype(np.int64)
    text = np.frombuffer(data, np.uint8)
    size = np.diff(offsets) - len(behind)
    sure = (size >= lengths[0]) & (size <= lengths[-1])
    if behind:
        sure[sure] = text[offsets[1:][sure] - 1] == behind[0]
    rows = np.flatnonzero(sure)
    last = lengths[-1]
    where = offsets[rows][:, None] + np.arange(last)
    grid = text[np.minimum(where, len(text) - 1)]
    grid[np.arange(last) >= size[rows][:, None]] = ord("0")  # a shorter fraction
    good = np.ones(len(rows), bool)
    for place, byte in between:
        good &= grid[:, place] == byte
    numbers = {"m": 1, "d": 1, "H": 0, "M": 0, "S": 0, "f": 0}
    found: dict[str, npt.NDArray[np.int64]] = {k: np.full(len(rows), v, np.int64) for k, v in numbers.items()}
    for name, first, end in parts:
        digits = grid[:, first:end].astype(np.int64) - ord("0")
        good &= ((digits >= 0) & (digits <= 9)).all(axis=1)
        found[name] = digits @ (10 ** np.arange(end - first - 1, -1, -1, dtype=np.int64))
    good &= (found["Y"] >= 1) & (found["m"] >= 1) & (found["m"] <= 12) & (found["d"] >= 1)
    good &= (found["H"] <= 23) & (found["M"] <= 59) & (found["S"] <= 59)
    month = np.where(good, (found["Y"] - 1970) * 12 + found["m"] - 1, 0)
    begin = month.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    following = (month + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    good &= found["d"] <= following - begin
    seconds = ((begin + found["d"] - 1) * 24 + found["H"]) * 3600 + found["M"] * 60 + found["S"]
    out = np.zeros(n, np.int64)
    out[rows] = np.where(good, seconds * 1_000_000 + found["f"], 0)
    sure[rows] = good
    return out, sure
