"""Pictures of a training, for trackers: learning curves, ROC, calibration. Drawn when they are delivered; without matplotlib, none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.lake.layout import CURVES, REPORT
from pipelines.tracking.tracked_run import Record

__all__ = ["draw"]

"""``{"roc": {predictor: [[false, true], ...]}, "calibration": {predictor: [[predicted, observed, rows], ...]}}`` in the report folder."""


@contextmanager
def draw(record: Record) -> Iterator[list[Path]]:
    """The pictures that the record has data for, as PNG files that are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        yield _all(record, Path(name))


def _curves(record: Record) -> Mapping[str, Any]:
    try:
        found = json.loads(record.files[f"{REPORT}/{CURVES}"].read_text())
    except (KeyError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _all(record: Record, folder: Path) -> list[Path]:
    curves = _curves(record)
    if not record.series and not curves:
        return []
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, no global state
    except ImportError:
        return []
    made: list[Path] = []

    def picture(name: str, x: str, y: str) -> tuple[Any, Any]:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
        made.append(folder / name)
        return figure, axes

    for metric in sorted({n.rpartition("/")[2].removeprefix("epoch_") for n in record.series}):
        figure, axes = picture(f"epochs-{metric}.png", "epoch", metric)
        for name, points in record.series.items():
            if name.rpartition("/")[2].removeprefix("epoch_") == metric:
                axes.plot(*zip(*points), marker=".", label=name.rpartition("/")[0] or name)
        axes.legend(fontsize=8)
        figure.savefig(made[-1], dpi=110)
    if roc := curves.get("roc"):
        figure, axes = picture("roc.png", "share of negatives taken", "share of positives taken")
        for name, points in roc.items():
            axes.plot(*zip(*points), label=name)
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axes.legend(fontsize=8)
        figure.savefig(made[-1], dpi=110)
    if calibration := curves.get("calibration"):
        figure, axes = picture("calibration.png", "predicted probability (mean of a tenth of the rows)", "observed share")
        top = max((max(p[0], p[1]) for points in calibration.values() for p in points), default=1.0)
        for name, points in calibration.items():
            axes.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
        axes.plot([0, top], [0, top], color="grey", linestyle=":")
        axes.legend(fontsize=8)
        figure.savefig(made[-1], dpi=110)
    return made
