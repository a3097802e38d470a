"""A server of ours on a free port, in this process, under uvicorn as in production; and raw connections to it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from serving.server import uvicorn_config

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""``verify`` of a request by httpx to a server without TLS: else each loads all certificate authorities, the work of a hundred."""


@contextmanager
def running(settings: Any, app: Any = None) -> Iterator[tuple[uvicorn.Server, str, int]]:
    """(server, host, port) of a server that answers."""
    config, _ = uvicorn_config(settings.model_copy(update={"port": 0}), app)
    config.log_config = None
    asyncio.set_event_loop_policy(None)  # uvicorn leaves that of the server before, for all of the process
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 120
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, "127.0.0.1", port
    finally:
        server.should_exit = True
        thread.join(60)


def connect(port: int, seconds: float = 20) -> socket.socket:
    """An open connection; reads give up after some seconds."""
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def exchange(port: int, sent: bytes, seconds: float = 20) -> bytes:
    """What comes back until the server closes the connection."""
    with connect(port, seconds) as s:
        s.sendall(sent)
        return read_all(s)


def read_all(s: socket.socket) -> bytes:
    """Until the other side closes."""
    parts = []
    try:
        while part := s.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def read_answer(s: socket.socket) -> bytes:
    """One answer with a ``content-length``, however it is cut on its way."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return data
        part = s.recv(65_536)
        if not part:
            return data
        data += part
