"""Tiles, merges and rows against the oracle, bit for bit, however the log is split, ordered, sharded and carried."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle import rows
from tests.oracle.compare import assert_same_rows, differences, to_dicts
from tests.oracle.features import order
from tests.oracle.strategies import (
    FLOATS,
    HOUR,
    INTS,
    KEY_STRINGS,
    TEXTS,
    deals,
    event_lists,
    every_aggregate,
    groups,
    make_group,
    make_source,
    predicates,
    splits,
    to_batch,
    to_batches,
)
from transforms import aggregates
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import (
    Count,
    CountDistinct,
    FeatureGroup,
    Field,
    Last,
    LastN,
    Predicate,
    Quantile,
    Std,
    Sum,
    TopK,
    Variance,
    hours,
)

Log = list[dict[str, Any]]
FOREVER = 8 * 10**15
"""A boundary behind every event of the strategies and all that falls out."""
ANY_FILTER: Predicate = (Field("x") > 0.5) | ~Field("s").isin(["a", "N12345"])


def over_ipc(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch as a worker on another machine reads it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return pa.ipc.open_stream(sink.getvalue()).read_next_batch()


def computed(log: Log, group: FeatureGroup, after: int = -1, upto: int = FOREVER) -> pa.RecordBatch:
    """Rows by the straightest way: one batch, one tile, no merge with others."""
    return rows_between(merge([tile(to_batch(log, group.source), group)], group), group, after, upto)


def check(log: Log, group: FeatureGroup, after: int = -1, upto: int = FOREVER) -> None:
    assert_same_rows(computed(log, group, after, upto), rows(log, group, after, upto), group)


def in_order(parts: list[pa.RecordBatch], group: FeatureGroup) -> Log:
    """The rows of several batches, sorted by keys and time."""
    everything = [row for part in parts for row in to_dicts(part)]
    return sorted(everything, key=lambda r: [order(r[name]) for name in (*group.entity.keys, "event_timestamp")])


@st.composite
def ranges(draw: st.DrawFn, log: Log, group: FeatureGroup, count: int) -> list[int]:
    """That many instants in ascending order, most of them on or beside boundaries where something happens."""
    hop, longest = group.hop_us, group.longest_us
    marks = [0, FOREVER] + [e[group.source.event_time] // hop * hop for e in log]
    beside = [0, -1, hop, hop - 1, hop + 1, longest, longest + hop]
    return sorted(max(-1, draw(st.sampled_from(marks)) + draw(st.sampled_from(beside))) for _ in range(count))


# --------------------------------------------------------------------------------------- anything, split in any way


@given(st.data())
@settings(max_examples=examples(120))
def test_rows_equal_the_oracle(data: st.DataObject) -> None:
    group = data.draw(groups())
    log = data.draw(event_lists(group))
    after, upto = data.draw(ranges(log, group, 2)) if data.draw(st.booleans()) else (-1, FOREVER)
    check(log, group, after, upto)


@given(st.data())
@settings(max_examples=examples(100))
def test_no_split_order_or_merge_tree_changes_a_bit(data: st.DataObject) -> None:
    group = data.draw(groups())
    log = data.draw(event_lists(group))
    parts = [over_ipc(tile(batch, group)) for batch in data.draw(splits(log, group.source))]
    at_once = merge(parts, group)
    while len(parts) > 1:
        hand = [parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in range(data.draw(st.integers(2, len(parts))))]
        parts.append(over_ipc(merge(hand, group)))
    want = rows(log, group, -1, FOREVER)
    for tiles in (at_once, merge(parts, group)):
        assert_same_rows(rows_between(tiles, group, -1, FOREVER), want, group)


@given(st.data())
@settings(max_examples=examples(60))
def test_merged_tiles_are_equal_themselves(data: st.DataObject) -> None:
    group = data.draw(groups(max_aggregates=3))
    log = data.draw(event_lists(group))
    a, b, c = (tile(to_batch(part, group.source), group) for part in ([*data.draw(deals(log, 3)), [], []])[:3])
    whole = merge([a, b, c], group)
    assert whole.schema == a.schema == tile(to_batch([], group.source), group).schema
    for other in (
        merge([c, a, b], group),
        merge([merge([a, b], group), c], group),
        merge([a, merge([b, c], group)], group),
        merge([whole], group),
        merge([tile(to_batch(log, group.source), group)], group),
    ):
        assert differences(to_dicts(other), to_dicts(whole)) == []


@given(st.data())
@settings(max_examples=examples(60))
def test_shards_of_keys_are_independent(data: st.DataObject) -> None:
    group = data.draw(groups(max_aggregates=3))
    log = data.draw(event_lists(group))
    keys = sorted({tuple(e[k] for k in group.entity.keys) for e in log})
    shard_of = {key: data.draw(st.integers(0, 2)) for key in keys}
    found = []
    for shard in range(3):
        mine = [e for e in log if shard_of[tuple(e[k] for k in group.entity.keys)] == shard]
        parts = [tile(batch, group) for batch in data.draw(splits(mine, group.source, 2))]
        batch = rows_between(merge(parts, group), group, -1, FOREVER)
        assert_same_rows(batch, rows(mine, group, -1, FOREVER), group)
        found.append(batch)
    assert differences(in_order(found, group), rows(log, group, -1, FOREVER)) == []


@given(st.data())
@settings(max_examples=examples(60))
def test_emitting_step_by_step_gives_the_rows_of_one_run(data: st.DataObject) -> None:
    """The stream's way: rows as the watermark passes, from the tiles known by then, against all rows at the end."""
    group = data.draw(groups(max_aggregates=3))
    log = data.draw(event_lists(group))
    after, *steps = data.draw(ranges(log, group, data.draw(st.integers(2, 4))))
    tiles = merge([tile(to_batch(log, group.source), group)], group)
    known: Log = []
    state = tile(to_batch([], group.source), group)
    batches, streamed, start = [], [], after
    for step in steps:
        batches.append(rows_between(tiles, group, start, step))
        new = [e for e in log if e[group.source.event_time] < step and e not in known]
        known += new
        state = merge([state, tile(to_batch(new, group.source), group)], group)
        streamed.append(rows_between(state, group, start, step))
        start = step
    want = rows(log, group, after, steps[-1])
    assert differences(in_order(batches, group), want) == []
    assert differences(in_order(streamed, group), want) == []
    assert_same_rows(rows_between(tiles, group, after, steps[-1]), want, group)


