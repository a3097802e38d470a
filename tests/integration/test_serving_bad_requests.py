"""Whatever a caller sends is answered by a 4xx of one clear line, never by a 500."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from serving.app import create_app
from tests.examples import examples
from tests.integration.serving_world import GOOD, make_world, settings

PREDICT, ONLINE, INFER = "/v1/models/delay:predict", "/get-online-features", "/v2/models/delay/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    root = make_world(tmp_path_factory.mktemp("bad"), 1)
    with TestClient(create_app(settings(root, max_body_bytes=4_000_000)), raise_server_exceptions=False) as c:
        yield c


def rows(**changes: Any) -> bytes:
    return json.dumps({"instances": [GOOD, {k: v for k, v in {**GOOD, **changes}.items() if v != "DROP"}]}).encode()


def online(**changes: Any) -> bytes:
    body = {"features": ["aircraft:last_delay"], "entities": {"tailnum": ["N1"]}, **changes}
    return json.dumps({k: v for k, v in body.items() if v != "DROP"}).encode()


CASES: list[tuple[str, str, bytes, int, str]] = [
    ("unknown model", "/v1/models/none:predict", rows(), 404, "unknown model 'none'"),
    ("unknown version", "/v1/models/delay/versions/9:predict", rows(), 404, "no version '9'"),
    ("odd version", "/v1/models/delay/versions/" + "9" * 200 + ":predict", rows(), 404, "no version"),
    ("unknown path", "/v1/none", b"", 404, "no such path"),
    ("no body", PREDICT, b"", 400, "not valid JSON"),
    ("not JSON", PREDICT, b"hello", 400, "not valid JSON"),
    ("cut off", PREDICT, rows()[:-5], 400, "not valid JSON"),
    ("a list", PREDICT, b"[]", 400, "the body is a list"),
    ("invalid UTF-8", PREDICT, b'{"instances": ["\xff"]}', 400, "UTF-8"),
    ("NaN", PREDICT, rows(distance=float("nan")), 400, "not valid JSON"),
    ("Infinity", PREDICT, rows(distance=float("inf")), 400, "not valid JSON"),
    ("1e999", PREDICT, rows().replace(b"100.0", b"1e999"), 400, "not valid JSON"),
    ("deep nesting", PREDICT, b'{"instances":' + b"[" * 100_000, 400, "not valid JSON"),
    ("unknown key", PREDICT, b'{"examples": {}}', 400, "unknown key 'examples'"),
    ("key twice", PREDICT, b'{"instances": [{"origin": "A", "origin": "B"}]}', 400, "a duplicate key"),
    ("key twice, escaped", PREDICT, b'{"instances": [{"origin": "\\\\", "orig\\u0069n": ":\\""}]}', 400, "a duplicate key"),
    ("empty inputs", PREDICT, b'{"inputs": {}}', 422, '"inputs" is empty'),
    ("inputs in a list", PREDICT, b'{"inputs": [1]}', 422, '"inputs" is a list'),
    ("inputs and instances", PREDICT, b'{"inputs": {"origin": ["A"]}, "instances": [{}]}', 422, "not both"),
    ("inputs without a key", PREDICT, b'{"inputs": {"origin": ["A"]}}', 422, "inputs lack 'distance', 'tailnum'"),
    ("an unknown input", PREDICT, b'{"inputs": {"color": ["A"]}}', 422, "unknown field 'color'"),
    ("an input without values", PREDICT, b'{"inputs": {"origin": "A"}}', 422, "inputs.origin must be a list"),
    ("10,001 values", PREDICT, b'{"inputs": {"origin": [' + b",".join([b'""'] * 10_001) + b"]}}", 413, "10001 values, more than 10000"),
    ("a text beyond the contract's limit", PREDICT, rows(origin="a" * 65_537), 422, "instances[1].origin has more than 65536 bytes"),
    ("a long text of few letters", PREDICT, rows(carrier="ä" * 32_769), 422, "instances[1].carrier has more than 65536 bytes"),
    ("a long entity", ONLINE, online(entities={"tailnum": ["a" * 70_000]}), 422, "entities.tailnum[0] has more than 65536 bytes"),
    ("no instances", PREDICT, b"{}", 422, '"instances" is missing'),
    ("empty instances", PREDICT, b'{"instances": []}', 422, '"instances" is empty'),
    ("instances of numbers", PREDICT, b'{"instances": [1]}', 422, "instances[0] is an integer"),
    ("missing key", PREDICT, rows(origin="DROP"), 422, "instances[1] lacks 'origin'"),
    ("missing field", PREDICT, rows(distance="DROP"), 422, "instances[1] lacks 'distance'"),
    ("null key", PREDICT, rows(origin=None), 422, "instances[1].origin is null"),
    ("null field", PREDICT, rows(distance=None), 422, "instances[1].distance is null"),
    ("wrong type", PREDICT, rows(distance="far"), 422, "instances[1].distance is 'far' (a string); give a float64 value"),
    ("boolean for a number", PREDICT, rows(distance=True), 422, "instances[1].distance is True (a boolean)"),
    ("number for a key", PREDICT, rows(origin=5), 422, "instances[1].origin is 5 (an integer); give a string value"),
    ("object for a key", PREDICT, rows(origin={"a": 1}), 422, "instances[1].origin is an object"),
    ("unknown field", PREDICT, rows(color="red"), 422, "instances[1] has the unknown field 'color'"),
    ("other signature", PREDICT, b'{"signature_name": "x", "instances": [{}]}', 422, "signature_name"),
    ("100,001 instances", PREDICT, b'{"instances": [' + b",".join([b"{}"] * 100_001) + b"]}", 413, "100001 entries, more than 10000"),
    ("oversize", PREDICT, b" " * 4_000_001, 413, "split the request"),
    ("unknown view", ONLINE, online(features=["gone:x"]), 404, "unknown feature view 'gone'"),
    ("unknown feature", ONLINE, online(features=["aircraft:x"]), 404, "unknown feature 'x'"),
    ("unknown service", ONLINE, online(features="DROP", feature_service="x"), 404, "unknown feature service 'x'"),
    ("both", ONLINE, online(feature_service="delay"), 422, "not both"),
    ("neither", ONLINE, online(features="DROP"), 422, "either"),
    ("no reference", ONLINE, online(features=["aircraft"]), 422, "view:feature"),
    ("feature twice", ONLINE, online(features=["aircraft:last_delay"] * 2), 422, "twice"),
    ("no entities", ONLINE, online(entities={}), 422, "entities must be"),
    ("missing entity key", ONLINE, online(entities={"origin": ["JFK"]}), 422, "entities lack 'tailnum'"),
    ("more of an entity key that is not needed", ONLINE, online(entities={"x": ["a", "b"], "tailnum": ["N1"]}), 422, "lengths [1, 2]"),
    ("a fraction for a string key", ONLINE, online(entities={"tailnum": [1.5]}), 422, "entities.tailnum[0] is 1.5 (a number)"),
    ("null entity", ONLINE, online(entities={"tailnum": ["N1", None]}), 422, "entities.tailnum[1] is null"),
    ("entity of another type", ONLINE, online(entities={"tailnum": [2**70]}), 422, "entities.tailnum[0]"),
    ("entity list", ONLINE, online(entities={"tailnum": [["N1"]]}), 422, "entities.tailnum[0] is a list"),
    ("ragged", ONLINE, online(entities={"tailnum": ["N1"], "origin": []}), 422, "entities.origin must be a list"),
    ("100,001 entities", ONLINE, online(entities={"tailnum": ["N1"] * 100_001}), 413, "100001 values, more than 10000"),
    ("odd flag", ONLINE, online(full_feature_names="yes"), 422, "full_feature_names"),
    ("infer with an odd id", INFER, b'{"id": 5, "inputs": [{"name": "origin"}]}', 422, "id is an integer"),
    ("infer without inputs", INFER, b"{}", 422, '"inputs" is missing'),
    ("infer an unknown input", INFER, b'{"inputs": [{"name": "x"}]}', 422, "unknown input 'x'"),
    ("infer a wrong shape", INFER, b'{"inputs": [{"name": "origin", "datatype": "BYTES", "shape": [3], "data": ["a"]}]}', 422, "shape"),
]


@pytest.mark.parametrize(("path", "body", "status", "text"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_bad_request_gets_one_clear_line(client: TestClient, path: str, body: bytes, status: int, text: str) -> None:
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, list(answer.json())) == (status, ["error"]), error
    assert text in error
    assert "\n" not in error
    assert len(error) < 400


def test_other_media_types_and_methods(client: TestClient) -> None:
    for media in ("text/csv", "multipart/form-data; boundary=x", "application/xml", "application/x-protobuf", "image/png", "avro"):
        answer = client.post(PREDICT, content=rows(), headers={"content-type": media})
        assert (answer.status_code, "is not JSON; send application/json" in answer.json()["error"]) == (415, True), media
    assert client.post(PREDICT, content=rows(), headers={"content-encoding": "gzip"}).status_code == 415
    assert client.get(PREDICT).status_code in (404, 405)
    assert client.post("/metrics").status_code == 405
    assert client.get("/v1/models/none").status_code == 404
    assert client.get("/v2/models/none/ready").status_code == 404


def test_bodies_as_curl_sends_them_are_json(client: TestClient) -> None:
    curl = "application/x-www-form-urlencoded"
    for media in (curl, "", "text/plain; charset=utf-8", "application/octet-stream", "Application/JSON", "application/vnd.api+json"):
        assert client.post(PREDICT, content=rows(), headers={"content-type": media}).status_code == 200, media
    assert client.request("POST", PREDICT, content=rows()).status_code == 200
    assert client.post(PREDICT, content=b"a=1&b=2", headers={"content-type": curl}).status_code == 400


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(["N1", "JFK", "aircraft:last_delay"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "instances",
                    "inputs",
                    "name",
                    "data",
                    "shape",
                    "datatype",
                    "features",
                    "feature_service",
                    "entities",
                    "tailnum",
                    "origin",
                    "distance",
                    "carrier",
                    "signature_name",
                    "full_feature_names",
                ]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)
instance = st.fixed_dictionaries({"origin": anything, "tailnum": anything, "distance": anything})
instances = st.fixed_dictionaries({"instances": st.lists(instance)})
asked = st.fixed_dictionaries(
    {
        "features": st.just(["aircraft:last_delay"]) | anything,
        "entities": st.fixed_dictionaries({"tailnum": anything}) | anything,
    }
)


@hypothesis_settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(path=st.sampled_from([PREDICT, ONLINE, INFER]), body=anything | instances | asked | st.binary(max_size=30))
def test_no_body_makes_a_500(client: TestClient, path: str, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    assert "error" not in answer.json() or "\n" not in answer.json()["error"]


def test_a_request_by_another_method_is_counted_under_its_route(client: TestClient) -> None:
    """POST routes stand twice, once for the schema: what counts requests names their pattern either way."""
    assert client.get("/get-online-features").status_code == 405
    assert client.post("/get-online-features", content=b"{}").status_code == 422
    page = client.get("/metrics").text
    for status in (405, 422):
        assert f'tandem_requests_total{{route="/get-online-features",status="{status}"}}' in page
