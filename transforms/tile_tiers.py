"""The tiles that a shard of the stream holds, and the rows that follow from them: a boundary at a time from few pieces, or many at once.

Over the tiles of a hop lie tiers of coarse ones: eight hops, eight times eight, and so on, at places fixed by the epoch. A window of any
length is covered by some tens of pieces of several tiers, where it would take thousands of tiles, so a row costs about the same over an
hour and over ninety days. A coarse tile is the merge of those below it and no more: a cache, which the tiles give anew whenever a shard
starts, and which a late tile is merged into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.aggregates import in_order, merge, rows_between, tile_schema
from transforms.definitions import EVENT_TIMESTAMP, TIMESTAMP, FeatureGroup
from transforms.hashing import hash64, mix
from transforms.lateness import NEVER
from transforms.made_rows import empty, joined, overs
from transforms.windows import ranges

__all__ = ["Part", "Parts", "Tiles", "cover", "hashes_of"]

Int = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

MAX_PARTS = 32
"""Above so many deltas some are merged: each costs some work of its own whenever rows are made."""
BLOCK = 8
"""A tile of one tier is so many of the tier below."""
FEW = 4 * BLOCK
"""Windows of so few hops are covered by tiles of one hop as well."""


class Part:
    """Some tiles, sorted by key and start, and where those of a key lie."""

    def __init__(self, tiles: pa.RecordBatch, group: FeatureGroup) -> None:
        self.tiles, self.starts = tiles, column_of(tiles, "tile_start")
        self.first, self.last = int(self.starts.min()), int(self.starts.max())
        hashes = hashes_of([tiles.column(i) for i in range(len(group.entity.keys))])
        new = np.ones(len(hashes), bool)
        # Keys of one hash may lie beside each other: each has runs of its own, as within one the starts ascend.
        new[1:] = (hashes[1:] != hashes[:-1]) | (self.starts[1:] <= self.starts[:-1])
        number = np.cumsum(new) - 1
        self.number = number.astype(np.int32)
        self.hash_of = hashes[new]
        self.order = np.argsort(self.hash_of, kind="stable")
        self.sorted = self.hash_of[self.order]
        self.hop, self.span = group.hop_us, (self.last - self.first) // group.hop_us + 2
        self.place = number * self.span + (self.starts - self.first) // self.hop

    @cached_property
    def by_time(self) -> tuple[Int, npt.NDArray[np.int32]]:
        """(starts in ascending order, where in the tiles they are)."""
        order = np.argsort(self.starts, kind="stable")
        return self.starts[order], order.astype(np.int32)

    def touched(self, intervals: Sequence[tuple[int, int]]) -> U64:
        """The hashes of keys with tiles that start in any interval, ``since <= start < upto``, sorted."""
        marked = np.zeros(len(self.hash_of), bool)
        starts, order = self.by_time
        for since, upto in intervals:
            marked[self.number[order[np.searchsorted(starts, since) : np.searchsorted(starts, upto)]]] = True
        out: U64 = self.sorted[marked[self.order]]
        return out

    def mostly(self, since: int, upto: int) -> bool:
        """Whether half of the tiles or more start in ``since <= start < upto``."""
        return 2 * np.count_nonzero((self.starts >= since) & (self.starts < upto)) >= len(self.starts)

    def find(self, hashes: U64, intervals: Sequence[tuple[int, int]]) -> tuple[Int, Int]:
        """Where the tiles are of keys with these hashes (sorted, unique) that start in any interval, ``since <= start < upto``: ranges."""
        some = [(since, upto) for since, upto in intervals if self.first < upto and since <= self.last]
        if not some:
            return self.order[:0], self.order[:0]
        if np.array_equal(hashes, self.sorted):
            if some[0][0] <= self.first and self.last < some[0][1]:
                return np.zeros(1, np.int64), np.full(1, len(self.starts))
            runs = np.arange(len(self.order))
        else:
            at, _ = ranges(np.searchsorted(self.sorted, hashes), np.searchsorted(self.sorted, hashes, side="right"))
            runs = np.sort(self.order[at])
        bounds = np.clip(-((self.first - np.array(some)) // self.hop), 0, self.span - 1)
        lo, hi = np.searchsorted(self.place, runs * self.span + bounds.T[:, :, None]).reshape(2, -1)
        return lo, hi


class Parts:
    """Tiles of one length: a merged base and the deltas since. Folded when the deltas grow long.

    What is added waits until somebody looks: of a hop that comes in fifty rounds there is one delta then, not fifty. Of the deltas the
    newest are merged with those that are not far larger, so a tile is merged some few times however many come after it.
    """

    def __init__(self, group: FeatureGroup) -> None:
        self.group = group
        self._parts: list[Part] = []
        self._waiting: list[pa.RecordBatch] = []

    @property
    def parts(self) -> list[Part]:
        """The base and its deltas, and what waited in them."""
        self._settle()
        return self._parts

    def add(self, tiles: pa.RecordBatch) -> None:
        """Append tiles (of any events not yet in)."""
        if tiles.num_rows:
            self._waiting.append(tiles)
        if len(self._waiting) > MAX_PARTS:
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        tiles = self._waiting[0] if len(self._waiting) == 1 else merge(self._waiting, self.group)
        self._waiting = []
        self._parts.append(Part(tiles, self.group))
        self.tidy(MAX_PARTS)

    def tidy(self, most: int) -> None:
        """Merge the newest deltas where there are more than so many parts."""
        if len(self._parts) > most:
            first = len(self._parts) - 2
            size = sum(len(p.starts) for p in self._parts[first:])
            while first > 1 and len(self._parts[first - 1].starts) <= 2 * size:
                first -= 1
                size += len(self._parts[first].starts)
            self._parts[first:] = [Part(merge([p.tiles for p in self._parts[first:]], self.group), self.group)]

    @property
    def long(self) -> bool:
        """Whether folding all into one pays."""
        return self._deltas() > 1

    @property
    def overlong(self) -> bool:
        """Whether it does not pay any more to wait for a better moment."""
        return self._deltas() > 2

    def _deltas(self) -> float:
        """How many tiles the deltas have for each one of the base, or of 4,096."""
        deltas: int = sum(len(p.starts) for p in self._parts[1:]) + sum(each.num_rows for each in self._waiting)
        return deltas / max(4096, len(self._parts[0].starts) if self._parts else 0)

    def compact(self, horizon: int) -> pa.RecordBatch:
        """Fold all into one and forget the tiles that start before ``horizon``; the folded tiles."""
        kept = [p.tiles if p.first >= horizon else p.tiles.filter(pa.array(p.starts >= horizon)) for p in self.parts]
        merged = merge(kept, self.group)
        self._parts = [Part(merged, self.group)] if merged.num_rows else []
        return merged

    def find(self, hashes: U64, intervals: Sequence[tuple[int, int]], or_more: bool = False) -> Iterator[pa.RecordBatch]:
        """The tiles of keys with these hashes that start in any of the intervals, which do not overlap. ``or_more``: and others, where
        picking them out would cost more than looking at those as well."""
        for part in self.parts:
            if or_more and 2 * len(hashes) >= len(part.sorted) and part.mostly(intervals[0][0], intervals[-1][1]):
                yield part.tiles
                continue
            at, _ = ranges(*part.find(hashes, intervals))
            if len(at):
                yield part.tiles if len(at) == len(part.starts) else part.tiles.take(pa.array(at))

    def has_more(self, hashes: U64, since: int, upto: int, than: int) -> bool:
        """Whether :meth:`find` gives more than so many tiles."""
        for part in self.parts:
            lo, hi = part.find(hashes, [(since, upto)])
            than -= int((hi - lo).sum())
            if than < 0:
                return True
        return False


class Tiles(Parts):
    """A group's tiles of one hop, and tiers of coarse ones over those whose time has passed."""

    def __init__(self, group: FeatureGroup) -> None:
        super().__init__(group)
        self.sizes: list[int] = []
        """The lengths of the tiers' tiles in hops."""
        while (BLOCK ** (len(self.sizes) + 1)) * 2 <= group.longest_us // group.hop_us and group.longest_us // group.hop_us > FEW:
            self.sizes.append(BLOCK ** (len(self.sizes) + 1))
        self.tiers = [Parts(group) for _ in self.sizes]
        self.sealed = [NEVER for _ in self.sizes]
        """Up to where each tier is made: tiles that come later are merged into it, those beyond are not in it yet."""
        self.middles: dict[int, Middle] = {}
        """Of each stretch of the newest rows; made anew when the stretch moves by a block, or a late tile comes."""
        self._prepared = NEVER
        self._ahead = Ahead.nothing(group)

    def add(self, tiles: pa.RecordBatch) -> None:
        """Append tiles (of any events not yet in)."""
        super().add(tiles)
        if not tiles.num_rows:
            return
        starts = column_of(tiles, "tile_start")
        for size, tier, sealed in zip(self.sizes, self.tiers, self.sealed, strict=True):
            if sealed != NEVER and (behind := starts < sealed).any():
                tier.add(self._coarse([tiles.filter(pa.array(behind))], size))
        if self.middles:
            blocks = starts // (BLOCK * self.group.hop_us)
            self.middles = {n: m for n, m in self.middles.items() if not np.any((m.lo <= blocks) & (blocks < m.hi))}
        early = starts < self._ahead.boundary - self.group.hop_us
        if early.any():
            self._ahead = self._ahead.without(tiles.filter(pa.array(early)), self.group)

    def compact(self, horizon: int) -> pa.RecordBatch:
        """Fold all into one and forget the tiles that start before ``horizon``; the folded tiles."""
        for tier in self.tiers:
            if tier.parts:
                tier.compact(horizon)
        return super().compact(horizon)

    def rows(self, after: int, upto: int, late: U64 | None = None, late_from: int = 0) -> pa.RecordBatch:
        """The rows with ``after < boundary <= upto``, and those of the keys ``late`` (hashes) with ``late_from < boundary <= after``,
        sorted by (keys, event timestamp)."""
        out = []
        if late is not None and len(late):
            out.append(self._rows_of(np.unique(late), late_from, after, False))
        if upto > after:
            out.append(self._rows_of(self._due(after, upto), after, upto, True))
        return self._sorted(out)

    def _due(self, after: int, upto: int) -> U64:
        """The hashes of keys with rows in ``after < boundary <= upto``, sorted, each once."""
        # How long after a tile's start the rows are that it makes. NEVER - reach stays far inside int64.
        reaches = [self.group.hop_us + over for over in (0, *overs(self.group))]
        intervals = [(after - r + 1, upto - r + 1) for r in reaches]
        found = [part.touched(intervals) for part in self.parts]
        out: U64 = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))
        return out

    def _sorted(self, batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
        some = [b for b in batches if b.num_rows]
        rows = joined(some, self.group.row_schema)
        if len(some) < 2:
            return rows
        by = [(name, "ascending") for name in (*self.group.entity.keys, EVENT_TIMESTAMP)]
        return rows.take(pc.sort_indices(rows, sort_keys=by))

    def _rows_of(self, hashes: U64, after: int, upto: int, due: bool) -> pa.RecordBatch:
        """The rows of keys with these hashes. ``due``: no other key has any."""
        hop = self.group.hop_us
        if not len(hashes) or upto // hop <= after // hop:
            return empty(self.group.row_schema)
        steps = upto // hop - after // hop
        if due and steps == 1 and self._ahead.boundary == upto:
            return self._rows_at(hashes, upto)
        since = after - self.group.longest_us - hop
        pieces = sum(b - a for lo, hi in self._stretches(upto) for _, a, b in cover(lo, hi, len(self.sizes)))
        if self.sizes and self.has_more(hashes, since, upto, steps * len(hashes) * pieces):
            boundaries = [(upto // hop - n) * hop for n in reversed(range(steps))]
            return self._sorted([self._rows_at(np.intersect1d(hashes, self._due(b - hop, b), assume_unique=True), b) for b in boundaries])
        found = list(self.find(hashes, [(since, upto)], or_more=due))
        tiles = found[0] if len(found) == 1 else merge(found, self.group)  # a part is merged already, and so is what is found in it
        return rows_between(tiles, self.group, after, upto)

    def _stretches(self, boundary: int) -> list[tuple[int, int]]:
        """The hops that the windows of a row are made of, cut where they begin and end and one hop before each, where tiles are that fall
        out or come in with this row: to it, pieces that reach across no cut are what tiles are."""
        now, steps = boundary // self.group.hop_us, {0, 1}
        for over in overs(self.group):
            steps |= {over // self.group.hop_us, over // self.group.hop_us + 1}
        return list(pairwise(sorted(now - step for step in steps)))

    def _rows_at(self, here: U64, boundary: int) -> pa.RecordBatch:
        """The rows of one boundary, of keys with these hashes: each has one there."""
        group, last = self.group, boundary - self.group.hop_us
        if not len(here):
            return empty(group.row_schema)
        ahead = self._ahead
        if ahead.boundary != boundary or not np.isin(ahead.hashes, here, assume_unique=True).all():
            ahead = Ahead.nothing(group)
        self._seal(last)
        found = [
            *self._pieces(np.setdiff1d(here, ahead.hashes, assume_unique=True), boundary),
            *self.find(here, [(last, boundary)]),
        ]
        return rows_between(in_order([ahead.tiles, merge(found, group)], group), group, last, boundary)

    def _pieces(self, hashes: U64, boundary: int) -> list[pa.RecordBatch]:
        """What the rows of a boundary are made of beside the tiles of the last hop, of keys with these hashes; tiers are made up to it."""
        if not len(hashes):
            return []
        hop = self.group.hop_us
        single, found = [], []
        for number, (lo, hi, up, down) in enumerate(self._blocked(boundary)[:-1]):
            if up >= down:
                single.append((lo, hi))
                continue
            single += [(lo, up * BLOCK), (down * BLOCK, hi)]
            found += self._middle(number, up, down, hashes)
        return [*found, *self.find(hashes, [(lo * hop, hi * hop) for lo, hi in single if lo < hi])]

    def prepare(self, boundary: int) -> None:
        """Make what the rows after ``boundary`` need of tiles before it, all rows up to which were given out: then little is left to do
        between the last event of the next boundary and its rows. When it is called, or not, changes no row."""
        if not self.middles or boundary == self._prepared:
            return
        self._prepared = boundary
        self._seal(boundary)
        for each in (self, *self.tiers):
            each.tidy(MAX_PARTS - 1)
        after = boundary + self.group.hop_us
        due = self._due(boundary, after)
        begins = np.array([lo for lo, _ in self._stretches(after)]) * self.group.hop_us
        # A row tells pieces of one stretch from each other no more than if they were one tile.
        made = self._moved(self._pieces(due, after), lambda starts: begins[np.searchsorted(begins, starts, side="right") - 1])
        self._ahead = Ahead(after, due, made)

    def _blocked(self, boundary: int) -> list[tuple[int, int, int, int]]:
        """Each of :meth:`_stretches`, and which whole blocks are in it; none of them reaches into the last hop."""
        return [(lo, hi, -(-lo // BLOCK), hi // BLOCK if self.sizes else NEVER) for lo, hi in self._stretches(boundary)]

    def _middle(self, number: int, lo: int, hi: int, hashes: U64) -> list[pa.RecordBatch]:
        """Blocks ``lo .. hi - 1`` of keys with these hashes, of the stretch with this number: one tile each, which is kept."""
        kept = self.middles.get(number)
        if kept is None or (kept.lo, kept.hi) < (lo, hi):
            kept = self.middles[number] = Middle(self.group, lo, hi)
        if (kept.lo, kept.hi) != (lo, hi):  # of a correction, before what is kept
            return self._blocks(lo, hi, hashes)
        new = np.setdiff1d(hashes, kept.known, assume_unique=True)
        if len(new):
            kept.add(self._moved(self._blocks(lo, hi, new), lambda starts: np.full_like(starts, lo * self.sizes[0] * self.group.hop_us)))
            kept.known = np.union1d(kept.known, new)
        return list(kept.find(hashes, [(NEVER, -NEVER)]))

    def _blocks(self, lo: int, hi: int, hashes: U64) -> list[pa.RecordBatch]:
        """The tiers' tiles that blocks ``lo .. hi - 1`` of keys with these hashes are made of."""
        intervals: dict[int, list[tuple[int, int]]] = {}
        for tier, a, b in cover(lo, hi, len(self.sizes) - 1):
            length = self.sizes[tier] * self.group.hop_us
            intervals.setdefault(tier, []).append((a * length, b * length))
        return [each for tier, some in intervals.items() for each in self.tiers[tier].find(hashes, some)]

    def _seal(self, boundary: int) -> None:
        """Make the tiers up to a boundary up to which all rows were given out: nothing but late tiles comes before it any more."""
        below: Parts = self
        for number, (size, tier) in enumerate(zip(self.sizes, self.tiers, strict=True)):
            length, before = size * self.group.hop_us, self.sealed[number]
            upto = boundary // length * length
            if upto > before:
                fresh = [
                    p.tiles.filter(pa.array((p.starts >= before) & (p.starts < upto)))
                    for p in below.parts
                    if p.last >= before and p.first < upto
                ]
                tier.add(self._coarse(fresh, size))
                if tier.long:
                    tier.compact(NEVER)
                self.sealed[number] = upto
            below = tier

    def _coarse(self, tiles: Sequence[pa.RecordBatch], size: int) -> pa.RecordBatch:
        """The tiles merged to tiles of ``size`` hops."""
        return self._moved(tiles, lambda starts: starts - starts % (size * self.group.hop_us))

    def _moved(self, tiles: Sequence[pa.RecordBatch], to: Callable[[Int], Int]) -> pa.RecordBatch:
        """The tiles with other starts, merged."""
        out = []
        for each in tiles:
            columns, at = each.columns, each.schema.get_field_index("tile_start")
            columns[at] = pa.array(to(column_of(each, "tile_start"))).cast(TIMESTAMP)
            out.append(pa.RecordBatch.from_arrays(columns, schema=each.schema))
        return merge(out, self.group)


class Ahead(NamedTuple):
    """What the rows of a boundary are made of beside the tiles of the last hop, of keys that have one there whatever comes: merged."""

    boundary: int
    hashes: U64
    tiles: pa.RecordBatch

    @classmethod
    def nothing(cls, group: FeatureGroup) -> Ahead:
        """Of no key."""
        return cls(NEVER, np.zeros(0, np.uint64), empty(tile_schema(group)))

    def without(self, late: pa.RecordBatch, group: FeatureGroup) -> Ahead:
        """The same, but of no key that has one of the tiles ``late``."""
        lost, of = (hashes_of([tiles.column(i) for i in range(len(group.entity.keys))]) for tiles in (late, self.tiles))
        kept = self.hashes[np.isin(self.hashes, lost, invert=True)]
        return Ahead(self.boundary, kept, self.tiles.filter(pa.array(np.isin(of, lost, invert=True))))


class Middle(Parts):
    """Blocks ``lo .. hi - 1`` of some keys, one tile each: the part of a window that stays while its ends move within a block."""

    def __init__(self, group: FeatureGroup, lo: int, hi: int) -> None:
        super().__init__(group)
        self.lo, self.hi = lo, hi
        self.known = np.zeros(0, np.uint64)
        """The hashes of the keys that are in, sorted."""


def cover(lo: int, hi: int, tiers: int) -> list[tuple[int, int, int]]:
    """The fewest pieces of tiers 0 to ``tiers`` that are the hops ``lo .. hi - 1``: (tier, first, one after the last), in units of the
    tier's own length, :data:`BLOCK` to the power of the tier in hops."""
    out: list[tuple[int, int, int]] = []
    for tier in range(tiers + 1):
        up, down = -(-lo // BLOCK), hi // BLOCK
        if tier == tiers or up >= down:
            return [*out, (tier, lo, hi)] if lo < hi else out
        out += [(tier, a, b) for a, b in ((lo, up * BLOCK), (down * BLOCK, hi)) if a < b]
        lo, hi = up, down
    return out


def column_of(batch: pa.RecordBatch, name: str) -> Int:
    """A column of whole numbers or timestamps, int64."""
    out: Int = batch.column(batch.schema.get_field_index(name)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return out


def hashes_of(keys: Sequence[pa.Array]) -> U64:
    """A hash per key: equal keys have equal ones. A collision costs time, never a wrong row."""
    h = np.zeros(len(keys[0]), dtype=np.uint64)
    for column in keys:
        h = mix(h ^ hash64(column))
    return h
