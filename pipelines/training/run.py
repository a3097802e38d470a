"""``tandem train``: spine, point-in-time features, training set, TFX pipeline, report."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.definition import Model
from pipelines.training.user_code import load_function
from transforms.errors import ConfigError, TandemError

if TYPE_CHECKING:
    from pipelines.training.report import Report
    from pipelines.training.tfx_pipeline import PipelineRun
    from pipelines.training.training_set import TrainingSet

__all__ = ["Trained", "model_spec", "predict", "train"]


@dataclass(frozen=True)
class Trained:
    """The outcome of a training. ``pushed`` is the folder of the new version, or None if the model was not blessed."""

    model: str
    run: str
    training_set: TrainingSet
    pipeline: PipelineRun
    report: Report

    @property
    def pushed(self) -> Path | None:
        """The pushed version's folder."""
        return self.pipeline.pushed

    @property
    def version(self) -> int | None:
        """The pushed version."""
        return int(self.pushed.name) if self.pushed is not None else None


def utc_now() -> datetime:
    """The time now, UTC."""
    return datetime.now(UTC)


def model_spec(model: Model, training_set: TrainingSet, run: str) -> dict[str, Any]:
    """``tandem.json`` of a model version, but for the version and the creation time (see serving.models.ModelSpec)."""
    return {
        "name": model.name,
        "version": 0,
        "fingerprints": training_set.fingerprints,
        "feature_service": model.features if isinstance(model.features, str) else "",
        "entity_keys": list(model.entity_keys),
        "request_fields": [[f.name, f.dtype] for f in model.request_fields],
        "nullable": [f.name for f in model.request_fields if not f.required and f.name not in model.entity_keys],
        "features": [f"{c.view}:{c.feature}" for c in training_set.columns if not c.is_request],
        "inputs": [[c.name, c.dtype] for c in training_set.columns],
        "output": "probability",
        "training_set": training_set.id,
        "run": run,
    }


def predict(saved_model: Path, table: Any, inputs: list[tuple[str, str]], output: str = "probability", batch: int = 8192) -> Any:
    """Probabilities of shape [n] (float32) by the SavedModel's signature, for a table with the raw inputs."""
    import numpy as np
    import tensorflow as tf

    from serving.models import to_model_inputs

    loaded = tf.saved_model.load(str(saved_model))
    function = loaded.signatures["serving_default"]
    parts = []
    for start in range(0, table.num_rows, batch):
        arrays = to_model_inputs(table.slice(start, batch), inputs)
        parts.append(function(**{name: tf.constant(arrays[name], dtype) for name, dtype in inputs})[output].numpy()[:, 0])
    return np.concatenate(parts)


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Holds the data folder's training lock: MLMD's SQLite and the versions are for one writer."""
    (data / "tfx").mkdir(parents=True, exist_ok=True)
    with open(data / "tfx" / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TandemError(f"another training holds {data / 'tfx' / 'lock'}; wait for it to end") from None
        yield


def train(
    model: Model,
    *,
    repo: str | Path,
    data: str | Path,
    start: datetime,
    end: datetime,
    progress: Callable[[str, float | None], None] = lambda step, seconds: None,
    now: Callable[[], datetime] = utc_now,
    run_id: str | None = None,
    seed: int = 20130101,
) -> Trained:
    """Train ``model`` on the requests asked in [start, end) and push it to ``data/models/<name>/<version>`` if it is blessed.

    ``repo`` is the feature repository (with feature_store.yaml), ``data`` the data folder. ``progress(step, None)`` is
    called when a step starts, ``progress(step, seconds)`` when it has ended. Raises a TandemError of one line.
    """
    repo, data = Path(repo).resolve(), Path(data).resolve()
    if start.tzinfo is None or end.tzinfo is None or start >= end:
        raise ConfigError(f"training range {start} to {end}: give two rising moments with a time zone, e.g. 2013-03-01T00:00:00Z")
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    run = run_id or now().strftime("train-%Y%m%dT%H%M%S%f")

    @contextmanager
    def step(name: str) -> Iterator[None]:
        begun = time.monotonic()
        progress(name, None)
        yield
        progress(name, time.monotonic() - begun)

    with _only_one(data):
        with step("spine"):
            spine = load_function(repo, model.spine)(data, start, end)
        with step("point-in-time features"):
            training_set = _training_set(model, spine, repo, data, now())
        from pipelines.training.tfx_pipeline import run_pipeline

        pipeline = run_pipeline(model, training_set, repo, data, model_spec(model, training_set, run), run, progress, seed)
        with step("report"):
            report = _report(model, training_set, pipeline)
    return Trained(model.name, run, training_set, pipeline, report)


def _training_set(model: Model, spine: Any, repo: Path, data: Path, now: datetime) -> TrainingSet:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        from pipelines.training.training_set import build_training_set

        return build_training_set(model, spine, FeatureStore(repo_path=str(repo)), data, now)


def _report(model: Model, training_set: TrainingSet, pipeline: PipelineRun) -> Report:
    import numpy as np

    from pipelines.training.report import Report, score_all

    splits = training_set.manifest["splits"]
    test = training_set.read("test")
    label = test.column(model.label).to_numpy().astype(np.float64)
    rate = splits["train"]["positives"] / splits["train"]["rows"]
    inputs = [(c.name, str(c.dtype)) for c in training_set.columns]
    request = [(c.name, str(c.dtype)) for c in training_set.columns if c.is_request]
    predictions = {
        "base rate": np.full(len(label), rate),
        "request fields": predict(pipeline.plain, test, request).astype(np.float64),
        "all features": predict(pipeline.full, test, inputs).astype(np.float64),
    }
    slices = {s: test.column(s).to_pylist() for s in model.slices}
    rows = {name: splits[name]["rows"] for name in splits}
    first, second = training_set.manifest["borders"]
    return Report(model.name, rows, (first, second), score_all(label, predictions, slices))
