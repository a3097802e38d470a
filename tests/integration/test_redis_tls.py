"""SECURITY M11: whoever has a certificate of our authority, for another host, is not taken for the online store."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as NotConnected

from serving.online_store.redis import OrderedRedisOnlineStore, OrderedRedisOnlineStoreConfig
from tests.certificates import Authority
from tests.redis_server import RedisServer, redis_server

SECRET = "word-of-the-store"


@contextmanager
def behind_tls(server: RedisServer, folder: Path, named: bool) -> Iterator[tuple[int, bytearray]]:
    """A port that speaks TLS and hands on to a real server, and what was said to it; its certificate names this machine, or none."""
    folder.mkdir()
    authority = Authority()
    authority.issue(folder / "cert.pem", folder / "key.pem", "localhost" if named else "elsewhere", server=named)
    (folder / "ca.pem").write_bytes(authority.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    said = bytearray()

    def pass_on(source: socket.socket, target: socket.socket, note: bytearray | None) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                if note is not None:
                    note += piece
                target.sendall(piece)
            target.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listening.accept()
                with (
                    suppress(OSError),
                    context.wrap_socket(raw, server_side=True) as outside,
                    socket.create_connection((server.host, server.port)) as inside,
                ):
                    answers = threading.Thread(target=pass_on, args=(inside, outside, None), daemon=True)
                    answers.start()
                    pass_on(outside, inside, said)
                    answers.join(10)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], said
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("named", [True, False], ids=["of this host", "of another one"])
def test_a_certificate_of_another_host_is_refused_before_a_word_is_said(tmp_path: Path, host: str, named: bool) -> None:
    with redis_server() as server, behind_tls(server, tmp_path / "tls", named) as (port, said):
        server.client.config_set("requirepass", SECRET)
        text = f"{host}:{port},ssl=true,ssl_ca_certs={tmp_path / 'tls' / 'ca.pem'},password={SECRET}"
        client = OrderedRedisOnlineStore()._get_client(OrderedRedisOnlineStoreConfig(connection_string=text))
        try:
            if named:
                assert client.ping() and SECRET.encode() in said
            else:
                with pytest.raises(NotConnected, match=r"(?i)certificate|match"):
                    client.ping()
                assert not said, "the password least of all"
        finally:
            client.close()
