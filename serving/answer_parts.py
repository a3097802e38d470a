"""Pieces of an answer's JSON that features share: times, ages, words of statuses, lists of numbers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from serving.protocol import format_timestamp
from serving.view_rows import PRESENT, STATUSES, ViewRows

__all__ = [
    "LIST_STATUSES",
    "NEXT",
    "NEXT_LIST",
    "NEXT_STATUSES",
    "NOT_FINITE",
    "NUMBERS",
    "PARTS",
    "WORDS",
    "Written",
    "ages_json",
    "lists_json",
    "repeated",
    "stamps_json",
    "statuses_json",
    "with_odd",
]

NOT_FINITE = "NOT_FINITE"
"""What a JSON answer says of a value that is PRESENT and NaN or infinite: its place holds null."""
NEXT, NEXT_STATUSES = b',{"values":', b',"statuses":'
NEXT_LIST, LIST_STATUSES = b',{"values":[', b'],"statuses":'
WORDS = [f'"{word}"' for word in STATUSES]
PARTS = [f"{word},".encode() for word in WORDS]
Written = dict[str, tuple[bytes, ...]]
"""By feature: its result, in parts, with the comma before it."""

_MANY = 400
"""Rows from which on times are written digit by digit for all at once."""
_SELDOM = 8
"""Rows of one time, on average, from which on the text of each time is looked up instead."""
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Microseconds of the years 1 and 9999."""
_SECOND = 1_000_000
_WHOLE, _FRACTION = b'"0000-00-00T00:00:00Z",', b'"0000-00-00T00:00:00.000000Z",'
_DIGITS = np.array([list(b"%03d" % i) for i in range(1000)], np.uint8)
"""The digits of each number below a thousand."""
NUMBERS = orjson.OPT_SERIALIZE_NUMPY


def lists_json(columns: list[Any] | npt.NDArray[Any]) -> list[bytes]:
    """The JSON of each column of numbers or booleans, of one length, without its brackets: by one call for all."""
    return orjson.dumps(columns, option=NUMBERS)[2:-2].split(b"],[") if len(columns) else []


@lru_cache(maxsize=64)
def repeated(word: str, n: int) -> bytes:
    return f"[{','.join([word] * n)}]".encode()


def statuses_json(codes: npt.NDArray[np.uint8]) -> bytes:
    """The words of N status codes."""
    if not codes.any():
        return repeated(WORDS[PRESENT], len(codes))
    text = codes.tobytes()
    for code in set(text):  # the codes are no characters of the words
        text = text.replace(bytes([code]), PARTS[code])
    return b"[%b]" % text[:-1]


def with_odd(codes: npt.NDArray[np.uint8], odd: list[int]) -> list[str]:
    words = [STATUSES[s] for s in codes.tolist()]
    for row in odd:
        words[row] = NOT_FINITE
    return words


def stamps_json(times: npt.NDArray[np.int64]) -> bytes:
    """N times (us) as :func:`~serving.protocol.format_timestamp` writes them."""
    n = len(times)
    if n < _MANY or times.min() < _FIRST or times.max() > _LAST or len(set(times.tolist())) * _SELDOM <= n:
        return b"[]" if not n else b'["%b"]' % '","'.join(map(format_timestamp, times.tolist())).encode()
    seconds = times // _SECOND
    days = seconds // 86_400
    micros, clock = (times - seconds * _SECOND).astype(np.int32), (seconds - days * 86_400).astype(np.int32)
    form = _WHOLE if not micros.any() else _FRACTION
    text = np.empty((n, len(form)), np.uint8)
    text[:] = np.frombuffer(form, np.uint8)
    each, which = (days[:1], None) if (days == days[0]).all() else np.unique(days, return_inverse=True)
    dates = (
        np.array([format_timestamp(day * 86_400 * _SECOND)[:10].encode() for day in each.tolist()], "S10").view(np.uint8).reshape(-1, 10)
    )
    text[:, 1:11] = dates if which is None else dates[which]
    hours = clock // 3600
    minutes = clock // 60
    text[:, 12:14], text[:, 15:17] = _DIGITS[hours, 1:], _DIGITS[minutes - hours * 60, 1:]
    text[:, 18:20] = _DIGITS[clock - minutes * 60, 1:]
    if form is _WHOLE:
        return b"[%b]" % text.tobytes()[:-1]
    millis = micros // 1000
    text[:, 21:24], text[:, 24:27] = _DIGITS[millis], _DIGITS[micros - millis * 1000]
    coarse = np.flatnonzero(micros == millis * 1000).tolist()
    if not coarse:
        return b"[%b]" % text.tobytes()[:-1]
    words = text.tobytes()[:-1].split(b",")
    for i in coarse:
        words[i] = words[i][: 24 if micros[i] else 20] + b'Z"'
    return b"[%b]" % b",".join(words)


def ages_json(group: ViewRows) -> bytes:
    """The ages of N rows, null where there is no row."""
    return orjson.dumps(np.ascontiguousarray(group.ages), option=NUMBERS)
