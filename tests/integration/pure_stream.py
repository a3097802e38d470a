"""A stream without Beam and Kafka: the real intake, shards and delivery, driven by hand over a log in a chosen order.

What a test breaks is broken by :class:`Broken`'s hooks, each at one place of the way of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.streaming.stages.coders import FoldOutput, as_late, with_offsets
from pipelines.streaming.stages.sink import StreamSink
from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.initial_tiles import load_tiles
from pipelines.streaming.state.job_state import JobState
from transforms.aggregates import tile_schema
from transforms.contract import Checked
from transforms.definitions import EventSource, FeatureGroup
from transforms.fold import Folded, OffsetRange, Shard
from transforms.hashing import shard_of
from transforms.lateness import NEVER, split_late, watermark_of

Log = dict[str, pa.Table]


@dataclass
class Hooks:
    """Where a test may break the stream; each is the identity by default."""

    groups: Callable[[Mapping[str, FeatureGroup]], Mapping[str, FeatureGroup]] = lambda groups: groups
    shard: type[Shard] = Shard
    events: Callable[[dict[str, pa.RecordBatch], int], dict[str, pa.RecordBatch]] = lambda events, number: events
    late: Callable[[dict[str, pa.RecordBatch]], dict[str, pa.RecordBatch]] = lambda late: late
    rows: Callable[[dict[str, pa.RecordBatch], int], dict[str, pa.RecordBatch]] = lambda rows, number: rows
    deliver: Callable[[StreamSink], None] = lambda deliver: None
    checkpoint: Callable[[Checkpoint], Checkpoint] = lambda checkpoint: checkpoint


def kafka_log(
    events: Mapping[str, pa.Table], sources: Mapping[str, EventSource], *, seed: int, partitions: int, disorder: float, late: float
) -> Log:
    """Events as topics would hold them: in order of a disturbed arrival, with ``_partition`` and ``_offset``.

    A share ``disorder`` comes up to the allowed lateness behind its time, a share ``late`` up to five hours behind.
    """
    rng, out = np.random.default_rng(seed), {}
    for name, table in events.items():
        n, source = table.num_rows, sources[name]
        times = table.column(source.event_time).cast(pa.int64()).to_numpy()
        kind = rng.random(n)
        allowed = (source.allowed_lateness + source.out_of_orderness).total_seconds()
        behind = np.where(kind < late + disorder, rng.uniform(0, 0.95, n) * allowed, 0)
        behind = np.where(kind < late, rng.uniform(1.2, 5, n) * max(allowed, 3600), behind)
        order = np.argsort(times + behind * 1e6, kind="stable")
        partition = rng.integers(0, partitions, n).astype(np.int32)
        offset = np.zeros(n, np.int64)
        for number in range(partitions):
            here = partition == number
            offset[here] = 7 + np.arange(here.sum())
        table = table.take(pa.array(order)).combine_chunks()
        out[name] = table.append_column("_partition", pa.array(partition)).append_column("_offset", pa.array(offset))
    return out


def stream(
    repo: Any,
    kafka: Log,
    folder: Path,
    *,
    begin: int,
    run: Path,
    graphs: dict[str, str],
    shards: int = 2,
    seed: int = 0,
    online: bool = False,
    hooks: Hooks | None = None,
    upto: float = 1.0,
) -> None:
    """Run over the share ``upto`` of each topic's log and leave rows, late events and checkpoint in ``folder``."""
    hooks, rng = hooks or Hooks(), np.random.default_rng(seed)
    groups = dict(hooks.groups(repo.groups))
    sources = {g.source.name: g.source for g in groups.values()}
    control = JobState(folder)
    deliver = StreamSink(repo.path, repo.data, dict(repo.groups), graphs, control, online=online)
    hooks.deliver(deliver)
    states = [
        hooks.shard(
            groups,
            dict.fromkeys(groups, None if begin == NEVER else begin),
            {},
            {n: _seed(run, repo.groups[n], g, number, shards) for n, g in groups.items()},
        )
        for number in range(shards)
    ]
    pieces = _polls(kafka, sources, rng, upto)
    newest: dict[tuple[str, int], Any] = {}
    partitions = {n: int(t.column("_partition").to_numpy().max(initial=0)) + 1 for n, t in kafka.items()}
    for number, (name, partition, rows) in enumerate(pieces):
        source = sources[name]
        table = kafka[name].take(pa.array(rows)).combine_chunks()
        offsets = table.column("_offset").to_numpy()
        valid = table.select(source.arrow_schema.names).cast(source.arrow_schema).to_batches()[0]
        none = pa.nulls(len(rows), pa.string())
        before = newest.get((name, partition), NEVER)
        taken = split_late(Checked(valid, none, none, valid.column(0)), offsets, source, before, begin)
        newest[name, partition] = taken.newest
        first, last, mark = int(offsets[0]), int(offsets[-1]), watermark_of(source, taken.newest)
        span = OffsetRange(name, partition, partitions[name], 7, first, last + 1, before, taken.newest, mark)
        for place, shard in enumerate(states):
            mine = {}
            for group in (g for g in groups.values() if g.source.name == name):
                events = with_offsets(taken.events, taken.offsets)
                of = shard_of([events.column(events.schema.get_field_index(k)) for k in group.entity.keys], shards)
                if (of == place).any():
                    mine[group.name] = events.filter(pa.array(of == place))
            folded: Folded = shard.fold(span, hooks.events(mine, number))
            late = [as_late(source, events, partition, group) for group, events in folded.late.items()]
            if taken.late.num_rows and place == partition % shards:
                late.append(as_late(source, with_offsets(taken.late, taken.late_offsets), partition, None))
            joined = {name: pa.Table.from_batches(late).combine_chunks().to_batches()[0]} if late else {}
            output = FoldOutput(
                place,
                hooks.rows(folded.rows, number),
                hooks.late(joined),
                hooks.checkpoint(_checkpoint(shard, place, shards, repo.groups, str(run))),
            )
            deliver.deliver(output)
    deliver.close()


