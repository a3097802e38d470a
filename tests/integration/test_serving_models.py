"""Model versions come, go, and are damaged, while requests go on."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.features import OnlineFeatures
from serving.models import ModelSpec, load_model
from tests.integration.serving_world import GOOD, PRINT, make_repo, make_world, push, settings, spec


@pytest.fixture
def world(tmp_path: Path) -> Path:
    return make_world(tmp_path, 1)


@pytest.fixture
def client(world: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(world))) as c:
        yield c


def plane_of(client: TestClient) -> Any:
    return client.app.state.dataplane  # type: ignore[attr-defined]


def served(client: TestClient) -> int:
    answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["model"]["version"])


def test_a_new_version_is_taken_and_older_ones_are_let_go(client: TestClient, world: Path) -> None:
    for version in (2, 10):
        push(world, world, version)
        plane_of(client).poll()
        assert served(client) == version
    assert sorted(plane_of(client).models.state("delay").loaded) == [2, 10]
    assert client.post("/v1/models/delay/versions/1:predict", json={"instances": [GOOD]}).status_code == 404
    text = client.get("/metrics").text
    assert 'tandem_model_info{model="delay",run="run-10",version="10"} 1.0' in text
    assert 'version="1"' not in text


def test_removing_the_newest_version_goes_back_to_the_one_before(client: TestClient, world: Path) -> None:
    newest = push(world, world, 2)
    plane_of(client).poll()
    assert served(client) == 2
    shutil.rmtree(newest)
    plane_of(client).poll()
    assert served(client) == 1
    shutil.rmtree(world / "models")
    plane_of(client).poll()
    assert served(client) == 1


def test_a_version_whose_files_nobody_can_check_is_said_in_readiness(client: TestClient, world: Path) -> None:
    assert "warnings" not in client.get("/v2/health/ready").json()
    push(world, world, 2, files=None)
    plane_of(client).poll()
    ready = client.get("/v2/health/ready")
    assert served(client) == 2 and ready.status_code == 200
    (line,) = ready.json()["warnings"]
    assert line.startswith("model 'delay' version 2: its files are not checked") and str(world) not in line
    push(world, world, 3, files=None, created="2027-01-01T00:00:00Z")
    plane_of(client).poll()
    assert served(client) == 2
    status = client.get("/v1/models/delay/versions/3").json()["model_version_status"][0]
    assert "changes cannot be detected" in status["status"]["error_message"]


def damage(path: Path, how: str) -> None:
    text = (path / "tandem.json").read_text()
    changes = {
        "no spec": lambda: (path / "tandem.json").unlink(),
        "spec is no JSON": lambda: (path / "tandem.json").write_text("{"),
        "spec is a list": lambda: (path / "tandem.json").write_text("[]"),
        "spec lacks a key": lambda: (path / "tandem.json").write_text(text.replace('"entity_keys"', '"x"')),
        "other version": lambda: (path / "tandem.json").write_text(text.replace('"version": 2', '"version": 3')),
        "no graph": lambda: (path / "saved_model.pb").unlink(),
        "graph cut off": lambda: (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:500]),
        "empty graph": lambda: (path / "saved_model.pb").write_bytes(b""),
        "no variables": lambda: shutil.rmtree(path / "variables"),
        "unknown feature": lambda: (path / "tandem.json").write_text(text.replace("aircraft__last_delay", "aircraft__gone")),
        "other inputs": lambda: (path / "tandem.json").write_text(text.replace('["carrier", "string"], ["distance"', '["distance"')),
        "other dtype": lambda: (path / "tandem.json").write_text(text.replace('"float32"', '"int64"')),
        "no such output": lambda: (path / "tandem.json").write_text(text.replace('"probability"', '"odds"')),
        "keys missing": lambda: (path / "tandem.json").write_text(text.replace('["origin", "tailnum"]', '["origin"]')),
    }
    changes[how]()


HOW = [
    "no spec",
    "spec is no JSON",
    "spec is a list",
    "spec lacks a key",
    "other version",
    "no graph",
    "graph cut off",
    "empty graph",
    "no variables",
    "unknown feature",
    "other inputs",
    "other dtype",
    "no such output",
    "keys missing",
]


def test_a_damaged_version_never_disturbs_the_running_one_and_can_be_mended(client: TestClient, world: Path) -> None:
    for how in HOW:
        path = push(world, world, 2, files=None)  # of before there were hashes: what else tells that it is damaged?
        damage(path, how)
        plane_of(client).poll()
        plane_of(client).poll()
        assert served(client) == 1, how
        status = client.get("/v1/models/delay/versions/2").json()["model_version_status"][0]
        assert status["state"] == "END", how
        assert "\n" not in status["status"]["error_message"]
        assert str(world) not in status["status"]["error_message"], how
        assert client.get("/v2/health/ready").status_code == 200
        shutil.rmtree(path)
    failures = [line for line in client.get("/metrics").text.splitlines() if line.startswith("tandem_model_reload_failures_total")]
    assert sum(float(line.split()[-1]) for line in failures) == len(HOW), failures
    push(world, world, 2)
    plane_of(client).poll()
    assert served(client) == 2


def test_a_server_with_only_a_damaged_model_starts_and_says_why(tmp_path: Path) -> None:
    make_repo(tmp_path)
    damage(push(tmp_path, tmp_path, 2, files=None), "graph cut off")
    with TestClient(create_app(settings(tmp_path))) as client:
        ready = client.get("/v2/health/ready")
        assert ready.status_code == 503
        assert "delay" in ready.json()["reasons"][0]
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 503
        assert "cannot be loaded" in answer.json()["error"]


def test_a_model_of_another_graph_is_refused_until_that_graph_is_applied(client: TestClient, world: Path) -> None:
    applied = world / "graphs" / "origin_traffic"
    applied.mkdir(parents=True)
    (applied / "CURRENT").write_text(PRINT["origin_traffic"] + "\n")
    push(world, world, 2, fingerprints={**PRINT, "origin_traffic": "d" * 64})
    plane_of(client).poll()
    assert served(client) == 1
    assert 'tandem_model_reload_failures_total{model="delay",reason="fingerprint"} 1.0' in client.get("/metrics").text
    (applied / "CURRENT").write_text("d" * 64)
    plane_of(client).poll()
    assert plane_of(client).models.get("delay").spec.version == 2
    answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
    assert answer.status_code == 503  # the rows are still of the graph before
    assert served_by(client, "1") == 200


def served_by(client: TestClient, version: str) -> int:
    return client.post(f"/v1/models/delay/versions/{version}:predict", json={"instances": [GOOD]}).status_code


def test_the_fingerprint_applied_to_our_store_counts_before_the_folder_of_graphs(client: TestClient, world: Path) -> None:
    features = OnlineFeatures(world / "repo")
    store = plane_of(client).features
    store._asked(lambda s: s.apply_fingerprint(features.config, "origin_traffic", "e" * 64))
    push(world, world, 2)
    plane_of(client).poll()
    assert served(client) == 1
    assert "eeeeeeeeeeee" in plane_of(client).models.state("delay").problems[2]


def test_what_is_being_written_is_not_looked_at(client: TestClient, world: Path) -> None:
    for name in ("2.tmp", ".2", "tmp-2", "02", "two"):
        shutil.copytree(world / "models" / "delay" / "1", world / "models" / "delay" / name)
    plane_of(client).poll()
    assert plane_of(client).models.state("delay").problems == {}
    assert served(client) == 1


def test_a_model_warms_up_before_it_is_given_out(world: Path) -> None:
    path = world / "models" / "delay" / "1"
    loaded = load_model(path, ModelSpec.parse((path / "tandem.json").read_bytes(), "here"))
    assert loaded.spec == ModelSpec.parse(json.dumps(spec(1)).encode(), "there")


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass


def test_versions_swap_under_load_without_one_failed_request(world: Path) -> None:
    """A real server on a real port, its own watcher polling; two clients keep asking while versions 2 to 6 are pushed."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    app = create_app(settings(world, port=port, poll_seconds=0.05))
    server = _Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    url, done = f"http://127.0.0.1:{port}", threading.Event()
    with httpx.Client(base_url=url, transport=httpx.HTTPTransport(retries=50), timeout=60) as probe:
        waiting = threading.Event()
        for _ in range(600):
            try:
                if probe.get("/v2/health/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            waiting.wait(0.05)
        answers: list[tuple[int, int]] = []

        def ask() -> None:
            with httpx.Client(base_url=url, timeout=60) as http:
                last = False
                while not last:
                    last = done.is_set()  # the last request begins when the last version has answered somebody else
                    answer = http.post("/v1/models/delay:predict", json={"instances": [GOOD]})
                    answers.append((answer.status_code, answer.json().get("model", {}).get("version", 0)))

        askers = [threading.Thread(target=ask) for _ in range(2)]
        for a in askers:
            a.start()
        try:
            for version in range(2, 7):
                push(world, world, version)
                seen = (
                    probe.post("/v1/models/delay:predict", json={"instances": [GOOD]}).json()["model"]["version"] for _ in range(100_000)
                )
                assert next(v for v in seen if v == version)
        finally:
            done.set()
            for a in askers:
                a.join(60)
            server.should_exit = True
            thread.join(60)
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} >= {1, 6}
    assert len(answers) > 50
