"""The proxy configuration in ``docker/``: read by nginx itself where there is one, else by a reader of its grammar (SECURITY H4)."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.settings import ServingSettings
from tests.certificates import Authority
from tests.integration.http_server import read_all, running
from tests.unit.test_serving_connections import hello

CONF = Path(__file__).parents[2] / "docker" / "nginx.conf"
NGINX = os.environ.get("TANDEM_NGINX") or shutil.which("nginx")


def directives(text: str) -> dict[str, list[str]]:
    """Every directive by its name, wherever it stands; AssertionError if the text is no configuration."""
    found: dict[str, list[str]] = {}
    depth = 0
    text = re.sub(r"#[^\n]*", "", text)
    for piece, end in re.findall(r"([^;{}]*)([;{}])", text):
        words = piece.split()
        if end == "}":
            assert not words, f"{piece.strip()!r} lacks a semicolon"
            depth -= 1
        else:
            found.setdefault(words[0], []).append(" ".join(words[1:]))
            depth += end == "{"
        assert depth >= 0
    assert depth == 0
    return found


def test_the_proxys_limits_are_the_servers(tmp_path: Path) -> None:
    found = directives(CONF.read_text())
    ours = ServingSettings(feature_repo=tmp_path, models=tmp_path, graphs=tmp_path)
    assert found["client_max_body_size"] == [f"{ours.max_body_bytes >> 20}m"]
    number, size = found["large_client_header_buffers"][0].split()
    assert int(number) * int(size.removesuffix("k")) << 10 == ours.max_header_bytes
    assert found["client_header_timeout"] == [f"{ours.head_seconds:g}s"]
    assert found["proxy_read_timeout"] == [f"{3 * ours.timeout_seconds:g}s"]
    assert found["proxy_set_header"].count("X-Forwarded-For $remote_addr") == 1
    assert found["server"][0].startswith("127.0.0.1:8500")
    assert int(found["server"][0].partition("max_conns=")[2]) < ours.max_connections
    for name in ("limit_conn", "limit_req", "client_body_timeout", "send_timeout", "ssl_protocols"):
        assert found[name], name
    for word in ("location = /metrics", "return 404"):
        assert word in CONF.read_text()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of an nginx with our configuration before a server of ours, and its authority's certificate."""
    if not NGINX:
        pytest.skip("there is no nginx here: its configuration was read, not run")
    authority, port = Authority(), _free()
    authority.issue(tmp_path / "cert.pem", tmp_path / "key.pem", "localhost", server=True)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    given = ServingSettings(feature_repo=tmp_path, models=tmp_path, graphs=tmp_path, trusted_proxies=("127.0.0.1",))
    with running(given, hello) as (_, _, behind):
        text = CONF.read_text()
        changed = {
            "/run/nginx.pid": f"{tmp_path}/nginx.pid",
            "/var/log/nginx/error.log": f"{tmp_path}/error.log",
            "127.0.0.1:8500": f"127.0.0.1:{behind}",
            "listen 443": f"listen 127.0.0.1:{port}",
            "/etc/tandem/": f"{tmp_path}/",
            "client_header_timeout 10s": "client_header_timeout 1s",
            "client_body_timeout 5s": "client_body_timeout 1s",
            "http {": "http {\n"
            + "".join(f"{k}_temp_path {tmp_path}/{k};\n" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        }
        for before, after in changed.items():
            assert before in text, before
            text = text.replace(before, after)
        conf = tmp_path / "nginx.conf"
        conf.write_text(text)
        process = subprocess.Popen([NGINX, "-c", str(conf), "-p", str(tmp_path), "-g", "daemon off; user root;"], stderr=subprocess.PIPE)
        try:
            end = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < end, process.stderr and process.stderr.read()
                    time.sleep(0.05)
            yield port, tmp_path / "ca.pem"
        finally:
            process.terminate()
            process.wait(20)


def _free() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def test_nginx_passes_requests_and_keeps_the_rest_off(proxy: tuple[int, Path]) -> None:
    port, ca = proxy
    context = ssl.create_default_context(cafile=str(ca))
    with httpx.Client(verify=context, base_url=f"https://localhost:{port}") as client:
        assert client.post("/", content=b"x" * 100_000).text == "100000"
        assert client.get("/", headers={"x": "a" * 15_000}).text == "0"
        assert client.get("/metrics").status_code == 404
        assert client.get("/", headers={"x": "a" * 70_000}).status_code == 400
        assert client.post("/", content=b"x" * (17 << 20)).status_code == 413
        statuses = [client.get("/").status_code for _ in range(10)]
        assert statuses == [200] * 10
    for sent in (b"GET / HTTP/1.1\r\nhost", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc"):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="localhost") as half:
            half.sendall(sent)
            begun = time.monotonic()
            answer = read_all(half)
            assert time.monotonic() - begun < 10 and b"200 OK" not in answer
    idle = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(60)]
    with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{port}") as client:
        assert client.get("/").status_code in (200, 429)
    for s in idle:
        s.close()
