"""Two writers of one online store: streams of two names over the same topics, one of them stopped, left behind, and killed while it writes
what the other one has long overtaken."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from pathlib import Path

import pytest

from pipelines.services.kafka_broker import Broker
from tests.prove import check
from tests.prove.report import Kind, Part
from tests.prove.rig import Rig, Stream
from tests.prove.slice import Slice
from tests.prove.small import Small, Starter
from tests.prove.test_crash import FLOW_SECONDS, SEED, WARM, deck, numbers, run_deck
from tests.prove.test_small_engine import run_small
from tests.prove.trial import judge

PATIENCE_SECONDS = 8.0
MOST = 7
"""Trials in one pair of streams."""
KIND = "second writer racing"


@pytest.mark.parametrize("engine", ["small", "flink"])
def test_a_writer_left_behind_undoes_nothing(
    engine: str, trials: int, slice_: Slice, broker: Broker, starter: Starter, tmp_path: Path, report: Part
) -> None:
    problems = run_races(trials, slice_, broker, starter if engine == "small" else None, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_races(
    trials: int, slice_: Slice, broker: Broker, starter: Starter | None, folder: Path, report: Part, stock: bool = False
) -> list[str]:
    """So many trials on each store, on the small engine if its starter is given, else on Flink; what differed."""
    problems: list[str] = []
    most = MOST if starter is None else 4 * MOST
    for number, (store, done) in enumerate(itertools.product(("sqlite", "redis"), range(0, trials, most))):
        count = min(most, trials - done)
        # The slow one takes small bites, so that it is caught between them.
        rig = Rig(folder / f"race{number}", slice_, broker, next(numbers), store, stock, poll_records=40)
        rng = random.Random(f"{SEED} race {number}")
        entry = report.kind(f"{KIND}, {store}, {'flink' if starter is None else 'small engine'}", stock)
        if starter is None:
            rig.streams += [Stream(rig, "fast"), Stream(rig, "slow", 3)]
        else:
            rig.streams += [Small(rig, "fast", starter=starter, rng=rng), Small(rig, "slow", 3, starter=starter, rng=rng)]
        try:
            problems += _run(rig, count, rng, entry)
        finally:
            rig.close()
    return problems


def _run(rig: Rig, count: int, rng: random.Random, entry: Kind) -> list[str]:
    total, out = len(rig.slice.records), []
    fast, slow = rig.streams
    cuts = [int(total * (WARM + (0.95 - WARM) * k / count)) for k in range(count + 1)]
    fast.start()
    slow.start()
    entry.runs += 1
    with rig.feeding(cuts[0], 0):
        pass
    fast.wait(cuts[0])
    for before, cut in itertools.pairwise(cuts):
        slow.wait(before)
        begun = time.monotonic()
        with rig.feeding(cut, FLOW_SECONDS):
            time.sleep(rng.uniform(0, FLOW_SECONDS / 2))
            blow = time.monotonic()
            os.kill(slow.hand(), signal.SIGSTOP)
        # Not for ever: on SQLite the stopped one may hold the file's lock.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not fast.delivered(cut) and time.monotonic() < deadline:
            fast.running()
            time.sleep(0.1)
        os.kill(slow.hand(), signal.SIGCONT)
        time.sleep(rng.uniform(0.05, 2))
        behind = not slow.delivered(cut)
        slow.kill()
        hit = "left behind" if behind else "caught up"
        out += [f"{hit} at {cut}: {line}" for line in judge(entry, fast, before, cut, hit, begun, blow)]
        slow.start()
    with rig.feeding(total, 0):
        pass
    for stream in rig.streams:
        stream.wait(total)
        if code := stream.stop():
            out.append(f"{stream.name}: exit code {code} at the end:\n{stream.tail()}")
    rest = check.dead_letters(rig, total)[0] + ([] if rig.stock else check.online(rig, total))
    for stream in rig.streams:
        rest += check.row_log(stream, total) + check.late_log(stream, total)
    if rest:
        entry.suspect(rest)
    return out + rest


def test_the_negative_control_fails(trials: int, slice_: Slice, broker: Broker, starter: Starter, tmp_path: Path, report: Part) -> None:
    """The same trials with Feast's own writer in place of the ordered write do not converge: the trials can see what they are for."""
    count = max(2, trials // 4)
    problems = run_races(trials, slice_, broker, starter, tmp_path / "race", report, stock=True)
    if trials >= 20:  # kills alone mostly converge with it too: they replay in order
        problems += run_small(2 * trials, slice_, broker, starter, tmp_path / "small", report, stock=True)
    for store in ("sqlite", "redis"):
        kinds = ["kill -9 worker", "kill -9 driver", "SIGTERM and restart"] if trials >= 20 else []
        cards = deck(store, count, [*kinds, "kill -9 redis"])
        problems += run_deck(cards, store, True, slice_, broker, tmp_path / store, report, stock=True)
    assert problems, "Feast's own writer converged in every trial: then these trials prove nothing"
