"""The TFX pipeline of a model, run in this process by LocalDagRunner with its metadata in SQLite under ``data/tfx``."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines.batch.beam_options import DIRECT
from pipelines.lake import layout
from pipelines.training.definition import Column, Model
from pipelines.training.training_set import TrainingSet
from serving.models import ModelSpecFile
from transforms.errors import TandemError
from transforms.plain_paths import plain_path
from transforms.tensorflow_settings import settle_tensorflow

__all__ = ["PipelineRun", "Progress", "TrainingError", "run_pipeline"]

Progress = Callable[[str, "float | None"], None]
"""Called with (component, None) when it starts and (component, seconds) when it has finished."""

_TFMA_NAMES = {"auc": "AUC", "log_loss": "BinaryCrossentropy"}


class TrainingError(TandemError):
    """A component of the training pipeline failed; the message names it and the log file."""


@dataclass(frozen=True)
class PipelineRun:
    """What a run of the pipeline left: the trained models (SavedModel folders), the verdict and the pushed version, if any."""

    full: Path
    plain: Path
    blessed: bool
    had_baseline: bool
    """Whether there was a champion, or a blessed model, of the same inputs to compare with."""
    reasons: tuple[str, ...]
    """Why the model was not blessed: one line per missed threshold."""
    pushed: Path | None
    anomalies: int
    seconds: dict[str, float] = field(default_factory=dict)
    log: Path | None = None
    mlmd: dict[str, Any] = field(default_factory=dict)
    """Ids of the artifacts in ML Metadata: ``model``, ``plain``, ``evaluation``, ``pushed_model``."""
    baseline: str = ""
    """The model artifact that it was compared with, by its folder."""


def _eval_config(model: Model, against: str) -> Any:
    """TFMA's configuration: metrics over all rows and per slice; thresholds over all rows, for ``against`` "blessed" or "plain"."""
    from tensorflow_model_analysis.proto import config_pb2 as tfma  # the one name of these messages in both lines

    def overall(**threshold: Any) -> list[Any]:  # slices are measured, but one of twelve requests is no verdict
        return [tfma.PerSliceMetricThreshold(slicing_specs=[tfma.SlicingSpec()], threshold=tfma.MetricThreshold(**threshold))]

    metrics = []
    for name, class_name in _TFMA_NAMES.items():
        threshold = next((t for t in model.thresholds if t.metric == name), None)
        found: dict[str, Any] = {}
        rises = name == "auc"
        if threshold is not None and threshold.bound is not None and against == "blessed":
            found["value_threshold"] = tfma.GenericValueThreshold(**{"lower_bound" if rises else "upper_bound": {"value": threshold.bound}})
        slack = None if threshold is None else threshold.slack_to_blessed if against == "blessed" else threshold.slack_to_plain
        if slack is not None:
            found["change_threshold"] = tfma.GenericChangeThreshold(
                direction=tfma.MetricDirection.HIGHER_IS_BETTER if rises else tfma.MetricDirection.LOWER_IS_BETTER,
                # TFMA wants strictly better than the bound; a hair of room makes "equal" pass with slack 0.
                absolute={"value": -(slack + 1e-9) if rises else slack + 1e-9},
            )
        metrics.append(tfma.MetricConfig(class_name=class_name, per_slice_thresholds=overall(**found) if found else []))
    metrics.append(
        # An Evaluator without any threshold blesses nothing: this one always holds.
        tfma.MetricConfig(
            class_name="ExampleCount",
            per_slice_thresholds=overall(value_threshold=tfma.GenericValueThreshold(lower_bound={"value": 0.5})),
        )
    )
    spec = {"signature_name": "serving_default", "label_key": model.label, "model_type": "tf_generic", "prediction_key": "probability"}
    if model.weight:
        spec["example_weight_key"] = model.weight
    return tfma.EvalConfig(
        model_specs=[tfma.ModelSpec(name="candidate", **spec), tfma.ModelSpec(name="baseline", is_baseline=True, **spec)],
        slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[s]) for s in model.slices)],
        metrics_specs=[tfma.MetricsSpec(metrics=metrics)],
    )


