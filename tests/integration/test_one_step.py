"""A job of one part is one step: it gives the rows that polls, a shuffle and folds of several parts give, in fewer and larger portions."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.project.config import StreamSettings
from pipelines.sources.memory import MemoryBroker, MemoryPartitionReader
from pipelines.streaming.stages import one_step
from pipelines.streaming.stages.coders import FoldOutput
from pipelines.streaming.stages.fold_shard import BEHIND_SECONDS
from pipelines.streaming.stages.one_step import OneStep
from pipelines.streaming.stages.ticks import STALE_MS, TickGate, now_ms
from pipelines.streaming.state.job_spec import JobSpec
from tests.integration.stages_world import HOUR, T0, Collect, World, payment, payments
from tests.prove.small_engine import Bag, Cell

PARTITIONS = 5


def world_of(folder: Path, **stream: Any) -> World:
    broker = MemoryBroker()
    broker.create_topic("payments", PARTITIONS)
    broker.create_topic("tandem.dead_letters")
    return World(folder, broker, payments("payments"), StreamSettings(clock="replay", **{"shards": 1, **stream}))


def some(n: int, seed: int, start: int = T0, first: int = 0) -> list[tuple[int, bytes]]:
    """(partition, record) of payments over two hours, out of order within a minute, a few too late."""
    r = random.Random(seed)
    out = []
    for i in range(n):
        at = start + i * 2 * HOUR // n + r.randint(-50_000_000, 0) - (3 * HOUR if r.random() < 0.02 else 0)
        out.append((r.randrange(PARTITIONS), payment(first + i, at, f"a{r.randrange(7)}")))
    return out


def one_step_run(world: World, spec: JobSpec | None = None) -> list[FoldOutput]:
    """One life of the step over all there is; its outputs. State is left behind, as by an engine that lost it."""
    world.control.begin()
    before = len(world.outputs()) if (world.folder / "outputs").exists() else 0
    step = OneStep(spec or world.spec(), Collect(world.folder))
    step.setup()
    step.process((0, now_ms()), Cell(), Cell(), Bag(), Bag())
    step.teardown()
    assert world.control.failure() is None
    return world.outputs()[before:]


@pytest.mark.parametrize("seed", [1, 2])
def test_one_step_gives_the_rows_of_several_parts(tmp_path: Path, seed: int) -> None:
    whole, parts = world_of(tmp_path / "whole", poll_records=50), world_of(tmp_path / "parts", shards=3, poll_records=50)
    for n, start in enumerate((T0, T0 + 2 * HOUR)):  # the second time from the checkpoint
        for partition, record in some(400, seed + n, start, 400 * n):
            whole.send([record], partition)
            parts.send([record], partition)
        one_step_run(whole)
        parts.run()
    assert whole.rows() == parts.rows()
    late = {w.folder.name: sum(b.num_rows for o in w.outputs() for b in o.late.values()) for w in (whole, parts)}
    assert late["whole"] == late["parts"] > 0


def test_what_a_stream_is_behind_is_folded_in_large_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(tmp_path, poll_records=20)
    monkeypatch.setattr(one_step, "MOST_RECORDS", 300)
    for partition, record in some(1000, 3):
        world.send([record], partition)
    outputs = one_step_run(world)
    assert len(outputs) <= 6, "1,000 records of five partitions: 50 polls"
    assert sum(o.counts.get("folded/accounts", 0) for o in outputs[-1:]) > 950


def test_rows_wait_while_a_stream_is_behind_and_not_beyond_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to be followed by more is followed by a settlement before the step keeps how far it is."""
    world = world_of(tmp_path, poll_records=20)
    monkeypatch.setattr(one_step, "MOST_RECORDS", 300)
    for partition, record in some(1000, 5):
        world.send([record], partition)
    seen: list[str] = []

    class Sink(Collect):
        def process(self, output: FoldOutput, more: bool = False) -> None:
            seen.append("more" if more else "last")
            super().process(output)

        def settle(self) -> None:
            seen.append("settled")

    class Positions(Cell):
        def write(self, value: Any) -> None:
            seen.append("kept")
            super().write(value)

    world.control.begin()
    step = OneStep(world.spec(), Sink(world.folder))
    step.setup()
    step.process((0, now_ms()), Positions(), Cell(), Bag(), Bag())
    step.teardown()
    assert seen[:3] == ["more"] * 3 and seen[-2:] == ["settled", "kept"], seen
    assert "settled" in seen[3:], "once it is no longer behind"


