"""What the bytes of JSON payloads tell without a parser: which are one object or no JSON at all, and which hold the same keys.

A shape is where brackets and texts stand in a payload, and which of the texts are which keys. Payloads of one shape are alike in all that
matters to a reader of columns but in their values, so what holds for one of them holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.json_flat import BLOCK, MAX_PAYLOAD_BYTES, braced, key_ends, keys_of_each

__all__ = ["Shapes", "shapes_of", "whole"]

MOST_MARKS, MOST_BYTES = 512, 128
"""Brackets and quotes of a payload, and bytes of a key, up to which others are compared with it."""
MOST_SHAPES, LEAST_ALIKE, ONE_IN = 16, 8, 32
"""So many shapes are looked for, those of the most frequent number of marks first, as long as so many payloads, and one in so many, have as
many marks."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

_PAST = b" " * (MOST_BYTES + 8)
"""Stands behind the bytes of all payloads, so that a key can be looked for at each place of them, by eight bytes at once."""


def _marked(text: bytes, which: bytes) -> Bools:
    """For which bytes the table ``which`` (256 truth values) has a one. Python looks bytes up seven times as fast as numpy, which makes 64
    bits of each first; and of truth values numpy finds the true ones by words."""
    return np.frombuffer(text.translate(which), bool)


def _places(text: bytes, which: bytes) -> Ints:
    """Where the bytes stand that are :func:`_marked`."""
    return np.flatnonzero(_marked(text, which))


def _joined(payloads: pa.Array) -> tuple[bytes, Ints, Bools]:
    """As :func:`braced`, with :data:`_PAST` behind the bytes."""
    text, places, found = braced(payloads)
    return b"".join((text.data, _PAST)), places, found


_QUOTE, _NEVER, _OPEN, _CLOSE = 1, 2, 3, 4
_KINDS = np.zeros(256, dtype=np.uint8)
_KINDS[:0x20] = _NEVER
_KINDS[ord("\\")] = _NEVER
_KINDS[ord('"')] = _QUOTE
_KINDS[list(b"[{")] = _OPEN
_KINDS[list(b"]}")] = _CLOSE
_MARK_BYTES = (_KINDS > 0).tobytes()
_STEPS = np.array([0, 0, 0, 1, -1], dtype=np.int32)


def whole(payloads: pa.Array, depth: int) -> Bools:
    """Which of N payloads (binary, nulls allowed) begin with ``{``, end with the bracket that closes it and no earlier, nest no deeper
    than ``depth``, close every text, and hold no ``\\`` or control character. Such a payload is one object or no JSON at all, whatever
    follows it.
    """
    n = len(payloads)
    if n == 0 or payloads.buffers()[2] is None:
        return np.zeros(n, dtype=bool)
    joined, places, found = _joined(payloads)
    at = _places(joined, _MARK_BYTES)
    return _whole(_KINDS[np.frombuffer(joined, np.uint8)[at]], at, np.searchsorted(at, places), found, depth)


def _whole(kinds: Bytes, at: Ints, marks: Ints, found: Bools, depth: int) -> Bools:
    """As :func:`whole`, of N payloads whose marks (their kinds, and where they stand) begin at ``marks`` (int64 [N + 1]); ``found``, which
    is changed, are those that :func:`braced` finds."""
    n = len(found)
    first, following = marks[:-1], marks[1:]

    quotes = np.concatenate([[0], np.cumsum(kinds == _QUOTE, dtype=np.int32)])
    uneven = ((quotes[following] - quotes[first]) & 1).astype(bool)
    found &= ~uneven
    if (never := np.flatnonzero(kinds == _NEVER)).size:
        found[np.searchsorted(following, never, "right")] = False
    # What is not within a text, by the brackets alone.
    at = np.flatnonzero(kinds >= _OPEN)
    within = quotes[at] if not uneven.any() else quotes[at] - quotes[first][np.searchsorted(following, at, "right")]
    levels = np.concatenate([[0], np.cumsum(_STEPS[kinds[at]] * (1 - (within & 1)), dtype=np.int32)])
    first, following = np.searchsorted(at, first), np.searchsorted(at, following)
    open_, closed = levels[first], levels[following]
    found &= open_ == closed
    level = levels[1:] if not open_.any() else levels[1:] - np.repeat(open_, following - first)

    def of(brackets: Bools) -> Ints:
        """The payloads of some brackets."""
        return np.searchsorted(following, np.flatnonzero(brackets), "right")

    # Back at the outermost level once, at the end: otherwise a payload is more than one value, or less.
    found &= np.bincount(of(level <= 0), minlength=n)[:n] == 1
    if len(level) and level.max() > depth:
        found[of(level > depth)] = False
    return found


@dataclass(frozen=True)
class Shapes:
    """``found`` (bool [N]): the payloads that are one object each or no JSON at all, whatever follows them. ``common``: at least as many
    keys as those of them have that are of a shape with others, where each counts once for a shape. ``others`` (int64 [N]): at least as
    many as each of the rest has."""

    found: Bools
    common: int
    others: Ints


