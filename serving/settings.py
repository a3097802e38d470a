"""The settings of ``tandem serve``."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.principals import checked_scopes
from transforms.errors import ConfigError

__all__ = ["LimitSettings", "OidcSettings", "ServingSettings", "is_loopback"]

ENVIRONMENT_KEY = "TANDEM_API_KEY"
"""The environment's own API key, or the file that holds it with ``_FILE`` behind: for containers. It has all scopes."""


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LimitSettings(_Section):
    """What one caller may ask for. A burst is what ``burst_seconds`` of the rate come to."""

    requests_per_second: float | None = Field(default=None, gt=0)
    rows_per_second: float | None = Field(default=None, gt=0)
    burst_seconds: float = Field(default=10, gt=0)


class OidcSettings(_Section):
    """Tokens (JWT) of an identity provider that the server takes. Signed ones alone, by algorithms with a public key."""

    issuer: str
    """As it stands in the tokens' ``iss``; its keys are found by ``<issuer>/.well-known/openid-configuration``."""
    audience: str
    """What must stand in the tokens' ``aud``."""
    jwks_url: str = ""
    """Where the provider's keys are, if its discovery is not to be asked."""
    algorithms: tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...] = (
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
    )
    principal_claim: str = "sub"
    """The claim that names the principal."""
    scope_claim: str = "scope"
    """The claim with the scopes: text with blanks between them, or a list. What is no scope of ours in it is passed over."""
    leeway_seconds: float = Field(default=30, ge=0, le=600)
    """How far the provider's clock may be from ours."""
    refresh_seconds: float = Field(default=300, ge=1)
    """How often the provider's keys are fetched anew. An unknown key is asked for at once, but no more than every ten seconds."""

    @field_validator("issuer", "jwks_url")
    @classmethod
    def _https(cls, value: str) -> str:
        url = urlsplit(value)
        if value and url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
            raise ValueError("must begin with https:// (http:// on this machine alone), as whoever stands between could give us keys")
        return value


