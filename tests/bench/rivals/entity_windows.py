"""The windows of one entity, event by event, as well as plain Python does it. Standard library alone: other environments run it too."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

HOUR = 3_600_000_000
HOP = HOUR // 4
OVERS = {"1h": HOUR, "3h": 3 * HOUR, "24h": 24 * HOUR}
NAMES = [f"{m}_{over}" for over in OVERS for m in ("count", "mean", "std", "min", "max", "spread")]


class EntityWindows:
    """Partials of one hop each; a row at every hop boundary that an event passes. Time in microseconds."""

    def __init__(self) -> None:
        self.tiles: deque[tuple[int, int, float, float, float, float]] = deque()
        self.open: list[Any] | None = None

    def add(self, at: int, x: float) -> list[tuple[int, dict[str, float]]]:
        """Count an event; the rows (boundary, features) that it makes final. Events come in order."""
        start, out = at - at % HOP, []
        tile = self.open
        if tile is not None and start > tile[0]:
            self.tiles.append(tuple(tile))
            while self.tiles and self.tiles[0][0] < tile[0] + HOP - OVERS["24h"]:
                self.tiles.popleft()
            out = [(b, self.row(b)) for b in range(tile[0] + HOP, start + 1, HOP)]
            tile = None
        if tile is None:
            self.open = [start, 1, x, x * x, x, x]
            return out
        tile[1] += 1
        tile[2] += x
        tile[3] += x * x
        if x < tile[4]:
            tile[4] = x
        if x > tile[5]:
            tile[5] = x
        return out

    def row(self, boundary: int) -> dict[str, float]:
        """The features at a boundary, the transform's outputs included."""
        out: dict[str, Any] = {}
        for name, over in OVERS.items():
            n, total, squares, low, high = 0, 0.0, 0.0, math.inf, -math.inf
            for start, count, s, q, least, most in reversed(self.tiles):
                if start < boundary - over:
                    break
                n, total, squares = n + count, total + s, squares + q
                low, high = min(low, least), max(high, most)
            if not n:
                out |= {f"count_{name}": 0, **{f"{m}_{name}": None for m in ("mean", "std", "min", "max")}, f"spread_{name}": 0.0}
                continue
            std = math.sqrt(max(n * squares - total * total, 0.0)) / n
            out |= {f"count_{name}": n, f"mean_{name}": total / n, f"std_{name}": std, f"min_{name}": low, f"max_{name}": high}
            out[f"spread_{name}"] = (high - low) / (std + 1.0)
        return out


def fields_of(rows: Iterable[tuple[int, dict[str, float]]]) -> dict[str, str]:
    """A Redis hash of the last row."""
    *_, (boundary, features) = rows
    return {"at": str(boundary), **{k: repr(v) for k, v in features.items()}}
