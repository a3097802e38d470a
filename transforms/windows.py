"""Which feature rows exist, and which tiles each window of a row covers: integer arithmetic over hops, nothing else.

A tile is one hop long; the tile that starts at ``s`` holds the events with ``s <= event time < s + hop``. A row at boundary T
covers, for a window ``over``, the tiles with ``T - over <= s < T``. Rows exist exactly where some window's content changed:
at ``s + hop`` (the tile enters every window) and at ``s + hop + over`` (it falls out of that window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Extremes", "Rows", "ranges", "rows_of", "shown", "slices"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """R feature rows, sorted by (key code, boundary). ``key`` and ``boundary`` have shape [R].

    Where a window covers in a row what it does in the row of that key before, both show one content of it. Of each window (microseconds),
    which has C contents: ``begins`` maps it to the first row of each (shape [C], see :func:`shown`), ``spans`` to two arrays of shape [C]:
    the first tile that each covers and the one after the last."""

    key: Int
    boundary: Int
    begins: dict[int, Int]
    spans: dict[int, tuple[Int, Int]]


def rows_of(key: Int, tile_start: Int, hop: int, overs: Sequence[int], after: int, upto: int) -> Rows:
    """The rows with ``after < boundary <= upto`` over tiles that are unique and sorted by (key code, tile start).

    ``key`` holds codes from 0 up, ``tile_start``, ``hop``, ``overs``, ``after`` and ``upto`` are microseconds; tile starts and
    windows are whole numbers of hops.
    """
    tile = tile_start // hop
    steps = [1, *(1 + over // hop for over in overs)]
    entering = [tile + step for step in steps]
    inside = [(at > after // hop) & (at <= upto // hop) for at in entering]
    if not len(key) or not any(mask.any() for mask in inside):
        none = np.zeros(0, np.int64)
        return Rows(none, none, dict.fromkeys(overs, none), dict.fromkeys(overs, (none, none)))
    # One sortable number for (key, hop index, what changes), with room behind a key's last row for a place that stands for every later one.
    low, bits = int(tile.min()), len(overs).bit_length()
    span = int(max(at[mask].max() for at, mask in zip(entering, inside, strict=True) if mask.any())) - low + 2
    floor = key * span
    place, last = floor + (tile - low), floor + (span - 1)
    changes = [np.minimum(place + step, last) for step in steps]
    some = [change if mask.all() else change[mask] for change, mask in zip(changes, inside, strict=True)]
    event = np.empty(sum(map(len, some)), np.int64)
    for n, (each, where) in enumerate(zip(some, slices(some), strict=True)):
        np.left_shift(each, bits, out=event[where])
        event[where] |= n
    event.sort(kind="stable")  # runs that are sorted already
    what = event.astype(np.int16) & np.int16((1 << bits) - 1)
    event >>= bits
    new = np.ones(len(event), bool)
    np.not_equal(event[1:], event[:-1], out=new[1:])
    row, number = event[new], _counted(new)
    of = row // span
    first = np.ones(len(row), bool)
    np.not_equal(of[1:], of[:-1], out=first[1:])
    at = number.take(np.argsort(what, kind="stable"))
    at -= 1
    changed = [_marked(len(row), at[where]) for where in slices(some)]
    begins, spans = {}, {}
    for n, over in enumerate(overs, 1):
        moved = changed[0] | changed[n]
        moved |= first
        begins[over] = begin = np.flatnonzero(moved)
        # A window begins after as many tiles as have fallen out of it by then, and ends after as many as have come in.
        out, come = (_passed(changed[k], changes[k], inside[k], row, begin) for k in (n, 0))
        spans[over] = out, come
    row -= of * span - low
    row *= hop
    return Rows(of, row, begins, spans)


def slices(parts: Sequence[Int]) -> list[slice]:
    """Where each of some arrays lies in all of them, one after the other."""
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return [slice(begin, end) for begin, end in pairwise(ends)]


def shown(begins: Int, out: Int) -> Int:
    """The content that each of R rows shows, by the first row of each: written to ``out`` (shape [R]), and returned."""
    out[:] = 0
    out[begins[1:]] = 1
    return np.cumsum(out, out=out)


def _counted(marks: npt.NDArray[np.bool_]) -> Int:
    """How many of N marks are set up to and with each: shape [N]."""
    out = marks.astype(np.int64)
    return np.cumsum(out, out=out)


def _marked(n: int, at: Int) -> npt.NDArray[np.bool_]:
    out = np.zeros(n, bool)
    out[at] = True
    return out


def _passed(changed: npt.NDArray[np.bool_], change: Int, inside: npt.NDArray[np.bool_], row: Int, at: Int) -> Int:
    """How many changes of a kind there are up to each of the rows ``at``, among which are all rows that they make."""
    passed = _counted(changed.take(at))  # a key has one change of a kind at a row at most
    if not inside.all():
        passed += np.cumsum(np.bincount(np.searchsorted(row.take(at), change[~inside]), minlength=len(at))[: len(at)])
    return passed


def ranges(lo: Int, hi: Int) -> tuple[Int, Int]:
    """All positions ``lo[r] .. hi[r] - 1`` of every r in a row, and the r that each belongs to: two arrays of length sum(hi - lo)."""
    length = hi - lo
    total = int(length.sum())
    owner = np.repeat(np.arange(len(lo), dtype=np.int64), length)
    first = np.cumsum(length) - length
    return np.arange(total, dtype=np.int64) - np.repeat(first - lo, length), owner


class Extremes:
    """The greatest (by ``better``) of any range of N values, by two looks at the greatest of 1, 2, 4 and so on that follow each other."""

    def __init__(self, values: npt.NDArray[Any], worst: Any, better: Any = np.maximum) -> None:
        self.values, self.worst, self.better = values, worst, better
        self.levels = values
        """Shape [levels * N]; what would reach beyond the end of a level means nothing."""
        self.looks = np.zeros((2, 0), np.int64)
        """By the length of a range: how far in the levels the first look lies from its begin, and the second from its end."""

    def of(self, lo: Int, hi: Int) -> npt.NDArray[Any]:
        """The greatest of the values ``lo[r]`` to ``hi[r]`` (exclusive), ``worst`` over none: shape [R]."""
        length = hi - lo
        longest = int(length.max(initial=0))
        if longest < 1:
            return np.full(len(lo), self.worst, self.values.dtype)
        if longest.bit_length() * len(self.values) > KEPT:
            return self._level_by_level(lo, hi)
        self._reach(longest.bit_length())
        first, second = self.looks
        out: npt.NDArray[Any] = self.levels.take(first.take(length) + lo, mode="clip")
        self.better(out, self.levels.take(second.take(length) + hi, mode="clip"), out=out)
        np.copyto(out, self.worst, where=length == 0)
        return out

    def apart(self, lo: Int, hi: Int) -> npt.NDArray[Any]:
        """:meth:`of` ranges that do not overlap."""
        if int((hi - lo).max(initial=0)) <= SHORT:
            return self.of(lo, hi)
        out: npt.NDArray[Any] = self.better.reduceat(np.append(self.values, self.worst), np.stack([lo, hi]).T.reshape(-1))[::2]
        out[hi == lo] = self.worst
        return out

    def _reach(self, need: int) -> None:
        n, have = len(self.values), len(self.levels) // len(self.values)
        if self.looks.shape[1] < 1 << need:
            power = _floor_log2(need)
            self.looks = np.stack([power * n, power * n - (1 << power)])
        if have >= need:
            return
        levels = np.empty(need * n, self.values.dtype)
        levels[: have * n] = self.levels
        for level in range(have, need):
            half, before = 1 << (level - 1), levels[(level - 1) * n : level * n]
            made = levels[level * n : (level + 1) * n]
            made[n - half :] = before[n - half :]
            self.better(before[: n - half], before[half:], out=made[: n - half])
        self.levels = levels

    def _level_by_level(self, lo: Int, hi: Int) -> npt.NDArray[Any]:
        level, length = self.values, hi - lo
        power = np.frexp(np.maximum(length, 1).astype(np.float64))[1] - 1
        out = np.full(len(lo), self.worst, level.dtype)
        step = 1
        for p in range(int(power.max(initial=0)) + 1):
            rows = np.flatnonzero((power == p) & (length > 0))
            out[rows] = self.better(level[lo[rows]], level[hi[rows] - step])
            if len(level) <= step:
                break
            level = self.better(level[:-step], level[step:])
            step *= 2
        return out


KEPT = 2**22
"""So many values of levels are kept for further windows; of more, one level at a time is made."""
SHORT = 16


@lru_cache(maxsize=64)
def _floor_log2(bits: int) -> Int:
    """The whole part of log2 of the numbers from 0 (which counts as 1) to ``2^bits - 1``."""
    return np.maximum(np.frexp(np.arange(1 << bits, dtype=np.float64))[1] - 1, 0).astype(np.int64)
