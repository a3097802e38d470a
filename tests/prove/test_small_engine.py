"""Hundreds of kill -9 at random moments, on the small engine: its state is brought back, or lost, or the job goes on with other shards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.services.kafka import Broker
from tests.integration.flights import environment
from tests.prove import check
from tests.prove.report import Kind, Report
from tests.prove.rig import Rig, Stream, alive, until
from tests.prove.slice import Slice
from tests.prove.test_crash import SEED, WARM, numbers, values

FLOW_SECONDS = 0.5
TIMES = 5
"""So many small trials for one of the large kinds."""
MOST = 50


class Starter:
    """The process that forks jobs."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.prove.small_engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def fork(self, orders: dict[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@dataclass
class Small(Stream):
    """A stream on the small engine."""

    starter: Starter | None = None
    life: int = 0
    rng: random.Random = field(default_factory=random.Random)

    def start(self, *words: str) -> None:
        assert self.starter is not None
        orders: dict[str, object] = {"repo": str(self.rig.repo_path), "name": self.name, "run": self.rig.slice.run, "shards": self.shards}
        orders |= {"restore": "restore" in words, "seed": self.rng.randrange(2**32), "log": str(self.rig.folder / f"{self.name}.out")}
        self.life = self.starter.fork(orders)

    def running(self) -> None:
        if not alive(self.life):
            raise AssertionError(f"the engine ended by itself:\n{self.tail()}")

    def kill(self) -> None:
        os.kill(self.life, signal.SIGKILL)
        until(lambda: not alive(self.life), "its end", 20)

    def stop(self, seconds: float = 120.0) -> int:
        self.control.request("stop")
        until(lambda: not alive(self.life), "its end", seconds)
        return 0

    def close(self) -> None:
        with suppress(ProcessLookupError):
            if self.life:
                os.kill(self.life, signal.SIGKILL)


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    made = Starter()
    yield made
    made.process.kill()
    made.process.wait()


def test_after_every_kill_all_values_are_the_oracles(
    trials: int, slice_: Slice, broker: Broker, starter: Starter, tmp_path: Path, report: Report
) -> None:
    problems = run_small(trials * TIMES, slice_, broker, starter, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_small(
    trials: int, slice_: Slice, broker: Broker, starter: Starter, folder: Path, report: Report, seed: int = SEED, stock: bool = False
) -> list[str]:
    """All trials; what differed."""
    problems: list[str] = []
    number = done = 0
    while done < trials:
        count, store = min(MOST, trials - done), ("sqlite", "redis")[number % 2]
        rng = random.Random(f"{seed} small {number}")
        rig = Rig(folder / f"small{number}", slice_, broker, next(numbers), store, stock, poll_records=rng.choice([5, 30, 20_000]))
        entry, begun = report.kind("kill -9, small engine", stock), time.monotonic()
        try:
            problems += _run(rig, Small(rig, starter=starter, rng=rng), count, rng, entry)
        finally:
            entry.seconds = round(entry.seconds + time.monotonic() - begun, 1)
            rig.close()
        done, number = done + count, number + 1
    return problems


def _run(rig: Rig, stream: Small, count: int, rng: random.Random, entry: Kind) -> list[str]:
    rig.streams.append(stream)
    total, out = len(rig.slice.records), []
    cuts = [int(total * (WARM + (0.95 - WARM) * k / count)) for k in range(count + 1)]
    stream.start()
    entry.runs += 1
    with rig.feeding(cuts[0], 0):
        pass
    stream.wait(cuts[0])
    for cut in cuts[1:]:
        with rig.feeding(cut, FLOW_SECONDS):
            time.sleep(rng.uniform(0, 2 * FLOW_SECONDS))
            stream.kill()
            how = rng.choice(["state brought back", "state lost", "other shards"])
            if how == "other shards":
                stream.shards = rng.choice([n for n in (1, 2, 3, 5) if n != stream.shards])
            stream.start(*(["restore"] if how == "state brought back" else []))
        stream.wait(cut)
        wrong = check.online(rig, cut)
        entry.trials += 1
        entry.failed += bool(wrong)
        entry.wrong += len(wrong)
        entry.values += values(rig, cut)
        entry.hits[how] = entry.hits.get(how, 0) + 1
        out += [f"{how} at {cut}: {line}" for line in wrong]
    with rig.feeding(total, 0):
        pass
    stream.wait(total)
    stream.stop()
    rest = check.row_log(stream, total) + check.late_log(stream, total) + check.dead_letters(rig, total)[0]
    if not rig.stock:
        rest += check.online(rig, total)
    entry.failed += bool(rest)
    entry.notes += rest[:3]
    return out + rest
