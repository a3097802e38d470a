"""The Evaluator of this process against TFX's own, which runs TFMA's Beam pipeline: the same metrics, verdicts and properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.training.definition import Model, Threshold
from pipelines.training.tfx_pipeline import _eval_config
from transforms.definitions import Field

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]

ROWS = 1_100  # more than a Keras metric takes at once


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples with labels, weights and nulls, their schema, and three models: one good, one that knows little, one without its inputs."""
    import tensorflow as tf
    from tensorflow_metadata.proto.v0 import schema_pb2
    from tfx.utils import io_utils

    folder = tmp_path_factory.mktemp("evaluations")
    rng = np.random.default_rng(5)
    kilos = rng.gamma(2.0, 3.0, ROWS).astype(np.float32)
    floor, size = rng.integers(0, 3, ROWS), rng.choice([b"small", b"large", b"", "gr\u00f6\u00dfe".encode()], ROWS)
    label = (rng.random(ROWS) < 1 / (1 + np.exp(6 - kilos))).astype(np.float32)
    importance = rng.integers(0, 4, ROWS).astype(np.float32) / 2
    test = folder / "examples" / "Split-test"
    test.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(test / "data_tfrecord-00000-of-00001.gz"), "GZIP") as out:
        for row in range(ROWS):
            example = tf.train.Example()
            example.features.feature["size"].bytes_list.value.append(size[row])
            example.features.feature["floor"].int64_list.value.append(int(floor[row]))
            for name, value in (("weight_kg", kilos), ("late", label), ("importance", importance)):
                example.features.feature[name].float_list.value.append(value[row])
            out.write(example.SerializeToString())
    schema = schema_pb2.Schema()
    for name, kind in (("size", 1), ("floor", 2), ("weight_kg", 3), ("late", 3), ("importance", 3)):
        feature = schema.feature.add(name=name, type=kind)
        feature.presence.min_fraction = 1
        feature.shape.dim.add(size=1)
    io_utils.write_pbtxt_file(str(folder / "schema" / "schema.pbtxt"), schema)

    def model(name: str, slope: float, bias: float) -> None:
        module = tf.Module()
        module.slope = tf.Variable(slope)

        @tf.function(
            input_signature=[tf.TensorSpec([None, 1], tf.float32, name="weight_kg"), tf.TensorSpec([None, 1], tf.string, name="size")]
        )
        def serve(weight_kg: Any, size: Any) -> dict[str, Any]:
            return {"probability": tf.sigmoid(weight_kg * module.slope - bias + tf.cast(size == b"large", tf.float32) / 8)}

        target = folder / name / "Format-Serving"
        tf.saved_model.save(module, str(target), signatures={"serving_default": serve})

    model("good", 1.0, 6.0)
    model("poor", 0.01, 1.0)
    model("always", 0.0, 1.0)
    return folder


def evaluated(executor: type, world: Path, target: Path, model: Model, against: str, baseline: str | None) -> tuple[Path, dict[str, Any]]:
    """The folder of an evaluation, and what its verdict says."""
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import standard_artifacts
    from tfx.utils import json_utils, proto_utils

    from pipelines.training.gate import Verdict

    def artifact(kind: Any, uri: Path, number: int = 1) -> Any:
        made = kind()
        made.uri, made.id = str(uri), number
        return made

    examples = artifact(standard_artifacts.Examples, world / "examples")
    examples.split_names = '["test"]'
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    examples.set_string_custom_property("file_format", "tfrecords_gzip")
    inputs: dict[str, list[Any]] = {
        "examples": [examples],
        "model": [artifact(standard_artifacts.Model, world / "good", 7)],
        "schema": [artifact(standard_artifacts.Schema, world / "schema")],
    }
    if baseline is not None:
        inputs["baseline_model"] = [artifact(standard_artifacts.Model, world / baseline, 8)]
    verdict = artifact(Verdict, target / "blessing")
    outputs = {"evaluation": [artifact(standard_artifacts.ModelEvaluation, target / "evaluation")], "blessing": [verdict]}
    options = ["--runner=DirectRunner", "--direct_num_workers=1", "--direct_running_mode=in_memory"]
    context = BaseBeamExecutor.Context(beam_pipeline_args=options, tmp_dir=str(target / "tmp"), unique_id="1")
    config = proto_utils.proto_to_json(_eval_config(model, against))
    executor(context).Do(
        inputs, outputs, {"eval_config": config, "example_splits": json_utils.dumps(["test"]), "fairness_indicator_thresholds": "null"}
    )
    said = {name: value.string_value or value.int_value for name, value in verdict.mlmd_artifact.custom_properties.items()}
    return target / "evaluation", {**said, "files": sorted(p.name for p in (target / "blessing").iterdir())}


