"""Answers over HTTP, from a real store and a real SavedModel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.online_store.base import Covered
from serving.request_log import read_requests
from tests.integration.serving_world import GOOD, NOW, PRINT, make_repo, make_world, predict, push, settings, write_rows
from tests.waiting import until


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), 1, 2)


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[TestClient]:
    with TestClient(create_app(settings(world)), raise_server_exceptions=False) as c:
        yield c


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


def test_tf_servings_column_form_and_metadata(client: TestClient) -> None:
    """FAULTS 14: ``inputs`` gives ``outputs``, in lists of shape [n] or [n, 1], and the metadata names every field of a row."""
    rows = [{**GOOD, "carrier": "B6"}, {**GOOD, "origin": "LGA", "carrier": None}]
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in rows[0]}
    expected = predict(client, *rows)
    nested = {**columns, "origin": [["JFK"], ["LGA"]]}
    for given in (columns, nested):
        body = client.post("/v1/models/delay:predict", json={"inputs": given, "signature_name": "serving_default"}).json()
        assert (body["outputs"], body["features"]) == (expected["predictions"], expected["features"])
        assert "predictions" not in body
    for version, path in ((2, "/v1/models/delay/metadata"), (1, "/v1/models/delay/versions/1/metadata")):
        body = client.get(path).json()
        assert body["model_spec"] == {"name": "delay", "signature_name": "", "version": str(version)}
        signature = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert {n: t["dtype"] for n, t in signature["inputs"].items()} == {
            "origin": "DT_STRING", "tailnum": "DT_STRING", "distance": "DT_DOUBLE", "carrier": "DT_STRING",
        }  # fmt: skip
        assert signature["outputs"]["probability"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
        assert signature["method_name"] == "tensorflow/serving/predict"
    assert client.get("/v1/models/none/metadata").status_code == 404
    assert client.get("/v1/models/delay/versions/9/metadata").status_code == 404


def test_feasts_server_and_ours_take_the_same_keys(tmp_path: Path) -> None:
    """FAULTS 14: an int64 key as text or as a float without a fraction, an integer for a string key, and keys that are not needed."""
    from feast.feature_server import get_app

    feast = make_repo(tmp_path, store="sqlite")
    write_shops(feast)
    given: list[list[Any]] = [[1, 2, 9], ["1", "2", "9"], [1.0, 2.0, 9.0], ["1", 2, 9.0]]
    bodies: list[dict[str, Any]] = [{"features": ["shops:orders"], "entities": {"shop": keys}} for keys in given]
    bodies.append({**bodies[0], "entities": {"shop": [1, 2, 9], "origin": ["JFK", None, "LGA"], "nobody": ["x", "y", "z"]}})
    bodies.append({**bodies[0], "full_feature_names": True, "feature_service": None})
    bodies.append({"features": ["aircraft:last_delay"], "entities": {"tailnum": [7, "N1"]}})
    with TestClient(get_app(feast)) as theirs, TestClient(create_app(settings(tmp_path))) as ours:
        for body in bodies:
            told, answer = theirs.post("/get-online-features", json=body), ours.post("/get-online-features", json=body)
            assert (told.status_code, answer.status_code) == (200, 200), (told.text, answer.text)
            assert said(answer.json()) == said(told.json()), body
        for bad in ("1.5", 1.5, "one", "1_0", 2.0**60, "9223372036854775808", True, "", " 1"):
            refused = ours.post("/get-online-features", json={"features": ["shops:orders"], "entities": {"shop": [bad]}})
            assert (refused.status_code, "entities.shop[0]" in refused.json()["error"]) == (422, True), bad


def said(body: dict[str, Any]) -> dict[str, Any]:
    names = body["metadata"]["feature_names"]
    return {n: (r["values"], r["statuses"]) for n, r in zip(names, body["results"], strict=True)}


def write_shops(feast: Any) -> None:
    from feast import Entity, FeatureView, Field
    from feast.types import Int64
    from feast.value_type import ValueType

    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.INT64)
    shops = FeatureView(
        name="shops", entities=[shop], ttl=timedelta(0), source=feast.get_feature_view("aircraft").batch_source,
        schema=[Field(name="shop", dtype=Int64), Field(name="orders", dtype=Int64)],
    )  # fmt: skip
    feast.apply([shop, shops])
    rows: list[dict[str, Any]] = [{"shop": 1, "orders": 7, "event_timestamp": NOW}, {"shop": 2, "orders": 0, "event_timestamp": NOW}]
    write_rows(feast, "shops", rows, own=False)


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
    answer = client.post("/v2/models/delay/infer", json={"id": "mine", "inputs": inputs}).json()
    assert answer["id"] == "mine"
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


def test_rows_of_another_fingerprint_are_refused_or_served_counted_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")  # a command run in this process before has made the root logger quiet
    feast = make_repo(tmp_path)
    push(tmp_path, tmp_path, 1)
    row = {"origin": "JFK", "event_timestamp": NOW - timedelta(minutes=1), "count_1h": 8, "mean_1h": 1.0}
    write_rows(feast, "origin_traffic", [row], fingerprint="c" * 64)
    with TestClient(create_app(settings(tmp_path))) as client:
        answer = client.post("/v1/models/delay:predict", json={"instances": [GOOD]})
        assert answer.status_code == 503
        assert "cccccccccccc" in answer.json()["error"]
        assert predict(client, {**GOOD, "origin": "LGA"})
        assert client.post("/v1/models/delay:predict", json={"instances": [GOOD]}).status_code == 503
    logged = [r.getMessage() for r in caplog.records if "cccccccccccc" in r.getMessage()]
    assert len(logged) == 1 and "requests for them are refused until a model trained on them is served" in logged[0]
    caplog.clear()
    with TestClient(create_app(settings(tmp_path, fingerprint_policy="serve"))) as client:
        assert predict(client, GOOD)["predictions"] == predict(client, GOOD)["predictions"]
        assert 'tandem_fingerprint_mismatches_total{model="delay",view="origin_traffic"} 2.0' in client.get("/metrics").text
    assert [r.getMessage().split("; ")[1] for r in caplog.records if "cccccccccccc" in r.getMessage()] == ["served by policy"]


def test_what_was_answered_stands_in_the_request_log(world: Path, tmp_path: Path) -> None:
    with TestClient(create_app(settings(world, request_log=tmp_path))) as client:
        rows = [GOOD, {**GOOD, "origin": "EWR", "tailnum": "unknown", "carrier": "B6"}]
        answer = client.post("/v1/models/delay:predict", json={"instances": rows}, headers={"X-Request-Id": "mine-1"})
        own = answer.headers["x-request-id"]
        assert answer.headers["x-client-request-id"] == "mine-1"
        inputs = [
            {"name": n, "datatype": t, "shape": [1], "data": [GOOD[n]]}
            for n, t in (("origin", "BYTES"), ("tailnum", "BYTES"), ("distance", "FP64"))
        ]
        infer = client.post("/v2/models/delay/versions/1/infer", json={"inputs": inputs}, headers={"X-Request-Id": "no id\t"})
        entities = {"features": ["origin_traffic:count_1h"], "entities": {"origin": ["LGA", "XXX"]}}
        features = client.post("/get-online-features", json=entities)
        assert client.post("/v1/models/delay:predict", json={"instances": []}).status_code == 422
    table = read_requests(tmp_path)
    made = infer.headers["x-request-id"]
    assert len({own, made, features.headers["x-request-id"]}) == 3 and {len(own), len(made)} == {32}
    assert [r["tandem_client_request"] for r in table.to_pylist()] == ["mine-1"] * 2 + [None] * 3  # SECURITY M10: theirs beside ours
    assert "x-client-request-id" not in infer.headers
    log = table.to_pylist()
    assert [(r["tandem_request"], r["tandem_row"], r["tandem_endpoint"]) for r in log] == [
        (own, 0, "predict"),
        (own, 1, "predict"),
        (made, 0, "infer"),
        (features.headers["x-request-id"], 0, "get-online-features"),
        (features.headers["x-request-id"], 1, "get-online-features"),
    ]
    assert [r["tandem_prediction"] for r in log[:2]] == answer.json()["predictions"]
    assert [(r["tandem_version"], r["tandem_run"]) for r in log] == [(2, "run-2")] * 2 + [(1, "run-1")] + [(None, None)] * 2
    assert {r["tandem_as_of"] for r in log} == {NOW}
    one, two = log[:2]
    assert (one["origin"], one["tailnum"], one["distance"], one["carrier"]) == ("JFK", "N1", 100.0, None)
    assert (one["origin_traffic__mean_1h"], one["origin_traffic__mean_1h__status"]) == (12.5, "PRESENT")
    assert (one["origin_traffic__event_timestamp"], one["origin_traffic__tandem_age"]) == (NOW - timedelta(minutes=4), 240.0)
    assert (one["origin_traffic__tandem_revision"], one["origin_traffic__tandem_fingerprint"]) == (1, PRINT["origin_traffic"])
    assert (two["origin_traffic__mean_1h"], two["origin_traffic__tandem_status"]) == (None, "OUTSIDE_MAX_AGE")
    assert (two["aircraft__last_delay"], two["aircraft__last_delay__status"], two["aircraft__tandem_age"]) == (None, "NOT_FOUND", None)
    assert [r["origin_traffic__count_1h"] for r in log[3:]] == [0, None]


def test_a_log_that_cannot_be_written_fails_no_request(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with TestClient(create_app(settings(world, request_log=tmp_path / "file", request_log_seconds=0.01))) as client:
        assert predict(client, GOOD)
        until(lambda: 'tandem_request_log_dropped_rows_total{reason="write"} 1.0' in client.get("/metrics").text)
        assert predict(client, GOOD)
        assert client.get("/v2/health/ready").status_code == 200


def test_the_replay_clock_moves_ages_and_expiry_and_the_log(world: Path, tmp_path: Path) -> None:
    """It comes after the server started, stands still, and moves on; Feast's reader of the same store sees the same time."""
    path = tmp_path / "replay" / "clock.json"

    def tell(at: datetime) -> None:
        path.parent.mkdir(exist_ok=True)
        made = path.with_suffix(".new")
        made.write_text(json.dumps({"event_us0": round(at.timestamp() * 1e6), "wall_us0": 0, "speed": 0.0}))
        made.rename(path)

    with TestClient(create_app(settings(world, clock=path, request_log=tmp_path / "log"))) as server:

        def traffic() -> dict[str, Any]:
            rows: dict[str, Any] = predict(server, GOOD)["features"]["origin_traffic"]
            return rows

        store = server.app.state.dataplane.features._store  # type: ignore[attr-defined]
        assert traffic()["ages"] == [240.0]  # as_of, while there is no file
        tell(NOW + timedelta(minutes=1))
        until(lambda: traffic()["ages"] == [300.0])
        tell(NOW + timedelta(hours=6))
        until(lambda: traffic()["statuses"] == ["OUTSIDE_MAX_AGE"])
        assert store.clock() == round((NOW + timedelta(hours=6)).timestamp() * 1e6)
    as_of = read_requests(tmp_path / "log").column("tandem_as_of").to_pylist()
    assert as_of[0] == NOW and as_of[-1] == NOW + timedelta(hours=6)


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
    make_repo(tmp_path, offline="serving.offline_store.AsofOfflineStore")
    push(tmp_path, tmp_path, 1)
    code = f"""
from tandem.quick_imports import quicken_imports
quicken_imports()  # as every server of ours begins
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from serving.app import create_app
from serving.request_log import read_requests
from tests.integration.serving_world import GOOD, settings
with TestClient(create_app(settings(Path({str(tmp_path)!r})))) as client:
    answer = client.post("/v1/models/delay:predict", json={{"instances": [GOOD]}})
    assert answer.status_code == 200, answer.text
print(sorted({{m.split('.')[0] for m in sys.modules}} & {{'apache_beam', 'pipelines', 'dask', 'tensorflow_transform'}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr[-2000:]


@pytest.mark.parametrize(("minutes", "told"), [(-1, 0), (0, 0), (1, 1)])
def test_a_store_that_was_filled_beyond_the_clock_is_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, minutes: int, told: int
) -> None:
    """It has no earlier rows: whoever serves as of before its last materialization answers from the future."""
    feast = make_repo(tmp_path)
    upto = round((NOW + timedelta(minutes=minutes)).timestamp() * 1e6)
    feast._get_provider().online_store.cover(feast.config, "aircraft", Covered(stamp=1, upto_us=upto))
    with TestClient(create_app(settings(tmp_path))) as client:
        for _ in range(2):
            client.post("/get-online-features", json={"features": ["aircraft:last_delay"], "entities": {"tailnum": ["N1"]}})
    lines = [r.message for r in caplog.records if "rows from the future" in r.message]
    assert len(lines) == told
    assert not told or (
        f"up to {NOW + timedelta(minutes=1):%Y-%m-%d %H:%M} (aircraft)" in lines[0] and f"as of {NOW:%Y-%m-%d %H:%M}" in lines[0]
    )


def test_a_store_that_is_filled_beyond_the_clock_is_told_of_when_it_is_first_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was looked at once, at the start: a store that was away then, or filled later, was never told of."""
    feast = make_repo(tmp_path)
    cover = feast._get_provider().online_store.cover
    beyond = round((NOW + timedelta(minutes=5)).timestamp() * 1e6)
    online, away = tmp_path / "online.db", tmp_path / "away.db"

    def told(plane: Any) -> int:
        plane.poll()
        return sum("rows from the future" in r.message for r in caplog.records)

    cover(feast.config, "aircraft", Covered(stamp=1, upto_us=beyond))
    online.rename(away)
    online.mkdir()
    with TestClient(create_app(settings(tmp_path))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        assert told(plane) == 0
        online.rmdir()
        away.rename(online)
        assert [told(plane), told(plane)] == [1, 1]
        cover(feast.config, "aircraft", Covered(stamp=2, upto_us=beyond - 600_000_000))
        assert told(plane) == 1
        cover(feast.config, "aircraft", Covered(stamp=3, upto_us=beyond))
        assert told(plane) == 2, "filled beyond it once more"


def test_a_prediction_that_is_no_number_is_said_to_be_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """FAULTS 15: null for a prediction that is infinite said nothing; the number itself is in the request log."""
    make_world(tmp_path, 1)
    huge = {**GOOD, "distance": 1e300}
    with TestClient(create_app(settings(tmp_path, request_log=tmp_path / "log"))) as client:
        assert "not_finite" not in predict(client, GOOD)
        answer = predict(client, GOOD, huge, GOOD)
        assert answer["not_finite"] == [1] and [v is None for v in answer["predictions"]] == [False, True, False]
        fields = [("origin", "BYTES"), ("tailnum", "BYTES"), ("distance", "FP64")]
        inputs = [{"name": n, "datatype": t, "shape": [2], "data": [huge[n], GOOD[n]]} for n, t in fields]
        v2 = client.post("/v2/models/delay/infer", json={"inputs": inputs}).json()
        assert v2["parameters"]["not_finite"] == "[0]" and v2["outputs"][0]["data"][0] is None
        assert 'tandem_predictions_not_finite_total{model="delay"} 2.0' in client.get("/metrics").text
    assert sum("predicts NaN or infinite" in r.message for r in caplog.records) == 1
    assert sorted(read_requests(tmp_path / "log").column("tandem_prediction").to_pylist())[-2:] == [float("inf")] * 2
