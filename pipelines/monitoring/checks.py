"""What is judged, and how: one :class:`Check` per thing that was looked at, and the verdict over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transforms.errors import DataError

__all__ = ["Check", "Status", "above", "distance_check", "skipped", "verdict"]

Status = Literal["ok", "warn", "fail", "skipped"]
_STATUSES: dict[str, Status] = {"ok": "ok", "warn": "warn", "fail": "fail", "skipped": "skipped"}


@dataclass(frozen=True)
class Check:
    """``name`` of the check, the ``feature`` (or view, or "") it is about, the value found, the threshold, and a line for people."""

    name: str
    feature: str
    value: float | None
    threshold: float | None
    status: Status
    detail: str

    def rounded(self) -> Check:
        """As a report has it: numbers to six digits."""
        return replace(self, value=_six_digits(self.value), threshold=_six_digits(self.threshold))

    @classmethod
    def of(cls, said: Any, place: object) -> Check:
        """The check in a report's JSON. Raises DataError, one line that names ``place``, for what is none."""
        name, status = (said.get("name"), _STATUSES.get(str(said.get("status")))) if isinstance(said, Mapping) else (None, None)
        if not isinstance(name, str) or status is None:
            raise DataError(f"{place}: {said!r:.80} is not a check; it is no report of Tandem's")
        value, threshold = (_number(said.get(k)) for k in ("value", "threshold"))
        return cls(name, str(said.get("feature") or ""), value, threshold, status, str(said.get("detail") or ""))


def _six_digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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
