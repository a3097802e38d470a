"""Tokens of an identity provider: every way in which one is not good enough, and what is fetched when (SECURITY H7)."""

from __future__ import annotations

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from serving.request_errors import UnauthenticatedError
from serving.settings import OidcSettings
from serving.tokens import Tokens, fetch_json
from transforms.errors import StoreError

ISSUER = "https://login.example"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def published(key: Any, kid: str | None = "one", **changes: Any) -> dict[str, Any]:
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    entry = json.loads(kind.to_jwk(key.public_key()))
    return {**entry, **({"kid": kid} if kid else {}), **changes}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": "tandem", "sub": "alice", "exp": time.time() + 60, "scope": "openid model:delay view:*", **changes}
    claims = {k: v for k, v in claims.items() if v is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None)


class Provider:
    """What is fetched, and how often."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: Any = {"keys": list(keys)}
        self.asked: list[str] = []

    def __call__(self, url: str) -> Any:
        self.asked.append(url)
        if isinstance(self.keys, Exception):
            raise self.keys
        return {"jwks_uri": f"{ISSUER}/keys"} if url.endswith("openid-configuration") else self.keys


def tokens(provider: Provider, clock: Any = time.monotonic, **changes: Any) -> Tokens:
    made = Tokens(OidcSettings(**{"issuer": ISSUER, "audience": "tandem", **changes}), provider, clock)
    made.refresh()
    return made


def test_a_good_token_names_a_principal_with_scopes() -> None:
    provider = Provider(published(RSA), published(EC, "two"))
    known = tokens(provider)
    assert provider.asked == [f"{ISSUER}/.well-known/openid-configuration", f"{ISSUER}/keys"]
    found = known.principal(token())
    assert (found.name, set(found.scopes)) == ("token:alice", {"model:delay", "view:*"})
    assert known.principal(token(EC, "ES256", "two", scope=["admin", "model:x", 5])).scopes == {"admin", "model:x"}
    assert known.principal(token(kid=None)).name == "token:alice"
    assert known.principal(token(aud=["x", "tandem"])).name == "token:alice"
    assert tokens(provider, principal_claim="email").principal(token(email="a@b")).name == "token:a@b"


def b64(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


PAYLOAD = b64({"iss": ISSUER, "aud": "tandem", "sub": "alice", "exp": 9e9})
PUBLIC = json.dumps(published(RSA))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda: token(exp=time.time() - 31), "expired"),
        (lambda: token(exp=None), "MissingRequiredClaim"),
        (lambda: token(aud="other"), "InvalidAudience"),
        (lambda: token(aud=None), "MissingRequiredClaim"),
        (lambda: token(iss="https://evil.example"), "InvalidIssuer"),
        (lambda: token(iss=ISSUER + "/"), "InvalidIssuer"),
        (lambda: token(nbf=time.time() + 120), "ImmatureSignature"),
        (lambda: token(OTHER), "InvalidSignature"),
        (lambda: token(OTHER, kid=None), "InvalidSignature"),
        (lambda: token(kid="unknown"), "InvalidKey"),
        (lambda: token(EC, "ES256"), "InvalidKey"),
        (lambda: token(algorithm="RS384"), "signed by 'RS384'"),
        (lambda: f"{b64({'alg': 'none', 'kid': 'one'})}.{PAYLOAD}.", "signed by 'none'"),
        (lambda: f"{b64({'alg': 'None', 'kid': 'one'})}.{PAYLOAD}.", "signed by 'None'"),
        (lambda: jwt.encode({"sub": "alice"}, b"k" * 64, algorithm="HS256", headers={"kid": "one"}), "signed by 'HS256'"),
        (lambda: token()[:-4] + "AAAA", "InvalidSignature"),
        (lambda: token(sub=None), "has no principal"),
        (lambda: token(sub="a" * 256), "has no principal"),  # its beginning may be somebody's
        (lambda: token(sub=""), "has no principal"),
        (lambda: token(sub="a\n\x1b[31mroot"), "has no principal"),  # it would get into logs
        (lambda: token(sub="\u202eecila"), "has no principal"),
        (lambda: f"{base64.urlsafe_b64encode(b'[' * 9_000).decode()}.{PAYLOAD}.AA", "Decode"),
        (lambda: jwt.encode({"sub": "alice"}, RSA, algorithm="RS256", headers={"kid": "one", "crit": ["x"], "x": 1}), "InvalidToken"),
        (lambda: f"{b64({'alg': ['RS256'], 'kid': 'one'})}.{PAYLOAD}.AA", "signed by"),
        (lambda: f"{b64({'alg': 'RS256', 'kid': {'one': 1}})}.{PAYLOAD}.AA", "InvalidToken"),
        (lambda: token(exp=1e400), "Decode"),
        (lambda: "a.b.c", "Decode"),
        (lambda: "..", "Decode"),
    ],
)  # fmt: skip
def test_a_token_that_is_not_good_enough(bad: Any, why: str) -> None:
    with pytest.raises(UnauthenticatedError, match=why):
        tokens(Provider(published(RSA))).principal(bad())


def test_a_key_for_one_algorithm_is_not_used_for_another_and_a_secret_one_never() -> None:
    with pytest.raises(UnauthenticatedError):
        tokens(Provider(published(RSA, alg="RS256"), published(RSA, "enc", use="enc"))).principal(token(algorithm="PS256"))
    with pytest.raises(UnauthenticatedError):
        tokens(Provider(published(EC, "x"), published(RSA, use="enc"))).principal(token())
    secret = {"kty": "oct", "kid": "one", "k": base64.urlsafe_b64encode(b"k" * 32).decode()}
    assert "holds no key that signs" in tokens(Provider(secret)).problem


def test_a_new_key_is_fetched_when_it_is_met_but_not_for_every_unknown_one() -> None:
    now, provider = [1000.0], Provider(published(RSA))
    known = tokens(provider, clock=lambda: now[0])
    provider.keys = {"keys": [published(OTHER, "new")]}
    asked = len(provider.asked)
    for i in range(50):
        known.refresh_for(token(kid=f"unknown{i}"))
    known.refresh_for("no.token.atall")
    assert len(provider.asked) == asked  # it was asked just now
    now[0] += 10
    assert not known.knows_key_of(token(OTHER, kid="new"))
    known.refresh_for(token(OTHER, kid="new"))
    assert known.principal(token(OTHER, kid="new")).name == "token:alice"
    with pytest.raises(UnauthenticatedError):
        known.principal(token())  # that key was withdrawn


def test_many_tokens_of_unknown_keys_at_once_are_one_question() -> None:
    """SECURITY H7: each that came while a slow provider was asked would have asked it in turn, and held a thread until then."""
    now, asking, go_on = [1000.0], threading.Event(), threading.Event()
    provider = Provider(published(RSA))
    known = tokens(provider, clock=lambda: now[0], jwks_url=f"{ISSUER}/keys")
    asked, now[0] = len(provider.asked), 1010.0
    fetch = provider.__call__

    def slow(url: str) -> Any:
        asking.set()
        assert go_on.wait(60)
        return fetch(url)

    known._fetch = slow
    held = known._lock
    with held:  # all of them have looked at the time by when the first one gets it
        threads = [threading.Thread(target=known.refresh_for, args=(token(kid=f"new{i}"),)) for i in range(20)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while sum(t.is_alive() for t in threads) < 20:
            assert time.monotonic() < end
    assert asking.wait(60)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(provider.asked) == asked + 1


def test_a_provider_that_is_away_leaves_the_keys_of_before() -> None:
    provider = Provider(published(RSA))
    known = tokens(provider)
    answers: list[Any] = [StoreError("gone"), {"keys": []}, [], {"keys": [{"kty": "RSA"}, 5]}, {}]
    for broken in answers:
        provider.keys = broken
        known.refresh()
        assert known.problem and known.principal(token()).name == "token:alice"
    provider.keys = {"keys": [published(RSA)]}
    known.refresh()
    assert known.problem == ""


def test_discovery_cannot_lead_to_keys_in_the_clear() -> None:
    known = Tokens(OidcSettings(issuer=ISSUER, audience="tandem"), lambda url: {"jwks_uri": "http://evil.example/keys"})
    known.refresh()
    assert "is no https:// address" in known.problem


@pytest.mark.parametrize("changes", [{"issuer": "http://login.example"}, {"jwks_url": "file:///etc/passwd"}, {"algorithms": ("HS256",)}])
def test_settings_that_would_let_strangers_in(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OidcSettings(**{"issuer": ISSUER, "audience": "tandem", **changes})


@pytest.fixture
def site() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", "/keys")
                self.end_headers()
                return
            body = b'{"keys": []}' if self.path == "/keys" else b"a" * (3 << 20) if self.path == "/long" else b"<html>"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_what_is_fetched_is_small_json_without_detours(site: str) -> None:
    assert fetch_json(f"{site}/keys") == {"keys": []}
    for path, why in (("/moved", "answered 302"), ("/long", "more than"), ("/html", "cannot be read")):
        with pytest.raises(StoreError, match=why):
            fetch_json(site + path)
    with pytest.raises(StoreError, match="cannot be read"):
        fetch_json("http://127.0.0.1:9/")
