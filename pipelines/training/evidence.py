"""What a training leaves in the report folder of its run: learning curves, ROC and calibration, TFMA's metrics.

All of it is told of a training that is done: whatever fails here fails alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.lake.data_files import write_json
from pipelines.lake.layout import CURVES, EPOCHS, REPORT, TFMA
from transforms.plain_paths import plain_path

__all__ = ["curves", "epochs", "tfma_metrics", "write_evidence"]

Floats = npt.NDArray[np.float64]
_POINTS = 101


def epochs(log_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by step from the TensorBoard files anywhere below ``log_dir``: ``{"train/loss": [(0, 0.61), ...]}``.

    Whatever a ``run_fn`` writes there counts: Keras' TensorBoard callback, or ``tf.summary.scalar``.
    """
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, TENSORS, EventAccumulator
    from tensorboard.util import tensor_util

    out: dict[str, list[tuple[int, float]]] = {}
    for folder in sorted({file.parent for file in log_dir.rglob("events.out.tfevents.*")}):
        found = EventAccumulator(str(folder), size_guidance={SCALARS: 0, TENSORS: 0})
        found.Reload()
        where = folder.relative_to(log_dir).as_posix()
        tags = found.Tags()
        points = {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in tags["scalars"]}
        for tag in tags["tensors"]:
            arrays = [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in found.Tensors(tag)]
            points[tag] = [(step, float(a)) for step, a in arrays if a.ndim == 0 and a.dtype.kind in "fiu"]
        for tag, values in points.items():
            if values and not tag.endswith("_vs_iterations"):  # Keras says the same by epoch
                name = "/".join(p for p in ("" if where == "." else where, tag.removeprefix("epoch_")) if p)
                out[name] = [(int(step), float(value)) for step, value in values]
    return out


def curves(label: Floats, predictions: Mapping[str, Floats]) -> dict[str, Any]:
    """ROC (at most 101 points) and calibration (ten parts of equally many rows) per predictor; ``label`` and predictions have shape [n]."""
    roc: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    positives, negatives = float(label.sum()), float(len(label) - label.sum())
    for name, p in predictions.items():
        order = np.argsort(-p, kind="stable")
        hits, sorted_p = label[order], p[order]
        last = np.append(np.flatnonzero(np.diff(sorted_p)), len(p) - 1)  # ties are taken together
        if positives and negatives:
            true, false = np.cumsum(hits)[last] / positives, (np.cumsum(1 - hits)[last]) / negatives
            chosen = np.unique(np.linspace(0, len(last) - 1, min(_POINTS - 1, len(last))).round().astype(int))
            roc[name] = [[0.0, 0.0], *([float(false[i]), float(true[i])] for i in chosen)]
        parts = [part for part in np.array_split(np.arange(len(p))[::-1], 10) if len(part)]
        calibration[name] = [[float(sorted_p[i].mean()), float(hits[i].mean()), len(i)] for i in parts]
    return {"roc": roc, "calibration": calibration}


def tfma_metrics(evaluation: Path) -> dict[str, dict[str, float]]:
    """TFMA's metrics of the candidate by slice (``""``: all rows) from an Evaluator's output."""
    import tensorflow_model_analysis as tfma

    load: Any = tfma.load_eval_result  # with one model alone TFMA forgets its name
    specs = json.loads((evaluation / "eval_config.json").read_text())["evalConfig"]["modelSpecs"]
    result = load(str(plain_path(evaluation)), model_name="candidate" if len(specs) > 1 else None)
    out: dict[str, dict[str, float]] = {}
    for key, metrics in result.slicing_metrics:
        name = ",".join(f"{column}={value}" for column, value in key)
        for outputs in metrics.values():
            for by_key in outputs.values():
                for metric, value in by_key.items():
                    number = value.get("doubleValue")
                    if number is not None and math.isfinite(float(number)):
                        out.setdefault(name, {})[metric] = float(number)
    return out


def write_evidence(run: Path, full: Path, plain: Path, label: Floats, predictions: Mapping[str, Floats]) -> list[str]:
    """Write the report folder of the run in folder ``run``; returns one line for each part that could not be made.

    ``full`` and ``plain`` are the trained SavedModels in TFX's folders (``<root>/Trainer/model/<execution>/Format-Serving``).
    """
    failed = []

    def part(name: str, make: Any) -> None:
        try:
            value = make()
            if value:
                write_json(run / REPORT / name, value)
        except Exception as error:
            failed.append(f"report/{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def learning() -> dict[str, Any]:
        logs = {prefix: model.parents[2] / "model_run" / model.parent.name for prefix, model in (("", full), ("plain/", plain))}
        return {f"epoch/{prefix}{name}": points for prefix, log in logs.items() for name, points in epochs(log).items()}

    def evaluated() -> dict[str, Any]:
        folder = full.parents[3] / "Evaluator" / "evaluation"
        newest = max((p for p in folder.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name), default=None)
        return tfma_metrics(newest) if newest is not None else {}

    part(EPOCHS, learning)
    part(CURVES, lambda: curves(label, predictions))
    part(TFMA, evaluated)
    return failed