class ServingSettings(BaseModel):
    """Settings of one server; checked at construction, never changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    feature_repo: Path
    """The folder that holds ``feature_store.yaml``."""
    models: Path
    """The folder of models: ``<models>/<name>/<version>/saved_model.pb`` (or ``model.onnx``) with ``tandem.json`` beside it."""
    needs_model: bool = True
    """Whether the server is not ready before a model has been pushed; False: it may serve features alone."""
    graphs: Path
    """The folder of transform graphs: ``<graphs>/<group>/CURRENT`` holds the fingerprint applied to the online rows."""
    host: str = "127.0.0.1"
    port: int = Field(default=8500, ge=0, le=65535)
    """0 takes a free port."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that answer at the port: at most as many as there are cores. Each loads the models; limits hold for all together."""
    insecure: bool = False
    """Whether the server may listen beyond loopback though it asks nobody who they are."""
    keys: Path | None = None
    """The file of API keys that ``tandem keys`` keeps. Where it is there when the server starts, requests need a key."""
    ask_who: bool = False
    """Whether requests need a credential even where nothing is there that could give one: then nobody gets in. A server that asked when it
    was started asks as long as it runs, whatever becomes of its files."""
    oidc: OidcSettings | None = None
    """The identity provider whose tokens are taken."""
    grants: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Scopes by principal, beside those of its key or token; for clients with a certificate, whose subject (as in RFC 4514, such as
    ``CN=pricing,O=Acme``) is the principal, the only ones."""
    limits: LimitSettings = LimitSettings()
    """What each caller may ask for: each principal, or each address where nobody is asked who they are."""
    principal_limits: dict[str, LimitSettings] = Field(default_factory=dict)
    """Other limits, by principal."""
    tls_cert: Path | None = None
    """The certificate (chain), PEM. It and its key are read again when they change."""
    tls_key: Path | None = None
    """Its private key, PEM; not encrypted, readable by the server alone."""
    tls_client_ca: Path | None = None
    """The authorities (PEM) of client certificates, read again when they change: who was let in while one was there that is gone has to
    connect again. A client with a certificate is the principal that its subject names; without keys or tokens every client needs one."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of proxies whose ``X-Forwarded-For`` and ``X-Forwarded-Proto`` are believed."""
    max_connections: int = Field(default=1_000, ge=1)
    """Connections at a time (fewer where the process may not open so many files); then the one that is idle longest is closed for a new
    one, and without an idle one the new one is refused."""
    max_connections_per_client: int | None = Field(default=None, ge=1)
    """Of them, from one address; null: all."""
    max_header_bytes: int = Field(default=64 << 10, ge=1024)
    """Request line and headers of one request."""
    head_seconds: float = Field(default=10.0, gt=0)
    """How long a connection may take to send a request's head."""
    idle_seconds: float = Field(default=5.0, gt=0)
    """How long a connection may wait between requests."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    max_instances: int = Field(default=10_000, ge=1)
    """Instances (or entities) in one request."""
    fingerprint_policy: Literal["refuse", "serve"] = "refuse"
    """Whether a model whose fingerprint differs from the rows that it reads is refused (503), or served and counted."""
    poll_seconds: float = Field(default=2.0, gt=0)
    """How often the folder of models and the feature registry are looked at."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """What one request may take, reading its body included, before it is answered with 503."""
    threads: int = Field(default=8, ge=1, le=256)
    """Threads that read features and run models."""
    max_waiting: int = Field(default=64, ge=0)
    """Requests that may wait for a thread; more are answered with 503 at once."""
    max_waiting_bytes: int = Field(default=128 << 20, ge=1)
    """Bytes of bodies held at a time; at least two of the greatest ones."""
    keep_versions: int = Field(default=2, ge=1)
    """Versions of a model that stay loaded: the champion and those before it; without aliases the newest ones. A challenger that is run in
    the shadow is one of them, and then at least two are."""
    as_of: AwareDatetime | None = None
    """Answer as if it were this instant, for ages and TTLs over replayed history. By default: now."""
    clock: Path | None = None
    """A file that ``tandem replay`` writes: while it is there, time passes as it says, for ages and TTLs over a history that is
    being replayed. It may come later. By default, and while it is not there: ``as_of``, or now."""
    request_log: Path | None = None
    """The folder of the request log (see ``serving.request_log``); none: nothing is logged."""
    request_log_sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that is logged, chosen by a hash of the request id."""
    request_log_rows: int = Field(default=20_000, ge=1)
    """Instances after which a file is closed and becomes visible."""
    request_log_seconds: float = Field(default=60.0, gt=0)
    """Seconds after which a file that has rows is closed and becomes visible."""
    request_log_bytes: int = Field(default=2**30, ge=1)
    """What the files of the log may take together; the oldest are deleted."""
    request_log_files: int = Field(default=20_000, ge=1)
    """How many files the log may have; the oldest are deleted."""
    request_log_young_hours: float = Field(default=24.0, ge=0)
    """Files that have to go before they are so old are told of: in the server's own log, in ``/metrics`` and by its readiness."""
    shadow: bool = True
    """Whether the challenger is run on the requests too, off the answers' path, and logged beside the request log (without one: not)."""
    shadow_sample: float = Field(default=1.0, ge=0, le=1)
    """The share of requests that the challenger is run on, chosen by a hash of the request id."""
    shadow_waiting: int = Field(default=2_000, ge=1)
    """Requests that may wait for the challenger; more are not run on it, and counted."""

    @field_validator("grants")
    @classmethod
    def _scopes(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for principal, scopes in value.items():
            try:
                checked_scopes(scopes, principal)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _tls(self) -> ServingSettings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key: client certificates are part of TLS")
        return self

    @property
    def asks_who(self) -> bool:
        """Whether requests need a credential: it is said so, or there is a file of keys, a provider of tokens, an authority of clients or
        a key in the environment. Looks at the disk and the environment."""
        own = any(os.environ.get(name) for name in (ENVIRONMENT_KEY, f"{ENVIRONMENT_KEY}_FILE"))
        keys = self.keys is not None and self.keys.exists()
        return self.ask_who or own or keys or self.oidc is not None or self.tls_client_ca is not None

    def exposure(self) -> str:
        """One line to say about where the server listens, or ""; raises ConfigError if strangers could use it unasked."""
        if is_loopback(self.host):
            return ""
        if not self.asks_who:
            if not self.insecure:
                raise ConfigError(
                    f"serve.host {self.host!r}: anyone who can reach it could use it; create a key ('tandem keys add NAME'), set"
                    " serve.oidc or --tls-client-ca, listen on 127.0.0.1, or give --insecure"
                )
            return f"insecure: anyone who can reach {self.host} port {self.port} can use the server"
        if self.tls_cert is None:
            return (
                f"keys and tokens are sent to {self.host} port {self.port} unencrypted; give --tls-cert and --tls-key, or use a TLS proxy"
            )
        return ""
