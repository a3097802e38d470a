"""Who may do what over HTTP: keys, tokens, certificates, scopes and limits (SECURITY H7), and work that stops in time (M5, M6, M9)."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.requests import Request

from serving import access
from serving.access import Access
from serving.api_keys import add_key
from serving.app import create_app
from serving.errors import UnauthenticatedError
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from serving.request_log import read_requests
from serving.server import Reload
from serving.settings import OidcSettings, ServingSettings
from serving.tokens import Tokens
from tests.certificates import Authority
from tests.integration.http_server import read_all, running
from tests.integration.serving_world import GOOD, make_repo, push, settings
from tests.unit.test_tokens import ISSUER, RSA, Provider, published, token
from transforms.errors import ConfigError

PREDICT = "/v1/models/delay:predict"
BODY = {"instances": [GOOD]}
TRAFFIC = {"features": ["origin_traffic:count_1h"], "entities": {"origin": ["JFK"]}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("access")
    make_repo(root)
    push(root, root, 1)
    return root


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
        assert (answer.status_code, "who asks?" in answer.json()["error"]) == (401, True), path
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
    assert refused == "'view' lacks the scope 'model:delay'; ask whoever runs this server for it"
    # What may not be asked for is refused before anybody is told whether it is there.
    assert client.get("/v1/models/secret", headers=keys["view"]).status_code == 403
    assert client.post("/get-online-features", json={**TRAFFIC, "features": ["secret:x"]}, headers=keys["view"]).status_code == 403
    for name, status in (("both", 404), ("views", 403), ("model", 403)):
        assert client.post("/get-online-features", json={**service, "feature_service": "secret"}, headers=keys[name]).status_code == status


def test_which_services_there_are_and_what_they_read_is_told_to_none_who_may_not_ask_them(tmp_path: Path) -> None:
    """Services that are well, whose view lost a feature or is gone, that cannot be asked, that read nothing, and one that is not there:
    without the scopes they are one. A form that somebody else asked before is no way around that."""
    from feast import FeatureService, FeatureStore

    make_repo(tmp_path)
    push(tmp_path, tmp_path, 1)
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
        refused = "'model' lacks a scope for what feature service 'NAME' reads, or there is no such service; ask whoever runs this server"
        assert {said("model", service) for service in (*services, "secret")} == {(403, f"{refused} for it")}
        assert len({said("one", service) for service in (*services, "secret")}) == 1
        # Whoever may read a service's views is told what is wrong, and of other views nothing.
        assert said("traffic", "lost") == told["lost"]
        assert said("old", "gone") == (404, "unknown feature view 'old_craft'; the registry has none that you may read")


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
        with pytest.raises(ConfigError, match=r"make a key .*--insecure"):
            said(host=host)
        assert said(host=host, insecure=True).startswith("insecure: everybody")
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


def test_tls_client_certificates_and_a_certificate_that_changes(world: Path, tmp_path: Path) -> None:
    """mTLS: the subject is the principal; its scopes are granted; a changed certificate is served without a restart."""
    authority, stranger = Authority(), Authority()
    cert, secret, ca = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    authority.issue(cert, secret, "localhost", server=True)
    ca.write_bytes(authority.pem)
    for name, by in (("pricing", authority), ("nobody", authority), ("stranger", stranger)):
        by.issue(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", name)
    given = settings(world, tls_cert=cert, tls_key=secret, tls_client_ca=ca, grants={"CN=pricing": ("model:delay",)})
    app = create_app(given)
    with running(given, app) as (server, _, port):

        def get(path: str, name: str | None = None) -> httpx.Response:
            context = ssl.create_default_context(cafile=str(ca))
            if name:
                context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            with httpx.Client(verify=context) as client:
                return client.get(f"https://localhost:{port}{path}")

        assert get("/v2/health/live").status_code == 200
        assert get("/v2/models/delay").status_code == 401
        assert get("/v2/models/delay", "pricing").status_code == 200
        assert get("/metrics", "pricing").status_code == 403
        assert get("/v2/models/delay", "nobody").status_code == 403
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            get("/v2/models/delay", "stranger")
        with socket.create_connection(("127.0.0.1", port), 20) as plain:
            plain.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b"live" not in read_all(plain)
        connection: Any = server.config.http_protocol_class
        reload, before = Reload(given, connection), ssl.get_server_certificate(("localhost", port))
        secret.write_text("half")
        reload.look()
        assert ssl.get_server_certificate(("localhost", port)) == before
        authority.issue(cert, secret, "localhost", server=True)
        reload.look()
        assert ssl.get_server_certificate(("localhost", port)) != before
        assert get("/v2/models/delay", "pricing").status_code == 200


def test_authorities_of_clients_that_change_or_expire(world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SECURITY H7: an authority that was taken out of the file was trusted until the next start, and by connections that stayed open."""
    served, first, second, gone = Authority(), Authority(), Authority(), Authority(timedelta(hours=-1))
    cert, secret, trust, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "trust.pem", "ca.pem"))
    served.issue(cert, secret, "localhost", server=True)
    trust.write_bytes(served.pem)
    for name, by, ends in (("one", first, 9), ("two", second, 9), ("late", first, -0.5), ("orphan", gone, 9)):
        by.issue(tmp_path / f"{name}.pem", tmp_path / f"{name}.key", "pricing", ends=timedelta(days=ends))
    ca.write_bytes(first.pem + gone.pem)
    given = settings(world, tls_cert=cert, tls_key=secret, tls_client_ca=ca, grants={"CN=pricing": ("model:delay",)})
    with running(given, create_app(given)) as (server, _, port):

        def client(name: str) -> httpx.Client:
            context = ssl.create_default_context(cafile=str(trust))
            context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            return httpx.Client(verify=context, base_url=f"https://localhost:{port}")

        def connected(asking: httpx.Client) -> Any:
            pool: Any = asking._transport
            (connection,) = pool._pool.connections
            return connection

        def refused(name: str) -> None:
            with client(name) as asking, pytest.raises((httpx.TransportError, ssl.SSLError)):
                asking.get("/v2/models/delay")

        for name in ("two", "late", "orphan"):
            refused(name)
        with client("one") as stays:
            assert stays.get("/v2/models/delay").status_code == 200
            connection: Any = server.config.http_protocol_class
            reload = Reload(given, connection)
            served.issue(cert, secret, "localhost", server=True)
            reload.look()
            assert stays.get("/v2/models/delay").status_code == 200, "of another certificate of ours it need not know"
            before = connected(stays)
            for kept in (first.pem + gone.pem + second.pem, b"# with the next one\n" + second.pem + first.pem + gone.pem):
                ca.write_bytes(kept)
                reload.look()
                assert stays.get("/v2/models/delay").status_code == 200
                assert connected(stays) == before, "an authority that is added ends no connection"
            with client("two") as next_:
                assert next_.get("/v2/models/delay").status_code == 200
                ca.write_bytes(second.pem)
                reload.look()
                ended = stays.post("/v1/models/delay:predict", json=BODY)
                assert ended.status_code == 503 and ended.headers["connection"] == "close"
                assert ended.json()["error"] == "the authorities of client certificates have changed; connect again"
                with pytest.raises((httpx.TransportError, ssl.SSLError)):
                    stays.get("/v2/models/delay")
                # It was checked by all that were there; it comes again, and is let in.
                assert [next_.get("/v2/models/delay").status_code for _ in range(2)] == [503, 200]
            assert "Invalid HTTP request" not in caplog.text
        refused("one")
        with client("two") as asking:
            assert asking.get("/v2/models/delay").status_code == 200
            ca.write_bytes(gone.pem)
            reload.look()
        assert "authority of clients" in caplog.text and "expired at" in caplog.text
        assert "authority of clients" in Access(given).warnings()[0], "of readiness, for who may read them"


