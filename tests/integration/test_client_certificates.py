"""Certificates over HTTP (SECURITY H7): who asks by one, one that expires or changes, authorities that come and go."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from serving.access import Access
from serving.app import create_app
from serving.request_errors import UnauthenticatedError
from serving.server import Reload
from tests.certificates import Authority
from tests.integration.http_server import read_all, running
from tests.integration.serving_world import GOOD, make_world, settings

BODY = {"instances": [GOOD]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("certificates"), 1)


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
                assert ended.json()["error"] == "the CA for client certificates has changed; connect again"
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
            with pytest.raises(UnauthenticatedError, match="authentication required"):
                principal(der)


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
