"""A stream that begins with empty windows where a batch run has the history: it says so, and verify does not call its rows complete."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.integration.orders_world import END, Orders, order

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("history", ["empty windows", "from the run"])
def test_windows_that_begin_empty_are_told_by_stream_and_verify(tmp_path: Path, history: str) -> None:
    """FAULTS 21: 24-hour counts of the last hours alone were written over complete rows, and verify said that all was equal."""
    broker = MemoryBroker()
    broker.create_topic("orders", 1)
    broker.create_topic("orders.dead", 1)
    world = Orders(tmp_path, as_of=END + timedelta(hours=6))
    settings = {
        "data": "../data",
        "definitions": "features",
        "batch": {"shards": 1},
        "kafka": {"bootstrap_servers": broker.address, "dead_letters": "orders.dead"},
        "stream": {"clock": "replay", "shards": 1, "idle_seconds": 3600},
    }
    (world.repo_path / "tandem.yaml").write_text(json.dumps(settings))
    past = [order(f"o{n}", f"{n // 2:02}:{n % 2 * 30:02}") for n in range(48)]
    now = [order(f"n{n}", f"2024-05-02T{n:02}:10:00Z") for n in range(6)]
    world.log([*past, *now])
    run = world.round()
    broker.append("orders", 0, [json.dumps(event).encode() for event in now])
    said: list[str] = []
    how = StreamOptions(runner="direct", until="latest", from_run=run if history == "from the run" else None)
    assert run_stream(world.repo(), how, said.append)["code"] == 0
    told = [line for line in said if "windows begin empty" in line]
    result = run_verify(world.repo(), VerifyOptions(online=False, served=False))
    short = [line for line in result["notices"] if line.startswith("short windows")]
    if history == "from the run":
        assert told == short == [] and world.online("count_24h")[0] > 40
    else:
        assert run in told[0] and "--anew --from-run latest" in told[0]
        said.clear()
        assert run_stream(world.repo(), replace(how, from_run="latest"), said.append)["code"] == 0
        (line,) = [line for line in said if "goes before --from-run latest" in line]
        assert "began with empty windows" in line and run in line and "--anew --from-run latest" in line
        assert len(short) == 2 and all(run in line and "--anew --from-run latest" in line for line in short)
