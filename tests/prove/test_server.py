"""SIGKILL of ``tandem serve``'s process under load and while it starts, and its certificate expired.

Every answer that came is the right one, whole; a server that is started again answers within seconds; the request log has no torn file,
and of every answer that came a good while before the kill it has all rows.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from serving.request_log import read_requests
from tests.certificates import Authority
from tests.integration.serving_world import GOOD, make_world, settings
from tests.integration.test_serving_process import PREDICT, served
from tests.prove.report import Part
from tests.prove.rig import children, until

SEED = 20130701
LOG_SECONDS = 0.5
"""The server's ``request_log_seconds``: what may be missing after a kill."""
WRITING_SECONDS = 2.0
"""What a file may take to be written and renamed on a busy machine."""
CLIENTS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("server"), 1)


def right(i: int) -> list[float]:
    """What the model answers to :func:`asked`, by hand."""
    return [0.5 * (3 + i + 12.5 - 3), 0.5 * (3 + 100.0 + 0 - 3)]


def asked(i: int) -> list[dict[str, Any]]:
    """Two rows; the second of an airport whose mean is null."""
    return [{**GOOD, "distance": float(i)}, {**GOOD, "origin": "LGA"}]


class Clients:
    """Ask as fast as they can until the server is gone. ``answers``: request -> (when it came, its number)."""

    def __init__(self, port: int) -> None:
        self.answers: dict[str, tuple[float, int]] = {}
        self.wrong: list[str] = []
        self._numbers = iter(range(10**9))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(port,)) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, port: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client, contextlib.suppress(httpx.TransportError):
            while not self._ended.is_set():
                i = next(self._numbers)
                answer = client.post(PREDICT, json={"instances": asked(i)})
                if answer.status_code != 200 or answer.json()["predictions"] != right(i):
                    self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
                self.answers[answer.headers["x-request-id"]] = (time.monotonic(), i)

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()

    def join(self) -> None:
        """Until all have ended: by themselves after a kill."""
        for thread in self._threads:
            thread.join(60)


def logged(folder: Path, clients: Clients, killed: float) -> list[str]:
    """What is wrong with the request log after a kill."""
    out = []
    for path in folder.rglob("*.parquet"):
        if not path.name.startswith("."):
            try:
                pq.ParquetFile(path).read()
            except Exception as error:  # whatever a torn file is to the library
                out.append(f"{path.name} is torn: {error}")
    rows: dict[str, dict[int, float]] = {}
    for row in read_requests(folder).to_pylist():
        rows.setdefault(row["tandem_request"], {})[row["tandem_row"]] = row["tandem_prediction"]
    for request, (at, i) in clients.answers.items():
        found = rows.get(request)
        if found is None and killed - at > LOG_SECONDS + WRITING_SECONDS:
            out.append(f"an answer of {killed - at:.1f} s before the kill is not in the log")
        if found is not None and [found.get(n) for n in (0, 1)] != right(i):
            out.append(f"the log has {found} for {right(i)}")
    return out


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_under_load(world: Path, tmp_path: Path, trials: int, report: Part, workers: int) -> None:
    rng, problems = random.Random(f"{SEED} {workers}"), []
    entry = report.kind(f"kill -9 server under load, {workers} process{'es' if workers > 1 else ''}")
    entry.runs += 1
    more = {"workers": workers} if workers > 1 else {}
    given = settings(world, request_log=tmp_path / "log", request_log_seconds=LOG_SECONDS, **more)
    with contextlib.ExitStack() as stack:
        process, port = stack.enter_context(served(given))
        for _ in range(trials):
            begun, clients = time.monotonic(), Clients(port)
            time.sleep(rng.uniform(1.0, 6.0))
            mine = sorted(children(process.pid)) if workers > 1 and rng.random() < 0.5 else []
            os.kill(rng.choice(mine) if mine else process.pid, signal.SIGKILL)
            killed = time.monotonic()
            if mine:  # the others go on, and another one takes its place
                until(lambda: len(set(children(process.pid)) - set(mine)) > 0, "another worker", 60)  # noqa: B023
                time.sleep(1)
                clients.end()
            else:
                process.wait(30)
            clients.join()
            if not mine:
                process, port = stack.enter_context(served(given))
            answer = httpx.post(f"http://127.0.0.1:{port}{PREDICT}", json={"instances": asked(7)}, timeout=30)
            recovery = time.monotonic() - killed
            wrong = clients.wrong + logged(tmp_path / "log", clients, killed)
            if answer.status_code != 200 or answer.json()["predictions"] != right(7):
                wrong.append(f"after the restart: {answer.text[:200]}")
            counts = {"answers": len(clients.answers)}
            entry.trial(
                "one worker" if mine else "server",
                2 * len(clients.answers),
                wrong,
                time.monotonic() - begun,
                recovery=recovery,
                counts=counts,
            )
            problems += wrong
    assert not problems, "\n".join(problems[:20])


