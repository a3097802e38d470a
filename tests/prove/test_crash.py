"""Crashes at random moments: after each one, once what was fed is delivered, every online value must be the oracle's.

A trial is one blow to a stream that is being fed. Blows of all kinds follow on each other in one stream, in random order: each is dealt
while records flow, and the next one only after all that was fed by then is delivered and every online value compared. At the end of a
stream its row log, late log and dead letters are compared too.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipelines.services.kafka_broker import Broker
from tests.prove.report import Part
from tests.prove.rig import Rig, Stream, until
from tests.prove.slice import Slice
from tests.prove.trial import finish, judge

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


KINDS: dict[str, Blow] = {
    "kill -9 worker": kill_worker,
    "kill -9 engine": kill_engine,
    "kill -9 broker": kill_broker,
    "kill -9 redis": kill_redis,
    "redis comes back empty": empty_redis,
    "kill -9 driver": kill_driver,
    "SIGTERM and restart": terminate,
    "other number of shards": reshard,
    "SIGSTOP and on": freeze,
    "two at once": two_at_once,
}
NEED_REDIS = ("kill -9 redis", "redis comes back empty")
MOST = 20
"""Blows that one stream takes."""


def deck(store: str, trials: int, kinds: Iterable[str] = KINDS) -> list[str]:
    """``trials`` blows of each kind in random order: on Redis those to Redis and half of the others, on SQLite the other half."""
    cards = []
    for number, kind in enumerate(kinds):
        larger = (store == "redis") == bool(number % 2)  # who takes the odd one
        half = (trials + larger) // 2
        cards += [kind] * (trials * (store == "redis") if kind in NEED_REDIS else half)
    random.Random(f"{SEED} {store}").shuffle(cards)
    return cards


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_after_every_blow_all_values_are_the_oracles(
    store: str, trials: int, slice_: Slice, broker: Broker, tmp_path: Path, report: Part
) -> None:
    problems = run_deck(deck(store, trials), store, trials < 20, slice_, broker, tmp_path, report)
    assert not problems, "\n".join(problems[:20])


def run_deck(
    cards: list[str], store: str, brief: bool, slice_: Slice, broker: Broker, folder: Path, report: Part, stock: bool = False
) -> list[str]:
    """Deal all blows, to as many streams as it takes; what differed."""
    problems: list[str] = []
    for number, first in enumerate(range(0, len(cards), MOST)):
        rig = Rig(folder / f"{store}{number}", slice_, broker, next(numbers), store, stock, poll_records=40)
        try:
            problems += run_stream(rig, cards[first : first + MOST], random.Random(f"{SEED} {store} {number}"), brief, report)
        finally:
            rig.close()
    return problems


def run_stream(
    rig: Rig,
    cards: list[str],
    rng: random.Random,
    brief: bool,
    report: Part,
    kinds: Mapping[str, Blow] = KINDS,
    stream: Stream | None = None,
    flow: float = FLOW_SECONDS,
) -> list[str]:
    """Deal blows to one stream of a rig (default: a new one on Flink), each while records flow for so many seconds; what differed."""
    total, out = len(rig.slice.records), []
    stream = stream or rig.stream()
    cuts = [int(total * (WARM + (0.95 - WARM) * k / len(cards))) for k in range(len(cards) + 1)]
    stream.start()
    for kind in set(cards):
        report.kind(kind, rig.stock).runs += 1
    with rig.feeding(cuts[0], 0):
        pass
    stream.wait(cuts[0])
    for kind, cut in zip(cards, cuts[1:]):
        entry, begun, before = report.kind(kind, rig.stock), time.monotonic(), rig.fed
        with rig.feeding(cut + rig.doubled, flow):
            time.sleep(rng.uniform(0, flow))
            blow = time.monotonic()
            hit = kinds[kind](rig, stream, rng, brief)
        problems = judge(entry, stream, before, rig.fed, hit, begun, blow)
        out += [f"{rig.store}: after {kind}, {hit}, at {rig.fed}: {line}" for line in problems]
    rest = finish(rig, stream)
    if rest:  # one of them did it: each is suspect
        for kind in set(cards):
            report.kind(kind, rig.stock).suspect(rest)
    return out + rest
