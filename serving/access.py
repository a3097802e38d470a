"""Who asks: an API key, a token of an identity provider, or a client certificate; and what may be asked without."""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request

from serving.api_keys import ApiKeys
from serving.certificate import authorities_warning, certificate_warning
from serving.model_repository import Watcher
from serving.principals import ALL_SCOPES, ANYBODY, Principal, is_name
from serving.request_errors import UnauthenticatedError
from serving.settings import ENVIRONMENT_KEY, ServingSettings
from serving.tokens import Tokens
from transforms.errors import ConfigError

__all__ = ["Access", "Guard", "environment_key"]

OPEN = ("/v2/health/live", "/v2/health/ready")
"""Paths that need no credential: who starts and stops servers asks them."""
_ENVIRONMENT = Principal("environment", ALL_SCOPES)
_MOST_CREDENTIAL = 16 << 10
_MOST_SUBJECT = 1_000
"""Characters of a certificate's subject: several parts, each with a name."""


def environment_key() -> str:
    """The API key of the environment, or of the file that it names; empty if there is none. Raises ConfigError."""
    key, file = os.environ.get(ENVIRONMENT_KEY, ""), os.environ.get(f"{ENVIRONMENT_KEY}_FILE", "")
    if file:
        try:
            key = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{ENVIRONMENT_KEY}_FILE: {file} cannot be read ({type(e).__name__}); correct the path") from None
    if (key or file) and len(key) < 20:
        raise ConfigError(f"{ENVIRONMENT_KEY}: has fewer than 20 characters; give a long random one, or one of 'tandem keys add'")
    return key


class Access:
    """Tells the principal of a request. Whether it asks at all is decided once, when the server starts."""

    def __init__(self, settings: ServingSettings, clock: Callable[[], float] = time.time) -> None:
        self.asks = settings.asks_who
        self._clock = clock
        self._certificate, self._authorities = settings.tls_cert, settings.tls_client_ca
        own = environment_key()
        keys = settings.keys is not None and (settings.keys.exists() or settings.ask_who)  # a file that is away may come back
        self._keys = ApiKeys(settings.keys if keys else None, own) if keys or own else None
        self.tokens = None if settings.oidc is None else Tokens(settings.oidc)
        self._grants = {name: frozenset(scopes) for name, scopes in settings.grants.items()}
        seconds = 300.0 if settings.oidc is None else settings.oidc.refresh_seconds
        self._watcher = None if self.tokens is None else Watcher(self.tokens.refresh, seconds)
        self._subjects: OrderedDict[bytes, tuple[str, float]] = OrderedDict()  # and when the certificate expires

    def open(self) -> None:
        """Fetch the provider's keys, and go on doing so. A provider that is away is no error: it shows in :meth:`warnings`."""
        if self.tokens is not None and self._watcher is not None:
            self.tokens.refresh()
            self._watcher.start()

    def close(self) -> None:
        """Fetch no more."""
        if self._watcher is not None:
            self._watcher.close()

    def warnings(self) -> list[str]:
        """What is wrong with the provider, the server's own certificate and the authorities of clients, if anything."""
        provider, now = self.tokens.problem if self.tokens is not None else "", datetime.now(UTC)
        return [
            line for line in (provider, certificate_warning(self._certificate, now), authorities_warning(self._authorities, now)) if line
        ]

    async def principal(self, request: Request) -> Principal:
        """Who asks. Raises UnauthenticatedError if nobody that this server knows."""
        if not self.asks:
            return ANYBODY
        credential = _credential(request)
        found = await self._of(credential) if credential else self._of_certificate(request.scope)
        if found is None:
            raise UnauthenticatedError(
                "the credential is not valid; send 'Authorization: Bearer KEY' with a valid key"
                if credential
                else "authentication required; send 'Authorization: Bearer KEY' with an API key or a token"
            )
        granted = self._grants.get(found.name)
        return found if granted is None else replace(found, scopes=found.scopes | granted)

    async def _of(self, credential: str) -> Principal | None:
        if self._keys is not None and (found := self._keys.principal(credential, _ENVIRONMENT)) is not None:
            return found
        if self.tokens is None or credential.count(".") != 2:
            return None
        if not self.tokens.knows_key_of(credential):
            await asyncio.get_running_loop().run_in_executor(None, self.tokens.refresh_for, credential)
        return self.tokens.principal(credential)

    def _of_certificate(self, scope: Any) -> Principal | None:
        der = scope.get("tandem.certificate")  # checked against the authorities by TLS itself
        if not der:
            return None
        if der not in self._subjects:
            from cryptography import x509

            try:
                certificate = x509.load_der_x509_certificate(der)
                subject, ends = certificate.subject.rfc4514_string(), certificate.not_valid_after_utc.timestamp()
            except ValueError:  # TLS took it; a name that cannot be read is nobody's
                subject, ends = "", 0.0
            self._subjects[der] = (subject if is_name(subject, _MOST_SUBJECT) else ""), ends
            if len(self._subjects) > 1_000:
                self._subjects.popitem(last=False)
        subject, ends = self._subjects[der]
        # TLS looked at its end when the connection was made, and one may stay open as long as it is used.
        return Principal(subject, frozenset()) if subject and self._clock() < ends else None


def _credential(request: Request) -> str:
    """The key or token in ``Authorization: Bearer``, in ``X-API-Key``, or as the password of ``Authorization: Basic`` (browsers)."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    value = value.strip()
    if kind.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            value = ""
    elif kind.lower() != "bearer":
        value = request.headers.get("x-api-key", "")
    return value if len(value) <= _MOST_CREDENTIAL else ""


class Guard:
    """ASGI middleware: puts the principal into the request's state, or answers 401."""

    def __init__(self, app: Any, access: Access, refuse: Any) -> None:
        """``refuse(error)`` makes the response."""
        self._app = app
        self._access = access
        self._refuse = refuse

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            request = Request(scope)
            try:
                request.state.principal = await self._access.principal(request)
            except UnauthenticatedError as error:
                if scope["path"] not in OPEN:
                    await self._refuse(error)(scope, receive, send)
                    return
                request.state.principal = Principal("", frozenset())
        await self._app(scope, receive, send)
