"""A stream that is begun anew at the end of a corrected run: what its former beginning said beyond that run counts no more online."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from serving.online_store.sqlite import OrderedSqliteOnlineStore
from tests.integration.orders_world import END, Orders, order
from tests.redis_server import redis_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("count_1h", "count_24h", "amount_mean_1h")
HISTORY = [order(f"o{n}", f"{n // 2:02}:{n % 2 * 30:02}") for n in range(48)]
WRONG = [order("w1", "23:45", amount=1_000_000.0), order("w2", "23:40", shop=7), order("w3", "23:50", shop=8)]
LIVE = [order(f"n{n}", f"2024-05-02T{n:02}:10:00Z", shop=shop) for n in range(3) for shop in (1, 8, 9)]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    if request.param == "sqlite":
        yield {}
    else:
        with redis_server() as server:
            kind = "tandem.serving.online_store.redis.OrderedRedisOnlineStore"
            yield {"type": kind, "connection_string": server.connection_string}


def _world(path: Path, store: dict[str, Any]) -> tuple[Orders, Callable[..., list[str]]]:
    broker = MemoryBroker()
    for topic in ("orders", "orders.dead"):
        broker.create_topic(topic, 1)
    world = Orders(path, as_of=END + timedelta(hours=2, minutes=30), store=store)
    settings = {
        "data": "../data",
        "definitions": "features",
        "batch": {"shards": 1},
        "kafka": {"bootstrap_servers": broker.address, "dead_letters": "orders.dead"},
        "stream": {"clock": "replay", "shards": 1, "idle_seconds": 3600},
    }
    (world.repo_path / "tandem.yaml").write_text(json.dumps(settings))
    world.log([*HISTORY, *WRONG])
    world.round()
    broker.append("orders", 0, [json.dumps(event).encode() for event in LIVE])

    def stream(**how: Any) -> list[str]:
        said: list[str] = []
        outcome = run_stream(world.repo(), StreamOptions(runner="direct", until="latest", from_run="latest", **how), said.append)
        assert outcome["code"] == 0
        return said

    stream()
    return world, stream


def _right(world: Orders) -> None:
    """By hand: of 02:10 the last boundary that the records' own times let out is 02:05; a day back lie 43 of the history, 2 live ones."""
    assert world.online(*NAMES) == (1, 45, 5.0), "the wrong million is in no window"
    assert world.online(*NAMES, shop=7) == (None, None, None), "a key that the log has no more"
    assert world.online(*NAMES, shop=8) == (1, 2, 5.0)
    assert world.online(*NAMES, shop=9) == (1, 2, 5.0), "a key that the stream alone has"
    assert run_verify(world.repo(), VerifyOptions(served=False)).verdict == "proven"


def test_what_was_corrected_is_gone_also_beyond_the_run(tmp_path: Path, store: dict[str, Any]) -> None:
    """FAULTS 1: among rows of streams the greater revision won, whichever beginning it was of."""
    world, stream = _world(tmp_path, store)
    assert world.online("count_24h")[0] == 46 and world.online("count_24h", shop=7) == (1,) and world.online("count_24h", shop=8) == (3,)
    world.log(HISTORY)
    world.round()
    said = stream(anew=True)
    assert [line for line in said if "beyond the run were taken out" in line]
    _right(world)
    assert not [line for line in stream() if "taken out" in line], "a checkpoint goes on"


@pytest.mark.parametrize(("step", "call"), [("write_rows", 1), ("drop_superseded", 2), ("drop_superseded", 3), ("write_rows", 2)])
def test_killed_before_a_step_the_next_start_completes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int) -> None:
    """Also without ``--anew``: from then on there is no checkpoint that it could go on from."""
    world, stream = _world(tmp_path, {})
    world.log(HISTORY)
    world.round()
    made, calls = getattr(OrderedSqliteOnlineStore, step), 0

    def killed(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return made(*given, **named)

    monkeypatch.setattr(OrderedSqliteOnlineStore, step, killed)
    with pytest.raises(KeyboardInterrupt):
        stream(anew=True)
    monkeypatch.undo()
    assert world.online("count_24h")[0] is not None, "at no moment is a key of the runs without a row"
    stream()
    _right(world)
