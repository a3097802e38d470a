"""Both online stores behind one fixture: whatever a test says, it says of each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.stores import Bench, view
from tests.redis_server import RedisServer, redis_server


@pytest.fixture(scope="session")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """An empty store of each kind, the clock at 2030."""
    if request.param == "sqlite":
        return Bench.sqlite(tmp_path, view())
    return Bench.redis(tmp_path, view(), request.getfixturevalue("redis").connection_string)
