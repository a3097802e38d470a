"""Online features over HTTP: answers per second, and CPU per answer, of `tandem serve` with one and two workers, a raw ASGI function and
`feast serve`, each in processes of its own over the same Redis, asked by eight connections."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import redis

from tests.bench import shop
from tests.bench.report import Part
from tests.redis_server import free_port, redis_server

CLIENTS = 8
RAW = "raw ASGI over packed rows, 1 process"
_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu(pids: list[int]) -> float:
    """Seconds of CPU of processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _family(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [pid, *(p for child in found.split() for p in _family(int(child)))]


def _exchange(connection: socket.socket, request: bytes) -> bytes:
    connection.sendall(request)
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            parts, have = [body], len(body)
            while have < length:
                parts.append(connection.recv(1 << 18))
                have += len(parts[-1])
            if b" 200 " not in head[:20]:
                raise ValueError(head[:200] + body[:200])
            return b"".join(parts)
        data += connection.recv(1 << 18)


def _request(n: int, seed: int) -> bytes:
    body = json.dumps({"feature_service": shop.SERVICE, "entities": shop.asked(n, seed), "full_feature_names": True}).encode()
    head = f"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _load(port: int, n: int, seconds: float) -> list[float]:
    """Seconds of each answer, from eight clients that ask again at once."""
    took: list[list[float]] = [[] for _ in range(CLIENTS)]
    until = time.perf_counter() + seconds

    def ask(place: int) -> None:
        request = _request(n, place)
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            while (start := time.perf_counter()) < until:
                _exchange(connection, request)
                took[place].append(time.perf_counter() - start)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [t for some in took for t in some]


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[list[int]]:
    """The processes of a server that answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 180
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
                    _exchange(connection, _request(1, 0))
                break
            except (OSError, ValueError):
                if time.monotonic() > end or process.poll() is not None:
                    raise RuntimeError(f"{command[:4]} does not answer") from None
                time.sleep(0.2)
        time.sleep(1.0)  # the other workers
        yield _family(process.pid)
    finally:
        process.terminate()
        process.wait(60)


@dataclass
class _Measured:
    """What a server did for requests of one size, over all rounds: its CPU, and seconds of each answer."""

    cpu: float = 0.0
    took: list[float] = field(default_factory=list)

    @property
    def each(self) -> float:
        """Milliseconds of CPU per answer."""
        return self.cpu / len(self.took) * 1e3


def run(quick: bool = False) -> list[Part]:
    """1, 10, 100 and 1,000 entities per request: three views, 20 features. All servers stay up beside each other and are asked in turn, so
    that what a machine has left at some moment is the same for all; a first round, which is not counted, has what they load and compile
    once behind it."""
    sizes, rounds, seconds = ((1, 100), 3, 1.0) if quick else ((1, 10, 100, 1000), 5, 1.2)
    found: dict[tuple[int, str], _Measured] = defaultdict(_Measured)
    with redis_server() as server, tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp, ExitStack() as stack:
        root = Path(temp)
        ours = shop.make_repo(
            root / "ours",
            {"type": "serving.online_store.redis.OrderedRedisOnlineStore", "connection_string": server.connection_string},
        )
        shop.fill(ours)
        shop.fill(shop.make_repo(root / "theirs", {"type": "redis", "connection_string": f"{server.connection_string},db=1"}))
        shop.Packed.make(redis.Redis(port=server.port, db=2))
        servers = [(name, port, stack.enter_context(_serving(command, port))) for name, command, port in _servers(root, server.port)]
        for number in range(1 + rounds):
            for n in sizes:
                for name, port, pids in servers:
                    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
                        _check(json.loads(_exchange(connection, _request(n, 0))), n)
                    before = _cpu(pids)
                    took = _load(port, n, seconds)
                    if number:
                        found[n, name].cpu += _cpu(pids) - before
                        found[n, name].took += took
    parts = []
    for n in sizes:
        part = Part(
            f"{n:,} entities per request over HTTP: 3 views, 20 features from Redis, {CLIENTS} clients",
            "requests",
            f"warm; answers in {rounds} rounds of {seconds:g} s, all servers in turn, clients on the same cores",
        )
        for name, _, _ in servers:
            own = found[n, name]
            p50, p99 = np.percentile(own.took, [50, 99]) * 1e3
            share = "" if name == RAW else f", {found[n, RAW].each / own.each:.2f} of it for the raw function"
            part.add(name, rounds * seconds, len(own.took), f"{own.each:.2f} ms CPU each{share}; p50 {p50:.1f}, p99 {p99:.1f} ms")
        part.notes.append(f"load {os.getloadavg()[0]:.0f}")
        parts.append(part)
    return parts


def _servers(root: Path, redis_port: int) -> Iterator[tuple[str, list[str], int]]:
    here = [sys.executable, "-W", "ignore", "-m"]
    for workers in (1, 2):
        port = free_port()
        settings: dict[str, Any] = {
            "feature_repo": str(root / "ours/repo"),
            "models": str(root / "models"),
            "graphs": str(root / "graphs"),
            "request_log": str(root / f"requests{workers}"),
            "needs_model": False,
            "as_of": shop.NOW.isoformat(),
            "port": port,
            "workers": workers,
        }
        yield f"tandem serve, {workers} worker{'s' if workers > 1 else ''}", [*here, "serving", json.dumps(settings)], port
    port = free_port()
    yield RAW, [*here, "tests.bench.raw_asgi", str(port), str(redis_port)], port
    port = free_port()
    feast = [str(Path(sys.executable).with_name("feast")), "-c", str(root / "theirs/repo"), "serve", "-h", "127.0.0.1", "-p", str(port)]
    yield "feast serve", feast, port


def _check(answer: Any, n: int) -> None:
    """The last column is a buyer's number."""
    asked = shop.asked(n)["buyer"]
    right = shop.rows("buyers").column("n0").to_pylist()
    names = answer["metadata"]["feature_names"] or None
    values = answer["results"][-1 if names is None else names.index("buyers__n0")]["values"]
    if values != [right[b] for b in asked]:
        raise ValueError("the answer's values are not those that were written")
