"""``tandem train`` end to end on a small repository: blessed and pushed, pushed again, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.training.definition import Threshold
from pipelines.training.train_job import Trained, train
from pipelines.training.training_report import auc, log_loss, render
from pipelines.training.user_code import load_function
from tests.integration import training_repo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return training_repo.make(tmp_path_factory.mktemp("parcels"), rows=3000)


def run(repo: tuple[Path, Path], steps: list[str] | None = None, **changes: object) -> Trained:
    model = load_function(repo[0], "labels:model")(**changes)

    def progress(step: str, seconds: float | None) -> None:
        if steps is not None and seconds is not None:
            steps.append(step)

    return train(model, repo=repo[0], data=repo[1], start=training_repo.START, end=training_repo.END, progress=progress)


@pytest.fixture(scope="module")
def trained(repo: tuple[Path, Path]) -> tuple[Trained, list[str]]:
    steps: list[str] = []
    return run(repo, steps), steps


def test_a_good_model_is_pushed(trained: tuple[Trained, list[str]], repo: tuple[Path, Path]) -> None:
    out, steps = trained
    assert out.version == 1 and out.pipeline.blessed and not out.pipeline.had_baseline and out.pipeline.reasons == ()
    assert out.pushed is not None and (out.pushed / "saved_model.pb").is_file()
    assert [p.name for p in out.pushed.parent.iterdir() if p.is_dir()] == ["1"]
    assert {"spine", "Transform", "Trainer", "Trainer.plain", "Evaluator", "Gate", "Pusher", "report"} <= set(steps)
    everything, plain, base = (out.report.overall(n) for n in ("all features", "request fields", "base rate"))
    assert everything.auc is not None and plain.auc is not None
    assert everything.auc > 0.9 and everything.auc > plain.auc and everything.log_loss < plain.log_loss < base.log_loss + 0.02
    assert base.auc == 0.5
    assert sum(s.rows for s in out.report.scores if s.predictor == "base rate" and s.slice) == everything.rows
    assert render(out.report).row_count == 3 and render(out.report, slices=True).row_count == 4
    assert list((repo[1] / "tfx").glob("slow_parcels-*/Trainer/model_run/*/train/events.out.tfevents.*"))


def test_tandem_json_is_what_serving_reads(trained: tuple[Trained, list[str]]) -> None:
    from serving.models import ModelSpec

    out, _ = trained
    assert out.pushed is not None
    text = (out.pushed / "tandem.json").read_bytes()
    spec = ModelSpec.parse(text, "tandem.json")
    assert spec.version == 1 and spec.name == "slow_parcels" and spec.run == out.run
    assert spec.fingerprints == {"depot_load": training_repo.FINGERPRINT}
    assert spec.inputs == (
        ("size", "string"),
        ("weight_kg", "float32"),
        ("depot_load__waiting_1h", "float32"),
        ("depot_load__mean_age_1h", "float32"),
        ("depot_load__last_kind", "string"),
    )
    assert json.loads(text)["training_set"] == out.training_set.id


def test_training_and_serving_see_the_same_bits(trained: tuple[Trained, list[str]]) -> None:
    """The tf.Examples that TFX trained on, the training set fed through serving's encoder, and the pushed model agree."""
    import tensorflow as tf

    from serving.models import ModelSpec, load_model, to_model_inputs

    out, _ = trained
    assert out.pushed is not None
    spec = ModelSpec.parse((out.pushed / "tandem.json").read_bytes(), "tandem.json")
    table = out.training_set.read("test")
    root = out.pipeline.full.parents[3] / "FeatureServiceExampleGen" / "examples"
    files = sorted(str(f) for f in root.glob("*/Split-test/*.gz"))
    parsed = tf.io.parse_example(
        list(tf.data.TFRecordDataset(files, compression_type="GZIP")),
        {name: tf.io.FixedLenFeature([1], tf.as_dtype(dtype)) for name, dtype in spec.inputs},
    )
    served = to_model_inputs(table, spec)
    for name, dtype in spec.inputs:
        ours, theirs = served[name], parsed[name].numpy()
        assert ours.shape == theirs.shape
        same = ours.view(np.uint32) == theirs.view(np.uint32) if dtype == "float32" else ours == theirs
        assert np.all(same), name
    assert np.isnan(served["depot_load__mean_age_1h"]).any() and (served["depot_load__last_kind"] == b"").any()
    trained_side = tf.saved_model.load(str(out.pipeline.full)).signatures["serving_default"](**parsed)["probability"].numpy()[:, 0]
    served_side = load_model(out.pushed, spec).predict(table)
    assert np.array_equal(trained_side.view(np.uint32), served_side.view(np.uint32))
    label = table.column("slow").to_numpy()
    everything = out.report.overall("all features")
    assert auc(label, served_side) == everything.auc and abs(log_loss(label, served_side) - everything.log_loss) < 1e-6


def test_again_and_then_a_bad_one(trained: tuple[Trained, list[str]], repo: tuple[Path, Path]) -> None:
    """The same inputs give the same model, evaluated against the blessed one; an unattainable threshold pushes nothing."""
    first, _ = trained
    left_over = repo[1] / "models" / "slow_parcels" / ".push-1"
    left_over.mkdir()
    again = run(repo)
    assert again.pipeline.had_baseline and again.version == 2
    assert not left_over.exists()
    assert again.training_set.id == first.training_set.id
    assert again.report.overall("all features") == first.report.overall("all features")
    bad = run(repo, thresholds=[Threshold("auc", bound=0.9999)])
    assert not bad.pipeline.blessed and bad.pushed is None and bad.version is None
    assert any(reason.startswith("auc is 0.9") for reason in bad.pipeline.reasons), bad.pipeline.reasons
    assert sorted(p.name for p in (repo[1] / "models" / "slow_parcels").iterdir() if p.is_dir()) == ["1", "2"]


def test_a_failing_component_is_named(repo: tuple[Path, Path], tmp_path: Path) -> None:
    from pipelines.training.tfx_pipeline import TrainingError

    (repo[0] / "broken.py").write_text("def run_fn(fn_args):\n    raise ValueError('no such layer')\n")
    with pytest.raises(TrainingError, match=r"component Trainer\S* failed: ValueError: no such layer; see .*\.log") as error:
        run(repo, run_fn="broken:run_fn")
    assert "\n" not in str(error.value)


def test_one_training_at_a_time(repo: tuple[Path, Path]) -> None:
    import fcntl

    from transforms.errors import TandemError

    (repo[1] / "tfx").mkdir(exist_ok=True)
    with open(repo[1] / "tfx" / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TandemError, match="another training"):
            run(repo)