def _build(
    model: Model, training_set: TrainingSet, repo: Path, data: Path, spec: ModelSpecFile, seed: int, params: Mapping[str, Any], push: bool
) -> Any:
    # Not tfx.v1, which imports all of Google's client for Vertex AI as well.
    from tfx import components
    from tfx.dsl.components.base import executor_spec
    from tfx.dsl.components.common.resolver import Resolver
    from tfx.orchestration.metadata import sqlite_metadata_connection_config
    from tfx.orchestration.pipeline import Pipeline
    from tfx.proto import pusher_pb2, trainer_pb2, transform_pb2
    from tfx.types import Channel, standard_artifacts

    from pipelines.training.eval_baseline import ChampionStrategy, champion_folder
    from pipelines.training.example_gen import FeatureServiceExampleGen
    from pipelines.training.gate import AtomicPush, Comparison, Gate
    from pipelines.training.tfx_executors import LearnHere, StatisticsHere

    to_push: Any = pusher_pb2.PushDestination  # type: ignore[attr-defined]
    columns = [[c.name, c.dtype, c.view, c.feature] for c in training_set.columns]
    request = [c for c in training_set.columns if c.is_request]
    # A blessed model is a fair baseline only where it reads the very same inputs: same columns, same graphs.
    inputs = hashlib.sha256(json.dumps([columns, training_set.fingerprints, model.label], sort_keys=True).encode()).hexdigest()[:8]
    name = f"{model.name}-{inputs}"

    examples = FeatureServiceExampleGen(str(plain_path(training_set.path)), columns, model.label, model.weight)
    statistics = components.StatisticsGen(examples=examples.outputs["examples"])
    statistics.executor_spec = executor_spec.BeamExecutorSpec(StatisticsHere)
    schema = components.SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
    validator = components.ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    transform = components.Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        materialize=False,
        disable_statistics=True,
        disable_analyzer_cache=True,
        preprocessing_fn="pipelines.training.user_code.preprocessing_fn",
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train"]),  # type: ignore[attr-defined]
        custom_config={"repo": str(repo), "preprocessing_fn": model.preprocessing_fn, "request": [c.name for c in request]},
    )
    transform.executor_spec = executor_spec.BeamExecutorSpec(LearnHere)

    def trainer(node: str, chosen: Sequence[Column]) -> Any:
        return components.Trainer(
            run_fn="pipelines.training.user_code.run_fn",
            examples=examples.outputs["examples"],
            schema=schema.outputs["schema"],
            transform_graph=transform.outputs["transform_graph"],
            train_args=trainer_pb2.TrainArgs(splits=["train"]),  # type: ignore[attr-defined]
            eval_args=trainer_pb2.EvalArgs(splits=["eval"]),  # type: ignore[attr-defined]
            custom_config={
                "repo": str(repo),
                "run_fn": model.run_fn,
                "label": model.label,
                "weight": model.weight or "",
                "seed": seed,
                "params": json.dumps(dict(params)),
                "columns": json.dumps([[c.name, c.dtype, c.view, c.feature] for c in chosen]),
            },
        ).with_id(node)

    plain = trainer("Trainer.plain", request)
    full = trainer("Trainer", training_set.columns)
    # After a rollback the latest blessed model is not the one that serves, and to be no worse than that is what counts.
    blessed = Resolver(
        strategy_class=ChampionStrategy,
        config={"champion": champion_folder(layout.model(data, model.name))},
        model=Channel(type=standard_artifacts.Model),
        model_blessing=Channel(type=standard_artifacts.ModelBlessing),
    ).with_id("LatestBlessedModel")
    verdicts = {
        against: Comparison(
            examples=examples.outputs["examples"],
            model=full.outputs["model"],
            baseline_model=baseline,
            eval_config=_eval_config(model, against),
            schema=schema.outputs["schema"],
            splits=["test"],
        ).with_id("Evaluator" if against == "blessed" else "Evaluator.plain")
        for against, baseline in (("blessed", blessed.outputs["model"]), ("plain", plain.outputs["model"]))
    }
    gate = Gate(
        model=full.outputs["model"],
        against_blessed=verdicts["blessed"].outputs["blessing"],
        against_plain=verdicts["plain"].outputs["blessing"],
    )
    base = layout.model(data, model.name)
    pusher = components.Pusher(
        model=full.outputs["model"],
        model_blessing=gate.outputs["blessing"],
        custom_config={"base": str(base), "spec": json.dumps(spec)},
        custom_executor_spec=executor_spec.ExecutorClassSpec(AtomicPush),
        push_destination=to_push(filesystem=to_push.Filesystem(base_directory=str(base))),
    )
    metadata = layout.mlmd(data)
    return Pipeline(
        pipeline_name=name,
        pipeline_root=str(layout.tfx(data) / name),
        enable_cache=False,
        components=[
            *(examples, statistics, schema, validator, transform, plain, full),
            *((blessed, *verdicts.values(), gate, pusher) if push else ()),
        ],
        metadata_connection_config=sqlite_metadata_connection_config(str(metadata)),
        # TFX would build a package of itself for the workers, for each component; ours run in this process, in no container.
        beam_pipeline_args=[
            f"--runner={DIRECT}",
            "--direct_num_workers=1",
            "--direct_running_mode=in_memory",
            "--sdk_container_image=none",
        ],
    )


