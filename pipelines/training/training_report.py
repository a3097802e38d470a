"""What a person wants to know of a trained model: AUC and log loss on the held-out split, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Report", "Score", "auc", "log_loss", "render", "score_all"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """AUC and log loss (nats) of one predictor on one slice; AUC is None where the slice has one class only."""

    predictor: str
    slice: str
    rows: int
    positives: int
    auc: float | None
    log_loss: float


@dataclass(frozen=True)
class Report:
    """Scores on the test split: for each predictor overall (slice ``""``) and per slice (``"origin=JFK"``)."""

    model: str
    rows: Mapping[str, int]
    borders: tuple[str, str]
    scores: tuple[Score, ...]

    def overall(self, predictor: str) -> Score:
        """The score of ``"base rate"``, ``"request fields"`` or ``"all features"`` over the whole test split."""
        return next(s for s in self.scores if s.predictor == predictor and not s.slice)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


def auc(label: Floats, score: Floats) -> float | None:
    """Area under the ROC curve by ranks, ties counted half (Mann-Whitney); None unless both classes are there."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((rank[label > 0.5].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_loss(label: Floats, probability: Floats) -> float:
    """Mean negative log likelihood in nats; probabilities are kept 1e-7 away from 0 and 1, as Keras does."""
    p = np.clip(probability, 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label > 0.5, np.log(p), np.log1p(-p))))


def score_all(label: Floats, predictions: Mapping[str, Floats], slices: Mapping[str, Sequence[Any]]) -> tuple[Score, ...]:
    """Scores of every predictor over all rows and per value of every slice column; ``label`` and predictions have shape [n]."""
    masks: dict[str, npt.NDArray[np.bool_]] = {"": np.ones(len(label), bool)}
    for column, values in slices.items():
        array = np.asarray(values, dtype=object)
        masks |= {f"{column}={value}": array == value for value in sorted(set(array) - {None}, key=str)}
    return tuple(
        Score(name, key, int(m.sum()), int(label[m].sum()), auc(label[m], p[m]), log_loss(label[m], p[m]))
        for key, m in masks.items()
        for name, p in predictions.items()
    )


def render(report: Report, slices: bool = False) -> Any:
    """A rich table: one line per predictor, or per slice with every predictor's AUC and log loss beside each other."""
    from rich.table import Table

    test = report.rows["test"]
    title = f"{report.model}: held-out {test:,} requests from {report.borders[1]} on"
    names = list(dict.fromkeys(s.predictor for s in report.scores))
    if not slices:
        table = Table("predictor", title=title)
        for head in ("AUC", "log loss"):
            table.add_column(head, justify="right")
        for s in (report.overall(n) for n in names):
            table.add_row(s.predictor, "-" if s.auc is None else f"{s.auc:.4f}", f"{s.log_loss:.4f}")
        return table
    table = Table(title=title)
    table.add_column("slice", no_wrap=True)
    for head in ("requests", *(f"AUC, {n}" for n in names[1:]), *(f"log loss, {n}" for n in names)):
        table.add_column(head, justify="right")
    for key in dict.fromkeys(s.slice for s in report.scores):
        by = {s.predictor: s for s in report.scores if s.slice == key}
        aucs = ("-" if (a := by[n].auc) is None else f"{a:.4f}" for n in names[1:])
        table.add_row(key or "all", f"{by[names[0]].rows:,}", *aucs, *(f"{by[n].log_loss:.4f}" for n in names))
    return table
