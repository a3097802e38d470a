"""``/metrics`` of the jobs that end: batch, train, monitor, verify and the rest, from what they left behind; and of the watch itself.

A short job is gone before anybody scrapes it, so who stays shows it: ``tandem watch``, or ``tandem metrics``. Label values come from
definitions and kinds of jobs, never from an id, a time or an entity, so there are as many series as there are features and checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from pipelines.alerting.alert import LASTING
from pipelines.alerting.alert_store import AlertStore
from pipelines.lake import layout
from pipelines.lake.report_records import newest_first
from pipelines.lake.run_records import BatchRecord
from pipelines.lake.runs import Run, list_runs
from pipelines.registry.alias_file import current, model_folder, models_of
from pipelines.verify.verify_report import VerifyReport
from pipelines.watch.observations import KIND, latest_report, version_facts
from transforms.errors import DataError, TandemError

__all__ = ["JobMetrics", "page"]

STATUS = {"ok": 0, "warn": 1, "fail": 2}
MOST_CHECKS = 2000
"""Checks of one report that become series; of more, the first in the report's order count, and a gauge counts those left out."""
_RUN_STATUSES = ("running", "publishing", "complete", "failed", "killed")


def _seconds(value: Any) -> float | None:
    with suppress(ValueError):
        return datetime.fromisoformat(str(value)).timestamp()
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _gauge(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("tandem_" + name, text, labels=labels)
    for key, value in values.items():
        if value is not None:
            family.add_metric(list(key), value)
    return family


def _counter(name: str, text: str, labels: Sequence[str], values: Mapping[Any, float]) -> CounterMetricFamily:
    family = CounterMetricFamily("tandem_" + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _latest(runs: Iterable[Run], *statuses: str) -> dict[str, Run]:
    """The newest run of each kind that is in one of these states."""
    return {r.kind: r for r in runs if r.status in statuses}


class JobMetrics(Collector):
    """The metrics of a data folder; read anew at each scrape. ``watched`` gives what a running watch knows of each model."""

    def __init__(self, data: Path, watched: Callable[[], Mapping[str, Mapping[str, Any]]] = dict) -> None:
        self.data, self.watched = data, watched
        self.alerts = AlertStore(layout.alerts(data))

    def collect(self) -> Iterator[Any]:
        """One family per metric."""
        runs = list_runs(self.data)
        yield from self._runs(runs)
        yield from self._models(runs)
        yield from self._reports()
        yield from self._watch(runs)

    def _runs(self, runs: Sequence[Run]) -> Iterator[Any]:
        ended, complete = _latest(runs, "complete", "failed", "killed"), _latest(runs, "complete")
        when = {(k,): _seconds(r.head.finished) for k, r in complete.items()}
        yield _gauge("run_last_success_timestamp_seconds", "When the latest complete run of a kind ended.", ["kind"], when)
        took = {(k,): _number(r.head.seconds) for k, r in complete.items()}
        yield _gauge("run_last_success_duration_seconds", "How long the latest complete run of a kind took.", ["kind"], took)
        up = {r.kind for r in runs if r.kind in LASTING and r.status == "running"}
        bad = {(k,): float(r.status != "complete" and k not in up) for k, r in ended.items()}
        yield _gauge("run_last_failed", "1 if the latest run of a kind that ended failed or was killed, and none runs on.", ["kind"], bad)
        counts: dict[tuple[str, ...], float | None] = {}
        for r in runs:
            if r.status in _RUN_STATUSES:
                counts[r.kind, r.status] = (counts.get((r.kind, r.status)) or 0) + 1
        yield _gauge("runs", "Runs in the data folder, by kind and status.", ["kind", "status"], counts)
        batch = complete["batch"].as_(BatchRecord) if "batch" in complete else BatchRecord()
        for name, text, labels, values in (
            ("batch_rows", "Feature rows of the latest complete batch run.", ["group"], batch.rows),
            ("batch_events", "Events read by the latest complete batch run.", ["source"], batch.events),
            ("batch_rejected_events", "Events rejected by it.", ["source", "reason"], batch.rejected),
        ):
            split = {tuple(str(k).split("/", len(labels) - 1)): _number(v) for k, v in values.items()}
            yield _gauge(name, text, labels, {k: v for k, v in split.items() if len(k) == len(labels)})

    def _models(self, runs: Sequence[Run]) -> Iterator[Any]:
        versions: dict[tuple[str, ...], float | None] = {}
        made: dict[tuple[str, ...], float | None] = {}
        scores: dict[tuple[str, ...], float | None] = {}
        by_id = {r.id: r for r in runs}
        for model in models_of(self.data):
            try:
                aliases = current(model_folder(self.data, model))
            except TandemError:
                continue
            for alias, version in (("champion", aliases.champion), ("challenger", aliases.challenger)):
                if version is None:
                    continue
                spec = version_facts(self.data, model, version)
                versions[model, alias], made[model, alias] = float(version), _seconds(spec.get("created"))
                run = by_id.get(str(spec.get("run")))
                for name, value in (run.record.metrics if run else {}).items():
                    split, _, metric = str(name).partition("/")
                    if metric and "/" not in metric:  # scores per slice stay in the report and the trackers
                        scores[model, alias, split, metric] = _number(value)
        yield _gauge("alias_version", "The version that an alias stands for.", ["model", "alias"], versions)
        yield _gauge("alias_created_timestamp_seconds", "When that version was made.", ["model", "alias"], made)
        yield _gauge("alias_score", "Its scores in training, by split.", ["model", "alias", "split", "score"], scores)

    def _reports(self) -> Iterator[Any]:
        at: dict[tuple[str, ...], float | None] = {}
        verdicts: dict[tuple[str, ...], float | None] = {}
        left: dict[tuple[str, ...], float | None] = {}
        each: tuple[dict[tuple[str, ...], float | None], ...] = ({}, {}, {})
        for model in models_of(self.data):
            found = None
            with suppress(DataError):  # of a newer Tandem; the watch says so
                found = latest_report(self.data, model)
            if found is None:
                continue
            path, report = found
            at[model,], verdicts[model,] = path.stat().st_mtime, STATUS.get(report.verdict)
            left[model,] = max(len(report.checks) - MOST_CHECKS, 0)
            for check in report.checks[:MOST_CHECKS]:
                for values, number in zip(each, (check.value, check.threshold, STATUS.get(check.status))):
                    values[model, check.name, check.feature] = number
        labels = ["model", "check", "feature"]
        yield _gauge("monitor_report_timestamp_seconds", "When the monitor's latest report was written.", ["model"], at)
        yield _gauge("monitor_verdict", "Its verdict: 0 ok, 1 warn, 2 fail.", ["model"], verdicts)
        yield _gauge("monitor_check_value", "What a check of it measured.", labels, each[0])
        yield _gauge("monitor_check_threshold", "The threshold of a check.", labels, each[1])
        yield _gauge("monitor_check_status", "What a check found: 0 ok, 1 warn, 2 fail.", labels, each[2])
        yield _gauge("monitor_checks_left_out", f"Checks beyond the first {MOST_CHECKS}, which are not shown here.", ["model"], left)
        unexplained: dict[tuple[str, ...], float | None] = {}
        proven: dict[tuple[str, ...], float | None] = {}
        with suppress(DataError):  # one of a newer Tandem; those before it count no more
            for path, proof in newest_first(layout.verify(self.data), VerifyReport):
                stream = proof.stream.get("name") or ""
                if (stream,) not in unexplained:
                    unexplained[stream,], proven[stream,] = float(proof.unexplained), path.stat().st_mtime
        yield _gauge("verify_unexplained", "Values without a proven cause in the latest proof of a stream.", ["stream"], unexplained)
        yield _gauge("verify_report_timestamp_seconds", "When that proof was written.", ["stream"], proven)

    def _watch(self, runs: Sequence[Run]) -> Iterator[Any]:
        known = self.watched()
        looked = {(m,): _seconds(f.get("looked")) for m, f in known.items()}
        yield _gauge("watch_looked_timestamp_seconds", "When the watch last ran the monitor, well or not.", ["model"], looked)
        holds = {(m, t): float(t in f.get("triggers", {})) for m, f in known.items() for t in ("drift", "decay", "age", "new_data")}
        yield _gauge("watch_trigger", "1 while a trigger of retraining holds.", ["model", "trigger"], holds)
        outcomes: dict[tuple[str, ...], float] = {}
        for run in runs:
            if run.kind == KIND and run.status in ("complete", "failed", "killed"):
                what = str(run.head.outcome or run.status).replace(" ", "_")
                key = (run.head.model or "", what)
                outcomes[key] = outcomes.get(key, 0) + 1
        yield _gauge("watch_retrainings", "Retrainings in the data folder, by how they ended.", ["model", "outcome"], dict(outcomes))
        under_way = sum(r.kind == KIND and r.status == "running" for r in runs)
        yield _gauge("watch_retraining", "Retrainings in progress.", [], {(): float(under_way)})
        firing = self.alerts.firing()
        by = {(s,): float(sum(a["severity"] == s for a in firing)) for s in ("warn", "fail")}
        yield _gauge("alerts_firing", "Alerts that fire now.", ["severity"], by)
        waiting = {(): float(len(self.alerts.waiting()))}
        yield _gauge("alerts_waiting", "Alert messages not yet accepted by the receiver.", [], waiting)
        counts = self.alerts.counts()
        outcomes = {(s,): float(counts.get(s, 0)) for s in ("delivered", "lost")}
        yield _counter("alert_messages", "Messages for the receiver of alerts that were delivered, or given up.", ["outcome"], outcomes)
        yield _counter("alert_delivery_failures", "Attempts to deliver that failed.", [], {(): float(counts["failures"])})


def page(metrics: Collector) -> bytes:
    """All metrics in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry)
