"""The pool that gives a runner its SDK workers: each a process of its own, killed when the pool ends (Beam's EXTERNAL environment).

``tandem -m pipelines.streaming.engines.worker_pool --service-port PORT`` serves one on a machine of a Flink cluster.

Who may ask a pool for a worker has it run any code: a worker unpickles what its runner sends. So a pool asks for a proof of the token
that it shares with ``tandem stream``; for the embedded engine that is a random one of this start.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from pipelines.lake.processes import stop_child
from pipelines.streaming.engines.worker import PRELOAD, has_served, start_worker
from transforms.errors import ConfigError

__all__ = ["CACHE_MB", "TOKEN", "WorkerPool", "proof_of", "shared_token"]

TOKEN = "TANDEM_WORKER_POOL_TOKEN"
"""The environment variable with the token of a cluster's worker pool; ``_FILE`` behind it: a file that holds it."""

_REACH_SECONDS = 5.0
_MOST_STARTS = 5

CACHE_MB = 64
"""State that a worker keeps in memory, so that it need not ask the runner for it. The fold stage keeps its tiles itself."""


def shared_token() -> str:
    """The token of the environment (:data:`TOKEN`). Raises ConfigError where there is none."""
    value, file = os.environ.get(TOKEN, ""), os.environ.get(f"{TOKEN}_FILE", "")
    if not value and file:
        try:
            value = Path(file).read_text().strip()
        except OSError as error:
            raise ConfigError(f"{TOKEN}_FILE: {file} cannot be read ({error.strerror}); correct the path") from None
    if not value:
        raise ConfigError(
            f"a worker pool on a port needs a token: set {TOKEN} (or {TOKEN}_FILE) to the same long random text"
            " where the pool starts and where 'tandem stream' starts"
        )
    return value


def proof_of(token: str) -> dict[str, str]:
    """What a runner tells a pool with each StartWorker: that whoever described its job knows the token, and not the token itself."""
    nonce = secrets.token_hex(16)
    return {"nonce": nonce, "proof": _proof(token, nonce)}


def _proof(token: str, nonce: str) -> str:
    return hmac.new(token.encode(), nonce.encode(), hashlib.sha256).hexdigest()


