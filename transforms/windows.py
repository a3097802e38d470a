"""Which feature rows exist, and which tiles each window of a row covers: integer arithmetic over hops, nothing else.

A tile is one hop long; the tile that starts at ``s`` holds the events with ``s <= event time < s + hop``. A row at boundary T
covers, for a window ``over``, the tiles with ``T - over <= s < T``. Rows exist exactly where some window's content changed:
at ``s + hop`` (the tile enters every window) and at ``s + hop + over`` (it falls out of that window).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "ranges", "rows_of"]

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
    candidates = np.concatenate([np.stack([key, tile + step], axis=1) for step in steps]) if len(key) else np.zeros((0, 2), np.int64)
    candidates = candidates[(candidates[:, 1] > after // hop) & (candidates[:, 1] <= upto // hop)]
    if not len(candidates):
        empty = np.zeros(0, np.int64)
        return Rows(empty, empty, dict.fromkeys(overs, (empty, empty)))
    # One sortable number for (key, hop index), with room below the first tile for the longest window.
    low = int(tile.min()) - max(overs) // hop - 1
    span = int(max(candidates[:, 1].max(), tile.max())) - low + 2
    row = np.unique(candidates[:, 0] * span + (candidates[:, 1] - low))
    at = key * span + (tile - low)
    end = np.searchsorted(at, row)
    spans = {over: (np.searchsorted(at, row - over // hop), end) for over in overs}
    return Rows(row // span, (row % span + low) * hop, spans)


def ranges(lo: Int, hi: Int) -> tuple[Int, Int]:
    """All positions ``lo[r] .. hi[r] - 1`` of every r in a row, and the r that each belongs to: two arrays of length sum(hi - lo)."""
    length = hi - lo
    total = int(length.sum())
    owner = np.repeat(np.arange(len(lo), dtype=np.int64), length)
    first = np.cumsum(length) - length
    return np.arange(total, dtype=np.int64) - np.repeat(first - lo, length), owner