def test_a_certificate_that_expires_while_its_connection_is_open(tmp_path: Path) -> None:
    """SECURITY H7: TLS looks at its end once, when the connection is made."""
    authority, certificate, now = Authority(), tmp_path / "cert.pem", [time.time()]
    authority.issue(certificate, tmp_path / "key.pem", "pricing", ends=timedelta(hours=1))
    ca = {"tls_cert": certificate, "tls_key": certificate, "tls_client_ca": certificate}
    asked = Access(settings(tmp_path, models=tmp_path, feature_repo=tmp_path, graphs=tmp_path, **ca), lambda: now[0])
    request = Request({"type": "http", "headers": [], "tandem.certificate": ssl.PEM_cert_to_DER_cert(certificate.read_text())})
    assert asyncio.run(asked.principal(request)).name == "CN=pricing"
    now[0] += 3601
    with pytest.raises(UnauthenticatedError):
        asyncio.run(asked.principal(request))


@pytest.mark.parametrize("name", ["a\nroot", "\x1b[31mred", "\u202eecila"])
def test_a_certificate_of_a_name_that_is_no_plain_text_is_nobodys(tmp_path: Path, name: str) -> None:
    """SECURITY H7: it would get into logs and metrics, as a token's would."""
    authority, certificate = Authority(), tmp_path / "cert.pem"
    authority.issue(certificate, tmp_path / "key.pem", name)
    authority.issue(tmp_path / "good.pem", tmp_path / "key.pem", "pricing")
    ca = {"tls_cert": certificate, "tls_key": certificate, "tls_client_ca": certificate}
    asked = Access(settings(tmp_path, models=tmp_path, feature_repo=tmp_path, graphs=tmp_path, **ca))

    def principal(der: bytes) -> Any:
        return asyncio.run(asked.principal(Request({"type": "http", "headers": [], "tandem.certificate": der})))

    assert principal(ssl.PEM_cert_to_DER_cert((tmp_path / "good.pem").read_text())).name == "CN=pricing"
    for der in (ssl.PEM_cert_to_DER_cert(certificate.read_text()), b"0\x03abc"):
        for _ in range(2):
            with pytest.raises(UnauthenticatedError, match="who asks"):
                principal(der)


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


