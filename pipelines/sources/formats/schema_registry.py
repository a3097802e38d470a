"""A client of Confluent-compatible schema registries: the few calls that reading and writing records need.

API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth

from pipelines.project.config import KafkaSettings
from pipelines.project.http import certificates, reason, untrusted
from pipelines.sources.broker import BrokerAway
from serving.bounded_http import read_answer, within
from transforms.errors import ConfigError

__all__ = ["Reference", "RegisteredSchema", "Registry", "RegistryAway", "registry_of"]

ANSWER_SECONDS = 5.0
UNKNOWN_FOR_SECONDS = 30.0
"""How long an id that the registry did not know is not requested again."""
_MOST_UNKNOWN = 10_000
_MOST_ID = 2**31 - 1
_MOST_BYTES = 16 << 20
"""Of an answer, decompressed."""
_UNKNOWN_SUBJECT, _UNKNOWN_VERSION, _UNKNOWN_SCHEMA = 40401, 40402, 40403
_TYPE = "application/vnd.schemaregistry.v1+json"


class RegistryAway(BrokerAway):
    """The schema registry did not answer; the same call may be made again, as with a broker that is away."""


@dataclass(frozen=True)
class Reference:
    """A schema that another one names: ``name`` there is this version of this subject."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema as registered: its text, its kind (``AVRO``, ``JSON``, ``PROTOBUF``) and what it refers to."""

    text: str
    kind: str
    references: tuple[Reference, ...]


class Registry:
    """One registry, by one connection that is kept; safe to share between threads. Schemas are requested once: an id never changes.

    Every call raises RegistryAway when there is no answer within ``answer_seconds`` or the registry reports a failure of its own, and
    ConfigError when it refuses us or answers as no schema registry does: neither says anything about a record.
    """

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password: str | None = None,
        cafile: Path | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            kept = "user and password belong into schema_registry_username and _password" if parts.username else f"got {url!r}"
            raise ConfigError(f"kafka.schema_registry: write http://host:port or https://host:port; {kept}")
        self.url, self._seconds, self._clock = url, answer_seconds, clock
        self._session = requests.Session()
        self._session.headers.update({"Accept": _TYPE, "Content-Type": _TYPE})
        self._session.trust_env = False  # no proxy between us and the brokers
        self._session.verify = str(cafile) if cafile else certificates()
        self._auth = HTTPBasicAuth(username.encode(), (password or "").encode()) if username else None
        self._lock = threading.Lock()
        self._known: dict[tuple[int, bool], RegisteredSchema] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, number: int, serialized: bool = False) -> RegisteredSchema | None:
        """The schema of an id, None if the registry knows none. ``serialized`` asks for that form of a Protobuf schema: base64 of its
        FileDescriptorProto instead of its text."""
        if (number, serialized) in self._known:
            return self._known[number, serialized]
        if number > _MOST_ID or self._unknown.get(number, -UNKNOWN_FOR_SECONDS) > self._clock() - UNKNOWN_FOR_SECONDS:
            return None
        found = self._ask("GET", f"/schemas/ids/{number}{_form(serialized)}", unknown=(_UNKNOWN_SCHEMA,))
        if found is None:
            if len(self._unknown) >= _MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[number] = self._clock()
            return None
        made = self._known[number, serialized] = self._schema(found)
        return made

    def version(self, subject: str, version: int | str = "latest", serialized: bool = False) -> RegisteredSchema | None:
        """A version of a subject, None if there is none; ``serialized`` as for :meth:`schema`."""
        path = f"/subjects/{quote(subject, safe='')}/versions/{version}{_form(serialized)}"
        found = self._ask("GET", path, unknown=(_UNKNOWN_SUBJECT, _UNKNOWN_VERSION))
        return None if found is None else self._schema(found)

    def register(self, subject: str, schema: Any, kind: str = "AVRO") -> int:
        """Make sure that a subject has this schema (JSON, or the text of another kind); its id. Raises ConfigError when the registry takes
        it for incompatible."""
        path = f"/subjects/{quote(subject, safe='')}/versions"
        text = schema if isinstance(schema, str) else json.dumps(schema, separators=(",", ":"))
        found = self._ask("POST", path, {"schema": text, **({} if kind == "AVRO" else {"schemaType": kind})})
        if not isinstance(found, dict) or type(found.get("id")) is not int:
            raise self._strange(f"POST {path}")
        return int(found["id"])

    def close(self) -> None:
        """Disconnect; the next call connects anew."""
        with self._lock:
            self._session.close()

    def _schema(self, found: Any) -> RegisteredSchema:
        try:
            references = tuple(_reference(r["name"], r["subject"], r["version"]) for r in found.get("references") or ())
            return RegisteredSchema(str(found["schema"]), str(found.get("schemaType") or "AVRO"), references)
        except (AttributeError, KeyError, TypeError):
            raise self._strange("a schema") from None

    def _ask(self, method: str, path: str, body: Any = None, unknown: tuple[int, ...] = ()) -> Any:
        """The JSON of the answer; None where the registry reports, in its own form, that there is none."""
        with self._lock:
            status, data = self._send(method, path, None if body is None else json.dumps(body).encode())
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError):
            answer = None
        code, message = (answer.get("error_code"), answer.get("message")) if isinstance(answer, dict) else (None, None)
        if status == 200 and answer is not None:
            return answer
        if status == 404 and code in unknown:
            return None
        if status in (408, 429) or status >= 500:
            raise RegistryAway(f"the schema registry at {self.url} answers with status {status}: {message or 'no reason given'}")
        if status in (401, 403):
            raise ConfigError(
                f"the schema registry at {self.url} refuses us (status {status}); check kafka.schema_registry_username and _password"
            )
        if method == "POST" and status in (409, 422):
            raise ConfigError(
                f"the schema registry refuses the schema for {path.split('/')[2]}: {str(message)[:300]}; change the source or its rule"
            )
        raise self._strange(f"{method} {path} (status {status})")

    def _strange(self, what: str) -> ConfigError:
        return ConfigError(f"{self.url} does not answer {what} as a schema registry does; correct kafka.schema_registry")

    def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        def ask() -> tuple[int, bytes]:
            with self._session.request(
                method, self.url.rstrip("/") + path, data=body, auth=self._auth, timeout=self._seconds, allow_redirects=False, stream=True
            ) as answer:
                return answer.status_code, read_answer(answer, _MOST_BYTES, self._seconds)

        try:
            status, data = within(2 * self._seconds, self.url, ask)
            if len(data) > _MOST_BYTES:
                raise ConfigError(f"{self.url} responds to {path} with more than {_MOST_BYTES >> 20} MiB; correct kafka.schema_registry")
            return status, data
        except requests.RequestException as error:
            if why := untrusted(error):
                raise ConfigError(f"the certificate of {self.url} is not trusted: {why}; set kafka.ssl_cafile") from None
            raise RegistryAway(f"the schema registry at {self.url} does not answer: {reason(error)}") from None


def registry_of(kafka: KafkaSettings) -> Registry:
    """The one of ``kafka.schema_registry``, which must be set. No request is made yet. Raises ConfigError."""
    user, password = kafka.schema_registry_username, kafka.schema_registry_password
    return Registry(str(kafka.schema_registry), user, password.get_secret_value() if password else None, kafka.ssl_cafile)


def _reference(name: Any, subject: Any, version: Any) -> Reference:
    if not isinstance(name, str) or not isinstance(subject, str) or type(version) is not int:
        raise TypeError("no reference")
    return Reference(name, subject, version)


def _form(serialized: bool) -> str:
    return "?format=serialized" if serialized else ""
