"""The fold of the stream against the oracle: whatever is repeated, reordered, cut anew, restarted or shared out otherwise."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle import newest, rows
from tests.oracle.compare import differences, to_dicts
from tests.oracle.strategies import HOUR, aggregates, events, make_group, make_source
from tests.unit.stream_log import (
    Emitted,
    Event,
    Logs,
    Partition,
    Poller,
    Stop,
    Stream,
    boundary,
    disordered,
    in_time,
    judged,
    newest_revisions,
    newest_time,
    ordered_store,
    partitioned,
    seeds_of,
)
from transforms.definitions import Count, FeatureGroup, hours, micros
from transforms.fold import OFFSET, SEGMENTS, Folded, OffsetRange, Shard
from transforms.lateness import NEVER

FOREVER = 2**62
MINUTE = 60_000_000


@dataclass(repr=False)
class Case:
    """Groups, the log of their sources, and a hand that decides everything else."""

    groups: dict[str, FeatureGroup]
    logs: Logs
    rng: random.Random

    def __repr__(self) -> str:
        return f"{len(self.groups)} groups, partitions {[len(p) for p in self.logs.values()]}"

    @property
    def shards(self) -> int:
        return self.rng.choice([1, 2, 3])


@st.composite
def cases(draw: st.DrawFn, max_size: int = 16, max_sources: int = 2, closing: bool | None = None) -> Case:
    """One or two sources of one or two groups each, and their logs in one to four partitions."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    groups: dict[str, FeatureGroup] = {}
    logs: Logs = {}
    for number in range(draw(st.integers(1, max_sources))):
        hop = draw(st.sampled_from([7, 1_000_000, HOUR]))
        slack, late = draw(st.sampled_from([0, 1, hop // 2, 3 * hop])), draw(st.sampled_from([0, 1, hop, 2 * hop + 1, 9 * hop]))
        tie = draw(st.sampled_from(["flight", "serial"]))
        source = make_source(tie_breaker=tie, delay_us=slack, lateness_us=late, name=f"source{number}")
        mine: list[FeatureGroup] = []
        for times in draw(st.sampled_from([[1], [1], [1, 3], [2, 1]])):
            keys = draw(st.sampled_from([("origin",), ("gate",), ("origin", "gate")]))
            made = [draw(aggregates(hop * times, i)) for i in range(draw(st.integers(1, 2)))]
            mine.append(make_group(made, source=source, keys=keys, hop_us=hop * times, name=f"group{len(groups) + len(mine)}"))
        log = draw(events(mine[0], max_size))
        end = None
        if log and (rng.random() < 0.8 if closing is None else closing):
            end = max(e["departed_at"] for e in log) + slack + late + max(g.longest_us + 2 * g.hop_us for g in mine)
        log = disordered(rng, log, source, mine[0].longest_us)
        limit = draw(st.sampled_from([None, None, 0, hop, 5 * hop]))
        if limit is not None:  # some clocks run ahead
            log = [e if rng.random() < 0.8 else {**e, "departed_at": e["departed_at"] + rng.choice([2, 9, 40]) * hop} for e in log]
        logs[source.name] = partitioned(rng, log, source, rng.choice([1, 2, 3, 4]), end, limit)
        groups.update({g.name: g for g in mine})
    return Case(groups, logs, rng)


def wanted(
    case: Case, group: FeatureGroup, begin: int | None = None, upto: int | None = None, without: Collection[tuple[int, int]] = ()
) -> list[dict[str, Any]]:
    """The oracle's rows over what counts, up to the boundary that the partitions' ends reach."""
    partitions = case.logs[group.source.name]
    upto = boundary(partitions, group) if upto is None else upto
    counted = in_time(partitions, group.source, begin, without)
    after = -(2**62)
    if begin is not None:
        after = begin // group.hop_us * group.hop_us
        counted = counted + history(case, group, begin)
        upto = after if upto is None else max(upto, after)
    return [] if upto is None else rows(counted, group, after, upto)


def history(case: Case, group: FeatureGroup, begin: int) -> list[Event]:
    """Every event before ``begin``, late or not, as a batch run reads it."""
    records = [e for p in case.logs[group.source.name] for _, e in p.records]
    return [e for e in records if e is not None and e["departed_at"] < begin]


def check(case: Case, out: Emitted, begin: int | None = None, *, late: bool = False, upto: dict[str, int | None] | None = None) -> None:
    """Everything emitted, over all runs, is the oracle's, and an ordered store ends with its newest rows.

    ``late``: events may have come after their rows were final; these count nowhere. ``upto``: how far rows are out if not by the log."""
    for name, group in case.groups.items():
        want = wanted(case, group, begin, (upto or {}).get(name), out.late.get(name, ()))
        got = out.rows.get(name, [])
        found = differences(newest_revisions(got, group), want)
        assert not found, "\n".join([name, *found[:10]])
        held = ordered_store(got, group)
        best = newest(want, FOREVER, group.entity.keys)
        assert held.keys() == best.keys()
        assert differences([held[k] for k in best], list(best.values())) == []
        assert late or not out.late.get(name), "nothing was idle, so nothing comes after its rows were final"


# ------------------------------------------------------------------------------------------ promise 1: exactly once, in any order


@given(cases())
@settings(max_examples=examples(60))
def test_rows_equal_the_oracle_in_any_order(case: Case) -> None:
    out = Emitted()
    stream = Stream(case.rng, case.groups, case.logs, case.shards, out)
    stream.steps(case.rng.choice([0, 20, 60]))
    stream.finish()
    check(case, out)
    for name, group in case.groups.items():
        upto = boundary(case.logs[group.source.name], group)
        assert {s.output_watermark[name] for s in stream.shards} == {NEVER if upto is None else upto}
        for shard in stream.shards:
            assert [p.expected for _, p in sorted(shard.partitions[group.source.name].items())] == [
                p.end for p in case.logs[group.source.name]
            ]


@given(cases(max_size=12))
@settings(max_examples=examples(20))
def test_an_engine_that_goes_back_to_its_checkpoint_changes_nothing(case: Case) -> None:
    out = Emitted()
    stream = Stream(case.rng, case.groups, case.logs, case.shards, out)
    for _ in range(case.rng.randint(1, 3)):
        stream.steps(case.rng.randint(0, 15))
        saved = stream.snapshot()
        stream.steps(case.rng.randint(0, 25))
        stream.restore(saved)
    stream.finish()
    check(case, out)


# ------------------------------------------------------------------------------------------------------------ promise 3: resume


@given(cases(max_size=24))
@settings(max_examples=examples(70))
def test_a_resume_gives_what_no_stop_would_have(case: Case) -> None:
    out, stop = Emitted(), None
    for _ in range(case.rng.choice([1, 1, 2, 3])):
        stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop)
        stream.steps(case.rng.choice([0, 10, 30, 60]))
        if case.rng.random() < 0.3:
            stream.finish()
        elif case.rng.random() < 0.5:
            stream.drain()
        stop = stream.stop()
        nothing_needed_lies_before(case, stop)
    stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop)
    stream.steps(case.rng.choice([0, 0, 20, 60]))
    stream.finish()
    check(case, out)


def nothing_needed_lies_before(case: Case, stop: Stop) -> None:
    """No event that a row after the stop may look at lies before the needed offset; the time that goes with it is the log's."""
    for (name, number), (offset, before) in stop.needed.items():
        partition, source = case.logs[name][number], next(g.source for g in case.groups.values() if g.source.name == name)
        assert partition.start <= offset <= max(stop.done[name, number], offset) <= partition.end
        assert (before, stop.leaps[name, number]) == partition.reached(source, offset)
        for group in case.groups.values():
            least = stop.output_watermark[group.name]
            if group.source.name != name or least is None:
                continue
            reach = least - micros(source.allowed_lateness) - group.longest_us
            assert all(e["departed_at"] < reach for o, e, _ in judged(partition, source) if o < offset)
        if any(stop.output_watermark[g.name] is None for g in case.groups.values() if g.source.name == name):
            assert all(e is None for o, e in partition.records if o < offset)


# ------------------------------------------------------------------------------------------------------- promise 4: after a batch run


@given(cases(max_size=24), st.sampled_from([0, 1, -1, 3]))
@settings(max_examples=examples(40))
def test_a_stream_goes_on_after_a_batch_run(case: Case, beside: int) -> None:
    times = [e["departed_at"] for ps in case.logs.values() for p in ps for _, e in p.records if e is not None]
    begin = max(0, case.rng.choice(times or [0]) + beside)
    if case.rng.random() < 0.5:
        begin = begin // HOUR * HOUR
    initial_tiles = seeds_of({g.source.name: history(case, g, begin) for g in case.groups.values()}, case.groups)
    out, stop = Emitted(), None
    for _ in range(case.rng.choice([0, 0, 1, 2])):
        stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop, initial_tiles=initial_tiles, begin=begin)
        stream.steps(case.rng.choice([5, 30]))
        stop = stream.stop()
    stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop, initial_tiles=initial_tiles, begin=begin)
    stream.steps(case.rng.choice([0, 20, 60]))
    stream.finish()
    check(case, out, begin)


