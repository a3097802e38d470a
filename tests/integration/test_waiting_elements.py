"""What brings no row yet waits in a shard's state: short polls make no more folds, and whatever an engine repeats or restores, the rows are
those of the oracle."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.project.config import StreamSettings
from pipelines.sources.broker import BrokerAway
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages import fold_shard
from pipelines.streaming.stages.coders import Element, FoldOutput, decode, encode
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.poll import Partitions, Poll
from tests.integration.stages_world import HOUR, T0, Collect, World, payment, payments
from tests.integration.test_stream_stages import plain
from tests.oracle import rows as oracle_rows
from tests.prove.small_engine import Bag, Cell

SHARDS, COUNT = 3, 600
STEP = HOUR // 200
"""Between two payments: a boundary passes every seventeenth."""
GOOD = [payment(n, T0 + n * STEP, f"a{n % 7}") for n in range(COUNT)]


def world_of(folder: Path, poll_records: int) -> World:
    broker = MemoryBroker()
    broker.create_topic("payments", 2)
    world = World(folder, broker, payments("payments"), StreamSettings(clock="replay", shards=SHARDS, poll_records=poll_records))
    for n, record in enumerate(GOOD):
        world.send([record], n % 2)
    return world


def polled(world: World) -> list[tuple[int, bytes]]:
    """All that the polls send to the shards, the partitions in turn."""
    world.control.begin()
    spec = world.spec()
    partitions, poll = Partitions(spec), Poll(spec)
    partitions.setup()
    poll.setup()
    by_partition = [list(poll.process(tick, Cell())) for tick in partitions.process(b"")]
    poll.teardown()
    partitions.teardown()
    turns = [[each[i : i + SHARDS] for i in range(0, len(each), SHARDS)] for each in by_partition]
    return [item for n in range(max(map(len, turns))) for turn in turns for item in (turn[n] if n < len(turn) else [])]


def unpromised(items: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The same of partitions that are not behind: nobody knows whether more follows."""
    return [(number, encode(replace(decode(data), more=False))) for number, data in items]


class Worker:
    """A fold, and the state of its shards as an engine keeps it."""

    def __init__(self, world: World) -> None:
        self.spec, self.cells = world.spec(), dict[int, tuple[Cell, Bag, Bag]]()
        self.begin()

    def begin(self) -> None:
        """A new process: no memory of before."""
        self.fold = FoldShard(self.spec)
        fold_shard.Memory._of.clear()
        self.fold.setup()

    def take(self, item: tuple[int, bytes]) -> list[FoldOutput]:
        cells = self.cells.setdefault(item[0], (Cell(), Bag(), Bag()))
        return list(self.fold.process(item, *cells))


def expected(world: World) -> list[dict[str, Any]]:
    newest = T0 + (COUNT - 2) * STEP  # of the partition that is behind
    boundary = (newest - 60_000_000) // (5 * HOUR // 60) * (5 * HOUR // 60)
    return sorted(oracle_rows([json.loads(p) for p in GOOD], world.group, -1, boundary), key=lambda r: (r["account"], r["event_timestamp"]))


def test_short_polls_make_few_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_shard, "CHECKPOINT_SECONDS", 1e9)
    world = world_of(tmp_path, 5)
    items, worker, collect = unpromised(polled(world)), Worker(world), Collect(tmp_path)
    assert len(items) >= 2 * COUNT // 2 // 5 * SHARDS
    outputs = [output for item in items for output in worker.take(item)]
    for output in outputs:
        collect.process(output)
    boundaries = COUNT * STEP // (5 * HOUR // 60)
    assert len(outputs) <= SHARDS * (boundaries + 6), "a fold for each boundary; one for each partition's first poll, and its last"
    assert plain(world.rows()) == expected(world)


