"""``tandem train``: spine, point-in-time features, training set, TFX pipeline, report."""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.feature_store.feature_services import defined_services, edited_since, unlike_the_registry
from pipelines.lake import layout, provenance, runs, shared
from pipelines.lake.counted import counted
from pipelines.project import recording
from pipelines.project.config import load_settings
from pipelines.training import as_of
from pipelines.training.definition import Model
from pipelines.training.evidence import write_evidence
from pipelines.training.saved_models import signature
from pipelines.training.training_report import Report, score_all
from pipelines.training.training_set import build_training_set, feature_references
from pipelines.training.user_code import ask_spine
from serving.registry_place import feast_store
from transforms.errors import ConfigError, DataError, TandemError
from transforms.tensorflow_settings import settle_tensorflow

if TYPE_CHECKING:
    from pipelines.training.tfx_pipeline import PipelineRun
    from pipelines.training.training_set import TrainingSet
    from serving.models import ModelSpecFile
    from serving.projections import FeatureSet

__all__ = ["Trained", "make_set", "model_spec", "predict", "score_report", "scores", "train"]


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


def model_spec(model: Model, training_set: TrainingSet, run: str) -> ModelSpecFile:
    """``tandem.json`` of a model version; whoever pushes it sets the version and the creation time."""
    spec: ModelSpecFile = {
        "name": model.name,
        "version": 0,
        "fingerprints": training_set.fingerprints,
        "feature_service": model.features if isinstance(model.features, str) else "",
        "entity_keys": list(model.entity_keys),
        "request_fields": [[f.name, str(f.dtype)] for f in model.request_fields],
        "nullable": [f.name for f in model.request_fields if not f.required and f.name not in model.entity_keys],
        "features": [f"{c.view}:{c.feature}" for c in training_set.columns if not c.is_request],
        "inputs": [[c.name, c.dtype] for c in training_set.columns],
        "output": "probability",
        "training_set": training_set.id,
        "run": run,
    }
    if training_set.record.projections:
        spec["projections"] = training_set.record.projections
    return spec


def predict(saved_model: Path, table: Any, inputs: list[tuple[str, str]], output: str = "probability", batch: int = 8192) -> Any:
    """Probabilities of shape [n] (float32) by the SavedModel's signature, for a table with the raw inputs."""
    import tensorflow as tf

    from serving.models import to_model_inputs

    function = signature(saved_model)
    parts = []
    for start in range(0, table.num_rows, batch):
        arrays = to_model_inputs(table.slice(start, batch), inputs)
        parts.append(function(**{name: tf.constant(arrays[name], dtype) for name, dtype in inputs})[output].numpy()[:, 0])
    return np.concatenate(parts)


@contextmanager
def _only_one(data: Path) -> Iterator[None]:
    """Holds the data folder's training lock: MLMD's SQLite and the versions are for one writer."""
    with shared.try_alone(data, layout.training_lock(data)) as mine:
        if not mine:
            raise TandemError(f"another training is running ({layout.training_lock(data)}); wait until it ends")
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
    seed: int = 20130101,
    params: Mapping[str, Any] = MappingProxyType({}),
    parent: str | None = None,
    push: bool = True,
    say: Callable[[str], None] = lambda line: None,
    once: str | None = None,
) -> Trained:
    """Train ``model`` on the requests asked in [start, end) and push it to ``data/models/<name>/<version>`` if it is blessed.

    ``repo`` is the feature repository (with feature_store.yaml), ``data`` the data folder. ``progress(step, None)`` is called when a step
    starts, ``progress(step, seconds)`` when it has ended, ``say(line)`` with what is worth a line. ``params`` reach the repository's
    ``run_fn``, over those that the model declares. Without ``push`` it is an experiment: trained and scored in
    ``data/tfx/experiments/<run>`` beside any others at the same time, and neither held against the gate nor pushed.
    ``once`` is kept in the run, for whoever looks whether it was trained already.
    It is a run of kind ``train``, whose manifest holds all that it takes to make set and model again. Raises a TandemError of one line.
    """
    repo, data = Path(repo).resolve(), Path(data).resolve()
    if start.tzinfo is None or end.tzinfo is None or start >= end:
        raise ConfigError(
            f"training range {start.isoformat()} to {end.isoformat()}: give a start (--start) before the end (--end), both with a time zone"
        )
    settle_tensorflow()
    home = recording.ProjectRef(repo, load_settings(repo, data=data), data)
    asked: dict[str, Any] = {
        "model": model.name,
        "range": [t.astimezone(UTC).isoformat() for t in (start, end)],
        "seeds": {"seed": seed},
        "params": (chosen := model.with_params(params)),
        **({"once": once} if once is not None else {}),
    }
    with _only_one(data) if push else nullcontext(), recording.recorded(home, "train", now=now(), parent=parent, **asked) as run:
        trained = _train(model, home, run, start, end, progress, now, seed, chosen, push, say)
        if trained.pushed is not None:
            from pipelines.registry import register  # late: it knows MLflow

            register(home, model.name, trained.pushed, run)  # type: ignore[arg-type]  # all of a Repo that it looks at
    return trained