def test_a_step_that_is_repeated_folds_nothing_twice(tmp_path: Path) -> None:
    world, again = world_of(tmp_path / "one"), world_of(tmp_path / "two")
    for partition, record in some(300, 4):
        world.send([record], partition)
        again.send([record], partition)
    one_step_run(world)
    cells: dict[str, Any] = defaultdict(Cell, tiles=Bag(), pending=Bag())
    again.control.begin()
    step = OneStep(again.spec(), Collect(again.folder))
    step.setup()
    names = ("positions", "head", "tiles", "pending")
    step.process((0, now_ms()), *(cells[n] for n in names))
    cells["positions"] = Cell()  # the engine brings the shard's state back and not the polls'
    step.process((0, now_ms()), *(cells[n] for n in names))
    step.teardown()
    assert world.rows() == again.rows()
    assert again.outputs()[-1].counts["folded/accounts"] == world.outputs()[-1].counts["folded/accounts"]


def test_one_step_is_for_one_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not 2"):
        OneStep(world_of(tmp_path, shards=2).spec())


def test_at_most_one_tick_waits() -> None:
    gate = TickGate()
    assert gate.sent(1000) and gate.begins(1000, 1001)
    assert gate.sent(1020), "one may wait while the step works"
    assert not gate.sent(1040) and not gate.sent(1900)
    assert gate.begins(1020, 1950), "the step took so long"
    assert gate.sent(1960) and gate.begins(1960, 1961)


def test_a_tick_that_was_lost_holds_nothing_up() -> None:
    gate = TickGate()
    assert gate.sent(1000)
    assert not gate.sent(1000 + STALE_MS - 1)
    assert gate.sent(1000 + STALE_MS)


def test_ticks_that_an_engine_kept_are_passed_over() -> None:
    gate = TickGate()
    assert gate.begins(5000, 6000)
    assert not gate.begins(5500, 6001), "the step has begun since"
    assert gate.begins(6100, 6101)