def shapes_of(payloads: pa.Array, depth: int) -> Shapes:
    """Which of N payloads (binary, nulls allowed) are :func:`whole` of a ``depth``, and how many keys they have."""
    n = len(payloads)
    found, common, others = np.zeros(n, bool), 0, np.zeros(n, np.int64)
    if n == 0 or payloads.buffers()[2] is None:
        return Shapes(found, common, others)
    if (keys := _same_in_all(payloads, depth)) is not None:
        return Shapes(~found, keys, others)
    joined, places, ends_whole = _joined(payloads)
    text, at = np.frombuffer(joined, np.uint8), _places(joined, _MARK_BYTES)
    ends = np.searchsorted(at, places)
    first, sizes = ends[:-1], np.diff(ends)
    left = np.flatnonzero(ends_whole & (sizes <= MOST_MARKS))
    for _ in range(MOST_SHAPES):
        size = int(np.bincount(sizes[left]).argmax()) if len(left) else 0  # the most frequent one
        some = left[sizes[left] == size]
        if len(some) < max(LEAST_ALIKE, n // ONE_IN):
            break
        marks = at[first[some][:, None] + np.arange(size)]
        shape = _Shape(text, marks[0])
        same = some[shape.of(text, marks)]
        if len(same) and whole(payloads.slice(int(some[0]), 1), depth)[0]:
            found[same] = True
            common += shape.keys
        others[same] = others[some[0]] = -1  # looked at
        left = left[others[left] == 0]
    others[:] = 0
    rest = np.flatnonzero(~found)
    if len(rest) > n // 2:  # the marks that are known cost less than those of a copy
        kinds = _KINDS[text[at]]
        others[rest] = np.diff(np.searchsorted(key_ends(text, at[kinds == _QUOTE]), places))[rest]
        found[rest] = _whole(kinds, at, ends, ends_whole, depth)[rest]
    elif len(rest):
        odd = payloads.take(pa.array(rest))
        found[rest] = whole(odd, depth)
        others[rest] = keys_of_each(odd)
    return Shapes(found, common, others)


def _same_in_all(payloads: pa.Array, depth: int) -> int | None:
    """How many keys a payload has, where all are of the first one's shape, which is :func:`whole`; else None."""
    _, ends, data = payloads.buffers()
    offsets = np.frombuffer(ends, np.int32)[payloads.offset : payloads.offset + len(payloads) + 1].astype(np.int64)
    n, size = len(payloads), int(offsets[-1] - offsets[0])
    if payloads.null_count or size > n * MAX_PAYLOAD_BYTES:
        return None
    shape, given = None, memoryview(data)
    # Marks are counted before anything is made of them: a payload may hold one in each of its bytes.
    marks_of_first = np.count_nonzero(_marked(bytes(given[offsets[0] : offsets[1]]), _MARK_BYTES))
    if marks_of_first > MOST_MARKS or not whole(payloads.slice(0, 1), depth)[0]:
        return None
    step = max(1, BLOCK * n // size)
    for begin in range(0, n, step):
        places = offsets[begin : begin + step + 1] - offsets[begin]
        joined = b"".join((given[offsets[begin] : offsets[begin] + places[-1]], _PAST))
        text, at = np.frombuffer(joined, np.uint8), _places(joined, _MARK_BYTES)
        if shape is None:
            shape = _Shape(text, at[: np.searchsorted(at, places[1])])
        rows = len(places) - 1
        if len(at) != rows * shape.size or not shape.size:
            return None
        marks = at.reshape(rows, shape.size)
        if (marks[:, 0] != places[:-1]).any() or (marks[:, -1] + 1 != places[1:]).any() or not shape.of(text, marks).all():
            return None
    return None if shape is None else shape.keys


class _Shape:
    """What the first payload of some is like. ``size``: its marks, at most :data:`MOST_MARKS`; ``keys``: how many it has; ``usual``:
    whether others are compared with it. Texts end in :data:`_PAST`."""

    def __init__(self, text: Bytes, marks: Ints) -> None:
        self.size, self.kinds = len(marks), text[marks]
        quotes = np.flatnonzero(self.kinds == ord('"'))
        pairs = list(zip(quotes[::2].tolist(), quotes[1::2].tolist(), strict=False))
        named = [(o, c) for o, c in pairs if text[marks[c] + 1] == ord(":")]
        self.keys = len(named)
        self.values = np.array([c for _, c in pairs if text[marks[c] + 1] != ord(":")], np.int64)
        words = [text[marks[o] + 1 : marks[c] + 2].tobytes() for o, c in named]  # with the quote and what follows
        self.usual = all(len(w) <= MOST_BYTES for w in words)
        self.parts: list[tuple[int, Ints, Words, Words]] = []
        """Eight bytes of keys, from the one given on: the marks before them, what they are, and which of them count."""
        for at in range(0, max(map(len, words), default=0) if self.usual else 0, 8):
            some = [(o, w[at : at + 8]) for (o, _), w in zip(named, words, strict=True) if len(w) > at]
            found, masks = (
                np.array([int.from_bytes(w, "little") for w in part], np.uint64)
                for part in ([w for _, w in some], [b"\xff" * len(w) for _, w in some])
            )
            self.parts.append((at, np.array([o for o, _ in some]), found, masks))

    def of(self, text: Bytes, marks: Ints) -> Bools:
        """Which of M payloads with marks at these places (int64 [M, K]) are so."""
        m = len(marks)
        if not self.usual:
            return np.zeros(m, bool)
        kinds = text[marks]
        same = np.ones(m, bool) if kinds.tobytes() == self.kinds.tobytes() * m else (kinds == self.kinds).all(axis=1)
        words: Words = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))  # the eight bytes from each place on
        for at, before, expected, masks in self.parts:
            found = words[marks.take(before, axis=1) + (1 + at)]
            found &= masks
            if not (alike := found == expected).all():
                same &= alike.all(axis=1)
        follows = text.take(marks.take(self.values, axis=1) + 1)
        ended = (follows == ord(",")) | (follows == ord("}")) | (follows == ord("]"))
        return same if ended.all() else same & ended.all(axis=1)
