"""A stream that begins with empty windows where a batch run has the history: it says so, and verify does not call its rows complete."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.verification import VerifyOptions, run_verify
from pipelines.verify.verify_report import VerifyReport
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
    short = [line for line in result.notices if line.startswith("short windows")]
    if history == "from the run":
        assert told == short == [] and world.online("count_24h")[0] > 40
    else:
        assert run in told[0] and "--reset --from-run latest" in told[0]
        said.clear()
        assert run_stream(world.repo(), replace(how, from_run="latest"), said.append)["code"] == 0
        (line,) = [line for line in said if "goes before --from-run latest" in line]
        assert "began with empty windows" in line and run in line and "--reset --from-run latest" in line
        assert len(short) == 2 and all(run in line and "--reset --from-run latest" in line for line in short)


def test_a_contract_that_accepts_more_meanwhile_is_no_defect_of_the_stream(tmp_path: Path) -> None:
    """FAULTS 20: the stream went on with its graph, as it may, and verify judged what it had refused by the contract of now: hundreds of
    values that nothing explained."""
    broker = MemoryBroker()
    broker.create_topic("orders", 2)
    broker.create_topic("orders.dead", 1)
    world = Orders(tmp_path, as_of=END + timedelta(hours=6))
    settings = {
        "data": "../data", "definitions": "features", "batch": {"shards": 1, "max_reject_share": 0.9},
        "kafka": {"bootstrap_servers": broker.address, "dead_letters": "orders.dead"},
        "stream": {"clock": "replay", "shards": 2, "idle_seconds": 3600, "max_reject_share": 0.9},
    }  # fmt: skip
    (world.repo_path / "tandem.yaml").write_text(json.dumps(settings))
    world.define(amount=", max=9", channel=', domain=("web",)')
    world.log([order(f"o{n}", f"{n:02}:02", channel="web") for n in range(24)])
    world.apply(world.batch())

    def sent(first: int, last: int) -> VerifyReport:
        for n in range(first, last):
            odd: dict[str, Any] = {"channel": "app" if n % 4 == 0 else "web", "amount": 100.0 if n % 7 == 0 else 5.0, "shop": 1 + n % 2}
            broker.append("orders", n % 2, [json.dumps(order(f"n{n}", f"2024-05-02T{n // 20:02}:{n % 20 * 3:02}:00Z", **odd)).encode()])
        how = StreamOptions(runner="direct", until="latest", from_run=None if first else "latest")
        assert run_stream(world.repo(), how, lambda line: None)["code"] == 0
        return run_verify(world.repo(), VerifyOptions(served=False))

    before = sent(0, 40)
    assert (before.verdict, [line for line in before.notices if "dead letters" in line]) == ("proven", [])
    world.define(amount=", max=9", channel=', domain=("web", "app")')
    assert sent(40, 70).verdict == "proven"
    world.define()
    after = sent(70, 100)
    assert after.verdict == "proven" and after.values["equal"] == after.values["compared"] > before.values["compared"]
    refused = len({n for n in range(40) if n % 4 == 0} | {n for n in range(70) if n % 7 == 0})
    (line,) = [line for line in after.notices if "dead letters" in line]
    assert line.startswith(f"{refused} events of orders were dead letters under the earlier contract") and "'tandem dlq replay'" in line
