"""The comparison of one stream with one batch run: rows, causes, and what else must hold for the causes to be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.lake.row_compare import Comparison, Newest, compare, newest, same, table_of
from pipelines.verify.causes import CAUSES, EQUAL, OFFSET, PARTITION, UNEXPLAINED, Graphs, Lateness, explain, lateness, recorded
from pipelines.verify.stream_record import StreamRecord
from pipelines.verify.verify_report import Counts
from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, EventSource, FeatureGroup
from transforms.lateness import NEVER

__all__ = ["GroupProof", "SourceProof", "prove_group", "prove_sources"]

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class GroupProof:
    """A group's rows, compared: R names with a cause each."""

    group: FeatureGroup
    comparison: Comparison
    cause: npt.NDArray[np.int8]
    newest: Newest
    fingerprint: str
    strangers: int = 0
    """Rows whose values are batch's, but that bear a fingerprint that no graph has, or of one that makes other values."""

    @property
    def unexplained(self) -> int:
        """Rows without a cause, deliveries of equal revision and other bits, rows of a graph that does not exist."""
        return int((self.cause == UNEXPLAINED).sum()) + int(self.newest.conflicts.sum()) + self.strangers

    def problems(self) -> list[str]:
        """What is unexplained, one line each."""
        name, rows, out = self.group.name, self.rows(), []
        for kind in ("different", "missing", "extra"):
            if n := rows[kind].get(CAUSES[UNEXPLAINED]):
                out.append(f"{name}: {n:,} {kind} rows that nothing explains")
        if n := int(self.newest.conflicts.sum()):
            out.append(f"{name}: {n:,} deliveries of the same revision with other values: the same events gave two results")
        if self.strangers:
            out.append(f"{name}: {self.strangers:,} rows bear a fingerprint that no graph of the group has, or one of another graph")
        return out

    def fingerprints(self) -> dict[str, int]:
        """How many of the stream's rows bear which fingerprint."""
        return _fingerprints(self.newest.rows)

    def rows(self) -> Counts:
        """Numbers of rows: compared, equal, and by cause those that differ, are missing, are extra."""
        c = self.comparison
        same = c.both & ~c.different
        return {
            "batch": c.batch.num_rows,
            "stream": c.stream.num_rows,
            "compared": int(c.both.sum()),
            "equal": int(same.sum()),
            "different": _by_cause(self.cause[c.different]),
            "missing": _by_cause(self.cause[c.missing]),
            "extra": _by_cause(self.cause[c.extra]),
        }

    def features(self) -> dict[str, Counts]:
        """Per column: values compared, equal, different by cause."""
        c = self.comparison
        out: dict[str, Counts] = {}
        compared = int(c.both.sum())
        for name, wrong in c.unequal.items():
            out[name] = {"compared": compared, "equal": compared - int(wrong.sum()), "different": _by_cause(self.cause[wrong])}
        return out


def _by_cause(cause: npt.NDArray[np.int8]) -> dict[str, int]:
    counts = np.bincount(cause, minlength=len(CAUSES))
    return {name: int(n) for name, n in zip(CAUSES, counts, strict=True) if n and name != CAUSES[EQUAL]}


@dataclass(frozen=True)
class SourceProof:
    """A source's events from Kafka: how late they came, and whether the late log says what their order says."""

    source: EventSource
    lateness: Lateness
    events: int
    before: int
    """Events of the topic that the batch run has already."""
    noted: int
    """Events in the late log."""
    not_late: int
    """Noted as too late for every group though they were in time."""
    not_noted: int
    """Too late by the order of the log, folded past, and not noted."""

    @property
    def unexplained(self) -> int:
        """What contradicts the late log."""
        return self.not_late + self.not_noted

    def problems(self) -> list[str]:
        """What is unexplained, one line each."""
        out = []
        if self.not_late:
            out.append(f"{self.source.name}: {self.not_late:,} events are in the late log, but came in time")
        if self.not_noted:
            out.append(f"{self.source.name}: {self.not_noted:,} events came too late, but are not in the late log")
        return out


def prove_sources(
    record: StreamRecord, groups: Mapping[str, FeatureGroup], events: Mapping[str, pa.Table], limit_us: int | None = None
) -> dict[str, SourceProof]:
    """Of each source of ``groups`` its ``events`` (source -> all that the batch rows are made of) against the late log. ``limit_us``: the
    stream's ``max_future_hours``, beyond which an event does not move the time of its partition alone (None: it does however far)."""
    out = {}
    for name, source in {g.source.name: g.source for g in groups.values()}.items():
        out[name] = _source(record, source, events[name], lateness(events[name], source, limit_us), groups)
    return out


