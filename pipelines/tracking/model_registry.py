"""MLflow's Model Registry, brought to what the folders of models and ``ALIASES.json`` say.

A pushed version ``data/models/<name>/<n>`` becomes a version of MLflow's registered model ``<name>`` with the tag ``tandem_version`` = n.
MLflow counts by itself; as versions are registered in their order, its number is ours unless other hands made or deleted some. What it
holds is an MLflow model (the SavedModel, an ``MLmodel`` with the signature, ``tandem.json``), so that
``mlflow.pyfunc.load_model("models:/<name>@champion")`` gives the served model. Tags carry fingerprints, training set, training run, the
folder, scores and what happened to it; the aliases are ``champion`` and ``challenger``.

Everything here can be repeated, and goes on where a killed process stopped: what MLflow holds is looked at first. A file ``.mlflow.json``
beside the versions says what was sent where, so that nothing is loaded when there is no news.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from pipelines.lake import layout
from pipelines.lake.data_files import write_json
from pipelines.lake.runs import Run
from pipelines.registry.alias_file import current, model_folder, models_of, versions_on_disk
from pipelines.registry.scores import evaluations_of
from pipelines.tracking.stores import TRACKING_URI, artifact_root
from serving.aliases import ALIASES
from serving.request_errors import ModelError
from transforms.locks import lock

__all__ = ["VERSION_TAG", "catch_up", "news", "wanted"]

VERSION_TAG = "tandem_version"
STATE = ".mlflow.json"
LOCK = ".mlflow.lock"
_MOST = 5000  # characters of a tag


class WantedVersion(TypedDict):
    """What MLflow is to hold of a version: the training that made it, and its tags."""

    run: str
    tags: dict[str, str]


class WantedModel(TypedDict):
    """What MLflow is to hold of a model. ``aliases``: alias -> version; None: nobody knows now, and MLflow keeps what it has."""

    aliases: dict[str, int | None] | None
    versions: dict[str, WantedVersion]
    tags: dict[str, str]


def wanted(data: Path, model: str) -> WantedModel:
    """What MLflow is to hold of a model. Cheap."""
    folder = model_folder(data, model)
    try:
        aliases = current(folder)
    except ModelError:
        aliases = None
    versions: dict[str, WantedVersion] = {}
    scores = evaluations_of(data, model)
    history = [dict(e) for e in aliases.history] if aliases is not None else []
    for version in versions_on_disk(folder):
        spec = _json(folder / str(version) / layout.SPEC_FILE)
        if spec is None:
            continue  # not whole
        tags = {
            VERSION_TAG: str(version),
            "tandem_run": str(spec.get("run", "")),
            "tandem_training_set": str(spec.get("training_set", "")),
            "tandem_created": str(spec.get("created", "")),
            "tandem_source": str(folder / str(version)),
            **{f"fingerprint.{view}": print_ for view, print_ in spec.get("fingerprints", {}).items()},
            **scores.tags(version, str(spec.get("run", ""))),
        }
        mine = [e for e in history if e.get("version", e.get("champion")) == version and e.get("action") != "found"]
        changes = [{k: e[k] for k in ("at", "action", "by", "reason", "forced", "missed", "evaluation") if k in e} for e in mine]
        if changes:
            tags["tandem_changes"] = json.dumps(changes[-20:])[:_MOST]
        versions[str(version)] = {"run": tags["tandem_run"], "tags": {_key(k): v[:_MOST] for k, v in tags.items() if v}}
    out: WantedModel = {"aliases": None, "versions": versions, "tags": {}}
    if aliases is not None:
        out["aliases"] = {alias: getattr(aliases, alias) for alias in ALIASES}
        out["tags"] = {"tandem_last_change": json.dumps(history[-1])[:_MOST]} if history and history[-1]["action"] != "found" else {}
    return out


def _key(text: str) -> str:
    """As MLflow takes it; ``origin=JFK`` becomes ``origin:JFK``."""
    return re.sub(r"[^\w\-. :/]", "_", text.replace("=", ":"), flags=re.ASCII)[:250]


def news(data: Path, uri: str) -> list[str]:
    """The models of which MLflow at ``uri`` does not have all. Cheap."""
    return [m for m in models_of(data) if (asked := wanted(data, m))["versions"] and _sent_mark(data, m) != _mark(asked, uri)]


def catch_up(
    data: Path, uri: str, experiment: str = "tandem", say: Callable[[str], None] = lambda line: None, models: list[str] | None = None
) -> int:
    """Tell MLflow at ``uri`` all that is new; how many models had news. Raises what MLflow's client raises when the store is away."""
    names = news(data, uri) if models is None else models
    for name in names:
        folder = model_folder(data, name)
        with lock(folder / LOCK):  # two at once would register a version twice
            asked = wanted(data, name)
            if _sent_mark(data, name) == _mark(asked, uri) and models is None:
                continue
            with _as_mlflows_own(uri):
                for line in _Mirror(data, uri, experiment, name).bring(asked):
                    say(line)
            write_json(folder / STATE, {"mark": _mark(asked, uri)})
    return len(names)


