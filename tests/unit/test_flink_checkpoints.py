"""Flink's checkpoints that fail one after the other are told once, by the answers of its REST interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.streaming.engines.flink_checkpoints import CheckpointWatch, FailedInARow
from pipelines.streaming.engines.flink_job import FlinkOptions
from pipelines.streaming.engines.flink_rest import Cluster
from tests.unit.test_flink_rest import JOBS, answering

WHY = "Checkpoint was declined.\n\tat org.apache.flink"
AGAIN = "Flink completes checkpoints again"


def answer(completed: int, failed: int, done: int | None, last: int | None) -> dict[str, Any]:
    """As Flink gives it; ``done`` and ``last``: the ids of the last checkpoints that were completed and failed."""
    latest = {
        "completed": None if done is None else {"id": done, "status": "COMPLETED"},
        "savepoint": None,
        "failed": None if last is None else {"id": last, "status": "FAILED", "failure_message": WHY},
        "restored": None,
    }
    counts = {"restored": 0, "total": completed + failed, "in_progress": 0, "completed": completed, "failed": failed}
    return {"counts": counts, "latest": latest}


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([answer(0, n, None, n) for n in (1, 2, 3, 4, 9)], [2]),  # all fail: once
        ([answer(0, 5, None, 5)], [0]),
        ([answer(4, 0, 4, None), answer(4, 2, 4, 6), answer(5, 2, 7, 6), answer(5, 4, 7, 9)], []),  # two now and then
        ([answer(4, 0, 4, None), answer(4, 3, 4, 7), answer(4, 6, 4, 10), answer(5, 6, 11, 10), answer(5, 9, 11, 14)], [1, 3, 4]),
        ([answer(0, n, None, None) for n in range(9)], []),  # ticks at which the tasks do not run yet
        ([answer(3, n, 3, 1) for n in range(9)], []),  # nor again after a restart
        ([answer(0, 2, None, 2), answer(0, 0, None, None), answer(0, 2, None, 2)], []),  # another job manager counts anew
        # and has completed none, so nothing is well again until it has
        ([answer(5, 0, 5, None), answer(5, 4, 5, 9), answer(0, 0, 5, None), answer(0, 4, 5, 9), answer(1, 4, 10, 9)], [1, 4]),
        ([answer(2, 2, 3, 4), answer(2, 4, 3, 6), answer(2, 5, 3, 7)], [2]),  # of those before the first look nothing is known
    ],
)
def test_failures_in_a_row_are_told_once(answers: list[dict[str, Any]], told: list[int]) -> None:
    row = FailedInARow()
    lines = {n: line for n, one in enumerate(answers) if (line := row.look(one))}
    assert list(lines) == told and all("\n" not in line for line in lines.values())
    for line in lines.values():
        assert line == AGAIN or ("checkpoints of Flink failed (Checkpoint was declined.)" in line and "stream.checkpoints" in line)


def body(of: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps(of).encode()


def watch(master: str) -> CheckpointWatch:
    return CheckpointWatch(Cluster(master, timeout=5.0, election_seconds=0.0), "tandem-main", 3600.0)


def test_a_cluster_is_asked_for_the_checkpoints_of_the_job() -> None:
    with answering(JOBS, body(answer(0, 3, None, 3)), JOBS, body(answer(0, 4, None, 4))) as (master, asked):
        looking = watch(master)
        looking.look()
        looking.look()
    assert len(list(looking.told())) == 1 and not list(looking.told())
    assert asked == ["/v1/jobs/overview", "/v1/jobs/a1/checkpoints"] * 2


WRONG = [(404, b"{}"), (503, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}"), body({"counts": {}, "latest": {}})]


@pytest.mark.parametrize("wrong", [*WRONG, body({"counts": 1, "latest": []}), body({**answer(0, 3, None, 3), "latest": []})])
def test_an_answer_that_tells_nothing_is_no_trouble(wrong: tuple[int, bytes]) -> None:
    with answering(JOBS, wrong, JOBS, body(answer(0, 3, None, 3))) as (master, _):
        looking = watch(master)
        looking.look()
        assert not list(looking.told())
        looking.look()
    assert len(list(looking.told())) == 1
    looking.look()  # nobody answers any more
    assert not list(looking.told())


def test_only_a_cluster_that_makes_checkpoints_is_asked(tmp_path: Path) -> None:
    cluster: dict[str, Any] = {"folder": tmp_path, "name": "x", "master": "localhost:1", "worker_pool": "localhost:2"}
    assert FlinkOptions(**cluster).keeps_checkpoints and FlinkOptions(**cluster, stored=False, checkpoints="s3://b/c").keeps_checkpoints
    assert not FlinkOptions(**cluster, stored=False).keeps_checkpoints
