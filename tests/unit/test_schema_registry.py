"""The schema registry: away, failing, guarded, asked once; never a verdict on a record."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import Decode, record_format
from pipelines.sources.formats.schema_registry import Registry, RegistryAway
from tests.schema_registry import SchemaRegistry, schema_registry
from tests.unit.format_messages import GOOD, OWN, SOURCE, fields, message, settings_of, verdict
from transforms.errors import ConfigError


def test_a_registry_that_is_away_is_no_verdict(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    registry.stop()
    for _ in range(2):
        with pytest.raises(RegistryAway, match=f"the schema registry at {registry.url} does not answer"):
            verdict(judge, good)
    registry.start()
    assert verdict(judge, good) == [(None, None)]
    registry.stop()
    assert verdict(judge, good) == [(None, None)]  # what is known needs no registry
    assert verdict(judge, b"{}")[0][0] == "malformed"
    registry.start()
    assert verdict(judge, message(registry.register("x", fields(legs="int")), fields(legs="int"), GOOD)) == [
        (None, None)
    ]  # a kept connection


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_registry_that_fails_is_no_verdict(registry: SchemaRegistry, judge: Decode, status: int) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    registry.broken = status
    with pytest.raises(RegistryAway, match=str(status)):
        verdict(judge, good)
    registry.broken = 0
    assert verdict(judge, good) == [(None, None)]


def test_a_registry_that_never_answers(registry: SchemaRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", answer_seconds=0.1)
        with pytest.raises(RegistryAway, match="timed out"):
            client.schema(1)


STRANGE: tuple[dict[str, Any], ...] = (
    {"name": [], "subject": "s", "version": 1},
    {"name": "n", "subject": 5, "version": 1},
    {"name": "n", "subject": "s", "version": "1/../2"},
)
"""Of references whose parts are of other kinds than a registry's."""


def _referring(reference: dict[str, Any]) -> bytes:
    return json.dumps({"schema": "", "schemaType": "PROTOBUF", "references": [reference]}).encode()


def test_a_server_that_is_no_registry_is_no_verdict() -> None:
    """Its 404 says nothing about a schema."""

    def serve(server: socket.socket, answer: bytes) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    page = b"<html>nothing here</html>"
    answers = [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page),
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page),
        b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}',
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n{"error_code": 404}',
        *(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said) for said in map(_referring, STRANGE)),
    ]
    for answer in answers:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server, answer))
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(ConfigError, match="does not answer"):
                Registry(url).schema(1)
            thread.join()


def test_basic_authentication() -> None:
    with schema_registry(username="me", password="se:cret") as registry:
        good = message(registry.register("departures-value", OWN), OWN, GOOD)
        for more in ({}, {"schema_registry_username": "me", "schema_registry_password": "wrong"}):
            with pytest.raises(ConfigError, match="refuses us") as error:
                verdict(record_format(SOURCE, settings_of(registry, **more)).decode, good)
            assert "wrong" not in str(error.value)
        allowed = settings_of(registry, schema_registry_username="me", schema_registry_password="se:cret")
        assert "se:cret" not in repr(allowed)
        assert verdict(record_format(SOURCE, allowed).decode, good) == [(None, None)]


def test_ids_are_asked_for_once(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    unknown = b"\0\0\0\0\x63rest"
    for _ in range(3):
        assert [r for r, _ in verdict(judge, good, unknown, good, unknown)] == [None, "unknown_schema"] * 2
    assert registry.requests == ["GET /schemas/ids/1", "GET /schemas/ids/99"]


def test_an_unknown_id_is_asked_for_again_later(registry: SchemaRegistry) -> None:
    now = [0.0]
    client = Registry(registry.url, clock=lambda: now[0])
    assert client.schema(1) is None
    registry.register("s", OWN)
    now[0] = 29.0
    assert client.schema(1) is None
    now[0] = 31.0
    found = client.schema(1)
    assert found is not None and json.loads(found.text) == OWN
    assert client.schema(2**31) is None and client.schema(2**32 - 1) is None
    assert len(registry.requests) == 2
    client.close()


def test_versions_and_registering(registry: SchemaRegistry) -> None:
    client = Registry(registry.url + "/")
    assert client.version("departures-value") is None
    first = client.register("departures-value", OWN)
    assert client.register("departures-value", OWN) == first
    second = client.register("departures-value", fields(legs="int"))
    assert second != first
    latest, one = client.version("departures-value"), client.version("departures-value", 1)
    assert latest == client.schema(second) and one == client.schema(first)
    assert client.version("departures-value", 9) is None
    with pytest.raises(ConfigError, match="refuses the schema for departures-value: Invalid schema"):
        client.register("departures-value", {"type": "nonsense"})
    client.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is missing"),
        ("127.0.0.1:8081", "http://host:port"),
        ("ftp://x", "http://host"),
        ("http://me:pw@host", "user and password belong"),
    ],
)
def test_wrong_addresses(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        record_format(SOURCE, KafkaSettings(schema_registry=url, formats={"departures": "avro"}))
    assert "pw" not in str(error.value)
