"""``tandem reproduce``: a past run's artifacts made again from its manifest, beside what is there, and compared.

The question of then is asked again: the recorded event files (no later ones), the recorded offline rows (no newer run's), the recorded
seed and parameters. Code, definitions and libraries are those of now: where they are not those of then, that is said as the cause.
Nothing that lives is touched: all is made in ``data/reproduce/<time>``, and removed unless ``keep``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

from pipelines.lake import layout, provenance, runs
from pipelines.lake.graphs import apply_graph
from pipelines.lake.run_records import BatchRecord, TrainRecord
from pipelines.lineage.artifacts import (
    Artifact,
    ArtifactDict,
    Verdict,
    files_of,
    same_files,
    same_predictions,
    same_scores,
    same_tables,
    same_weights,
    worst,
)
from pipelines.lineage.diff import CAUSES, Difference, diff
from pipelines.project import recording
from pipelines.project.config import BatchSettings
from pipelines.project.repository import Repo
from pipelines.training import as_of
from pipelines.training.train_job import make_set, model_spec, predict, score_report, scores
from pipelines.training.user_code import ask_spine
from serving.projections import FeatureSet
from transforms.definitions import Field
from transforms.errors import DataError, TandemError
from transforms.tensorflow_settings import settle_tensorflow

__all__ = ["Reproduced", "render", "reproduce"]

Say = Callable[[str], None]


class Reproduced(TypedDict):
    """What came of making a run again; JSON-able."""

    run: str
    kind: str
    verdict: Verdict
    """The worst of the artifacts'."""
    causes: list[str]
    """What changed since the run, a line each."""
    notes: list[str]
    artifacts: list[ArtifactDict]
    folder: str | None
    """Where the reproduced files are, if they are kept."""
    seconds: float


def reproduce(
    repo: Repo,
    run_id: str,
    *,
    model: bool = True,
    keep: bool = False,
    say: Say = lambda line: None,
    timed: Callable[[str, float | None], None] = lambda step, seconds: None,
) -> Reproduced:
    """Make a run of kind train or batch again and compare. Raises DataError for a run that cannot be made again at all."""
    run = runs.find(repo.data, run_id)
    _check(run)
    begun = time.monotonic()
    folder = layout.reproduce(repo.data) / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    with recording.recorded(repo, "reproduce", of_run=run.id) as own:
        say(f"checking what has changed since {run.id}")
        found = changed(repo, run.manifest)
        inputs, notes = _inputs(repo.data, run.manifest)
        causes = [*(f"input changed: {c}" for c in inputs), *(_cause(d) for d in found)]
        for line in (*notes, *causes[:8]):
            say(line)
        try:
            folder.mkdir(parents=True)
            make = _training if run.kind == "train" else _batch
            try:
                artifacts = make(repo, run, folder, model, say, timed)
            except TandemError as error:  # what it was made of is gone, or no longer fits
                what = "training set" if run.kind == "train" else "rows"
                artifacts = [Artifact(what, "different", f"it cannot be reproduced now: {' '.join(str(error).split())}")]
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
        result: Reproduced = {
            "run": run.id,
            "kind": run.kind,
            "verdict": worst(artifacts),
            "causes": causes,
            "notes": notes,
            "artifacts": [a.to_dict() for a in artifacts],
            "folder": str(folder) if keep else None,
            "seconds": round(time.monotonic() - begun, 1),
        }
        counts = {v: sum(a.verdict == v for a in artifacts) for v in ("identical", "equal", "different")}
        own.add(counts=counts, verdict=result["verdict"], result={k: v for k, v in result.items() if k != "folder"})
    return result


def _check(run: runs.Run) -> None:
    if run.kind not in ("train", "batch"):
        raise DataError(f"run {run.id} is of kind {run.kind}; only train and batch runs can be reproduced")
    if run.kind == "train" and not run.as_(TrainRecord).query:
        raise DataError(f"run {run.id} ended ({run.status}) before its training set was made; there is nothing to reproduce")
    if run.kind == "batch" and run.status != "complete":
        raise DataError(f"run {run.id} is {run.status}, not complete; run 'tandem batch' again instead")


