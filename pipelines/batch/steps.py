"""The Beam steps that batch (and stream) wire together. Logic lives in ``transforms``; here it only meets files and shuffles.

What crosses a shuffle is a RecordBatch in Arrow's IPC stream format, as bytes: every runner moves those unchanged. Files are named by
local paths, or by URLs where workers have no folder of the driver's (:mod:`pipelines.lake.file_addresses`). A step that
writes a file writes it under a temporary name and renames it, and the name depends on the content's place alone, so that
a repeated bundle replaces its own file by an equal one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.batch.divide import FilePart, part_events
from pipelines.batch.first_tensorflow import first_tensorflow
from pipelines.batch.run_key import seed_start
from pipelines.lake.arrow_bytes import from_ipc, to_ipc
from pipelines.lake.data_files import replaced
from pipelines.lake.file_addresses import reading, reading_folder, under, writing
from pipelines.lake.nonfinite import nonfinite
from pipelines.sources.event_files import EventFile
from pipelines.sources.null_fields import NullFields
from transforms.aggregates import merge, rows_between, tile, tile_schema
from transforms.contract import field_of
from transforms.definitions import CREATED, FINGERPRINT, TIMESTAMP, EventSource, FeatureGroup
from transforms.graph import TransformGraph
from transforms.hashing import shard_of
from transforms.instants import instant, micros_of
from transforms.reasons import FUTURE_TIMESTAMP

__all__ = [
    "EarlierTiles", "ReadEvents", "Tile", "TransformFile", "WindowRows", "WriteDeadLetters", "from_ipc", "slice_us", "to_ipc",
    "write_parquet",
]  # fmt: skip

DAY_US = 86_400_000_000
_SEED = -(2**62)
"""In the place of a slice's start: the tiles that a stream which goes on at the end starts from."""
MERGED_BYTES = 64 << 20
"""So many bytes of tiles wait until they are merged with those before."""
NOBODY_KNOWS = 2**62
"""In the place of a file's last event time: it has an event that this run takes for one of the future."""


def write_parquet(table: pa.Table | pa.RecordBatch, path: Path) -> None:
    """Write a Parquet file (zstd, microseconds), whole or not at all."""
    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    with replaced(path) as out:
        pq.write_table(table, out, compression="zstd", version="2.6", coerce_timestamps="us", row_group_size=65_536)


