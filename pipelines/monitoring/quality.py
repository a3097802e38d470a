"""Was the model right: calibration, AUC and log loss of answers whose label is known, against the training report's test split.

What chance allows is measured, not assumed: the same numbers for windows of the same length within the held-out part of the training set
(rows of one day go right or wrong together, so a standard error over rows would be far too small); where that is too short for three
windows, 2.5 standard errors stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipelines.monitoring.monitor_report import QualityNumbers, ReliabilityBin
from pipelines.training.training_report import auc, log_loss

__all__ = ["Quality", "allowance", "quality", "reliability"]

Floats = npt.NDArray[np.float64]
BINS = 10
SIGMAS = 2.5


@dataclass(frozen=True)
class Quality:
    """Of N labelled answers: mean prediction and rate of positives, AUC (None: one class only), log loss in nats, and their standard
    errors over rows."""

    rows: int
    mean: float
    rate: float
    auc: float | None
    log_loss: float
    gap_error: float
    auc_error: float
    log_loss_error: float

    @property
    def gap(self) -> float:
        """How far the mean prediction is from the rate."""
        return abs(self.mean - self.rate)

    def to_dict(self) -> QualityNumbers:
        """What a report has of it."""
        return {"rows": self.rows, "mean": self.mean, "rate": self.rate, "auc": self.auc, "log_loss": self.log_loss}


def quality(label: Floats, prediction: Floats) -> Quality:
    """The numbers for labels [n] (0 or 1) and predictions [n] in [0, 1]."""
    n, area = len(label), auc(label, prediction)
    p = np.clip(prediction, 1e-7, 1 - 1e-7)
    losses = np.where(label > 0.5, -np.log(p), -np.log1p(-p))
    return Quality(
        n,
        float(prediction.mean()),
        float(label.mean()),
        area,
        log_loss(label, prediction),
        float(np.std(label - prediction) / np.sqrt(n)),
        _auc_error(area, int(label.sum()), n - int(label.sum())),
        float(np.std(losses) / np.sqrt(n)),
    )


def _auc_error(area: float | None, positives: int, negatives: int) -> float:
    """The standard error of an AUC by Hanley and McNeil (1982)."""
    if area is None:
        return 0.0
    q1, q2 = area / (2 - area), 2 * area * area / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    return float(np.sqrt(max(variance, 0.0) / (positives * negatives)))


def allowance(window: Quality, report: Quality, blocks: Sequence[Quality]) -> dict[str, float]:
    """How far the gap may be from 0, AUC below the report's and log loss above it by chance alone."""
    if len(blocks) >= 3:
        areas = [b.auc for b in blocks if b.auc is not None]
        return {
            "gap": max(b.gap for b in blocks),
            "auc": max((report.auc or 0.0) - min(areas, default=report.auc or 0.0), 0.0),
            "log_loss": max(max(b.log_loss for b in blocks) - report.log_loss, 0.0),
        }
    return {
        "gap": SIGMAS * window.gap_error,
        "auc": SIGMAS * float(np.hypot(window.auc_error, report.auc_error)),
        "log_loss": SIGMAS * float(np.hypot(window.log_loss_error, report.log_loss_error)),
    }


def reliability(label: Floats, prediction: Floats) -> list[ReliabilityBin]:
    """Mean prediction and rate of positives per tenth of the answers in order of prediction; equal predictions stay together."""
    edges = np.unique(np.quantile(prediction, np.linspace(0, 1, BINS + 1)))
    place = np.clip(np.searchsorted(edges, prediction, side="right") - 1, 0, max(len(edges) - 2, 0))
    out: list[ReliabilityBin] = []
    for number in np.unique(place):
        here = place == number
        out.append({"rows": int(here.sum()), "mean": float(prediction[here].mean()), "rate": float(label[here].mean())})
    return out