def changed(repo: Repo, then: Mapping[str, Any]) -> list[Difference]:
    """What differs between the world of a run and the present one: definitions, code, libraries, in this order."""
    now = provenance.facts(repo)
    known = then.get("definitions") or {}
    present = {n: d for n, d in (now.get("definitions") or {}).items() if n in known}
    present |= {n: runs_model for n in known if (runs_model := _model_now(repo, n)) is not None}
    world = {**then, **now, "definitions": present}
    # Settings: a batch run is made again with those of then, and no other section changes what a training gives.
    wanted = [name for name in CAUSES if name not in ("inputs", "parameters", "settings")]
    return [d for d in diff(then, world) if d.section in wanted]


def _model_now(repo: Repo, name: str) -> Any:
    if not name.startswith("model "):
        return None
    found = _find_model(repo, name.removeprefix("model "))
    return None if found is None else json.loads(json.dumps(found.canonical()))


def _find_model(repo: Repo, name: str) -> Any:
    for reference in repo.settings.models:
        try:
            model = repo.attribute(reference)
        except TandemError:
            continue
        if model.name == name:
            return model
    return None


def _cause(d: Difference) -> str:
    what = {"definitions": "definition changed", "code": "code changed", "libraries": "library changed"}
    return f"{what[d.section]}: {d}"


def _inputs(data: Path, manifest: Mapping[str, Any]) -> tuple[list[as_of.Changed], list[str]]:
    """The inputs that are not as they were, and what is worth knowing of the others."""
    files = [f for what in ("inputs", "past") for each in (manifest.get(what) or {}).values() for f in each]
    found = as_of.changes(data, files)
    harmless = [c for c in found if c.how == "grown"]
    notes = [f"{c}: no harm" for c in harmless[:3]]
    folders = as_of.event_folders(data, [manifest])
    known = {f["file"] for f in files}
    later = [p for p in as_of.names(data, folders) if p not in known]
    if later:
        notes.append(f"{len(later):,} event files that the run did not read ({later[0]}...) are left out")
    return [c for c in found if c.how != "grown"], notes


def _quiet(repo: Repo, data: Path, **changes: Any) -> Repo:
    """The repository with its data in ``data``, and nobody told."""
    settings = repo.settings
    if hasattr(settings, "tracking"):
        changes["tracking"] = settings.tracking.model_copy(update={"trackers": []})
    return dataclasses.replace(repo, settings=settings.model_copy(update={"data": data, **changes}))


# ------------------------------------------------------------------------------------------------------------------------ training