class WorkerPool:
    """Serves StartWorker on ``host:port`` (0: a free port) to those who prove ``token``; a runner is told ``address``. A worker ends when
    its runner hangs up, so nobody but that and the pool itself can end one.

    ``spare`` is a worker that was started before (see ``start_worker``), so that its imports overlap with the start of the runner.
    ``say`` hears of workers that ended unasked, and of those that could not be started. Output of the workers is appended to ``log``.

    A runner waits without end for a worker that it was promised. So one that ends before its runner gave it work has another in its
    place; where :data:`_MOST_STARTS` in a row end so, ``failed`` says it in one line.
    """

    def __init__(
        self,
        log: Path,
        token: str,
        host: str = "127.0.0.1",
        port: int = 0,
        preload: Sequence[str] = PRELOAD,
        spare: subprocess.Popen[bytes] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.log, self.preload, self.say, self._token = log, tuple(preload), say, token
        # Task managers number their workers each for itself: only with whom it serves a worker is one of its own.
        self._workers: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.started = 0
        self.failed = ""
        self._spare = spare
        options = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="worker pool"), options=options)
        self.port = self._server.add_insecure_port(f"{host}:{port}")
        self.address = f"{host}:{self.port}"
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        self._server.start()

    def StartWorker(self, request: Any, context: Any) -> Any:
        """A runner asks for a worker (the name is Beam's)."""
        self._check(request.params, context)
        if (line := _out_of_reach(request.control_endpoint.url)) is not None:
            self.say(line)
            return beam_fn_api_pb2.StartWorkerResponse(error=line)
        try:
            with self._lock:
                if self._closed:
                    raise RuntimeError("the worker pool is closed")
                self._start((request.control_endpoint.url, request.worker_id), 1)
            return beam_fn_api_pb2.StartWorkerResponse()
        except Exception as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=f"{type(error).__name__}: {error}")

    def _start(self, who: tuple[str, str], number: int) -> None:
        """Start a worker for a runner (its endpoint, the worker's id), the ``number``-th for this promise. The caller holds the lock."""
        spare, self._spare = self._spare, None
        worker = spare if spare is not None and spare.poll() is None else start_worker(self.log, self.preload)
        assert worker.stdin is not None
        control, name = who
        orders = {"control": control, "id": name, "cache_bytes": CACHE_MB << 20, "path": [p for p in sys.path if p]}
        with contextlib.suppress(BrokenPipeError):  # it has ended: who watches it sees that
            worker.stdin.write(json.dumps(orders).encode() + b"\n")
            worker.stdin.flush()
        self._workers[who] = worker
        self.started += 1
        threading.Thread(target=self._watch, args=(who, worker, number), daemon=True).start()

    def _check(self, params: Mapping[str, str], context: Any) -> None:
        """Refuse a call without a proof of the token."""
        if not hmac.compare_digest(params.get("proof", "").encode(), _proof(self._token, params.get("nonce", "")).encode()):
            self.say(f"refused {context.peer()}, which does not know this worker pool's token")
            context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"the worker pool has another {TOKEN}; set the same where 'tandem stream' starts"
            )

    def StopWorker(self, request: Any, context: Any) -> Any:
        """A runner is done with a worker (the name is Beam's). There is nothing to do: a worker ends when its runner hangs up, which
        only the runner can do; this call has no room for a proof of the token, and workers are numbered, so anybody could make it."""
        return beam_fn_api_pb2.StopWorkerResponse()

    def _watch(self, who: tuple[str, str], worker: subprocess.Popen[bytes], number: int) -> None:
        code = worker.wait()
        served = has_served(worker)
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        line = ""
        with self._lock:
            if self._closed or self._workers.pop(who, None) is not worker:
                return
            if served or code == 0:  # code 0: the runner hung up
                line = f"an SDK worker ended by {how}; the engine starts another and resumes from its last checkpoint" if code else ""
            elif number < _MOST_STARTS:
                line = f"an SDK worker ended by {how} while it started; starting another"
                try:
                    self._start(who, number + 1)
                except (ConfigError, OSError) as error:
                    self.failed = f"no SDK worker can be started: {error}"
            else:
                self.failed = f"{number} SDK workers in a row ended while they started, the last one by {how}; see {self.log}"
        for said in (line, self.failed):
            if said:
                self.say(said)

    def pids(self) -> list[int]:
        """The workers that run now."""
        with self._lock:
            return [w.pid for w in self._workers.values() if w.poll() is None]

    def close(self) -> None:
        """End all workers, and the service."""
        with self._lock:
            self._closed = True
            workers = [*self._workers.values(), *([self._spare] if self._spare is not None else [])]
            self._workers, self._spare = {}, None
        self._server.stop(0)
        for worker in workers:
            stop_child(worker, 0)  # nothing is lost: what counts is durable before it is acknowledged
            if worker.stdin is not None:
                worker.stdin.close()


def _out_of_reach(url: str) -> str | None:
    """Why a worker of this machine could not serve who listens at ``url`` (``host:port``): then it would wait for ever, and so would the
    job. None: it can."""
    host, _, port = url.rpartition(":")
    if not port.isdecimal() or url.startswith("unix"):
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), _REACH_SECONDS).close()
    except OSError as error:
        return (
            f"a task manager asked this worker pool for a worker that it would serve at {url}, where nobody answers here"
            f" ({error.strerror or error}): that is its own machine's address; start a pool on every task manager's machine, and name"
            " --worker-pool localhost:PORT"
        )
    return None


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-port", type=int, required=True, help="port that Flink's task managers reach")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--log", type=Path, default=Path("worker.log"), help="file that takes the workers' output")
    given = parser.parse_args()
    try:
        token = shared_token()
    except ConfigError as error:
        parser.error(str(error))
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    pool = WorkerPool(given.log, token, given.host, given.service_port, say=lambda line: print(line, flush=True))
    print(f"worker pool at {pool.address}", flush=True)
    stopped.wait()
    pool.close()


if __name__ == "__main__":
    main()
