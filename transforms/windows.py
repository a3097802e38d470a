"""Which feature rows exist, and which tiles each window of a row covers: integer arithmetic over hops, nothing else.

A tile is one hop long; the tile that starts at ``s`` holds the events with ``s <= event time < s + hop``. A row at boundary T
covers, for a window ``over``, the tiles with ``T - over <= s < T``. Rows exist exactly where some window's content changed:
at ``s + hop`` (the tile enters every window) and at ``s + hop + over`` (it falls out of that window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "greatest_of_ranges", "ranges", "rows_of"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """R feature rows, sorted by (key code, boundary). ``key`` and ``boundary`` have shape [R]; ``spans`` maps each window
    (microseconds) to two arrays of shape [R]: the first tile it covers and the one after the last."""

    key: Int
    boundary: Int
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
        empty = np.zeros(0, np.int64)
        return Rows(empty, empty, dict.fromkeys(overs, (empty, empty)))
    # One sortable number for (key, hop index), with room behind the last row for a place that stands for every later one.
    low = int(tile.min())
    span = int(max(at[mask].max() for at, mask in zip(entering, inside, strict=True) if mask.any())) - low + 2
    changes = [key * span + np.minimum(at - low, span - 1) for at in entering]
    row = np.concatenate([change[mask] for change, mask in zip(changes, inside, strict=True)])
    row.sort(kind="stable")  # runs that are sorted already
    new = np.ones(len(row), bool)
    np.not_equal(row[1:], row[:-1], out=new[1:])
    row = row[new]
    # A window begins after as many tiles as have fallen out of it by then, and ends after as many as have come in.
    passed = [np.cumsum(np.bincount(np.searchsorted(row, change), minlength=len(row))[: len(row)]) for change in changes]
    spans = {over: (out, passed[0]) for over, out in zip(overs, passed[1:], strict=True)}
    return Rows(row // span, (row % span + low) * hop, spans)


def ranges(lo: Int, hi: Int) -> tuple[Int, Int]:
    """All positions ``lo[r] .. hi[r] - 1`` of every r in a row, and the r that each belongs to: two arrays of length sum(hi - lo)."""
    length = hi - lo
    total = int(length.sum())
    owner = np.repeat(np.arange(len(lo), dtype=np.int64), length)
    first = np.cumsum(length) - length
    return np.arange(total, dtype=np.int64) - np.repeat(first - lo, length), owner


def greatest_of_ranges(values: npt.NDArray[Any], lo: Int, hi: Int, worst: Any, better: Any = np.maximum) -> npt.NDArray[Any]:
    """The greatest (by ``better``) of the values ``lo[r]`` to ``hi[r]`` (exclusive), ``worst`` over none: shape [R].

    By doubling: one pass for each power of two up to the longest range.
    """
    level, length = values, hi - lo
    power = np.frexp(np.maximum(length, 1).astype(np.float64))[1] - 1
    out = np.full(len(lo), worst, values.dtype)
    step = 1
    for p in range(int(power.max(initial=0)) + 1):
        rows = np.flatnonzero((power == p) & (length > 0))
        out[rows] = better(level[lo[rows]], level[hi[rows] - step])
        if len(level) <= step:
            break
        level = better(level[:-step], level[step:])
        step *= 2
    return out
