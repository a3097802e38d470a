"""Champion and challenger on the same requests: how their answers differ, and which was right once labels are in. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.row_compare import locate, table_of
from pipelines.training.training_report import auc, log_loss

__all__ = ["bootstrap", "differences", "join_labels", "quality", "ranks_agree", "slices_of", "summary"]

Floats = npt.NDArray[np.float64]
QUANTILES = (0.5, 0.9, 0.99)
BINS = 10
RESAMPLES = 1000
_AT_ONCE = 20_000_000
"""Rows times resamples: what the bootstrap draws at most (some seconds); with more rows it draws less often."""


class Differences(TypedDict):
    """How two predictors' numbers differ over ``rows``; ``quantiles``: of the absolute differences, by quantile."""

    rows: int
    mean_served: float
    mean_shadow: float
    mean_difference: float
    mean_absolute: float
    max_absolute: float
    quantiles: dict[str, float]
    more_than: float
    share_differing: float
    rank_correlation: float | None


class CalibrationBin(TypedDict):
    """Rows of like predictions: the mean of these, and of the labels."""

    rows: int
    predicted: float
    observed: float


class PredictorQuality(TypedDict):
    """How right one predictor was. ``calibration``: mean prediction over mean label; None without positives."""

    auc: float | None
    log_loss: float
    brier: float
    calibration: float | None
    calibration_error: float
    bins: list[CalibrationBin]


class Quality(TypedDict):
    """Which of two predictors was right, on the same ``rows``: :func:`quality`. ``intervals``: metric -> [low, high], or empty."""

    rows: int
    positives: int
    served: PredictorQuality
    shadow: PredictorQuality
    intervals: dict[str, list[float]]
    closer_share_shadow: float
    better: str | None


def differences(served: Floats, shadow: Floats, more_than: float) -> Differences:
    """How two predictors' numbers for the same N rows differ: by how much, how often by more than ``more_than``, and whether they order the
    rows alike (Spearman; None where one of them says the same of all)."""
    gap = np.abs(served - shadow)
    return {
        "rows": len(served),
        "mean_served": float(served.mean()),
        "mean_shadow": float(shadow.mean()),
        "mean_difference": float((shadow - served).mean()),
        "mean_absolute": float(gap.mean()),
        "max_absolute": float(gap.max()),
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(gap, QUANTILES), strict=True)},
        "more_than": more_than,
        "share_differing": float((gap > more_than).mean()),
        "rank_correlation": ranks_agree(served, shadow),
    }


def ranks_agree(one: Floats, other: Floats) -> float | None:
    """Spearman's rank correlation, ties sharing their mean rank; None if one side is constant."""
    if len(one) < 2 or one.min() == one.max() or other.min() == other.max():
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(one, other).statistic)


