"""Rows from tiers of coarse tiles are those from the tiles themselves, to the bit: whatever comes late, is forgotten or begins anew."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from tests.oracle.strategies import HOUR, event_lists, groups, make_group, make_source, to_batch
from tests.unit.stream_log import Emitted, Stream
from tests.unit.test_fold import Case, cases, check
from transforms import tile_tiers
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import FeatureGroup, Mean, hours
from transforms.tile_tiers import Parts, Tiles, cover, hashes_of

AS_IT_IS = {"BLOCK": tile_tiers.BLOCK, "FEW": tile_tiers.FEW, "Tiles.has_more": Tiles.has_more}


@pytest.fixture(autouse=True, scope="module")
def tiers_everywhere() -> Iterator[None]:
    """Tiers of two, over windows of two hops and more, and rows of every single step made from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_tiers, "BLOCK", 2)
        patch.setattr(tile_tiers, "FEW", 1)
        patch.setattr(Tiles, "has_more", lambda self, hashes, since, upto, than: upto - since < 40 * self.group.hop_us)
        yield


@given(st.integers(-100, 100), st.integers(0, 3000), st.integers(0, 6))
def test_a_cover_is_every_hop_once(lo: int, length: int, tiers: int) -> None:
    pieces = cover(lo, lo + length, tiers)
    block = tile_tiers.BLOCK
    hops = sorted(h for tier, a, b in pieces for h in range(a * block**tier, b * block**tier))
    assert hops == list(range(lo, lo + length))
    assert sum(b - a for tier, a, b in pieces if tier < tiers) <= 2 * (block - 1) * tiers


def pieces_of(data: st.DataObject, group: FeatureGroup) -> list[list[dict[str, Any]]]:
    log = data.draw(event_lists(group))
    time = group.source.event_time
    return [sorted(log, key=lambda e: e[time])[i : i + 3] for i in range(0, len(log), 3)]