def slice_us(group: FeatureGroup, days: int) -> int:
    """The length of a slice of rows in microseconds: ``days``, or the longest window in whole days if that is more."""
    return max(days * DAY_US, -(-group.longest_us // DAY_US) * DAY_US)


class ReadEvents(beam.DoFn):
    """EventFile, or a part of one -> valid batches of ``source`` with event times in [start, end); of the files named in ``begins``, from
    there on.

    Main output: RecordBatch. Output ``invalid``: (name of the file or part, table of its rejects). Output ``stats``: (name, number):
    events read, filtered by the source's ``where`` and records without an event, ``empty`` (not among those read), misplaced (in a
    ``date=`` folder of another day, which other runs may not look into), rejected by reason, and by reason and field; the valid events
    of a file or part in all of which a field is null, by field. Output ``spans``:
    ((source, file name, begin of the day of its ``date=`` folder or None), (first, last event time)); the last is :data:`NOBODY_KNOWS`
    where an event was rejected that is too far ahead of its time.
    """

    def __init__(
        self, source: EventSource, start: int, end: int, now_us: int, max_future_us: int, begins: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        self.source, self.start, self.end, self.now_us, self.max_future_us = source, start, end, now_us, max_future_us
        self.begins = dict(begins)

    def process(self, given: EventFile | FilePart) -> Iterator[Any]:
        """Read one, a batch at a time."""
        part = FilePart(given) if isinstance(given, EventFile) else given
        file = part.file
        name, letters, total, aside, misplaced = self.source.name, [], 0, Counter[str](), 0
        begin, first, last = self.begins.get(file.name, self.start), NOBODY_KNOWS, -NOBODY_KNOWS
        day = None if file.date is None else micros_of(datetime(file.date.year, file.date.month, file.date.day, tzinfo=UTC))
        noted: Callable[[str, int], None] = lambda what, count: aside.update({what: count})  # noqa: E731
        nulls = NullFields(self.source)
        for valid, rejected in part_events(part, self.source, self.now_us, self.max_future_us, noted):
            nulls.see(valid)
            total += valid.num_rows + rejected.num_rows
            if rejected.num_rows:
                letters.append(rejected)
                if pc.any(pc.equal(rejected.column("reason"), FUTURE_TIMESTAMP)).as_py():
                    last = NOBODY_KNOWS
            times = valid.column(0).cast(pa.int64()).to_numpy(zero_copy_only=False)
            inside = (times >= begin) & (times < self.end)
            if len(times):
                first, last = min(first, int(times.min())), max(last, int(times.max()))
            if day is not None:
                misplaced += int(((times < day) | (times >= day + DAY_US)).sum())
            if inside.any():
                yield valid if inside.all() else valid.filter(pa.array(inside))
        yield beam.pvalue.TaggedOutput("stats", (f"read/{name}", total))
        for absent in nulls.names if nulls.events else ():
            yield beam.pvalue.TaggedOutput("stats", (f"null/{name}/{absent}", nulls.events))
        for what, count in aside.items():
            yield beam.pvalue.TaggedOutput("stats", (f"{what}/{name}", count))
        if misplaced:
            yield beam.pvalue.TaggedOutput("stats", (f"misplaced/{name}", misplaced))
        if last > -NOBODY_KNOWS:
            yield beam.pvalue.TaggedOutput("spans", ((name, file.name, day), (min(first, last), last)))
        if letters:
            table = pa.Table.from_batches(letters)
            yield beam.pvalue.TaggedOutput("invalid", (part.name, table))
            for row in table.column("reason").value_counts().to_pylist():
                yield beam.pvalue.TaggedOutput("stats", (f"rejected/{name}/{row['values']}", row["counts"]))
            named = zip(table.column("reason").to_pylist(), map(field_of, table.column("detail").to_pylist()), strict=True)
            for (reason, field), count in Counter(named).items():
                if field is not None:
                    yield beam.pvalue.TaggedOutput("stats", (f"rejected_fields/{name}/{reason}/{field}", count))


def astray(span: tuple[tuple[str, str, int | None], tuple[int, int]]) -> bool:
    """Whether a file has events of other days than its folder's, or lies in none: its name does not tell its span."""
    (_, _, day), (first, last) = span
    return day is None or first < day or last >= day + DAY_US


class WriteDeadLetters(beam.DoFn):
    """(name of an event file or of a part of one, table of its rejects) -> one Parquet file in ``folder``; emits nothing."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, item: tuple[str, pa.Table]) -> None:
        """Write, whole or not at all."""
        name, table = item
        with writing(f"{self.folder}/{name.replace('/', '~')}.parquet") as path:
            write_parquet(table, path)


class Tile(beam.DoFn):
    """RecordBatch of events -> ((slice start, shard), IPC tiles), each tile sent to every slice whose windows can reach it,
    and to the seed of its shard if windows over the end can."""

    def __init__(self, group: FeatureGroup, shards: int, length: int, start: int, end: int) -> None:
        self.group, self.shards, self.length, self.start, self.end = group, shards, length, start, end

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Pre-aggregate and split."""
        yield from self.spread(tile(batch, self.group))

    def spread(self, tiles: pa.RecordBatch) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Tiles to wherever they are needed."""
        group = self.group
        shard = shard_of([tiles.column(i) for i in range(len(group.entity.keys))], self.shards)
        starts = tiles.column(len(group.entity.keys)).cast(pa.int64()).to_numpy(zero_copy_only=False)
        # A tile is in rows with s + hop <= T <= s + longest + hop; slice i makes the rows with i * length < T <= (i + 1) * length.
        first = np.maximum(starts + group.hop_us, self.start + 1)
        last = np.minimum(starts + group.longest_us + group.hop_us, self.end)
        low, high = (first - 1) // self.length, (last - 1) // self.length
        if not len(starts):
            return
        for place in range(int(low.min()), int(high.max()) + 1):
            yield from self._parts(place * self.length, tiles, shard, (low <= place) & (place <= high) & (first <= last))
        yield from self._parts(_SEED, tiles, shard, starts >= seed_start(group, self.end))

    @staticmethod
    def _parts(place: int, tiles: pa.RecordBatch, shard: Any, here: Any) -> Iterator[tuple[tuple[int, int], bytes]]:
        for number in np.unique(shard[here]):
            yield (place, int(number)), to_ipc(tiles.filter(pa.array(here & (shard == number))))


class EarlierTiles(Tile):
    """Path of a file of tiles, as :class:`WindowRows` keeps them -> what :class:`Tile` makes of the events that they are made of."""

    def process(self, path: str) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Read and split, a batch at a time."""
        with reading(path) as local, pq.ParquetFile(local) as file:
            for batch in file.iter_batches(65_536):
                table = pa.Table.from_batches([batch]).cast(tile_schema(self.group)).combine_chunks()
                for part in table.to_batches():
                    yield from self.spread(part)


class WindowRows(beam.DoFn):
    """((slice start, shard), tiles) -> one Parquet file of feature rows in ``folder``; emits its path.

    The tiles of a shard's seed are merged and kept in ``seeds``. Output ``stats``: rows and seed tiles per group.
    """

    def __init__(self, group: FeatureGroup, length: int, start: int, end: int, folder: str, seeds: str) -> None:
        self.group, self.length, self.start, self.end, self.folder, self.seeds = group, length, start, end, folder, seeds

    def process(self, item: tuple[tuple[int, int], Iterable[bytes]]) -> Iterator[Any]:
        """Merge, window, write."""
        (place, shard), parts = item
        tiles = self.merged(parts)
        if place == _SEED:
            with writing(f"{self.seeds}/{self.group.name}/shard-{shard:04d}.parquet") as seed:
                write_parquet(tiles, seed)
            yield beam.pvalue.TaggedOutput("stats", (f"tiles/{self.group.name}", tiles.num_rows))
            return
        rows = rows_between(tiles, self.group, max(place, self.start), min(place + self.length, self.end))
        if rows.num_rows:
            day = instant(place).date()
            path = f"{self.folder}/{self.group.name}/date={day}/shard-{shard:04d}.parquet"
            with writing(path) as local:
                write_parquet(rows, local)
            yield path
        yield beam.pvalue.TaggedOutput("stats", (f"rows/{self.group.name}", rows.num_rows))

    def merged(self, parts: Iterable[bytes]) -> pa.RecordBatch:
        """The tiles of all parts, merged as they come: held at once are the merged ones and as much again, or :data:`MERGED_BYTES`."""
        waiting: list[pa.RecordBatch] = []
        held, most = 0, MERGED_BYTES
        for part in parts:
            waiting.append(from_ipc(part))
            held += len(part)
            if held > most:
                waiting = [merge(waiting, self.group)]
                held, most = 0, max(MERGED_BYTES, waiting[0].nbytes)
        return merge(waiting, self.group)


class TransformFile(beam.DoFn):
    """Path of a file of feature rows -> the same rows with the graph's outputs, fingerprint and creation time, in ``folder``.

    Output ``stats``: ("<feature>", values that are NaN or infinite), of the columns that have some.
    """

    def __init__(self, graph: str, source: str, folder: str, created_us: int) -> None:
        self.graph_path, self.source, self.folder, self.created_us = graph, source, folder, created_us
        self.graph: TransformGraph | None = None

    def setup(self) -> None:
        """Load the graph once per worker."""
        first_tensorflow()
        with reading_folder(self.graph_path) as folder:
            self.graph = TransformGraph.load(folder)

    def process(self, path: str) -> Iterator[Any]:
        """Apply the graph by row groups."""
        with reading(path) as local:
            table = self.transformed(local)
        target = f"{self.folder}/{under(path, self.source)}"
        with writing(target) as made:
            write_parquet(table, made)
        yield target
        for feature, count in nonfinite(table).items():
            yield beam.pvalue.TaggedOutput("stats", (feature, count))

    def transformed(self, path: Path) -> pa.Table:
        """The rows of a file with what the graph makes of them."""
        assert self.graph is not None
        source = pq.ParquetFile(path)
        out = []
        for number in range(source.num_row_groups):
            for rows in source.read_row_group(number).combine_chunks().to_batches():
                n = rows.num_rows
                made = self.graph.apply(rows)
                extra = [pa.array([self.graph.fingerprint] * n), pa.array(np.full(n, self.created_us)).cast(TIMESTAMP)]
                names = [*rows.schema.names, *made.schema.names, FINGERPRINT, CREATED]
                out.append(pa.RecordBatch.from_arrays([*rows.columns, *made.columns, *extra], names))
        return pa.Table.from_batches(out)
