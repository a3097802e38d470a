"""What an alert is, and the alerts that a monitor's report and the runs amount to. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, TypeGuard

from pipelines.lake.run_records import RunHead
from pipelines.monitoring.checks import Check
from pipelines.monitoring.monitor_report import MonitorReport

__all__ = ["Alert", "from_report", "from_runs"]

Severity = Literal["info", "warn", "fail"]
_RANK = {"ok": 0, "info": 0, "warn": 1, "fail": 2}
_NAMED = 8
"""Features named in a text; the rest is counted."""
LASTING = frozenset({"stream", "serve", "watch"})
"""Kinds of runs that are well while they run."""
_OLD = timedelta(days=7)
"""A failed run that is older, and was never repeated, was given up."""


@dataclass(frozen=True)
class Alert:
    """Something that is wrong now. ``key`` names it for good; ``same`` is what must change for it to be another state of it."""

    key: str
    severity: Severity
    title: str
    text: str = ""
    same: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hex digest of key, severity and ``same``: two alerts of one fingerprint need not be sent twice."""
        return hashlib.sha256(json.dumps([self.key, self.severity, self.same]).encode()).hexdigest()[:16]


def from_report(report: MonitorReport, level: Severity = "fail") -> list[Alert]:
    """The alerts of a monitor's report: one for each kind of check that found ``level`` or worse, with its features in it.

    One per feature would flood whoever reads them on the day that the data changes. An alert is the same as long as the same
    features are concerned; their values change with each look.
    """
    model, version = report.model or "", "" if report.version is None else str(report.version)
    found: dict[str, list[Check]] = {}
    for check in report.checks:
        if _RANK.get(check.status, 0) >= _RANK[level]:
            found.setdefault(check.name, []).append(check)
    out = []
    for name, checks in sorted(found.items()):
        worst: Severity = "fail" if any(c.status == "fail" for c in checks) else "warn"
        ordered = sorted(checks, key=lambda c: (-_RANK[c.status], -_excess(c), c.feature))
        features = [c.feature for c in ordered if c.feature]
        what = f" of {features[0]}" if len(features) == 1 else f" of {len(features)} features" if features else ""
        lines = [_line(c) for c in ordered[:_NAMED]] + ([f"and {len(ordered) - _NAMED} more"] if len(ordered) > _NAMED else [])
        out.append(
            Alert(
                key=f"monitor/{model}/{name}",
                severity=worst,
                title=f"{model}: {name.replace('_', ' ')}{what} {'failed' if worst == 'fail' else 'gives warning'}",
                text="\n".join(lines),
                same=json.dumps(sorted((c.status, c.feature) for c in checks)),
                labels={"model": model, "version": version, "check": name},
                values={c.feature or name: float(c.value) for c in ordered[:50] if _number(c.value)},
            )
        )
    return out


def _number(value: float | None) -> TypeGuard[float]:
    return value is not None and not math.isnan(value)


def _excess(check: Check) -> float:
    return abs(check.value - check.threshold) if _number(check.value) and _number(check.threshold) else 0.0


def _line(check: Check) -> str:
    numbers = f" {check.value:.4g}" if _number(check.value) else ""
    numbers += f" (threshold {check.threshold:.4g})" if _number(check.threshold) else ""
    detail = f": {check.detail}" if check.detail else ""
    return f"{check.feature or check.name.replace('_', ' ')}{numbers}{detail}"


def from_runs(runs: Sequence[RunHead], now: datetime) -> list[Alert]:
    """One alert for each kind of job whose latest run failed or was killed (runs oldest first).

    A run under way is no verdict yet, so the one before it counts; but a stream or a server that runs is well.
    """
    latest: dict[str, RunHead] = {}
    for run in runs:
        if _wanted(run):
            continue
        if run.status in ("complete", "failed", "killed") or (run.kind in LASTING and run.status == "running"):
            latest[run.kind] = run
    out = []
    for kind, run in sorted(latest.items()):
        status, ended = run.status, run.finished or run.created
        if status not in ("failed", "killed") or not _recent(ended, now):
            continue
        error = run.error or ""
        out.append(
            Alert(
                key=f"job/{kind}",
                severity="fail",
                title=f"tandem {kind} {'was killed' if status == 'killed' else 'failed'}",
                text="\n".join(part for part in (error, f"run {run.id}") if part),
                same=f"{status}: {re.sub(r'[0-9]+', '#', error)}",  # numbers, times and ids differ from run to run
                labels={"kind": kind, "run": run.id},
            )
        )
    return out


def _wanted(run: RunHead) -> bool:
    """Whether somebody ended the run who knows about it: Ctrl-C, or the watch was asked to stop meanwhile."""
    return run.asked_to_stop or (run.error or "").startswith("interrupted")


def _recent(text: str, now: datetime) -> bool:
    try:
        return now - datetime.fromisoformat(text) < _OLD
    except (ValueError, TypeError):
        return True


def worst(alerts: Iterable[Alert]) -> Severity:
    """The worst severity among alerts; ``info`` if there are none."""
    return max((a.severity for a in alerts), key=lambda s: _RANK[s], default="info")
