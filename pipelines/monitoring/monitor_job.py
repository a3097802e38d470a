"""``tandem monitor``: one window of the request log, judged; the result is one JSON-able value (:func:`run_monitor`)."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import layout, provenance
from pipelines.lake.files import name_below, sha256
from pipelines.lake.row_compare import locate, table_of
from pipelines.lineage import trace
from pipelines.monitoring import evidently_report, judge
from pipelines.monitoring.baseline import PREDICTION, ROWS, Baseline, chance, load_baseline, load_spec
from pipelines.monitoring.checks import Check, skipped, verdict
from pipelines.monitoring.labels import KEYS, answers_of, label_requests, read_labels, request_log
from pipelines.monitoring.recompute import recompute
from pipelines.monitoring.shapes import days, shape, view_facts
from pipelines.monitoring.statistics import distances, ranges, statistics, thinned
from pipelines.monitoring.windows import Window, choose, moments
from pipelines.project import recording
from pipelines.project.repository import Repo
from pipelines.training.definition import Model
from pipelines.training.user_code import model_of
from serving.object_store.cache import given_place
from serving.request_log import read_requests
from transforms.columns import column_us
from transforms.errors import DataError, TandemError
from transforms.instants import instant

__all__ = ["MonitorOptions", "run_monitor"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class MonitorOptions:
    """What to look at. ``since``, ``until``: the window, by ``tandem_as_of``; else ``last`` (default: one day) up to the end of the last
    day with answers. ``label``: join labels first; ``recompute``: compute the served values anew; ``folder``: of the report."""

    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    last: timedelta | None = None
    label: bool = True
    recompute: bool = True
    folder: Path | None = None
    evidently: bool = False
    """Write Evidently's report beside ours."""


def run_monitor(repo: Repo, options: MonitorOptions, now: datetime, say: Say = lambda line: None) -> dict[str, Any]:
    """Judge a window; writes ``report.json`` and ``report.html`` below ``data/monitor/<time>/`` and returns what the former holds.

    A request log that cannot be read is a failed check, an empty one a skipped check: both have a report. Raises ConfigError for wrong
    options, and for a repository without models. Recorded as a run of kind ``monitor``.
    """
    from pipelines.monitoring.monitor_page import write_report

    if options.evidently:
        evidently_report.library()
    model = model_of(repo, options.model)
    folder = options.folder or layout.monitor(repo.data) / f"{model.name}-{now.astimezone(UTC):%Y%m%dT%H%M%S%f}"
    began = time.monotonic()
    with recording.recorded(repo, "monitor", model=model.name) as run:
        compared: list[tuple[Baseline, pa.Table]] = []
        result = _judged(repo, model, options, now, say, compared)
        result |= {
            "run": run.id,
            "created": now.astimezone(UTC).isoformat(timespec="seconds"),
            "folder": str(folder),
            "seconds": round(time.monotonic() - began, 1),
            "command": _again(repo, options, result),
            "code": provenance.code_version(repo.path, repo.settings.definitions),
            "libraries": provenance.library_versions(),
        }
        result["page"] = str(write_report(result, folder))
        counts = {s: sum(c["status"] == s for c in result["checks"]) for s in ("ok", "warn", "fail", "skipped")}
        metrics = {f"{c['name']}/{c['feature']}".rstrip("/"): c["value"] for c in result["checks"] if c["value"] is not None}
        files = [folder / "report.json", folder / "report.html"]
        for base, served in compared if options.evidently else ():
            say("Evidently's report")
            files += evidently_report.write_evidently(base, served, folder)
        outputs = [
            {"name": f.name, "path": name_below(repo.data, f), "bytes": f.stat().st_size, "sha256": sha256(f)} for f in files if f.is_file()
        ]
        run.add(verdict=result["verdict"], counts={"answers": result["rows"], **counts}, metrics=metrics, outputs=outputs)
    return result


def _again(repo: Repo, options: MonitorOptions, result: Mapping[str, Any]) -> str:
    words = ["tandem", "monitor", "--repo", str(repo.path), "--data", given_place(repo.data)]
    words += ["--model", options.model] if options.model else []
    if result["window"]:
        words += ["--since", result["window"][0][:16], "--until", result["window"][1][:16]]
    return shlex.join(words)


