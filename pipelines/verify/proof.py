"""The comparison of one stream with one batch run: rows, causes, and what else must hold for the causes to be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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

__all__ = ["GroupProof", "Proof", "SourceProof", "prove"]

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


@dataclass(frozen=True)
class Proof:
    """The whole comparison."""

    record: StreamRecord
    start: int
    groups: dict[str, GroupProof]
    sources: dict[str, SourceProof] = field(default_factory=dict)

    @property
    def unexplained(self) -> int:
        """How much nobody can explain: 0 is the proof."""
        return sum(g.unexplained for g in self.groups.values()) + sum(s.unexplained for s in self.sources.values())

    def problems(self) -> list[str]:
        """What is unexplained, one line each."""
        out = []
        for name, g in self.groups.items():
            rows = g.rows()
            for kind in ("different", "missing", "extra"):
                if n := rows[kind].get(CAUSES[UNEXPLAINED]):
                    out.append(f"{name}: {n:,} {kind} rows that nothing explains")
            if n := int(g.newest.conflicts.sum()):
                out.append(f"{name}: {n:,} deliveries of the same revision with other values: the same events gave two results")
            if g.strangers:
                out.append(f"{name}: {g.strangers:,} rows bear a fingerprint that no graph of the group has, or one of another graph")
        for name, s in self.sources.items():
            if s.not_late:
                out.append(f"{name}: {s.not_late:,} events are in the late log, but came in time")
            if s.not_noted:
                out.append(f"{name}: {s.not_noted:,} events came too late, but are not in the late log")
        return out


def prove(
    record: StreamRecord,
    groups: Mapping[str, FeatureGroup],
    batch: Mapping[str, pa.Table],
    events: Mapping[str, pa.Table],
    fingerprints: Mapping[str, str],
    graphs: Callable[[str], Graphs],
    start: int,
    progress: Callable[[str], None] = lambda line: None,
    limit_us: int | None = None,
    end: int | None = None,
) -> Proof:
    """Compare a stream's rows with ``batch`` (group -> rows with ``start`` < boundary <= ``end``, made of ``events``: source -> all of
    them; without an ``end`` all that there are).

    ``fingerprints``: group -> graph of the batch rows; ``graphs``: group -> how to find a graph by its fingerprint; ``limit_us``: the
    stream's ``max_future_hours``, beyond which an event does not move the time of its partition alone (None: it does however far).
    """
    known, sources = {}, {}
    for name, source in {g.source.name: g.source for g in groups.values()}.items():
        known[name] = lateness(events[name], source, limit_us)
        sources[name] = _source(record, source, events[name], known[name], groups)
    proofs = {}
    for name, group in groups.items():
        progress(f"comparing {name}: {batch[name].num_rows:,} batch rows, {record.rows[name].num_rows:,} delivered rows")
        late, source = record.late[group.source.name], group.source
        # The row log may go back to an earlier beginning of the stream.
        boundary = _boundaries(record.rows[name], group)
        ours = record.rows[name].filter(pa.array((boundary > start) & (end is None or boundary <= end)))
        last = newest(ours, group.entity.keys)
        comparison = compare(name, group.entity.keys, batch[name], last.rows)
        log = events[source.name]
        cause = explain(
            comparison,
            group,
            log,
            late,
            record.positions[name],
            graphs(name),
            fingerprints[name],
            start,
            lateness_known=known[source.name],
            vacuumed=record.taken.rows.get(name, NEVER),
        )
        proofs[name] = GroupProof(
            group, comparison, cause, last, fingerprints[name], _of_other_graphs(comparison, group, cause, graphs(name), fingerprints[name])
        )
    return Proof(record, start, proofs, sources)


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
    for number, end in record.taken.late.get(source.name, {}).items():
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
