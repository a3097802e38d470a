"""A thousand random histories on each store: after batch, apply and materialize both stores say of every key what the oracle says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.round_world import World, history, old_rule
from tests.prove.report import Part
from tests.redis_server import redis_server

HISTORIES = 50
"""For each of the trials that are asked for: 1,000 at 20."""


@pytest.fixture(params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    kind = f"tandem.serving.online_store.{request.param}.Ordered{str(request.param).title()}OnlineStore"
    if request.param == "sqlite":
        yield World(tmp_path, {"type": kind, "path": str(tmp_path / "online.db")})
    else:
        with redis_server() as server:
            yield World(tmp_path, {"type": kind, "connection_string": server.connection_string})


def test_round(world: World, trials: int, report: Part) -> None:
    name = f"histories of corrections, {'redis' if 'connection_string' in world.settings else 'sqlite'}"
    problems = []
    for seed in range(trials * HISTORIES):
        begun = time.perf_counter()
        found = history(world, seed)
        problems += [found] if found else []
        report.kind(name).trial("history", 12, [found] if found else [], time.perf_counter() - begun)
    with old_rule(world):
        for seed in range(trials * 2):
            begun = time.perf_counter()
            found = history(world, seed)
            report.kind(name, stock=True).trial("history", 12, [found] if found else [], time.perf_counter() - begun)
    assert not problems, "\n".join(problems[:10])
    assert report.kind(name, stock=True).failed, "the negative control found nothing"
