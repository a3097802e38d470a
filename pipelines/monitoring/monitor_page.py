"""The result as one HTML file: the verdict first, what fails, then every feature; no scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.monitoring.baseline import PREDICTION
from pipelines.reports import charts
from pipelines.reports.page import bullets, code_text, document, facts, moment, save, section, table, tiles

__all__ = ["render_page", "write_report"]

NONE = "-"
ORDER = {"fail": 0, "warn": 1, "ok": 2, "skipped": 3}
OPEN = 6
HEATED = 14
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


def write_report(result: Mapping[str, Any], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` to ``folder``; the path of the page."""
    return save(result, render_page(result), folder)


def render_page(result: Mapping[str, Any]) -> str:
    """The page."""
    css = {"ok": "", "warn": " warn", "fail": " bad"}[result["verdict"]]
    version = f" version {result['version']}" if result["version"] is not None else ""
    span = " to ".join(moment(t) for t in result["window"]) if result["window"] else "no window"
    parts = [
        f"<h1>Tandem · monitor of <b>{escape(result['model'])}</b>{version} · {span}</h1>",
        f'<div class="verdict{css}"><strong>{MARKS[result["verdict"]]}</strong><p>{escape(result["headline"])}.</p></div>',
        _tiles(result),
        _checks(result["checks"]),
        section("To know", bullets(result["notices"])),
        _features(result),
        _days(result),
        _prediction(result),
        _quality(result["quality"]),
        _ages(result["views"]),
        _recomputed(result["recomputed"]),
        _lineage(result["lineage"]),
        _all(result["checks"]),
        _provenance(result),
    ]
    return document(f"Tandem: {result['verdict']}, {result['model']}", "".join(parts))


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _before(medians: Mapping[str, float | None]) -> str:
    return "" if medians["before"] is None else f", {_number(medians['before'])} in the window before"


def _tiles(result: Mapping[str, Any]) -> str:
    counts = {s: sum(c["status"] == s for c in result["checks"]) for s in ORDER}
    items = [(f"{result['rows']:,}", "answers", ""), (f"{counts['fail']:,}", "checks fail", "bad" if counts["fail"] else "")]
    items += [(f"{counts['warn']:,}", "to look at", ""), (f"{counts['ok']:,}", "checks pass", "")]
    if result["labels"]:
        items.append((f"{result['labels']['labelled']:,}", "answers with labels", ""))
    quality = result["quality"]
    if quality and quality["auc"] is not None:
        items.append((f"{quality['auc']:.3f}", f"AUC ({quality['report']['auc']:.3f} in the training report)", ""))
    if result["recomputed"]:
        equal, all_ = (
            sum(n) for n in zip(*((r["kinds"].get("equal", 0), r["answers"]) for r in result["recomputed"].values()), strict=True)
        )
        items.append((f"{100 * equal / max(all_, 1):.4g} %", "of rows served are what the event log gives", ""))
    return tiles(items)


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    bad = sorted((c for c in checks if c["status"] in ("fail", "warn")), key=lambda c: (ORDER[c["status"]], -(c["value"] or 0.0)))
    drawn = "".join(_check(c) for c in bad[:40])
    more = f'<p class="note">and {len(bad) - 40} more below, under all checks</p>' if len(bad) > 40 else ""
    left = [f"{c['name'].replace('_', ' ')} {c['feature']}".strip() + f": {c['detail']}" for c in checks if c["status"] == "skipped"]
    return section("What stands out", f'<ul class="checks">{drawn}</ul>{more}' if drawn else "") + section("Not judged", bullets(left))


def _check(c: Mapping[str, Any]) -> str:
    allowed = f" of {_number(c['threshold'])} allowed" if c["threshold"] is not None else ""
    reading = f'<span class="reading">{_number(c["value"])}{allowed}</span>' if c["value"] is not None else ""
    name = escape(c["name"].replace("_", " "))
    return f'<li class="{c["status"]}"><b>{name}</b> {escape(c["feature"])}{reading}<p>{escape(c["detail"])}</p></li>'


def _features(result: Mapping[str, Any]) -> str:
    features: Mapping[str, Any] = {n: f for n, f in result["features"].items() if n != PREDICTION}
    if not features:
        return ""

    def worst(f: Mapping[str, Any]) -> tuple[int, float]:
        status = min((ORDER[f[k]] for k in ("skew_status", "drift_status") if k in f), default=2)
        return status, -f.get("skew", 0.0) / max(f.get("skew_threshold", 1.0), 1e-9)

    parts: list[str] = []
    quiet: list[str] = []
    opened = 0
    for name, f in sorted(features.items(), key=lambda item: worst(item[1])):
        bad = worst(f)[0] < ORDER["ok"]
        opened += bad
        (parts if bad else quiet).append(_feature(name, f, bad and opened <= OPEN))
    if quiet:
        others = f"{'all' if not parts else 'the other'} {len(quiet)} features are within their thresholds"
        parts.append(f"<details><summary><b>{others}</b></summary>{''.join(quiet)}</details>")
    text = f"By chance: {result['chance']['text']}. " if result["chance"] else ""
    legend = charts.legend([("trained on", "c-flight", [1]), ("served", "c-equal", [1])])
    note = f"{escape(text)}Nearest to their thresholds first. Open a feature for its distribution."
    return section("Features, trained on and served", legend + "".join(parts), note)