def _sent_mark(data: Path, model: str) -> str:
    return str((_json(model_folder(data, model) / STATE) or {}).get("mark", ""))


def _mark(asked: WantedModel, uri: str) -> str:
    return hashlib.sha256(json.dumps([asked, uri], sort_keys=True).encode()).hexdigest()


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def _as_mlflows_own(uri: str) -> Iterator[None]:
    """``uri`` as MLflow's own tracking URI meanwhile: its SQLite store asks that one for a model, whatever client it is called by."""
    # Before MLflow is imported: a server that is away is updated later, not waited for.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    import mlflow

    # MLflow keeps it in the environment too, for child processes; what stood there, or did not, is what our own settings are read from.
    before, said = mlflow.get_tracking_uri(), os.environ.get(TRACKING_URI)
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(TRACKING_URI, None) if said is None else os.environ.update({TRACKING_URI: said})


class _Mirror:
    def __init__(self, data: Path, uri: str, experiment: str, model: str) -> None:
        from mlflow.tracking import MlflowClient

        self.data, self.uri, self.model, self.experiment = data, uri, model, experiment
        self.client = MlflowClient(uri, registry_uri=uri)

    def bring(self, asked: WantedModel) -> list[str]:
        said: list[str] = []
        self._registered(asked["tags"])
        known = self._known()
        for version, one in sorted(asked["versions"].items(), key=lambda item: int(item[0])):
            if version not in known:
                known[version] = self._new(version, one)
                said.append(f"MLflow: {self.model} version {known[version].version} is version {version}")
            have = known[version].tags
            for key, value in one["tags"].items():
                if have.get(key) != value:
                    self.client.set_model_version_tag(self.model, known[version].version, key, value)
        for version in known.keys() - asked["versions"].keys():
            if known[version].tags.get("tandem_state") != "withdrawn":
                self.client.set_model_version_tag(self.model, known[version].version, "tandem_state", "withdrawn")
        if asked["aliases"] is not None:
            self._aliases({a: known[str(v)].version for a, v in asked["aliases"].items() if v is not None and str(v) in known})
        return said

    def _registered(self, tags: dict[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_registered_model(self.model)
        except MlflowException as e:
            if e.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            found = self.client.create_registered_model(self.model, tags={"tandem": "true"})
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self.client.set_registered_model_tag(self.model, key, value)

    def _known(self) -> dict[str, Any]:
        """MLflow's versions by ours."""
        out: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_model_versions(f"name = '{self.model}'", max_results=200, page_token=token)
            for found in page:
                if VERSION_TAG in found.tags and found.status == "READY":
                    out[found.tags[VERSION_TAG]] = found
            token = page.token
            if not token:
                return out

    def _new(self, version: str, one: WantedVersion) -> Any:
        """Upload the version as an MLflow model, and register that."""
        run, experiment = self._run(one["run"])
        folder = model_folder(self.data, self.model) / version
        logged = self._uploaded(experiment, version, one["run"]) or self._upload(experiment, version, one["run"], run, folder)
        return self.client.create_model_version(
            self.model, source=f"models:/{logged.model_id}", run_id=run, tags=one["tags"], model_id=logged.model_id, await_creation_for=30
        )

    def _uploaded(self, experiment: str, version: str, made_by: str) -> Any:
        """What a mirror that was killed between upload and registration left."""
        where = f"name = '{self.model}-{version}' AND tags.tandem_run = '{made_by}'"
        found = [m for m in self.client.search_logged_models([experiment], where) if str(m.status) == "READY"]
        return found[0] if found else None

    def _upload(self, experiment: str, version: str, made_by: str, run: str | None, folder: Path) -> Any:
        tags = {VERSION_TAG: version, "tandem_run": made_by}
        logged = self.client.create_logged_model(
            experiment_id=experiment, name=f"{self.model}-{version}", source_run_id=run, tags=tags, model_type="tandem"
        )
        try:
            with tempfile.TemporaryDirectory() as work:
                whole = Path(work) / "model"
                write_mlflow_model(folder, whole, run, logged.model_id)
                self.client.log_model_artifacts(logged.model_id, str(whole))
        except Exception:
            self.client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        return self.client.finalize_logged_model(logged.model_id, "READY")

    def _run(self, run: str) -> tuple[str | None, str]:
        """MLflow's run of the training, where it has it, and the experiment."""
        links = Run(layout.run(self.data, run), _json(layout.run(self.data, run) / layout.MANIFEST) or {}).manifest.get("links") or {}
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        found = self.client.search_runs(experiments, f"tags.`tandem.run` = '{run}'", max_results=1) if run and experiments else []
        if not found and links.get("mlflow_run"):
            try:
                found = [self.client.get_run(str(links["mlflow_run"]))]
            except Exception:
                found = []
        if found:
            return str(found[0].info.run_id), str(found[0].info.experiment_id)
        ours = self.client.get_experiment_by_name(self.experiment)
        if ours is not None:
            return None, str(ours.experiment_id)
        return None, str(self.client.create_experiment(self.experiment, artifact_location=artifact_root(self.uri, self.data)))

    def _aliases(self, asked: Mapping[str, str]) -> None:
        have = {alias: str(v) for alias, v in self.client.get_registered_model(self.model).aliases.items()}
        for alias in ALIASES:
            if alias in asked and have.get(alias) != str(asked[alias]):
                self.client.set_registered_model_alias(self.model, alias, asked[alias])
            elif alias not in asked and alias in have:
                self.client.delete_registered_model_alias(self.model, alias)


def write_mlflow_model(folder: Path, target: Path, run: str | None = None, model_id: str | None = None) -> None:
    """The pushed version in ``folder`` as an MLflow model in ``target``: a copy, with ``MLmodel`` and the requirements."""
    import numpy as np
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    spec = json.loads((folder / layout.SPEC_FILE).read_text("utf-8"))
    kinds: dict[str, Any] = {"float32": np.dtype("float32"), "int64": np.dtype("int64"), "string": np.dtype("O")}
    signature = ModelSignature(
        inputs=Schema([TensorSpec(kinds[dtype], (-1, 1), name) for name, dtype in spec["inputs"]]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 1), spec.get("output", "probability"))]),
    )
    made: dict[str, Any] = {"artifact_path": folder.name, "run_id": run, "signature": signature, "model_id": model_id}
    facts = {k: spec.get(k) for k in ("name", "version", "fingerprints", "feature_service", "training_set", "run", "created")}
    model = Model(**made, metadata={"tandem": facts})
    target.mkdir(parents=True)
    shutil.copytree(folder, target / "model")
    from importlib.metadata import version

    (target / "requirements.txt").write_text("".join(f"{p}=={version(p)}\n" for p in ("tensorflow", "tensorflow-transform", "tf_keras")))
    model.add_flavor("tensorflow", saved_model_dir="model", meta_graph_tags=["serve"], signature_def_key="serving_default",
                     model_type="tf1-estimator", code=None)  # fmt: skip
    model.add_flavor("python_function", loader_module="mlflow.tensorflow", python_version=_python(), env={"virtualenv": "python_env.yaml"})
    (target / "python_env.yaml").write_text(f"python: {_python()}\ndependencies:\n- -r requirements.txt\n")
    model.save(str(target / "MLmodel"))


def _python() -> str:
    import platform

    return platform.python_version()