def _train(
    model: Model,
    home: recording.ProjectRef,
    run: runs.Run,
    start: datetime,
    end: datetime,
    progress: Callable[[str, float | None], None],
    now: Callable[[], datetime],
    seed: int,
    params: Mapping[str, Any],
    push: bool,
    say: Callable[[str], None],
) -> Trained:
    repo, data = home.path, home.data

    @contextmanager
    def step(name: str) -> Iterator[None]:
        begun = time.monotonic()
        progress(name, None)
        yield
        progress(name, time.monotonic() - begun)

    with step("spine"):
        _have_inputs(model, home)
        spine, events = _spine(model, repo, data, start, end)
    features = _features(model, repo, data, say)
    with step("point-in-time features"):
        training_set, query = make_set(model, spine, repo, data, now(), events, features=features)
    query = {"start": start.astimezone(UTC).isoformat(), "end": end.astimezone(UTC).isoformat(), **query}
    rows = {f"rows/{name}": n for name, n in training_set.record.rows.items()}
    run.add(
        inputs=query.pop("inputs"),
        definitions={**_definitions(data, query), f"model {model.name}": json.loads(json.dumps(model.canonical()))},
        fingerprints=training_set.fingerprints,
        training_set=training_set.id,
        features=query["features"],
        query=query,
        counts=rows,
        outputs=provenance.hashed(data, {"training_set": training_set.path}),
    )
    say("loading TensorFlow and TFX")
    from pipelines.training.tfx_pipeline import run_pipeline

    below = data if push else layout.experiments(data, run.id)
    spec = model_spec(model, training_set, run.id)
    pipeline = run_pipeline(model, training_set, repo, below, spec, run.id, progress, seed, params, push)
    with step("report"):
        report, label, predictions = score_report(model, training_set, pipeline)
        untold = write_evidence(run.folder, pipeline.full, pipeline.plain, label, predictions)
    trained = Trained(model.name, run.id, training_set, pipeline, report)
    run.add(
        metrics=scores(report),
        seconds_of={name: round(value, 3) for name, value in pipeline.seconds.items()},
        blessed=pipeline.blessed,
        **({"version": trained.version} if trained.version is not None else {}),
        **({"reasons": list(pipeline.reasons)} if pipeline.reasons else {}),
        **({"untold": untold} if untold else {}),
        links={"mlmd_run": run.id, "mlmd": pipeline.mlmd, "mlmd_store": layout.mlmd(below).relative_to(data).as_posix()},
        outputs=provenance.hashed(
            data,
            {"model": pipeline.full, "plain": pipeline.plain, **({"version": trained.pushed} if trained.pushed is not None else {})},
        ),
    )
    return trained


def scores(report: Report) -> dict[str, float]:
    """The metrics of a report by name: ``test/auc``, ``test/log_loss/origin=JFK``, ``test/plain/auc``."""
    out: dict[str, float] = {}
    for s in report.scores:
        kind = {"all features": "", "request fields": "plain/"}.get(s.predictor)
        if kind is None:
            continue
        for name, value in (("auc", s.auc), ("log_loss", s.log_loss)):
            if value is not None:
                out[f"test/{kind}{name}{'/' + s.slice if s.slice else ''}"] = value
    return out


def _have_inputs(model: Model, home: recording.ProjectRef) -> None:
    """From an object store: the event logs, which a spine function may read, and the versions so far, which the new one is held against."""
    from pipelines.registry.alias_file import model_folder, versions_on_disk

    read = [r.manifest.get("inputs", {}) for r in runs.list_runs(home.data) if r.kind == "batch"]
    tops = {"events"} | {f["file"].split("/")[0] for inputs in read for files in inputs.values() for f in files}
    shared.have_files(home.data, sorted(tops - set(layout.NOT_EVENTS)))
    versions_on_disk(model_folder(home.data, model.name))


