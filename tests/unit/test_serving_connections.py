"""Connections within limits (SECURITY H4): an application of three lines under uvicorn with our protocol, and raw sockets."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httptools
import pytest

from serving.addresses import network_of
from serving.connections import most_connections
from serving.settings import ServingSettings
from tests.certificates import Authority
from tests.integration.http_server import connect, exchange, read_all, read_answer, running

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Says how long the body is; does not read that of a request to /early. Of /large it says it with 16 MiB of blanks before."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    size, more = 0, scope["path"] != "/early"
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/pieces":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1512")]})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"HTTP/1.1 piece ", "more_body": True})
        await send({"type": "http.response.body", "body": b"HTTP/1.1 end"})
        return
    body = str(size).encode().rjust(16 << 20 if scope["path"] == "/large" else 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


def made(tmp_path: Path, **changes: Any) -> ServingSettings:
    paths = {"feature_repo": tmp_path, "models": tmp_path, "graphs": tmp_path}
    return ServingSettings(**{**paths, "head_seconds": 0.4, "idle_seconds": 1.0, "timeout_seconds": 0.2, **changes})


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    with running(made(tmp_path, max_connections=40, max_connections_per_client=40), hello) as (_, _, port):
        yield port


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * (8 << 20),
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(20_000)) + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
        + b"".join(b"x%d: y\r\n" % i for i in range(9_000))
        + b"\r\n",
    ],
    ids=["one line of 8 MB", "20,000 headers", "a long path", "trailers"],
)
def test_a_head_has_a_limit(port: int, sent: bytes) -> None:
    """SECURITY H4: refused as soon as it is too long, however it is made."""
    begun = time.monotonic()
    with connect(port) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the server does not wait for the rest
            s.sendall(sent)
        answer = read_all(s)
    assert time.monotonic() - begun < 10
    assert not answer or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 200 ")), answer[:200]
    assert b"connection: close" in answer or not answer
    assert exchange(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


def test_a_head_just_below_the_limit_is_read(port: int) -> None:
    answer = exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 65_000 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK")
    answer = exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: " + b"a" * 65_530 + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"].startswith("the head of the request has more than 65536 bytes")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost", b"\r\n", b"GET"])
def test_half_sent_and_silent_connections_end(port: int, sent: bytes) -> None:
    """SECURITY H4: by a deadline, as by one who sends a byte now and then."""
    begun = time.monotonic()
    answer = exchange(port, sent)
    assert time.monotonic() - begun < 10
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_byte_now_and_then_does_not_help(port: int) -> None:
    for dribble in (b"x", b"\r\n"):
        with connect(port) as s:
            begun = time.monotonic()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
                while time.monotonic() - begun < 15:
                    s.sendall(dribble)
                    time.sleep(0.05)


def test_a_body_that_never_comes_ends_with_the_exchange(port: int) -> None:
    begun = time.monotonic()
    answer = exchange(port, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc", seconds=30)
    assert time.monotonic() - begun < 20 and answer == b""


def test_an_answer_that_nobody_reads_is_not_held_for_ever(tmp_path: Path) -> None:
    """SECURITY H4: it waits in memory, and closing waits for it. Who reads slowly has the time of an exchange, 7.4 s here."""
    ask = GET.replace(b"GET / ", b"GET /large ")
    with running(made(tmp_path), hello) as (server, _, port):
        silent, slow = connect(port), connect(port)
        for s in (silent, slow):
            s.sendall(ask)
        time.sleep(2)  # beyond idle_seconds
        assert len(server.server_state.connections) == 2
        read = 0
        while read < 16 << 20:
            part = slow.recv(1 << 20)
            assert part, "cut off"
            read += len(part)
        begun = time.monotonic()
        while server.server_state.connections:
            assert time.monotonic() - begun < 20, "still held"
            time.sleep(0.1)
        silent.close()
        slow.close()


def test_an_answer_before_the_body_ends_the_connection_soon(port: int) -> None:
    with connect(port) as s:
        s.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 10000\r\n\r\nabc")
        begun = time.monotonic()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012
            while time.monotonic() - begun < 15:
                s.sendall(b"a")  # the body, as slowly as one likes
                time.sleep(0.05)
    with connect(port) as s:  # who sends it in time may go on
        s.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        assert read_answer(s).endswith(b"0")
        s.sendall(GET)
        assert read_answer(s).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered(port: int) -> None:
    answer = exchange(port, GET * 50 + GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 51


def test_a_connection_that_asks_for_ever_more_is_cut(tmp_path: Path) -> None:
    """SECURITY M5, by pipelining: each request in line is held as objects, a hundred times its bytes; 20 connections that sent four
    megabytes took 160 MB within three seconds. What was asked before is begun, and others are answered."""
    begun = 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        if scope["type"] == "http" and scope["path"] == "/slow":
            begun += 1
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await hello(scope, receive, send)

    with running(made(tmp_path), slow) as (server, _, port):
        with connect(port) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(SLOW * 100_000)
            assert read_all(s) == b""
        assert begun == 1
        end = time.monotonic() + 20
        while server.server_state.connections:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert exchange(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")


LARGE = b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"
TWO_HOSTS = b"GET / HTTP/1.1\r\nHost: x\r\nhost: y\r\n\r\n"


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        ([SLOW, LARGE], []),
        ([SLOW, b"GARBAGE\r\n\r\n"], []),
        ([SLOW, CHUNKED + b"GARBAGE\r\n"], []),
        ([SLOW, b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n"], []),
        ([SLOW, TWO_HOSTS], []),
        ([TWO_HOSTS, GET], [b"400"]),
        ([TWO_HOSTS.replace(b"y\r\n", b"x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n")], [b"400"]),
        ([CHUNKED, b"GARBAGE\r\n"], [b"400"]),
        ([b"GARBAGE\r\n\r\n"], [b"400"]),
        ([LARGE], [b"431"]),
    ],
)
def test_a_refusal_is_not_taken_for_the_answer_of_the_request_before(
    tmp_path: Path, sent: list[bytes], answers: list[bytes], pause: bool
) -> None:
    """SECURITY M5: a proxy that shares a connection would have given one client's 400 or 431 to another."""

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/slow":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await hello(scope, receive, send)

    with running(made(tmp_path), slow) as (_, _, port), connect(port) as s:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in sent if pause else [b"".join(sent)]:
                s.sendall(part)
                time.sleep(0.1 if pause else 0)
        answer = read_all(s)
    assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == answers, answer[:300]