def _polls(kafka: Log, sources: Mapping[str, EventSource], rng: Any, upto: float) -> list[tuple[str, int, np.ndarray]]:
    """Pieces of the partitions as polls would bring them, in order of time over all of them."""
    out = []
    for name, table in kafka.items():
        times = table.column(sources[name].event_time).cast(pa.int64()).to_numpy()
        for partition in np.unique(table.column("_partition").to_numpy()):
            rows = np.flatnonzero(table.column("_partition").to_numpy() == partition)
            rows = rows[: round(len(rows) * upto)]
            cuts = np.cumsum(rng.integers(1, 150, len(rows)))
            for piece in np.split(rows, cuts[cuts < len(rows)]):
                if len(piece):
                    out.append((int(times[piece].max()), name, int(partition), piece))
    # A piece may not overtake an earlier one of its partition.
    reached: dict[Any, int] = {}
    keyed = []
    for number, (at, name, partition, piece) in enumerate(out):
        reached[name, partition] = max(reached.get((name, partition), 0), at)
        keyed.append((reached[name, partition], number, name, partition, piece))
    return [(name, partition, piece) for _, _, name, partition, piece in sorted(keyed, key=lambda k: k[:2])]


def _seed(run: Path, group: FeatureGroup, broken: FeatureGroup, number: int, shards: int) -> pa.RecordBatch:
    """A shard's tiles of the batch run; a group that a test changed takes them as its own."""
    return pa.RecordBatch.from_arrays(load_tiles(run, group, number, shards).columns, schema=tile_schema(broken))


def _checkpoint(shard: Shard, number: int, shards: int, of: Mapping[str, FeatureGroup], run: str) -> Checkpoint:
    return {
        "shard": number,
        "shards": shards,
        "output_watermark": {n: None if b < -(2**61) else b for n, b in shard.output_watermark.items()},
        "watermark": {},
        "partitions": {
            s: {str(n): {"next": p.expected, "newest": p.newest, "needed": 0, "needed_newest": NEVER} for n, p in known.items()}
            for s, known in shard.partitions.items()
        },
        "fingerprints": {n: g.definition_hash() for n, g in of.items()},
        "run": run,
    }
