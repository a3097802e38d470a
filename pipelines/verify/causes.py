"""Why a stream row differs from the batch row: a cause is given only where a computation proves it.

* **too late**: events in the late log touch the row, each of them was too late by the log's own order, and the row computed anew
  without exactly these events, by the same pure functions, is the stream's to the bit (or is not there, where the stream has none).
* **behind an idle partition**: the same, but with events that were in time by the order of their partition, and were noted as too late
  for this group alone: their partition had been idle, so that others had moved the group on. The log cannot say that a partition was
  idle, so this is a cause of its own, to be seen.
* **in flight**: the shard had not emitted the boundary, or had not read events that touch the row yet and the row without these is its.
* **other fingerprint**: the row bears another graph's fingerprint; that graph over the recomputed row gives the stream's row, or
  was made for another definition of the group.
* **vacuumed**: the row is missing, or an earlier revision of it is there, and ``tandem vacuum`` took rows of its time from the log.
* **unexplained**: anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.lake.row_compare import Comparison, codes, common_codes, compare, locate, table_of
from transforms.aggregates import merge, rows_between, tile, with_keys
from transforms.columns import column_us
from transforms.definitions import FINGERPRINT, REVISION, EventSource, FeatureGroup, micros
from transforms.graph import TransformGraph
from transforms.hashing import shard_of
from transforms.lateness import NEVER, event_times

__all__ = ["CAUSES", "EARLIER", "EQUAL", "IDLE", "IN_FLIGHT", "OTHER_FINGERPRINT", "OUTSIDE", "TOO_LATE", "UNEXPLAINED", "VACUUMED"]
__all__ += ["Graphs", "Lateness", "Position", "added", "explain", "lateness", "recorded"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

CAUSES = ("equal", "too late", "behind an idle partition", "in flight", "other fingerprint", "vacuumed", "unexplained")
EQUAL, TOO_LATE, IDLE, IN_FLIGHT, OTHER_FINGERPRINT, VACUUMED, UNEXPLAINED = range(7)
OUTSIDE = "outside the run"
"""Of the store and of answers, which may go on where the rows that are compared end: as delivered, of a time that batch does not have."""
EARLIER = "earlier stream"
"""Of answers, whose log goes on when a stream begins anew: as a stream of before delivered it."""

PARTITION, OFFSET, GROUP = "_partition", "_offset", "_group"

Graphs = Callable[[str], tuple[TransformGraph | None, bool]]
"""Fingerprint -> (its graph, or None if there is none; whether it was made for the present definition of the group)."""


# ------------------------------------------------------------------------------------------------------------- lateness


def added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by cause, of several parts together."""
    out: dict[str, int] = {}
    for part in parts:
        for cause, n in part.items():
            out[cause] = out.get(cause, 0) + n
    return out


@dataclass(frozen=True)
class Lateness:
    """How late N events came, in microseconds: behind the event time of their partition before them (0: they are not behind it), -1 for
    events that no partition brought; and whether that is too late by the source's definition."""

    behind: Int
    too_late: Bool


def lateness(events: pa.Table, source: EventSource, limit_us: int | None = None) -> Lateness:
    """The lateness of events with ``_partition`` and ``_offset`` (null for those from files), from the order of the log alone;
    ``limit_us``: how far an event may lie ahead of others and still move the time of its partition alone (None: however far)."""
    n = events.num_rows
    behind = np.full(n, -1, np.int64)
    if OFFSET not in events.schema.names or not n:
        return Lateness(behind, np.zeros(n, np.bool_))
    times = column_us(events, source.event_time)
    partition, offset = _int(events, PARTITION), _int(events, OFFSET)
    order = np.lexsort((offset, partition))
    order = order[offset[order] >= 0]
    for part in np.unique(partition[order]):
        here = order[partition[order] == part]
        reached, _ = event_times(times[here], source, limit_us=limit_us)
        behind[here] = np.where(reached[:-1] == NEVER, 0, np.maximum(reached[:-1] - times[here], 0))
    return Lateness(behind, behind > micros(source.out_of_orderness) + micros(source.allowed_lateness))


