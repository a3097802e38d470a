"""What the bytes of JSON payloads tell without a parser: which are one object or no JSON at all, and which hold the same keys.

A shape is where brackets and texts stand in a payload, and which of the texts are which keys. Payloads of one shape are alike in all that
matters to a reader of columns but in their values, so what holds for one of them holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.json_flat import braced, keys_of_each

__all__ = ["Shapes", "shapes_of", "whole"]

MOST_MARKS, MOST_BYTES = 512, 128
"""Brackets and quotes of a payload, and bytes of a key, up to which others are compared with it."""
MOST_SHAPES, LEAST_ALIKE, ONE_IN = 16, 8, 32
"""So many shapes are looked for, those of the most frequent number of marks first, as long as so many payloads, and one in so many, have as
many marks."""

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_PAST = b" " * (MOST_BYTES + 8)
"""Stands behind the bytes of all payloads, so that a key can be looked for at each place of them, by eight bytes at once."""


def _places(text: bytes, which: bytes) -> Ints:
    """Where bytes stand for which the table ``which`` (256 truth values) has a one. Python looks bytes up seven times as fast as numpy,
    which makes 64 bits of each first; and of truth values numpy finds the true ones by words."""
    return np.flatnonzero(np.frombuffer(text.translate(which), bool))


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
    kinds = _KINDS[np.frombuffer(joined, np.uint8)[at]]
    first = np.searchsorted(at, places[:-1])  # of each payload's marks
    following = np.append(first[1:], len(at))

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
    joined, places, ends_whole = _joined(payloads)
    text, at = np.frombuffer(joined, np.uint8), _places(joined, _MARK_BYTES)
    size, uneven = divmod(len(at), n)
    if size and not uneven and ends_whole.all() and (at[::size] == places[:-1]).all() and (at[size - 1 :: size] == places[1:] - 1).all():
        first, sizes = np.arange(0, len(at), size), np.full(n, size)  # as many marks in each
    else:
        first = np.searchsorted(at, places)
        first, sizes = first[:-1], np.diff(first)
    left = np.flatnonzero(ends_whole & (sizes <= MOST_MARKS))
    for _ in range(MOST_SHAPES):
        size = int(np.bincount(sizes[left]).argmax()) if len(left) else 0  # the most frequent one
        some = left[sizes[left] == size]
        if len(some) < max(LEAST_ALIKE, n // ONE_IN):
            break
        keys, alike = _alike(text, at.reshape(n, size) if len(some) == n else at[first[some][:, None] + np.arange(size)])
        same = some[alike]
        if len(same) and whole(payloads.slice(int(some[0]), 1), depth)[0]:
            found[same] = True
            common += keys
        others[same] = others[some[0]] = -1  # looked at
        left = left[others[left] == 0]
    others[:] = 0
    if not found.all():
        rest = np.flatnonzero(~found)
        odd = payloads.take(pa.array(rest))
        found[rest] = whole(odd, depth)
        others[rest] = keys_of_each(odd)
    return Shapes(found, common, others)


def _alike(text: Bytes, marks: Ints) -> tuple[int, Bools]:
    """Of M payloads with marks at these places (int64 [M, K]), which are of the first one's shape, and how many keys that has.
    ``text`` ends in :data:`_PAST`."""
    words: npt.NDArray[np.uint64] = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))  # the eight bytes from each place on
    kinds, keys = text[marks], 0
    all_same = kinds.tobytes() == kinds[0].tobytes() * len(kinds)
    same: Bools = np.ones(len(kinds), bool) if all_same else (kinds == kinds[0]).all(axis=1)
    quotes = np.flatnonzero(kinds[0] == ord('"'))
    for opening, closing in zip(quotes[::2].tolist(), quotes[1::2].tolist(), strict=False):
        starts, ends = marks[:, opening] + 1, marks[:, closing] + 1
        size = int(ends[0] - starts[0]) + 1  # with the quote and what follows
        if text[ends[0]] != ord(":"):
            follows = text[ends]
            same &= (follows == ord(",")) | (follows == ord("}")) | (follows == ord("]"))
            continue
        keys += 1
        if size > MOST_BYTES:
            return 0, np.zeros(len(kinds), bool)
        for at in range(0, size, 8):
            found = words[starts + at]
            if size - at < 8:
                found &= np.uint64((1 << 8 * (size - at)) - 1)
            same &= found == found[0]
    return keys, same
