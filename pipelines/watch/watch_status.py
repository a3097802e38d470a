"""What is watched, when it was last looked at, how it stands, and what a round would do now; reads alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from pipelines.alerting import AlertStore
from pipelines.lake import layout
from pipelines.lake.run_records import RetrainRecord
from pipelines.lake.runs import Run, list_runs
from pipelines.project.config import Settings
from pipelines.watch.decide import Retrain, decide
from pipelines.watch.event_days import event_days
from pipelines.watch.observations import KIND, applied, gather, latest_report, plan
from transforms.definitions import EventSource
from transforms.errors import TandemError

__all__ = ["ModelStatus", "Subject", "WatchStatus", "intentions", "last_look", "look_file", "status"]


@dataclass(frozen=True)
class Subject:
    """What is watched: a repository's folder, settings, data, sources, groups, and the names of its models."""

    path: Path
    settings: Settings
    data: Path
    sources: Mapping[str, EventSource]
    groups: Mapping[str, Any]
    models: tuple[str, ...]


def look_file(data: Path, model: str) -> Path:
    """Where a look at a model is noted."""
    return layout.watch(data) / f"{model}.json"


def last_look(data: Path, model: str) -> dict[str, Any]:
    """When the watch last looked at a model, and what was wrong with that."""
    try:
        found = json.loads(look_file(data, model).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def known_until(now: datetime, as_of: str | None) -> datetime:
    """Up to when events are looked at: now, or ``as_of`` (ISO 8601, UTC) where that is before."""
    if as_of is None:
        return now
    moment = datetime.fromisoformat(as_of)
    return min(now, moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


class RunningWatch(TypedDict):
    """A watch that runs, since when, and where its metrics are, if anywhere."""

    pid: int | None
    since: str
    metrics: str | None


class ModelStatus(TypedDict, total=False):
    """How a model stands; ``error`` alone where nobody could find out. ``triggers``: name -> why; ``held``: why nothing is done about them;
    ``next``: what is done next."""

    champion: int | None
    trained_until: datetime | None
    data_until: datetime | None
    looked: datetime | None
    verdict: str | None
    report: str | None
    error: str | None
    triggers: dict[str, str]
    held: str | None
    next: str


class RetrainingStatus(TypedDict):
    """A retraining; what it does not have (yet) is not there. Moments are UTC in ISO 8601."""

    run: str
    status: str
    triggers: list[str]
    model: NotRequired[str]
    begun: NotRequired[str]
    finished: NotRequired[str]
    outcome: NotRequired[str]
    version: NotRequired[int]
    tries: NotRequired[int]
    error: NotRequired[str]
    detail: NotRequired[str]


class AlertStatus(TypedDict):
    """The alerts that fire, and how many are not sent yet."""

    firing: list[dict[str, Any]]
    waiting: int


class WatchStatus(TypedDict):
    """How things stand; ``retrainings``: the last five."""

    watching: list[RunningWatch]
    models: dict[str, ModelStatus]
    retrainings: list[RetrainingStatus]
    alerts: AlertStatus


def status(subject: Subject, now: datetime) -> WatchStatus:
    """How things stand: watches that run, what is decided for each model, retrainings, alerts."""
    data = subject.data
    runs = list_runs(data)
    alerts = AlertStore(layout.alerts(data))
    models: dict[str, ModelStatus] = {}
    days = event_days(data, subject.sources.values(), now)
    for model in subject.models:
        noted = last_look(data, model)
        looked = datetime.fromisoformat(noted["looked"]) if noted.get("looked") else None
        try:
            report = latest_report(data, model)
            state = gather(data, model, days, subject.groups, runs, subject.settings.watch, looked, bool(noted.get("error")))
        except TandemError as error:
            models[model] = {"error": " ".join(str(error).split())}
            continue
        decision = decide(state, now)
        models[model] = {
            "champion": state.champion.version if state.champion else None,
            "trained_until": state.trained_until,
            "data_until": state.data_end,
            "looked": looked,
            "verdict": report[1].verdict if report else None,
            "report": str(report[0].parent) if report else None,
            "error": noted.get("error") or None,
            "triggers": {t.name: t.why for t in decision.triggers},
            "held": decision.held or None,
            "next": type(decision.action).__name__.lower() if decision.action else f"wait until {decision.until:%Y-%m-%d %H:%M} UTC",
        }
    return {
        "watching": [_running(r) for r in runs if r.kind == "watch" and r.status == "running"],
        "models": models,
        "retrainings": [_summary(r) for r in runs if r.kind == KIND][-5:],
        "alerts": {"firing": alerts.firing(), "waiting": len(alerts.waiting())},
    }


def intentions(subject: Subject, now: datetime, as_of: str | None = None) -> dict[str, list[str]]:
    """What a round would do now, per model, one line each; nothing is done, asked or written for it."""
    data = subject.data
    runs = list_runs(data)
    days = event_days(data, subject.sources.values(), known_until(now, as_of))
    of = f" --as-of {as_of}" if as_of else ""
    out: dict[str, list[str]] = {}
    for model in subject.models:
        blind = bool(last_look(data, model).get("error"))
        state = gather(data, model, days, subject.groups, runs, subject.settings.watch, None, blind)
        lines = [f"tandem labels --model {model}{of}", f"tandem monitor --model {model} --no-labels{of}"]
        decision = decide(replace(state, looked=now), now)
        if isinstance(decision.action, Retrain) and days is not None:
            graphs = applied(data, subject.groups)
            span = plan(data, model, days, runs, graphs, subject.settings.watch.train_days, subject.settings.demo.warm_up_days)
            first, last = f"{span.train_start:%Y-%m-%d}", f"{span.end:%Y-%m-%d}"
            lines.append(f"retrain on {first} to {last}, as {'; '.join(f'{t.name}: {t.why}' for t in decision.triggers)}")
            then = (
                "promote it if the thresholds hold" if subject.settings.watch.promote else "push it, not promote it (watch.promote is off)"
            )
            lines.append(then)
        elif decision.triggers:
            lines.append(f"not retrain, although {', '.join(t.name for t in decision.triggers)} triggered: {decision.held}")
        else:
            lines.append("not retrain, unless the monitor finds a reason")
        out[model] = lines
    return out


def _running(run: Run) -> RunningWatch:
    return {"pid": run.head.pid, "since": run.created, "metrics": run.record.links.get("metrics")}


def _summary(run: Run) -> RetrainingStatus:
    said = run.as_(RetrainRecord)
    kept = {k: getattr(said, k) for k in ("model", "begun", "finished", "outcome", "version", "tries", "error", "detail")}
    found = {"run": run.id, "status": run.status, "triggers": [t.get("name") for t in said.triggers], **kept}
    return cast(RetrainingStatus, {k: v for k, v in found.items() if v or k not in kept})
