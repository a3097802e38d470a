"""What is judged, and how: one :class:`Check` per thing that was looked at, and the verdict over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Check", "Status", "above", "distance_check", "skipped", "verdict"]

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """``name`` of the check, the ``feature`` (or view, or "") it is about, the value found, the threshold, and a line for people."""

    name: str
    feature: str
    value: float | None
    threshold: float | None
    status: Status
    detail: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; numbers to six digits."""
        values = asdict(self)
        for key in ("value", "threshold"):
            if values[key] is not None:
                values[key] = float(f"{values[key]:.6g}")
        return values


def skipped(name: str, detail: str, feature: str = "") -> Check:
    """A check that was not made, and why."""
    return Check(name, feature, None, None, "skipped", detail)


def above(name: str, feature: str, value: float, threshold: float, detail: str, *, judged: bool = True) -> Check:
    """Fails if the value is above the threshold."""
    return Check(name, feature, value, threshold, "fail" if value > threshold and judged else "ok", detail)


def distance_check(
    name: str, feature: str, value: float, setting: float, chance: float, factor: float, what: str, *, judged: bool = True
) -> Check:
    """Fails above ``setting`` and above ``factor`` times what chance gives; warns above ``setting`` and chance itself."""
    threshold = max(setting, factor * chance)
    if name.endswith(("skew", "drift")):
        threshold = min(threshold, 1.0)  # of which nothing can be above: chance alone may give any distance
    status: Status = "fail" if value > threshold else "warn" if value > max(setting, chance) else "ok"
    detail = f"{what} {value:.3f}; by chance up to {chance:.3f}"
    return Check(name, feature, value, threshold, status if judged else "ok", detail)


def verdict(checks: Sequence[Check]) -> Status:
    """``fail`` if anything failed; ``warn`` if anything is to be looked at, or nothing could be judged; else ``ok``."""
    kinds = {c.status for c in checks}
    if "fail" in kinds:
        return "fail"
    return "ok" if "ok" in kinds and "warn" not in kinds else "warn"