def _int(table: pa.Table, name: str) -> Int:
    """A column of integers, -1 for null."""
    out: Int = table.column(name).cast(pa.int64()).fill_null(-1).to_numpy()
    return out


def recorded(events: pa.Table, late: pa.Table, source: EventSource, group: str | None) -> Bool:
    """Which of N ``events`` the late log names: bool [N]; by partition and offset where events have them, else by content (each record of
    the late log is then one of the equal events). ``group``: those noted for that group alone; None: those noted for all."""
    if GROUP in late.schema.names:
        noted = late.column(GROUP)
        mask = np.array([g == group for g in noted.to_pylist()], np.bool_)
        late = late.filter(pa.array(mask))
    elif group is not None:
        late = late.slice(0, 0)
    if not late.num_rows or not events.num_rows:
        return np.zeros(events.num_rows, np.bool_)
    late = _unique(late)
    if OFFSET in events.schema.names:
        place = locate(_keyed(events), _keyed(late), [PARTITION, OFFSET])
        return (place >= 0) & (_int(events, OFFSET) >= 0)
    mine, theirs = common_codes([events, late], source.arrow_schema.names)
    return np.isin(_numbered(mine), _numbered(theirs))


def _keyed(table: pa.Table) -> pa.Table:
    return pa.table({PARTITION: pa.array(_int(table, PARTITION)), OFFSET: pa.array(_int(table, OFFSET))})


def _unique(late: pa.Table) -> pa.Table:
    """Each record once: repeated work writes it down again."""
    _, first = np.unique(codes([_keyed(late).column(0), _keyed(late).column(1)]), return_index=True)
    return late.take(pa.array(first))


def _numbered(code: Int) -> npt.NDArray[np.complex128]:
    """A number for each (code, how many equal codes stand before it); exact below 2^53."""
    order = np.argsort(code, kind="stable")
    ranked = code[order]
    start = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if len(code) else np.zeros(0, np.int64)
    number = np.empty(len(code), np.int64)
    number[order] = np.arange(len(code)) - np.repeat(start, np.diff(np.append(start, len(code))))
    return code + 1j * number


# ------------------------------------------------------------------------------------------------------------- explain


@dataclass(frozen=True)
class Position:
    """How far the stream was: ``output_watermark``: per shard the boundary up to which the group's rows are out (NEVER: none);
    ``next``: partition -> per shard the first offset that it had not folded."""

    output_watermark: Int
    next: Mapping[int, Int]

    @property
    def shards(self) -> int:
        """The number of shards."""
        return len(self.output_watermark)

    def unread(self, events: pa.Table, group: FeatureGroup) -> Bool:
        """Which of N events the shard of their key had not folded."""
        out = np.zeros(events.num_rows, np.bool_)
        if OFFSET not in events.schema.names or not events.num_rows:
            return out
        shard = self.shard(events, group)
        partition, offset = _int(events, PARTITION), _int(events, OFFSET)
        for number in np.unique(partition[partition >= 0]):
            here = partition == number
            limits = self.next.get(int(number))
            out[here] = True if limits is None else offset[here] >= limits[shard[here]]
        return out

    def shard(self, rows: pa.Table, group: FeatureGroup) -> Int:
        """The shard of each row's key."""
        keys = table_of(rows.select(group.entity.keys))
        return shard_of([column.chunk(0) for column in keys.columns], self.shards).astype(np.int64)


