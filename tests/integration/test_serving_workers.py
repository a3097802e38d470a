"""Several workers are one server: at one port, with one page of numbers, one set of limits and one end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.request_log import read_requests
from tests.integration.http_server import NO_TLS
from tests.integration.serving_world import make_repo, settings
from transforms.own_program import module_command

BODY = {"feature_service": "delay", "entities": {"origin": ["JFK", "LGA"], "tailnum": ["N1", "N1"]}}


@contextmanager
def server(root: Path, workers: int = 2, **changes: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process (its models folder is empty: it is ready at once) and its address."""
    chosen = settings(root, port=0, workers=workers, needs_model=False, **changes)
    with open(root / "server.log", "w") as log:
        command = module_command("serving", chosen.model_dump_json())
        process = subprocess.Popen(command, stderr=log, text=True, cwd=_strange(root / "elsewhere"))
    try:
        address = _until(lambda: re.search(r"http://127\.0\.0\.1:\d+", (root / "server.log").read_text()), process)[0]
        _until(lambda: _answers(address), process)
        yield process, address
    finally:
        process.terminate()
        process.wait(60)


def _strange(folder: Path) -> Path:
    """A folder with packages of our names, which are somebody else's."""
    for name in ("serving", "transforms", "tandem"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text("raise SystemExit('a package of somebody else was taken for ours')")
    return folder


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/ready", timeout=20, verify=NO_TLS).status_code == 200
    except httpx.HTTPError:
        return False


def _until(what: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)
    return found


def _children(process: subprocess.Popen[str]) -> list[int]:
    out = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in out.split()]


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _ask(address: str) -> int:
    """By a connection of its own."""
    return httpx.post(f"{address}/get-online-features", json=BODY, timeout=60, verify=NO_TLS).status_code


def _counted(address: str) -> float:
    page = httpx.get(f"{address}/metrics", timeout=60, verify=NO_TLS).text
    found = re.search(r'^tandem_requests_total\{route="/get-online-features",status="200"\} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("workers")
    make_repo(made)
    return made


def test_numbers_are_summed_and_a_worker_that_is_killed_is_replaced(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with server(root, request_log=root / "requests") as (process, address):
        before = _until(lambda: len(_children(process)) == 2 and _children(process))
        _until(lambda: len(list(tmp_path.glob("tandem-serve-*/*.json"))) == 2)  # both have begun: one that never does ends the server
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(_ask, [address] * 60)) == {200}
        _until(lambda: _counted(address) == 60.0)
        os.kill(before[0], signal.SIGKILL)
        _until(lambda: _gone(before[0]))  # until the kernel has ended it, it takes connections, and cuts them
        with ThreadPoolExecutor(4) as pool:  # new ones find the other
            assert [_ask(address) for _ in range(10)] == [200] * 10
        _until(lambda: len(set(_children(process)) - {before[0]}) == 2)
        assert _counted(address) >= 10.0
        assert "exited with -9; restarting it" in (root / "server.log").read_text()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
        assert all(_gone(pid) for pid in before)
    rows = read_requests(root / "requests")
    assert len(set(rows.column("tandem_request").to_pylist())) >= 10, "each process writes files of its own"


def test_a_caller_s_rate_is_that_of_the_server(root: Path) -> None:
    """With a bucket for each worker a caller would get twice as much."""
    from serving.settings import LimitSettings

    with server(root, limits=LimitSettings(requests_per_second=0.001, burst_seconds=12_000)) as (_, address), ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(_ask, [address] * 40))
    assert codes.count(200) == 12
    assert codes.count(429) == 28


def test_workers_end_with_the_first_process_however_it_ends(root: Path) -> None:
    with server(root) as (process, _):
        workers = _until(lambda: len(_children(process)) == 2 and _children(process))
        process.kill()
        _until(lambda: all(_gone(pid) for pid in workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_one_line(root: Path, workers: int) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = settings(root, port=taken.getsockname()[1], workers=workers, needs_model=False)
        done = subprocess.run(module_command("serving", chosen.model_dump_json()), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "application startup" not in done.stderr, "it is said before models are loaded"
    assert re.search(r"^error: serve.host '127.0.0.1' port \d+: cannot listen there .*; choose another port$", done.stderr, re.MULTILINE)
