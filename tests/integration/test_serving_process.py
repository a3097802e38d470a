"""The server as a process of its own: few files to open, nothing to write to, and killed under load."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.request_log import files_of, read_requests
from tests.integration.http_server import NO_TLS, connect
from tests.integration.serving_world import GOOD, make_world, settings
from tests.listening import descendants, listeners
from transforms.own_program import module_command

PREDICT = "/v1/models/delay:predict"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("process"), 1)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@contextmanager
def served(given: Any, *before: str, **popen: Any) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server process that is ready."""
    port = free_port()
    command = [*before, *module_command("serving", given.model_copy(update={"port": port}).model_dump_json())]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}, **popen)
        try:
            end = time.monotonic() + 180
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", timeout=10, verify=NO_TLS).status_code == 200:
                        break
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    raise AssertionError(said.read().decode())
                time.sleep(0.1)
            yield process, port
        finally:
            process.kill()
            process.wait(30)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_is_reached_from_this_machine_alone_unless_told(world: Path, workers: int) -> None:
    """SECURITY C1: as ``ss -ltnp`` shows it."""
    with served(settings(world, workers=workers, models=world / "none", needs_model=False)) as (process, port):
        ours = descendants(process.pid)
        assert {(address, at) for _, address, at in listeners(ours)} == {("127.0.0.1", port)}


def test_1100_idle_connections_do_not_end_service_with_1024_files(world: Path, tmp_path: Path) -> None:
    """SECURITY H4, as handed in: ``ulimit -n 1024``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3_000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(3_000, hard), hard))
    given = settings(world, request_log=tmp_path / "log", request_log_seconds=0.1, head_seconds=60.0, idle_seconds=60.0)
    with served(given, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))) as (_, port):
        idle = [connect(port) for _ in range(1_100)]
        try:
            for i in range(30):
                begun = time.monotonic()
                answer = httpx.post(f"http://127.0.0.1:{port}{PREDICT}", json={"instances": [GOOD]}, timeout=20, verify=NO_TLS)
                assert answer.status_code == 200, answer.text
                assert time.monotonic() - begun < 10
                idle.append(connect(port))
                if i % 10 == 0:
                    idle += [connect(port) for _ in range(100)]
            end = time.monotonic() + 60  # its files can be opened too; it is killed below, so what it has not written by then is lost
            while read_requests(tmp_path / "log").num_rows < 30:
                assert time.monotonic() < end
                time.sleep(0.05)
        finally:
            for s in idle:
                s.close()


def test_killed_under_load_the_log_is_whole_and_readable(world: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of answers and of writing files: what is in the log are true answers, each whole, and no file is torn; a
    server after it goes on in the same folder."""
    folder = tmp_path / "log"
    given = settings(world, request_log=folder, request_log_seconds=0.05, request_log_rows=20)
    answered: dict[str, list[float]] = {}
    seen: set[str] = set()
    for _ in range(3):
        with served(given) as (process, port):
            ended = threading.Event()

            def ask(port: int = port, ended: threading.Event = ended) -> None:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client, contextlib.suppress(httpx.TransportError):
                    for i in range(10_000):
                        if ended.is_set():
                            return
                        rows = [{**GOOD, "distance": float(i)}, {**GOOD, "origin": "LGA"}]
                        answer = client.post(PREDICT, json={"instances": rows})
                        answered[answer.headers["x-request-id"]] = answer.json()["predictions"]

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + 60
            while len(files_of(folder)) < len(seen) + 5:
                assert time.monotonic() < end, "nothing was logged"
                time.sleep(0.02)
            before = {p.name for p in files_of(folder)}
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            ended.set()
            for thread in threads:
                thread.join(60)
        seen = {p.name for p in files_of(folder)}
        assert before <= seen
    log = read_requests(folder).to_pylist()
    rows: dict[str, list[float]] = {}
    for row in log:
        rows.setdefault(row["tandem_request"], []).append(row["tandem_prediction"])
    assert all(len(values) == 2 for values in rows.values())
    both = rows.keys() & answered.keys()
    assert len(both) > 20 and all(rows[r] == answered[r] for r in both)
    assert len(rows.keys() - answered.keys()) <= 3 * 4 * 2  # at a kill, an answer on its way to each client


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere, and there is no setpriv")
def test_the_log_is_all_that_a_server_writes(world: Path) -> None:
    """SECURITY M8: as one who may read everything and write the request log alone."""
    bounded = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        shutil.copytree(world, root / "data")
        for path in (root / "data" / "repo" / "feature_store.yaml",):
            path.write_text(path.read_text().replace(str(world), str(root / "data")))
        with contextlib.closing(sqlite3.connect(root / "data" / "online.db")) as last:  # who closes it takes what lies beside it away
            last.execute("SELECT 1 FROM sqlite_master")
        assert {path.name for path in (root / "data").glob("online.db*")} == {"online.db"}
        (root / "log").mkdir()
        for path in [root, *root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        (root / "log").chmod(0o777)
        given = settings(root / "data", request_log=root / "log", request_log_seconds=0.05)
        before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if "log" not in p.relative_to(root).parts[0]}
        with served(given, *bounded) as (_, port):
            answer = httpx.post(f"http://127.0.0.1:{port}{PREDICT}", json={"instances": [GOOD]}, timeout=20, verify=NO_TLS)
            assert answer.status_code == 200 and answer.json()["predictions"] == [0.5 * (3 + 100 + 12.5 - 3)]
            end = time.monotonic() + 30
            while not files_of(root / "log"):
                assert time.monotonic() < end
                time.sleep(0.05)
        assert {p: p.stat().st_mtime_ns for p in root.rglob("*") if "log" not in p.relative_to(root).parts[0]} == before
        assert json.dumps(read_requests(root / "log").column("tandem_prediction").to_pylist()) == "[56.25]"