def test_killed_while_it_starts(world: Path, tmp_path: Path, trials: int, report: Part) -> None:
    """While it loads registry, store and model; the next one serves."""
    rng, problems = random.Random(SEED + 1), []
    entry = report.kind("kill -9 server while it starts")
    entry.runs += 1
    given = settings(world, request_log=tmp_path / "log", request_log_seconds=LOG_SECONDS)
    most = 0.0
    for number in range(trials + 1):
        begun = time.monotonic()
        if number:
            with pytest.raises(Killed), killed_soon(rng.uniform(0.2, 1.0) * most), served(given):
                pass
        blow = time.monotonic()
        with served(given) as (_, port):
            recovery = time.monotonic() - blow
            most = most or recovery
            answer = httpx.post(f"http://127.0.0.1:{port}{PREDICT}", json={"instances": asked(7)}, timeout=30)
        wrong = [] if answer.status_code == 200 and answer.json()["predictions"] == right(7) else [answer.text[:200]]
        if number:
            entry.trial("starting", 2, wrong, time.monotonic() - begun, recovery=recovery)
        problems += wrong
    assert not problems, "\n".join(problems)


class Killed(Exception):
    """The server that was starting is dead."""


@contextlib.contextmanager
def killed_soon(after: float) -> Iterator[None]:
    """The process that is started within is killed some seconds later; then its waiting ends with :class:`Killed`."""
    import subprocess

    real, started = subprocess.Popen, []

    def popen(*given: Any, **named: Any) -> Any:
        process = real(*given, **named)
        started.append(threading.Timer(after, process.kill))
        started[0].start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", popen)
        try:
            yield
        except AssertionError:  # it ended before it was ready
            raise Killed from None
        raise Killed  # it was ready a moment earlier


def test_the_servers_certificate_expires(world: Path, tmp_path: Path, trials: int, report: Part) -> None:
    """Clients refuse it from then on; the server says so; a new one in its place is served within seconds, and no restart."""
    authority, cert, key, ca = Authority(), tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    rng, problems = random.Random(SEED + 2), []
    entry = report.kind("server's certificate expires")
    entry.runs += 1
    authority.issue(cert, key, "localhost", server=True)
    with contextlib.ExitStack() as stack:
        from tests.integration.http_server import running

        given = settings(world, tls_cert=cert, tls_key=key, poll_seconds=0.2)
        server, _, port = stack.enter_context(running(given))
        from serving.model_repository import Watcher
        from serving.server import Reload

        connection: Any = server.config.http_protocol_class
        watcher = Watcher(Reload(given, connection).look, given.poll_seconds)
        watcher.start()
        stack.callback(watcher.close)
        url, trusting = f"https://localhost:{port}", ssl.create_default_context(cafile=str(ca))

        def ask() -> str:
            """ "right", or why not."""
            with httpx.Client(verify=trusting, timeout=20) as client:
                try:
                    answer = client.post(f"{url}{PREDICT}", json={"instances": asked(7)})
                except httpx.TransportError as error:
                    return str(error)
            return "right" if answer.status_code == 200 and answer.json()["predictions"] == right(7) else answer.text

        def until(wanted: str) -> float:
            begun = time.monotonic()
            while wanted not in (said := ask()):
                if time.monotonic() - begun > 20:
                    problems.append(f"{said} and not {wanted}")
                    break
                time.sleep(0.1)
            return time.monotonic() - begun

        for _ in range(trials):
            begun, before = time.monotonic(), len(problems)
            until("right")
            authority.issue(cert, key, "localhost", server=True, ends=timedelta(seconds=-rng.uniform(1, 80_000)))
            until("certificate has expired")
            with httpx.Client(verify=False, timeout=20) as careless:
                told = careless.get(f"{url}/v2/health/ready").json()
            if "expired at" not in str(told.get("warnings")):
                problems.append(f"readiness does not say so: {told}")
            authority.issue(cert, key, "localhost", server=True)
            recovery = until("right")
            entry.trial("certificate", 2, problems[before:], time.monotonic() - begun, recovery=recovery)
    assert not problems, "\n".join(problems)
