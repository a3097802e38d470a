"""Crashes at random moments: after each one, once what was fed is delivered, every online value must be the oracle's.

A trial is one blow to a stream that is being fed. Several follow on each other in one stream: each is dealt while records flow, and
the next one only after all that was fed by then is delivered and every online value compared. At the end of a stream its row log, late
log and dead letters are compared too.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipelines.services.kafka import Broker
from tests.prove import check
from tests.prove.report import Kind, Report
from tests.prove.rig import Rig, Stream, until
from tests.prove.slice import Slice

FLOW_SECONDS = 4.0
"""How long the records of one trial take to come; the blow falls somewhere within."""
WARM = 0.25
"""The share of the records that comes before the first blow."""
SEED = 20130107
numbers = itertools.count()
"""Of streams: each has topics of its own."""

Blow = Callable[[Rig, Stream, random.Random, bool], str]
"""Deals it (the last argument: briefly), and returns what was hit, when the stream may be waited for."""


def process_of(stream: Stream, what: str) -> int:
    """The worker or the engine, as soon as there is one."""
    pid: int = until(lambda: stream.part(what), f"a {what}", check=stream.running)
    return pid


def kill_worker(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    os.kill(process_of(stream, "worker"), signal.SIGKILL)
    return "worker"


def kill_engine(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    os.kill(process_of(stream, "engine"), signal.SIGKILL)
    return "engine"


def kill_broker(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    rig.broker.kill()
    time.sleep(rng.uniform(0, 3))
    rig.broker.start()
    return "broker"


def _kill_redis(rig: Rig, rng: random.Random, empty: bool) -> None:
    assert rig.redis is not None and rig.redis.process is not None
    rig.redis.process.kill()
    rig.redis.process.wait()
    time.sleep(rng.uniform(0, 3))
    if empty:
        for path in rig.redis.folder.glob("appendonly*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    rig.redis.start()


def kill_redis(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    _kill_redis(rig, rng, False)
    return "redis"


def empty_redis(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    _kill_redis(rig, rng, True)
    return "redis, which came back empty"


def kill_driver(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    stream.kill()
    stream.start()
    return "driver"


def terminate(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    code = stream.stop()
    assert code == 0, f"exit code {code} after SIGTERM:\n{stream.tail()}"
    stream.start()
    return "SIGTERM"


def reshard(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    code = stream.stop()
    assert code == 0, f"exit code {code} after SIGTERM:\n{stream.tail()}"
    before, stream.shards = stream.shards, rng.choice([n for n in (1, 2, 3, 5) if n != stream.shards])
    stream.start()
    return f"{before} to {stream.shards} shards"


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def freeze(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    what = rng.choice(["worker", "engine", "broker", *(["redis"] if rig.redis else [])])
    if what == "broker":
        pid = rig.broker.pid
    elif what == "redis":
        assert rig.redis is not None and rig.redis.process is not None
        pid = rig.redis.process.pid
    else:
        pid = process_of(stream, what)
    assert pid is not None
    with _stopped(pid):
        time.sleep(3 if brief else 20)
    return what


def two_at_once(rig: Rig, stream: Stream, rng: random.Random, brief: bool) -> str:
    blows = [kill_worker, kill_engine, kill_broker, kill_driver, *([kill_redis] if rig.redis else [])]
    first, second = rng.sample(blows, 2)
    hit = first(rig, stream, rng, brief)
    time.sleep(rng.choice([0, rng.uniform(0, 3)]))
    return f"{hit}+{second(rig, stream, rng, brief)}"


KINDS: dict[str, tuple[Blow, int, tuple[str, ...]]] = {
    "kill -9 worker": (kill_worker, 10, ("sqlite", "redis")),
    "kill -9 engine": (kill_engine, 7, ("redis", "sqlite")),
    "kill -9 broker": (kill_broker, 10, ("sqlite", "redis")),
    "kill -9 redis": (kill_redis, 10, ("redis",)),
    "redis comes back empty": (empty_redis, 10, ("redis",)),
    "kill -9 driver": (kill_driver, 7, ("sqlite", "redis")),
    "SIGTERM and restart": (terminate, 7, ("redis", "sqlite")),
    "other number of shards": (reshard, 7, ("sqlite", "redis")),
    "SIGSTOP and on": (freeze, 10, ("redis", "sqlite")),
    "two at once": (two_at_once, 7, ("sqlite", "redis")),
}
"""Kind -> the blow, how many one stream takes at most, online stores in turn."""


@pytest.mark.parametrize("kind", KINDS)
def test_after_every_blow_all_values_are_the_oracles(
    kind: str, trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Report
) -> None:
    problems = run_kind(kind, trials, slice_, broker, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_kind(kind: str, trials: int, slice_: Slice, broker: Broker, folder: Path, report: Report, stock: bool = False) -> list[str]:
    """All trials of a kind; what differed."""
    blow, most, stores = KINDS[kind]
    problems: list[str] = []
    number = done = 0
    while done < trials:
        count = min(most, trials - done)
        store = stores[number % len(stores)]
        rig = Rig(folder / f"{number}", slice_, broker, next(numbers), store, stock)
        rng = random.Random(f"{SEED} {kind} {number}")
        entry, begun = report.kind(kind, stock), time.monotonic()
        try:
            problems += _run(rig, blow, count, rng, trials < 20, entry)
        finally:
            entry.seconds = round(entry.seconds + time.monotonic() - begun, 1)
            rig.close()
        done, number = done + count, number + 1
    return problems


def _run(rig: Rig, blow: Blow, count: int, rng: random.Random, brief: bool, entry: Kind) -> list[str]:
    total, stream, out = len(rig.slice.records), rig.stream(), []
    cuts = [int(total * (WARM + (0.95 - WARM) * k / count)) for k in range(count + 1)]
    stream.start()
    entry.runs += 1
    with rig.feeding(cuts[0], 0):
        pass
    stream.wait(cuts[0])
    for cut in cuts[1:]:
        with rig.feeding(cut, FLOW_SECONDS):
            time.sleep(rng.uniform(0, FLOW_SECONDS))
            hit = blow(rig, stream, rng, brief)
        stream.wait(cut)
        wrong = check.online(rig, cut)
        entry.trials += 1
        entry.failed += bool(wrong)
        entry.wrong += len(wrong)
        entry.values += values(rig, cut)
        entry.hits[hit] = entry.hits.get(hit, 0) + 1
        out += [f"after {hit} at {cut}: {line}" for line in wrong]
    with rig.feeding(total, 0):
        pass
    stream.wait(total)
    code = stream.stop()
    if code:
        out.append(f"exit code {code} at the end:\n{stream.tail()}")
    rest = check.row_log(stream, total) + check.late_log(stream, total) + check.dead_letters(rig, total)[0]
    if not rig.stock:
        rest += check.online(rig, total)
    if rest:
        entry.failed = max(entry.failed, 1)
        entry.notes += rest[:3]
    return out + rest


def values(rig: Rig, n: int) -> int:
    """How many values :func:`check.online` compares."""
    due = rig.slice.due(n)
    return sum(len(rows) * (len(rig.repo.groups[name].features) + 1) for name, rows in due.online.items())
