"""Which segments of streams' logs are still needed, whatever their age.

**Rows**: a segment that holds the newest row of a key of the applied graph, as that restores an online store which lost its memory; or a
row that is younger, by the stream's own event time, than the longest window and the ttl, as ``tandem verify`` compares it and a late
event may correct it. **Late events**: a segment that names a record which a start reads again, or an event that a row touches which
verify still compares. Of a stream without checkpoints nothing starts, and nothing is compared. What goes is told before it goes
(:mod:`pipelines.streaming.state.taken_segments`), so verify does not call it missing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.lake.file_addresses import ObjectGone
from pipelines.lake.row_compare import common_codes, locate
from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.taken_segments import Taken
from transforms.columns import column_us
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, EventSource, FeatureGroup
from transforms.errors import DataError
from transforms.fold import OFFSET

__all__ = ["Checkpoints", "Segment", "segment_of", "spared_segments"]

Int = npt.NDArray[np.int64]
Checkpoints = Mapping[str, Sequence[Checkpoint]]
"""Stream -> every checkpoint on record, of all its shards."""
PARTITION = "_partition"
_AT_ONCE = 1 << 17
"""Rows: fewer are not worth a merge."""
_NAME = re.compile(r"stream/([^/]+)/(rows|late)/([^/]+)/[^/]+\.parquet")


@dataclass(frozen=True)
class Segment:
    """A sealed segment: of which stream, ``rows`` or ``late``, of which group or source; ``opened`` gives the file, open for reading."""

    name: str
    stream: str
    kind: str
    place: str
    opened: Callable[[], BinaryIO]

    def table(self, *columns: str) -> pa.Table | None:
        """Those of its columns, which alone are read; None where it has not all of them, or is gone: then nobody else reads it either.
        Raises DataError: it cannot be told what it holds."""
        try:
            with self.opened() as content:
                file = pq.ParquetFile(content, pre_buffer=True)  # columns side by side in one read
                return file.read(columns=list(columns)) if {*columns} <= {*file.schema_arrow.names} else None
        except (FileNotFoundError, ObjectGone):
            return None
        except (OSError, pa.ArrowException) as error:
            line = str(error).splitlines()[0]
            raise DataError(f"nothing is removed: {self.name} cannot be read ({line}); repair or delete it first") from None


def segment_of(name: str, opened: Callable[[], BinaryIO]) -> Segment | None:
    """The segment of this name, as ``stream/<name>/rows/<group>/<file>.parquet``; None for anything else."""
    found = _NAME.fullmatch(name)
    return None if found is None else Segment(name, found[1], found[2], found[3], opened)


def spared_segments(
    groups: Mapping[str, FeatureGroup],
    applied: Mapping[str, str],
    checkpoints: Checkpoints,
    before: Callable[[str], Taken],
    segments: Iterable[Segment],
    going: Collection[str],
) -> tuple[set[str], dict[str, Taken]]:
    """Of the segments whose names are ``going``: those that stay; and stream -> what its log is to say of the others.

    ``applied``: group -> fingerprint; ``before``: stream -> what was taken of it earlier; ``segments``: all that there are.
    """
    of_place: dict[tuple[str, str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        of_place[segment.stream, segment.kind, segment.place].append(segment)
    spared, taken = set[str](), dict[str, Taken]()

    def more(stream: str, what: Taken) -> None:
        taken[stream] = taken.get(stream, Taken()).with_more(what)

    for (stream, kind, place), each in of_place.items():
        if kind == "rows" and any(s.name in going for s in each):
            keeps, upto = _rows(groups.get(place), applied.get(place), checkpoints.get(stream, ()), each, going)
            spared |= keeps
            more(stream, Taken() if upto is None else Taken({place: upto}))
    sources = {g.source.name: g.source for g in groups.values()}
    for (stream, kind, place), each in of_place.items():
        if kind == "late":
            known = before(stream).with_more(taken.get(stream, Taken()))
            for segment in (s for s in each if s.name in going):
                offsets = _late(groups, sources.get(place), checkpoints.get(stream, ()), known, segment)
                if offsets is None:
                    spared.add(segment.name)
                else:
                    more(stream, Taken(late={place: offsets}))
    return spared, taken


def _rows(
    group: FeatureGroup | None, graph: str | None, points: Sequence[Checkpoint], segments: Sequence[Segment], going: Collection[str]
) -> tuple[set[str], int | None]:
    """The names of those that stay, and up to which event timestamp the others hold rows. A group that is defined no more has none."""
    if group is None:
        return set(), None
    keys, young = list(group.entity.keys), _compared_after(group, points)
    newest, ours, last = _Newest(keys), dict[str, pa.Table](), dict[str, int]()
    for segment in sorted(segments, key=lambda s: s.name not in going):
        if segment.name not in going and all(young is not None and at > young for at in last.values()):
            break  # none of those that were to go may: what the others hold is no question
        rows = segment.table(*keys, EVENT_TIMESTAMP, FINGERPRINT)
        if rows is None or not rows.num_rows:  # of another definition: nobody reads it for this one
            continue
        mine = rows if graph is None else rows.filter(pc.equal(rows.column(FINGERPRINT), graph))
        mine = _latest(mine.select([*keys, EVENT_TIMESTAMP]), keys)
        newest.add(mine)
        if segment.name in going:
            last[segment.name], ours[segment.name] = int(column_us(rows, EVENT_TIMESTAMP).max()), mine
    stays = {name for name, at in last.items() if young is not None and at > young}
    stays |= newest.held_by({name: mine for name, mine in ours.items() if name not in stays})
    return stays, max((at for name, at in last.items() if name not in stays), default=None)


class _Newest:
    """The newest row of each key, of many tables that have few rows each: as much is judged at once as there are keys, so that the work
    grows with the rows and not with keys times tables."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys, self.rows, self.waiting, self.count = keys, pa.table({}), list[pa.Table](), 0

    def add(self, rows: pa.Table) -> None:
        self.waiting.append(rows)
        self.count += rows.num_rows
        if self.count >= max(_AT_ONCE, self.rows.num_rows):
            self._merge()

    def _merge(self) -> None:
        known = [self.rows] if self.rows.num_rows else []
        if self.waiting:
            self.rows = _latest(pa.concat_tables([*known, *self.waiting]), self.keys)
        self.waiting, self.count = [], 0

    def held_by(self, tables: Mapping[str, pa.Table]) -> set[str]:
        """The names of those of the tables, which were all added, that have the newest row of some key."""
        self._merge()
        found, names, count = set[str](), list[str](), 0
        for number, (name, table) in enumerate(tables.items(), 1):
            names.append(name)
            count += table.num_rows
            if count >= max(_AT_ONCE, self.rows.num_rows) or number == len(tables):
                some = pa.concat_tables([tables[n] for n in names])
                at = locate(some, self.rows, self.keys) if count else np.zeros(0, np.int64)
                is_newest = column_us(some, EVENT_TIMESTAMP) >= column_us(self.rows, EVENT_TIMESTAMP)[at] if count else np.zeros(0, bool)
                ends = np.cumsum([tables[n].num_rows for n in names])
                found |= {n for n, part in zip(names, np.split(is_newest, ends[:-1]), strict=True) if part.any()}
                names, count = [], 0
        return found


