"""Hundreds of kill -9 at random moments, on the small engine: its state is brought back, or lost, or the job goes on with other shards."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

from pipelines.services.kafka_broker import Broker
from tests.prove.report import Kind, Part
from tests.prove.rig import Rig
from tests.prove.slice import Slice
from tests.prove.small import Small, Starter
from tests.prove.test_crash import SEED, WARM, numbers
from tests.prove.trial import finish, judge

FLOW_SECONDS = 0.5
TIMES = 2
"""So many small trials for one of the large kinds."""
MOST = 50


def test_after_every_kill_all_values_are_the_oracles(
    trials: int, slice_: Slice, broker: Broker, starter: Starter, tmp_path: Path, report: Part
) -> None:
    problems = run_small(trials * TIMES, slice_, broker, starter, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_small(
    trials: int, slice_: Slice, broker: Broker, starter: Starter, folder: Path, report: Part, seed: int = SEED, stock: bool = False
) -> list[str]:
    """All trials; what differed."""
    problems: list[str] = []
    number = done = 0
    while done < trials:
        count, store = min(MOST, (trials + 1) // 2, trials - done), ("sqlite", "redis")[number % 2]
        rng = random.Random(f"{seed} small {number}")
        rig = Rig(folder / f"small{number}", slice_, broker, next(numbers), store, stock, poll_records=rng.choice([5, 30, 20_000]))
        try:
            problems += _run(rig, Small(rig, starter=starter, rng=rng), count, rng, report.kind("kill -9, small engine", stock))
        finally:
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
    for before, cut in itertools.pairwise(cuts):
        begun = time.monotonic()
        with rig.feeding(cut, FLOW_SECONDS):
            time.sleep(rng.uniform(0, 2 * FLOW_SECONDS))
            blow = time.monotonic()
            stream.kill()
            how = rng.choice(["state brought back", "state lost", "other shards"])
            if how == "other shards":
                stream.shards = rng.choice([n for n in (1, 2, 3, 5) if n != stream.shards])
            stream.start(*(["restore"] if how == "state brought back" else []))
        out += [f"{how} at {cut}: {line}" for line in judge(entry, stream, before, cut, how, begun, blow)]
    rest = finish(rig, stream)
    if rest:
        entry.suspect(rest)
    return out + rest
