"""The result as a page: the verdict first, what fails, then every feature; see ``reports/templates/monitor.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.lineage.trace_html import tree
from pipelines.monitoring.baseline import PREDICTION
from pipelines.monitoring.checks import Check
from pipelines.monitoring.monitor_report import ColumnShape, MonitorReport, QualityReport, RecomputedAnswers, ReliabilityBin, ViewAges
from pipelines.reports.page import Tile, code_text, moment, render, save, span, table

__all__ = ["render_page", "view", "write_report"]

NONE = "-"
ORDER = {"fail": 0, "warn": 1, "ok": 2, "skipped": 3}
OPEN = 6
"""Features that are open from the beginning, of those that are bad."""
HEATED = 14
"""Features in the table of drift by day."""
BAD = 40
"""Checks that stand at the top."""
MARKS = {"ok": "✓ OK", "warn": "! To look at", "fail": "✗ Something drifted or broke"}
CHECKS = {
    "skew": "Served values against training's, by TFDV: L-infinity (text: the greatest change of a share), Jensen-Shannon (numbers);"
    " 0: identical, 1: nothing in common. Fails above the threshold, which is the setting or a multiple of what windows of that"
    " length within the training set differ among themselves, whichever is greater.",
    "drift": "The same distance between this window and the one before it.",
    "unit": "Values that are much nearer to training's when they are converted from another unit.",
    "nulls": "The share of answers without a value.",
    "unknown": "The share of texts that the training split does not have.",
    "ages": "The share of answers whose stored row was past its TTL or not there.",
    "calibration": "Mean prediction against the rate of positive labels.",
    "auc": "Area under the ROC curve against the training report's.",
    "log_loss": "Log loss against the training report's.",
    "recomputed": "Served values against the same features recomputed from the event log, as of the prediction: real bugs.",
    "ahead": "Predictions from a row whose event timestamp is after the server's time of the request.",
    "stale": "Predictions from a row that had been replaced by a newer one for longer than allowed.",
}


CAUSES = {
    "late data": "The row was right, and events came later that belong to it.",
    "other graph version": "The row was computed by another transform graph than the model was trained on.",
    "stale row": "An older row was served, right in its time; the newer one had not arrived in the online store.",
    "not delivered": "The online store had no row of the key.",
    "expired": "The row in the store was past its TTL, and the newer one had not arrived.",
    "ahead of the clock": "The row's event timestamp is after the server's time of the request.",
    "not in the event log": "The row is younger than everything in the event files.",
    "real bug": "None of these: the row had the events it should have, and other values. This is a defect.",
}


def write_report(report: MonitorReport) -> Path:
    """Write ``report.json`` and ``report.html`` to the report's folder; the path of the page."""
    return save(report, render_page(report), Path(report.folder))


def render_page(report: MonitorReport) -> str:
    """The page."""
    return render("monitor.html", view(report))


def view(report: MonitorReport) -> dict[str, Any]:
    """What the page shows, a name for each of its parts; a part that is empty is left out of the page."""
    checks, quality = report.checks, report.quality
    return {
        "title": f"Tandem: {report.verdict}, {report.model}",
        "model": report.model,
        "version": f" version {report.version}" if report.version is not None else "",
        "span": _window(report) or "no window",
        "css": {"ok": "", "warn": "warn", "fail": "bad"}[report.verdict],
        "mark": MARKS[report.verdict],
        "headline": report.headline,
        "tiles": _tiles(report),
        **_outstanding(checks),
        "notices": report.notices,
        "features": _features(report),
        "days": _days(report),
        "prediction": _prediction(report.features.get(PREDICTION)),
        "quality": _quality(quality) if quality else None,
        "ages": [_ages(name, v) for name, v in report.views.items() if "ages" in v],
        "recomputed": _recomputed(report.recomputed) if report.recomputed else None,
        "lineage": tree(report.lineage) if report.lineage else None,
        "all": _all(checks) if checks else None,
        "provenance": _provenance(report),
        "command": report.command,
    }


def _window(report: MonitorReport) -> str:
    return " to ".join(moment(t) for t in report.window) if report.window else ""


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _before(medians: Mapping[str, float | None]) -> str:
    return "" if medians["before"] is None else f", {_number(medians['before'])} in the window before"


def _tiles(report: MonitorReport) -> list[Tile]:
    counts = {s: sum(c.status == s for c in report.checks) for s in ORDER}
    tiles = [Tile(f"{report.rows:,}", "responses"), Tile(f"{counts['fail']:,}", "checks fail", "bad" if counts["fail"] else "")]
    tiles += [Tile(f"{counts['warn']:,}", "warnings"), Tile(f"{counts['ok']:,}", "checks pass")]
    if report.labels:
        tiles.append(Tile(f"{report.labels['labelled']:,}", "responses with labels"))
    quality = report.quality
    if quality and quality["auc"] is not None:
        tiles.append(Tile(f"{quality['auc']:.3f}", f"AUC ({quality['report']['auc']:.3f} in the training report)"))
    if report.recomputed:
        found = report.recomputed.values()
        equal, answers = sum(r["kinds"].get("equal", 0) for r in found), sum(r["answers"] for r in found)
        tiles.append(Tile(f"{100 * equal / max(answers, 1):.4g} %", "of served rows equal those of the event log"))
    return tiles


