"""A small schema registry for tests and local use: the part of Confluent's REST API that producers and consumers of Avro need.

``python -m tests.schema_registry [port]`` runs one in the foreground. Schemas live in memory. Two texts are one schema when they are
the same JSON; it checks that a schema is Avro, and no compatibility.
"""

from __future__ import annotations

import base64
import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TYPE = "application/vnd.schemaregistry.v1+json"


class Refused(Exception):
    """An error of the API: HTTP status, error code, message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class SchemaRegistry:
    """The server. ``url``; ``requests`` (method and path of every one, in order); ``broken``: a status to answer with instead.

    ``username`` and ``password`` ask for basic authentication. ``stop()`` and ``start()`` keep the port and the schemas.
    """

    def __init__(self, port: int = 0, username: str = "", password: str = "") -> None:
        self.port, self.broken = port, 0
        self.login = f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}" if username else ""
        self.requests: list[str] = []
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.lock = threading.Lock()
        self.server: ThreadingHTTPServer | None = None
        self.open: set[Any] = set()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> SchemaRegistry:
        """Listen."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                registry.open.add(self.connection)

            def do_GET(self) -> None:
                registry.answer(self)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening, and close connections that clients keep."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        self.open.clear()

    def register(self, subject: str, schema: Any, kind: str = "AVRO", references: list[dict[str, Any]] | None = None) -> int:
        """Put a schema (JSON, or text) under a subject; its id. Never checks it."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        entry = {"schema": text, "schemaType": kind, "references": references or []}
        with self.lock:
            number = next((n for n, known in self.schemas.items() if self.same(known, entry)), len(self.schemas) + 1)
            self.schemas[number] = entry
            versions = self.subjects.setdefault(subject, [])
            if number not in versions:
                versions.append(number)
        return number

    @staticmethod
    def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether two schemas are one."""
        with contextlib.suppress(ValueError):
            return {**one, "schema": json.loads(one["schema"])} == {**other, "schema": json.loads(other["schema"])}
        return one == other

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Handle one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        self.requests.append(f"{request.command} {request.path}")
        try:
            if self.broken:
                raise Refused(self.broken, 50001, "Error in the backend data store")
            if self.login and request.headers.get("Authorization") != self.login:
                raise Refused(401, 40101, "Unauthorized")
            status, answer = (
                200,
                self.route(request.command, [unquote(p) for p in request.path.partition("?")[0].strip("/").split("/")], body),
            )
        except Refused as error:
            status, answer = error.status, {"error_code": error.code, "message": str(error)}
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", TYPE)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def route(self, method: str, path: list[str], body: bytes) -> Any:
        """The answer to a call."""
        match method, path:
            case "GET", ["schemas", "ids", number]:
                if not number.isdigit() or int(number) not in self.schemas:
                    raise Refused(404, 40403, "Schema not found")
                return self.plain(self.schemas[int(number)])
            case "GET", ["subjects"]:
                return list(self.subjects)
            case "GET", ["subjects", subject, "versions"]:
                return list(range(1, len(self.versions(subject)) + 1))
            case "GET", ["subjects", subject, "versions", version]:
                numbers = self.versions(subject)
                if version != "latest" and not (version.isdigit() and 1 <= int(version) <= len(numbers)):
                    raise Refused(404, 40402, "Version not found")
                at = len(numbers) if version == "latest" else int(version)
                schema = numbers[at - 1]
                return {"subject": subject, "version": at, "id": schema, **self.plain(self.schemas[schema])}
            case "POST", ["subjects", subject, "versions"]:
                return {"id": self.post(subject, body)}
        raise Refused(404, 404, "HTTP 404 Not Found")

    def versions(self, subject: str) -> list[int]:
        """The ids under a subject."""
        if subject not in self.subjects:
            raise Refused(404, 40401, f"Subject '{subject}' not found.")
        return self.subjects[subject]

    def post(self, subject: str, body: bytes) -> int:
        """Register what a client sent."""
        from fastavro import parse_schema

        try:
            asked = json.loads(body)
            if asked.get("schemaType", "AVRO") == "AVRO" and not asked.get("references"):
                parse_schema(json.loads(asked["schema"]))
        except Exception as error:
            raise Refused(422, 42201, f"Invalid schema: {error}") from None
        return self.register(subject, asked["schema"], asked.get("schemaType", "AVRO"), asked.get("references"))

    @staticmethod
    def plain(entry: dict[str, Any]) -> dict[str, Any]:
        """A schema as the API shows it: Avro is not named, and nothing that is empty."""
        out = {"schema": entry["schema"]}
        if entry["schemaType"] != "AVRO":
            out["schemaType"] = entry["schemaType"]
        if entry["references"]:
            out["references"] = entry["references"]
        return out


@contextlib.contextmanager
def schema_registry(**options: Any) -> Iterator[SchemaRegistry]:
    """A registry that answers."""
    registry = SchemaRegistry(**options).start()
    try:
        yield registry
    finally:
        registry.stop()


if __name__ == "__main__":
    with schema_registry(port=int(sys.argv[1]) if len(sys.argv) > 1 else 8081) as running:
        print(running.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