def test_a_hundred_partitions_are_asked_for_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 3: whatever the rounds take, each asks for all ends at once, and fetches from those partitions alone that have news."""
    world = world_of(tmp_path)
    world.broker.add_partitions("payments", 100)
    asked: dict[str, int] = defaultdict(int)

    def counted(name: str) -> Any:
        real = getattr(MemoryPartitionReader, name)

        def call(*args: Any) -> Any:
            asked[name] += 1
            return real(*args)

        return call

    for name in ("ends", "poll"):
        monkeypatch.setattr(MemoryPartitionReader, name, counted(name))
    step = OneStep(replace(world.spec(), until=None, one_tick=False), Collect(world.folder))
    step.setup()
    at: dict[str, Any] = {}
    cells = Cell(), Bag(), Bag()
    for n in range(5):
        world.send([payment(n, T0)], 70)
        assert step._round(at, [], *cells) == (True, False)
    step.teardown()
    assert (asked["ends"], asked["poll"]) == (1 + 5, 5), "the first is for finding partitions"


class Clock:
    """Time that stands still but for what is said to take some; in the place of ``time``. Each millisecond brings a payment."""

    def __init__(self, world: World) -> None:
        self.world, self.ms, self.sent = world, BEGUN_MS, 0

    def monotonic(self) -> float:
        return self.ms / 1000

    def sleep(self, seconds: float) -> None:
        self.takes(round(seconds * 1000))

    def takes(self, ms: int) -> None:
        self.ms += ms
        by_partition: dict[int, list[bytes]] = defaultdict(list)
        for n in range(self.sent, self.ms):
            by_partition[n % 2].append(payment(n, T0 + n * 1000, f"a{n % 7}"))
        for partition, records in by_partition.items():
            self.world.send(records, partition)
        self.sent = self.ms

    def charged(self, ms: int, method: Any) -> Any:
        def call(*args: Any) -> Any:
            self.takes(ms)
            return method(*args)

        return call


FOLD_MS, POLL_MS = 30, 1
BEGUN_MS, SECONDS = 37, 3


def on_the_clock(folder: Path, monkeypatch: pytest.MonkeyPatch, tick_ms: int) -> tuple[list[int], int]:
    """Some seconds of 1,000 payments each, where a fold takes longer than a tick: how long after its second was over each second's rows
    were there, and how many folds it took."""
    broker = MemoryBroker()
    broker.create_topic("payments", 2)
    broker.create_topic("tandem.dead_letters")
    group = replace(payments("payments", out_of_orderness=timedelta(0)), hop=timedelta(seconds=1))
    world = World(folder, broker, group, StreamSettings(clock="replay", shards=1, tick_ms=tick_ms, idle_seconds=1e6))
    clock, outputs = Clock(world), []

    class Sink:
        def setup(self) -> None: ...

        def process(self, output: FoldOutput, more: bool) -> None:
            assert not more, "the stream keeps up: no row waits for another one"
            outputs.append((clock.ms, output))

        teardown = settle = setup

    monkeypatch.setattr(one_step, "time", clock)
    monkeypatch.setattr(one_step, "now_ms", lambda: clock.ms)
    step = OneStep(replace(world.spec(), until=None, one_tick=False), Sink())
    step.setup()
    step.gate = TickGate()
    monkeypatch.setattr(step.fold, "take", clock.charged(FOLD_MS, step.fold.take))
    monkeypatch.setattr(step.poll, "once", clock.charged(POLL_MS, step.poll.once))
    cells = Cell(), Cell(), Bag(), Bag()
    while clock.ms < SECONDS * 1000 + 500:  # an engine ticks, and one tick at most waits
        sent = clock.ms - (clock.ms - BEGUN_MS) % one_step.PULSE_MS
        if step.gate.sent(sent):
            step.process((0, sent), *cells)
        if clock.ms < sent + one_step.PULSE_MS:
            clock.takes(sent + one_step.PULSE_MS - clock.ms)
    step.teardown()
    delays = []
    for at, output in outputs:
        for rows in output.rows.values():
            over = max(rows.column(rows.schema.get_field_index("event_timestamp")).cast("int64").to_pylist())
            delays.append(at - (over - T0) // 1000)
    return delays, len(outputs)


def test_a_smaller_tick_makes_rows_sooner_and_queues_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a fold takes longer than a tick: what polls bring without a row waits for the others of its pulse."""
    (slow, few), (quick, folds) = (on_the_clock(tmp_path / f"{ms}", monkeypatch, ms) for ms in (100, 10))
    assert len(quick) == len(slow) == SECONDS
    pulses, polls = SECONDS * 10 + 5, 2 * POLL_MS
    assert max(few, folds) <= pulses + SECONDS, "one for each pulse and each second that ends, however often is polled"
    assert max(quick) <= FOLD_MS + 10 + polls + FOLD_MS + polls, "a fold that is at work, a tick, a poll, and its own fold"
    assert max(quick) < max(slow) <= one_step.PULSE_MS + 2 * FOLD_MS


def test_rows_wait_two_seconds_at_most_however_long_polls_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream that is behind, whose broker then gets slow: no fold follows soon that would save a checkpoint."""
    world = world_of(tmp_path, poll_records=20)
    for partition, record in some(1000, 6):
        world.send([record], partition)
    clock = Clock(world)
    clock.takes = lambda ms: setattr(clock, "ms", clock.ms + ms)  # type: ignore[method-assign]
    since: list[int] = []
    waited: list[int] = []

    class Sink(Collect):
        def process(self, output: FoldOutput, more: bool = False) -> None:
            since.extend([clock.ms] if more else [])
            super().process(output)

        def settle(self) -> None:
            waited.extend(clock.ms - at for at in since)
            since.clear()

    monkeypatch.setattr(one_step, "MOST_RECORDS", 300)
    monkeypatch.setattr(one_step, "time", clock)
    monkeypatch.setattr(one_step, "now_ms", lambda: clock.ms)
    slow_ms = 900
    world.control.begin()
    step = OneStep(world.spec(), Sink(world.folder))
    step.setup()
    monkeypatch.setattr(step.poll, "once", clock.charged(slow_ms, step.poll.once))
    step.process((0, clock.ms), Cell(), Cell(), Bag(), Bag())
    step.teardown()
    assert not since and len(waited) >= 3, "the stream was behind"
    assert max(waited) < 1000 * BEHIND_SECONDS + slow_ms, "two seconds, and the poll that was at work"
