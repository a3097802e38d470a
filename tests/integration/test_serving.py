"""Answers over HTTP, from a real store and a real SavedModel."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from tests.integration.serving_world import GOOD, NOW, PRINT, make_repo, push, settings, write_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_repo(root)
    push(root, root, 1)
    push(root, root, 2)
    return root


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(world)), raise_server_exceptions=False) as c:
        yield c


def predict(client: TestClient, *instances: dict[str, Any], path: str = "/v1/models/delay:predict") -> dict[str, Any]:
    answer = client.post(path, json={"instances": list(instances)})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_prediction_uses_request_and_features_and_says_where_they_come_from(client: TestClient) -> None:
    body = predict(client, GOOD, {**GOOD, "origin": "LGA", "tailnum": "unknown", "carrier": "B6"}, {**GOOD, "origin": "EWR"})
    # 0.5 * (letters of origin and carrier + distance + mean + last delay); what is null, missing or too old counts 0 in this model
    assert body["predictions"] == [0.5 * (3 + 100 + 12.5 - 3), 0.5 * (5 + 100), 0.5 * (3 + 100 - 3)]
    assert body["model"] == {"name": "delay", "version": 2, "run": "run-2", "fingerprints": PRINT}
    traffic = body["features"]["origin_traffic"]
    assert traffic["fingerprint"] == PRINT["origin_traffic"]
    assert traffic["statuses"] == ["PRESENT", "PRESENT", "OUTSIDE_MAX_AGE"]
    assert traffic["ages"] == [240.0, 240.000001, 7 * 3600.0]
    assert traffic["event_timestamps"] == ["2013-07-01T11:56:00Z", "2013-07-01T11:55:59.999999Z", "2013-07-01T05:00:00Z"]
    assert body["features"]["aircraft"]["statuses"] == ["PRESENT", "NOT_FOUND", "PRESENT"]
    assert body["features"]["aircraft"]["ages"] == [30 * 86400.0, None, 30 * 86400.0]


def test_the_version_before_stays_addressable(client: TestClient) -> None:
    assert predict(client, GOOD, path="/v1/models/delay/versions/1:predict")["model"]["version"] == 1
    assert client.get("/v1/models/delay/versions/1").json()["model_version_status"][0]["state"] == "AVAILABLE"
    versions = client.get("/v1/models/delay").json()["model_version_status"]
    assert [(v["version"], v["state"], v["status"]["error_code"]) for v in versions] == [("2", "AVAILABLE", "OK"), ("1", "AVAILABLE", "OK")]


def test_online_features_come_with_statuses_timestamps_and_ages(client: TestClient) -> None:
    refs = ["origin_traffic:mean_1h", "origin_traffic:count_1h"]
    answer = client.post("/get-online-features", json={"features": refs, "entities": {"origin": ["JFK", "LGA", "EWR", "XXX", "JFK"]}})
    body = answer.json()
    assert answer.status_code == 200
    assert body["metadata"]["feature_names"] == ["origin", "mean_1h", "count_1h"]
    origin, mean, count = body["results"]
    assert origin["values"] == ["JFK", "LGA", "EWR", "XXX", "JFK"]
    assert mean["values"] == [12.5, None, None, None, 12.5]
    assert mean["statuses"] == ["PRESENT", "NULL", "OUTSIDE_MAX_AGE", "NOT_FOUND", "PRESENT"]
    assert mean["ages"] == [240.0, 240.000001, 7 * 3600.0, None, 240.0]
    assert mean["event_timestamps"][3] == "1970-01-01T00:00:00Z"
    assert count["values"] == [7, 0, None, None, 7]


def test_a_service_full_names_and_lists(client: TestClient) -> None:
    entities = {"origin": ["JFK"], "tailnum": ["N1"]}
    body = client.post("/get-online-features", json={"feature_service": "delay", "entities": entities, "full_feature_names": True}).json()
    assert body["metadata"]["feature_names"] == ["origin", "tailnum", "origin_traffic__mean_1h", "aircraft__last_delay"]
    listed = client.post("/get-online-features", json={"features": ["aircraft:last_3"], "entities": {"tailnum": ["N1"]}}).json()
    assert listed["results"][1]["values"] == [[-3.0, 4.0]]
    twice = {"features": ["aircraft:count_1h", "origin_traffic:count_1h"], "entities": entities}
    assert client.post("/get-online-features", json=twice).status_code == 422
    assert client.post("/get-online-features", json={**twice, "full_feature_names": True}).status_code == 200


def test_what_the_server_says_is_what_feast_says(tmp_path: Path) -> None:
    feast = make_repo(tmp_path, store="sqlite")  # Feast's own store: our reader takes any
    refs = ["origin_traffic:mean_1h", "aircraft:last_delay"]
    entities = {"origin": ["JFK", "LGA", "XXX"], "tailnum": ["N1", "N2", "N1"]}
    rows = [dict(zip(entities, row, strict=True)) for row in zip(*entities.values(), strict=True)]
    theirs = feast.get_online_features(refs, entity_rows=rows)
    with TestClient(create_app(settings(tmp_path))) as client:
        ours = client.post("/get-online-features", json={"features": refs, "entities": entities}).json()
    values = {n: r["values"] for n, r in zip(ours["metadata"]["feature_names"], ours["results"], strict=True)}
    assert values == theirs.to_dict()


def test_open_inference(client: TestClient) -> None:
    assert client.get("/v2").json()["name"] == "tandem"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/delay/ready").json() == {"name": "delay", "ready": True}
    meta = client.get("/v2/models/delay").json()
    assert meta["versions"] == ["2", "1"]
    assert [(i["name"], i["datatype"]) for i in meta["inputs"]] == [
        ("origin", "BYTES"),
        ("tailnum", "BYTES"),
        ("distance", "FP64"),
        ("carrier", "BYTES"),
    ]
    inputs = [
        {"name": "origin", "datatype": "BYTES", "shape": [2], "data": ["JFK", "LGA"]},
        {"name": "tailnum", "datatype": "BYTES", "shape": [2, 1], "data": [["N1"], ["N2"]]},
        {"name": "distance", "datatype": "FP64", "shape": [2], "data": [100, 100.0]},
    ]
    answer = client.post("/v2/models/delay/infer", json={"inputs": inputs}).json()
    rows = [GOOD, {**GOOD, "origin": "LGA", "tailnum": "N2"}]
    assert answer["outputs"][0]["data"] == predict(client, *rows)["predictions"]


def test_metrics_count_by_route_and_status_and_feature_status(client: TestClient) -> None:
    predict(client, GOOD)
    client.post("/v1/models/none:predict", json={})
    text = client.get("/metrics").text
    assert 'tandem_requests_total{route="/v1/models/{name}:predict",status="404"}' in text
    assert 'tandem_feature_values_total{status="PRESENT",view="origin_traffic"}' in text
    assert 'tandem_model_version{model="delay"} 2.0' in text
    assert "tandem_feature_age_seconds_bucket" in text


def test_the_docs_ask_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "/v1/models/{name}:predict" in page
    assert "http" not in page.replace("text/html", "")
    assert "/get-online-features" in client.get("/openapi.json").json()["paths"]


def test_rows_of_another_fingerprint_are_refused_or_served_and_counted(tmp_path: Path) -> None:
    feast = make_repo(tmp_path)
    push(tmp_path, tmp_path, 1)
    row = {"origin": "JFK", "event_timestamp": NOW - timedelta(minutes=1), "count_1h": 8, "mean_1h": 1.0}
    write_rows(feast, "origin_traffic", [row], fingerprint="c" * 64)
    with TestClient(create_app(settings(tmp_path))) as client:
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 503
        assert "cccccccccccc" in answer.json()["error"]
        assert predict(client, {**GOOD, "origin": "LGA"})
    with TestClient(create_app(settings(tmp_path, fingerprint_policy="serve"))) as client:
        assert predict(client, GOOD)["predictions"]
        assert 'tandem_fingerprint_mismatches_total{model="delay",view="origin_traffic"} 1.0' in client.get("/metrics").text


def test_a_store_that_fails_is_503_and_recovers(tmp_path: Path) -> None:
    feast = make_repo(tmp_path, store="sqlite")
    push(tmp_path, tmp_path, 1)
    config = tmp_path / "online.db"
    with TestClient(create_app(settings(tmp_path))) as client:
        assert predict(client, GOOD)
        conn = feast._get_provider().online_store._get_conn(feast.config)
        conn.execute("ALTER TABLE flights_aircraft RENAME TO gone")
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 503
        assert answer.json()["error"] == "the online store cannot be read (OperationalError); try again"
        assert str(config) not in answer.text
        conn.execute("ALTER TABLE gone RENAME TO flights_aircraft")
        assert predict(client, GOOD)


def test_a_server_starts_without_registry_store_or_model_and_takes_them_when_they_come(tmp_path: Path) -> None:
    make_repo(tmp_path)
    (tmp_path / "registry.db").rename(tmp_path / "away.db")
    with TestClient(create_app(settings(tmp_path))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        ready = client.get("/v2/health/ready")
        assert ready.status_code == 503
        assert len(ready.json()["reasons"]) >= 1
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 404
        assert client.post("/get-online-features", json={"features": ["a:b"], "entities": {"a": [1]}}).status_code == 503
        push(tmp_path, tmp_path, 1)
        plane.poll()
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 503
        (tmp_path / "away.db").rename(tmp_path / "registry.db")
        plane.poll()
        assert client.get("/v2/health/ready").status_code == 200
        assert predict(client, GOOD)


def test_a_slow_answer_is_503_in_time(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    gate = threading.Event()
    with TestClient(create_app(settings(world, timeout_seconds=0.2, threads=1, max_waiting=0))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        real = plane.features.read
        monkeypatch.setattr(plane.features, "read", lambda *a: gate.wait(20) and real(*a))
        slow = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert (slow.status_code, slow.json()["error"]) == (503, "no answer within 0.2 s; try again")
        busy = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert (busy.status_code, busy.json()["error"]) == (503, "the server is busy; try again")
        gate.set()


def test_serving_imports_neither_beam_nor_pipelines(tmp_path: Path) -> None:
    """Not at import, and not by way of the repository's offline store either."""
    make_repo(tmp_path, offline="pipelines.offline_store.AsofOfflineStore")
    push(tmp_path, tmp_path, 1)
    code = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from serving.app import create_app
from tests.integration.serving_world import GOOD, settings
with TestClient(create_app(settings(Path({str(tmp_path)!r})))) as client:
    answer = client.post("/v1/models/delay:predict", json={{"instances": [GOOD]}})
    assert answer.status_code == 200, answer.text
print(sorted({{m.split('.')[0] for m in sys.modules}} & {{'apache_beam', 'pipelines', 'dask', 'tensorflow_transform'}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr[-2000:]
