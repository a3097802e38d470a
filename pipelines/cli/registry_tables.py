"""What ``tandem models``, ``evaluate``, ``promote`` and ``compare`` show, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Column, Table

if TYPE_CHECKING:
    from pipelines.monitoring.shadow_log import ShadowComparison
    from pipelines.promotion.champion_challenger import Quality
    from pipelines.promotion.evaluate import Evaluation

__all__ = ["checks_table", "compare_tables", "history_table", "models_table", "scores_table"]


def models_table(one: Mapping[str, Any]) -> Table:
    """The versions of a model, of ``listing``."""
    table = Table(
        Column("version", justify="right"), "alias", Column("AUC", justify="right"), Column("log loss", justify="right"),
        "pushed", "state", Column("run", overflow="fold"),
        title=f"{one['model']}: fingerprints {one['fingerprint'] or 'unknown'} applied", title_justify="left",
    )  # fmt: skip
    for v in one["versions"]:
        scores = v["scores"]
        numbers = ("-" if scores.get(n) is None else f"{scores[n]:.4f}" for n in ("auc", "log_loss"))
        table.add_row(str(v["version"]), ", ".join(v["aliases"]), *numbers, v["created"][:16], v["state"], v["run"])
    if one["problem"]:
        table.caption = one["problem"]
    return table


def history_table(one: Mapping[str, Any]) -> Table:
    """What was done with its aliases."""
    table = Table("when", "what", "champion", "challenger", "by", "why", title="history", title_justify="left")
    for e in one["history"]:
        made = f"pushed by {e['run']}" if e.get("action") == "register" and e.get("run") else ""
        judged = f"thresholds held, {e['evaluation']}" if e.get("evaluation") and not e.get("forced") else ""
        why = "; ".join(
            filter(None, [e.get("reason", ""), made, judged, "forced: " + "; ".join(e.get("missed", [])) if e.get("forced") else ""])
        )
        table.add_row(
            str(e.get("at", ""))[:19], str(e.get("action")), _text(e.get("champion")), _text(e.get("challenger")), e.get("by", ""), why
        )
    return table


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def scores_table(found: Evaluation, slices: bool) -> Table:
    """The scores of each version on the held-out rows; ``slices``: per slice, too."""
    scored = found.scores
    table = Table(title=f"{found.model}: {found.holdout.table.num_rows:,} held-out rows", title_justify="left")
    table.add_column("slice", no_wrap=True)
    table.add_column("rows", justify="right")
    for name in ("AUC", "log loss"):
        for v in scored:
            table.add_column(f"{name}, v{v}", justify="right")
    if not scored:
        return table
    first = next(iter(scored.values()))
    for key in ["", *((k for k in first if k) if slices else ())]:
        parts = [by[key] for by in scored.values()]
        numbers = ["-" if value is None else f"{value:.4f}" for value in (*(p.auc for p in parts), *(p.log_loss for p in parts))]
        table.add_row(key or "all", f"{parts[0].rows:,}", *numbers)
    return table


def checks_table(result: Mapping[str, Any]) -> Table:
    """The checks of a promotion."""
    table = Table(
        title=f"{result['model']}: version {result['version']} against champion {_text(result['champion'])}", title_justify="left"
    )
    for name in ("metric", "slice", "rows", "value", "champion", "limit", ""):
        table.add_column(name, justify="left" if name in ("metric", "slice", "") else "right")
    for c in result["checks"]:
        if c["slice"] and c["ok"] is None:
            continue
        numbers = ("-" if c[n] is None else f"{c[n]:.4f}" for n in ("value", "champion", "limit"))
        table.add_row(c["metric"], c["slice"] or "all", f"{c['rows']:,}", *numbers, {True: "ok", False: "failed", None: ""}[c["ok"]])
    small = sum(c["slice"] != "" and c["ok"] is None for c in result["checks"])
    table.caption = f"{small} checks of slices with too few rows omitted" if small else None
    return table


def compare_tables(result: ShadowComparison) -> list[Table]:
    """How the answers of two versions differ, and which of them was right where there are labels."""
    served, shadow = f"v{result['served']} served", f"v{result['shadow']} shadow"
    title = f"{result['model']}: {served}, {shadow}; {result['requests']:,} requests"
    how = Table(title=title, title_justify="left")
    more = result["differences"]["more_than"]
    names = ("slice", "rows", "mean served", "mean shadow", "mean |diff|", "p99 |diff|", "max |diff|", f"share > {more:g}", "rank corr.")
    for name in names:
        how.add_column(name, justify="left" if name == "slice" else "right")
    for key, d in {"all": result["differences"], **result["slices"]}.items():
        rank = "-" if d["rank_correlation"] is None else f"{d['rank_correlation']:.4f}"
        numbers = (d["mean_served"], d["mean_shadow"], d["mean_absolute"], d["quantiles"]["0.99"], d["max_absolute"])
        how.add_row(key, f"{d['rows']:,}", *(f"{n:.4f}" for n in numbers), f"{d['share_differing']:.1%}", rank)
    if result["right"] is None:
        return [how]
    right = Table(title="against labels", title_justify="left")
    for name in ("slice", "metric", "rows", served, shadow, "difference, 95%", "better"):
        right.add_column(name, justify="left" if name in ("slice", "metric", "better") else "right")
    of_slices: dict[str, Quality] = {"all": result["right"], **result["right"]["slices"]}
    metrics: tuple[Literal["auc", "log_loss", "brier", "calibration_error"], ...] = ("auc", "log_loss", "brier", "calibration_error")
    for key, q in of_slices.items():
        for metric in metrics if key == "all" else metrics[:2]:
            one, other, interval = q["served"][metric], q["shadow"][metric], q["intervals"].get(metric)
            both = ("-" if n is None else f"{n:.4f}" for n in (one, other))
            span = f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "-"
            better = {"shadow": shadow, "served": served, None: "undecided"}[q["better"]] if metric == "log_loss" else ""
            right.add_row(key, metric.replace("_", " "), f"{q['rows']:,}", *both, span, better)
    return [how, right]
