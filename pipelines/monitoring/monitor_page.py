"""The result as a page: the verdict first, what fails, then every feature; see ``reports/templates/monitor.html``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.lineage.trace_html import tree
from pipelines.monitoring.baseline import PREDICTION
from pipelines.reports.page import Tile, code_text, moment, render, save, table

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
    " 0 is alike, 1 has nothing in common. Fails above the threshold, which is the setting or a multiple of what windows of that"
    " length within the training set differ among themselves, whichever is greater.",
    "drift": "The same distance between this window and the one before it.",
    "unit": "Values that are much nearer to training's when they are converted from another unit.",
    "nulls": "The share of answers without a value.",
    "unknown": "The share of texts that the training split does not have.",
    "ages": "The share of answers whose stored row was past its TTL or not there.",
    "calibration": "Mean prediction against the rate of positive labels.",
    "auc": "Area under the ROC curve against the training report's.",
    "log_loss": "Log loss against the training report's.",
    "recomputed": "Served values against the same features computed anew from the event log, as of the answer: real bugs.",
    "stale": "Answers made of a row that another had replaced for longer than allowed.",
}


CAUSES = {
    "late data": "The row was right, and events came later that belong to it.",
    "other graph version": "The row was made by another transform graph than the model was trained on.",
    "stale row": "An older row was served, right in its time; the newer one had not arrived in the online store.",
    "not delivered": "The online store had no row of the key.",
    "expired": "The row in the store was past its TTL, and the newer one had not arrived.",
    "ahead of the clock": "The row's event timestamp lies after the instant that the server judged by.",
    "not in the event log": "The row is younger than everything in the event files.",
    "real bug": "None of these: the row had the events it should have, and other values. This is a defect.",
}


def write_report(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` to ``folder``; the path of the page."""
    return save(result, render_page(result), folder)


def render_page(result: Mapping[str, Any]) -> str:
    """The page."""
    return render("monitor.html", view(result))