# ---------------------------------------------------------------------------------- idle partitions, a wall clock, new partitions


@given(cases(max_size=24))
@settings(max_examples=examples(50))
def test_behind_an_idle_or_new_partition_events_correct_rows_or_are_late(case: Case) -> None:
    """One shard, as each finds for itself what is final. Stopped and restarted, what was late stays so."""
    out, stop = Emitted(), None
    for _ in range(case.rng.choice([1, 1, 2, 3])):
        stream = Stream(case.rng, case.groups, case.logs, 1, out, stop=stop, hidden=case.rng.choice([0, 1]))
        stream.steps(case.rng.choice([0, 10, 30]), moody=True)
        stop = stream.stop()
    stream = Stream(case.rng, case.groups, case.logs, 1, out, stop=stop, hidden=case.rng.choice([0, 0, 1]))
    stream.steps(case.rng.choice([10, 30, 60]), moody=True)
    stream.finish()
    final = {n: None if b == NEVER else b for n, b in stream.shards[0].output_watermark.items()}
    for name, group in case.groups.items():
        reached = boundary(case.logs[group.source.name], group)
        final_boundary = final[name]
        assert reached is None or (final_boundary is not None and final_boundary >= reached)
    check(case, out, late=True, upto=final)


# --------------------------------------------------------------------------------------------------------------- named cases


