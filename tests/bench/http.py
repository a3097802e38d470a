"""Predictions over HTTP from a server in a process of its own, against stock Feast and ``keras.Model.predict`` without any HTTP;
then online features (:mod:`tests.bench.serve_rates`)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.bench import serve_rates
from tests.bench.report import Part, Took

WARM_UP = 10


def _cpu(pid: int) -> float:
    """CPU seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(client: httpx.Client, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {seconds:.0f} s")


def _times(calls: int, way: Callable[[], Any]) -> tuple[float, float]:
    """(median, 99th percentile) seconds of one call."""
    for _ in range(WARM_UP):
        way()
    took = []
    for _ in range(calls):
        start = time.perf_counter()
        way()
        took.append(time.perf_counter() - start)
    p50, p99 = np.percentile(took, [50, 99])
    return float(p50), float(p99)


def _naive(feast: Any, instances: list[dict[str, Any]]) -> Callable[[], Any]:
    """What a first version of a service does: read from stock Feast, then ``predict``."""
    import tensorflow as tf

    model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)])
    refs = ["origin_traffic:mean_1h", "aircraft:last_delay"]
    entities = [{"origin": i["origin"], "tailnum": i["tailnum"]} for i in instances]

    def answer() -> Any:
        got = feast.get_online_features(refs, entities).to_dict()
        rows = [[i["distance"], m or 0.0, d or 0.0] for i, m, d in zip(instances, got["mean_1h"], got["last_delay"], strict=True)]
        return model.predict(np.array(rows, np.float32), verbose=0)

    return answer


def run(quick: bool = False) -> list[Part]:
    """1 and 100 instances per request, one client, one request after another."""
    from tests.integration.serving_world import GOOD, make_repo, make_world

    calls, parts = 50 if quick else 300, []
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as temp:
        root = Path(temp)
        make_world(root, 1)
        stock = make_repo(root / "stock", store="sqlite")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        server = subprocess.Popen([sys.executable, "-m", "tests.bench.http", str(root), str(port)], stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _wait(client, server)
                for n in (1, 100):
                    instances = [{**GOOD, "origin": ("JFK", "LGA", "EWR")[i % 3], "distance": float(i)} for i in range(n)]
                    body = {"instances": instances}

                    def ask(body: dict[str, Any] = body) -> None:
                        client.post("/v1/models/delay:predict", json=body).raise_for_status()

                    what = f"predict of {n} instance{'s' if n > 1 else ''}: features from SQLite, then the model"
                    part = Part(what, "requests", f"warm; wall time, median of {calls}, one client; worst: p99")
                    before = _cpu(server.pid)
                    p50, p99 = _times(calls, ask)
                    each = (_cpu(server.pid) - before) / (calls + WARM_UP)
                    part.add("tandem serve, over HTTP", Took([p50, p99]), 1, f"server's CPU {each * 1e3:.2f} ms each")
                    p50, p99 = _times(max(calls // 3, 20), _naive(stock, instances))
                    part.add("feast + keras predict, no HTTP", Took([p50, p99]), 1)
                    parts.append(part)
        finally:
            server.terminate()
            server.wait(30)
    return [*parts, *serve_rates.run(quick)]


if __name__ == "__main__":
    from serving.server import run as serve
    from tests.integration.serving_world import settings

    serve(settings(Path(sys.argv[1]), port=int(sys.argv[2])))