def _judged(
    repo: Repo, model: Model, options: MonitorOptions, now: datetime, say: Say, compared: list[tuple[Baseline, pa.Table]]
) -> dict[str, Any]:
    """The result, and into ``compared`` the training set and the answers that were compared, if any were."""
    settings = repo.settings.monitor
    result: dict[str, Any] = {
        "format": layout.REPORT_FORMAT,
        "verdict": "warn", "headline": "", "model": model.name, "version": None, "versions": {}, "training_set": None, "window": None,
        "before": None, "rows": 0, "rows_before": 0, "checks": [], "features": {}, "views": {}, "prediction": None, "labels": None,
        "quality": None, "recomputed": {}, "days": [], "chance": None, "lineage": None, "notices": [],
        "settings": settings.model_dump(mode="json"),
    }  # fmt: skip

    def done(checks: list[Check]) -> dict[str, Any]:
        result["checks"] = [c.to_dict() for c in checks]
        result["verdict"] = verdict(checks)
        result["headline"] = judge.headline(checks, result)
        return result

    try:
        log = answers_of(read_requests(request_log(repo)), model.name)
    except DataError as error:
        return done([Check("request_log", "", None, None, "fail", str(error))])
    at = column_us(log, "tandem_as_of")
    window = choose(at, options.since, options.until, options.last)
    if window is None:
        return done(
            [skipped("request_log", f"no answers of {model.name!r} are in {request_log(repo)}; ask the server, then monitor again")]
        )
    served = log.filter(pa.array(window.mask(at)))
    before = log.filter(pa.array(window.before.mask(at)))
    result |= {"window": window.texts(), "before": window.before.texts(), "rows": served.num_rows, "rows_before": before.num_rows}
    if not served.num_rows:
        return done([skipped("request_log", "no answers in this window; choose another --since and --until")])
    version, result["versions"] = _version(served)
    result["version"] = version
    served, before, whole = (t.filter(pc.equal(t.column("tandem_version"), version)) for t in (served, before, log))
    if len(result["versions"]) > 1:
        others = ", ".join(f"{n:,} of version {v}" for v, n in result["versions"].items() if v != str(version))
        result["notices"].append(f"judged are the {served.num_rows:,} answers of version {version}, the latest; not {others}")
    say(f"{model.name} version {version}: {served.num_rows:,} answers from {window.texts()[0]} to {window.texts()[1]}")
    checks: list[Check] = []
    base: Baseline | None = None
    try:
        spec = load_spec(repo.data, model.name, version)
    except TandemError as error:
        return done([skipped("skew", str(error))])
    try:
        say("loading the training set and the model")
        base = load_baseline(repo.data, spec)
        result["training_set"] = base.id
    except TandemError as error:
        checks.append(skipped("skew", str(error)))
    if base is not None:
        compared.append((base, served))
        if served.num_rows < settings.min_rows:
            checks.append(
                skipped("skew", f"{served.num_rows:,} answers; distances say nothing below monitor.min_rows = {settings.min_rows}")
            )
        elif (spread := moments(column_us(served, "tandem_as_of"))) < settings.min_moments:
            why = f"the answers are of {spread:.1f} different minutes in effect: no sample of a window"
            checks.append(skipped("skew", f"{why} (monitor.min_moments = {settings.min_moments}); look at a longer one with --last"))
        else:
            checks += _distances(repo, model, base, served, before, whole, window, result, say)
        checks += judge.views(repo, base, served, window, result["views"], settings)
    for name in spec.read.names:
        group = repo.groups.get(spec.read.projection(name).view)
        if group is not None and f"{name}__tandem_status" in served.schema.names:
            result["views"].setdefault(name, {}).update(view_facts(served, name, (group.ttl_us or 0) / 1e6))
    checks += _quality(repo, model, base, served, window, options, now, result, say)
    if options.recompute and settings.recompute_answers:
        checks += _recomputed(repo, spec.fingerprints, served, result, say)
    result["lineage"] = _lineage(repo, served, result)
    return done(checks)


def _version(served: pa.Table) -> tuple[int, dict[str, int]]:
    """The version of the latest answer, and answers per version."""
    counts = served.column("tandem_version").combine_chunks().value_counts().to_pylist()
    latest = served.column("tandem_version")[served.num_rows - 1].as_py()
    return int(latest), {str(c["values"]): c["counts"] for c in counts}