@dataclass
class _Steps:
    """Which component runs, and how long each took. Not read from TFX's log: Transform changes the log level as it runs."""

    progress: Progress
    current: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.current = name
        self.progress(name, None)
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun
        self.progress(name, self.seconds[name])


def _runner(steps: _Steps, run_id: str) -> Any:
    """LocalDagRunner, one component after the other in this process, that tells ``steps`` of each; MLMD knows the run as ``run_id``."""
    from tfx.orchestration import metadata
    from tfx.orchestration.local import local_dag_runner, runner_utils
    from tfx.orchestration.portable import launcher, runtime_parameter_utils

    class Runner(local_dag_runner.LocalDagRunner):
        def run_with_ir(self, pipeline: Any, run_options: Any = None) -> None:
            runtime_parameter_utils.substitute_runtime_parameter(pipeline, {"pipeline-run-id": run_id})
            deployment = runner_utils.extract_local_deployment_config(pipeline)
            config = deployment.metadata_connection_config
            connection = getattr(config, config.WhichOneof("connection_config"))
            for node in (n.pipeline_node for n in pipeline.nodes):
                name = node.node_info.id
                with steps.step(name):
                    launcher.Launcher(
                        pipeline_node=node,
                        mlmd_connection=metadata.Metadata(connection),
                        pipeline_info=pipeline.pipeline_info,
                        pipeline_runtime_spec=pipeline.runtime_spec,
                        executor_spec=runner_utils.extract_executor_spec(deployment, name),
                        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
                    ).launch()

    return Runner()  # type: ignore[no-untyped-call]


@contextmanager
def _no_arguments() -> Iterator[None]:
    """TFX's executors read ``sys.argv`` as flags of theirs; what is there is for us (or for pytest), and may be no flag of theirs."""
    before = sys.argv
    sys.argv = before[:1]
    try:
        yield
    finally:
        sys.argv = before


class _LogFile(logging.FileHandler):
    """Says nothing of lines that its disk does not take: logging would print a traceback for each."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Pass over it."""


@contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """All logging goes to the file ``log``, none to the terminal, whatever its disk takes; put back afterwards."""
    to_file = _LogFile(log, encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("", "absl", "tensorflow", "apache_beam")]
    before = [(x, x.level, x.handlers[:], x.propagate) for x in loggers]
    for x in loggers:
        x.handlers, x.propagate = [], x.name != "root"
    loggers[0].handlers = [to_file]
    loggers[0].setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for x, level, handlers, propagate in before:
            x.handlers, x.propagate = handlers, propagate
            x.setLevel(level)
        to_file.close()