def prove_group(
    record: StreamRecord,
    group: FeatureGroup,
    batch: pa.Table,
    events: pa.Table,
    lateness_known: Lateness,
    fingerprint: str,
    graphs: Graphs,
    start: int,
    progress: Callable[[str], None] = lambda line: None,
    end: int | None = None,
) -> GroupProof:
    """Compare a stream's rows of one group with ``batch`` (rows with ``start`` < boundary <= ``end``, made of ``events``: all of the
    group's source, whose lateness is ``lateness_known``; without an ``end`` all that there are).

    ``fingerprint``: graph of the batch rows; ``graphs``: how to find a graph of the group by its fingerprint. All that was read of the
    group is in memory as long as what is returned.
    """
    name, source = group.name, group.source
    delivered = record.rows[name]
    progress(f"comparing {name}: {batch.num_rows:,} batch rows, {delivered.num_rows:,} delivered rows")
    # The row log may go back to an earlier beginning of the stream.
    boundary = _boundaries(delivered, group)
    last = newest(delivered.filter(pa.array((boundary > start) & (end is None or boundary <= end))), group.entity.keys)
    comparison = compare(name, group.entity.keys, batch, last.rows)
    cause = explain(
        comparison,
        group,
        events,
        record.late[source.name],
        record.positions[name],
        graphs,
        fingerprint,
        start,
        lateness_known=lateness_known,
        vacuumed=record.taken().rows.get(name, NEVER),
    )
    return GroupProof(group, comparison, cause, last, fingerprint, _of_other_graphs(comparison, group, cause, graphs, fingerprint))


def _source(
    record: StreamRecord, source: EventSource, events: pa.Table, known: Lateness, groups: Mapping[str, FeatureGroup]
) -> SourceProof:
    late = record.late[source.name]
    noted = recorded(events, late, source, None)
    if OFFSET not in events.schema.names:
        return SourceProof(source, known, 0, 0, int(noted.sum()), 0, 0)
    offset = events.column(OFFSET).fill_null(-1).to_numpy()
    partition = events.column(PARTITION).cast(pa.int64()).fill_null(-1).to_numpy()
    times = events.column(source.event_time).cast(pa.int64()).to_numpy()
    # The shard that writes a partition's late events down is the one of its number; all its groups share the position.
    position = next(record.positions[n] for n, g in groups.items() if g.source.name == source.name)
    limit = np.zeros(len(offset), np.int64)
    for number, limits in position.next.items():
        limit[partition == number] = limits[number % position.shards]
    told = np.ones(len(offset), np.bool_)
    for number, end in record.taken().late.get(source.name, {}).items():
        told &= (partition != number) | (offset >= end)
    live = (offset >= 0) & (offset < limit)
    ours = live & (times >= record.begin)
    return SourceProof(
        source,
        known,
        int((offset >= 0).sum()),
        int((live & (times < record.begin)).sum()),
        int(noted.sum()),
        int((noted & ~(known.too_late & (times >= record.begin))).sum()),
        int((ours & told & known.too_late & ~noted).sum()),
    )


def _boundaries(rows: pa.Table, group: FeatureGroup) -> Int:
    out: Int = rows.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy() - group.delay_us
    return out


def _fingerprints(rows: pa.Table) -> dict[str, int]:
    if FINGERPRINT not in rows.schema.names or not rows.num_rows:
        return {}
    return {str(c["values"]): int(c["counts"]) for c in rows.column(FINGERPRINT).combine_chunks().value_counts().to_pylist()}


def _of_other_graphs(c: Comparison, group: FeatureGroup, cause: npt.NDArray[np.int8], graphs: Graphs, fingerprint: str) -> int:
    """How many rows are equal to batch's, but bear a fingerprint that no graph has, or whose graph makes other values of them."""
    equal = table_of(c.stream.take(pa.array(c.stream_at[(cause == EQUAL) & (c.stream_at >= 0)])))
    count = 0
    for found, n in _fingerprints(equal).items():
        if found == fingerprint:
            continue
        graph, of_this_definition = graphs(found)
        if graph is None:
            count += n
        elif of_this_definition:
            rows = table_of(equal.filter(pc.equal(equal.column(FINGERPRINT), found)))
            made = graph.apply(rows.select(group.row_schema.names).cast(group.row_schema).combine_chunks().to_batches()[0])
            wrong = np.zeros(rows.num_rows, np.bool_)
            for name, column in zip(made.schema.names, made.columns, strict=True):
                wrong |= ~same(rows.column(name), column) if name in rows.schema.names else True
            count += int(wrong.sum())
    return count
