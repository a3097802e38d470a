"""A DynamoDB for tests: moto's, in a process of its own, on a free port of the loopback interface, killed at the end.

It answers one request after the other, so that each is atomic, as the service's are; moto's own server would let threads into the middle of
a transaction. What such a server never does by itself (conflicts, throttling, half an answer, no rights) is asked of it by
:meth:`DynamoServer.faults`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipelines.lake.processes import free_ports

REGION = "eu-central-1"
_CONTROL = "/tandem-tests"


@dataclass
class DynamoServer:
    """A server on a port of its own. What it holds is in memory, and gone with it."""

    port: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def settings(self) -> dict[str, Any]:
        """What stands below ``online_store`` in feature_store.yaml, but the type. A busy machine is waited for: asked twice, moto does
        twice what the service does once."""
        return {"region": REGION, "endpoint_url": f"http://127.0.0.1:{self.port}", "connect_timeout": 120, "read_timeout": 120}

    @property
    def client(self) -> Any:
        """As a client of its own."""
        from boto3.session import Session

        return Session().client("dynamodb", region_name=REGION, endpoint_url=self.settings["endpoint_url"])

    def start(self, seconds: float = 120.0) -> None:
        """Start it; returns when it answers."""
        with open(self.log, "ab") as log:
            command = [sys.executable, "-m", "tests.dynamodb_server", str(self.port)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[1])
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                self.counts()
                return
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"no DynamoDB answers on port {self.port}: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    def faults(self, operation: str, *answers: dict[str, Any] | None) -> None:
        """Answer the next requests of an operation with these in their turn: the body of each (``status``: by default 400), or None for
        what is true. What was asked of it before is no more."""
        self._ask({"operation": operation, "answers": answers})

    def counts(self) -> Counter[str]:
        """How many requests of each operation were answered since the last time that this was asked."""
        return Counter(self._ask({}))

    def _ask(self, what: dict[str, Any]) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{_CONTROL}", json.dumps(what).encode(), timeout=120) as answer:
            told: dict[str, int] = json.load(answer)
            return told


PAGE: dict[str, Any] = {"status": 200, "page": "<html>Welcome</html>"}
"""What something else answers, whatever it is asked."""


def cancelled(*codes: str, **messages: str) -> dict[str, Any]:
    """What the service answers where it cancels a transaction: a reason per action; ``messages``: of those codes."""
    return {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{', '.join(codes)}]",
        "CancellationReasons": [{"Code": code} | ({"Message": messages[code]} if code in messages else {}) for code in codes],
    }


def refused(code: str, message: str = "no") -> dict[str, Any]:
    """What the service answers where it refuses."""
    return {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}


@contextlib.contextmanager
def dynamodb_server() -> Iterator[DynamoServer]:
    """A server that answers, and credentials in the environment, which it does not look at."""
    given = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in given}
    with tempfile.TemporaryDirectory(prefix="tandem-dynamodb-") as folder:
        server = DynamoServer(free_ports(1)[0], Path(folder) / "log")
        os.environ.update(given)
        server.start()
        try:
            yield server
        finally:
            server.kill()
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _serve(port: int) -> None:
    import moto.dynamodb.models
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.wrappers import Request, Response

    # Before a transaction moto copies its tables with every value; items are put and deleted as a whole here, so their places do.
    moto.dynamodb.models.copy = SimpleNamespace(deepcopy=_as_it_is)  # type: ignore[assignment, attr-defined]
    dynamodb = DomainDispatcherApplication(create_backend_app)
    waiting: dict[str, list[dict[str, Any]]] = {}
    counts: Counter[str] = Counter()

    def app(environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        if request.path == _CONTROL:
            asked = json.loads(request.get_data())
            if asked:
                waiting[asked["operation"]] = asked["answers"]
            told = json.dumps({} if asked else counts)
            if not asked:
                counts.clear()
            return Response(told, mimetype="application/json")(environ, start_response)
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        counts[operation] += 1
        fault = waiting[operation].pop(0) if waiting.get(operation) else None
        if fault is not None:
            status = fault.pop("status", 400)
            if "page" in fault:
                return Response(fault["page"], status, mimetype="text/html")(environ, start_response)
            return Response(json.dumps(fault), status, mimetype="application/x-amz-json-1.0")(environ, start_response)
        return dynamodb(environ, start_response)

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            pass

    make_server("127.0.0.1", port, app, threaded=False, request_handler=Quiet).serve_forever()


def _as_it_is(table: Any) -> Any:
    found = copy.copy(table)
    found.items = table.items.copy()
    return found


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