@pytest.mark.parametrize(
    ("lines", "version", "taken"),
    [
        ([], "1.1", False),
        ([], "1.0", True),
        ([b"Host: x"], "1.1", True),
        ([b"HOST: x:80"], "1.0", True),
        ([b"Host:"], "1.1", True),
        ([b"Host: [::1]:8500"], "1.1", True),
        ([b"Host: my_shop-1.example.com:"], "1.1", True),
        ([b"Host: x", b"Host: x"], "1.1", False),
        ([b"Host: x", b"Host: y"], "1.0", False),
        ([b"Host: x y"], "1.1", False),
        ([b"Host: user@x"], "1.1", False),
        ([b"Host: x/y"], "1.1", False),
        ([b"Host: http://x"], "1.1", False),
        ([b"Host: x:port"], "1.1", False),
        ([b"Host: [::1"], "1.1", False),
        ([b"Host: x?y"], "1.0", False),
        ([b"Hosts: x"], "1.1", False),
    ],
)
def test_a_request_names_its_host_once_or_is_refused(port: int, lines: list[bytes], version: str, taken: bool) -> None:
    """RFC 9112, 3.2: it was answered without one. With a wish for another protocol, and behind another request, too."""
    upgrade = [b"connection: upgrade", b"upgrade: h2c"]
    for more, before in (([b"connection: close"], b""), (upgrade, b""), ([b"connection: close"], GET)):
        sent = b"\r\n".join([b"GET / HTTP/" + version.encode(), *more, *lines, b"", b""])
        last = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") if more is upgrade and version == "1.1" else b""
        answers = [each.split(b" ")[1] for each in re.findall(rb"HTTP/1\.\d \d{3}", exchange(port, before + sent + last))]
        wanted = [b"200"] * bool(before) + ([b"200"] * (2 if last else 1) if taken else [b"400"])
        assert answers in (wanted, [] if before and not taken else wanted), (sent, answers)


