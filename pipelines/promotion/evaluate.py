"""Versions scored on the same held-out rows, each through the code that serves it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.project.repository import Repo
from pipelines.promotion.holdout import HoldoutSet, columns_of, holdout_rows, label_of
from pipelines.registry.alias_file import model_folder, versions_on_disk
from pipelines.training.definition import Model
from pipelines.training.training_report import Score, score_all
from serving.models import ModelSpec, load_model
from transforms.data_folder import SPEC_FILE
from transforms.errors import DataError
from transforms.plain_paths import plain_path

__all__ = ["Evaluation", "evaluate", "read_spec", "write_tfma"]

BATCH = 8192


@dataclass(frozen=True)
class Evaluation:
    """Scores of versions on the same rows, overall (slice ``""``) and per slice; ``unknown`` says why a version has none."""

    model: str
    holdout: HoldoutSet
    scores: Mapping[int, Mapping[str, Score]]
    unknown: Mapping[int, str]
    predictions: Mapping[int, npt.NDArray[np.float64]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form, as it stands in the run's manifest."""
        versions: dict[str, Any] = {str(v): {"unknown": why} for v, why in self.unknown.items()}
        for version, by in self.scores.items():
            slices = {key: _plain(s) for key, s in by.items() if key}
            seen = {"seen_in_training": self.holdout.seen[version]} if version in self.holdout.seen else {}
            versions[str(version)] = {**_plain(by[""]), **seen, "slices": slices}
        return {"model": self.model, "how": self.holdout.how, "rows": self.holdout.table.num_rows, "versions": versions}

    def metrics(self) -> dict[str, float]:
        """Flat names for a run's metrics: ``v7/auc``, ``v7/log_loss/origin=JFK``."""
        out = {}
        for version, by in self.scores.items():
            for key, s in by.items():
                for name in ("auc", "log_loss"):
                    value = getattr(s, name)
                    if value is not None:
                        out[f"v{version}/{name}{'/' + key if key else ''}"] = float(value)
        return out


def _plain(s: Score) -> dict[str, Any]:
    return {"rows": s.rows, "positives": s.positives, "auc": s.auc, "log_loss": s.log_loss}


def read_spec(data: Path, model: str, version: int) -> ModelSpec:
    """``tandem.json`` of a version. Raises DataError if there is no such version, ModelError if it is damaged."""
    folder = model_folder(data, model)
    try:
        text = (folder / str(version) / SPEC_FILE).read_bytes()
    except OSError:
        have = ", ".join(map(str, versions_on_disk(folder)[-8:])) or "none"
        raise DataError(f"model {model!r} has no version {version}; existing versions: {have}") from None
    return ModelSpec.parse(text, f"model {model!r} version {version}: {SPEC_FILE}")


def evaluate(repo: Repo, model: Model, versions: Sequence[int], start: datetime | None = None, end: datetime | None = None) -> Evaluation:
    """Score versions on rows that none of them was trained on, or on the requests asked in [start, end). A version that cannot be judged on
    them stands in ``unknown``. Raises a TandemError if there are no rows, or a version is damaged."""
    specs = {v: read_spec(repo.data, model.name, v) for v in dict.fromkeys(versions)}
    holdout = holdout_rows(repo, model, specs, start, end)
    label = label_of(holdout.table, model)
    predictions: dict[int, npt.NDArray[np.float64]] = {}
    for version, table in holdout.tables.items():
        loaded = load_model(model_folder(repo.data, model.name) / str(version), specs[version])
        predictions[version] = _predict(loaded, table)
    slices = columns_of(holdout.table, model.slices)
    scored = score_all(label, {str(v): p for v, p in predictions.items()}, slices)
    scores = {v: {s.slice: s for s in scored if s.predictor == str(v)} for v in predictions}
    return Evaluation(model.name, holdout, scores, dict(holdout.lacking), predictions)


def _predict(loaded: Any, table: pa.Table) -> npt.NDArray[np.float64]:
    parts = [loaded.predict(table.slice(at, BATCH)) for at in range(0, table.num_rows, BATCH)]
    out: npt.NDArray[np.float64] = np.concatenate(parts).astype(np.float64)
    return out


def write_tfma(evaluation: Evaluation, model: Model, folder: Path) -> dict[int, Path]:
    """TFMA's evaluation of the same predictions, one result per version in ``<folder>/v<version>``: AUC, log loss, calibration, precision
    and recall over all rows and per slice, for ``tfma.load_eval_result``. Takes some ten seconds."""
    import pandas as pd
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.proto import config_pb2

    from pipelines.batch.beam_options import direct_by_default

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    table = evaluation.holdout.table
    out = {}
    config = config_pb2.EvalConfig(
        model_specs=[config_pb2.ModelSpec(label_key=model.label, prediction_key="prediction")],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[s]) for s in model.slices)],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(class_name=name)
                    for name in ("ExampleCount", "AUC", "BinaryCrossentropy", "Calibration", "Precision", "Recall", "BinaryAccuracy")
                ]
            )
        ],
    )
    for version, predicted in evaluation.predictions.items():
        frame = pd.DataFrame({model.label: label_of(table, model), "prediction": predicted, **columns_of(table, model.slices)})
        out[version] = folder / f"v{version}"
        with direct_by_default():
            tfma.analyze_raw_data(frame, config, output_path=str(plain_path(out[version])))
    return out