def _outstanding(checks: Sequence[Check]) -> dict[str, Any]:
    bad = sorted((c for c in checks if c.status in ("fail", "warn")), key=lambda c: (ORDER[c.status], -(c.value or 0.0)))
    skipped = [c for c in checks if c.status == "skipped"]
    return {
        "bad": [_check(c) for c in bad[:BAD]],
        "more": max(len(bad) - BAD, 0),
        "skipped": [f"{c.name.replace('_', ' ')} {c.feature}".strip() + f": {c.detail}" for c in skipped],
    }


def _check(c: Check) -> dict[str, str]:
    allowed = f" of {_number(c.threshold)} allowed" if c.threshold is not None else ""
    reading = f"{_number(c.value)}{allowed}" if c.value is not None else ""
    return {"css": c.status, "name": c.name.replace("_", " "), "feature": c.feature, "reading": reading, "detail": c.detail}


def _features(report: MonitorReport) -> dict[str, Any] | None:
    """Those that are bad, and the rest, each nearest to its threshold first."""
    features = {n: f for n, f in report.features.items() if n != PREDICTION}
    if not features:
        return None

    def worst(f: ColumnShape) -> tuple[int, float]:
        return min((ORDER[f[k]] for k in ("skew_status", "drift_status") if k in f), default=2), -_of_threshold(f)

    ordered = sorted(features, key=lambda name: worst(features[name]))
    bad = [name for name in ordered if worst(features[name])[0] < ORDER["ok"]]
    quiet = [name for name in ordered if name not in bad]
    return {
        "chance": f"By chance: {report.chance['text']}. " if report.chance else "",
        "bad": [_feature(name, features[name], i < OPEN) for i, name in enumerate(bad)],
        "quiet": [_feature(name, features[name], False) for name in quiet],
        "others": f"{'the other' if bad else 'all'} {len(quiet)} features are within their thresholds",
    }


def _of_threshold(f: ColumnShape) -> float:
    return float(f.get("skew", 0.0) / max(f.get("skew_threshold", 1.0), 1e-9))


def _feature(name: str, f: ColumnShape, opened: bool) -> dict[str, Any]:
    marks = [_mark("skew", f["skew"], f["skew_threshold"], f["skew_status"])] if "skew" in f else []
    marks += [_mark("drift", f["drift"], f["drift_threshold"], f["drift_status"])] if "drift" in f else []
    if f.get("suspect"):
        marks.append(("bad", f["suspect"]))
    lines = [f"nulls: {f['nulls']['trained']:.1%} trained, {f['nulls']['served']:.1%} served"]
    if f["kind"] == "number":
        m = f["median"]
        lines.append(f"median: {_number(m['trained'])} trained, {_number(m['served'])} served{_before(m)}")
        if f["served_range"]:
            lines.append(f"served from {_number(f['served_range'][0])} to {_number(f['served_range'][1])}")
        chart = _distribution(f, "g", ".3g")
    else:
        lines.append(f"{f['distinct']:,} distinct values served; the most frequent are shown")
        chart = {**_shares(f), "labels": f["values"], "ticks": f["values"] if len(f["values"]) <= 12 else []}
    return {"name": name, "open": opened, "marks": marks, "chart": chart, "note": "; ".join(lines)}


def _mark(kind: str, value: float, threshold: float, status: str) -> tuple[str, str]:
    return {"fail": "bad", "warn": "warn"}.get(status, ""), f"{kind} {value:.3f} of {threshold:.3f}"


def _shares(f: ColumnShape) -> dict[str, Any]:
    return {"trained": f["trained"], "served": f["served"]}


