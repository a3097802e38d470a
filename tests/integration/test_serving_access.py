"""Who may do what over HTTP: keys, tokens, scopes and limits (SECURITY H7)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.requests import Request

from serving import access
from serving.access import Access
from serving.api_keys import add_key
from serving.app import create_app
from serving.request_errors import UnauthenticatedError
from serving.request_log import read_requests
from serving.settings import OidcSettings, ServingSettings
from serving.tokens import Tokens
from tests.integration.serving_world import GOOD, make_world, settings
from tests.unit.test_tokens import ISSUER, RSA, Provider, published, token
from transforms.errors import ConfigError

PREDICT = "/v1/models/delay:predict"
BODY = {"instances": [GOOD]}
TRAFFIC = {"features": ["origin_traffic:count_1h"], "entities": {"origin": ["JFK"]}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("access"), 1)


def key(file: Path, name: str, *scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {add_key(file, name, scopes, datetime.now(UTC))}"}


@pytest.fixture(scope="module")
def keys(world: Path) -> dict[str, dict[str, str]]:
    file = world / "keys.json"
    scopes = {
        "both": ["model:*", "view:*"],
        "model": ["model:delay"],
        "view": ["view:aircraft"],
        "views": ["view:aircraft", "view:origin_traffic"],
        "admin": ["admin"],
        "none": ["model:other"],
    }
    return {name: key(file, name, *some) for name, some in scopes.items()}


@pytest.fixture(scope="module")
def client(world: Path, keys: Any) -> Iterator[TestClient]:
    with TestClient(create_app(settings(world, keys=world / "keys.json", request_log=world / "log"))) as c:
        yield c


def test_without_a_credential_only_health_answers(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2", "/v2/models/delay", "/v2/models/delay/ready", "/v1/models/delay", "/metrics", "/docs", "/openapi.json", "/nothing"):
        answer = client.get(path)
        assert (answer.status_code, "authentication required" in answer.json()["error"]) == (401, True), path
        assert answer.headers["www-authenticate"].startswith("Basic")
    for path in (PREDICT, "/get-online-features", "/v2/models/delay/infer"):
        assert client.post(path, json={}).status_code == 401


@pytest.mark.parametrize(
    "header", ["Bearer tandem_00000000_" + "A" * 43, "Bearer ", "Basic eDp5", "Basic %%%", "Bearer a.b.c", "Digest x", ""]
)
def test_a_wrong_credential_is_refused_without_details(client: TestClient, header: str) -> None:
    answer = client.post(PREDICT, json=BODY, headers={"Authorization": header})
    assert answer.status_code == 401 and "predictions" not in answer.text


def test_a_key_comes_as_bearer_as_header_or_as_a_browsers_password(client: TestClient, keys: dict[str, dict[str, str]]) -> None:
    bare = keys["both"]["Authorization"].removeprefix("Bearer ")
    for given in ({"headers": keys["both"]}, {"headers": {"X-API-Key": bare}}, {"auth": ("anybody", bare)}):
        assert client.post(PREDICT, json=BODY, **given).status_code == 200


def test_scopes_per_model_view_and_administration(client: TestClient, keys: dict[str, dict[str, str]]) -> None:
    """Each row: a request, and who may make it."""
    service = {"feature_service": "delay", "entities": {"origin": ["JFK"], "tailnum": ["N1"]}}
    aircraft = {"features": ["aircraft:last_delay"], "entities": {"tailnum": ["N1"]}}
    asked: list[tuple[str, str, Any, set[str]]] = [
        ("POST", PREDICT, BODY, {"both", "model"}),
        ("POST", "/v1/models/delay/versions/1:predict", BODY, {"both", "model"}),
        ("GET", "/v1/models/delay", None, {"both", "model"}),
        ("GET", "/v1/models/delay/metadata", None, {"both", "model"}),
        ("GET", "/v2/models/delay", None, {"both", "model"}),
        ("GET", "/v2/models/delay/ready", None, {"both", "model"}),
        ("POST", "/get-online-features", TRAFFIC, {"both", "views"}),
        ("POST", "/get-online-features", aircraft, {"both", "view", "views"}),
        ("POST", "/get-online-features", service, {"both", "views"}),  # all views of it, by name or by *
        ("GET", "/metrics", None, {"admin"}),
        ("GET", "/docs", None, set(keys)),
    ]
    for method, path, body, allowed in asked:
        for name, headers in keys.items():
            status = client.request(method, path, json=body, headers=headers).status_code
            assert status == (200 if name in allowed else 403), (method, path, name)
    refused = client.post(PREDICT, json=BODY, headers=keys["view"]).json()["error"]
    assert refused == "'view' lacks the scope 'model:delay'; ask the server's operator for it"
    # What may not be asked for is refused before anybody is told whether it is there.
    assert client.get("/v1/models/secret", headers=keys["view"]).status_code == 403
    assert client.post("/get-online-features", json={**TRAFFIC, "features": ["secret:x"]}, headers=keys["view"]).status_code == 403
    for name, status in (("both", 404), ("views", 403), ("model", 403)):
        assert client.post("/get-online-features", json={**service, "feature_service": "secret"}, headers=keys[name]).status_code == status


def test_which_services_there_are_and_what_they_read_is_told_to_none_who_may_not_ask_them(tmp_path: Path) -> None:
    """Services that are well, whose view lost a feature or is gone, that cannot be asked, that read nothing, and one that is not there:
    without the scopes they are one. A form that somebody else asked before is no way around that."""
    from feast import FeatureService, FeatureStore

    make_world(tmp_path, 1)
    feast = FeatureStore(repo_path=str(tmp_path / "repo"))
    traffic, aircraft = feast.get_feature_view("origin_traffic"), feast.get_feature_view("aircraft")
    feast.apply(
        [
            FeatureService(name="lost", features=[traffic[["mean_1h"]]]),
            FeatureService(name="gone", features=[aircraft[["last_delay"]].with_name("craft")]),
            FeatureService(name="twice", features=[traffic[["mean_1h"]], aircraft[["last_delay"]].with_name("origin_traffic")]),
            FeatureService(name="none", features=[]),
        ]
    )
    # As an apply of a part of the definitions, or of another tool, leaves it: services name what the registry does not have.
    lost, gone = feast.get_feature_service("lost"), feast.get_feature_service("gone")
    lost.feature_view_projections[0].features[0].name = "vanished"
    gone.feature_view_projections[0].name = "old_craft"
    for service in (lost, gone):
        feast.registry.apply_feature_service(service, feast.project)
    services = ("delay", "lost", "gone", "twice", "none")
    file = tmp_path / "keys.json"
    scopes = {
        "all": ["view:*"],
        "model": ["model:delay"],
        "one": ["view:aircraft"],
        "old": ["view:old_craft"],
        "traffic": ["view:origin_traffic"],
    }
    keys = {name: key(file, name, *some) for name, some in scopes.items()}
    with TestClient(create_app(settings(tmp_path, keys=file))) as client:

        def said(who: str, service: str) -> tuple[int, str]:
            body = {"feature_service": service, "entities": {"origin": ["JFK"], "tailnum": ["N1"]}}
            answer = client.post("/get-online-features", json=body, headers=keys[who])
            return answer.status_code, str(answer.json().get("error", "")).replace(service, "NAME")

        told = {service: said("all", service) for service in (*services, "secret")}
        assert [told[s][0] for s in ("delay", "lost", "gone", "twice", "secret")] == [200, 404, 404, 422, 404]
        assert "unknown feature 'vanished' of view 'origin_traffic'" in told["lost"][1] and "'delay'" in told["secret"][1]
        # The form of "delay" is known since "all" asked.
        refused = "'model' lacks a scope for what feature service 'NAME' reads, or there is no such service; ask the server's operator"
        assert {said("model", service) for service in (*services, "secret")} == {(403, f"{refused} for it")}
        assert len({said("one", service) for service in (*services, "secret")}) == 1
        # Whoever may read a service's views is told what is wrong, and of other views nothing.
        assert said("traffic", "lost") == told["lost"]
        assert said("old", "gone") == (404, "unknown feature view 'old_craft'; the registry has none that you have access to")


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/delay/versions/1:predict", "/v1/models/secret:explain"])
def test_a_prediction_is_asked_for_by_post_alone(client: TestClient, keys: dict[str, dict[str, str]], path: str) -> None:
    """It was taken for a look at a model called ``delay:predict``, for which no scope was found."""
    answer = client.get(path, headers=keys["model"])
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "GET is not allowed here; see /docs"}


def test_who_asked_is_in_the_log_and_in_the_metrics(client: TestClient, world: Path, keys: dict[str, dict[str, str]]) -> None:
    made = client.post(PREDICT, json=BODY, headers={**keys["model"], "X-Request-Id": "theirs"}).headers["x-request-id"]
    page = client.get("/metrics", headers=keys["admin"]).text
    assert 'tandem_principal_requests_total{principal="model",status="200"}' in page
    assert 'tandem_principal_requests_total{principal="view",status="403"}' in page
    with TestClient(create_app(settings(world, keys=world / "keys.json", request_log=world / "second"))) as other:
        made = other.post(PREDICT, json=BODY, headers={**keys["model"], "X-Request-Id": "theirs"}).headers["x-request-id"]
    (row,) = read_requests(world / "second").to_pylist()
    assert (row["tandem_request"], row["tandem_client_request"], row["tandem_principal"]) == (made, "theirs", "model")


def test_tokens_and_grants(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = Provider(published(RSA))
    monkeypatch.setattr(access, "Tokens", lambda oidc: Tokens(oidc, provider))
    oidc = OidcSettings(issuer=ISSUER, audience="tandem")
    with TestClient(create_app(settings(world, oidc=oidc, grants={"token:bob": ("admin", "model:delay")}))) as client:

        def status(path: str, **claims: Any) -> int:
            return client.get(path, headers={"Authorization": f"Bearer {token(**claims)}"}).status_code

        assert status("/v2/models/delay") == 200
        assert status("/metrics") == 403
        assert status("/metrics", sub="bob", scope="") == status("/v2/models/delay", sub="bob", scope="") == 200
        assert status("/v2/models/delay", aud="other") == status("/v2/models/delay", exp=5) == 401
        assert client.get("/v2/models/delay").status_code == 401


def test_limits_are_per_principal(world: Path, keys: dict[str, dict[str, str]]) -> None:
    given = settings(
        world,
        keys=world / "keys.json",
        limits={"requests_per_second": 0.01, "burst_seconds": 300},
        principal_limits={"model": {"rows_per_second": 0.01, "burst_seconds": 300}},
    )
    with TestClient(create_app(given)) as client:
        assert [client.post(PREDICT, json=BODY, headers=keys["both"]).status_code for _ in range(4)] == [200, 200, 200, 429]
        answer = client.post("/get-online-features", json=TRAFFIC, headers=keys["both"])
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 101
        assert "more than 0.01 requests per second; try again in" in answer.json()["error"]
        assert client.post(PREDICT, json={"instances": [GOOD] * 10}, headers=keys["model"]).status_code == 200
        assert "rows per second" in client.post(PREDICT, json=BODY, headers=keys["model"]).json()["error"]
        assert client.post("/get-online-features", json={}, headers=keys["view"]).status_code == 422


def test_beyond_this_machine_a_server_asks_who_or_was_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"feature_repo": tmp_path, "models": tmp_path, "graphs": tmp_path}

    def said(**changes: Any) -> str:
        given: str = settings(tmp_path, **{**base, "keys": tmp_path / "keys.json", **changes}).exposure()
        return given

    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert said(host=host) == ""
    for host in ("0.0.0.0", "::", "10.0.0.5", "example.org", ""):
        with pytest.raises(ConfigError, match=r"create a key .*--insecure"):
            said(host=host)
        assert said(host=host, insecure=True).startswith("insecure: anyone")
    key(tmp_path / "keys.json", "a", "admin")
    assert "unencrypted" in said(host="0.0.0.0")
    assert said(host="0.0.0.0", tls_cert=tmp_path / "c", tls_key=tmp_path / "k") == ""
    (tmp_path / "keys.json").unlink()
    assert "unencrypted" in said(host="0.0.0.0", oidc=OidcSettings(issuer=ISSUER, audience="x"))
    monkeypatch.setenv("TANDEM_API_KEY", "short")
    with pytest.raises(ConfigError, match="fewer than 20 characters"):
        create_app(settings(tmp_path, **base))
    for wrong in ({"tls_cert": "x"}, {"tls_client_ca": "x"}, {"grants": {"a": ["root"]}}):
        with pytest.raises(ValidationError):
            settings(tmp_path, **base, **wrong)


def test_a_key_of_the_environment_or_a_file_of_it(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a-long-secret-of-a-container\n")
    monkeypatch.setenv("TANDEM_API_KEY_FILE", str(secret))
    with TestClient(create_app(settings(world))) as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer a-long-secret-of-a-container"}).status_code == 200
    secret.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        create_app(settings(world))


def test_a_server_that_asked_goes_on_asking(tmp_path: Path) -> None:
    """SECURITY H7: a worker that began after the file of keys was gone let everybody in."""
    file = tmp_path / "keys.json"
    given = settings(tmp_path, models=tmp_path, feature_repo=tmp_path, graphs=tmp_path, keys=file)
    assert not Access(given).asks
    good = key(file, "a", "admin")["Authorization"]
    told = given.model_copy(update={"ask_who": given.asks_who})
    text = file.read_text()
    file.unlink()
    late = Access(ServingSettings.model_validate_json(told.model_dump_json()))
    request = Request({"type": "http", "headers": [(b"authorization", good.encode())]})
    with pytest.raises(UnauthenticatedError):
        asyncio.run(late.principal(request))
    file.write_text(text)
    assert asyncio.run(Access(told).principal(request)).name == "a"
