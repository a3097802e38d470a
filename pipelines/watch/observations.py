"""What the watch decides on, read from the data folder: event days, champion, report, runs. Light: no model is loaded."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pipelines.lake import layout
from pipelines.lake.graphs import applied_graphs
from pipelines.lake.report_records import newest_first
from pipelines.lake.run_records import RetrainRecord
from pipelines.lake.runs import Run, moment_of, range_of
from pipelines.monitoring.monitor_report import MonitorReport
from pipelines.project.config import WatchSettings
from pipelines.registry.alias_file import current, model_folder
from pipelines.watch.decide import Attempt, Champion, Findings, Policy, State, Waiting
from pipelines.watch.event_days import EventDays
from transforms.instants import EPOCH

__all__ = ["KIND", "Range", "findings", "gather", "key_of", "latest_report", "training_range"]

KIND = "retrain"
"""The kind of the run that a retraining is; its steps are runs of their own below it."""
DRIFT = frozenset({"drift", "skew", "prediction_drift", "prediction_skew"})
DECAY = frozenset({"auc", "log_loss", "calibration"})
BROKEN = frozenset({"unit", "recomputed", "ahead"})
"""Names of the monitor's checks, by what follows from their failure."""
_DAY = timedelta(days=1)


def trained(runs: Sequence[Run], model: str) -> list[Run]:
    """The complete trainings of a model, oldest first."""
    return [r for r in runs if r.kind == "train" and r.status == "complete" and r.head.model in (model, None)]


def version_facts(data: Path, model: str, version: int) -> dict[str, Any]:
    """``tandem.json`` of a version; empty if it cannot be read."""
    try:
        found = json.loads((model_folder(data, model) / str(version) / layout.SPEC_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def training_range(data: Path, model: str, version: int, runs: Sequence[Run]) -> tuple[datetime, datetime] | None:
    """The range of the training that a version is of; None where nobody knows any more."""
    made_by = version_facts(data, model, version).get("run")
    return next((range_of(r) for r in runs if r.id == made_by), None)


def _new_days(data: Path, model: str, version: int, runs: Sequence[Run], days: EventDays | None) -> int | None:
    """How many days of events a version did not learn from; None where nobody knows what it learnt from."""
    span = training_range(data, model, version, runs)
    return days.since(span[1]) if days is not None and span is not None else None


def latest_report(data: Path, model: str) -> tuple[Path, MonitorReport] | None:
    """The newest report of the monitor about ``model``, and its file; see :func:`newest_first` for what is passed over.

    Raises DataError where it is of a newer Tandem.
    """
    return next((found for found in newest_first(layout.monitor(data), MonitorReport) if found[1].model in (model, None)), None)


def findings(report: MonitorReport) -> Findings:
    """What of a report retraining is decided on."""
    failed = [c for c in report.checks if c.status == "fail"]

    def of(kinds: frozenset[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.feature or c.name for c in failed if c.name in kinds))

    broken = tuple(f"{c.name} {c.feature}".strip() for c in failed if c.name in BROKEN)
    return Findings(report.version, of(DRIFT), of(DECAY), broken)


def key_of(model: str, end: datetime, graphs: Mapping[str, str]) -> dict[str, Any]:
    """What a retraining learns from: the same data through the same graphs gives the same model, so it is tried once."""
    return {"model": model, "end": end.isoformat(), "graphs": dict(sorted(graphs.items()))}


def digest(key: Mapping[str, Any]) -> str:
    """As the manifest of a run writes its key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()


def applied(data: Path, groups: Iterable[str]) -> dict[str, str]:
    """The applied graph of each group that has one."""
    found = applied_graphs(data)
    return {name: found[name] for name in groups if name in found}


def attempts(runs: Sequence[Run], model: str) -> tuple[Attempt, ...]:
    """The retrainings of a model, from their runs."""
    out = []
    for run in runs:
        if run.kind != KIND or run.head.model != model:
            continue
        head, tries = run.head, run.as_(RetrainRecord).tries
        begun = moment_of(run.as_(RetrainRecord).begun or head.created) or EPOCH
        ended = moment_of(head.finished or head.noticed)
        if run.status == "complete":
            out.append(Attempt(head.key, "done", begun, ended, max(tries - 1, 0)))
        elif run.status in ("running", "publishing"):
            out.append(Attempt(head.key, "running", begun, None, max(tries - 1, 0)))
        else:  # who was asked to stop did not fail
            how: Literal["stopped", "killed", "failed"] = "failed"
            how = "stopped" if head.asked_to_stop else "killed" if run.status == "killed" else "failed"
            out.append(Attempt(head.key, how, begun, ended, tries))
    return tuple(out)


def training_now(runs: Sequence[Run]) -> str:
    """Who trains right now: the id of a training run under way, or ""."""
    return next((r.id for r in runs if r.kind == "train" and r.status in ("running", "publishing")), "")


@dataclass(frozen=True)
class Range:
    """What a retraining reads: rows are made over [batch_start, end), requests are taken from [train_start, end)."""

    batch_start: datetime
    train_start: datetime
    end: datetime


def gather(
    data: Path,
    model: str,
    days: EventDays | None,
    groups: Iterable[str],
    runs: Sequence[Run],
    settings: WatchSettings,
    looked: datetime | None,
    blind: bool = False,
) -> State:
    """The state of ``model`` now. ``runs`` are all runs, oldest first; ``blind`` as of :class:`State`. Raises ModelError for damaged
    aliases."""
    report = latest_report(data, model)
    ends = [span[1] for r in trained(runs, model) if (span := range_of(r))]
    aliases = current(model_folder(data, model))

    def new(version: int) -> int | None:
        return _new_days(data, model, version, runs, days)

    champion, challenger = aliases.champion, None if settings.promote else aliases.challenger
    return State(
        policy=Policy.of(settings),
        champion=Champion(champion, moment_of(version_facts(data, model, champion).get("created")), new(champion)) if champion else None,
        waiting=Waiting(challenger, new(challenger)) if challenger else None,
        data_end=days.end if days else None,
        key=digest(key_of(model, days.end, applied(data, groups))) if days else None,
        findings=findings(report[1]) if report else None,
        looked=looked,
        blind=blind,
        attempts=attempts(runs, model),
        trained_until=max(ends, default=None),
        training=training_now(runs),
    )


def plan(
    data: Path,
    model: str,
    days: EventDays,
    runs: Sequence[Run],
    graphs: Mapping[str, str],
    train_days: float | None,
    warm_up_days: int,
) -> Range:
    """What a retraining reads. Rows that a batch run made through the applied graphs are there already and are not made again,
    but for the last day's, which late events may have changed. ``train_days`` (rounded up) are days that have events."""
    first, end = days.first, days.end
    champion = current(model_folder(data, model)).champion
    before = training_range(data, model, champion, runs) if champion else None
    warm = first + timedelta(days=warm_up_days)
    start = days.last(math.ceil(train_days)) if train_days is not None else before[0] if before else warm
    start = max(min(max(start, first), end - _DAY), first)
    made = [
        span for r in runs if r.kind == "batch" and r.status == "complete" and (span := range_of(r)) and r.record.fingerprints == graphs
    ]
    covered = start
    for since, until in sorted(made):  # several runs in a row cover what each goes on with
        covered = max(covered, until) if since <= covered else covered
    batch_start = min(covered, end) - _DAY if covered > start else start - timedelta(days=warm_up_days)
    return Range(max(batch_start, first), start, end)