@given(st.data())
@settings(max_examples=examples(50))
def test_incremental_rows_are_those_made_anew(data: st.DataObject) -> None:
    """Events in order and late ones, steps of one hop and of many, folding in between, a start in the middle."""
    group = data.draw(groups(max_aggregates=3))
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    tiles, known = Tiles(group), []
    boundary = None
    for part in pieces_of(data, group):
        kept = [e for e in part if rng.random() < 0.8]
        late = [e for e in part if e not in kept]
        for events in (kept, late):
            if not events:
                continue
            made = tile(to_batch(events, group.source), group)
            tiles.add(made)
            known.append(made)
            newest = max(e[group.source.event_time] for e in events)
            upto = (newest // group.hop_us + 1) * group.hop_us
            if boundary is None:
                boundary = upto - 2 * group.hop_us
            if rng.random() < 0.3:  # a restart: everything is made anew from the tiles
                tiles = Tiles(group)
                tiles.add(merge(known, group))
            if rng.random() < 0.3:
                tiles.compact(-(2**62))
            upto = max(upto, boundary) + group.hop_us * rng.choice([0, 0, 1, 5, group.longest_us // group.hop_us])
            touched = merge([made], group)
            keys = hashes_of([touched.column(i) for i in range(len(group.entity.keys))])
            since = boundary - group.hop_us * rng.choice([0, 1, 3])
            got = tiles.rows(boundary, upto, keys, since)
            whole = merge(known, group)
            want = rows_between(whole, group, boundary, upto)
            chosen = np.isin(hashes_of([whole.column(i) for i in range(len(group.entity.keys))]), keys)
            corrected = rows_between(whole.filter(pa.array(chosen)), group, since, boundary)
            by = [(name, "ascending") for name in (*group.entity.keys, "event_timestamp")]
            both = pa.Table.from_batches([want, corrected]).sort_by(by)
            assert _bits(got) == _bits(both)
            boundary = upto
            if rng.random() < 0.5:
                tiles.prepare(boundary)


def _bits(rows: pa.RecordBatch | pa.Table) -> str:
    return repr(rows.to_pydict())


@given(cases(max_size=24))
@settings(max_examples=examples(25))
def test_a_stream_from_tiers_equals_the_oracle_over_stops_and_late_events(case: Case) -> None:
    out, stop = Emitted(), None
    for _ in range(case.rng.choice([0, 1, 2])):
        stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop)
        stream.steps(case.rng.choice([0, 10, 30]))
        stop = stream.stop()
    stream = Stream(case.rng, case.groups, case.logs, case.shards, out, stop=stop)
    stream.steps(case.rng.choice([0, 20, 60]))
    stream.finish()
    check(case, out)


def test_tiles_that_are_forgotten_are_in_no_row() -> None:
    """Over a long time with a horizon that moves along: tiers forget what the tiles do."""
    group = make_group([Mean("x", over=[hours(1), hours(8), hours(20)])], source=make_source(name="s"))
    tiles, known, rng = Tiles(group), [], random.Random(3)
    assert len(tiles.sizes) > 2
    event = {"origin": "a", "gate": 1, "flight": "f", "serial": 1}
    start = 500_000
    for hour in range(90):
        log = [
            {
                **{f.name: None for f in group.source.fields},
                **event,
                "x": rng.choice([0.1, 1e300, 5e-324]),
                "departed_at": (start + hour) * HOUR,
            }
        ]
        if rng.random() < 0.7:
            made = tile(to_batch(log, group.source), group)
            tiles.add(made)
            known.append(made)
        after, upto = (start + hour) * HOUR, (start + hour + 1) * HOUR
        assert _bits(tiles.rows(after, upto)) == _bits(rows_between(merge(known, group), group, after, upto))
        if hour % 3 == 0:
            tiles.prepare(upto)
        if hour % 7 == 0:
            tiles.compact(upto - group.longest_us - group.hop_us)
    assert all(int(p.first) >= (start + 60) * HOUR for tier in tiles.tiers for p in tier.parts[:1])


class Counted:
    """Tiles of one event for each key, hop by hop, and how many tiles were merged since."""

    def __init__(self, group: FeatureGroup, keys: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
        event = {**{f.name: None for f in group.source.fields}, "gate": 1, "flight": "f", "serial": 1, "x": 0.1, "departed_at": 0}
        self.group, self.merged = group, 0
        self.made = tile(to_batch([{**event, "origin": key} for key in keys], group.source), group)
        monkeypatch.setattr(tile_tiers, "merge", self._merge)

    def _merge(self, tiles: Sequence[pa.RecordBatch], of: FeatureGroup) -> pa.RecordBatch:
        self.merged += sum(t.num_rows for t in tiles)
        return merge(tiles, of)

    def of_hop(self, number: int) -> pa.RecordBatch:
        """Those of a hop."""
        columns, place = self.made.columns, self.made.schema.get_field_index("tile_start")
        columns[place] = pa.array([number * self.group.hop_us] * self.made.num_rows).cast(self.made.schema.field(place).type)
        return pa.RecordBatch.from_arrays(columns, schema=self.made.schema)


def test_a_tile_is_merged_a_few_times_however_many_come_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In however many portions a hop's tiles come, and however long a window is: what a tile costs does not grow with those before it."""
    group = make_group([Mean("x", over=hours(20_000))], source=make_source(name="s"))
    counted = Counted(group, "abc", monkeypatch)
    tiles, hops, portions = Parts(group), 1_500, 3
    for hop in range(hops):
        for _ in range(portions):
            tiles.add(counted.of_hop(hop))
        assert len(tiles.parts) <= tile_tiers.MAX_PARTS
    assert counted.merged <= 10 * hops * portions * counted.made.num_rows
    assert _bits(tiles.compact(-(2**62))) == _bits(merge([counted.of_hop(hop) for hop in range(hops) for _ in range(portions)], group))


def test_what_does_not_hang_on_a_boundarys_last_events_is_merged_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 10.6: a boundary's rows wait for the tiles of its last hop to be merged, and for no others, once a stream does all else while
    nothing waits."""
    monkeypatch.setattr(tile_tiers, "BLOCK", 8)
    monkeypatch.setattr(Tiles, "has_more", lambda *of_rows: True)
    group = make_group([Mean("x", over=[hours(60), hours(300)])], source=make_source(name="s"))
    keys = "abcde"
    counted = Counted(group, keys, monkeypatch)

    def merged(prepares: bool) -> tuple[list[int], int]:
        tiles, each, before = Tiles(group), [], counted.merged
        for hop in range(800):
            tiles.add(counted.of_hop(hop))
            start = counted.merged
            tiles.rows(hop * HOUR, (hop + 1) * HOUR)
            each.append(counted.merged - start)
            if prepares:
                tiles.prepare((hop + 1) * HOUR)
        return each[400:], counted.merged - before

    (late, whole), (soon, of_all) = merged(False), merged(True)
    assert max(late) > 2 * np.median(late)
    assert max(soon) <= len(keys)
    assert of_all <= 1.1 * whole


def test_a_late_tile_of_a_boundary_that_was_prepared_long_ago_is_in_its_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that was behind prepared no later one; and of what was kept beside it, another late tile has left nothing."""
    for name, value in AS_IT_IS.items():
        monkeypatch.setattr(f"transforms.tile_tiers.{name}", value)
    group = make_group([Mean("x", over=[hours(300)])], source=make_source(name="s"))
    event = {**{f.name: None for f in group.source.fields}, "gate": 1, "flight": "f", "serial": 1}

    def of_hop(hop: int, origin: str = "a", x: float = 1.0) -> pa.RecordBatch:
        return tile(to_batch([{**event, "origin": origin, "x": x, "departed_at": hop * HOUR}], group.source), group)

    def hashes(tiles: pa.RecordBatch) -> tile_tiers.U64:
        return tile_tiers.hashes_of([tiles.column(i) for i in range(len(group.entity.keys))])

    tiles, known, now = Tiles(group), [of_hop(hop) for hop in range(400)], 400
    for each in known:
        tiles.add(each)
    tiles.rows((now - 1) * HOUR, now * HOUR)
    tiles.prepare(now * HOUR)
    for now in range(401, 419):
        known.append(of_hop(now - 1))
        tiles.add(known[-1])
        tiles.rows((now - 1) * HOUR, now * HOUR)
    for late, origin in ((403, "b"), (398, "a")):
        known.append(of_hop(late, origin, 100.0))
        tiles.add(known[-1])
        got = tiles.rows(now * HOUR, now * HOUR, hashes(known[-1]), late * HOUR)
        whole = merge(known, group)
        theirs = whole.filter(pa.array(np.isin(hashes(whole), hashes(known[-1]))))
        assert _bits(got) == _bits(rows_between(theirs, group, late * HOUR, now * HOUR))
        tiles.prepare(now * HOUR)


def test_a_late_tile_costs_others_nothing_of_what_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_tiers, "BLOCK", 8)
    monkeypatch.setattr(Tiles, "has_more", lambda *of_rows: True)
    group = make_group([Mean("x", over=[hours(60), hours(300)])], source=make_source(name="s"))
    keys = [f"key{i}" for i in range(40)]
    counted = Counted(group, keys, monkeypatch)
    tiles, known, now = Tiles(group), [counted.of_hop(hop) for hop in range(400)], 400
    for each in known:
        tiles.add(each)
    tiles.rows((now - 1) * HOUR, now * HOUR)
    tiles.prepare(now * HOUR)
    known += [counted.of_hop(now - 30).slice(7, 1), counted.of_hop(now)]
    for each in known[-2:]:
        tiles.add(each)
    before = counted.merged
    got = tiles.rows(now * HOUR, (now + 1) * HOUR)
    assert counted.merged - before <= 3 * len(keys), "those of the last hop, and of one key all of its pieces"
    assert _bits(got) == _bits(rows_between(merge(known, group), group, now * HOUR, (now + 1) * HOUR))


def test_a_late_tile_is_in_rows_that_were_prepared_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys whose pieces are merged ahead: what comes late before, within and behind the stretch that a window begins with."""
    monkeypatch.setattr(tile_tiers, "BLOCK", 8)
    monkeypatch.setattr(Tiles, "has_more", lambda *of_rows: True)
    group = make_group([Mean("x", over=[hours(60), hours(300)])], source=make_source(name="s"))
    counted = Counted(group, "ab", monkeypatch)
    tiles, known, now = Tiles(group), [counted.of_hop(hop) for hop in range(400)], 400
    for each in known:
        tiles.add(each)
    tiles.rows((now - 1) * HOUR, now * HOUR)
    for late in (now - 301, now - 300, now - 200, now - 60, now - 2):
        tiles.prepare(now * HOUR)
        known += [counted.of_hop(late), counted.of_hop(now)]
        tiles.add(known[-2])
        tiles.add(known[-1])
        now += 1
        want = rows_between(merge(known, group), group, (now - 1) * HOUR, now * HOUR)
        assert want.num_rows == 2
        assert _bits(tiles.rows((now - 1) * HOUR, now * HOUR)) == _bits(want)
