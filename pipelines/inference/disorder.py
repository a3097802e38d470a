"""How late events come behind others, in the order in which data has them, and what to wait for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["UNKNOWN", "Disorder", "Moments", "disorder_of"]

_NICE = (0, 1, 5, 10, 30, 60, 300, 600, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
"""Seconds that people would write."""
MOST_DISORDER = 86_400
Moments = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Disorder:
    """How far behind the newest event before it an event came, in seconds: of most (99 of 100), of nearly all, of the last one."""

    p99: float = 0.0
    p999: float = 0.0
    most: float = 0.0

    @property
    def measured(self) -> bool:
        """Whether the data is in order enough to tell."""
        return self.p99 <= MOST_DISORDER / 4

    @property
    def out_of_orderness(self) -> int:
        """Seconds to wait for events, so that 99 of 100 are in the first row that they belong to."""
        return _nice(self.p99) if self.measured else 60

    @property
    def allowed_lateness(self) -> int:
        """Seconds by which an event may come later than that."""
        return max(_nice(self.most), self.out_of_orderness) if self.measured else 3_600


UNKNOWN = Disorder(float("inf"), float("inf"), float("inf"))


def disorder_of(moments: Moments | None, parts: list[int]) -> Disorder:
    """Within each file, by the order of its records; of moments that the contract would take."""
    if moments is None:
        return Disorder()
    behind = []
    start = 0
    for count in parts:
        part = moments[start : start + count]
        part = part[part > 0]
        start += count
        if len(part):
            behind.append(np.maximum.accumulate(part) - part)
    if not behind:
        return Disorder()
    seconds = np.concatenate(behind) / 1e6
    p99, p999 = (float(np.quantile(seconds, q, method="higher")) for q in (0.99, 0.999))
    return Disorder(p99, p999, float(seconds.max()))


def _nice(seconds: float) -> int:
    return next((n for n in _NICE if n >= seconds), int(-(-seconds // 86_400) * 86_400))