def test_an_expired_certificate_is_told_of_and_a_new_one_ends_it(world: Path, tmp_path: Path) -> None:
    """Clients refuse it; readiness says so (to who does not look at certificates); the new one is taken without a restart."""
    authority, cert, secret, ca = Authority(), tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    authority.issue(cert, secret, "localhost", server=True, ends=timedelta(minutes=-1))
    ca.write_bytes(authority.pem)
    given = settings(world, tls_cert=cert, tls_key=secret)
    with running(given, create_app(given)) as (server, _, port):
        ready, trusting = f"https://localhost:{port}/v2/health/ready", ssl.create_default_context(cafile=str(ca))
        with httpx.Client(verify=trusting) as client, pytest.raises(httpx.ConnectError, match="certificate has expired"):
            client.get(ready)
        with httpx.Client(verify=False) as careless:  # a look at what it says, as a probe of an orchestrator
            assert "expired at" in careless.get(ready).json()["warnings"][0]
        connection: Any = server.config.http_protocol_class
        reload = Reload(given, connection)
        authority.issue(cert, secret, "localhost", server=True)
        reload.look()
        with httpx.Client(verify=trusting) as client:
            assert client.get(ready).json() == {"ready": True}


def test_a_client_that_hangs_up_is_a_499_of_one_line(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SECURITY M9: in the middle of its body."""
    given = settings(world)
    app = create_app(given)
    with caplog.at_level(logging.INFO), running(given, app) as (_, _, port):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
            time.sleep(0.3)
        end = time.monotonic() + 20
        while 'status="499"' not in (page := httpx.get(f"http://127.0.0.1:{port}/metrics").text):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert 'status="500"' not in page
    lines = [r for r in caplog.records if "hung up" in r.getMessage()]
    assert len(lines) == 1 and lines[0].exc_info is None and "Traceback" not in caplog.text


def test_work_stops_at_its_deadline_between_reads(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY M6: no view is read, and no model run, for an answer that nobody waits for."""
    with TestClient(create_app(settings(world, timeout_seconds=0.3))) as client:
        plane = client.app.state.dataplane  # type: ignore[attr-defined]
        real = OrderedSqliteOnlineStore.read_columns
        read: list[str] = []

        def slow(store: Any, config: Any, reads: Any) -> Any:
            read.extend(r.table.name for r in reads)
            time.sleep(0.5)
            return real(store, config, reads)

        monkeypatch.setattr(OrderedSqliteOnlineStore, "read_columns", slow)
        model = plane.models.get("delay")
        predict, ran = model.predict, []

        def predicted(table: Any) -> Any:
            ran.append(table)
            return predict(table)

        monkeypatch.setattr(model, "predict", predicted)
        assert client.post(PREDICT, json=BODY).status_code == 503
        time.sleep(1.0)
        assert read == ["origin_traffic"] and not ran


def test_bodies_are_held_within_a_budget(world: Path) -> None:
    """SECURITY M5: a client with many large bodies on their way is refused before they are in memory; others are answered."""
    given = settings(world, timeout_seconds=20.0, max_body_bytes=1 << 20, max_waiting_bytes=2 << 20)
    with running(given, create_app(given)) as (_, _, port):
        head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {1 << 20}\r\n\r\n".encode()
        held = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(6)]
        for s in held:
            s.sendall(head + b" " * (600 << 10))
        time.sleep(1.0)
        told = []
        for s in held:
            s.setblocking(False)
            try:
                told.append(s.recv(1000))
            except BlockingIOError:
                told.append(b"")
        assert sum(t.startswith(b"HTTP/1.1 503") for t in told) == 5 and told.count(b"") == 1
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(30)
            other.connect(("127.0.0.1", port))
            body = json.dumps(BODY).encode()
            other.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            assert other.recv(1000).startswith(b"HTTP/1.1 200")
        for s in held:
            s.close()


def test_bodies_that_do_not_come_give_way_to_those_that_do(world: Path) -> None:
    """SECURITY H4, M5: whoever sent heads alone, from the address of others, kept these out for as long as he went on."""
    given = settings(world, timeout_seconds=60.0, threads=1, max_waiting=1, max_body_bytes=1 << 20, max_waiting_bytes=2 << 20)
    with running(given, create_app(given)) as (_, _, port):
        url, slow = f"http://127.0.0.1:{port}{PREDICT}", list[socket.socket]()

        def begin(sent: bytes) -> None:
            slow.append(socket.create_connection(("127.0.0.1", port), 60))
            slow[-1].sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: {1 << 20}\r\n\r\n".encode() + sent)

        for _ in range(12):  # three times as many as one address has places
            begin(b" ")
        answers = [httpx.post(url, json=BODY).status_code for _ in range(5)]
        assert answers == [200] * 5
        told = read_all(slow[3])  # it brought least, as the others, and was the youngest of those that had places
        assert told.startswith(b"HTTP/1.1 503") and b"as many requests as it can" in told
        begin(b" " * ((1 << 20) - 10))  # all bytes that one address has, but for a few
        end = time.monotonic() + 50
        while (status := httpx.post(url, json=BODY).status_code) != 200:
            assert status == 503 and time.monotonic() < end
        told = read_all(slow[-1])
        assert told.startswith(b"HTTP/1.1 503") and b"too slow" in told
        for s in slow:
            s.close()
