"""Two versions of the flights' model for the soak, made by hand (no training): ``python -m tests.prove.soak_models REPO``."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.project.repository import Repo, load_repo
from pipelines.registry.register import register
from pipelines.training.train_job import model_spec
from pipelines.training.user_code import load_function
from serving.model_files import FILES, hash_files
from serving.models import ModelSpecFile

BEGIN = datetime(2013, 1, 8, tzinfo=UTC)


def push(repo: Repo, version: int, made: Any) -> None:
    """A version whose answer is a logistic function of its numbers, another one for each version."""
    import tensorflow as tf

    model = repo.attribute("labels:late_flights_model")
    spec: ModelSpecFile = {**model_spec(model, made, f"by-hand-{version}"), "version": version, "created": "2013-02-01T00:00:00Z"}
    folder = repo.data / "models" / model.name
    folder.mkdir(parents=True, exist_ok=True)
    work = folder / f".push-{version}"

    class Net(tf.Module):
        @tf.function
        def serve(self, **x: Any) -> Any:
            numbers = [tf.where(tf.math.is_nan(t), tf.zeros_like(t), t) for _, t in sorted(x.items()) if t.dtype == tf.float32]
            return {"probability": tf.sigmoid(tf.add_n(numbers) * 1e-4 * version)}

    net = Net()
    signature = {n: tf.TensorSpec([None, 1], tf.as_dtype(t), name=n) for n, t in spec["inputs"]}
    tf.saved_model.save(net, str(work), signatures=net.serve.get_concrete_function(**signature))
    (work / "tandem.json").write_text(json.dumps({FILES: hash_files(work), **spec}))
    shutil.rmtree(folder / str(version), ignore_errors=True)
    register(repo, model.name, work.rename(folder / str(version)))


def main() -> None:
    """See the module."""
    from pipelines.training.training_set import build_training_set

    repo = load_repo(Path(sys.argv[1]))
    model = repo.attribute("labels:late_flights_model")
    spine = load_function(repo.path, model.spine)(repo.data, BEGIN, BEGIN + timedelta(days=20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from feast import FeatureStore

        made = build_training_set(model, spine, FeatureStore(repo_path=str(repo.path)), repo.data, datetime.now(UTC))
    for version in (1, 2):
        push(repo, version, made)


if __name__ == "__main__":
    main()
