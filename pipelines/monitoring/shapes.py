"""What the page shows of each feature and view: histograms, shares, quantiles; and how far each day is from training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.monitoring.log_windows import DAY_US, Window
from pipelines.monitoring.monitor_report import ColumnShape, Day, ViewAges
from pipelines.monitoring.statistics import EDGES, Ranges, distances, is_text, numbers, statistics, thinned

__all__ = ["days", "null_share", "shape", "view_facts"]

STEPS = 20
MOST_VALUES = 12
DAYS = 14
AGE_STEPS = 24
DAY_ROWS = 5_000


def null_share(table: pa.Table, name: str) -> float:
    """The share of rows in which a column has no value."""
    return table.column(name).null_count / table.num_rows if table.num_rows else 0.0


def shape(trained: pa.Table, served: pa.Table, before: pa.Table, name: str, held: tuple[float, float] | None) -> ColumnShape:
    """Of one column: shares of nulls, medians, and per step (or value) how often it is trained, served now and in the window before."""
    out: ColumnShape = {"nulls": {"trained": round(null_share(trained, name), 4), "served": round(null_share(served, name), 4)}}
    if held is None or is_text(trained.schema.field(name).type):
        counts = [_counts(t, name) for t in (trained, served, before)]
        most = sorted(set(counts[0]) | set(counts[1]), key=lambda v: -(counts[0].get(v, 0.0) + counts[1].get(v, 0.0)))[:MOST_VALUES]
        shares = [[round(c.get(v, 0.0), 5) for v in most] for c in counts]
        out |= {"kind": "text", "values": [str(v) for v in most], "distinct": len(counts[1])}
        return {**out, "trained": shares[0], "served": shares[1], "before": shares[2]}
    low, high = _reach(held, numbers(served, name))
    edges = np.linspace(low, high, STEPS + 1)
    medians: dict[str, float | None] = {}
    shares = []
    for word, table in (("trained", trained), ("served", served), ("before", before)):
        values = numbers(table, name)
        counted = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        shares.append([round(float(c), 5) for c in counted / max(len(values), 1)])
        medians[word] = float(f"{np.median(values):.6g}") if len(values) else None
    out |= {"trained": shares[0], "served": shares[1], "before": shares[2]}
    extreme = numbers(served, name)
    reach = [float(f"{extreme.min():.6g}"), float(f"{extreme.max():.6g}")] if len(extreme) else None
    return {**out, "kind": "number", "edges": [float(f"{e:.6g}") for e in edges], "median": medians, "served_range": reach}


def _reach(held: tuple[float, float], served: np.ndarray[Any, Any]) -> tuple[float, float]:
    """The range to show: training's, widened to what was served but for its outermost 0.5 % on either side."""
    low, high = held
    if len(served):
        first, last = np.quantile(served, EDGES)
        low, high = min(low, float(first)), max(high, float(last))
    return (low, high) if high > low else (low, low + 1.0)


def _counts(table: pa.Table, name: str) -> dict[str, float]:
    column = table.column(name).drop_null()
    found = column.cast(pa.string()).combine_chunks().value_counts() if len(column) else []
    return {str(c["values"]): c["counts"].as_py() / len(column) for c in found}


def view_facts(served: pa.Table, view: str, ttl_s: float) -> ViewAges:
    """Of a view's rows as they were served: statuses, and a histogram of ages between 0 and the TTL (the last step: older)."""
    status = served.column(f"{view}__tandem_status").combine_chunks()
    ages = numbers(served, f"{view}__tandem_age")
    width = ttl_s / AGE_STEPS if ttl_s > 0 else max(float(ages.max(initial=1.0)), 1.0) / AGE_STEPS
    place = np.clip((ages / width).astype(np.int64), 0, AGE_STEPS)
    return {
        "ttl_s": ttl_s,
        "statuses": {str(c["values"]): c["counts"].as_py() for c in status.drop_null().value_counts()},
        "age_s": {f"p{q}": round(float(np.percentile(ages, q)), 1) for q in (50, 95, 100)} if len(ages) else {},
        "ages": np.bincount(place, minlength=AGE_STEPS + 1).tolist(),
        "age_step_s": width,
    }


def days(log: pa.Table, window: Window, trained: Any, names: Sequence[str], held: Ranges, least: int) -> list[Day]:
    """The distance from training of each UTC day of the last two weeks up to the window's end that has enough answers."""
    at = log.column("tandem_as_of").cast(pa.int64()).to_numpy()
    day = at // DAY_US
    wanted = day[(at < window.end) & (day > (window.end - 1) // DAY_US - DAYS)]
    out: list[Day] = []
    for number, n in zip(*np.unique(wanted, return_counts=True), strict=True):
        one: Day = {"day": f"{datetime.fromtimestamp(int(number) * 86_400, UTC):%Y-%m-%d}", "rows": int(n), "skew": {}}
        if n >= least:
            table = thinned(log.filter(pc.and_(pa.array(day == number), pa.array(at < window.end))), DAY_ROWS)
            one["skew"] = {k: round(v, 4) for k, v in distances(trained, statistics(table, names, held), names, held).items()}
        out.append(one)
    return out