def test_no_answer_is_taken_for_another_type_than_it_says(port: int, tmp_path: Path) -> None:
    """Refusals before the application included."""
    for sent, status in ((GET, b"200"), (b"GARBAGE\r\n\r\n", b"400"), (LARGE, b"431")):
        with connect(port) as s:
            s.sendall(sent)
            answer = read_answer(s)
        assert answer.split(b" ")[1] == status and answer.lower().count(b"x-content-type-options: nosniff") == 1, answer


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("pause", [False, True])
@pytest.mark.parametrize("body", [b"content-length: 4\r\n\r\nGET ", b"transfer-encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n"])
def test_a_wish_for_http_2_is_passed_over(port: int, body: bytes, pause: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """SECURITY M5, M9: the body of such a request (some clients' first one each time) was lost, or read as the next request, and each was
    two lines in the log about WebSockets."""
    with connect(port) as s:
        for _ in range(2):
            head, end, rest = body.partition(b"\r\n\r\n")
            s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n" + UPGRADE + head + end)
            if pause:
                time.sleep(0.1)
            s.sendall(rest)
            assert read_answer(s).endswith(b"\r\n\r\n4")
        s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\n" + UPGRADE + b"content-length: 3\r\n\r\nabc" + GET + GET[:-2] + UPGRADE + b"\r\n")
        got = b""
        while got.count(b"HTTP/1.1 200 OK") < 3 or not got.endswith(b"\r\n\r\n0"):
            got += s.recv(65_536)
        assert got.index(b"\r\n\r\n3") < got.index(b"\r\n\r\n0")
    assert "upgrade" not in capfd.readouterr().err.lower()
    refused = exchange(port, b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 400 ") and refused.count(b"HTTP/1.1") == 1
    large = GET[:-2] + UPGRADE + b"x: " + b"a" * 70_000 + b"\r\n\r\n"
    assert exchange(port, large).startswith(b"HTTP/1.1 431 ")


def test_what_follows_the_last_request_costs_no_answer_after_a_wish_either(port: int) -> None:
    """It was a 400 before the answer of a good request."""
    last = GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    for before in (GET, GET[:-2] + UPGRADE + b"\r\n"):
        answer = exchange(port, before + last + GET)
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"HTTP/1.1 200 OK") == 2, answer


@pytest.mark.parametrize("repeated", [64, 4_000])
def test_wishes_of_many_requests_in_one_read(
    tmp_path: Path, repeated: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each was read again a level of calls deeper, with a copy of all that follows, also where the connection was cut meanwhile: 4,000
    small ones were a RecursionError, before any key was asked for."""
    made_again, parser = 0, httptools.HttpRequestParser

    def counted(protocol: Any) -> Any:
        nonlocal made_again
        made_again += 1
        return parser(protocol)

    monkeypatch.setattr(httptools, "HttpRequestParser", counted)
    with running(made(tmp_path, timeout_seconds=20), hello) as (_, _, port):
        made_again = 0
        with connect(port) as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" * repeated)
            answers = read_all(s).count(b"HTTP/1.1 200 OK")
        assert answers == 64 or repeated > 64
        assert made_again <= 67 + answers, "it goes on behind the end of the connection"
        assert exchange(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert "Error" not in capfd.readouterr().err


def test_an_ipv6_caller_is_its_network() -> None:
    """SECURITY M6: limits per address, of which whoever has one of IPv6 has 2^64."""
    same = {network_of(a) for a in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:0DB8:1:2::%eth0")}
    assert same == {"2001:db8:1:2::/64"} != {network_of("2001:db8:1:3::1")}
    assert network_of("::ffff:10.0.0.7") == network_of("10.0.0.7") == "10.0.0.7"
    assert [network_of(a) for a in ("", "testclient", "a:b")] == ["", "testclient", "a:b"]


def test_answers_come_whole_with_and_without_a_body(port: int) -> None:
    """Head and body are written as one; a head without a body, one before a body that is waited for, and an answer in pieces that look
    like heads lose nothing."""
    with connect(port) as s:
        s.sendall(GET)
        assert s.recv(1 << 16).endswith(b"\r\n\r\n0")
        s.sendall(GET.replace(b"GET", b"HEAD"))
        head = s.recv(1 << 16)
        assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")
        s.sendall(GET.replace(b"GET", b"HEAD") + GET)
        got = b""
        while not got.endswith(b"\r\n\r\n0"):
            got += s.recv(1 << 16)
        assert got.count(b"HTTP/1.1 200 ") == 2
        s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert s.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(b"abc")
        assert s.recv(1 << 16).endswith(b"\r\n\r\n3")
        s.sendall(GET.replace(b"GET /", b"GET /pieces"))
        got = b""
        while not got.endswith(b"HTTP/1.1 end"):
            got += s.recv(1 << 16)
        assert got.partition(b"\r\n\r\n")[2] == b"HTTP/1.1 piece " * 100 + b"HTTP/1.1 end"


def test_idle_connections_make_room_and_never_end_service(port: int) -> None:
    """SECURITY H4: three times as many idle connections as there may be, then a request."""
    idle = [connect(port) for _ in range(120)]
    try:
        for _ in range(3):
            assert exchange(port, GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).startswith(b"HTTP/1.1 200")
    finally:
        for s in idle:
            s.close()


def test_without_an_idle_one_a_connection_is_refused_in_words(tmp_path: Path) -> None:
    with running(made(tmp_path, max_connections=3, timeout_seconds=20), hello) as (_, _, port):
        busy = [connect(port) for _ in range(3)]
        for s in busy:
            s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        time.sleep(0.5)
        answer = exchange(port, b"")
        assert answer.startswith(b"HTTP/1.1 503 ") and b"too many connections" in answer
        for s in busy:
            s.sendall(b"abc")
            assert read_answer(s).startswith(b"HTTP/1.1 200")
            s.close()


def test_connections_before_their_handshake_count_too(tmp_path: Path) -> None:
    """SECURITY H4, over TLS: silent connections make room, half a handshake ends by its deadline, what comes right behind one is read."""
    authority = Authority()
    authority.issue(tmp_path / "cert.pem", tmp_path / "key.pem", "localhost", server=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    given = made(tmp_path, max_connections=20, head_seconds=2.0, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    with running(given, hello) as (_, _, port):

        def ask() -> None:
            with context.wrap_socket(connect(port), server_hostname="localhost") as s:
                for _ in range(3):
                    s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
                    assert read_answer(s).startswith(b"HTTP/1.1 200")

        idle = [connect(port) for _ in range(60)]
        for _ in range(5):
            ask()
        for sent in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            begun = time.monotonic()
            assert b"200" not in exchange(port, sent)
            assert time.monotonic() - begun < 15
        ask()
        for s in idle:
            s.close()
        old = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        old.set_ciphers("AES128-SHA")
        with pytest.raises(ssl.SSLError):
            old.wrap_socket(connect(port), server_hostname="localhost")


def test_one_address_cannot_have_all(tmp_path: Path) -> None:
    with running(made(tmp_path, max_connections=40, max_connections_per_client=3, timeout_seconds=20), hello) as (_, _, port):
        busy = [connect(port) for _ in range(3)]
        for s in busy:
            s.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        time.sleep(0.5)
        assert exchange(port, b"").startswith(b"HTTP/1.1 503 ")
        with socket.socket() as other:
            other.bind(("127.0.0.2", 0))
            other.settimeout(20)
            other.connect(("127.0.0.1", port))
            other.sendall(GET)
            assert read_answer(other).startswith(b"HTTP/1.1 200")
        for s in busy:
            s.close()


def test_the_number_fits_the_files_that_a_process_may_open() -> None:
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))\n"
        "from serving.connections import most_connections\n"
        "print(most_connections(1_000), resource.getrlimit(resource.RLIMIT_NOFILE)[0])\n"
    )

    def told(soft: int, hard: int) -> str:
        return subprocess.run([sys.executable, "-c", code, str(soft), str(hard)], capture_output=True, text=True, check=True).stdout.strip()

    assert told(1024, 1024) == "768 1024"
    assert told(300, 300) == "150 300"
    assert told(256, 4096) == "1000 1256"
    assert most_connections(10) == 10 and resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 266
