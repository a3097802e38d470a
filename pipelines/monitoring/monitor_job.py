"""``tandem monitor``: one window of the request log, judged; the result is its report."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake import layout, provenance
from pipelines.lake.data_files import name_below, sha256
from pipelines.lake.row_compare import locate, table_of
from pipelines.lineage.trace import trace
from pipelines.monitoring import evidently_report, judge
from pipelines.monitoring.baseline import PREDICTION, ROWS, Baseline, chance, load_baseline, load_spec
from pipelines.monitoring.checks import Check, skipped, verdict
from pipelines.monitoring.labels import KEYS, answers_of, label_requests, read_labels, request_log
from pipelines.monitoring.log_windows import Window, choose, moments
from pipelines.monitoring.monitor_report import ByChance, MonitorReport, ViewAges
from pipelines.monitoring.recompute import recompute
from pipelines.monitoring.shapes import days, shape, view_facts
from pipelines.monitoring.statistics import distances, ranges, statistics, thinned
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


def run_monitor(repo: Repo, options: MonitorOptions, now: datetime, say: Say = lambda line: None) -> MonitorReport:
    """Judge a window; writes ``report.json`` and ``report.html`` below ``data/monitor/<time>/``, and returns the report.

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
        judged = _judged(repo, model, options, now, say, compared)
        report = replace(
            judged,
            run=run.id,
            created=now.astimezone(UTC).isoformat(timespec="seconds"),
            written=datetime.now(UTC).isoformat(timespec="milliseconds"),
            folder=str(folder),
            seconds=round(time.monotonic() - began, 1),
            command=_again(repo, options, judged),
            code=provenance.code_version(repo.path, repo.settings.definitions),
            libraries=provenance.library_versions(),
        )
        files = [folder / layout.REPORT_JSON, write_report(report)]
        counts = {s: sum(c.status == s for c in report.checks) for s in ("ok", "warn", "fail", "skipped")}
        metrics = {f"{c.name}/{c.feature}".rstrip("/"): c.value for c in report.checks if c.value is not None}
        for base, served in compared if options.evidently else ():
            say("Evidently's report")
            files += evidently_report.write_evidently(base, served, folder)
        outputs = [
            {"name": f.name, "path": name_below(repo.data, f), "bytes": f.stat().st_size, "sha256": sha256(f)} for f in files if f.is_file()
        ]
        run.add(verdict=report.verdict, counts={"answers": report.rows, **counts}, metrics=metrics, outputs=outputs)
    return report


def _again(repo: Repo, options: MonitorOptions, report: MonitorReport) -> str:
    words = ["tandem", "monitor", "--repo", str(repo.path), "--data", given_place(repo.data)]
    words += ["--model", options.model] if options.model else []
    if report.window:
        words += ["--since", report.window[0][:16], "--until", report.window[1][:16]]
    return shlex.join(words)


def _done(report: MonitorReport, checks: list[Check]) -> MonitorReport:
    headline = judge.headline(checks, report.rows)
    return replace(report, checks=[c.rounded() for c in checks], verdict=verdict(checks), headline=headline)


def _judged(
    repo: Repo, model: Model, options: MonitorOptions, now: datetime, say: Say, compared: list[tuple[Baseline, pa.Table]]
) -> MonitorReport:
    """What was found, and into ``compared`` the training set and the answers that were compared, if any were."""
    settings = repo.settings.monitor
    report = MonitorReport(model=model.name, settings=settings.model_dump(mode="json"))
    try:
        log = answers_of(read_requests(request_log(repo)), model.name)
    except DataError as error:
        return _done(report, [Check("request_log", "", None, None, "fail", str(error))])
    at = column_us(log, "tandem_as_of")
    window = choose(at, options.since, options.until, options.last)
    if window is None:
        why = f"no answers of {model.name!r} are in {request_log(repo)}; send requests to the server first"
        return _done(report, [skipped("request_log", why)])
    served = log.filter(pa.array(window.mask(at)))
    before = log.filter(pa.array(window.before.mask(at)))
    report = replace(report, window=[*window.texts()], before=[*window.before.texts()], rows=served.num_rows, rows_before=before.num_rows)
    if not served.num_rows:
        return _done(report, [skipped("request_log", "no predictions in this window; choose another --since and --until")])
    version, versions = _version(served)
    served, before, whole = (t.filter(pc.equal(t.column("tandem_version"), version)) for t in (served, before, log))
    if len(versions) > 1:
        others = ", ".join(f"{n:,} of version {v}" for v, n in versions.items() if v != str(version))
        report = _noticed(report, f"judged are the {served.num_rows:,} answers of version {version}, the latest; not {others}")
    report = replace(report, version=version, versions=versions)
    say(f"{model.name} version {version}: {served.num_rows:,} answers from {window.texts()[0]} to {window.texts()[1]}")
    checks: list[Check] = []
    base: Baseline | None = None
    views: dict[str, ViewAges] = {}
    try:
        spec = load_spec(repo.data, model.name, version)
    except TandemError as error:
        return _done(report, [skipped("skew", str(error))])
    try:
        say("loading the training set and the model")
        base = load_baseline(repo.data, spec)
        report = replace(report, training_set=base.id)
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
            report, found = _distances(repo, model, base, served, before, whole, window, report, say)
            checks += found
        checks += judge.views(repo, base, served, window, views, settings)
    for name in spec.read.names:
        group = repo.groups.get(spec.read.projection(name).view)
        if group is not None and f"{name}__tandem_status" in served.schema.names:
            views.setdefault(name, {}).update(view_facts(served, name, (group.ttl_us or 0) / 1e6))
    report, found = _quality(repo, model, base, served, window, options, now, replace(report, views=views), say)
    checks += found
    if options.recompute and settings.recompute_answers:
        report, found = _recomputed(repo, spec.fingerprints, served, report, say)
        checks += found
    return _done(_traced(repo, served, report), checks)


