"""A real HTTP server in the place of a webhook: it keeps what it is sent, and answers as told."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pipelines.lake.processes import free_ports


class WebhookServer:
    """``answers`` are taken from the front, (status, headers); 200 when there are none left. ``slow`` holds answers back until set."""

    def __init__(self) -> None:
        self.port = free_ports(1)[0]
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.taken: list[dict[str, Any]] = []
        """Of ``got``, what was answered with 200."""
        self.go_on = threading.Event()
        self.go_on.set()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/T0?x=1"

    def up(self, certificate: Path | None = None) -> None:
        """Listen, on the same port as before; by TLS with a PEM file of certificate and key."""
        me = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                me.got.append(body)
                me.headers.append({**dict(self.headers.items()), ":path": self.path})
                me.go_on.wait(20)
                status, headers = me.answers.pop(0) if me.answers else (200, {})
                if status == 200:
                    me.taken.append(body)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:  # the caller has gone
                    pass

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