def _training(
    repo: Repo, run: runs.Run, scratch: Path, with_model: bool, say: Say, timed: Callable[[str, float | None], None]
) -> list[Artifact]:
    settle_tensorflow()
    m, data = run.as_(TrainRecord), repo.data
    query = m.query
    model = _as_it_was(repo, m)
    events = {n: f for n, f in m.inputs.items() if not n.startswith("offline/")}
    say("spine: querying the event log as of " + query["as_of"][:19])
    then = as_of.past(data, events, scratch / "past")
    start, end = (datetime.fromisoformat(query[n]) for n in ("start", "end"))
    spine = ask_spine(repo.path, query["spine"], then, start, end)
    pins = {
        name.partition("/")[2]: as_of.Pin(
            tuple(str(data / f["file"]) for f in files if (data / f["file"]).is_file()), query["tags"].get(name.partition("/")[2])
        )
        for name, files in m.inputs.items()
        if name.startswith("offline/")
    }
    features = FeatureSet.of(query["features"], query.get("projections"))
    say("point-in-time features: joining with the original rows")
    made, _ = make_set(model, spine, repo.path, data, datetime.fromisoformat(query["as_of"]), {}, pins, features, scratch)
    out = [_same_set(data, m, made)]
    if not with_model:
        return out
    if not m.metrics:
        return [*out, Artifact("model", "different", "the run ended before it produced a model")] if m.status == "complete" else out
    say("loading TensorFlow and TFX")
    from pipelines.training.tfx_pipeline import run_pipeline

    seed = int(m.seeds["seed"])
    spec = model_spec(model, made, run.id)
    pipeline = run_pipeline(model, made, repo.path, scratch, spec, f"reproduce-{run.id}", timed, seed, m.params, push=False)
    inputs = {"model": [(c.name, str(c.dtype)) for c in made.columns]}
    inputs["plain"] = [(c.name, str(c.dtype)) for c in made.columns if c.is_request]
    test = made.read("test")
    for name, folder in (("model", pipeline.full), ("plain", pipeline.plain)):
        then_files = {o["name"].removeprefix(f"{name}/"): o for o in m.outputs if o["name"].startswith(f"{name}/")}
        before = _kept(data, then_files)
        label = "model" if name == "model" else "model without stored features"
        out.append(same_weights(f"{label}: weights", then_files, before, folder))
        columns = inputs[name]
        again = predict(folder, test, columns)
        once = predict(before, test, columns) if before is not None else None
        out.append(same_predictions(f"{label}: predictions on the test split", once, again))
    return [*out, same_scores("scores", m.metrics, scores(score_report(model, made, pipeline)[0]))]