def _spine(model: Model, repo: Path, data: Path, start: datetime, end: datetime) -> tuple[Any, as_of.Files]:
    """The labelled requests, and every event file that they were made from."""
    folders = as_of.event_folders(data, (r.manifest for r in runs.list_runs(data) if r.kind == "batch"))
    for _ in range(3):
        before = as_of.state(folders)
        spine, events = ask_spine(repo, model.spine, data, start, end), as_of.listing(data, folders)
        if as_of.state(folders) == before:
            return spine, events
    raise DataError(f"event files below {data} are changing while they are read; wait until the writer is done, then train again")


def _features(model: Model, repo: Path, data: Path, say: Callable[[str], None]) -> FeatureSet:
    """The model's features, by what is applied; said, and where the repository's files mean another thing by the service, by a view or by
    what computes it that too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = feature_references(feast_store(repo), model.features)
        if isinstance(model.features, str):
            try:
                defined = defined_services(repo).get(model.features)
            except Exception as error:  # what is applied can be trained on, whatever the files say by now
                why = " ".join(str(error).split())[:200]
                say(f"feature service {model.features!r}: the definitions cannot be read ({why}); using the applied one")
            else:
                if defined is None:
                    say(f"feature service {model.features!r} is no longer defined; using the applied one")
                elif told := unlike_the_registry(defined, found):
                    say(told)
        with suppress(Exception):  # of files that cannot be read something is said above, or by what reads them next
            for line in edited_since(repo, data, dict.fromkeys(found.projection(name).view for name in found.names)):
                say(line)
    of = f" of feature service {model.features!r}" if isinstance(model.features, str) else ""
    counts = Counter(view for view, _ in found.pairs)
    say(f"{counted(found.pairs, 'feature')}{of}: {', '.join(f'{n} of {view}' for view, n in counts.items())}")
    return found


def _definitions(data: Path, query: Mapping[str, Any]) -> dict[str, Any]:
    """What the views' rows were made of, by the manifests of the batch runs that made them."""
    out: dict[str, Any] = {}
    for r in (r for r in runs.list_runs(data) if r.kind == "batch"):
        of = r.record.definitions
        out |= {v: of[v] for v, ids in query.get("runs", {}).items() if r.id in ids and v in of}
    return out


def make_set(
    model: Model,
    spine: Any,
    repo: Path,
    data: Path,
    now: datetime,
    events: as_of.Files,
    then: Mapping[str, as_of.Pin] | None = None,
    features: FeatureSet | None = None,
    target: Path | None = None,
) -> tuple[TrainingSet, dict[str, Any]]:
    """The training set, written below ``target`` (default: ``data``), and its query with the inputs that answer it.

    ``then``: the offline files of a query that was asked before (as of now otherwise); ``features``: its features.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        store = feast_store(repo)
        features = features if features is not None else feature_references(store, model.features)
        views = dict.fromkeys(features.projection(name).view for name in features.names)
        found, files = (dict(then), {}) if then is not None else as_of.pins(store, views, data)
        made = build_training_set(model, spine, store, target or data, now, found, features)
    kept = ("model", "features", "projections", "fingerprints", "spine_sha256", "borders_us", "borders")
    said = made.record.to_dict()
    asked = {k: said[k] for k in kept if k in said}
    of_runs = {
        name.partition("/")[2]: sorted({part[4:] for f in each for part in f["file"].split("/") if part.startswith("run=")})
        for name, each in files.items()
    }
    query = {**asked, "as_of": now.astimezone(UTC).isoformat(), "spine": model.spine, "values_sha256": made.record.values_sha256}
    query |= {"runs": of_runs, "tags": {name: pin.fingerprint for name, pin in found.items()}}
    return made, {**query, "inputs": {**events, **files}}


def score_report(model: Model, training_set: TrainingSet, pipeline: PipelineRun) -> tuple[Report, Any, dict[str, Any]]:
    """The scores on the test split, with its labels and every predictor's probabilities, each of shape [n] (float64)."""
    record = training_set.record
    test = training_set.read("test")
    label = test.column(model.label).to_numpy().astype(np.float64)
    rate = record.splits["train"].positives / record.splits["train"].rows
    inputs = [(c.name, str(c.dtype)) for c in training_set.columns]
    request = [(c.name, str(c.dtype)) for c in training_set.columns if c.is_request]
    predictions = {
        "base rate": np.full(len(label), rate),
        "request fields": predict(pipeline.plain, test, request).astype(np.float64),
        "all features": predict(pipeline.full, test, inputs).astype(np.float64),
    }
    slices = {s: test.column(s).to_pylist() for s in model.slices}
    first, second = record.borders
    return Report(model.name, record.rows, (first, second), score_all(label, predictions, slices)), label, predictions