def _distances(
    repo: Repo, model: Model, base: Baseline, served: pa.Table, before: pa.Table, whole: pa.Table, window: Window,
    result: dict[str, Any], say: Say,
) -> list[Check]:  # fmt: skip
    """Skew, drift, nulls, unknown values, units; fills ``features``, ``days``, ``chance``."""
    settings = repo.settings.monitor
    names = [n for n, _ in base.spec.inputs if n in served.schema.names and n in base.table.schema.names]
    numeric = pa.types.is_floating(served.schema.field(PREDICTION).type) and PREDICTION in base.table.schema.names
    names += [PREDICTION] if numeric else []
    held = ranges(base.table, names)
    say(f"statistics of {len(names)} columns, by TFDV")
    trained = statistics(thinned(base.table, ROWS), names, held)
    now = statistics(thinned(served, ROWS), names, held)
    skew = distances(trained, now, names, held)
    drift: dict[str, float] | None = None
    if before.num_rows >= settings.min_rows:
        drift = distances(statistics(thinned(before, ROWS), names, held), now, names, held)
    by_chance = chance(base, window, served.num_rows, names, held, layout.monitor(repo.data) / ".chance", say)
    result["chance"] = {"windows": by_chance.windows, "text": by_chance.text}
    say("drift by day")
    result["days"] = days(whole, window, trained, names, held, settings.min_rows)
    result["features"] = {n: shape(base.table, served, before, n, held.get(n)) for n in names}
    return judge.features(repo, model, base, served, window, skew, drift, by_chance, result["features"], settings)


def _quality(
    repo: Repo, model: Model, base: Baseline | None, served: pa.Table, window: Window, options: MonitorOptions, now: datetime,
    result: dict[str, Any], say: Say,
) -> list[Check]:  # fmt: skip
    """Calibration, AUC and log loss of the answers that have labels."""
    settings = repo.settings.monitor
    try:
        if options.label:
            since, until = (instant(t) for t in (window.start, window.end))
            result["labels"] = label_requests(repo, model, now, since=since, until=until, say=say).to_dict()
        labels = table_of(read_labels(repo.data, model.name))
    except TandemError as error:
        return [skipped("labels", str(error))]
    if base is None or PREDICTION not in base.table.schema.names:
        return [skipped("calibration", "there is no training report to compare with")]
    mine = table_of(served.select([*KEYS, PREDICTION]))
    place = locate(mine, labels, KEYS) if labels.num_rows else np.full(mine.num_rows, -1, np.int64)
    has = place >= 0
    if has.sum() < settings.min_labels:
        return [skipped("calibration", f"{int(has.sum()):,} labels; monitor.min_labels = {settings.min_labels} are needed")]
    label = labels.column("label").to_numpy()[place[has]]
    prediction = mine.column(PREDICTION).to_numpy()[has].astype(np.float64)
    return judge.performance(base, window, label, prediction, result, settings)


def _recomputed(repo: Repo, fingerprints: Mapping[str, str], served: pa.Table, result: dict[str, Any], say: Say) -> list[Check]:
    settings = repo.settings.monitor
    some = served.slice(max(served.num_rows - settings.recompute_answers, 0))
    if some.num_rows < served.num_rows:
        result["notices"].append(f"the latest {some.num_rows:,} answers were computed anew (monitor.recompute_answers)")
    try:
        found = recompute(repo, some, fingerprints, say)
    except TandemError as error:
        return [skipped("recomputed", str(error))]
    result["recomputed"] = {n: r.to_dict() for n, r in found.items()}
    return judge.recomputed(found, settings)


def _lineage(repo: Repo, served: pa.Table, result: dict[str, Any]) -> dict[str, Any] | None:
    """Where one prediction came from: one that a real bug concerns if there is one, else the latest."""
    wrong = [s for r in result["recomputed"].values() for s in r["samples"] if s["cause"] == "real bug"]
    request, row = (
        served.column("tandem_request")[served.num_rows - 1].as_py(),
        int(served.column("tandem_row")[served.num_rows - 1].as_py()),
    )
    if wrong:
        request, row = wrong[0]["request"], wrong[0]["row"]
    try:
        traced: dict[str, Any] = trace(repo, request, row=row)
    except (TandemError, OSError, KeyError, ValueError) as error:
        result["notices"].append(f"the lineage of prediction {request} could not be followed: {' '.join(str(error).split())[:200]}")
        return None
    return traced
