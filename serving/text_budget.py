"""How much room long texts of callers get in the request log: whoever sends them must not be able to push out everybody's answers."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serving.request_rows import RequestRecord

__all__ = ["TextBudget", "size_of"]

ORDINARY = 4 << 10
ORDINARY_PER_ROW = 256
"""Bytes of text that a request may have, and more per row, before it has to draw on the budget."""
_LONGEST = 200
_TEXT_HEAD = sys.getsizeof("")
_DAY_SECONDS = 86_400.0


class TextBudget:
    """A tenth of the log per day for requests with long texts; where that is used up, they are logged with their long texts cut.

    Used by one thread.
    """

    def __init__(self, log_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock``: seconds that only ever grow."""
        self._most = log_bytes / 10
        self._left = self._most
        self._clock = clock
        self._at = clock()

    def fitted(self, record: RequestRecord) -> RequestRecord:
        """The record itself, or one whose texts of over 200 characters are their beginning, length and SHA-256."""
        texts = _texts(record.columns)
        size = sum(len("".join(filter(None, values))) for values in texts.values())
        if size <= ORDINARY + ORDINARY_PER_ROW * record.rows:
            return record
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._most / _DAY_SECONDS)
        self._at = now
        if size <= self._left:
            self._left -= size
            return record
        return replace(record, columns={**record.columns, **{name: [_cut(v) for v in values] for name, values in texts.items()}})


def size_of(record: RequestRecord) -> int:
    """About how many bytes a request takes until it is written: texts and features as they are, 16 per other value."""
    size: int = 1024 + 16 * record.rows * (len(record.columns) + 8 * len(record.groups))
    for group in record.groups.values():
        size += group.size
    for values in record.columns.values():
        if _are_texts(values):
            size += sys.getsizeof("".join(filter(None, values))) + _TEXT_HEAD * len(values)
    return size


def _texts(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[str | None]]:
    return {name: values for name, values in columns.items() if _are_texts(values)}


def _are_texts(values: Sequence[Any]) -> bool:
    if values and values[0] is not None:
        return isinstance(values[0], str)  # most begin with a value
    return isinstance(next((v for v in values if v is not None), None), str)


def _cut(value: str | None) -> str | None:
    if value is None or len(value) <= _LONGEST:
        return value
    whole = value.encode()
    return f"{value[:100]}... ({len(whole)} bytes, sha256 {hashlib.sha256(whole).hexdigest()})"