SOURCE = make_source(delay_us=0, lateness_us=HOUR, name="departures")
GROUP = make_group([Count(over=[hours(1), hours(3)])], source=SOURCE)
GROUPS = {GROUP.name: GROUP}


def event(offset: int, time: float, key: str = "EWR") -> tuple[int, Event]:
    """A record with an event so many hours after the hundredth."""
    return offset, {"departed_at": round((100 + time) * HOUR), "origin": key, "gate": 1, "flight": "f", "serial": offset}


def at(boundary_hour: int) -> int:
    """Hours after the hundredth as microseconds."""
    return (100 + boundary_hour) * HOUR


class Hand:
    """Stretches of a log of one source, made by hand for one shard."""

    def __init__(self, *partitions: Sequence[tuple[int, Event | None]], starts: dict[int, tuple[int, int]] | None = None) -> None:
        self.logs: Logs = {SOURCE.name: [Partition(0, list(p), p[-1][0] + 1 if p else 0) for p in partitions]}
        self.starts = starts or {}

    def span(
        self, number: int, first: int, upto: int, *, partitions: int = 0, **more: Any
    ) -> tuple[OffsetRange, dict[str, pa.RecordBatch]]:
        """The records ``first <= offset < upto`` of a partition."""
        partition = self.logs[SOURCE.name][number]
        start = self.starts.get(number, (0, NEVER))[0]
        count = partitions or len(self.logs[SOURCE.name])
        poller = Poller(SOURCE, partition, number, count, start, first, newest_time(partition, SOURCE, first))
        (element,) = poller.poll(GROUPS, 1, upto, **more)
        return element.span, element.events

    def give(self, shard: Shard, number: int, first: int, upto: int, **more: Any) -> Folded:
        """Fold these records."""
        span, found = self.span(number, first, upto, **more)
        assert shard.accepts(span) is True
        return shard.fold(span, found)


