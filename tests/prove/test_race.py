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

from pipelines.services.kafka import Broker
from tests.prove import check
from tests.prove.report import Kind, Report
from tests.prove.rig import Rig, Stream
from tests.prove.slice import Slice
from tests.prove.test_crash import FLOW_SECONDS, SEED, WARM, numbers, process_of, values

MOST = 7
"""Trials in one pair of streams."""
KIND = "second writer racing"


def test_a_writer_left_behind_undoes_nothing(trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Report) -> None:
    problems = run_races(trials, slice_, broker, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_races(trials: int, slice_: Slice, broker: Broker, folder: Path, report: Report, stock: bool = False) -> list[str]:
    """All trials; what differed."""
    problems: list[str] = []
    number = done = 0
    while done < trials:
        count, store = min(MOST, trials - done), ("sqlite", "redis")[number % 2]
        # The slow one takes small bites, so that it is caught between them.
        rig = Rig(folder / f"race{number}", slice_, broker, next(numbers), store, stock, poll_records=40)
        entry, begun = report.kind(KIND, stock), time.monotonic()
        try:
            problems += _run(rig, count, random.Random(f"{SEED} race {number}"), entry)
        finally:
            entry.seconds = round(entry.seconds + time.monotonic() - begun, 1)
            rig.close()
        done, number = done + count, number + 1
    return problems


def _run(rig: Rig, count: int, rng: random.Random, entry: Kind) -> list[str]:
    total, out = len(rig.slice.records), []
    fast, slow = rig.stream("fast"), rig.stream("slow", shards=3)
    cuts = [int(total * (WARM + (0.95 - WARM) * k / count)) for k in range(count + 1)]
    fast.start()
    slow.start()
    entry.runs += 1
    with rig.feeding(cuts[0], 0):
        pass
    fast.wait(cuts[0])
    for before, cut in itertools.pairwise(cuts):
        slow.wait(before)
        with rig.feeding(cut, FLOW_SECONDS):
            time.sleep(rng.uniform(0, FLOW_SECONDS / 2))
            os.kill(process_of(slow, "worker"), signal.SIGSTOP)
        fast.wait(cut)
        os.kill(process_of(slow, "worker"), signal.SIGCONT)
        time.sleep(rng.uniform(0.05, 2))
        behind = not slow.delivered(cut)
        slow.kill()
        wrong = check.online(rig, cut)
        entry.trials += 1
        entry.failed += bool(wrong)
        entry.wrong += len(wrong)
        entry.values += values(rig, cut)
        hit = "left behind" if behind else "caught up"
        entry.hits[hit] = entry.hits.get(hit, 0) + 1
        out += [f"{hit} at {cut}: {line}" for line in wrong]
        slow.start()
    with rig.feeding(total, 0):
        pass
    both: list[Stream] = [fast, slow]
    for stream in both:
        stream.wait(total)
        if code := stream.stop():
            out.append(f"{stream.name}: exit code {code} at the end:\n{stream.tail()}")
    rest = check.dead_letters(rig, total)[0] + ([] if rig.stock else check.online(rig, total))
    for stream in both:
        rest += check.row_log(stream, total) + check.late_log(stream, total)
    entry.failed += bool(rest)
    entry.notes += rest[:3]
    return out + rest


@pytest.mark.filterwarnings("ignore")
def test_the_negative_control_fails(trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Report) -> None:
    """The same trials with Feast's own writer in place of the ordered write do not converge: the trials can see what they are for."""
    from tests.prove.test_crash import run_kind

    count = max(2, trials // 4)
    problems = run_races(count, slice_, broker, tmp_path / "race", report, stock=True)
    for kind in ("kill -9 redis", "redis comes back empty", "kill -9 worker", "kill -9 driver"):
        if trials >= 20 or kind == "kill -9 redis":
            problems += run_kind(kind, count, slice_, broker, tmp_path / kind.replace(" ", "_"), report, stock=True)
    assert problems, "Feast's own writer converged in every trial: then these trials prove nothing"