def slices_of(table: pa.Table, columns: Sequence[str], least: int = 1) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of the rows of each value of each column, ``"origin=JFK"``; only those with ``least`` rows."""
    out = {}
    for name in columns:
        if name not in table.column_names:
            continue
        column = table.column(name)
        for value in sorted((v for v in pc.unique(column).to_pylist() if v is not None), key=str):
            mask = pc.fill_null(pc.equal(column, pa.scalar(value, column.type)), False).to_numpy()
            if mask.sum() >= least:
                out[f"{name}={value}"] = mask
    return out


def quality(label: Floats, served: Floats, shadow: Floats, seed: int = 7) -> Quality:
    """Which of two predictors was right: AUC, log loss, Brier score and calibration of each on the same N rows, and of the differences
    (shadow minus served) the paired bootstrap's 95% interval. ``better`` is the side for which the interval of the log loss leaves no
    doubt, else None."""
    intervals = bootstrap(label, served, shadow, seed)
    low, high = intervals["log_loss"]
    return {
        "rows": len(label),
        "positives": int(label.sum()),
        "served": _quality(label, served),
        "shadow": _quality(label, shadow),
        "intervals": intervals,
        "closer_share_shadow": float((np.abs(shadow - label) < np.abs(served - label)).mean()),
        "better": "shadow" if high < 0 else "served" if low > 0 else None,
    }


def _quality(label: Floats, p: Floats) -> PredictorQuality:
    """With the expected calibration error over ten bins of equal size."""
    parts = [i for i in np.array_split(np.argsort(p, kind="stable"), BINS) if len(i)]
    bins: list[CalibrationBin] = [{"rows": len(i), "predicted": float(p[i].mean()), "observed": float(label[i].mean())} for i in parts]
    return {
        "auc": auc(label, p),
        "log_loss": log_loss(label, p),
        "brier": float(np.mean((p - label) ** 2)),
        "calibration": float(p.mean() / label.mean()) if label.any() else None,
        "calibration_error": float(sum(b["rows"] * abs(b["predicted"] - b["observed"]) for b in bins) / len(p)),
        "bins": bins,
    }


def bootstrap(label: Floats, served: Floats, shadow: Floats, seed: int = 7, resamples: int = RESAMPLES) -> dict[str, list[float]]:
    """95% intervals (percentile) of shadow minus served, for AUC, log loss and Brier: the same rows are drawn for both, so that what is
    easy or hard for both cancels out."""
    n = len(label)
    rng = np.random.default_rng(seed)
    times = int(max(200, min(resamples, _AT_ONCE // max(1, n))))
    clipped = [np.clip(p, 1e-7, 1 - 1e-7) for p in (served, shadow)]
    losses = [-np.where(label > 0.5, np.log(p), np.log1p(-p)) for p in clipped]
    squares = [(p - label) ** 2 for p in (served, shadow)]
    rises = [_ordered(p) for p in (served, shadow)]
    out: dict[str, list[float]] = {"auc": [], "log_loss": [], "brier": []}
    for _ in range(times):
        weight = np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)
        out["log_loss"].append(float(weight @ (losses[1] - losses[0])) / n)
        out["brier"].append(float(weight @ (squares[1] - squares[0])) / n)
        areas = [_weighted_auc(place, groups, weight, label) for place, groups in rises]
        if areas[0] is not None and areas[1] is not None:
            out["auc"].append(areas[1] - areas[0])
    return {name: [float(v) for v in np.quantile(values, (0.025, 0.975))] if values else [] for name, values in out.items()}


def _ordered(p: Floats) -> tuple[npt.NDArray[np.int64], int]:
    values, place = np.unique(p, return_inverse=True)
    return place.reshape(-1), len(values)


def _weighted_auc(place: npt.NDArray[np.int64], groups: int, weight: Floats, label: Floats) -> float | None:
    """Mann-Whitney over groups of equal scores, each row counted ``weight`` times."""
    positive = np.bincount(place, weight * label, groups)
    negative = np.bincount(place, weight * (1 - label), groups)
    total = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float((positive @ (below + 0.5 * negative)) / total) if total else None


def join_labels(shadow: pa.Table, labels: pa.Table) -> tuple[pa.Table, Floats]:
    """The rows of the shadow log whose label is known, and the labels (float64). Joined on request and row, and on the answer's time where
    the labels have it: callers may repeat request ids."""
    keys = tuple(k for k in ("tandem_request", "tandem_row", "tandem_at") if k in labels.column_names and k in shadow.column_names)
    known = table_of(labels.filter(pc.is_valid(labels.column("label"))).select([*keys, "label"]))
    mine = table_of(shadow.select(keys))
    place = locate(mine, known, keys) if known.num_rows and mine.num_rows else np.full(shadow.num_rows, -1, np.int64)
    take = np.flatnonzero(place >= 0)
    values = known.column("label").cast(pa.float64()).to_numpy()[place[take]]
    return shadow.take(pa.array(take)), values


def summary(parts: Mapping[str, npt.NDArray[np.bool_]], served: Floats, shadow: Floats, more_than: float) -> dict[str, Differences]:
    """``differences`` for each part of the rows."""
    return {key: differences(served[mask], shadow[mask], more_than) for key, mask in parts.items()}