def explain(
    comparison: Comparison,
    group: FeatureGroup,
    events: pa.Table,
    late: pa.Table,
    position: Position,
    graphs: Graphs,
    fingerprint: str,
    start: int,
    *,
    lateness_known: Lateness | None = None,
    vacuumed: int = NEVER,
) -> npt.NDArray[np.int8]:
    """The cause of each of the R rows of a comparison: int8 [R], indices into :data:`CAUSES`.

    ``events``: all that the batch rows were made of (``source.arrow_schema``, with ``_partition`` and ``_offset`` where they are from
    Kafka); ``late``: the late log of the source; ``fingerprint``: the graph of the batch rows; ``start``: rows are those with
    ``start < boundary`` (microseconds); ``lateness_known``: that of ``events``, where it was computed before; ``vacuumed``: the event
    timestamp up to which rows may be gone from the stream's log.
    """
    cause = np.zeros(len(comparison.batch_at), np.int8)
    odd = comparison.odd
    if not odd.any():
        return cause
    names, events = comparison.names, with_keys(events, group)
    boundary = comparison.event_us - group.delay_us
    ahead = boundary > position.output_watermark[position.shard(names, group)]
    cause[odd] = UNEXPLAINED
    cause[odd & ahead] = IN_FLIGHT
    gone = odd & ~ahead & (comparison.event_us <= vacuumed) & _not_its_last(comparison)
    cause[gone] = VACUUMED
    left = np.flatnonzero(odd & ~ahead & ~gone)
    if not len(left):
        return cause
    case = _Case(comparison, group, _of_keys(events, names.take(pa.array(left)), group), graphs, start, int(boundary[left].max()), left)
    known = _subset(lateness_known or lateness(events, group.source), events, names, left, group)
    everyone = recorded(case.events, late, group.source, None)
    if OFFSET in events.schema.names:
        everyone &= known.too_late
    mine = recorded(case.events, late, group.source, group.name)
    # Behind an idle partition an event may come after its rows were final; that needs a boundary that lets it be so.
    final = position.output_watermark[position.shard(case.events, group)] - micros(group.source.allowed_lateness)
    mine &= column_us(case.events, group.source.event_time) < final
    unread = position.unread(case.events, group)
    attempts = [(np.zeros(case.events.num_rows, np.bool_), OTHER_FINGERPRINT)]
    attempts += [(everyone, TOO_LATE), (everyone | mine, IDLE), (unread, IN_FLIGHT), (everyone | unread, TOO_LATE)]
    attempts += [(everyone | mine | unread, IDLE)]
    tried: list[bytes] = []
    for left_out, why in attempts:
        signature = np.packbits(left_out).tobytes()
        if signature in tried or (why != OTHER_FINGERPRINT and not left_out.any()):
            continue
        tried.append(signature)
        open_ = np.flatnonzero(cause[left] == UNEXPLAINED)
        if not len(open_):
            break
        found = case.proven(left_out, why, fingerprint)
        cause[left] = np.where((cause[left] == UNEXPLAINED) & (found != UNEXPLAINED), found, cause[left])
    return cause


def _not_its_last(c: Comparison) -> Bool:
    """Which of R rows the stream does not have, or has in an earlier revision than batch."""
    out: Bool = c.missing.copy()
    both = np.flatnonzero(c.both)
    stream, batch = (
        t.column(REVISION).take(pa.array(at[both])).fill_null(-1).to_numpy() for t, at in ((c.stream, c.stream_at), (c.batch, c.batch_at))
    )
    out[both] = stream < batch
    return out


def _subset(known: Lateness, events: pa.Table, names: pa.Table, left: Int, group: FeatureGroup) -> Lateness:
    mask = locate(events, names.take(pa.array(left)), group.entity.keys) >= 0
    return Lateness(known.behind[mask], known.too_late[mask])


def _of_keys(events: pa.Table, names: pa.Table, group: FeatureGroup) -> pa.Table:
    """The events of the keys of ``names``."""
    events = table_of(events)
    return table_of(events.filter(pa.array(locate(events, names, group.entity.keys) >= 0)))