def _kept(data: Path, files: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """The SavedModel of then, if its files are still there as they were."""
    pb = files.get("saved_model.pb")
    if (
        pb is None
        or not files
        or as_of.changes(data, [{"file": o["path"], "size": o["bytes"], "sha256": o["sha256"]} for o in files.values()])
    ):
        return None
    return (data / str(pb["path"])).parent


def _as_it_was(repo: Repo, run: TrainRecord) -> Any:
    """The model with all that decides its training set as recorded; its functions are those of now."""
    found = _find_model(repo, run.model or "")
    if found is None:
        raise DataError(f"model {run.model!r} of run {run.id} is no longer defined; put it back into models in tandem.yaml")
    then = run.query["model"]
    split = tuple(datetime.fromisoformat(s) if isinstance(s, str) else s for s in then["split"])
    fields = [Field(name, dtype, required=required) for name, dtype, required in then["request_fields"]]
    keep = {"slices": [s for s in found.slices if s in {f.name for f in fields}]}
    return dataclasses.replace(
        found,
        label=then["label"],
        weight=then["weight"],
        entity_keys=then["entity_keys"],
        request_fields=fields,
        features=then["features"],
        split=split,
        label_delay=timedelta(microseconds=then["label_delay"]),
        **keep,
    )


def _same_set(data: Path, then_run: TrainRecord, made: Any) -> Artifact:
    then = {o["name"].removeprefix("training_set/"): o for o in then_run.outputs if o["name"].startswith("training_set/")}
    rows = sum(made.record.rows.values())
    files = same_files("training set", {n: o for n, o in then.items() if n.endswith(".parquet")}, made.path)
    query = then_run.query
    if files.verdict == "identical":
        return dataclasses.replace(files, detail=f"{rows:,} rows, {files.detail}")
    if made.record.values_sha256 == query["values_sha256"]:
        return Artifact("training set", "equal", f"{rows:,} rows with equal values, tolerance 0; the files were written differently")
    why = []
    if made.record.spine_sha256 != query["spine_sha256"]:
        why.append("the labelled requests differ")
    elif made.fingerprints != query["fingerprints"]:
        why.append("the rows were computed by other graphs")
    else:
        why.append("the features of equal requests differ")
    before = layout.training_set(data, str(then_run.training_set))
    if before.is_dir():
        why.append(same_tables(before, made.path))
    return Artifact("training set", "different", "; ".join(why))


# --------------------------------------------------------------------------------------------------------------------------- batch


def _batch(
    repo: Repo, run: runs.Run, scratch: Path, with_model: bool, say: Say, timed: Callable[[str, float | None], None]
) -> list[Artifact]:
    from pipelines.batch.batch_job import run_batch

    m = run.as_(BatchRecord)
    # A run that went on with another's tiles is made from the events of before as well: the rows are the same.
    files = {n: [*m.inputs.get(n, ()), *m.past.get(n, ())] for n in {*m.inputs, *m.past}}
    data = as_of.past(repo.data, files, scratch / "data")
    for place in (layout.offline, layout.graphs, layout.tracking, layout.mlflow_store, layout.mlflow_artifacts):
        if place(data).is_symlink():
            place(data).unlink()
    for name, fingerprint in m.fingerprints.items() if m.pinned else ():
        (layout.graphs(data) / name).mkdir(parents=True)
        os.symlink(layout.graph(repo.data, name, fingerprint), layout.graph(data, name, fingerprint))
        apply_graph(data, name, fingerprint)
    recorded = m.settings.get("batch")
    changes = {"batch": BatchSettings(**recorded)} if recorded else {}
    there = _quiet(repo, data, **changes)
    start, end = (datetime.fromisoformat(t) for t in m.range)
    made = run_batch(there, start, end, now=datetime.fromisoformat(m.created), pinned=m.pinned, progress=say).run
    out = []
    for name in there.groups:
        # Rows alone: the cover beside them names its run, which this one is not.
        before = {n: f for n, f in files_of(m, repo.data, run.id, name).items() if n.endswith(".parquet")}
        folder = layout.offline_run(data, name, made.id)
        if not before:
            out.append(Artifact(f"rows of {name}", "different", "the original run has none, or its files were deleted"))
            continue
        found = same_files(f"rows of {name}", before, folder)
        if found.verdict != "identical" and layout.offline_run(repo.data, name, run.id).is_dir():
            told = same_tables(layout.offline_run(repo.data, name, run.id), folder, sort=True)
            equal = told == "all values are equal"
            found = Artifact(found.name, "equal" if equal else "different", f"{told}{', tolerance 0; the files differ' if equal else ''}")
        rows = made.as_(BatchRecord).rows.get(name, 0)
        out.append(dataclasses.replace(found, detail=f"{rows:,} rows, {found.detail}"))
    for name, fingerprint in m.fingerprints.items():
        now = made.record.fingerprints.get(name)
        same = now == fingerprint
        detail = f"fingerprint {fingerprint[:12]}" if same else f"fingerprint {fingerprint[:12]} then, {str(now)[:12]} now"
        out.append(Artifact(f"graph of {name}", "identical" if same else "different", detail))
    return out


# ---------------------------------------------------------------------------------------------------------------------- for people


def render(result: Reproduced) -> list[str]:
    """The outcome, one line each."""
    out = [f"run {result['run']}: {_OF_ALL[result['verdict']]}"]
    out += [f"  {a['verdict']:<9}  {a['name']}: {a['detail']}" for a in result["artifacts"]]
    out += [f"note: {n}" for n in result["notes"]]
    if result["verdict"] == "different" and result["causes"]:
        out += ["why:", *_some(result["causes"])]
    elif result["verdict"] == "different":
        out.append("why: no input, definition, code or library changed; remaining causes are randomness, time or hardware")
    elif result["causes"]:
        out += ["changed since, without effect on the result:", *_some(result["causes"])]
    if result["folder"]:
        out.append(f"the reproduced files are in {result['folder']}")
    return [*out, f"{result['seconds']:,.1f} s"]


_OF_ALL = {
    "identical": "reproduced, identical bytes",
    "equal": "reproduced, equal within the stated tolerance",
    "different": "reproduced, with differences",
}


def _some(lines: Iterable[str], most: int = 10) -> list[str]:
    every = list(lines)
    return [f"  {line}" for line in every[:most]] + ([f"  and {len(every) - most} more (--json has them all)"] if len(every) > most else [])