# ------------------------------------------------------------------------------------ every aggregate, every dtype


@pytest.mark.parametrize("where", [None, ANY_FILTER], ids=["all", "filtered"])
@pytest.mark.parametrize("keys", [("origin",), ("gate", "origin")], ids=["simple", "composite"])
@given(st.data())
@settings(max_examples=examples(25))
def test_every_aggregate_at_once(where: Predicate | None, keys: tuple[str, ...], data: st.DataObject) -> None:
    group = make_group(every_aggregate([hours(1), hours(3), hours(12)], where), keys=keys, source=make_source(delay_us=60_000_000))
    log = data.draw(event_lists(group, max_size=20))
    parts = [tile(batch, group) for batch in data.draw(splits(log, group.source, 3))]
    assert_same_rows(rows_between(merge(parts, group), group, -1, FOREVER), rows(log, group, -1, FOREVER), group)


@pytest.mark.parametrize("seed", range(4))
def test_a_busy_week_of_every_aggregate(seed: int) -> None:
    """Hundreds of events with bursts, ties, duplicates, nulls and gaps; composite keys; many batches in random order."""
    rng = random.Random(seed)
    source = make_source(tie_breaker=rng.choice(["flight", "serial"]), delay_us=rng.choice([0, 60_000_000]))
    keys = [("origin",), ("gate",), ("origin", "gate"), ("gate", "origin")][seed % 4]
    group = make_group(
        every_aggregate([hours(1), hours(24)]) + every_aggregate([hours(3)], ANY_FILTER, "f"),
        source=source,
        keys=keys,
    )
    at, log = 375_000 * HOUR, []
    for _ in range(500):
        at += rng.choice([0, 0, 0, 1, 1000, 60_000_000, 10 * 60_000_000, HOUR, rng.randrange(HOUR)])
        if rng.random() < 0.01:
            at = (at // HOUR + rng.choice([1, 23, 24, 25, 26, 90])) * HOUR
        log.append(
            {
                "departed_at": at,
                "origin": rng.choice(KEY_STRINGS[:4]),
                "gate": rng.choice([1, -1]),
                "flight": rng.choice(TEXTS),
                "serial": rng.choice(INTS),
                "x": rng.choice([None, rng.choice(FLOATS), rng.gauss(10, 30), float(rng.randint(-20, 90))]),
                "n": rng.choice([None, rng.choice(INTS), rng.randint(-20, 90)]),
                "s": rng.choice([None, *TEXTS]),
                "b": rng.choice([None, True, False]),
            }
        )
    log += [dict(rng.choice(log)) for _ in range(50)]
    rng.shuffle(log)
    sizes = [rng.randint(0, 80) for _ in range(8)]
    parts = [tile(batch, group) for batch in to_batches(log, source, sizes)]
    assert_same_rows(rows_between(merge(parts, group), group, -1, FOREVER), rows(log, group, -1, FOREVER), group)


@given(predicates(), st.data())
@settings(max_examples=examples(60))
def test_filters(where: Predicate, data: st.DataObject) -> None:
    group = make_group([Count(over=hours(2), where=where), Sum("n", over=hours(1), where=where, name="s")])
    check(data.draw(event_lists(group, max_size=12)), group)


# ------------------------------------------------------------------------------------------------------ named cases


def event(at: int, **fields: Any) -> dict[str, Any]:
    return {"departed_at": at, "origin": "EWR", "gate": 1, "flight": "f", "serial": 0, **fields}


EVERYTHING = make_group(every_aggregate([hours(1), hours(3)]))


@pytest.mark.parametrize(
    "log",
    [
        [],
        [event(0)],
        [event(0, x=-0.0, n=0, s="", b=False)],
        [event(HOUR - 1, x=1.0), event(HOUR, x=2.0)],
        [event(0, x=1.0), event(3 * HOUR, x=2.0)],
        [event(0, x=1.0), event(4 * HOUR, x=2.0)],
        [event(0, x=1.0), event(100 * HOUR, x=2.0)],
        [event(5, x=1.0)] * 7,
        [event(5, flight=f, x=x) for f in ("a", "a\0", "\uffff", "\U00010000") for x in (2.0, -0.0, 0.0, None)],
        [event(5, s=s, b=b) for s in ("\uffff", "\U00010000", "", None) for b in (True, False, None)],
        [event(i, x=x) for i, x in enumerate([1e308, 1e308, -1e308, -1e308, 5e-324])],
        [event(i, x=x) for i, x in enumerate([1.0, 2.0**-53, 5e-324])],
        [event(i * HOUR, x=x) for i, x in enumerate([1e308, 5e-324, -1e308, 1.0, 1e16, -1e16, 1.797e308, 1.797e308])],
        [event(0, x=5e-324), event(1, x=-5e-324), event(2, x=-2.2250738585072009e-308)],
        [event(i, n=n) for i, n in enumerate([2**63 - 1, -(2**63), 2**63 - 1, 2**53 + 1])],
    ],
    ids=[
        "none",
        "one of nulls",
        "one of zeros",
        "hop border",
        "on falling out",
        "after falling out",
        "long gap",
        "duplicates",
        "ties",
        "ties of strings",
        "overflow and back",
        "sticky bit",
        "sliding extremes",
        "subnormals",
        "whole numbers",
    ],
)
def test_named_logs(log: Log) -> None:
    check(log, EVERYTHING)


def test_a_quantile_of_negative_values_of_the_first_bucket() -> None:
    group = make_group([Quantile("x", over=hours(1), q=q, name=f"q{i}") for i, q in enumerate((0.01, 0.5, 0.99))])
    check([event(0, x=-5e-324), event(1, x=0.0), event(2, x=5e-324)], group)


def test_filters_take_minus_zero_for_zero() -> None:
    is_zero = [Field("x").isin([0.0]), Field("x").isin([-0.0]), Field("x").eq(-0.0)]
    group = make_group([Count(over=hours(1), where=where, name=f"c{i}") for i, where in enumerate(is_zero)])
    check([event(0, x=0.0), event(1, x=-0.0), event(2, x=1.0), event(3)], group)


def test_many_distinct_values_and_long_lists() -> None:
    group = make_group(
        [
            CountDistinct("s", over=[hours(1), hours(5)]),
            CountDistinct("n", over=hours(5), precision=16),
            CountDistinct("x", over=hours(5), precision=4),
            LastN("n", n=1000, over=hours(5)),
            LastN("s", n=3, over=hours(2)),
            Last("s", over=hours(1)),
            TopK("s", k=1000, over=[hours(1), hours(5)]),
            TopK("n", k=3, over=hours(5)),
        ]
    )
    rng = random.Random(3)
    log = [
        event(rng.randrange(4 * HOUR), s=f"N{rng.randrange(2500)}", n=rng.randrange(10**6), x=rng.random(), serial=i) for i in range(3000)
    ]
    parts = [tile(batch, group) for batch in to_batches(log, group.source, [700, 1, 1200])]
    assert_same_rows(rows_between(merge(parts, group), group, -1, FOREVER), rows(log, group, -1, FOREVER), group)


def test_the_most_frequent_values_and_their_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that come and go and change places, few and many of them at once, looked at in pieces."""
    group = make_group([TopK(c, k=k, over=[hours(1), hours(7)], name=f"{c}_{k}") for c in ("s", "n", "x") for k in (1, 4)])
    rng = random.Random(11)
    log = []
    for _ in range(1500):
        rank = int(rng.paretovariate(0.7))
        fields = {"s": rng.choice(TEXTS) if rank > 9 else "a" * rank, "n": rng.choice([rank, -rank]), "x": rng.choice(FLOATS)}
        log.append(event(rng.randrange(40 * HOUR), **{**fields, "origin": rng.choice(KEY_STRINGS)}))
    for size in (2_000_000, 50, 1):
        monkeypatch.setattr("transforms.functions.top_k.CHUNK", size)
        check(log, group)


def test_the_most_frequent_of_values_that_stay_for_hundreds_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is in a long range of windows, more of them than a row shows; lists in one piece and in several."""
    overs = [timedelta(hours=h) for h in (1, 9, 30)]
    group = make_group([TopK(c, k=k, over=overs, name=f"{c}_{k}") for c in ("s", "n") for k in (2, 30)], hop_us=HOUR // 12)
    rng = random.Random(17)
    log = [
        event(
            rng.randrange(36 * HOUR), s=f"N{int(rng.paretovariate(0.5)) % 90}", n=rng.randrange(10**6), origin=rng.choice("AAAB"), serial=i
        )
        for i in range(400)
    ]
    for size in (2_000_000, 700):
        monkeypatch.setattr("transforms.functions.top_k.CHUNK", size)
        check(log, group)


def test_a_sum_sliding_over_large_and_small_values_stays_exact() -> None:
    group = make_group([kind("x", over=[timedelta(hours=k) for k in (1, 2, 24)]) for kind in (Sum, Variance, Std)])
    rng = random.Random(5)
    log = [event(rng.randrange(60 * HOUR), x=rng.choice([1, -1]) * 10.0 ** rng.randint(-320, 308)) for _ in range(400)]
    check(log, group)


def test_tiles_outside_the_range_do_not_matter() -> None:
    group = make_group([Count(over=[hours(1), hours(3)]), LastN("x", over=hours(3))])
    log = [event(h * HOUR, x=float(h)) for h in range(40)]
    upto, after = 20 * HOUR, 10 * HOUR
    needed = [e for e in log if after - group.longest_us - group.hop_us <= e["departed_at"] < upto]
    want = rows(log, group, after, upto)
    assert len(want) == 10
    assert_same_rows(computed(log, group, after, upto), want, group)
    assert_same_rows(computed(needed, group, after, upto), want, group)


def test_an_empty_range_has_no_rows_but_the_schema() -> None:
    check([event(0, x=1.0)], EVERYTHING, HOUR, HOUR)
    check([event(0, x=1.0)], EVERYTHING, 100 * HOUR, 200 * HOUR)


def test_merging_nothing_is_the_tile_of_no_events() -> None:
    empty = tile(to_batch([], EVERYTHING.source), EVERYTHING)
    assert merge([empty, empty], EVERYTHING).num_rows == 0
    assert_same_rows(rows_between(empty, EVERYTHING, -1, FOREVER), [], EVERYTHING)


def test_a_slice_of_a_batch_is_a_batch() -> None:
    log = [event(i * HOUR // 2, x=float(i), n=i, s=f"N{i}", b=i % 2 == 0) for i in range(12)]
    batch = to_batch(log, EVERYTHING.source)
    parts = [tile(batch.slice(start, 5), EVERYTHING) for start in (0, 5, 10)]
    assert_same_rows(rows_between(merge(parts, EVERYTHING), EVERYTHING, -1, FOREVER), rows(log, EVERYTHING, -1, FOREVER), EVERYTHING)


@given(st.data())
@settings(max_examples=examples(40))
def test_rows_made_in_small_pieces_equal_the_oracle(data: st.DataObject) -> None:
    """Few tiles at a time: some keys each, or a part of the time of a key that has many."""
    group = data.draw(groups(max_aggregates=3))
    log = data.draw(event_lists(group))
    after, upto = data.draw(ranges(log, group, 2)) if data.draw(st.booleans()) else (-1, FOREVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aggregates, "PIECE", data.draw(st.sampled_from([1, 2, 5])))
        check(log, group, after, upto)