@dataclass(frozen=True)
class _Case:
    """The rows ``left`` (places in the comparison) to be explained, and the events of their keys."""

    comparison: Comparison
    group: FeatureGroup
    events: pa.Table
    graphs: Graphs
    start: int
    upto: int
    left: Int

    def proven(self, left_out: Bool, why: int, fingerprint: str) -> npt.NDArray[np.int8]:
        """The cause of each row of ``left`` if it is what follows without the events ``left_out``, else UNEXPLAINED."""
        c, group = self.comparison, self.group
        kept = self.events.filter(pa.array(~left_out)).select(group.source.arrow_schema.names).cast(group.source.arrow_schema)
        tiles = merge([tile(batch, group) for batch in kept.combine_chunks().to_batches()], group)
        anew = table_of(rows_between(tiles, group, self.start, self.upto))
        names = c.names.take(pa.array(self.left))
        wanted = [*group.entity.keys, "event_timestamp"]
        place = locate(names, anew, wanted)
        touched = self._touched(names, left_out)
        in_stream = c.stream_at[self.left] >= 0
        cause = np.full(len(self.left), UNEXPLAINED, np.int8)
        if why != OTHER_FINGERPRINT:
            cause[~in_stream & (place < 0) & touched] = why
        in_both = in_stream & (c.batch_at[self.left] >= 0)
        candidates = np.flatnonzero(in_both & (place >= 0) & (touched | (why == OTHER_FINGERPRINT)))
        if not len(candidates):
            return cause
        stream = table_of(c.stream.take(pa.array(c.stream_at[self.left][candidates])))
        rows = table_of(anew.take(pa.array(place[candidates])))
        prints = stream.column(FINGERPRINT).to_pylist() if FINGERPRINT in stream.schema.names else [fingerprint] * stream.num_rows
        for bears in sorted({p or "" for p in prints}):
            if why == OTHER_FINGERPRINT and bears == fingerprint:
                continue
            here = np.array([(p or "") == bears for p in prints])
            graph, of_this_definition = self.graphs(bears)
            if graph is None:
                continue
            if not of_this_definition:
                cause[candidates[here]] = OTHER_FINGERPRINT
                continue
            mask = pa.array(here)
            right = _same_rows(table_of(rows.filter(mask)), table_of(stream.filter(mask)), graph, group)
            cause[candidates[here][right]] = why if bears == fingerprint or why in (TOO_LATE, IDLE) else OTHER_FINGERPRINT
        return cause

    def _touched(self, names: pa.Table, left_out: Bool) -> Bool:
        """Which rows an event that is left out touches: it is of the key, and enters, fills or leaves a window of the row."""
        group = self.group
        gone = self.events.filter(pa.array(left_out))
        if not gone.num_rows:
            return np.zeros(names.num_rows, np.bool_)
        key, event_key = common_codes([names, gone], group.entity.keys)
        # Whole hops suffice: boundaries are some, and a tile is in a row as a whole or not at all.
        tile_ = column_us(gone, group.source.event_time) // group.hop_us
        boundary, reach = (column_us(names, "event_timestamp") - group.delay_us) // group.hop_us, group.longest_us // group.hop_us + 1
        low = min(int(tile_.min()), int(boundary.min()) - reach)
        room = max(int(tile_.max()), int(boundary.max())) - low + 1
        at = np.sort(event_key * room + (tile_ - low))
        first, last = (np.searchsorted(at, key * room + (b - low)) for b in (boundary - reach, boundary))
        return last > first


def _same_rows(anew: pa.Table, stream: pa.Table, graph: TransformGraph, group: FeatureGroup) -> Bool:
    """Which of N rows, computed anew and taken through the graph, are the stream's to the bit; columns of other graphs must be null."""
    batch = anew.combine_chunks().to_batches()[0]
    made = graph.apply(batch)
    columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns.update(zip(made.schema.names, made.columns, strict=True))
    both = compare(group.name, group.entity.keys, pa.table(columns), stream)
    wrong: Bool = both.odd[: anew.num_rows]
    return ~wrong