def counts(folded: Folded) -> list[tuple[str, int, int, int]]:
    """(key, boundary in hours after the hundredth, count of one hour, revision) of each row."""
    found = to_dicts(folded.rows[GROUP.name]) if GROUP.name in folded.rows else []
    name = GROUP.features[0].name
    return [(r["origin"], r["event_timestamp"] // HOUR - 100, r[name], r["tandem_revision"]) for r in found]


def new_shard(**more: Any) -> Shard:
    """A shard that has emitted nothing."""
    return Shard(GROUPS, **({"output_watermark": {}, "done": {}} | more))


def test_the_watermark_is_the_least_of_the_partitions_and_unknown_ones_hold_back() -> None:
    hand = Hand([event(0, 0.5), event(1, 5)], [event(0, 0.2), event(1, 2.5)])
    shard = new_shard()
    assert shard.watermark(SOURCE.name) == NEVER
    assert counts(hand.give(shard, 0, 0, 2)) == []
    assert shard.watermark(SOURCE.name) == NEVER, "the other partition was not heard of"
    assert counts(hand.give(shard, 1, 0, 1)) == []
    assert shard.watermark(SOURCE.name) == round(100.2 * HOUR)
    assert counts(hand.give(shard, 1, 1, 2)) == [("EWR", 1, 2, 2), ("EWR", 2, 0, 2)]
    assert shard.watermark(SOURCE.name) == round(102.5 * HOUR)
    assert shard.output_watermark == {GROUP.name: at(2)}


def test_a_partition_without_events_holds_back_until_it_is_idle() -> None:
    hand = Hand([event(0, 0.5), event(1, 5)], [])
    shard = new_shard()
    assert counts(hand.give(shard, 1, 0, 0)) == []
    assert counts(hand.give(shard, 0, 0, 2)) == []
    assert [c[1] for c in counts(hand.give(shard, 1, 0, 0, idle=True))] == [1, 2, 4]


def test_when_all_are_idle_the_furthest_counts() -> None:
    hand = Hand([event(0, 0.5)], [event(0, 3)])
    shard = new_shard()
    hand.give(shard, 0, 0, 1)
    hand.give(shard, 1, 0, 1)
    assert shard.watermark(SOURCE.name) == round(100.5 * HOUR)
    hand.give(shard, 1, 1, 1, idle=True)
    assert shard.watermark(SOURCE.name) == round(100.5 * HOUR)
    hand.give(shard, 0, 1, 1, idle=True)
    assert shard.watermark(SOURCE.name) == at(3)
    assert shard.output_watermark == {GROUP.name: at(3)}


def test_a_wall_clock_moves_the_watermark_of_a_quiet_partition() -> None:
    hand = Hand([event(0, 0.5)])
    shard = new_shard()
    hand.give(shard, 0, 0, 1)
    assert [c[1] for c in counts(hand.give(shard, 0, 1, 1, watermark=at(9)))] == [1, 2, 4]
    assert shard.needed() == {SOURCE.name: {0: (1, round(100.5 * HOUR))}}


def test_a_new_partition_holds_back_once_it_is_heard_of() -> None:
    hand = Hand([event(0, 0.5), event(1, 1), event(2, 2), event(3, 3)], [event(0, 2.5)])
    shard = new_shard()
    assert [c[1] for c in counts(hand.give(shard, 0, 0, 2, partitions=1))] == [1]
    assert counts(hand.give(shard, 0, 2, 3)) == []
    assert shard.output_watermark == {GROUP.name: at(1)}
    assert [c[1] for c in counts(hand.give(shard, 1, 0, 1))] == [2]


def test_behind_an_idle_partition_events_correct_or_are_late() -> None:
    hand = Hand([event(0, 0.5), event(1, 6)], [event(0, 5.5), event(1, 4.6), event(2, 5.2)])
    shard = new_shard()
    hand.give(shard, 1, 0, 0, idle=True)
    assert [c[1] for c in counts(hand.give(shard, 0, 0, 2))] == [1, 2, 4]
    assert shard.output_watermark == {GROUP.name: at(6)}
    folded = hand.give(shard, 1, 0, 3)
    assert counts(folded) == [("EWR", 6, 2, 2)]
    assert [e[OFFSET] for e in to_dicts(folded.late[GROUP.name])] == [1]
    assert folded.counts == {"late/traffic": 1, "corrected/traffic": 2, "folded/traffic": 2}
    # A run that follows is told what was late, and does not count it.
    again = new_shard(
        output_watermark={GROUP.name: at(6)}, done={(SOURCE.name, 0): 2, (SOURCE.name, 1): 3}, dropped_late={GROUP.name: {1: [1]}}
    )
    more = Hand([event(0, 0.5), event(1, 6), event(2, 7)], [event(0, 5.5), event(1, 4.6), event(2, 5.2), event(3, 7)])
    for folded in (more.give(again, 0, 0, 3), more.give(again, 1, 0, 4)):
        assert folded.late == {}
    assert counts(folded) == [("EWR", 7, 1, 3)]


def test_a_gap_waits_and_what_is_known_is_dropped() -> None:
    hand = Hand([event(i, i / 10) for i in range(10)])
    shard = new_shard()
    assert shard.accepts(hand.span(0, 3, 5)[0]) is None
    assert shard.partitions[SOURCE.name] == {}, "asking changes nothing"
    assert shard.needed() == {SOURCE.name: {}}
    hand.give(shard, 0, 0, 3)
    assert shard.accepts(hand.span(0, 0, 3)[0]) is False
    assert shard.accepts(hand.span(0, 0, 2)[0]) is False
    assert shard.accepts(hand.span(0, 2, 2)[0]) is False
    assert shard.accepts(hand.span(0, 4, 4)[0]) is None
    assert shard.accepts(hand.span(0, 3, 3)[0]) is True
    folded = hand.give(shard, 0, 1, 5)
    assert folded.counts == {"repeated/traffic": 2, "folded/traffic": 2}
    assert hand.give(shard, 0, 5, 10).counts == {"folded/traffic": 5}


def test_after_a_resume_nothing_is_out_before_all_partitions_are_back_where_they_were() -> None:
    """Partition 0 is read again slowly, while 1 brings news: rows and corrections in between would lack what 0 still has to bring."""
    zero = [event(0, 0.5), event(1, 3.5), event(2, 2.7), event(3, 9)]
    one = [event(0, 3.6), event(1, 2.65), event(2, 9)]
    hand, before = Hand(zero, one), new_shard()
    rows_before = [row for part in ((0, 0, 1), (1, 0, 1), (0, 1, 3)) for row in counts(hand.give(before, *part))]
    assert before.output_watermark == {GROUP.name: at(3)}
    assert rows_before == [("EWR", 1, 1, 1), ("EWR", 2, 0, 1), ("EWR", 3, 1, 2)]
    assert before.needed() == {SOURCE.name: {0: (0, NEVER), 1: (0, NEVER)}}

    done = {(SOURCE.name, n): before.delivered(SOURCE.name, n) for n in (0, 1)}
    assert done == {(SOURCE.name, 0): 3, (SOURCE.name, 1): 1}
    after = new_shard(output_watermark=before.output_watermark, done=done)
    for number, first, upto in ((1, 0, 1), (1, 1, 2), (1, 2, 3), (0, 0, 1), (0, 1, 2)):
        assert counts(hand.give(after, number, first, upto)) == []
        assert after.watermark(SOURCE.name) == NEVER and after.output_watermark == before.output_watermark
        assert {n: after.delivered(SOURCE.name, n) for n in after.partitions[SOURCE.name]}.items() <= {0: 3, 1: 1}.items()
    caught_up = counts(hand.give(after, 0, 2, 3))
    assert caught_up == [("EWR", 3, 2, 3)], "one correction, of all that is known"
    assert after.delivered(SOURCE.name, 1) == 3
    assert [c[1:] for c in counts(hand.give(after, 0, 3, 4))] == [(4, 2, 4), (5, 0, 4), (6, 0, 2), (7, 0, 0)]


def test_what_is_needed_moves_on_with_event_time() -> None:
    """A resume reads no more than the longest reach and a part of it."""
    hand = Hand([event(i, i / 20) for i in range(2000)])
    shard = new_shard()
    for first in range(0, 2000, 5):
        hand.give(shard, 0, first, first + 5)
        ((offset, newest),) = shard.needed()[SOURCE.name].values()
        assert newest == (NEVER if offset == 0 else round((100 + (offset - 1) / 20) * HOUR))
        horizon = (shard.horizon(GROUP) - at(0)) / HOUR * 20
        reach = (3 + 1 + 1) * 20
        assert offset <= max(0, horizon)
        assert offset >= min(horizon, first) - reach / SEGMENTS - 10
        assert len(shard.partitions[SOURCE.name][0].segments) <= 2 * SEGMENTS


def test_tiles_are_forgotten_when_no_row_can_see_them() -> None:
    hand = Hand([event(i, i, f"k{i % 3}") for i in range(40)])
    shard = new_shard()
    seen = []
    for first in range(40):
        hand.give(shard, 0, first, first + 1)
        if first % 5 == 4:
            kept = shard.tiles[GROUP.name].compact(shard.horizon(GROUP))
            assert min(to_dicts(kept), key=lambda t: t["tile_start"])["tile_start"] >= shard.horizon(GROUP)
            seen.append(kept.num_rows)
    assert max(seen) <= 3 + 1 + 1 + 1