def view(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows, a name for each of its parts; a part that is empty is left out of the page."""
    checks, quality = result["checks"], result["quality"]
    return {
        "title": f"Tandem: {result['verdict']}, {result['model']}",
        "model": result["model"],
        "version": f" version {result['version']}" if result["version"] is not None else "",
        "span": _window(result) or "no window",
        "css": {"ok": "", "warn": "warn", "fail": "bad"}[result["verdict"]],
        "mark": MARKS[result["verdict"]],
        "headline": result["headline"],
        "tiles": _tiles(result),
        **_outstanding(checks),
        "notices": result["notices"],
        "features": _features(result),
        "days": _days(result),
        "prediction": _prediction(result["features"].get(PREDICTION)),
        "quality": _quality(quality) if quality else None,
        "ages": [_ages(name, v) for name, v in result["views"].items() if "ages" in v],
        "recomputed": _recomputed(result["recomputed"]) if result["recomputed"] else None,
        "lineage": tree(result["lineage"]) if result["lineage"] else None,
        "all": _all(checks) if checks else None,
        "provenance": _provenance(result),
        "command": result.get("command"),
    }


def _window(result: Mapping[str, Any]) -> str:
    return " to ".join(moment(t) for t in result["window"]) if result["window"] else ""


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _before(medians: Mapping[str, float | None]) -> str:
    return "" if medians["before"] is None else f", {_number(medians['before'])} in the window before"


def _tiles(result: Mapping[str, Any]) -> list[Tile]:
    counts = {s: sum(c["status"] == s for c in result["checks"]) for s in ORDER}
    tiles = [Tile(f"{result['rows']:,}", "answers"), Tile(f"{counts['fail']:,}", "checks fail", "bad" if counts["fail"] else "")]
    tiles += [Tile(f"{counts['warn']:,}", "to look at"), Tile(f"{counts['ok']:,}", "checks pass")]
    if result["labels"]:
        tiles.append(Tile(f"{result['labels']['labelled']:,}", "answers with labels"))
    quality = result["quality"]
    if quality and quality["auc"] is not None:
        tiles.append(Tile(f"{quality['auc']:.3f}", f"AUC ({quality['report']['auc']:.3f} in the training report)"))
    if result["recomputed"]:
        found = result["recomputed"].values()
        equal, answers = sum(r["kinds"].get("equal", 0) for r in found), sum(r["answers"] for r in found)
        tiles.append(Tile(f"{100 * equal / max(answers, 1):.4g} %", "of rows served are what the event log gives"))
    return tiles


def _outstanding(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    bad = sorted((c for c in checks if c["status"] in ("fail", "warn")), key=lambda c: (ORDER[c["status"]], -(c["value"] or 0.0)))
    skipped = [c for c in checks if c["status"] == "skipped"]
    return {
        "bad": [_check(c) for c in bad[:BAD]],
        "more": max(len(bad) - BAD, 0),
        "skipped": [f"{c['name'].replace('_', ' ')} {c['feature']}".strip() + f": {c['detail']}" for c in skipped],
    }


def _check(c: Mapping[str, Any]) -> dict[str, str]:
    allowed = f" of {_number(c['threshold'])} allowed" if c["threshold"] is not None else ""
    reading = f"{_number(c['value'])}{allowed}" if c["value"] is not None else ""
    return {"css": c["status"], "name": c["name"].replace("_", " "), "feature": c["feature"], "reading": reading, "detail": c["detail"]}


def _features(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Those that are bad, and the rest, each nearest to its threshold first."""
    features: Mapping[str, Any] = {n: f for n, f in result["features"].items() if n != PREDICTION}
    if not features:
        return None

    def worst(f: Mapping[str, Any]) -> tuple[int, float]:
        return min((ORDER[f[k]] for k in ("skew_status", "drift_status") if k in f), default=2), -_of_threshold(f)

    ordered = sorted(features, key=lambda name: worst(features[name]))
    bad = [name for name in ordered if worst(features[name])[0] < ORDER["ok"]]
    quiet = [name for name in ordered if name not in bad]
    return {
        "chance": f"By chance: {result['chance']['text']}. " if result["chance"] else "",
        "bad": [_feature(name, features[name], i < OPEN) for i, name in enumerate(bad)],
        "quiet": [_feature(name, features[name], False) for name in quiet],
        "others": f"{'the other' if bad else 'all'} {len(quiet)} features are within their thresholds",
    }


def _of_threshold(f: Mapping[str, Any]) -> float:
    return float(f.get("skew", 0.0) / max(f.get("skew_threshold", 1.0), 1e-9))


def _feature(name: str, f: Mapping[str, Any], opened: bool) -> dict[str, Any]:
    marks = [
        ({"fail": "bad", "warn": "warn"}.get(f[f"{kind}_status"], ""), f"{kind} {f[kind]:.3f} of {f[f'{kind}_threshold']:.3f}")
        for kind in ("skew", "drift")
        if kind in f
    ]
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
        lines.append(f"{f['distinct']:,} different values served; the most frequent ones are shown")
        chart = {**_shares(f), "labels": f["values"], "ticks": f["values"] if len(f["values"]) <= 12 else []}
    return {"name": name, "open": opened, "marks": marks, "chart": chart, "note": "; ".join(lines)}


def _shares(f: Mapping[str, Any]) -> dict[str, Any]:
    return {"trained": f["trained"], "served": f["served"]}


def _distribution(f: Mapping[str, Any], label: str, tick: str) -> dict[str, Any]:
    edges = f["edges"]
    labels = [f"{a:{label}} to {b:{label}}" for a, b in pairwise(edges)]
    return {**_shares(f), "labels": labels, "ticks": [f"{edges[i]:{tick}}" for i in (0, len(edges) // 2, -1)]}


def _days(result: Mapping[str, Any]) -> dict[str, Any] | None:
    days, features = result["days"], result["features"]
    if not any(d["skew"] for d in days):
        return None
    names = sorted(features, key=lambda n: -_of_threshold(features[n]))[:HEATED]
    return {
        "heads": [d["day"][5:] for d in days],
        "lines": [[(n if n != PREDICTION else "prediction"), *(d["skew"].get(n) for d in days)] for n in names],
        "rows": ", ".join(f"{d['rows']:,}" for d in days),
    }


def _prediction(f: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not f or f["kind"] != "number":
        return None
    m = f["median"]
    note = f"median {_number(m['trained'])} on the training set, {_number(m['served'])} served{_before(m)}"
    return {"chart": _distribution(f, ".3f", ".2f"), "note": note}


def _quality(quality: Mapping[str, Any]) -> dict[str, Any]:
    report, chance = quality["report"], quality["chance"]
    words = {"auc": "AUC", "log_loss": "log loss", "mean": "mean prediction", "rate": "rate of positives"}
    lines = [[w, *(NONE if q[k] is None else f"{q[k]:.4f}" for q in (quality, report))] for k, w in words.items()]
    note = f"By chance ({quality['chance_from']}): gap {chance['gap']:.3f}, AUC {chance['auc']:.3f}"
    return {
        "note": f"{note}, log loss {chance['log_loss']:.3f}.",
        "table": table(["", "this window", "training report"], [*lines, ["labels", quality["rows"], report["rows"]]]),
        "curves": [
            ("training report", "c-flight", _points(quality["report_reliability"])),
            ("this window", "c-equal", _points(quality["reliability"])),
        ],
    }


def _points(bins: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(b["mean"], b["rate"]) for b in bins]


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _ages(name: str, v: Mapping[str, Any]) -> dict[str, Any]:
    n, step = len(v["ages"]), v["age_step_s"]
    statuses = ", ".join(f"{c:,} {s}" for s, c in v["statuses"].items())
    ages = f"half under {_span(v['age_s']['p50'])}, 95 % under {_span(v['age_s']['p95'])}; " if v["age_s"] else ""
    return {
        "name": name,
        "note": ages + statuses,
        "series": [("within its TTL", "c-equal", [*v["ages"][:-1], 0]), ("past its TTL", "c-bad", [*([0] * (n - 1)), v["ages"][-1]])],
        "labels": [*(f"{_span(i * step)} to {_span((i + 1) * step)}" for i in range(n - 1)), f"over {_span((n - 1) * step)}"],
        "ticks": ["0", _span(v["ttl_s"] / 2), f"TTL {_span(v['ttl_s'])}"] if v["ttl_s"] else [],
    }


def _recomputed(found: Mapping[str, Any]) -> dict[str, Any]:
    lines, samples, seen = [], [], set()
    for name, r in found.items():
        causes = "; ".join(f"{n:,} {kind}: {cause}" for kind, each in r["causes"].items() for cause, n in each.items()) or NONE
        behind = ", ".join(f"{k} {_span(v)}" for k, v in r["behind_s"].items()) or NONE
        lines.append([name, r["answers"], r["kinds"].get("equal", 0), causes, behind])
        seen |= {cause for each in r["causes"].values() for cause in each}
        for s in r["samples"]:
            key = ", ".join(str(v) for v in s["keys"].values())
            values = f"{s['feature']}: {s['served']} | {s['expected']}" if s["feature"] else NONE
            samples.append([name, key, s["as_of"].replace("+00:00", "").replace("T", " ")[:19], s["cause"], values, s["request"][:16]])
    head = ["view", "key", "as of", "cause", "served | computed anew", "request"]
    return {
        "table": table(["feature view", "answers", "equal", "otherwise, by cause", "behind"], lines, (0, 3, 4), ("real bug",)),
        "causes": [(c, t) for c, t in CAUSES.items() if c in seen],
        "samples": table(head, samples[:16], (0, 1, 2, 3, 4, 5), ("real bug",)),
    }


def _all(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    order = sorted(checks, key=lambda c: (ORDER[c["status"]], c["name"], c["feature"]))
    lines = [[c["status"], c["name"], c["feature"] or NONE, _number(c["value"]), _number(c["threshold"]), c["detail"]] for c in order]
    names = {c["name"].removeprefix("prediction_") for c in checks}
    head = ["status", "check", "of", "value", "threshold", "detail"]
    return {
        "count": len(lines),
        "table": table(head, lines, (0, 1, 2, 5), ("fail",)),
        "meaning": [(n, t) for n, t in CHECKS.items() if n in names],
    }


def _provenance(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    labels = result["labels"]
    pairs = [
        ("model", f"{result['model']} version {result['version']}"),
        ("training set", result["training_set"] or NONE),
        ("window", _window(result) or NONE),
        ("before", f"{result['rows_before']:,} answers"),
    ]
    if labels:
        counts = ", ".join(f"{labels[k]:,} {k}" for k in ("labelled", "waiting", "ambiguous", "unmatched"))
        pairs.append(("labels", f"{counts}; at most {labels['tolerance_hours']:g} h from the request"))
    if "run" in result:
        libraries = ", ".join(f"{n} {v}" for n, v in result["libraries"].items())
        pairs += [("run", result["run"]), ("made", moment(result["created"])), ("took", f"{result['seconds']:g} s")]
        pairs += [("code", code_text(result["code"])), ("versions", libraries)]
    return pairs