def _distribution(f: ColumnShape, label: str, tick: str) -> dict[str, Any]:
    edges = f["edges"]
    labels = [f"{a:{label}} to {b:{label}}" for a, b in pairwise(edges)]
    return {**_shares(f), "labels": labels, "ticks": [f"{edges[i]:{tick}}" for i in (0, len(edges) // 2, -1)]}


def _days(report: MonitorReport) -> dict[str, Any] | None:
    days, features = report.days, report.features
    if not any(d["skew"] for d in days):
        return None
    names = sorted(features, key=lambda n: -_of_threshold(features[n]))[:HEATED]
    return {
        "heads": [d["day"][5:] for d in days],
        "lines": [[(n if n != PREDICTION else "prediction"), *(d["skew"].get(n) for d in days)] for n in names],
        "rows": ", ".join(f"{d['rows']:,}" for d in days),
    }


def _prediction(f: ColumnShape | None) -> dict[str, Any] | None:
    if not f or f["kind"] != "number":
        return None
    m = f["median"]
    note = f"median {_number(m['trained'])} on the training set, {_number(m['served'])} served{_before(m)}"
    return {"chart": _distribution(f, ".3f", ".2f"), "note": note}


def _quality(quality: QualityReport) -> dict[str, Any]:
    report, chance = quality["report"], quality["chance"]
    both = (quality, report)
    numbers: dict[str, list[float | None]] = {
        "AUC": [q["auc"] for q in both], "log loss": [q["log_loss"] for q in both],
        "mean prediction": [q["mean"] for q in both], "rate of positives": [q["rate"] for q in both],
    }  # fmt: skip
    lines: list[list[Any]] = [[w, *(NONE if n is None else f"{n:.4f}" for n in pair)] for w, pair in numbers.items()]
    note = f"By chance ({quality['chance_from']}): gap {chance['gap']:.3f}, AUC {chance['auc']:.3f}"
    return {
        "note": f"{note}, log loss {chance['log_loss']:.3f}.",
        "table": table(["", "this window", "training report"], [*lines, ["labels", quality["rows"], report["rows"]]]),
        "curves": [
            ("training report", "c-flight", _points(quality["report_reliability"])),
            ("this window", "c-equal", _points(quality["reliability"])),
        ],
    }


def _points(bins: Sequence[ReliabilityBin]) -> list[tuple[float, float]]:
    return [(b["mean"], b["rate"]) for b in bins]


def _ages(name: str, v: ViewAges) -> dict[str, Any]:
    n, step = len(v["ages"]), v["age_step_s"]
    statuses = ", ".join(f"{c:,} {s}" for s, c in v["statuses"].items())
    ages = f"half under {span(v['age_s']['p50'])}, 95 % under {span(v['age_s']['p95'])}; " if v["age_s"] else ""
    return {
        "name": name,
        "note": ages + statuses,
        "series": [("within its TTL", "c-equal", [*v["ages"][:-1], 0]), ("past its TTL", "c-bad", [*([0] * (n - 1)), v["ages"][-1]])],
        "labels": [*(f"{span(i * step)} to {span((i + 1) * step)}" for i in range(n - 1)), f"over {span((n - 1) * step)}"],
        "ticks": ["0", span(v["ttl_s"] / 2), f"TTL {span(v['ttl_s'])}"]
        if v["ttl_s"]
        else ["0", span(n * step / 2), f"over {span((n - 1) * step)}"],
    }


def _recomputed(found: Mapping[str, RecomputedAnswers]) -> dict[str, Any]:
    lines, samples, seen = [], [], set()
    for name, r in found.items():
        causes = "; ".join(f"{n:,} {kind}: {cause}" for kind, each in r["causes"].items() for cause, n in each.items()) or NONE
        behind = ", ".join(f"{k} {span(v)}" for k, v in r["behind_s"].items()) or NONE
        lines.append([name, r["answers"], r["kinds"].get("equal", 0), causes, behind])
        seen |= {cause for each in r["causes"].values() for cause in each}
        for s in r["samples"]:
            key = ", ".join(str(v) for v in s["keys"].values())
            values = f"{s['feature']}: {s['served']} | {s['expected']}" if s["feature"] else NONE
            samples.append([name, key, s["as_of"].replace("+00:00", "").replace("T", " ")[:19], s["cause"], values, s["request"][:16]])
    head = ["view", "key", "as of", "cause", "served | recomputed", "request"]
    return {
        "table": table(["feature view", "answers", "equal", "otherwise, by cause", "behind"], lines, (0, 3, 4), ("real bug",)),
        "causes": [(c, t) for c, t in CAUSES.items() if c in seen],
        "samples": table(head, samples[:16], (0, 1, 2, 3, 4, 5), ("real bug",)),
    }


def _all(checks: Sequence[Check]) -> dict[str, Any]:
    order = sorted(checks, key=lambda c: (ORDER[c.status], c.name, c.feature))
    lines = [[c.status, c.name, c.feature or NONE, _number(c.value), _number(c.threshold), c.detail] for c in order]
    names = {c.name.removeprefix("prediction_") for c in checks}
    head = ["status", "check", "of", "value", "threshold", "detail"]
    return {
        "count": len(lines),
        "table": table(head, lines, (0, 1, 2, 5), ("fail",)),
        "meaning": [(n, t) for n, t in CHECKS.items() if n in names],
    }


def _provenance(report: MonitorReport) -> list[tuple[str, str]]:
    labels = report.labels
    pairs = [
        ("model", f"{report.model} version {report.version}"),
        ("training set", report.training_set or NONE),
        ("window", _window(report) or NONE),
        ("before", f"{report.rows_before:,} responses"),
    ]
    if labels:
        counts = ", ".join(f"{labels[k]:,} {k}" for k in ("labelled", "waiting", "ambiguous", "unmatched"))
        pairs.append(("labels", f"{counts}; at most {labels['tolerance_hours']:g} h from the request"))
    if report.run is not None:
        libraries = ", ".join(f"{n} {v}" for n, v in report.libraries.items())
        pairs += [("run", report.run), ("made", moment(report.created)), ("took", f"{report.seconds:g} s")]
        pairs += [("code", code_text(report.code)), ("versions", libraries)]
    return pairs
