"""SECURITY H1, H2: what others answer over HTTP (providers of keys, schema registries, receivers of alerts): bombs, endless, cut bodies."""

from __future__ import annotations

import gzip
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
import requests

from pipelines.alerting.webhook import Webhook
from pipelines.project.config import AlertSettings
from pipelines.project.secrets import Secret
from pipelines.sources.formats.schema_registry import Registry, RegistryAway
from serving.bounded_http import read_answer, within
from serving.tokens import fetch_json
from transforms.errors import ConfigError, StoreError

Pieces = Callable[[], Iterator[bytes]]
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


@contextmanager
def site(pieces: Pieces) -> Iterator[tuple[str, list[int]]]:
    """A server that sends these pieces to whoever asks, until nobody listens; its address, and how many bytes each was sent."""
    sent: list[int] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                sent.append(0)
                with connection, suppress(OSError):
                    connection.recv(65536)
                    for piece in pieces():
                        connection.sendall(piece)
                        sent[-1] += len(piece)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", sent
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def bomb() -> Iterator[bytes]:
    """64 MiB of blanks in some kilobytes."""
    body = gzip.compress(b" " * (64 << 20))
    yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def endless() -> Iterator[bytes]:
    """It never ends."""
    yield HEAD + b"\r\n{"
    yield from itertools.repeat(b" " * 65536)


def cut() -> Iterator[bytes]:
    """The connection ends before the body."""
    yield HEAD + b"Content-Length: 1000\r\n\r\n{"


def damaged() -> Iterator[bytes]:
    """No gzip."""
    yield HEAD + b"Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!"


@pytest.mark.parametrize("pieces", [bomb, endless])
def test_an_answer_is_read_up_to_its_limit(pieces: Pieces) -> None:
    with site(pieces) as (url, _), requests.get(url, stream=True, timeout=30) as answer:
        assert len(read_answer(answer, 1000, 30)) == 1001
        assert answer.raw._fp_bytes_read <= 1 << 20, "not much more is taken from the network"


def test_an_answer_that_comes_drop_by_drop_ends_in_time() -> None:
    """Each drop is in time for itself."""
    ticks = itertools.count(0.0, 1.0)
    late = pytest.raises(requests.ReadTimeout, match="not whole within 5 s")
    with site(endless) as (url, _), requests.get(url, stream=True, timeout=30) as answer, late:
        read_answer(answer, 1 << 40, 5.0, lambda: next(ticks))
    assert next(ticks) < 10


def dripping_head() -> Iterator[bytes]:
    """A head that never ends; each byte in time."""
    yield HEAD + b"X-Name: "
    while True:
        yield b"x"
        PAUSE.wait(0.02)


def dripping_gzip() -> Iterator[bytes]:
    """What it is packed in never begins: a name of a file without an end, which is nothing that a body is made of."""
    yield HEAD + b"Content-Encoding: gzip\r\n\r\n" + b"\x1f\x8b\x08\x08" + bytes(6)
    while True:
        yield b"x"
        PAUSE.wait(0.02)


PAUSE = threading.Event()


@pytest.mark.parametrize("pieces", [dripping_head, dripping_gzip])
def test_one_who_sends_a_byte_now_and_then_holds_nobody(pieces: Pieces) -> None:
    PAUSE.clear()
    with site(pieces) as (url, sent):
        registry = Registry(url, answer_seconds=1.0)  # a busy machine, too, has its next byte within it: else the exchange has ended
        for _ in range(2):
            with pytest.raises(RegistryAway, match="does not answer"):
                registry.schema(1)
        assert len(sent) == 1, "it is asked again when the exchange that was given up has ended"
        PAUSE.set()


def test_a_webhook_that_sends_a_byte_now_and_then_holds_nobody() -> None:
    PAUSE.clear()
    with site(dripping_head) as (url, _):
        message = {"id": "1", "title": "t", "text": "", "state": "firing", "severity": "fail"}
        outcome = Webhook(AlertSettings(webhook=Secret(url), timeout_seconds=0.2)).send(message, datetime(2026, 3, 1, tzinfo=UTC))
        assert not outcome.ok and "did not answer within 0.2 s" in outcome.error
        PAUSE.set()


def test_what_is_in_time_is_what_was_asked() -> None:
    def fails() -> int:
        raise StoreError("no")

    assert within(30, "a", lambda: 7) == 7
    with pytest.raises(StoreError, match="no"):
        within(30, "a", fails)


@pytest.mark.parametrize("pieces", [bomb, endless, cut, damaged])
def test_a_provider_of_keys_that_answers_so_is_one_line(pieces: Pieces) -> None:
    """One that ends in the middle was an error of urllib3, which nobody took: a 500 for whoever came with a token of another key."""
    with site(pieces) as (url, _), pytest.raises(StoreError, match=r"more than \d+ bytes|cannot be read"):
        fetch_json(url)


@pytest.mark.parametrize(("pieces", "error"), [(bomb, ConfigError), (endless, ConfigError), (cut, RegistryAway), (damaged, RegistryAway)])
def test_a_registry_that_answers_so_is_no_verdict(pieces: Pieces, error: type[Exception]) -> None:
    """Its answers were read whole, whatever they expanded to."""
    with site(pieces) as (url, _), pytest.raises(error, match=r"16 MiB; correct|does not answer"):
        Registry(url, answer_seconds=30).schema(1)


def test_a_registry_whose_answer_is_too_deep_is_no_verdict() -> None:
    body = b"[" * 200_000
    whole = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    with site(lambda: iter([whole])) as (url, _), pytest.raises(ConfigError, match="as a schema registry does"):
        Registry(url).schema(1)


def test_what_a_receiver_of_alerts_says_beside_its_status_is_not_read() -> None:
    with site(endless) as (url, sent):
        webhook = Webhook(AlertSettings.model_validate({"webhook": url}))
        assert webhook.send({"id": "a", "title": "t"}, datetime.now(UTC)).ok
    assert sent[0] < 64 << 20, "what fits into the buffers of a connection"