def run_pipeline(
    model: Model,
    training_set: TrainingSet,
    repo: Path,
    data: Path,
    spec: ModelSpecFile,
    run_id: str,
    progress: Progress = lambda component, seconds: None,
    seed: int = 20130101,
    params: Mapping[str, Any] = MappingProxyType({}),
    push: bool = True,
) -> PipelineRun:
    """Train, evaluate and, if blessed, push ``model`` on ``training_set``; 30-90 seconds for 80,000 rows on two cores.

    ``params`` reach the repository's ``run_fn`` as ``TrainingJob.params``. Without ``push`` it ends with the trained models.
    ``spec`` is ``tandem.json`` without version and creation time. Raises TrainingError that names the failed component.
    """
    settle_tensorflow()
    layout.mlmd_logs(data).mkdir(parents=True, exist_ok=True)
    log = layout.mlmd_logs(data) / f"{run_id}.log"
    steps = _Steps(progress)
    with _quiet(log), _no_arguments():
        with steps.step("libraries"):
            pipeline = _build(model, training_set, repo.resolve(), plain_path(data.resolve()), spec, seed, params, push)
            runner = _runner(steps, run_id)
        try:
            runner.run(pipeline)
        except Exception as e:
            logging.getLogger().exception("component %s failed", steps.current)
            raise TrainingError(f"training {model.name!r}: component {steps.current} failed: {_cause(e)}; see {log}") from e
        return _collect(pipeline, data, steps.seconds, log, push)


def _cause(error: BaseException) -> str:
    """The innermost error in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _anomalies(file: Path) -> dict[str, Any]:
    """Anomalies by feature in one split's file of ExampleValidator."""
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    found = anomalies_pb2.Anomalies()
    found.ParseFromString(file.read_bytes())
    return dict(found.anomaly_info)


def _collect(pipeline: Any, data: Path, seconds: dict[str, float], log: Path, push: bool) -> PipelineRun:
    """Reads this run's artifacts from the metadata store."""
    import tensorflow_model_analysis as tfma
    from ml_metadata import MetadataStore  # type: ignore[attr-defined, unused-ignore]
    from tfx.orchestration.metadata import sqlite_metadata_connection_config

    named = plain_path(data.resolve())
    store = MetadataStore(sqlite_metadata_connection_config(str(layout.mlmd(named))))
    root = str(layout.tfx(named) / pipeline.pipeline_info.pipeline_name)

    def own(uri: str) -> Path:
        return data.resolve() / Path(uri).relative_to(named)

    def latest(component: str, key: str) -> Any:
        found = [a for a in store.get_artifacts() if a.uri.startswith(f"{root}/{component}/{key}/")]
        return max(found, key=lambda a: a.id)

    models = [latest(node, "model") for node in ("Trainer", "Trainer.plain")]
    full, plain = (own(m.uri) / "Format-Serving" for m in models)
    mlmd = {"model": models[0].id, "plain": models[1].id, "pipeline_root": str(own(root))}
    if not push:
        return PipelineRun(full, plain, False, False, (), None, 0, seconds, log, mlmd)
    reasons = []
    for component, other in (("Evaluator", "the blessed model"), ("Evaluator.plain", "the model without stored features")):
        result = tfma.load_validation_result(latest(component, "evaluation").uri)
        for one in result.metric_validations_per_slice:
            for failure in one.failures:
                change = failure.metric_threshold.HasField("change_threshold") and failure.metric_key.is_diff
                name = failure.metric_key.name
                value = failure.metric_value.double_value.value
                reasons.append(f"{name} is {value:+.4f} against {other}" if change else f"{name} is {value:.4f}, beyond its bound")
    pushed = latest("Pusher", "pushed_model")
    was_pushed = pushed.custom_properties["pushed"].int_value == 1
    anomalies = 0
    folder = Path(latest("ExampleValidator", "anomalies").uri)
    for file in folder.glob("Split-*/SchemaDiff.pb"):
        anomalies += len(_anomalies(file))
    verdict = latest("Evaluator", "blessing")
    return PipelineRun(
        full=full,
        plain=plain,
        blessed=latest("Gate", "blessing").custom_properties["blessed"].int_value == 1,
        had_baseline="baseline_model_id" in verdict.custom_properties,
        baseline=verdict.custom_properties["baseline_model"].string_value,
        reasons=tuple(reasons),
        pushed=own(pushed.custom_properties["pushed_destination"].string_value) if was_pushed else None,
        anomalies=anomalies,
        seconds=seconds,
        log=log,
        mlmd={**mlmd, "evaluation": latest("Evaluator", "evaluation").id, "pushed_model": pushed.id},
    )
