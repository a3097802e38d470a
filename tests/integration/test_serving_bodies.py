"""Requests that come slowly, are many or are given up: they are held within limits, and work for nobody stops (SECURITY H4, M5, M6, M9)."""

from __future__ import annotations

import fcntl
import gzip
import json
import logging
import select
import socket
import termios
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from serving.app import create_app
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from tests.integration.http_server import NO_TLS, read_all, running
from tests.integration.serving_world import GOOD, make_world, settings
from tests.waiting import until

PREDICT = "/v1/models/delay:predict"
BODY = {"instances": [GOOD]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("bodies"), 1)


def test_a_client_that_hangs_up_is_a_499_of_one_line(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SECURITY M9: in the middle of its body."""
    given = settings(world)
    app = create_app(given)
    with caplog.at_level(logging.INFO), running(given, app) as (_, _, port):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{{".encode())
            time.sleep(0.3)
        end = time.monotonic() + 20
        while 'status="499"' not in (page := httpx.get(f"http://127.0.0.1:{port}/metrics", verify=NO_TLS).text):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert 'status="500"' not in page
    lines = [r for r in caplog.records if "disconnected" in r.getMessage()]
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
        answers = [httpx.post(url, json=BODY, verify=NO_TLS).status_code for _ in range(5)]
        assert answers == [200] * 5
        told = read_all(slow[3])  # it brought least, as the others, and was the youngest of those that had places
        assert told.startswith(b"HTTP/1.1 503") and b"at its limit of requests" in told
        begin(b" " * ((1 << 20) - 10))  # all bytes that one address has, but for a few
        until(lambda: not any(fcntl.ioctl(slow[-1], termios.TIOCOUTQ, bytes(4))))  # they have arrived
        end = time.monotonic() + 50
        while (status := httpx.post(url, json=BODY, verify=NO_TLS).status_code) != 200:
            assert status == 503 and time.monotonic() < end
        told = read_all(slow[-1])
        assert told.startswith(b"HTTP/1.1 503") and b"too slow" in told
        for s in slow:
            s.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_many_bodies_of_a_byte_now_and_then_end_in_one_answer_each_and_others_are_served(world: Path, chunked: bool) -> None:
    """SECURITY H4, M5: of a length that is told, or in chunks; a slow one that comes to its end in time is answered as others are. The
    bytes go on beyond the deadline: it is of the whole body, and does not begin anew with each."""
    given = settings(world, timeout_seconds=4.0)
    body = json.dumps(BODY).encode() + b" " * 800
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode()

    def piece(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if chunked else data

    with running(given, create_app(given)) as (_, _, port):
        honest, *hostile = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(61)]
        begin = time.monotonic()
        for s in (honest, *hostile):
            s.sendall(head)
        left, told = body, dict[socket.socket, bytes]()
        while len(told) < len(hostile):
            assert time.monotonic() - begin < 15
            for s in hostile:
                if s not in told:
                    s.sendall(piece(b" "))
            if left and time.monotonic() - begin < 2.5:
                honest.sendall(piece(left[:20]))
                left = left[20:]
            elif left:
                honest.sendall(piece(left) + (b"0\r\n\r\n" if chunked else b""))
                left = b""
                assert honest.recv(65_536).startswith(b"HTTP/1.1 200") and not told
            assert httpx.post(f"http://127.0.0.1:{port}{PREDICT}", json=BODY, verify=NO_TLS).status_code == 200
            for s in select.select([s for s in hostile if s not in told], [], [], 0.2)[0]:
                told[s] = read_all(s)
        assert time.monotonic() - begin > 4 and not left
        for answer in told.values():
            status, _, rest = answer.partition(b"\r\n")
            assert status.startswith(b"HTTP/1.1 503") and answer.count(b"HTTP/1.1") == 1
            assert b"the body did not arrive within 4 s" in rest and b"\n" not in rest.partition(b"\r\n\r\n")[2].strip()
        for s in (honest, *hostile):
            s.close()


def test_a_body_in_chunks_has_the_limit_of_others(world: Path) -> None:
    """SECURITY M5: no length is told, chunks of a byte are many, and it is refused once it is too large."""
    given = settings(world, max_body_bytes=200_000, timeout_seconds=30.0)
    head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with running(given, create_app(given)) as (_, _, port):
        for size in (1, 50_000):
            with socket.create_connection(("127.0.0.1", port), 30) as s:
                s.sendall(head + b"%x\r\n%b\r\n" % (size, b" " * size) * (250_000 // size))
                told = read_all(s)
            assert told.startswith(b"HTTP/1.1 413") and b"the body has more than 200000 bytes" in told


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "GZIP", "x-gzip"])
def test_a_body_that_is_packed_is_a_415_whatever_it_holds(world: Path, coding: str) -> None:
    with TestClient(create_app(settings(world))) as client:
        for content in (gzip.compress(json.dumps(BODY).encode()), gzip.compress(b" " * (1 << 24)), b""):
            answer = client.post(PREDICT, content=content, headers={"content-encoding": coding, "content-type": "application/json"})
            assert answer.status_code == 415 and "compressed request bodies are not supported" in answer.json()["error"]