def _noticed(report: MonitorReport, line: str) -> MonitorReport:
    return replace(report, notices=[*report.notices, line])


def _version(served: pa.Table) -> tuple[int, dict[str, int]]:
    """The version of the latest answer, and answers per version."""
    counts = served.column("tandem_version").combine_chunks().value_counts().to_pylist()
    latest = served.column("tandem_version")[served.num_rows - 1].as_py()
    return int(latest), {str(c["values"]): c["counts"] for c in counts}


def _distances(
    repo: Repo, model: Model, base: Baseline, served: pa.Table, before: pa.Table, whole: pa.Table, window: Window,
    report: MonitorReport, say: Say,
) -> tuple[MonitorReport, list[Check]]:  # fmt: skip
    """Skew, drift, nulls, unknown values, units; the report with ``features``, ``days`` and ``chance``."""
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
    say("drift by day")
    by_day = days(whole, window, trained, names, held, settings.min_rows)
    features = {n: shape(base.table, served, before, n, held.get(n)) for n in names}
    checks = judge.features(repo, model, base, served, window, skew, drift, by_chance, features, settings)
    of_chance: ByChance = {"windows": by_chance.windows, "text": by_chance.text}
    return replace(report, chance=of_chance, days=by_day, features=features), checks


def _quality(
    repo: Repo, model: Model, base: Baseline | None, served: pa.Table, window: Window, options: MonitorOptions, now: datetime,
    report: MonitorReport, say: Say,
) -> tuple[MonitorReport, list[Check]]:  # fmt: skip
    """Calibration, AUC and log loss of the answers that have labels; the report with ``labels`` and ``quality``."""
    settings = repo.settings.monitor
    try:
        if options.label:
            since, until = (instant(t) for t in (window.start, window.end))
            report = replace(report, labels=label_requests(repo, model, now, since=since, until=until, say=say).to_dict())
        labels = table_of(read_labels(repo.data, model.name))
    except TandemError as error:
        return report, [skipped("labels", str(error))]
    if base is None or PREDICTION not in base.table.schema.names:
        return report, [skipped("calibration", "there is no training report to compare with")]
    mine = table_of(served.select([*KEYS, PREDICTION]))
    place = locate(mine, labels, KEYS) if labels.num_rows else np.full(mine.num_rows, -1, np.int64)
    has = place >= 0
    if has.sum() < settings.min_labels:
        return report, [skipped("calibration", f"{int(has.sum()):,} labels; monitor.min_labels = {settings.min_labels} are needed")]
    label = labels.column("label").to_numpy()[place[has]]
    prediction = mine.column(PREDICTION).to_numpy()[has].astype(np.float64)
    found, checks = judge.performance(base, window, label, prediction, settings)
    return replace(report, quality=found), checks


def _recomputed(
    repo: Repo, fingerprints: Mapping[str, str], served: pa.Table, report: MonitorReport, say: Say
) -> tuple[MonitorReport, list[Check]]:
    """Served values computed anew; the report with ``recomputed``."""
    settings = repo.settings.monitor
    some = served.slice(max(served.num_rows - settings.recompute_answers, 0))
    if some.num_rows < served.num_rows:
        report = _noticed(report, f"the latest {some.num_rows:,} answers were recomputed (monitor.recompute_answers)")
    try:
        found = recompute(repo, some, fingerprints, say)
    except TandemError as error:
        return report, [skipped("recomputed", str(error))]
    return replace(report, recomputed={n: r.to_dict() for n, r in found.items()}), judge.recomputed(found, settings)


def _traced(repo: Repo, served: pa.Table, report: MonitorReport) -> MonitorReport:
    """The report with where one prediction came from: one that a real bug concerns if there is one, else the latest."""
    wrong = [s for r in report.recomputed.values() for s in r["samples"] if s["cause"] == "real bug"]
    request, row = (
        served.column("tandem_request")[served.num_rows - 1].as_py(),
        int(served.column("tandem_row")[served.num_rows - 1].as_py()),
    )
    if wrong:
        request, row = wrong[0]["request"], wrong[0]["row"]
    try:
        return replace(report, lineage=trace(repo, request, row=row))
    except (TandemError, OSError, KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        return _noticed(report, f"the lineage of prediction {request} could not be followed: {why}")
