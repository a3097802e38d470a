"""What a request leaves is gone with its answer: nothing of it waits until somebody looks for garbage, which holds up all that are asked
meanwhile, and until then would be memory that no limit knows of."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.http_server import NO_TLS, running
from tests.integration.serving_world import GOOD, make_world, settings
from tests.waiting import until

PREDICT = "/v1/models/delay:predict"
MIB = 1 << 20
BIG = b'{"instances": [' + b" " * MIB
KINDS: dict[str, tuple[bytes, int]] = {
    "answered": (json.dumps({"instances": [GOOD]}).encode(), 200),
    "answered, large": (json.dumps({"instances": [GOOD]}).encode() + b" " * MIB, 200),
    "no JSON": (BIG, 400),
    "another shape": (BIG + b'1], "more": {}}', 400),
    "a wrong instance": (BIG + json.dumps({**GOOD, "distance": "far"}).encode() + b"]}", 422),
    "too many": (BIG + b",".join([json.dumps(GOOD).encode()] * 3_000) + b"]}", 413),
    "no such model": (BIG + b"]}", 404),
}
TIMES = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("garbage"), 1)


@pytest.fixture
def nobody_looks() -> Iterator[None]:
    """No garbage collection meanwhile, and memory is counted."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.enable()


def _alive(name: str) -> int:
    return sum(type(each).__name__ == name for each in gc.get_objects())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_request_waits_for_the_garbage_collection(kind: str, world: Path, nobody_looks: None) -> None:
    body, status = KINDS[kind]
    path = "/v1/models/none:predict" if kind == "no such model" else PREDICT
    given: Any = settings(world, max_instances=2_000)
    with running(given) as (_, host, port), httpx.Client(base_url=f"http://{host}:{port}", verify=NO_TLS, timeout=60) as client:

        def ask() -> None:
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == status, answer.text[:300]

        for _ in range(3):
            ask()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(TIMES):
            ask()
        # The last answer's own may still be on their way out of a thread or a task.
        until(lambda: _alive("RequestResponseCycle") <= 2 and _alive("_Job") <= 1)
        grown = tracemalloc.get_traced_memory()[0] - before
    assert grown < TIMES * MIB / 4, f"{grown / MIB:.1f} MiB are held by {TIMES} requests"
