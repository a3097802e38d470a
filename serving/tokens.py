"""Tokens (JWT) of an OpenID provider: checked by PyJWT against the provider's published keys, which are kept here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt
import orjson
import requests

from serving.bounded_http import read_answer, within
from serving.principals import Principal, checked_scopes, is_name
from serving.request_errors import UnauthenticatedError
from serving.settings import OidcSettings
from transforms.errors import ConfigError, StoreError

__all__ = ["Tokens", "fetch_json"]

log = logging.getLogger("tandem.serving")

_FETCH_SECONDS = 5.0
_MOST_BYTES = 1 << 20
_MOST_KEYS = 50
_AGAIN_SECONDS = 10.0
"""An unknown key makes the provider be asked at most so often: anybody can send tokens with unknown keys."""


def fetch_json(url: str) -> Any:
    """The JSON at a URL, of at most 1 MiB, without following redirects. Raises StoreError. However slowly it comes: some seconds."""

    def ask() -> bytes:
        with requests.get(url, timeout=_FETCH_SECONDS, allow_redirects=False, stream=True) as answer:
            if answer.status_code != 200:
                raise StoreError(f"{url}: answered {answer.status_code}")
            return read_answer(answer, _MOST_BYTES, _FETCH_SECONDS)

    try:
        body = within(2 * _FETCH_SECONDS, url, ask)
        if len(body) > _MOST_BYTES:
            raise StoreError(f"{url}: answered more than {_MOST_BYTES} bytes")
        return orjson.loads(body)
    except (requests.RequestException, OSError, ValueError) as e:
        raise StoreError(f"{url}: cannot be read ({type(e).__name__})") from None


class Tokens:
    """The provider's keys, and the check of a token by them. Safe for several threads; keys of before stay while the provider is away."""

    def __init__(
        self, settings: OidcSettings, fetch: Callable[[str], Any] = fetch_json, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``clock``: seconds that only ever grow."""
        self._settings = settings
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: tuple[tuple[str | None, str | None, Any], ...] = ()
        self._fetched = float("-inf")
        self.problem = "the keys of the identity provider have not been fetched yet"
        """Why the last fetch failed; empty when all is well."""

    def refresh(self) -> None:
        """Fetch the keys; what goes wrong stands in ``problem`` and leaves those of before. Blocks for some seconds at most."""
        self._refresh(0.0)

    def _refresh(self, after: float) -> None:
        """Fetch the keys, unless another thread has begun to less than ``after`` seconds ago."""
        with self._lock:
            if self._clock() - self._fetched < after:
                return
            self._fetched = self._clock()
            try:
                keys = self._read(self._fetch(self._settings.jwks_url or self._discovered()))
            except StoreError as e:
                problem = f"the keys of the identity provider cannot be fetched ({e})"
                if problem != self.problem:
                    log.warning("tokens: %s", problem)
                self.problem = problem
                return
            self._keys, self.problem = keys, ""

    def refresh_for(self, token: str) -> None:
        """Fetch the keys anew if the token names one that is not known, unless that was done just now."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            return
        if all(known != kid for known, _, _ in self._keys) and self._clock() - self._fetched >= _AGAIN_SECONDS:
            self._refresh(_AGAIN_SECONDS)  # many such tokens at once are one question

    def knows_key_of(self, token: str) -> bool:
        """Whether the key that the token names is there (or the token names none)."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except jwt.PyJWTError:
            return True
        return kid is None or any(known == kid for known, _, _ in self._keys)

    def principal(self, token: str) -> Principal:
        """Whose token it is: ``token:<claim>``, with the scopes that stand in it. Raises UnauthenticatedError."""
        s = self._settings
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in s.algorithms:
                raise UnauthenticatedError(f"the token is signed by {str(algorithm)[:20]!r}; this server takes {', '.join(s.algorithms)}")
            claims = self._claims(token, header.get("kid"), algorithm)
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("the token is expired; get a new one") from None
        except jwt.PyJWTError as e:
            raise UnauthenticatedError(f"the token is not valid ({type(e).__name__}); get one of {s.issuer} for {s.audience!r}") from None
        name = claims.get(s.principal_claim)
        if not is_name(name):  # 255 characters are what OpenID Connect allows a subject
            raise UnauthenticatedError(
                f"the token has no principal: its claim {s.principal_claim!r} is missing, too long or not plain text"
            )
        return Principal(f"token:{name}", _scopes(claims.get(s.scope_claim)))

    def _claims(self, token: str, kid: str | None, algorithm: str) -> dict[str, Any]:
        fitting = [key for known, own, key in self._keys if own in (None, algorithm) and (kid is None or known == kid)]
        error: jwt.PyJWTError = jwt.InvalidKeyError("no such key")
        for key in fitting:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._settings.audience,
                    issuer=self._settings.issuer,
                    leeway=self._settings.leeway_seconds,
                    options={"require": ["exp", "iss", "aud"]},
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError, jwt.InvalidAlgorithmError) as e:
                error = e  # without a key id any key of the kind may be the one
            except TypeError as e:  # a key of another kind than the algorithm's
                error = jwt.InvalidKeyError(str(e))
        raise error

    def _discovered(self) -> str:
        found = self._fetch(f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        url = found.get("jwks_uri") if isinstance(found, dict) else None
        if not isinstance(url, str):
            raise StoreError(f"{self._settings.issuer}: its discovery names no jwks_uri")
        try:
            return OidcSettings.model_validate({**self._settings.model_dump(), "jwks_url": url}).jwks_url
        except ValueError:
            raise StoreError(f"{self._settings.issuer}: its discovery names keys at {url[:80]!r}, which is no https:// address") from None

    @staticmethod
    def _read(found: Any) -> tuple[tuple[str | None, str | None, Any], ...]:
        entries = found.get("keys") if isinstance(found, dict) else None
        if not isinstance(entries, list):
            raise StoreError("what it publishes holds no keys")
        keys = []
        for entry in entries[:_MOST_KEYS]:
            if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
                continue  # a secret key is never published, and one for encryption signs nothing
            try:
                keys.append((entry.get("kid"), entry.get("alg"), jwt.PyJWK.from_dict(entry).key))
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue  # of a kind that PyJWT does not know
        if not keys:
            raise StoreError("what it publishes holds no key that signs")
        return tuple(keys)


def _scopes(claim: Any) -> frozenset[str]:
    said = claim.split() if isinstance(claim, str) else [s for s in claim if isinstance(s, str)] if isinstance(claim, list) else []
    out: set[str] = set()
    for scope in said[:1_000]:
        try:
            out |= checked_scopes([scope], "")
        except ConfigError:
            continue
    return frozenset(out)
