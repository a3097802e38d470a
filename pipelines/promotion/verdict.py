"""Whether a version may become champion: its scores against the thresholds of its model. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.training.definition import Threshold
from pipelines.training.training_report import Score

__all__ = ["Check", "judge", "missed"]

MIN_OF_EACH_CLASS = 10
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Check:
    """One demand on a version: ``value`` must not be worse than ``limit``. ``ok`` is None where it could not or need not be judged."""

    metric: str
    slice: str
    against: str
    """``bound`` or ``champion``."""
    rows: int
    value: float | None
    champion: float | None
    limit: float | None
    ok: bool | None
    why: str = ""

    def line(self) -> str:
        """The check in words."""
        where = f"{self.metric} of {self.slice} ({self.rows:,} rows)" if self.slice else f"{self.metric} ({self.rows:,} rows)"
        if self.ok is None:
            return f"{where}: {self.why}"
        better = "at least" if _rises(self.metric) else "at most"
        beside = f", the champion's is {self.champion:.4f}" if self.against == "champion" else ""
        return f"{where} is {self.value:.4f}, must be {better} {self.limit:.4f}{beside}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return {**asdict(self), "line": self.line()}


def _rises(metric: str) -> bool:
    return metric == "auc"


def judge(thresholds: Sequence[Threshold], mine: Mapping[str, Score], champion: Mapping[str, Score] | None) -> list[Check]:
    """Every check that the thresholds ask for: over all rows, and per slice with enough rows. ``champion`` None: there is none to compare
    with. A check that cannot be judged over all rows counts as missed; a slice that is too small does not decide."""
    out: list[Check] = []
    for t in thresholds:
        slack = t.slack_to_champion if t.slack_to_champion is not None else t.slack_to_blessed
        for key, score in mine.items():
            bound, room = (t.bound, slack) if not key else (t.slice_bound, t.slack_per_slice)
            small = key != "" and _small(score, t)
            if bound is not None:
                out.append(_check(t.metric, key, "bound", score, None, bound, small))
            if room is not None and champion is not None:
                other = getattr(champion[key], t.metric) if key in champion else None
                limit = None if other is None else other - room if _rises(t.metric) else other + room
                out.append(_check(t.metric, key, "champion", score, other, limit, small))
    return out


def _small(score: Score, t: Threshold) -> bool:
    return score.rows < t.slice_min_rows or min(score.positives, score.rows - score.positives) < MIN_OF_EACH_CLASS


def _check(metric: str, key: str, against: str, score: Score, other: float | None, limit: float | None, small: bool) -> Check:
    value: float | None = getattr(score, metric)
    numbers = (metric, key, against, score.rows, value, other, limit)
    if small:
        return Check(*numbers, ok=None, why="too few rows to decide")
    if value is None or limit is None or not np.isfinite(value):
        return Check(*numbers, ok=None if key else False, why="undefined: the rows have only one class")
    good = value >= limit - _ROUNDING if _rises(metric) else value <= limit + _ROUNDING
    return Check(*numbers, ok=bool(good))


def missed(checks: Sequence[Check]) -> list[str]:
    """The checks that do not hold, in words."""
    return [c.line() if c.value is not None and c.limit is not None else f"{c.metric}: {c.why}" for c in checks if c.ok is False]