def _feature(name: str, f: Mapping[str, Any], opened: bool) -> str:
    told = []
    for kind in ("skew", "drift"):
        if kind in f:
            mark = {"fail": "bad", "warn": "warn"}.get(f[f"{kind}_status"], "")
            told.append(f'<span class="{mark}">{kind} {f[kind]:.3f} of {f[f"{kind}_threshold"]:.3f}</span>')
    if f.get("suspect"):
        told.append(f'<span class="bad">{escape(f["suspect"])}</span>')
    lines = [f"nulls: {f['nulls']['trained']:.1%} trained, {f['nulls']['served']:.1%} served"]
    if f["kind"] == "number":
        m = f["median"]
        lines.append(f"median: {_number(m['trained'])} trained, {_number(m['served'])} served{_before(m)}")
        if f["served_range"]:
            lines.append(f"served from {_number(f['served_range'][0])} to {_number(f['served_range'][1])}")
        edges = f["edges"]
        labels = [f"{a:g} to {b:g}" for a, b in pairwise(edges)]
        chart = charts.pairs(f["trained"], f["served"], labels, [f"{edges[i]:.3g}" for i in (0, len(edges) // 2, -1)])
    else:
        lines.append(f"{f['distinct']:,} different values served; the most frequent ones are shown")
        chart = charts.pairs(f["trained"], f["served"], f["values"], f["values"] if len(f["values"]) <= 12 else [])
    body = f'{chart}<p class="note">{escape("; ".join(lines))}</p>'
    return f"<details{' open' if opened else ''}><summary><b>{escape(name)}</b>{''.join(told)}</summary>{body}</details>"


def _days(result: Mapping[str, Any]) -> str:
    days = result["days"]
    judged = [d for d in days if d["skew"]]
    if not judged:
        return ""
    features = result["features"]
    names = sorted(features, key=lambda n: -features[n].get("skew", 0.0) / max(features[n].get("skew_threshold", 1.0), 1e-9))[:HEATED]
    lines = [[(n if n != PREDICTION else "prediction"), *(d["skew"].get(n) for d in days)] for n in names]
    heads = [d["day"][5:] for d in days]
    note = "Each day's distance from training (0 to 1), of the features nearest to their thresholds. Days differ more than weeks."
    rows = ", ".join(f"{d['rows']:,}" for d in days)
    return section("Drift by day", f'{charts.heat(heads, lines)}<p class="note">answers: {rows}</p>', note)


def _prediction(result: Mapping[str, Any]) -> str:
    f = result["features"].get(PREDICTION)
    if not f or f["kind"] != "number":
        return ""
    edges = f["edges"]
    labels = [f"{a:.3f} to {b:.3f}" for a, b in pairwise(edges)]
    chart = charts.pairs(f["trained"], f["served"], labels, [f"{edges[i]:.2f}" for i in (0, len(edges) // 2, -1)], 150)
    legend = charts.legend([("on the training set", "c-flight", [1]), ("served", "c-equal", [1])])
    m = f["median"]
    told = f"median {_number(m['trained'])} on the training set, {_number(m['served'])} served{_before(m)}"
    return section("Predictions", legend + chart + f'<p class="note">{escape(told)}</p>')


def _quality(quality: Mapping[str, Any] | None) -> str:
    if not quality:
        return ""
    report = quality["report"]
    words = {"auc": "AUC", "log_loss": "log loss", "mean": "mean prediction", "rate": "rate of positives"}
    lines = [[w, *(NONE if q[k] is None else f"{q[k]:.4f}" for q in (quality, report))] for k, w in words.items()]
    numbers = table(["", "this window", "training report"], [*lines, ["labels", quality["rows"], report["rows"]]])
    curves = [
        ("training report", "c-flight", _points(quality["report_reliability"])),
        ("this window", "c-equal", _points(quality["reliability"])),
    ]
    legend = charts.legend([(n, css, [1]) for n, css, _ in curves])
    note = f"By chance ({escape(quality['chance_from'])}): gap {quality['chance']['gap']:.3f}, AUC {quality['chance']['auc']:.3f}"
    body = f'<div class="two"><div>{numbers}</div><div>{legend}{charts.curve(curves, "mean prediction", "rate of positives")}</div></div>'
    return section("Was it right", body, note + f", log loss {quality['chance']['log_loss']:.3f}.")


def _points(bins: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(b["mean"], b["rate"]) for b in bins]


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _ages(views: Mapping[str, Any]) -> str:
    parts = []
    for name, v in views.items():
        if "ages" not in v:
            continue
        n = len(v["ages"])
        bars = [("within its TTL", "c-equal", [*v["ages"][:-1], 0]), ("past its TTL", "c-bad", [*([0] * (n - 1)), v["ages"][-1]])]
        step = v["age_step_s"]
        labels = [f"{_span(i * step)} to {_span((i + 1) * step)}" for i in range(n - 1)] + [f"over {_span((n - 1) * step)}"]
        told = ", ".join(f"{c:,} {s}" for s, c in v["statuses"].items())
        ages = f"half under {_span(v['age_s']['p50'])}, 95 % under {_span(v['age_s']['p95'])}; " if v["age_s"] else ""
        ticks = ["0", _span(v["ttl_s"] / 2), f"TTL {_span(v['ttl_s'])}"] if v["ttl_s"] else []
        chart = charts.columns(bars, labels, ticks, 80)
        parts.append(f'<div><h3>{escape(name)}</h3><p class="note">{escape(ages + told)}</p>{chart}</div>')
    return section("Ages of served rows, against their TTL", f'<div class="two">{"".join(parts)}</div>' if parts else "")


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


def _recomputed(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    lines, samples, seen = [], [], set()
    for name, r in found.items():
        told = "; ".join(f"{n:,} {kind}: {cause}" for kind, causes in r["causes"].items() for cause, n in causes.items()) or NONE
        behind = ", ".join(f"{k} {_span(v)}" for k, v in r["behind_s"].items()) or NONE
        lines.append([name, r["answers"], r["kinds"].get("equal", 0), told, behind])
        seen |= {cause for causes in r["causes"].values() for cause in causes}
        for s in r["samples"]:
            key = ", ".join(str(v) for v in s["keys"].values())
            values = f"{s['feature']}: {s['served']} | {s['expected']}" if s["feature"] else NONE
            samples.append([name, key, s["as_of"].replace("+00:00", "").replace("T", " ")[:19], s["cause"], values, s["request"][:16]])
    body = table(["feature view", "answers", "equal", "otherwise, by cause", "behind"], lines, (0, 3, 4), ("real bug",))
    meant = facts([(c, t) for c, t in CAUSES.items() if c in seen])
    head = ["view", "key", "as of", "cause", "served | computed anew", "request"]
    some = f"<h3>examples</h3>{table(head, samples[:16], (0, 1, 2, 3, 4, 5), ('real bug',))}" if samples else ""
    note = "Each answer's rows, computed anew from the event files as of the answer. Behind: how long the newer row had been due."
    return section("Served against computed anew", body + meant + some, note)


def _lineage(traced: Mapping[str, Any] | None) -> str:
    if not traced:
        return ""
    try:
        from pipelines.lineage.trace_html import section as lineage_section

        return section("Where a prediction came from", str(lineage_section(traced)))
    except (ImportError, KeyError, TypeError):
        return section("Where a prediction came from", f"<pre>{escape(str(traced))[:4000]}</pre>")


def _all(checks: Sequence[Mapping[str, Any]]) -> str:
    order = sorted(checks, key=lambda c: (ORDER[c["status"]], c["name"], c["feature"]))
    lines = [[c["status"], c["name"], c["feature"] or NONE, _number(c["value"]), _number(c["threshold"]), c["detail"]] for c in order]
    if not lines:
        return ""
    body = table(["status", "check", "of", "value", "threshold", "detail"], lines, (0, 1, 2, 5), ("fail",))
    names = {c["name"].removeprefix("prediction_") for c in checks}
    meant = facts([(n, t) for n, t in CHECKS.items() if n in names])
    return section("All checks", f"<details><summary><b>{len(lines)} checks</b></summary>{body}</details>{meant}")


def _provenance(result: Mapping[str, Any]) -> str:
    labels = result["labels"]
    pairs = [
        ("model", f"{result['model']} version {result['version']}"),
        ("training set", result["training_set"] or NONE),
        ("window", " to ".join(moment(t) for t in result["window"]) if result["window"] else NONE),
        ("before", f"{result['rows_before']:,} answers"),
    ]
    if labels:
        kinds = ("labelled", "waiting", "ambiguous", "unmatched")
        pairs.append(
            ("labels", ", ".join(f"{labels[k]:,} {k}" for k in kinds) + f"; at most {labels['tolerance_hours']:g} h from the request")
        )
    if "run" in result:
        libraries = ", ".join(f"{n} {v}" for n, v in result["libraries"].items())
        pairs += [("run", result["run"]), ("made", moment(result["created"])), ("took", f"{result['seconds']:g} s")]
        pairs += [("code", code_text(result["code"])), ("versions", libraries)]
    again = f"<p class=note>Do it again:</p><pre>{escape(result['command'])}</pre>" if "command" in result else ""
    return section("Where this comes from", facts(pairs) + again)
