"""A repository whose model versions are made by hand: a training set joined by Feast, and SavedModels of a known quality, without TFX."""

from __future__ import annotations

import json
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.project.repository import Repo, load_repo
from pipelines.training.definition import Threshold
from pipelines.training.train_job import model_spec
from pipelines.training.user_code import load_function
from serving.model_files import FILES, hash_files
from tests.integration import training_repo

FEATURES = """
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, hours, minutes

parcels = EventSource(name="parcels", fields=[Field("id", "string", required=True), Field("depot", "string", required=True)],
                      event_time="at", tie_breaker="id", out_of_orderness=minutes(1), allowed_lateness=hours(1), files="events/parcels")
depot_load = FeatureGroup(name="depot_load", source=parcels, entity=Entity("depot"), hop=hours(1), ttl=hours(3),
                          aggregates=[Count(over=hours(1))])
"""
THRESHOLDS = (
    Threshold("auc", bound=0.75, slack_to_blessed=0.01, slack_per_slice=0.02, slice_min_rows=100),
    Threshold("log_loss", slack_to_champion=0.02),
)
_GOOD = {"waiting": 1.0, "s": 0.0, "m": 8.0, "l": 16.0}
QUALITY = {
    "good": _GOOD,
    "better": {**_GOOD, "scale": 0.11},
    "same": _GOOD,
    "bad": {"waiting": -0.3, "s": 60.0, "m": 60.0, "l": 90.0},
    "bad for l": {**_GOOD, "waiting_of_l": -0.5},
}


def make(folder: Path, rows: int = 4000) -> Repo:
    """The repository, with one model ``slow_parcels`` and no version of it yet."""
    repo, data = training_repo.make(folder, rows=rows)
    (repo / "features.py").write_text(FEATURES)
    (repo / "labels.py").write_text(
        (repo / "labels.py").read_text()
        + "\n\nTHRESHOLDS = [\n"
        + "".join(f"    {t!r},\n" for t in THRESHOLDS)
        + "]\nslow_parcels = model(thresholds=THRESHOLDS)\n"
    )
    (repo / "tandem.yaml").write_text(f"data: {data}\ndefinitions: features\nmodels: ['labels:slow_parcels']\ntracking: {{trackers: []}}\n")
    return load_repo(repo)


def training_set(repo: Repo, days: int = training_repo.DAYS) -> Any:
    """The training set of the first ``days`` days."""
    from datetime import timedelta

    from pipelines.training.training_set import build_training_set

    model = repo.attribute("labels:slow_parcels")
    spine = load_function(repo.path, model.spine)(repo.data, training_repo.START, training_repo.START + timedelta(days=days))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        return build_training_set(model, spine, FeatureStore(repo_path=str(repo.path)), repo.data, datetime.now(UTC))


def push(repo: Repo, version: int, quality: str, made: Any, **changes: Any) -> Path:
    """Push a version whose probability is a logistic function of what really makes parcels slow, more or less."""
    import tensorflow as tf

    model = repo.attribute("labels:slow_parcels")
    spec = {**model_spec(model, made, f"train-{version}"), "version": version, "created": f"2024-06-0{version % 9}T00:00:00Z", **changes}
    folder = repo.data / "models" / model.name
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".push-{version}"
    known = QUALITY[quality]

    class Net(tf.Module):
        @tf.function
        def serve(self, **x: Any) -> Any:
            waiting = tf.where(tf.math.is_nan(x["depot_load__waiting_1h"]), 50.0, x["depot_load__waiting_1h"])
            size, total = x["size"], tf.zeros_like(waiting)
            for name in ("s", "m", "l"):
                of = known.get(f"waiting_of_{name}", known["waiting"])
                total += tf.where(size == name, of * waiting + known[name], 0.0)
            return {"probability": tf.sigmoid(known.get("scale", 0.1) * (total - 62.0))}

    net = Net()
    signature = {n: tf.TensorSpec([None, 1], tf.as_dtype(t), name=n) for n, t in spec["inputs"]}
    tf.saved_model.save(net, str(work), signatures=net.serve.get_concrete_function(**signature))
    (work / "tandem.json").write_text(json.dumps({FILES: hash_files(work), **spec}))
    shutil.rmtree(folder / str(version), ignore_errors=True)
    return work.rename(folder / str(version))
