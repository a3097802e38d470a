"""MLflow's Model Registry follows, in its embedded store and on a real server; it may be away, and a mirror may be killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.project.recording import recorded
from pipelines.project.repository import Repo
from pipelines.registry import register
from pipelines.registry.alias_file import change, model_folder
from pipelines.tracking import model_registry as mirror
from tests.integration import registry_world
from tests.tracking_world import free_port, mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]
NAME = "slow_parcels"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository with three versions pushed."""
    repo = registry_world.make(tmp_path_factory.mktemp("mirror"), rows=1500)
    made = registry_world.training_set(repo)
    for version, quality in ((1, "good"), (2, "better"), (3, "bad")):
        registry_world.push(repo, version, quality, made)
    return repo


@pytest.fixture(params=["embedded", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "embedded":
        yield f"sqlite:///{tmp_path}/mlflow.db"
        return
    with mlflow_server(tmp_path, free_port()) as address:
        yield address


@pytest.fixture
def data(versions: Repo, tmp_path: Path) -> Path:
    """A data folder of its own, with versions 1 and 2."""
    shutil.copytree(versions.data / "models" / NAME / "1", tmp_path / "data" / "models" / NAME / "1")
    shutil.copytree(versions.data / "models" / NAME / "2", tmp_path / "data" / "models" / NAME / "2")
    return tmp_path / "data"


def repo_of(versions: Repo, data: Path) -> Repo:
    return Repo(versions.path, versions.settings.model_copy(update={"data": data}), versions.sources, versions.groups)


def aliases(data: Path, champion: int, challenger: int | None = None, action: str = "promote", **details: Any) -> None:
    change(model_folder(data, NAME), action, lambda _: (champion, challenger), datetime.now(UTC), **details)


def test_versions_tags_signature_and_aliases(versions: Repo, data: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from mlflow.tracking import MlflowClient

    repo = repo_of(versions, data)
    aliases(data, 1, None, "register")
    register(repo, NAME, model_folder(data, NAME) / "2")
    with recorded(repo, "train", now=datetime(2024, 6, 1, tzinfo=UTC)) as run:
        run.add(metrics={"test/auc": 0.9, "test/auc/size=l": 0.8})
    spec = json.loads((model_folder(data, NAME) / "1" / "tandem.json").read_text())
    (model_folder(data, NAME) / "1" / "tandem.json").write_text(json.dumps({**spec, "run": run.id}))
    assert mirror.news(data, uri) == [NAME]
    said: list[str] = []
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert mirror.catch_up(data, uri, say=said.append) == 1
    assert said == [f"MLflow: {NAME} version {v} is version {v}" for v in (1, 2)]
    assert "MLFLOW_TRACKING_URI" not in os.environ, "where runs are sent stays what it was"
    assert mirror.news(data, uri) == [] and mirror.catch_up(data, uri) == 0

    client = MlflowClient(uri, registry_uri=uri)
    assert {a: str(v) for a, v in client.get_registered_model(NAME).aliases.items()} == {"champion": "1", "challenger": "2"}
    first = client.get_model_version(NAME, "1")
    assert first.status == "READY" and first.tags["tandem_version"] == "1" and first.tags["tandem_run"] == run.id
    assert first.tags["fingerprint.depot_load"] == spec["fingerprints"]["depot_load"]
    assert first.tags["test.auc"] == "0.9" and first.tags["test.auc.size:l"] == "0.8"
    assert first.tags["tandem_source"].endswith(f"models/{NAME}/1")
    assert json.loads(first.tags["tandem_changes"])[0]["action"] == "register"

    aliases(data, 2, reason="better", forced=True)
    shutil.rmtree(model_folder(data, NAME) / "1")
    shutil.copytree(versions.data / "models" / NAME / "3", model_folder(data, NAME) / "3")
    register(repo, NAME, model_folder(data, NAME) / "3")
    assert mirror.catch_up(data, uri) == 1
    registered = client.get_registered_model(NAME)
    assert {a: str(v) for a, v in registered.aliases.items()} == {"champion": "2", "challenger": "3"}
    assert client.get_model_version(NAME, "1").tags["tandem_state"] == "withdrawn"
    told = json.loads(client.get_model_version(NAME, "2").tags["tandem_changes"])[-1]
    assert told["reason"] == "better" and told["forced"] is True

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # which the call below writes, and nobody after this test is to read
    mlflow.set_tracking_uri(uri)
    info = mlflow.models.get_model_info(f"models:/{NAME}@champion")
    assert info.signature.inputs.input_names() == [n for n, _ in spec["inputs"]]
    assert info.metadata and info.metadata["tandem"]["fingerprints"] == spec["fingerprints"]
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    kinds = {"float32": np.zeros((2, 1), np.float32), "string": np.array([[b"s"], [b"l"]], dtype=object)}
    found = model.predict({n: kinds[t] for n, t in spec["inputs"]})["probability"]
    assert found.shape == (2,) and found[0] < found[1] < 0.5


def test_a_mirror_that_was_stopped_goes_on_where_it_was(data: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    aliases(data, 2, 1, "register")
    create = MlflowClient.create_model_version
    calls: list[str] = []

    def stopped(self: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise ConnectionError("gone")
        return create(self, name, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_model_version", stopped)
    with pytest.raises(ConnectionError):
        mirror.catch_up(data, uri)
    assert mirror.news(data, uri) == [NAME]
    mirror.catch_up(data, uri)
    client = MlflowClient(uri, registry_uri=uri)
    known = {v.tags["tandem_version"]: v for v in client.search_model_versions(f"name = '{NAME}'")}
    assert sorted(known) == ["1", "2"]
    experiment = client.get_experiment_by_name("tandem")
    assert experiment and len(client.search_logged_models([experiment.experiment_id])) == 2  # what had been uploaded was used
    named = {a: str(v) for a, v in client.get_registered_model(NAME).aliases.items()}
    assert named == {"champion": str(known["2"].version), "challenger": str(known["1"].version)}
    mirror.catch_up(data, uri, models=[NAME])
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2


def test_a_server_that_is_away_is_told_later(data: Path, tmp_path: Path) -> None:
    aliases(data, 1, 2, "register")
    away = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)refused|max retries"):
        mirror.catch_up(data, away)
    assert time.monotonic() - begun < 60
    aliases(data, 2)  # nobody needs MLflow for this
    assert mirror.news(data, away) == [NAME]
    assert mirror.catch_up(data, f"sqlite:///{tmp_path}/later.db") == 1
