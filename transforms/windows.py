"""Which feature rows exist, and which tiles each window of a row covers: integer arithmetic over hops, nothing else.

A tile is one hop long; the tile that starts at ``s`` holds the events with ``s <= event time < s + hop``. A row at boundary T
covers, for a window ``over``, the tiles with ``T - over <= s < T``. Rows exist exactly where some window's content changed:
at ``s + hop`` (the tile enters every window) and at ``s + hop + over`` (it falls out of that window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Extremes", "Rows", "ranges", "rows_of"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """R feature rows, sorted by (key code, boundary). ``key`` and ``boundary`` have shape [R]; ``spans`` maps each window
    (microseconds) to two arrays of shape [R]: the first tile it covers and the one after the last. ``moved`` maps each window to where
    it may cover others than it does in the row before (bool, shape [R])."""

    key: Int
    boundary: Int
    spans: dict[int, tuple[Int, Int]]
    moved: dict[int, npt.NDArray[np.bool_]]


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
        empty = np.zeros(0, np.int64)
        return Rows(empty, empty, dict.fromkeys(overs, (empty, empty)), dict.fromkeys(overs, empty.astype(bool)))
    # One sortable number for (key, hop index, what changes), with room behind a key's last row for a place that stands for every later one.
    low, bits = int(tile.min()), len(overs).bit_length()
    span = int(max(at[mask].max() for at, mask in zip(entering, inside, strict=True) if mask.any())) - low + 2
    changes = [key * span + np.minimum(at - low, span - 1) for at in entering]
    event = np.concatenate([(change[mask] << bits) + n for n, (change, mask) in enumerate(zip(changes, inside, strict=True))])
    event.sort(kind="stable")  # runs that are sorted already
    place, what = event >> bits, event & ((1 << bits) - 1)
    new = np.ones(len(place), bool)
    np.not_equal(place[1:], place[:-1], out=new[1:])
    row, number = place[new], np.cumsum(new) - 1
    of = row // span
    first = np.ones(len(row), bool)
    np.not_equal(of[1:], of[:-1], out=first[1:])
    # A window begins after as many tiles as have fallen out of it by then, and ends after as many as have come in.
    passed, here = [], []
    for n, (change, mask) in enumerate(zip(changes, inside, strict=True)):
        at = number[np.flatnonzero(what == n)]
        changed = np.zeros(len(row), bool)
        changed[at] = True
        here.append(changed)
        if len(at) == len(change):  # a key has one change of a kind at a row at most
            passed.append(np.cumsum(changed))
        else:
            many = np.bincount(np.searchsorted(row, change[~mask]), minlength=len(row))[: len(row)]
            passed.append(np.cumsum(many + changed))
    spans = {over: (out, passed[0]) for over, out in zip(overs, passed[1:], strict=True)}
    moved = {over: here[0] | out | first for over, out in zip(overs, here[1:], strict=True)}
    return Rows(of, (row % span + low) * hop, spans, moved)


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

    def of(self, lo: Int, hi: Int) -> npt.NDArray[Any]:
        """The greatest of the values ``lo[r]`` to ``hi[r]`` (exclusive), ``worst`` over none: shape [R]."""
        length = hi - lo
        longest = int(length.max(initial=0))
        if longest < 1:
            return np.full(len(lo), self.worst, self.values.dtype)
        if longest.bit_length() * len(self.values) > KEPT:
            return self._level_by_level(lo, hi)
        self._reach(longest.bit_length())
        power = _floor_log2(longest.bit_length()).take(length)
        first = power * len(self.values) + lo
        out: npt.NDArray[Any] = self.levels.take(first, mode="clip")
        self.better(out, self.levels.take(first + length - (1 << power), mode="clip"), out=out)
        out[length == 0] = self.worst
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
