"""The end of the stream where a store is away, comes back empty or is locked: it waits, or ends when it is asked to, and loses nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.part_reports import MOST_REASONS
from pipelines.streaming.stages.sink import StopRequested
from tests.integration.sink_world import (
    STEPS,
    check,
    make_world,
    output,
    said,
)
from tests.redis_server import redis_server
from tests.waiting import until


def _in_background(action: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def test_redis_killed_and_started_again_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    with redis_server(folder=tmp_path / "redis") as server:
        world = make_world(tmp_path / "world", server.connection_string)
        deliver = world.deliver()
        killed = {10: threading.Event(), 20: threading.Event()}  # what is to be delivered after a kill has not come before it

        def everything() -> None:
            for step in range(STEPS):
                deliver.deliver(output(step))
                if step in killed:
                    killed[step].wait(60)

        thread, errors = _in_background(everything)

        def saved(step: int) -> bool:
            return bool(world.control.load_checkpoints().get(0, {}).get("shard", 0) >= step)

        def waits(times: int) -> bool:
            return world.control.reports()["sink-0"]["outages"] >= times or not thread.is_alive()

        for number, (step, after) in enumerate(killed.items(), 1):
            until(partial(saved, step))
            server.kill()
            after.set()
            until(partial(waits, number))
            assert world.control.reports()["sink-0"]["outages"] == number
            server.start()
        thread.join(60)
        assert errors == []
        assert not thread.is_alive()
        check(world)
        lines = said(world)
        # Once for each reason: a connection that breaks is another one than none that comes about.
        assert 2 <= lines.count("shard 0 waits: online store redis 127.0.0.1") <= 2 * MOST_REASONS
        assert lines.count("is back after") == 2
        assert "restored" not in lines
        assert world.control.reports()["sink-0"]["waiting_for"] == ""
        deliver.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_redis_that_comes_back_empty_gets_the_rows_of_the_log_again(tmp_path: Path, restarted: bool) -> None:
    with redis_server() as server:
        world = make_world(tmp_path, server.connection_string)
        deliver = world.deliver()
        for step in range(STEPS - 1):
            deliver.deliver(output(step))
        server.kill()
        server.start()
        if restarted:  # by a worker that was not there when it happened
            deliver.close()
            deliver = world.deliver()
        deliver.deliver(output(STEPS - 1))
        check(world)
        assert "the online store lost rows that shard 0 had written" in said(world)
        assert world.control.reports()["sink-0"]["restored"] > 0
        (world.data / "graphs" / "trip_fares" / "CURRENT").write_text("another\n")
        store = world.feast()
        assert store._get_provider().online_store.applied_fingerprint(store.config, "zone_fares") == world.graphs["zone_fares"]
        before = said(world)
        deliver.deliver(FoldOutput(0, {}, {}, {"shard": STEPS}))
        assert said(world) == before, "it is told once"
        deliver.close()


def test_a_stop_request_ends_the_wait_and_the_output_comes_again(tmp_path: Path) -> None:
    with redis_server() as server:
        world = make_world(tmp_path, server.connection_string)
        deliver = world.deliver()
        for step in range(STEPS - 1):
            deliver.deliver(output(step))
        server.kill()
        thread, errors = _in_background(lambda: deliver.deliver(output(STEPS - 1)))
        until(lambda: "waits" in said(world))
        assert world.control.reports()["sink-0"]["waiting_for"] == "online store"
        world.control.request("stop")
        thread.join(30)
        assert [type(e) for e in errors] == [StopRequested]
        assert "delivered again at the next start" in str(errors[0])
        assert world.control.failure() is None, "a stop is no failure"
        assert world.control.load_checkpoints()[0]["shard"] == STEPS - 2
        deliver.close()
        world.control.clear("stop")
        server.start()
        deliver = world.deliver()
        deliver.deliver(output(STEPS - 1))
        check(world)
        deliver.close()


def test_a_locked_sqlite_is_waited_for(tmp_path: Path) -> None:
    world = make_world(tmp_path, busy_timeout_seconds=0.05)
    deliver = world.deliver()
    deliver.deliver(output(0))
    with contextlib.closing(sqlite3.connect(world.data / "online.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")

        def the_rest() -> None:
            for step in range(1, STEPS):
                deliver.deliver(output(step))

        thread, errors = _in_background(the_rest)
        until(lambda: "database is locked" in said(world))
        other.execute("ROLLBACK")
    thread.join(60)
    assert errors == []
    assert "online store is back after" in said(world)
    check(world)
    deliver.close()