def test_nothing_is_folded_before_every_partition_was_heard_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row can follow until then, so the first one's records wait for the second one's; not longer than to the next checkpoint."""
    monkeypatch.setattr(fold_shard, "CHECKPOINT_SECONDS", 1e9)
    world = world_of(tmp_path, 2 * COUNT)
    items, collect = unpromised(polled(world)), Collect(tmp_path)
    first, rest = items[:SHARDS], items[SHARDS:]
    assert {decode(data).span.partition for _, data in first} == {0}
    worker = Worker(world)
    assert [worker.take(item) for item in first] == [[]] * SHARDS
    with monkeypatch.context() as soon:  # another worker, which has its next checkpoint to save
        soon.setattr(fold_shard, "CHECKPOINT_SECONDS", 0.0)
        number, data = first[0]
        other, span = Worker(world), decode(data).span
        assert other.take((number, data)) == []
        (output,) = other.take((number, encode(Element(replace(span, first=span.next, newest_before=span.newest), {}))))
        assert output.checkpoint and not output.rows
    for item in rest:
        for output in worker.take(item):
            collect.process(output)
    assert plain(world.rows()) == expected(world)


@pytest.mark.parametrize("most", [COUNT, COUNT // 10])
def test_what_is_far_behind_is_folded_when_the_last_of_it_came(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_shard, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(fold_shard, "BEHIND_SECONDS", 1e9)
    monkeypatch.setattr(fold_shard, "MOST_WAITING", most)
    world = world_of(tmp_path, 5)
    items, worker, collect = polled(world), Worker(world), Collect(tmp_path)
    outputs = [output for item in items for output in worker.take(item)]
    for output in outputs:
        collect.process(output)
    ends = 2 * SHARDS
    assert len(outputs) <= SHARDS * (COUNT // most) + ends, "what is most, the last, and the end of each partition; no first one alone"
    assert plain(world.rows()) == expected(world)


def test_the_end_of_a_partition_waits_for_another_one_that_promised_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold for each partition that ends, where one is enough; once nothing is promised, the checkpoint that was asked for is saved."""
    monkeypatch.setattr(fold_shard, "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(fold_shard, "BEHIND_SECONDS", 1e9)
    world = world_of(tmp_path, 80)
    worker, collect = Worker(world), Collect(tmp_path)
    items = polled(world)
    mine, theirs = ([item for item in items if decode(item[1]).span.partition == n] for n in (0, 1))
    (end,) = {n for n, (_, data) in enumerate(mine) if decode(data).flush and n % SHARDS == 0}
    promised = [item for item in theirs if decode(item[1]).more]
    for item in [*promised, *mine[: end + SHARDS]]:
        assert worker.take(item) == []
    rest = theirs[len(promised) :]
    outputs = [output for item in rest[:SHARDS] for output in worker.take(item)]
    assert [(output.shard, bool(output.checkpoint)) for output in outputs] == [(n, True) for n in range(SHARDS)]
    for output in [*outputs, *(output for item in rest[SHARDS:] for output in worker.take(item))]:
        collect.process(output)
    assert plain(world.rows()) == expected(world)


def test_a_promise_of_more_is_kept_whatever_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the next element must not wait for a broker that went away, or for a person where the stream paused."""
    world = world_of(tmp_path, 100)
    world.control.begin()
    poll = Poll(replace(world.spec(), until=None, one_tick=False))
    poll.setup()
    at, found, _ = poll.once("payments/0", 2, None)
    assert [(n, e.more, e.span.next) for n, e in found] == [(n, True, 100) for n in range(SHARDS)]

    def away(*args: Any) -> Any:
        raise BrokerAway("nobody answers")

    with monkeypatch.context() as patched:
        patched.setattr(poll.reader, "poll", away)
        at, found, _ = poll.once("payments/0", 2, at)
        assert [(e.more, e.span.first, e.span.next, dict(e.events)) for _, e in found] == [(False, 100, 100, {})] * SHARDS
        at, found, _ = poll.once("payments/0", 2, at)
        assert found == [], "once"
    at, found, _ = poll.once("payments/0", 2, at)
    assert at is not None and [e.more for _, e in found] == [True] * SHARDS
    at.paused = "too many rejects"
    at, found, _ = poll.once("payments/0", 2, at)
    assert [(e.more, e.span.first, e.span.next) for _, e in found] == [(False, 200, 200)] * SHARDS
    assert at is not None
    at.paused = ""
    at, found, _ = poll.once("payments/0", 2, at)
    assert [(e.more, e.span.next) for _, e in found] == [(False, 300)] * SHARDS, "the end of the log"
    poll.teardown()


def test_what_an_engine_brought_back_is_told_to_every_shard_though_nothing_comes(tmp_path: Path) -> None:
    """A shard looks at its state when an element comes: else one that was restored, and is not vouched for, would rest as it is."""
    world = world_of(tmp_path, COUNT)
    world.control.begin()
    spec = replace(world.spec(), until=None, one_tick=False)
    partitions, state = Partitions(spec), Cell()
    partitions.setup()

    def polls() -> Callable[[], list[Element]]:
        poll = Poll(spec)
        poll.setup()

        def again() -> list[Element]:
            (tick, _) = partitions.process(b"")
            return [decode(data) for _, data in poll.process(tick, state)]

        return again

    first = polls()
    assert sum(batch.num_rows for element in first() for batch in element.events.values()) == COUNT // 2
    assert [element.flush for element in first()] == [True] * SHARDS and first() == []
    second = polls()  # with the state of the first: of another worker, or of the engine's checkpoint
    told = second()
    assert [(e.flush, e.span.first, e.span.next, dict(e.events)) for e in told] == [(True, COUNT // 2, COUNT // 2, {})] * SHARDS
    assert second() == first() == []


@pytest.mark.parametrize("seed", range(6))
def test_what_waits_survives_whatever_an_engine_does(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_shard, "CHECKPOINT_SECONDS", 1e9)
    r = random.Random(seed)
    world = world_of(tmp_path, r.choice([3, 7, 20]))
    items, worker, collect = polled(world), Worker(world), Collect(tmp_path)
    if seed % 2:
        items = unpromised(items)
    at, kept = 0, (0, deepcopy(worker.cells))
    held = 0
    for _ in range(4000):
        if at == len(items):
            break
        what = r.random()
        if what < 0.02:  # the state of before, with or without the memory of the process
            at, worker.cells = kept[0], deepcopy(kept[1])
            if r.random() < 0.5:
                worker.begin()
        elif what < 0.06:
            kept = at, deepcopy(worker.cells)
        elif what < 0.12:  # something again, or something that lies beyond a gap
            collect_all(collect, worker.take(items[r.randrange(len(items))]))
        else:
            collect_all(collect, worker.take(items[at]))
            held += bool(worker.cells[items[at][0]][2].values)
            at += 1
    assert at == len(items) and held
    assert plain(world.rows()) == expected(world)
    assert not any(pending.values for _, _, pending in worker.cells.values())


def collect_all(collect: Collect, outputs: list[FoldOutput]) -> None:
    for output in outputs:
        collect.process(output)