def metrics_of(evaluation: Path, model: str | None) -> dict[Any, dict[str, float]]:
    import tensorflow_model_analysis as tfma

    out: dict[Any, dict[str, float]] = {}
    for key, outputs in tfma.load_eval_result(str(evaluation), model_name=model).slicing_metrics:
        out[key] = {name: float(value["doubleValue"]) for name, value in outputs[""][""].items()}
    return out


@pytest.mark.parametrize(
    ("against", "baseline", "weight", "slices", "bound"),
    [
        ("plain", "poor", "importance", ["size", "floor"], 0.6),
        ("blessed", None, None, ["size"], 0.999),
    ],
)
def test_it_says_what_tfx_says(
    world: Path, tmp_path: Path, against: str, baseline: str | None, weight: str | None, slices: list[str], bound: float
) -> None:
    import tensorflow_model_analysis as tfma
    from tfx.components.evaluator.executor import Executor

    from pipelines.training.evaluate_here import EvaluateHere

    model = Model(
        name="parcels",
        spine="labels:spine",
        label="late",
        weight=weight,
        entity_keys=["depot"],
        request_fields=[Field("size", "string", required=True), Field("floor", "int64", required=True), Field("weight_kg", "float64")],
        features=["depot_load:waiting_1h"],
        slices=slices,
        thresholds=[Threshold("auc", bound=bound, slack_to_blessed=0.0, slack_to_plain=0.0), Threshold("log_loss", slack_to_plain=0.0)],
    )
    theirs, their_words = evaluated(Executor, world, tmp_path / "theirs", model, against, baseline)
    ours, our_words = evaluated(EvaluateHere, world, tmp_path / "ours", model, against, baseline)
    assert our_words == their_words and our_words["blessed"] == int(bound < 0.9)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    configs = [json.loads((folder / "eval_config.json").read_text()) for folder in (ours, theirs)]
    assert configs[0] == configs[1]
    for name in ("candidate", "baseline") if baseline else (None,):
        found, expected = metrics_of(ours, name), metrics_of(theirs, name)
        assert found.keys() == expected.keys() and (("size", "gr\u00f6\u00dfe"),) in found
        for key, metrics in expected.items():
            assert found[key].keys() == metrics.keys()
            for metric, value in metrics.items():
                assert found[key][metric] == pytest.approx(value, abs=2e-6, nan_ok=True), (key, metric)
    verdicts = [tfma.load_validation_result(str(folder)) for folder in (ours, theirs)]
    failures = [[(f.metric_key, f.metric_threshold) for s in v.metric_validations_per_slice for f in s.failures] for v in verdicts]
    assert failures[0] == failures[1] and bool(failures[0]) == (bound > 0.9)
    assert verdicts[0].validation_details == verdicts[1].validation_details


def test_a_model_is_scored_once(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate of the second comparison was the first one's too; another model under the same name is another one."""
    from pipelines.training import evaluate_here, model_metrics

    scored: list[str] = []
    real = model_metrics.metrics_by_slice

    def counted(path: Path, config: Any, rows: Any) -> Any:
        scored.append(path.parent.name)
        return real(path, config, rows)

    monkeypatch.setattr(evaluate_here, "metrics_by_slice", counted)
    monkeypatch.setattr(evaluate_here.EvaluateHere, "_known", {})
    model = Model("parcels", "labels:spine", "late", ["depot"], [Field("size", "string")], ["depot_load:waiting_1h"])
    for i, (against, baseline) in enumerate((("blessed", "poor"), ("plain", "always"))):
        evaluated(evaluate_here.EvaluateHere, world, tmp_path / str(i), model, against, baseline)
    assert scored == ["good", "poor", "always"]
    file = world / "good" / "Format-Serving" / "saved_model.pb"
    file.write_bytes(file.read_bytes())
    evaluated(evaluate_here.EvaluateHere, world, tmp_path / "again", model, "blessed", "poor")
    assert scored == ["good", "poor", "always", "good"]