def _latest(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """A row of each key with the greatest event timestamp."""
    if not rows.num_rows:
        return rows
    (code,) = common_codes([rows], keys)
    order = np.lexsort((column_us(rows, EVENT_TIMESTAMP), code))
    return rows.take(pa.array(order[np.append(code[order][1:] != code[order][:-1], True)])).combine_chunks()


def _compared_after(group: FeatureGroup, points: Sequence[Checkpoint]) -> int | None:
    """The event timestamp (microseconds) after which rows are compared and corrected; None where there is no checkpoint to compare by."""
    marks = [point["output_watermark"].get(group.name) for point in points]
    if not marks:
        return None
    reach = max(group.longest_us, group.ttl_us or 0)
    return min((-(2**62) if mark is None else int(mark)) for mark in marks) - reach


def _late(
    groups: Mapping[str, FeatureGroup], source: EventSource | None, points: Sequence[Checkpoint], known: Taken, segment: Segment
) -> dict[int, int] | None:
    """None where it stays; else partition -> the offset before which it holds notes."""
    noted = segment.table(PARTITION, OFFSET, *([source.event_time] if source is not None else []))
    if noted is None or not noted.num_rows:
        return {}
    partition, offset = (noted.column(n).cast(pa.int64()).to_numpy() for n in (PARTITION, OFFSET))
    ends = {int(p): int(offset[partition == p].max()) + 1 for p in np.unique(partition)}
    if source is None or not points:
        return ends
    for number, end in ends.items():
        at = [point["partitions"].get(source.name, {}).get(str(number)) for point in points]
        if any(p is None or end > int(p["needed"]) for p in at):
            return None
    touched: Int = column_us(noted, source.event_time)
    for group in (g for g in groups.values() if g.source.name == source.name):
        upto = known.rows.get(group.name)
        if upto is None or int(touched.max()) + group.hop_us + group.longest_us + group.delay_us > upto:
            return None
    return ends
